//! Where the time of a step goes: what was added to a run is found again, where it was added.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;

use common::{Job, Times, run};
use pp_schedule::{Phase, Rank, ScheduleName};
use pp_telemetry::{
    Account, Event, Model, NoAccount, Part, Span, SpanKind, StepEvent, account, mean_costs, what_if,
};
use proptest::prelude::*;

const EQUAL: Times =
    Times { forward_ns: 1_000_000, backward_ns: 2_000_000, link_ns: 0, optim_ns: 500_000 };

fn model_of(job: &Job, times: Times) -> Model {
    let mut model = Model::new();
    for event in run(job, times) {
        model.apply(&event);
    }
    model
}

fn account_of(job: &Job, times: Times) -> Account {
    account(&model_of(job, times)).unwrap()
}

fn seconds(account: &Account, part: Part) -> f64 {
    account.part(part).seconds
}

#[track_caller]
fn assert_adds_up(account: &Account) {
    // No part is absurd: none explains less than nothing.
    assert!(account.parts.iter().all(|part| part.seconds >= 0.0), "{:?}", account.parts);
    assert!(account.parts.iter().all(|part| part.of_bubble >= -1e-12), "{:?}", account.parts);
    let window: f64 = account.parts.iter().map(|part| part.seconds).sum();
    assert!((window - account.window_seconds).abs() < 1e-9, "{account:?}");
    let bubble: f64 = account.parts.iter().map(|part| part.of_bubble).sum();
    assert!((bubble - account.bubble_ratio).abs() < 1e-9, "{bubble} {}", account.bubble_ratio);
    let imbalance: f64 = account.imbalance_of_rank.iter().sum();
    let whole = seconds(account, Part::Imbalance).max(0.0);
    assert!((imbalance - whole).abs() < 1e-9, "{imbalance} {whole}");
    for rank in &account.ranks {
        assert!((rank.sum() - account.step_seconds).abs() < 1e-9, "{rank:?}");
    }
}

#[test]
fn an_ideal_run_has_nothing_but_work_and_the_bubble_of_its_schedule() {
    for (schedule, virtual_stages) in [
        (ScheduleName::Gpipe, 1),
        (ScheduleName::OneFOneB, 1),
        (ScheduleName::InterleavedOneFOneB, 2),
    ] {
        let job = Job { schedule, virtual_stages, ..Job::one_f_one_b() };
        let account = account_of(&job, EQUAL);
        assert_adds_up(&account);
        let theory = 3.0 / (8.0 * f64::from(virtual_stages) + 3.0);
        assert!((account.part(Part::Inherent).of_bubble - theory).abs() < 1e-9, "{account:?}");
        assert!((account.simulated_bubble_ratio - theory).abs() < 1e-9);
        for part in [Part::Imbalance, Part::Copy, Part::Starved, Part::Other] {
            assert!(seconds(&account, part).abs() < 1e-9, "{part:?} {account:?}");
        }
        assert!(account.halves_are_guessed);
    }
}

/// What a change adds to the window, and which part it is found in.
fn extra(job: &Job, times: Times) -> (Account, f64) {
    let before = account_of(&Job::one_f_one_b(), EQUAL);
    let after = account_of(job, times);
    assert_adds_up(&after);
    let extra = after.window_seconds - before.window_seconds;
    assert!(extra > 1e-4);
    (after, extra)
}

#[test]
fn a_slow_rank_is_imbalance_on_that_rank() {
    for rank in 0..4 {
        let job = Job { slow_rank: Some((rank, 500)), ..Job::one_f_one_b() };
        let (account, extra) = extra(&job, EQUAL);
        assert!(seconds(&account, Part::Imbalance) >= 0.95 * extra, "{account:?}");
        let (slowest, its) = account.slowest_rank().unwrap();
        assert_eq!(slowest, rank);
        assert!(its >= 0.9 * extra);
        assert!(account.ratio_of_rank(rank) > 1.4);
        // Whoever is beside it waits for it most.
        for (other, time) in (0..4_u32).zip(&account.ranks) {
            let (waited_for, seconds) = time.waits_for.unwrap();
            assert!(waited_for.abs_diff(other) == 1 && seconds > 0.0);
            assert!(other.abs_diff(rank) != 1 || waited_for == rank, "{other} for {waited_for}");
        }
    }
}

