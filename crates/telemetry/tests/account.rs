//! Where the time of a step goes: what was added to a run is found again, where it was added.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Job, Times, run};
use pp_schedule::ScheduleName;
use pp_telemetry::{Account, Event, Model, NoAccount, Part, account, what_if};
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
        assert!(account.share_of_rank(rank) > 1.3);
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
    let account = account_of(&Job::one_f_one_b(), EQUAL);
    let lines = what_if(&account);
    let of = |change: &str| {
        lines.iter().find(|line| line.change == change).unwrap_or_else(|| panic!("{lines:?}"))
    };
    assert!((of("m=16").bubble_ratio - 3.0 / 19.0).abs() < 1e-9);
    assert!((of("interleaved-1f1b v=2").bubble_ratio - 3.0 / 19.0).abs() < 1e-9);
    assert!((of("gpipe").bubble_ratio - 3.0 / 11.0).abs() < 1e-9);
    assert!(of("an even cut").gain.abs() < 1e-9);
    assert!(of("zb-h1").bubble_ratio < 0.2 && of("zb-h1").gain > 0.1);
    let slow = account_of(&Job { slow_rank: Some((1, 500)), ..Job::one_f_one_b() }, EQUAL);
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
    assert_eq!(account(&model).unwrap_err(), NoAccount::NoPlan);
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
    ) {
        let job = Job { pp, dp, micro_batches, jitter_per_mille, starved_per_mille, slow_rank: slow, steps: 4, ..Job::one_f_one_b() };
        let account = account_of(&job, Times { link_ns, ..EQUAL });
        assert_adds_up(&account);
        prop_assert!(account.parts.iter().all(|part| part.seconds.is_finite() && part.of_bubble.is_finite()));
        prop_assert!(what_if(&account).iter().all(|line| line.gain.is_finite()));
    }
}
