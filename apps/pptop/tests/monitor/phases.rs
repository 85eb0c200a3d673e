//! What a run does beside its steps, on the screen: while it starts, and between its steps.

use pp_telemetry::{Event, PhaseEvent};
use pptop::monitor::View;

use super::common::{
    ASCII, MONO, assert_screen, hello_of, hundred_steps, screen, state_in, state_of, text,
};

fn phase(name: &str, step: Option<u64>, start_ms: u64, dur_ms: Option<u64>, done: u64) -> Event {
    let ns = |ms: u64| ms * 1_000_000;
    Event::Phase(PhaseEvent {
        phase: name.to_owned(),
        step,
        start_ns: ns(start_ms),
        elapsed_ns: ns(start_ms + dur_ms.unwrap_or(50)),
        dur_ns: dur_ms.map(ns),
        done,
        total: 12,
    })
}

#[test]
fn a_run_that_starts_says_what_it_does_and_how_far_it_is() {
    let events = [
        phase("profiling", None, 0, None, 0),
        phase("profiling", None, 0, Some(1200), 12),
        phase("cutting", None, 1200, Some(3), 0),
        phase("rehearsing", None, 1203, None, 5),
    ];
    let state = state_of(&events);
    assert_screen!("starting_phases_80x24", &state, MONO, 80, 24);
    let line = text(&state_of(&events[..1]), 80, 24);
    assert!(line.contains("STARTING profiling 0/12"), "{line}");
    for (width, height) in [(1, 1), (19, 4), (40, 12), (200, 60)] {
        let _ = text(&state, width, height);
    }
    // What was said before the first line of the run itself is not forgotten.
    let mut all = events.to_vec();
    all.push(phase("rehearsing", None, 1203, Some(10), 12));
    all.extend(hundred_steps());
    assert_eq!(state_of(&all).model().phases().count(), 3);
}

/// After step 100 of 120: five evaluations are over, and one goes on.
fn evaluating() -> Vec<Event> {
    let mut events = hundred_steps();
    hello_of(&mut events).eval_every = 20;
    for at in 1..5 {
        events.push(phase("evaluating", Some(20 * at), 8_500 * at, Some(2_000), 12));
    }
    events.push(phase("evaluating", Some(100), 42_500, None, 3));
    events
}

#[test]
fn an_evaluation_is_no_silence_and_no_first_operation() {
    let events = evaluating();
    let mut state = state_of(&events);
    assert_screen!("evaluating_100x30", &state, MONO, 100, 30);
    let overview = text(&state, 80, 24);
    assert!(overview.contains("evaluating 3/12"), "{overview}");
    assert_eq!(overview.matches("eval ").count(), 4, "each rank takes part:\n{overview}");
    assert!(!overview.contains("STALE"), "{overview}");
    // However long it says nothing, within reason.
    state.observe(super::common::running(), 60.0, 0);
    assert!(text(&state, 80, 24).contains("evaluating 3/12"));
    let page = state_in(View::Timeline, &events, &[]);
    assert_screen!("timeline_evaluating_100x30", &page, MONO, 100, 30);
    assert_screen!("timeline_evaluating_ascii_80x24", &page, ASCII, 80, 24);
    let bubble = text(&state_in(View::Bubble, &events, &[]), 160, 50);
    assert!(bubble.contains("between steps: evaluating 4 x 2.00 s"), "{bubble}");
}

/// Twenty steps are left, and the evaluation that goes on, and the one after the last step.
#[test]
fn what_is_left_holds_the_evaluations_as_well() {
    let seconds = |events: &[Event]| state_of(events).model().eta_seconds().unwrap();
    let mut events = evaluating();
    let steps_alone = {
        let mut without = hundred_steps();
        hello_of(&mut without).eval_every = 20;
        seconds(&without)
    };
    let left = seconds(&events) - steps_alone;
    assert!((left - (4.0 - 0.05)).abs() < 1e-6, "{left}");
    events.push(phase("evaluating", Some(100), 42_500, Some(2_000), 12));
    let left = seconds(&events) - steps_alone;
    assert!((left - 2.0).abs() < 1e-6, "{left}");
}
