//! What is advised: who waits, for whom, why, and what to try; nothing that is done already, and
//! nothing that chance could hide.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Job, Times, run};
use pp_telemetry::{Account, Advice, Event, Hello, Model, Part, account, advice, what_if};

const TIMES: Times =
    Times { forward_ns: 1_000_000, backward_ns: 2_000_000, link_ns: 0, optim_ns: 500_000 };

fn found_in(events: &[Event]) -> (Account, Advice) {
    let mut model = Model::new();
    for event in events {
        model.apply(event);
    }
    let account = account(&model).unwrap();
    let advice = advice(&account, &what_if(&account));
    let verdict = advice.verdict();
    assert!(verdict.chars().count() <= 60 && !verdict.is_empty(), "{verdict}");
    (account, advice)
}

fn found(job: &Job, edit: impl Fn(&mut Hello)) -> (Account, Advice) {
    let mut events = run(job, TIMES);
    let Event::Hello(hello) = &mut events[0] else { panic!("hello first") };
    edit(hello);
    found_in(&events)
}

fn slow_rank() -> Job {
    Job { slow_rank: Some((2, 500)), ..Job::one_f_one_b() }
}

#[test]
fn who_waits_for_whom_and_what_to_try_is_one_line() {
    let (account, advice) = found(&slow_rank(), |hello| {
        hello.partition = "time".to_owned();
        hello.layer_seconds = vec![0.001; 24];
    });
    assert_eq!((advice.part, advice.rank), (Some(Part::Imbalance), Some(2)));
    let verdict = advice.verdict();
    assert!(verdict.starts_with("all wait for r2, 1.5x as slow: "), "{verdict}");
    // It was cut by time already: the layers are named that r2 has to give away.
    let layers = verdict.split("--partition ").nth(1).unwrap();
    let layers: Vec<u32> = layers.split(',').map(|n| n.parse().unwrap()).collect();
    assert_eq!((layers.len(), layers.iter().sum::<u32>(), layers[2]), (4, 24, 4), "{verdict}");
    let all = format!("{} {} {}", advice.what, advice.sentence(), advice.next);
    assert!(all.contains("1.5x the median of the others"), "{all}");
    assert!(all.contains("r0, r1 and r3 wait for it"), "{all}");
    assert!(!all.contains("--partition time") && !all.contains("mean"), "{all}");
    let lines = what_if(&account);
    assert!(lines.iter().all(|line| line.flags != "--partition time"), "{lines:?}");
    let cut = lines.iter().find(|line| line.flags.starts_with("--partition")).unwrap();
    assert!(cut.gain > 0.1, "{cut:?}");
}

#[test]
fn a_cut_by_time_is_advised_where_there_is_none() {
    for partition in ["uniform", "parameters", "6,6,6,6"] {
        let (_, advice) = found(&slow_rank(), |hello| hello.partition = partition.to_owned());
        assert!(advice.verdict().ends_with("--partition time"), "{advice:?}");
    }
    // A log of before says so by its command line, or by the default of its model.
    for (argv, is_time) in [
        (vec!["pptop", "train", "--partition", "uniform"], false),
        (vec!["pptop", "train", "--partition=uniform"], false),
        (vec!["pptop", "train", "--partition", "time"], true),
        (vec!["pptop", "train"], true),
    ] {
        let (_, advice) = found(&slow_rank(), |hello| {
            hello.argv = argv.iter().map(|&arg| arg.to_owned()).collect();
        });
        assert_eq!(!advice.next.contains("--partition time"), is_time, "{argv:?} {advice:?}");
    }
}

#[test]
fn where_each_rank_has_one_layer_no_cut_is_advised() {
    let (_, advice) = found(&slow_rank(), |hello| {
        for stage in &mut hello.stages {
            stage.layers = Some([stage.stage, stage.stage]);
        }
    });
    assert_eq!(advice.verdict(), "all wait for r2, 1.5x as slow: give it a faster device");
    assert!(!advice.next.contains("--partition"), "{advice:?}");
    let two = Job { pp: 2, slow_rank: Some((1, 500)), ..Job::one_f_one_b() };
    let (_, advice) = found(&two, |_| {});
    assert!(advice.verdict().starts_with("r0 waits for r1, 1.5x as slow"), "{advice:?}");
}

