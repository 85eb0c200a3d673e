//! A run that never happened: the events of a plan whose operations take given times.
//!
//! Each rank works through its row of the plan; an operation begins when the rank is free and what
//! it needs has arrived. Times are whole nanoseconds, so nothing is lost to rounding.

use std::collections::HashMap;

use pp_schedule::{Op, Phase, Rank, ScheduleName, Sizes, ValidPlan};
use pp_telemetry::{
    DeviceMapEntry, End, Eval, Event, Hello, Log, Mem, Span, SpanKind, StageInfo, StepEvent,
    measure,
};

/// How long things take.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit stands last in every name")]
pub(crate) struct Times {
    /// A forward.
    pub(crate) forward_ns: u64,
    /// A backward.
    pub(crate) backward_ns: u64,
    /// From the end of an operation to the moment when its result is there.
    pub(crate) link_ns: u64,
    /// The optimizer.
    pub(crate) optim_ns: u64,
}

/// What is run.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The schedule.
    pub(crate) schedule: ScheduleName,
    /// Ranks.
    pub(crate) pp: u32,
    /// Replicas.
    pub(crate) dp: u32,
    /// Micro-batches of each replica.
    pub(crate) micro_batches: u32,
    /// Chunks of each rank.
    pub(crate) virtual_stages: u32,
    /// Steps.
    pub(crate) steps: u64,
    /// Spans are kept for the first three steps and for each that this divides.
    pub(crate) span_every: u64,
    /// Cores of the machine that never was.
    pub(crate) cores: u32,
    /// How much the times of operations differ, in per mille.
    pub(crate) jitter_per_mille: u64,
    /// A rank that takes longer, by so many per mille.
    pub(crate) slow_rank: Option<(u32, u64)>,
    /// How much longer everything takes because there is no core, in per mille.
    pub(crate) starved_per_mille: u64,
    /// Whether the run comes to its end.
    pub(crate) ends: bool,
}

impl Job {
    /// 1F1B on four ranks with eight micro-batches.
    pub(crate) fn one_f_one_b() -> Self {
        Self {
            schedule: ScheduleName::OneFOneB,
            pp: 4,
            dp: 1,
            micro_batches: 8,
            virtual_stages: 1,
            steps: 10,
            span_every: 1,
            cores: 8,
            jitter_per_mille: 0,
            slow_rank: None,
            starved_per_mille: 0,
            ends: false,
        }
    }

    pub(crate) fn plan(&self) -> ValidPlan {
        let sizes = Sizes {
            n_ranks: self.pp,
            n_micro_batches: self.micro_batches,
            n_virtual_stages: self.virtual_stages,
            interleave_group: None,
        };
        self.schedule.generate(&sizes).unwrap()
    }
}

/// A reproducible source of numbers that look random.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// `ns`, up to `per_mille` more.
    fn stretch(&mut self, ns: u64, per_mille: u64) -> u64 {
        ns + ns * (self.next() % (per_mille + 1)) / 1000
    }
}

/// When each result of the step is there.
type Arrivals = HashMap<(u32, bool, u32), u64>;

/// What `op` needs from another stage: the key of the result, and whether it is an activation.
fn needs(op: Op, n_stages: u32) -> Option<(u32, bool, u32)> {
    match op.phase {
        Phase::Forward => op.stage.0.checked_sub(1).map(|stage| (stage, true, op.micro_batch.0)),
        Phase::Backward | Phase::InputGrad => {
            (op.stage.0 + 1 < n_stages).then_some((op.stage.0 + 1, false, op.micro_batch.0))
        }
        Phase::WeightGrad => None,
    }
}

