//! A run that does not exist: one simulated step of 1F1B, over and over, recorded as a trainer does
//! it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pp_schedule::{Costs, Phase, ScheduleName, Sizes, ValidPlan, simulate};
use pp_telemetry::{
    DeviceMapEntry, EVENTS_FILE, End, Event, Gpu, Hello, Mem, Recorder, SCHEMA, Span, SpanKind,
    StageInfo, StepEvent, host_name, measure,
};

/// Ranks.
pub(crate) const N_RANKS: u32 = 8;
/// With so many micro-batches a step of them has some 500 spans for each rank.
const N_MICRO_BATCHES: u32 = 88;
/// Forward, and each half of the backward: a step takes a fifth of a second.
const STAGE_NS: f64 = 690_000.0;
/// The optimizer.
const OPTIMIZER_NS: u64 = 2_000_000;
/// Of an operation, what each of its copies takes.
const COPY_PART: u64 = 40;
/// Events that are handed over before one waits for the writer: its queue holds some more.
const BURST: u64 = 40_000;
/// How often one looks what is due.
const PACE: Duration = Duration::from_millis(4);

/// A step that is recorded over and over.
pub(crate) struct Simulated {
    plan: ValidPlan,
    /// By their ends, from 0 on.
    spans: Vec<Span>,
    step_ns: u64,
}

