//! Records a run of two ranks with the event recorder alone: no tensors, no schedules, no analysis.
//!
//! `cargo run -p pp-trace --example record_run`, and in another terminal `pptop attach`.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pp_trace::machine::unix_ms;
use pp_trace::{End, Event, Hello, Recorder, SCHEMA, Span, SpanKind, StepEvent, measure};

const STEPS: u64 = 20;

/// Two ranks, one micro-batch: each rank works for half of the time.
const OPS: [(u32, SpanKind); 4] =
    [(0, SpanKind::F), (1, SpanKind::F), (1, SpanKind::B), (0, SpanKind::B)];

/// Records a run with this id into a folder.
pub(crate) fn record(id: &str, dir: &Path) -> Result<(), pp_trace::TraceError> {
    let recorder = Recorder::without_marks(dir)?;
    let began = Instant::now();
    let since_began = || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    recorder.record(Event::Hello(Box::new(Hello {
        schema: SCHEMA,
        run: id.to_owned(),
        pid: std::process::id(),
        model: "mine".to_owned(),
        schedule: "gpipe".to_owned(),
        pp: 2,
        dp: 1,
        micro_batches: 1,
        batch_size: 8,
        steps: STEPS,
        span_every: 1,
        plan: vec!["0F0,0B0".to_owned(), "1F0,1B0".to_owned()],
        started_unix_ms: unix_ms(),
        ..Hello::default()
    })));
    for step in 1..=STEPS {
        let step_began_ns = since_began();
        let mut spans = Vec::new();
        for (rank, op) in OPS {
            let start_ns = since_began();
            thread::sleep(Duration::from_millis(2)); // Compute here.
            let dur_ns = since_began() - start_ns;
            spans.push(Span {
                step,
                replica: 0,
                rank,
                stage: rank,
                mb: 0,
                op,
                start_ns,
                dur_ns,
                cpu_ns: dur_ns,
                bytes: 0,
                starved_ns: 0,
            });
        }
        for span in &spans {
            recorder.span(*span);
        }
        let step_ns = since_began() - step_began_ns;
        let bubble = measure(&spans, 2, step_ns);
        let loss = 2.0 / step as f32;
        recorder.record(Event::Step(StepEvent {
            step,
            loss: Some(loss),
            loss_bits: StepEvent::bits_of(loss),
            lr: Some(0.001),
            grad_norm: Some(1.0),
            seconds: step_ns as f64 * 1e-9,
            elapsed_seconds: began.elapsed().as_secs_f64(),
            samples: 8,
            tokens: 0,
            bubble_ratio: bubble.bubble_ratio,
            idle_of_step: bubble.idle_of_step,
            starved_ratio: bubble.starved_ratio,
            window_seconds: bubble.window_seconds,
            dropped: recorder.dropped(),
        }));
    }
    recorder.finish(End {
        reason: "finished".to_owned(),
        steps: STEPS,
        wall_seconds: began.elapsed().as_secs_f64(),
        ..End::default()
    });
    Ok(())
}

fn main() -> Result<(), pp_trace::TraceError> {
    let (id, dir) = pp_trace::new_run_dir("mine")?;
    record(&id, &dir)
}