/// The spans of one step of one replica that begins at `began_ns`, and when the last rank is ready.
fn simulate_step(
    plan: &ValidPlan,
    times: Times,
    job: &Job,
    at: (u64, u32, u64),
    noise: &mut Noise,
) -> (Vec<Span>, u64) {
    let (step, replica, began_ns) = at;
    let n_ranks = plan.n_ranks() as usize;
    let mut free_ns = vec![began_ns; n_ranks];
    let mut n_done = vec![0_usize; n_ranks];
    let mut arrivals = Arrivals::new();
    let mut spans = Vec::new();
    loop {
        let mut moved = false;
        for rank in 0..n_ranks {
            let Some(op) = plan.ops(Rank(rank as u32)).nth(n_done[rank]) else { continue };
            let ready_ns = match needs(op, plan.n_stages()) {
                None => free_ns[rank],
                Some(key) => match arrivals.get(&key) {
                    Some(&ns) => ns,
                    None => continue,
                },
            };
            moved = true;
            n_done[rank] += 1;
            let mut span = Span {
                step,
                replica,
                rank: rank as u32,
                stage: op.stage.0,
                mb: op.micro_batch.0,
                op: if op.phase == Phase::Forward { SpanKind::WaitAct } else { SpanKind::WaitGrad },
                start_ns: free_ns[rank],
                dur_ns: ready_ns.saturating_sub(free_ns[rank]),
                cpu_ns: 0,
                bytes: 0,
                starved_ns: 0,
            };
            if span.dur_ns > 0 {
                spans.push(span);
            }
            let nominal_ns =
                if op.phase == Phase::Forward { times.forward_ns } else { times.backward_ns };
            span.op = op.phase.into();
            span.start_ns = ready_ns.max(free_ns[rank]);
            let slower = job.slow_rank.filter(|(slow, _)| *slow as usize == rank);
            let nominal_ns = nominal_ns + nominal_ns * slower.map_or(0, |(_, more)| more) / 1000;
            span.cpu_ns = noise.stretch(nominal_ns, job.jitter_per_mille);
            span.starved_ns = span.cpu_ns * job.starved_per_mille / 1000;
            span.dur_ns = span.cpu_ns + span.starved_ns;
            spans.push(span);
            free_ns[rank] = span.end_ns();
            arrivals.insert(
                (op.stage.0, op.phase == Phase::Forward, op.micro_batch.0),
                span.end_ns() + times.link_ns,
            );
        }
        if !moved {
            break;
        }
    }
    for (rank, &start_ns) in free_ns.iter().enumerate() {
        if times.optim_ns > 0 {
            spans.push(Span {
                step,
                replica,
                rank: rank as u32,
                stage: 0,
                mb: 0,
                op: SpanKind::Optim,
                start_ns,
                dur_ns: times.optim_ns,
                cpu_ns: times.optim_ns,
                bytes: 0,
                starved_ns: 0,
            });
        }
    }
    // A recorder takes each span when it is over.
    spans.sort_by_key(|span| (span.end_ns(), span.rank));
    let end_ns = spans.iter().map(Span::end_ns).max().unwrap_or(began_ns);
    (spans, end_ns)
}

fn hello(job: &Job, plan: &ValidPlan) -> Hello {
    let n_stages = plan.n_stages();
    let p = f64::from(job.pp);
    let work = f64::from(job.virtual_stages * job.micro_batches);
    let stages: Vec<_> = (0..n_stages)
        .map(|stage| StageInfo {
            stage,
            copy: 0,
            rank: stage % job.pp,
            layers: Some([stage * 6, stage * 6 + 5]),
            parameters: 1_250_000,
            parameter_bytes: 5_000_000,
        })
        .collect();
    let device_map = (0..job.dp)
        .flat_map(|replica| stages.iter().map(move |stage| (replica, stage)))
        .map(|(replica, stage)| DeviceMapEntry {
            stage: stage.stage,
            rank: stage.rank,
            replica,
            device: format!("cpu:{}", stage.rank * job.dp + replica),
            ..DeviceMapEntry::default()
        })
        .collect();
    Hello {
        schema: 1,
        run: "gpt-20261101-141233".to_owned(),
        pid: 41233,
        argv: vec!["pptop".to_owned(), "train".to_owned()],
        model: "gpt".to_owned(),
        schedule: job.schedule.to_string(),
        pp: job.pp,
        dp: job.dp,
        virtual_stages: job.virtual_stages,
        micro_batches: job.micro_batches,
        batch_size: u64::from(job.micro_batches * job.dp) * 2,
        steps: job.steps,
        eval_every: 20,
        cores: job.cores,
        seed: 1,
        parameters: u64::from(n_stages) * 1_250_000,
        device_map,
        stages,
        plan: plan.to_text_rows(),
        started_unix_ms: 1_793_542_353_000,
        clock: "host".to_owned(),
        tokens_per_sample: 64,
        theory: Some((p - 1.0) / (work + p - 1.0)),
        span_every: job.span_every,
        host: "bench".to_owned(),
        ..Hello::default()
    }
}