impl Simulated {
    /// # Errors
    /// Never: the plan can be made and simulated.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let sizes = Sizes {
            n_ranks: N_RANKS,
            n_micro_batches: N_MICRO_BATCHES,
            n_virtual_stages: 1,
            interleave_group: None,
        };
        let plan = ScheduleName::OneFOneB.generate(&sizes)?;
        let costs = Costs::uniform(plan.n_stages(), STAGE_NS, STAGE_NS, STAGE_NS, 20_000.0);
        let simulation = simulate(&plan, &costs)?;
        let mut spans = Vec::new();
        for (rank, row) in (0..).zip(simulation.timeline(&plan, &costs)) {
            let mut free_ns = 0;
            for timed in row {
                #[expect(clippy::cast_sign_loss, reason = "times are not negative")]
                let (start_ns, end_ns) = (timed.start as u64, timed.end as u64);
                for op in timed.action.ops() {
                    let is_forward = op.phase == Phase::Forward;
                    let of = |op_kind, start_ns: u64, dur_ns| Span {
                        step: 0,
                        replica: 0,
                        rank,
                        stage: op.stage.0,
                        mb: op.micro_batch.0,
                        op: op_kind,
                        start_ns,
                        dur_ns,
                        cpu_ns: 0,
                        bytes: 0,
                        starved_ns: 0,
                    };
                    let wait = if is_forward { SpanKind::WaitAct } else { SpanKind::WaitGrad };
                    if start_ns > free_ns {
                        spans.push(of(wait, free_ns, start_ns - free_ns));
                    }
                    let is_end = |stage| op.stage.0 == stage;
                    let (is_first, is_last) = (is_end(0), is_end(N_RANKS - 1));
                    let (gets, gives) =
                        if is_forward { (!is_first, !is_last) } else { (!is_last, !is_first) };
                    let copy_ns = (end_ns - start_ns) / COPY_PART;
                    let bytes = 1 << 20;
                    let (mut from_ns, mut to_ns) = (start_ns, end_ns);
                    if gets {
                        spans.push(Span { bytes, ..of(SpanKind::Recv, from_ns, copy_ns) });
                        from_ns += copy_ns;
                    }
                    if gives {
                        to_ns -= copy_ns;
                        spans.push(Span { bytes, ..of(SpanKind::Send, to_ns, copy_ns) });
                    }
                    let (op, dur_ns) = (op.phase.into(), to_ns - from_ns);
                    spans.push(Span { cpu_ns: dur_ns, ..of(op, from_ns, dur_ns) });
                    free_ns = end_ns;
                }
            }
            spans.push(Span {
                step: 0,
                replica: 0,
                rank,
                stage: 0,
                mb: 0,
                op: SpanKind::Optim,
                start_ns: free_ns,
                dur_ns: OPTIMIZER_NS,
                cpu_ns: OPTIMIZER_NS,
                bytes: 0,
                starved_ns: 0,
            });
        }
        spans.sort_by_key(Span::end_ns);
        let step_ns = spans.iter().map(Span::end_ns).max().unwrap_or(0);
        Ok(Self { plan, spans, step_ns })
    }

    pub(crate) fn n_spans(&self) -> u64 {
        self.spans.len() as u64
    }

    pub(crate) fn step_seconds(&self) -> f64 {
        self.step_ns as f64 * 1e-9
    }

    /// The spans of a step, in the order of their ends; no two steps are quite alike.
    pub(crate) fn spans(&self, step: u64) -> impl Iterator<Item = Span> {
        let began_ns = (step - 1) * self.step_ns;
        self.spans.iter().zip(0_u64..).map(move |(span, at)| {
            let shorter = (step * 31 + at * 17) % 40;
            Span {
                step,
                start_ns: began_ns + span.start_ns,
                dur_ns: span.dur_ns - span.dur_ns * shorter / 1000,
                ..*span
            }
        })
    }

    fn hello(&self, steps: u64, span_every: u64) -> Event {
        let stages = (0..N_RANKS).map(|rank| StageInfo {
            stage: rank,
            rank,
            layers: Some([rank * 6, rank * 6 + 5]),
            parameters: 300_000_000,
            parameter_bytes: 600_000_000,
            ..StageInfo::default()
        });
        let device_map = (0..N_RANKS).map(|rank| DeviceMapEntry {
            stage: rank,
            rank,
            replica: 0,
            device: format!("cuda:{rank}"),
            host: None,
            uuid: Some(uuid(rank)),
            pci: None,
        });
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Event::Hello(Box::new(Hello {
            schema: SCHEMA,
            run: "simulated".to_owned(),
            pid: std::process::id(),
            model: "simulated".to_owned(),
            schedule: self.plan.name().to_owned(),
            pp: N_RANKS,
            dp: 1,
            virtual_stages: 1,
            micro_batches: N_MICRO_BATCHES,
            batch_size: u64::from(N_MICRO_BATCHES),
            steps,
            cores: N_RANKS,
            host: host_name(),
            device_map: device_map.collect(),
            stages: stages.collect(),
            plan: self.plan.to_text_rows(),
            started_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            clock: "simulated".to_owned(),
            tokens_per_sample: 2048,
            theory: Some(0.07),
            span_every,
            ..Hello::default()
        }))
    }

    /// What is told when a step is over: memory for each rank, a look at each GPU once a second,
    /// and the step itself.
    fn after(&self, step: u64) -> Vec<Event> {
        let elapsed_ns = step * self.step_ns;
        let mut events = Vec::new();
        for rank in 0..N_RANKS {
            events.push(Event::Mem(Mem {
                step,
                replica: 0,
                rank,
                live_bytes: (36 << 30) + step % 7 * (1 << 20),
                peak_bytes: 44 << 30,
                parameter_bytes: 9 << 30,
                gradient_bytes: 9 << 30,
                optimizer_bytes: 18 << 30,
                packed_bytes: 0,
                stash_bytes: 8 << 30,
                temporary_bytes: 0,
            }));
            if step.is_multiple_of(5) {
                events.push(Event::Gpu(Box::new(Gpu {
                    elapsed_ns,
                    uuid: uuid(rank),
                    name: Some("simulated".to_owned()),
                    utilisation: Some(0.8),
                    used_bytes: Some(44 << 30),
                    total_bytes: Some(80 << 30),
                    power_watts: Some(520.0),
                    temperature_celsius: Some(62.0),
                    sm_clock_mhz: Some(1980),
                    ..Gpu::default()
                })));
            }
        }
        let loss = 1.7 + 8.5 / (1.0 + step as f32 / 50.0);
        let spans: Vec<Span> = self.spans(step).collect();
        let bubble = measure(&spans, N_RANKS, self.step_ns);
        events.push(Event::Step(StepEvent {
            step,
            loss: Some(loss),
            loss_bits: StepEvent::bits_of(loss),
            lr: Some(3e-4),
            grad_norm: Some(0.8),
            seconds: self.step_seconds(),
            elapsed_seconds: elapsed_ns as f64 * 1e-9,
            samples: u64::from(N_MICRO_BATCHES),
            tokens: u64::from(N_MICRO_BATCHES) * 2048,
            bubble_ratio: bubble.bubble_ratio,
            idle_of_step: bubble.idle_of_step,
            starved_ratio: bubble.starved_ratio,
            window_seconds: bubble.window_seconds,
            dropped: 0,
        }));
        events
    }

    /// Records at the pace of the run until it is stopped; how many steps.
    pub(crate) fn live(&self, recorder: &Recorder, is_over: &AtomicBool) -> u64 {
        let began = Instant::now();
        let is_due = |ns: u64| began.elapsed() >= Duration::from_nanos(ns);
        recorder.record(self.hello(1_000_000, 1));
        let mut step = 0;
        while !is_over.load(Ordering::Acquire) {
            step += 1;
            for span in self.spans(step) {
                while !is_due(span.end_ns()) {
                    thread::sleep(PACE);
                }
                recorder.span(span);
            }
            while !is_due(step * self.step_ns) {
                thread::sleep(PACE);
            }
            for event in self.after(step) {
                recorder.record(event);
            }
        }
        finish(recorder, step, began.elapsed().as_secs_f64());
        step
    }
}

