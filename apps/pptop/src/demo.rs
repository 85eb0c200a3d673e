//! A run on simulated devices, to see the monitor without any. A plan is simulated step by step
//! with times that vary. Its events are recorded as those of a run, at the pace of the run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pp_schedule::{Costs, ValidPlan, simulate};
use pp_telemetry::{
    DeviceMapEntry, End, Eval, Event, Gpu, Hello, Log, Mem, Recorder, SCHEMA, Span, SpanKind,
    StageInfo, StepEvent, TraceError, Warn, host_name, measure,
};

/// Milliseconds of F, I and W of a rank's share.
const TIMES_MS: [f64; 3] = [12.0, 13.0, 11.0];
/// Milliseconds of a message, and of the optimizer.
const MESSAGE_MS: f64 = 0.8;
const OPTIMIZER_MS: f64 = 6.0;
/// Bytes that such a device has, and what it holds.
const DEVICE_BYTES: u64 = 80 << 30;
const PARAMETER_BYTES: u64 = 9 << 30;
const ACTIVATION_BYTES: u64 = 2 << 30;
/// The time between two looks whether the demo is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// One rank is slow for ten steps out of so many.
const SLOW_EVERY: u64 = 60;

/// What the devices pretend to do.
#[derive(Debug)]
pub struct Job {
    /// The plan of each replica.
    pub plan: ValidPlan,
    /// Replicas.
    pub dp: u32,
    /// Steps.
    pub steps: u64,
}

/// A demo that goes on until it is dropped.
#[derive(Debug)]
pub struct Demo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Numbers that look random, and are the same each time.
struct Noise(u64);

impl Noise {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1_u64 << 24) as f64
    }

    /// Around 1, by so much.
    fn around(&mut self, by: f64) -> f64 {
        1.0 + by * (2.0 * self.next() - 1.0)
    }
}

