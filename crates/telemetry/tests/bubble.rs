//! The measured bubble of plans whose bubble is known.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Job, Times, run};
use pp_schedule::ScheduleName;
use pp_telemetry::{Event, MeasuredBubble, Span, SpanKind, measure};
use proptest::prelude::*;

const EQUAL: Times = Times { forward_ns: 1000, backward_ns: 2000, link_ns: 0, optim_ns: 0 };

fn spans_of(job: &Job, times: Times, step: u64) -> Vec<Span> {
    run(job, times)
        .into_iter()
        .filter_map(|event| match event {
            Event::Span(span) if span.step == step => Some(span),
            _ => None,
        })
        .collect()
}

fn one_step(job: &Job, times: Times) -> MeasuredBubble {
    let job = Job { steps: 1, ..job.clone() };
    let spans = spans_of(&job, times, 1);
    let first = spans.iter().map(|span| span.start_ns).min().unwrap();
    let last = spans.iter().map(Span::end_ns).max().unwrap();
    measure(&spans, job.pp, last - first)
}

#[track_caller]
fn assert_close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-12, "{a} is not {b}");
}

#[test]
fn an_ideal_1f1b_has_the_bubble_of_the_closed_form() {
    for (pp, micro_batches) in [(1, 1), (2, 3), (4, 8), (4, 32), (8, 4), (8, 32)] {
        let measured = one_step(&Job { pp, micro_batches, ..Job::one_f_one_b() }, EQUAL);
        let (p, m) = (f64::from(pp), f64::from(micro_batches));
        assert_close(measured.bubble_ratio, (p - 1.0) / (m + p - 1.0));
        assert_close(measured.bubble_overhead, (p - 1.0) / m);
        assert_close(measured.window_seconds, (m + p - 1.0) * 3e-6);
        assert_close(measured.idle_of_step, measured.bubble_ratio);
        assert_close(measured.starved_ratio, 0.0);
    }
}

#[test]
fn the_longest_span_of_a_rank_is_the_base_of_the_span_bubble() {
    // The first rank works from the first forward to the last backward: its span is the window.
    let measured = one_step(&Job::one_f_one_b(), EQUAL);
    assert_close(measured.span_bubble, 3.0 / 11.0);
}

#[test]
fn naive_leaves_all_ranks_but_one_idle() {
    let measured = one_step(&Job { schedule: ScheduleName::Naive, ..Job::one_f_one_b() }, EQUAL);
    assert_close(measured.bubble_ratio, 0.75);
}

#[test]
fn chunks_of_one_rank_count_together() {
    let job = Job {
        schedule: ScheduleName::InterleavedOneFOneB,
        virtual_stages: 2,
        ..Job::one_f_one_b()
    };
    assert_close(one_step(&job, EQUAL).bubble_ratio, 3.0 / (16.0 + 3.0));
}

#[test]
fn replicas_are_measured_apart_and_then_averaged() {
    let job = Job { steps: 1, ..Job::one_f_one_b() };
    let mut spans = spans_of(&job, EQUAL, 1);
    let window_ns = 33_000;
    // A second replica, later and with twice the time for the same work on its first rank only.
    let later: Vec<_> = spans
        .iter()
        .filter(|span| span.rank == 0 && span.op.is_compute())
        .map(|span| Span { replica: 1, start_ns: span.start_ns + 1_000_000, ..*span })
        .collect();
    let alone = measure(&later, 4, window_ns);
    assert_close(alone.bubble_ratio, 1.0 - 24.0 / (4.0 * 33.0));
    spans.extend(later);
    let both = measure(&spans, 4, window_ns);
    assert_close(both.bubble_ratio, f64::midpoint(3.0 / 11.0, alone.bubble_ratio));
    assert_close(both.window_seconds, 33e-6);
}

#[test]
fn only_compute_is_busy_and_starved_time_is_part_of_it() {
    let compute = Span {
        step: 1,
        replica: 0,
        rank: 0,
        stage: 0,
        mb: 0,
        op: SpanKind::F,
        start_ns: 100,
        dur_ns: 50,
        cpu_ns: 30,
        bytes: 0,
        starved_ns: 20,
    };
    let mut spans = vec![compute, Span { rank: 1, start_ns: 150, starved_ns: 0, ..compute }];
    for op in SpanKind::ALL.into_iter().filter(|op| !op.is_compute()) {
        spans.push(Span { op, start_ns: 0, dur_ns: 1000, ..compute });
    }
    let measured = measure(&spans, 2, 400);
    assert_close(measured.window_seconds, 100e-9);
    assert_close(measured.bubble_ratio, 0.5);
    assert_close(measured.idle_of_step, 1.0 - 100.0 / 800.0);
    assert_close(measured.starved_ratio, 0.1);
}

#[test]
fn a_step_without_compute_has_no_bubble_to_measure() {
    assert!(measure(&[], 4, 100).bubble_ratio.is_nan());
}

proptest! {
    #[test]
    fn any_order_of_the_spans_measures_the_same(seed in any::<u64>()) {
        let job = Job { jitter_per_mille: 300, ..Job::one_f_one_b() };
        let mut spans = spans_of(&job, EQUAL, 2);
        let before = measure(&spans, 4, 40_000);
        let key = |span: &Span| span.start_ns.wrapping_mul(seed | 1).rotate_left(17) ^ u64::from(span.rank);
        spans.sort_by_key(key);
        prop_assert_eq!(measure(&spans, 4, 40_000), before);
    }
}
