//! The fold: from the events of a run to what a screen shows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::Write as _;

use common::{Job, Times, run};
use pp_telemetry::{
    Activity, Dropped, End, Event, Follower, LINE_BYTES_MAX, Line, LineSplitter, Model, Rate,
    ReadError, Trend,
};
use proptest::prelude::*;

const TIMES: Times =
    Times { forward_ns: 1_000_000, backward_ns: 2_000_000, link_ns: 0, optim_ns: 500_000 };

fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Model {
    let mut model = Model::new();
    events.into_iter().for_each(|event| model.apply(event));
    model
}

fn text_of(events: &[Event]) -> Vec<u8> {
    let mut text = Vec::new();
    for event in events {
        event.write_line(&mut text).unwrap();
    }
    text
}

fn activities(model: &Model) -> Vec<String> {
    (0..4)
        .map(|rank| match model.activity(0, rank) {
            Activity::Running(op) => format!("{op}"),
            Activity::Waiting(wait) => format!("{} waits for {}", wait.op, wait.for_rank),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_whole_run_shows_its_numbers() {
    let job = Job { steps: 100, ..Job::one_f_one_b() };
    let model = fold(&run(&job, TIMES));
    assert_eq!(model.step(), 100);
    assert_eq!(model.ranks().len(), 4);
    let bubble = model.steps().bubble_ratio().unwrap();
    assert!((bubble.mean - 3.0 / 11.0).abs() < 1e-9 && bubble.sd < 1e-9);
    assert_eq!(bubble.n_steps, 50);
    let seconds = model.steps().seconds().unwrap();
    assert!((seconds.p50 - 0.0335).abs() < 1e-9);
    assert_eq!(model.eta_seconds(), Some(0.0));
    let Rate::Tokens(rate) = model.steps().rate().unwrap() else { panic!("tokens") };
    assert!((rate - 16.0 * 64.0 / 0.0335).abs() < 1e-3);
    for state in model.ranks() {
        assert!((state.busy_of_window().unwrap() - 8.0 / 11.0).abs() < 1e-9);
        assert!((state.busy_of_step().unwrap() - 24.0 / 33.5).abs() < 1e-9);
        assert_eq!(state.history().len(), 100);
    }
    assert!((model.slowest().unwrap().ratio - 1.0).abs() < 1e-9);
    let (state, bytes) = model.peak_memory().unwrap();
    assert_eq!((state.rank, bytes), (0, 27_600_000));
    assert_eq!(model.loss().trend(), Some(Trend::Falling));
    assert_eq!(model.loss().marks().len(), 5);
    assert_eq!(model.recorded().last_complete().map(|step| step.step), Some(100));
    assert_eq!(
        model.activity(0, 2),
        Activity::Waiting(pp_telemetry::Wait { op: "2F0".parse().unwrap(), for_rank: 1 })
    );
    let model = fold(&run(&Job { ends: true, ..job }, TIMES));
    assert_eq!(model.end().map(|end| end.code), Some(0));
    assert_eq!(model.activity(0, 2), Activity::Ended);
}

#[test]
fn one_sees_who_waits_for_whom() {
    let job = Job { steps: 2, ..Job::one_f_one_b() };
    let events = run(&job, TIMES);
    let first_step = events.iter().position(|event| matches!(event, Event::Step(_))).unwrap();
    let spans: Vec<_> = (0..first_step)
        .filter(|&at| matches!(&events[at], Event::Span(span) if span.op.is_compute()))
        .collect();
    let after = |n: usize| activities(&fold(&events[..=spans[n - 1]]));
    assert_eq!(
        activities(&fold(&events[..2])),
        ["0F0", "1F0 waits for 0", "2F0 waits for 1", "3F0 waits for 2"]
    );
    assert_eq!(after(1), ["0F1", "1F0", "2F0 waits for 1", "3F0 waits for 2"]);
    // The first rank has filled the pipeline and waits for the first gradient to come back.
    assert_eq!(after(10), ["0B0 waits for 1", "1B0 waits for 2", "2B0 waits for 3", "3B0"]);
    let model = fold(&events[..first_step]);
    assert_eq!(activities(&model), ["Updating", "Updating", "Updating", "Updating"]);
}

#[test]
fn a_step_whose_spans_are_not_recorded_leaves_it_open_what_a_rank_does() {
    let job = Job { steps: 30, span_every: 20, ..Job::one_f_one_b() };
    let model = fold(&run(&job, TIMES));
    assert_eq!(activities(&model), ["Unknown"; 4]);
    assert_eq!(model.recorded().last_complete().map(|step| step.step), Some(20));
    assert_eq!(model.step(), 30);
}

#[test]
fn what_belongs_to_no_rank_of_the_run_is_ignored() {
    let job = Job { steps: 1, ..Job::one_f_one_b() };
    let events = run(&job, TIMES);
    let mut model = fold(&events);
    let before = model.clone();
    for event in &events {
        match event {
            Event::Span(span) => model.apply(&Event::Span(pp_telemetry::Span { rank: 4, ..*span })),
            Event::Mem(mem) => {
                model.apply(&Event::Mem(pp_telemetry::Mem { replica: u32::MAX, ..*mem }));
            }
            _ => {}
        }
    }
    assert_eq!(model.ranks(), before.ranks());
    assert_eq!(model.recorded(), before.recorded());
}

#[test]
fn more_ranks_than_cores_are_noticed() {
    let with_cores =
        |cores| fold(&run(&Job { cores, dp: 2, ..Job::one_f_one_b() }, TIMES)).ranks_over_cores();
    assert_eq!(with_cores(2), Some((8, 2)));
    assert_eq!(with_cores(8), None);
}

#[test]
fn lost_events_are_known_with_their_time() {
    let job = Job { steps: 30, ..Job::one_f_one_b() };
    let mut events = run(&job, TIMES);
    for event in &mut events {
        if let Event::Step(step) = event {
            step.dropped = step.step / 10 * 5;
        }
    }
    events.insert(1, Event::Dropped(Dropped { elapsed_ns: 7, count: 2 }));
    let model = fold(&events);
    let lost: Vec<_> = model.lost().map(|lost| (lost.step, lost.count)).collect();
    assert_eq!(lost, [(None, 2), (Some(10), 3), (Some(20), 5), (Some(30), 5)]);
    assert_eq!((model.n_dropped(), model.lost().next().unwrap().elapsed_ns), (15, 7));
    let groups = model.lost_groups();
    let groups: Vec<_> =
        groups.iter().map(|lost| (lost.first_step, lost.step, lost.count)).collect();
    assert_eq!(groups, [(Some(10), Some(30), 15)], "one line, with all of them");
}

/// What was lost of a step looks idle to whoever adds up its spans.
#[test]
fn a_step_that_lost_operations_is_told_and_left_out() {
    let job = Job { steps: 12, ..Job::one_f_one_b() };
    let whole = fold(&run(&job, TIMES));
    assert_eq!(whole.incomplete(), pp_telemetry::Incomplete::default());
    let without = |keeps_plan: bool| {
        let mut model = Model::new();
        for mut event in run(&job, TIMES) {
            match &mut event {
                Event::Hello(hello) if !keeps_plan => hello.plan.clear(),
                Event::Span(span) if span.step == 9 && span.mb % 2 == 1 => continue,
                Event::Step(step) if step.step >= 9 => step.dropped = 40,
                _ => {}
            }
            model.apply(&event);
        }
        model
    };
    let (planned, unplanned) = (without(true), without(false));
    let incomplete = planned.incomplete();
    assert_eq!((incomplete.n_steps, incomplete.last_step), (1, 9));
    assert_eq!((incomplete.n_missing, incomplete.n_expected), (32, 64), "half of the ops");
    // Without a plan the recorder's count is all that is known.
    assert_eq!((unplanned.incomplete().n_steps, unplanned.incomplete().n_missing), (1, 40));
    for model in [&planned, &unplanned] {
        for (rank, wanted) in model.ranks().iter().zip(whole.ranks()) {
            let (busy, wanted) = (rank.busy_of_window().unwrap(), wanted.busy_of_window().unwrap());
            assert!((busy - wanted).abs() < 1e-9, "{busy} {wanted}");
        }
        let step = model.recorded().get(9).unwrap();
        assert!(step.is_complete() && !step.is_whole());
        // The trainer has measured its own bubble, which lacks nothing.
        assert_eq!(model.steps().bubble_ratio(), whole.steps().bubble_ratio());
    }
}

#[test]
fn computing_and_waiting_for_a_core_and_the_bubble_are_all_of_the_window() {
    let job = Job { starved_per_mille: 400, cores: 2, ..Job::one_f_one_b() };
    for rank in fold(&run(&job, TIMES)).ranks() {
        let parts = [rank.computing_of_window(), rank.starved_of_window(), rank.bubble_of_window()];
        let sum: f64 = parts.into_iter().map(Option::unwrap).sum();
        assert!((sum - 1.0).abs() < 1e-12 && parts[1].unwrap() > 0.1, "{parts:?}");
        assert!(rank.computing_of_step().unwrap() < rank.busy_of_step().unwrap());
    }
}

#[test]
fn a_slow_rank_is_held_against_the_median_of_the_others() {
    let job = Job { slow_rank: Some((2, 500)), starved_per_mille: 300, ..Job::one_f_one_b() };
    let slowest = fold(&run(&job, TIMES)).slowest().unwrap();
    assert_eq!(slowest.rank, 2);
    assert!((slowest.ratio - 1.5).abs() < 0.01, "{slowest:?}");
    let alone = Job { pp: 1, ..Job::one_f_one_b() };
    assert_eq!(fold(&run(&alone, TIMES)).slowest(), None, "there are no others");
}

#[test]
fn a_hundred_thousand_lines_of_garbage_do_no_harm() {
    let job = Job { steps: 3, ..Job::one_f_one_b() };
    let good = text_of(&run(&job, TIMES));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut model = Model::new();
    let (mut n_lines, mut n_events) = (0, 0);
    while n_lines < 100_000 {
        // A stretch of a good log with some of its bytes changed: much closer to an event than
        // noise would be.
        let from = next() as usize % good.len();
        let to = good.len().min(from + 1 + next() as usize % 600);
        let mut bytes = good[from..to].to_vec();
        for _ in 0..next() % 8 {
            let at = next() as usize % bytes.len();
            bytes[at] = if next() % 2 == 0 {
                b"0123456789{}[]\",:eE-"[next() as usize % 20]
            } else {
                next() as u8
            };
        }
        bytes.push(b'\n');
        let mut splitter = LineSplitter::new();
        splitter.push(&bytes, |line| {
            n_lines += 1;
            if let Ok(Line::Event(event)) = Event::parse(line) {
                n_events += 1;
                model.apply(&event);
            }
        });
        let _ = (
            model.eta_seconds(),
            model.slowest(),
            model.peak_memory(),
            model.ranks_over_cores(),
            model.steps().rate(),
        );
    }
    assert!(
        n_events > 1000,
        "{n_events} events among {n_lines} lines: the garbage is too far from a log"
    );
    // And whatever was folded before, a new `hello` begins anew.
    for event in run(&job, TIMES) {
        model.apply(&event);
    }
    assert_eq!(model.ranks(), fold(&run(&job, TIMES)).ranks());
}

#[test]
fn extreme_numbers_do_no_harm() {
    let job = Job { steps: 1, ..Job::one_f_one_b() };
    let extreme = |event: &Event| match event.clone() {
        Event::Span(mut span) => {
            (span.start_ns, span.dur_ns, span.starved_ns, span.step) =
                (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
            Event::Span(span)
        }
        Event::Step(mut step) => {
            (step.step, step.seconds, step.loss, step.samples) =
                (u64::MAX, f64::INFINITY, Some(f32::NAN), u64::MAX);
            Event::Step(step)
        }
        Event::Hello(mut hello) => {
            hello.plan[0] = "4294967295F4294967295".to_owned();
            Event::Hello(hello)
        }
        other => other,
    };
    let events: Vec<_> = run(&job, TIMES).iter().map(extreme).collect();
    let mut model = fold(events.iter().chain(&events[1..]));
    let _ = (activities(&model), model.eta_seconds(), model.slowest());
    let Event::Hello(hello) = &events[0] else { panic!("hello first") };
    let mut huge = hello.clone();
    (huge.pp, huge.dp) = (u32::MAX, u32::MAX);
    model.apply(&Event::Hello(huge));
    for event in &events[1..] {
        model.apply(event);
    }
    assert!(model.ranks().is_empty());
}

#[test]
fn a_growing_file_is_followed_from_before_it_exists() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let text = text_of(&run(&Job { steps: 2, ..Job::one_f_one_b() }, TIMES));
    let mut follower = Follower::new(&path);
    let mut events = Vec::new();
    assert!(follower.poll(|event| events.push(event)).unwrap().at_end);

    let mut file = fs::File::create(&path).unwrap();
    for piece in text.chunks(777) {
        file.write_all(piece).unwrap();
        follower.poll(|event| events.push(event)).unwrap();
    }
    assert_eq!(text_of(&events), text);
    assert_eq!((follower.n_bytes(), follower.n_bad_lines()), (text.len() as u64, 0));

    // A line without its end, then a bad line, then one of another kind.
    let n_before = events.len();
    file.write_all(br#"{"ev":"log","elapsed_ns":1,"#).unwrap();
    follower.poll(|event| events.push(event)).unwrap();
    assert_eq!(events.len(), n_before);
    file.write_all(b"\"message\":\"whole\"}\nnot json\n{\"ev\":\"later\"}\n").unwrap();
    follower.poll(|event| events.push(event)).unwrap();
    assert_eq!(events.len(), n_before + 1);
    assert_eq!((follower.n_bad_lines(), follower.n_unknown_lines()), (1, 1));

    file.set_len(10).unwrap();
    assert!(matches!(follower.poll(|_| {}), Err(ReadError::Shrunk { is: 10, .. })));
}

#[test]
fn a_log_of_a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("newer.jsonl");
    fs::write(&path, "{\"ev\":\"hello\",\"schema\":9}\n").unwrap();
    let error = Follower::new(&path).poll(|_| {}).unwrap_err();
    assert!(error.to_string().ends_with(
        "the log has schema 9, but this program reads schema 1 and older; use a newer version"
    ));
}

#[test]
fn a_line_may_be_long_but_not_endless() {
    let mut splitter = LineSplitter::new();
    let mut n_lines = 0;
    splitter.push(&vec![b'x'; LINE_BYTES_MAX], |_| n_lines += 1);
    splitter.push(b"\n", |_| n_lines += 1);
    assert_eq!((n_lines, splitter.n_too_long()), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// However the bytes of a log are cut, the fold is the same.
    #[test]
    fn pieces_do_not_matter(size in 1_usize..5000) {
        let job = Job { steps: 3, dp: 2, jitter_per_mille: 100, ..Job::one_f_one_b() };
        let mut events = run(&job, TIMES);
        events.push(Event::End(End { code: 1, rank: Some(2), ..End::default() }));
        let text = text_of(&events);
        let mut model = Model::new();
        let mut splitter = LineSplitter::new();
        for piece in text.chunks(size) {
            splitter.push(piece, |line| {
                let Line::Event(event) = Event::parse(line).unwrap() else { panic!("known") };
                model.apply(&event);
            });
        }
        prop_assert_eq!(model, fold(&events));
    }
}