/// All events of a run, in the order in which they would be recorded.
pub(crate) fn run(job: &Job, times: Times) -> Vec<Event> {
    let plan = job.plan();
    let hello = hello(job, &plan);
    let (batch_size, tokens) = (hello.batch_size, hello.batch_size * hello.tokens_per_sample);
    let mut noise = Noise(7);
    let mut events = vec![Event::Hello(Box::new(hello))];
    let mut now_ns = 400_000_000;
    events.push(Event::Log(Log {
        elapsed_ns: now_ns,
        step: None,
        message: "model built".to_owned(),
    }));
    for step in 1..=job.steps {
        let began_ns = now_ns;
        let mut spans = Vec::new();
        for replica in 0..job.dp {
            let (of_replica, end_ns) =
                simulate_step(&plan, times, job, (step, replica, began_ns), &mut noise);
            spans.extend(of_replica);
            now_ns = now_ns.max(end_ns);
        }
        let bubble = measure(&spans, job.pp, now_ns - began_ns);
        if step <= 3 || step % job.span_every == 0 {
            events.extend(spans.into_iter().map(Event::Span));
        }
        for (replica, rank) in
            (0..job.dp).flat_map(|replica| (0..job.pp).map(move |rank| (replica, rank)))
        {
            let stash_bytes = u64::from(job.pp - rank) * 1_900_000;
            events.push(Event::Mem(Mem {
                step,
                replica,
                rank,
                live_bytes: 20_000_000 + stash_bytes / 2,
                peak_bytes: 20_000_000 + stash_bytes,
                parameter_bytes: 5_000_000,
                gradient_bytes: 5_000_000,
                optimizer_bytes: 10_000_000,
                packed_bytes: 0,
                stash_bytes,
                temporary_bytes: 0,
            }));
        }
        let progress = step as f64 / 25.0;
        let wobble = (noise.next() % 1000) as f64 / 1000.0 - 0.5;
        let loss = (1.6 + 4.0 * (-progress).exp() + 0.15 * wobble) as f32;
        events.push(Event::Step(StepEvent {
            step,
            loss: Some(loss),
            loss_bits: StepEvent::bits_of(loss),
            lr: Some(0.003),
            grad_norm: Some(0.75),
            seconds: (now_ns - began_ns) as f64 * 1e-9,
            elapsed_seconds: now_ns as f64 * 1e-9,
            samples: batch_size,
            tokens,
            bubble_ratio: bubble.bubble_ratio,
            idle_of_step: bubble.idle_of_step,
            starved_ratio: bubble.starved_ratio,
            window_seconds: bubble.window_seconds,
            dropped: 0,
        }));
        if step % 20 == 0 {
            events.push(Event::Eval(Eval { step, loss: loss + 0.08, accuracy: None }));
        }
    }
    if job.ends {
        let wall_seconds = now_ns as f64 * 1e-9;
        let end =
            End { reason: "finished".to_owned(), steps: job.steps, wall_seconds, ..End::default() };
        events.push(Event::End(end));
    }
    events
}