/// A rank that shares a core takes longer for everything: no cut makes up for that.
#[test]
fn with_too_few_cores_the_first_advice_is_about_cores() {
    let job = Job { cores: 2, starved_per_mille: 600, ..slow_rank() };
    let (_, advice) = found(&job, |_| {});
    assert_eq!(advice.part, Some(Part::Starved));
    let verdict = advice.verdict();
    assert_eq!(verdict, "4 ranks share 2 cores and wait for a core: try --pp 2");
    let job = Job { dp: 2, ..job };
    let (_, advice) = found(&job, |_| {});
    assert_eq!(advice.verdict(), "8 ranks share 2 cores and wait for a core: try --pp 2 --dp 1");
    // Ranks that need no core, as those that sleep, are not told to get one.
    let (_, advice) = found(&Job { cores: 2, ..slow_rank() }, |_| {});
    assert_eq!(advice.part, Some(Part::Imbalance));
}

/// Ranks on one GPU take turns: what they wait for is not the schedule's doing.
#[test]
fn where_ranks_share_a_gpu_throughput_counts() {
    let on = |devices: [&'static str; 4]| {
        let mut events = run(&Job { cores: 2, ..slow_rank() }, TIMES);
        let Event::Hello(hello) = &mut events[0] else { panic!("hello first") };
        for place in &mut hello.device_map {
            devices[place.rank as usize].clone_into(&mut place.device);
        }
        (hello.clone(), found_in(&events).1)
    };
    let (_, advice) = on(["cuda:0"; 4]);
    assert_eq!(advice.verdict(), "4 ranks share cuda:0: throughput counts, not the bubble");
    assert_eq!(advice.part, None);
    let (_, advice) = on(["cuda:0", "cuda:1", "cuda:1", "cuda:1"]);
    assert_eq!(advice.verdict(), "3 ranks share cuda:1: throughput counts, not the bubble");
    // A GPU each: the advice is about the ranks, and never about the two cores.
    let (hello, advice) = on(["cuda:0", "cuda:1", "cuda:2", "cuda:3"]);
    assert_eq!((advice.part, advice.rank), (Some(Part::Imbalance), Some(2)));
    assert_eq!((hello.ranks_on_one_gpu(), hello.ranks_over_cores()), (None, None));
    // Ranks on the processor share cores, and no GPU.
    let (hello, _) = on(["cpu:0"; 4]);
    assert_eq!((hello.ranks_on_one_gpu(), hello.ranks_over_cores()), (None, Some((4, 2))));
}

/// A gain that is smaller than the steps differ among themselves would not be seen by whoever tries
/// it.
#[test]
fn what_chance_could_hide_is_not_advised() {
    let job = Job { steps: 20, ..Job::one_f_one_b() };
    let (calm, advice) = found(&job, |_| {});
    assert!(calm.noise() < 0.01, "{}", calm.noise());
    assert!(advice.next.contains("--schedule"), "{advice:?}");
    // Every other step takes three times as long.
    let mut events = run(&job, TIMES);
    let mut began = 0;
    for event in &mut events {
        match event {
            Event::Span(span) if span.step % 2 == 1 => {
                let start_ns = span.start_ns.saturating_sub(began);
                (span.start_ns, span.dur_ns) = (began + 3 * start_ns, 3 * span.dur_ns);
            }
            Event::Step(step) => began = (step.elapsed_seconds * 1e9) as u64,
            _ => {}
        }
    }
    let (wild, advice) = found_in(&events);
    assert!(wild.noise() > 0.5, "{}", wild.noise());
    assert!(!advice.next.contains("--schedule"), "{advice:?}");
    assert_eq!(advice.rank, None, "a rank that is slow by chance is not named");
}