#[test]
fn a_slow_link_is_copy() {
    let (account, extra) = extra(&Job::one_f_one_b(), Times { link_ns: 400_000, ..EQUAL });
    assert!(seconds(&account, Part::Copy) >= 0.95 * extra, "{account:?}");
    let (from, to, delay) = account.slowest_edge.unwrap();
    assert!(from.abs_diff(to) == 1 && (delay - 400e-6).abs() < 1e-9);
}

#[test]
fn ranks_without_a_core_are_starved() {
    let job = Job { starved_per_mille: 250, ..Job::one_f_one_b() };
    let (account, extra) = extra(&job, EQUAL);
    assert!(seconds(&account, Part::Starved) >= 0.95 * extra, "{account:?}");
    // What is starved is part of the computing: the bubble grows only by what others wait for it.
    let ideal = account_of(&Job::one_f_one_b(), EQUAL).bubble_ratio;
    assert!((account.bubble_ratio - ideal).abs() < 1e-9);
}

#[test]
fn changes_bring_what_the_theory_says() {
    // Cut by layers: another cut can be tried.
    let account_of = |job: &Job| {
        let mut model = Model::new();
        for mut event in run(job, EQUAL) {
            if let Event::Hello(hello) = &mut event {
                hello.partition = "uniform".to_owned();
            }
            model.apply(&event);
        }
        account(&model).unwrap()
    };
    let account = account_of(&Job::one_f_one_b());
    let lines = what_if(&account);
    let of = |change: &str| {
        lines.iter().find(|line| line.change == change).unwrap_or_else(|| panic!("{lines:?}"))
    };
    assert!((of("m=16").bubble_ratio - 3.0 / 19.0).abs() < 1e-9);
    assert!((of("interleaved-1f1b v=2").bubble_ratio - 3.0 / 19.0).abs() < 1e-9);
    assert!((of("gpipe").bubble_ratio - 3.0 / 11.0).abs() < 1e-9);
    assert!(of("an even cut").gain.abs() < 1e-9);
    assert!(of("zb-h1").bubble_ratio < 0.2 && of("zb-h1").gain > 0.1);
    let slow = account_of(&Job { slow_rank: Some((1, 500)), ..Job::one_f_one_b() });
    let even = what_if(&slow).into_iter().find(|line| line.change == "an even cut").unwrap();
    assert!(even.gain > 0.1, "{even:?}");
}

#[test]
fn what_cannot_be_said_is_said() {
    assert_eq!(account(&Model::new()).unwrap_err(), NoAccount::NoPlan);
    let mut model = Model::new();
    let events = run(&Job::one_f_one_b(), EQUAL);
    model.apply(&events[0]);
    assert_eq!(account(&model).unwrap_err(), NoAccount::NoSteps);
    let Event::Hello(mut hello) = events[0].clone() else { panic!("hello first") };
    hello.plan.truncate(2);
    let mut model = Model::new();
    model.apply(&Event::Hello(hello));
    for event in &events[1..] {
        model.apply(event);
    }
    let refused = account(&model).unwrap_err();
    assert_eq!(refused, NoAccount::Unusable("it has 2 rows for 4 ranks".to_owned()));
}

#[test]
fn a_backward_that_was_measured_whole_is_halved() {
    let job = Job::one_f_one_b();
    let costs = mean_costs(&model_of(&job, EQUAL), &job.plan(), 20).unwrap();
    for stage in 0..4 {
        for (cost, seconds) in [
            (costs.forward[stage], 1e-3),
            (costs.input_grad[stage], 1e-3),
            (costs.weight_grad[stage], 1e-3),
        ] {
            assert!((cost - seconds).abs() < 1e-12, "{costs:?}");
        }
    }
}