impl Demo {
    /// Begins to record into a directory.
    ///
    /// # Errors
    /// The directory cannot be made, or no thread be started.
    pub fn start(job: Job, dir: &Path) -> Result<Self, TraceError> {
        let recorder = pp_telemetry::recorder(dir)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("demo".to_owned())
            .spawn(move || record(&job, &recorder, &stopped))
            .map_err(TraceError::Thread)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // Should it have panicked there is nothing left to do.
            let _ = thread.join();
        }
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

/// Nanoseconds of some milliseconds.
#[expect(clippy::cast_sign_loss, reason = "times are not negative")]
fn ns(milliseconds: f64) -> u64 {
    (milliseconds * 1e6) as u64
}

fn record(job: &Job, recorder: &Recorder, stop: &AtomicBool) {
    let began = Instant::now();
    let mut noise = Noise(11);
    recorder.record(Event::Hello(Box::new(hello(job))));
    let message = "simulated devices: nothing is trained".to_owned();
    recorder.record(Event::Log(Log { elapsed_ns: 0, step: None, message }));
    let mut now_ns = 0;
    for step in 1..=job.steps {
        let (events, end_ns) = step_events(job, step, now_ns, &mut noise);
        // As a run would: each event when it is known.
        for event in events {
            let due = Duration::from_nanos(event.time_ns().unwrap_or(now_ns));
            while let Some(wait) = due.checked_sub(began.elapsed()) {
                if stop.load(Ordering::Acquire) {
                    return finish(recorder, step - 1, began);
                }
                thread::sleep(wait.min(LOOK_EVERY));
            }
            recorder.record(event);
        }
        now_ns = end_ns;
    }
    finish(recorder, job.steps, began);
}

fn finish(recorder: &Recorder, steps: u64, began: Instant) {
    recorder.finish(End {
        reason: "finished".to_owned(),
        steps,
        wall_seconds: began.elapsed().as_secs_f64(),
        ..End::default()
    });
}

fn device(replica: u32, rank: u32) -> (String, String) {
    let number = replica * 64 + rank;
    (format!("GPU-demo-{number:04}"), format!("00000000:{:02X}:00.0", 0x10 + number))
}

fn hello(job: &Job) -> Hello {
    let plan = &job.plan;
    let topology = plan.topology();
    let mut stages = Vec::new();
    for pipe in topology.pipes() {
        for (stage, rank) in topology.ranks(pipe).iter().enumerate() {
            let stage = stage as u32;
            stages.push(StageInfo {
                stage,
                copy: pipe.0,
                rank: rank.0,
                layers: Some([stage * 6, stage * 6 + 5]),
                parameters: 300_000_000,
                parameter_bytes: 600_000_000,
            });
        }
    }
    let device_map = (0..job.dp)
        .flat_map(|replica| stages.iter().map(move |stage| (replica, stage)))
        .map(|(replica, stage)| {
            let (uuid, pci) = device(replica, stage.rank);
            DeviceMapEntry {
                stage: stage.stage,
                rank: stage.rank,
                replica,
                device: format!("demo:{}", replica * plan.n_ranks() + stage.rank),
                host: None,
                uuid: Some(uuid),
                pci: Some(pci),
            }
        })
        .collect();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let ideal = costs(plan, &mut Noise(1), None, 0.0);
    Hello {
        schema: SCHEMA,
        run: "demo".to_owned(),
        pid: std::process::id(),
        model: "demo".to_owned(),
        schedule: plan.name().to_owned(),
        pp: plan.n_ranks(),
        dp: job.dp,
        virtual_stages: plan.n_virtual_stages(),
        micro_batches: plan.n_micro_batches(),
        batch_size: u64::from(plan.n_micro_batches() * job.dp),
        steps: job.steps,
        cores: plan.n_ranks() * job.dp,
        host: host_name(),
        parameters: stages.iter().filter(|s| s.copy == 0).map(|s| s.parameters).sum(),
        device_map,
        stages,
        plan: plan.to_text_rows(),
        started_unix_ms: u64::try_from(started).unwrap_or(u64::MAX),
        clock: "simulated".to_owned(),
        tokens_per_sample: 2048,
        theory: simulate(plan, &Costs { comm: pp_schedule::PerEdge::Same(0.0), ..ideal })
            .ok()
            .map(|simulation| simulation.bubble_ratio),
        span_every: 1,
        ..Hello::default()
    }
}

/// Milliseconds of each stage in a step; one rank may be slow.
fn costs(plan: &ValidPlan, noise: &mut Noise, slow: Option<u32>, by: f64) -> Costs {
    let n_held = f64::from(plan.n_virtual_stages().max(1));
    let mut costs = Costs::uniform(plan.n_stages(), 0.0, 0.0, 0.0, MESSAGE_MS);
    for (stage, rank) in plan.topology().ranks(pp_schedule::Pipe(0)).iter().enumerate() {
        let factor = if slow == Some(rank.0) { 1.4 } else { 1.0 } / n_held;
        costs.forward[stage] = TIMES_MS[0] * factor * noise.around(by);
        costs.input_grad[stage] = TIMES_MS[1] * factor * noise.around(by);
        costs.weight_grad[stage] = TIMES_MS[2] * factor * noise.around(by);
    }
    costs
}

/// The events of a step that begins at `began_ns`, in the order of their times, and its end.
fn step_events(job: &Job, step: u64, began_ns: u64, noise: &mut Noise) -> (Vec<Event>, u64) {
    let plan = &job.plan;
    let slow = (step % SLOW_EVERY >= SLOW_EVERY - 10).then(|| plan.n_ranks() / 2);
    let mut spans = Vec::new();
    let mut end_ns = began_ns;
    for replica in 0..job.dp {
        let costs = costs(plan, noise, slow, 0.04);
        // The costs are those of the plan: it can always be simulated.
        let Ok(simulation) = simulate(plan, &costs) else { continue };
        for (rank, row) in simulation.timeline(plan, &costs).enumerate() {
            let mut free_ns = began_ns;
            for timed in row {
                let mut start_ns = began_ns + ns(timed.start);
                for op in timed.action.ops() {
                    let kind = SpanKind::from(op.phase);
                    let span = Span {
                        step,
                        replica,
                        rank: rank as u32,
                        stage: op.stage.0,
                        mb: op.micro_batch.0,
                        op: kind,
                        start_ns,
                        dur_ns: ns(costs.duration(op)),
                        cpu_ns: 0,
                        bytes: 0,
                        starved_ns: 0,
                    };
                    let wait =
                        if kind == SpanKind::F { SpanKind::WaitAct } else { SpanKind::WaitGrad };
                    if start_ns > free_ns {
                        let dur_ns = start_ns - free_ns;
                        spans.push(Span { op: wait, start_ns: free_ns, dur_ns, ..span });
                    }
                    spans.push(span);
                    free_ns = span.end_ns();
                    start_ns = free_ns;
                }
            }
            let optimizer = Span {
                step,
                replica,
                rank: rank as u32,
                stage: 0,
                mb: 0,
                op: SpanKind::Optim,
                start_ns: free_ns,
                dur_ns: ns(OPTIMIZER_MS),
                cpu_ns: 0,
                bytes: 0,
                starved_ns: 0,
            };
            spans.push(optimizer);
            end_ns = end_ns.max(optimizer.end_ns());
        }
    }
    spans.sort_by_key(|span| (span.end_ns(), span.rank));
    let step_ns = end_ns - began_ns;
    let bubble = measure(&spans, plan.n_ranks(), step_ns);
    let mut events: Vec<Event> = spans.into_iter().map(Event::Span).collect();
    events.extend(device_events(job, step, end_ns, noise));
    let progress = step as f64 / 120.0;
    let loss = (1.7 + 8.5 * (-progress).exp() + 0.12 * (noise.next() - 0.5)) as f32;
    if slow.is_some() && step % SLOW_EVERY == SLOW_EVERY - 10 {
        let message = "demo: a rank is made slow for ten steps".to_owned();
        events.push(Event::Warn(Warn {
            elapsed_ns: end_ns,
            step: Some(step),
            rank: slow,
            message,
        }));
    }
    events.push(Event::Step(StepEvent {
        step,
        loss: Some(loss),
        loss_bits: StepEvent::bits_of(loss),
        lr: Some(3e-4),
        grad_norm: Some(0.8 * noise.around(0.2)),
        seconds: seconds(step_ns),
        elapsed_seconds: seconds(end_ns),
        samples: u64::from(plan.n_micro_batches() * job.dp),
        tokens: u64::from(plan.n_micro_batches() * job.dp) * 2048,
        bubble_ratio: bubble.bubble_ratio,
        idle_of_step: bubble.idle_of_step,
        starved_ratio: bubble.starved_ratio,
        window_seconds: bubble.window_seconds,
        dropped: 0,
    }));
    if step.is_multiple_of(50) {
        events.push(Event::Eval(Eval { step, loss: loss + 0.07, accuracy: None }));
    }
    (events, end_ns)
}

/// Memory and a look at each device.
fn device_events(job: &Job, step: u64, now_ns: u64, noise: &mut Noise) -> Vec<Event> {
    let plan = &job.plan;
    let peaks = plan.peak_activations();
    let v = u64::from(plan.n_virtual_stages().max(1));
    let mut events = Vec::new();
    for replica in 0..job.dp {
        for (rank, peak) in (0..).zip(&peaks) {
            let stash_bytes = u64::from(*peak) * ACTIVATION_BYTES / v;
            let held = 4 * PARAMETER_BYTES;
            events.push(Event::Mem(Mem {
                step,
                replica,
                rank,
                live_bytes: held + stash_bytes / 3,
                peak_bytes: held + stash_bytes,
                parameter_bytes: PARAMETER_BYTES,
                gradient_bytes: PARAMETER_BYTES,
                optimizer_bytes: 2 * PARAMETER_BYTES,
                packed_bytes: 0,
                stash_bytes,
                temporary_bytes: 0,
            }));
            let (uuid, pci) = device(replica, rank);
            events.push(Event::Gpu(Box::new(Gpu {
                elapsed_ns: now_ns,
                uuid,
                pci: Some(pci),
                name: Some("demo".to_owned()),
                utilisation: Some((0.8 * noise.around(0.1)).min(1.0)),
                used_bytes: Some(held + stash_bytes),
                total_bytes: Some(DEVICE_BYTES),
                power_watts: Some(520.0 * noise.around(0.05)),
                temperature_celsius: Some(62.0 * noise.around(0.03)),
                sm_clock_mhz: Some(1980),
                ..Gpu::default()
            })));
        }
    }
    events
}