fn uuid(rank: u32) -> String {
    format!("GPU-00000000-0000-0000-0000-{rank:012}")
}

fn finish(recorder: &Recorder, steps: u64, wall_seconds: f64) {
    recorder.finish(End { reason: "finished".to_owned(), steps, wall_seconds, ..End::default() });
}

/// Records as fast as the writer takes it, step by step, until `is_enough` of the bytes and the
/// steps so far. How many bytes the log has.
///
/// # Errors
/// The log cannot be read, or something was dropped.
pub(crate) fn write(
    run: &Simulated,
    recorder: &Recorder,
    dir: &Path,
    steps: u64,
    span_every: u64,
    mut is_enough: impl FnMut(u64, u64) -> bool,
) -> anyhow::Result<u64> {
    let log = dir.join(EVENTS_FILE);
    recorder.record(run.hello(steps, span_every));
    let (mut step, mut n_bytes, mut n_waiting) = (0, 0, 0);
    while !is_enough(n_bytes, step) {
        step += 1;
        if recorder.wants_spans_of(step) {
            for span in run.spans(step) {
                recorder.span(span);
            }
            n_waiting += run.n_spans();
        }
        let after = run.after(step);
        n_waiting += after.len() as u64;
        for event in after {
            recorder.record(event);
        }
        if n_waiting > BURST {
            n_bytes = written(&log, step)?;
            n_waiting = 0;
        }
    }
    finish(recorder, step, step as f64 * run.step_seconds());
    anyhow::ensure!(recorder.dropped() == 0, "{} events were dropped", recorder.dropped());
    Ok(std::fs::metadata(&log)?.len())
}

/// Waits until a step is in the log; how long the log is then.
fn written(log: &Path, step: u64) -> anyhow::Result<u64> {
    let began = Instant::now();
    let line = format!("{{\"ev\":\"step\",\"step\":{step},");
    loop {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        // Behind the step there may be a mark, which is long.
        file.seek(SeekFrom::Start(len.saturating_sub(1 << 20)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        if String::from_utf8_lossy(&end).contains(&line) {
            return Ok(len);
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(30), "step {step} is not written");
        thread::sleep(PACE);
    }
}