/// A recorder that could not keep up leaves gaps: they are no idleness.
#[test]
fn steps_with_gaps_are_left_out() {
    let mut model = Model::new();
    for event in run(&Job::one_f_one_b(), EQUAL) {
        let is_lost = |span: &Span| span.step == 10 && span.rank == 1 && span.mb == 3;
        if !matches!(&event, Event::Span(span) if is_lost(span)) {
            model.apply(&event);
        }
    }
    let account = account(&model).unwrap();
    assert_eq!(account.steps, (2, 9));
    assert!((account.bubble_ratio - 3.0 / 11.0).abs() < 1e-9);
}

/// Events whose ops take other times: the spans of each step are played anew.
fn played(job: &Job, nanoseconds: impl Fn(&Span) -> u64) -> Model {
    let plan = job.plan();
    let mut model = Model::new();
    for event in run(job, EQUAL) {
        let Event::Step(step) = &event else {
            if !matches!(event, Event::Span(_)) {
                model.apply(&event);
            }
            continue;
        };
        let at = step.step * 1_000_000_000;
        let mut ends: HashMap<(u32, bool, u32), u64> = HashMap::new();
        let mut free = vec![at; plan.n_ranks() as usize];
        let mut next = vec![0; plan.n_ranks() as usize];
        let n_ops = plan.n_ops();
        let mut spans = Vec::new();
        while spans.len() < n_ops {
            for rank in 0..plan.n_ranks() {
                let place = rank as usize;
                let Some(op) = plan.ops(Rank(rank)).nth(next[place]) else { continue };
                let forwards = op.phase == Phase::Forward;
                let needed = match op.phase {
                    Phase::Forward => op.stage.0.checked_sub(1),
                    Phase::WeightGrad => None,
                    _ => Some(op.stage.0 + 1).filter(|&stage| stage < plan.n_stages()),
                };
                let ready = match needed {
                    Some(stage) => match ends.get(&(stage, forwards, op.micro_batch.0)) {
                        Some(end) => *end,
                        None => continue,
                    },
                    None => at,
                };
                let mut span = Span {
                    step: step.step,
                    replica: 0,
                    rank,
                    stage: op.stage.0,
                    mb: op.micro_batch.0,
                    op: op.phase.into(),
                    start_ns: free[place].max(ready),
                    dur_ns: 0,
                    cpu_ns: 0,
                    bytes: 0,
                    starved_ns: 0,
                };
                span.dur_ns = nanoseconds(&span);
                (free[place], next[place]) = (span.end_ns(), next[place] + 1);
                if op.phase != Phase::WeightGrad {
                    ends.insert((op.stage.0, forwards, op.micro_batch.0), span.end_ns());
                }
                spans.push(span);
            }
        }
        for span in spans {
            model.apply(&Event::Span(span));
        }
        let end = free.iter().max().unwrap() - at;
        model.apply(&Event::Step(StepEvent { seconds: end as f64 * 1e-9, ..step.clone() }));
    }
    model
}

/// Each rank has as much to do as the others, only in other chunks: still ranks wait, and some are
/// named.
#[test]
fn an_imbalance_between_chunks_belongs_to_somebody() {
    let schedule = ScheduleName::InterleavedOneFOneB;
    let job = Job { schedule, pp: 3, micro_batches: 6, virtual_stages: 2, ..Job::one_f_one_b() };
    let times = [1, 2, 3, 3, 2, 1];
    let account = account(&played(&job, |span| times[span.stage as usize] * 1_000_000)).unwrap();
    assert_adds_up(&account);
    assert!(seconds(&account, Part::Imbalance) > 0.0);
    assert!(account.slowest_rank().is_some());
}

/// Of a stage that lives on two ranks the slow one is named.
#[test]
fn the_slow_rank_of_two_copies_is_named() {
    let job = Job { schedule: ScheduleName::Chimera, ..Job::one_f_one_b() };
    for slow in 0..4 {
        let time = |span: &Span| if span.rank == slow { 1_500_000 } else { 1_000_000 };
        let account = account(&played(&job, time)).unwrap();
        assert_adds_up(&account);
        assert_eq!(account.slowest_rank().map(|(rank, _)| rank), Some(slow));
        assert!(account.ratio_of_rank(slow) > 1.2);
    }
}

