//! A stalled rank is reported, with what each rank is doing. The run goes on when it moves again.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pp_nn::{Linear, relu};
use pp_partition::{Cut, LayerStack, single};
use pp_telemetry::{EVENTS_FILE, Event, Line, Warn};
use pp_train::{
    BoxError, Config, Job, MeanSquare, Notice, Prepared, Run, RunFolder, RunOptions, StallOptions,
    Topology, Workload,
};

use common::Numbers;

/// Nothing here takes as long.
const DEADLINE: Duration = Duration::from_mins(1);

/// Closed, it holds the last layer in its forward.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Two layers, of which the second waits while the gate is closed.
struct Gated;

impl Workload for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn layers(&self) -> Option<usize> {
        Some(2)
    }

    fn job(&self, _: u64, _: &Topology) -> std::result::Result<Job, BoxError> {
        let mut stack = LayerStack::default();
        for i in 0..2 {
            let name = format!("layers.{i}");
            stack.push(name.clone(), move |builder| {
                let linear = Linear::new(4, 4, builder.pp(&name))?;
                Ok(single(move |x, context| {
                    let begun = Instant::now();
                    while i == 1 && CLOSED.load(Ordering::Relaxed) && begun.elapsed() < DEADLINE {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    relu(&linear.forward(x, context)?)
                }))
            });
        }
        Ok(Job::new(stack, MeanSquare, Numbers))
    }
}

#[test]
fn a_stall_is_told_once_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let told = Arc::new(Mutex::new(Vec::new()));
    let options = RunOptions {
        stalls: StallOptions {
            after: Some(Duration::from_secs(1)),
            told: Some(Arc::new({
                let told = Arc::clone(&told);
                move |notice: &Notice<'_>| {
                    let Notice::Warning(text) = notice else { return };
                    let mut told = told.lock().unwrap();
                    told.push((*text).to_owned());
                    if told.len() == 2 {
                        // Long enough for the same stall to be told again.
                        std::thread::spawn(|| {
                            std::thread::sleep(Duration::from_secs(2));
                            CLOSED.store(false, Ordering::Relaxed);
                        });
                    }
                }
            })),
            ..StallOptions::default()
        },
        ..RunOptions::default()
    };
    let mut observer = |notice: &Notice<'_>| {
        if let Notice::Stepped(outcome) = notice {
            CLOSED.store(outcome.step == 1, Ordering::Relaxed);
        }
    };
    let config =
        Config { pp: Some(2), steps: 3, cut: Cut::Uniform, ..Config::new(Arc::new(Gated)) };
    let of_run = RunFolder::at("test".to_owned(), dir.clone()).unwrap();
    let run = Run::start(Prepared::new(config).unwrap(), of_run, options, &mut observer).unwrap();
    assert_eq!(run.finish().unwrap().steps, 3);
    let log = std::fs::read(dir.join(EVENTS_FILE)).unwrap();
    let warnings = log.split(|&byte| byte == b'\n').filter_map(|line| match Event::parse(line) {
        Ok(Line::Event(Event::Warn(Warn { rank: Some(rank), step, message, .. }))) => {
            Some((rank, step, message))
        }
        _ => None,
    });
    let warnings: Vec<_> = warnings.collect();
    let [first, second] = &warnings[..] else { panic!("a line for each rank: {warnings:?}") };
    assert_eq!((first.0, first.1, second.0, second.1), (0, Some(2), 1, Some(2)));
    let (first, second) = (&first.2, &second.2);
    assert!(first.starts_with("rank 0 has waited "), "{first}");
    assert!(first.contains(" for 1B0 of rank 1, which has been in 1F0 for "), "{first}");
    assert!(second.starts_with("rank 1 has been in 1F0 for "), "{second}");
    assert_eq!(*told.lock().unwrap(), [first.as_str(), second.as_str()]);
}
