//! The view of the bubble, as text, for a recorded run at frozen moments and sizes.

use pp_schedule::{Costs, Phase, ScheduleName, Sizes, simulate};
use pp_telemetry::{Event, Span, SpanKind};
use pptop::monitor::{Action, State, View};

use super::common::{
    ASCII, COLOUR, MONO, assert_screen, copied, hello_of, log, screen, state_in, text,
};

fn state_of(events: &[Event]) -> State {
    state_in(View::Bubble, events, &[])
}

/// The fixture's run with other spans: its plan played through, where rank 2 takes so many times as
/// long as the others and every operation loses a part of its time for want of a core.
pub(crate) fn played(slower: f64, starved: f64) -> Vec<Event> {
    let sizes =
        Sizes { n_ranks: 4, n_micro_batches: 8, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
    let mut costs = Costs::uniform(4, 12e6, 12e6, 12e6, 500e3);
    for times in [&mut costs.forward, &mut costs.input_grad, &mut costs.weight_grad] {
        times[2] *= slower;
    }
    let simulation = simulate(&plan, &costs).unwrap();
    let mut spans = Vec::new();
    for (rank, row) in (0..).zip(simulation.timeline(&plan, &costs)) {
        let mut free_ns = 0;
        for timed in row {
            let op = timed.action.ops().next().unwrap();
            #[expect(clippy::cast_sign_loss, reason = "times are not negative")]
            let (start_ns, end_ns) = (timed.start as u64, timed.end as u64);
            #[expect(clippy::cast_sign_loss, reason = "a share is not negative")]
            let starved_ns = ((end_ns - start_ns) as f64 * starved) as u64;
            let span = Span {
                step: 0,
                replica: 0,
                rank,
                stage: op.stage.0,
                mb: op.micro_batch.0,
                op: op.phase.into(),
                start_ns,
                dur_ns: end_ns - start_ns,
                cpu_ns: 0,
                bytes: 0,
                starved_ns,
            };
            let is_forward = op.phase == Phase::Forward;
            let wait = if is_forward { SpanKind::WaitAct } else { SpanKind::WaitGrad };
            if start_ns > free_ns {
                let dur_ns = start_ns - free_ns;
                spans.push(Span { op: wait, start_ns: free_ns, dur_ns, starved_ns: 0, ..span });
            }
            spans.push(span);
            free_ns = end_ns;
        }
    }
    let mut events: Vec<Event> = log();
    let recorded: std::collections::BTreeSet<u64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Span(span) => Some(span.step),
            _ => None,
        })
        .collect();
    events.retain(|event| !matches!(event, Event::Span(_)));
    for step in recorded {
        let is_its = |event: &Event| matches!(event, Event::Step(found) if found.step == step);
        let at = events.iter().position(is_its).unwrap();
        if let Event::Step(found) = &mut events[at] {
            found.seconds = simulation.makespan * 1e-9 + 0.004;
        }
        let began_ns = step * 1_000_000_000;
        let its = spans
            .iter()
            .map(|span| Event::Span(Span { step, start_ns: began_ns + span.start_ns, ..*span }));
        events.splice(at..at, its.collect::<Vec<_>>());
    }
    events
}

#[test]
fn sizes() {
    let state = state_of(&log());
    assert_screen!("bubble_20x5", &state, MONO, 20, 5);
    assert_screen!("bubble_40x12", &state, MONO, 40, 12);
    assert_screen!("bubble_80x24", &state, MONO, 80, 24);
    assert_screen!("bubble_100x30", &state, MONO, 100, 30);
    assert_screen!("bubble_160x50", &state, MONO, 160, 50);
    assert_screen!("bubble_240x70", &state, MONO, 240, 70);
}

#[test]
fn what_the_numbers_mean() {
    let mut state = state_of(&log());
    assert_eq!(state.act(Action::Definition), None);
    assert_screen!("bubble_meaning_80x24", &state, MONO, 80, 24);
    assert_screen!("bubble_meaning_160x50", &state, MONO, 160, 50);
    assert_screen!("bubble_meaning_40x12", &state, MONO, 40, 12);
    // Escape closes the meaning before it leaves the view.
    state.act(Action::Back);
    assert!(text(&state, 80, 24).contains("b meaning"));
    state.act(Action::Back);
    assert!(text(&state, 80, 24).contains("devices"));
}

#[test]
fn plain_characters() {
    assert_screen!("bubble_ascii_80x24", &state_of(&played(1.4, 0.0)), ASCII, 80, 24);
}

#[test]
fn colours() {
    let drawn = screen(&state_of(&played(1.4, 0.0)), COLOUR, 60, 16);
    insta::assert_debug_snapshot!("bubble_colour_60x16", drawn.backend().buffer());
}

#[test]
fn a_slow_rank_is_found() {
    let state = state_of(&played(1.4, 0.0));
    assert_screen!("bubble_slow_80x24", &state, MONO, 80, 24);
    assert_screen!("bubble_slow_100x30", &state, MONO, 100, 30);
    assert_screen!("bubble_slow_40x12", &state, MONO, 40, 12);
    assert_screen!("bubble_slow_20x5", &state, MONO, 20, 5);
}

#[test]
fn ranks_without_a_core_are_found() {
    assert_screen!("bubble_starved_100x30", &state_of(&played(1.0, 0.3)), MONO, 100, 30);
}

#[test]
fn many_ranks_scroll() {
    let mut state = state_of(&copied(16, 1));
    assert_screen!("bubble_sixteen_80x24", &state, MONO, 80, 24);
    assert_screen!("bubble_sixteen_160x50", &state, MONO, 160, 50);
    state.act(Action::Edge { last: true });
    let last = text(&state, 80, 24);
    assert!(last.contains("to 16 of 16"), "{last}");
    state.act(Action::Edge { last: false });
    assert!(text(&state, 80, 24).contains("1 to "));
}

#[test]
fn replicas() {
    let state = state_of(&copied(4, 2));
    assert_screen!("bubble_replicas_80x24", &state, MONO, 80, 24);
    assert_screen!("bubble_replicas_100x30", &state, MONO, 100, 30);
}

#[test]
fn before_a_step_is_over() {
    let events = log();
    let state = state_of(&events[..20]);
    assert_screen!("bubble_no_step_80x24", &state, MONO, 80, 24);
    assert_screen!("bubble_no_step_40x12", &state, MONO, 40, 12);
    assert_screen!("bubble_no_step_20x5", &state, MONO, 20, 5);
}

#[test]
fn a_plan_that_is_none_is_told() {
    let mut events = log();
    hello_of(&mut events).plan.clear();
    let text = text(&state_of(&events), 80, 24);
    assert!(text.contains("the log does not say what the plan is"), "{text}");
}