/// Whole backwards and halves in one plan, in which the halves of the one take as long as the
/// other.
#[test]
fn whole_backwards_count_where_halves_were_measured_as_well() {
    let job = Job {
        schedule: ScheduleName::DualPipeV,
        virtual_stages: 2,
        micro_batches: 10,
        ..Job::one_f_one_b()
    };
    let time = |span: &Span| match span.op {
        SpanKind::B => 5_000_000,
        SpanKind::I => 1_000_000,
        _ => 2_000_000,
    };
    let model = played(&job, time);
    let spans = &model.recorded().last_complete().unwrap().spans;
    for kind in [SpanKind::B, SpanKind::I, SpanKind::W] {
        assert!(spans.iter().any(|span| span.op == kind), "{kind:?}");
    }
    let costs = mean_costs(&model, &job.plan(), 20).unwrap();
    for stage in 0..8 {
        let count = |kind| spans.iter().filter(|s| (s.stage, s.op) == (stage, kind)).count();
        let (n_b, n_w) = (count(SpanKind::B) as f64, count(SpanKind::W) as f64);
        let stage = stage as usize;
        // All that was computed is found again, whichever ops it was in.
        let measured = n_b * 5e-3 + n_w * 2e-3 + n_w * 1e-3;
        let found = (n_b + n_w) * (costs.input_grad[stage] + costs.weight_grad[stage]);
        let has_halves = n_w > 0.0;
        assert!(!has_halves || (measured - found).abs() < 1e-9, "{measured} {found}");
    }
}

/// The time of the `Send` itself is a copy on the rank that sends, and no delay of the message as
/// well.
#[test]
fn a_send_counts_once() {
    let job = Job::one_f_one_b();
    let send_ns = 300_000;
    let mut model = Model::new();
    for event in run(&job, Times { link_ns: send_ns, ..EQUAL }) {
        if let Event::Span(span) = &event {
            model.apply(&event);
            let sends = match span.op {
                SpanKind::F => span.stage + 1 < 4,
                SpanKind::B => span.stage > 0,
                _ => false,
            };
            if sends {
                let (op, start_ns) = (SpanKind::Send, span.end_ns());
                model.apply(&Event::Span(Span { op, start_ns, dur_ns: send_ns, ..*span }));
            }
        } else {
            model.apply(&event);
        }
    }
    let account = account(&model).unwrap();
    // All of the delay is the `Send`.
    assert_eq!(account.slowest_edge, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, the parts add up to what was measured, and nothing is not a number.
    #[test]
    fn the_parts_are_the_whole(
        pp in 1_u32..6,
        dp in 1_u32..3,
        micro_batches in 1_u32..10,
        jitter_per_mille in 0_u64..800,
        starved_per_mille in 0_u64..500,
        slow in prop::option::of((0_u32..6, 0_u64..2000)),
        link_ns in 0_u64..3_000_000,
        schedule in prop::sample::select(vec![
            ScheduleName::OneFOneB,
            ScheduleName::Gpipe,
            ScheduleName::InterleavedOneFOneB,
            ScheduleName::LoopedBfs,
        ]),
    ) {
        let virtual_stages = schedule.default_virtual_stages();
        let micro_batches = if virtual_stages > 1 { micro_batches * pp } else { micro_batches };
        let job = Job { schedule, virtual_stages, pp, dp, micro_batches, jitter_per_mille, starved_per_mille, slow_rank: slow, steps: 4, ..Job::one_f_one_b() };
        let account = account_of(&job, Times { link_ns, ..EQUAL });
        assert_adds_up(&account);
        prop_assert!(account.parts.iter().all(|part| part.seconds.is_finite() && part.of_bubble.is_finite()));
        prop_assert!(what_if(&account).iter().all(|line| line.gain.is_finite()));
    }
}
