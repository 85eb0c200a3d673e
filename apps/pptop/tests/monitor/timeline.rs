//! The view of the timeline, as text, for a recorded run at frozen moments and sizes.

use pp_telemetry::{Event, Span, SpanKind};
use pptop::monitor::{Action, State, View};

use super::common::{
    ASCII, COLOUR, MONO, assert_screen, copied, hello_of, log, screen, state_in, text,
};

const LEFT: Action = Action::Pan(-1.0);
const RIGHT: Action = Action::Pan(1.0);
const DOWN: Action = Action::Scroll(1);

fn state_of(events: &[Event], actions: &[Action]) -> State {
    state_in(View::Timeline, events, actions)
}

#[test]
fn sizes() {
    let state = state_of(&log(), &[]);
    assert_screen!("timeline_20x5", &state, MONO, 20, 5);
    assert_screen!("timeline_40x12", &state, MONO, 40, 12);
    assert_screen!("timeline_80x24", &state, MONO, 80, 24);
    assert_screen!("timeline_100x30", &state, MONO, 100, 30);
    assert_screen!("timeline_160x50", &state, MONO, 160, 50);
    assert_screen!("timeline_240x70", &state, MONO, 240, 70);
}

#[test]
fn an_operation_and_what_it_waited_for() {
    let mut state = state_of(&log(), &[DOWN, DOWN, RIGHT, RIGHT, RIGHT]);
    assert_screen!("timeline_chosen_80x24", &state, MONO, 80, 24);
    state.act(Action::Enter);
    assert_screen!("timeline_cause_100x30", &state, MONO, 100, 30);
    assert_screen!("timeline_cause_40x12", &state, MONO, 40, 12);
    assert_screen!("timeline_cause_20x5", &state, MONO, 20, 5);
    state.act(Action::Enter);
    state.act(Action::Enter);
    assert_screen!("timeline_walk_160x50", &state, MONO, 160, 50);
    // Back, step by step, and out of the view in the end.
    for _ in 0..4 {
        assert!(text(&state, 100, 30).contains("[2]Timeline"));
        state.act(Action::Back);
    }
    assert!(text(&state, 100, 30).contains("[2]Timeline"));
    state.act(Action::Back);
    assert!(text(&state, 100, 30).contains("devices"));
}

#[test]
fn modes() {
    assert_screen!("timeline_measured_80x24", &state_of(&log(), &[Action::Mode]), MONO, 80, 24);
    let overlaid = state_of(&log(), &[Action::Mode, Action::Mode]);
    assert_screen!("timeline_overlaid_100x30", &overlaid, MONO, 100, 30);
    assert_screen!("timeline_overlaid_ascii_80x24", &overlaid, ASCII, 80, 24);
    let again = state_of(&log(), &[Action::Mode; 3]);
    assert!(text(&again, 80, 24).contains("measured - plan"));
}

#[test]
fn plain_characters() {
    assert_screen!(
        "timeline_ascii_80x24",
        &state_of(&log(), &[RIGHT, Action::Enter]),
        ASCII,
        80,
        24
    );
}

#[test]
fn colours() {
    let state = state_of(&log(), &[DOWN, RIGHT, Action::Enter]);
    insta::assert_debug_snapshot!(
        "timeline_colour_60x16",
        screen(&state, COLOUR, 60, 16).backend().buffer()
    );
}

#[test]
fn what_is_zoomed_follows_the_cursor() {
    let mut state = state_of(&log(), &[RIGHT, Action::ZoomIn, Action::ZoomIn, Action::ZoomIn]);
    let first = text(&state, 80, 24);
    assert!(first.contains("x8") && first.contains("f0"), "{first}");
    (0..15).for_each(|_| assert_eq!(state.act(RIGHT), None));
    assert_screen!("timeline_zoomed_80x24", &state, MONO, 80, 24);
    // The end of the other direction.
    state.act(LEFT);
    assert!(text(&state, 80, 24).contains("r0 B6"));
}

#[test]
fn many_ranks_scroll_with_the_choice() {
    let mut state = state_of(&copied(8, 2), &[]);
    assert_screen!("timeline_many_80x24", &state, MONO, 80, 24);
    state.act(Action::Edge { last: true });
    let last = text(&state, 80, 24);
    assert!(last.contains(">r7.1") && last.contains("to 16 of 16"), "{last}");
    state.act(Action::Page(-1));
    assert!(text(&state, 80, 24).contains(">r7.0"));
}

/// The same for a plan that has no place on the screen: it is said why.
#[test]
fn a_plan_that_is_none_is_told() {
    let mut events = log();
    hello_of(&mut events).plan = vec!["0F0,0B0".to_owned(); 4];
    let state = state_of(&events, &[]);
    let text = text(&state, 100, 30);
    assert!(text.contains("no plan: "), "{text}");
}

#[test]
fn bytes_and_time_without_a_core_are_told() {
    let mut events = log();
    let mut copies = Vec::new();
    for event in &mut events {
        if let Event::Span(span) = event
            && (span.step, span.rank, span.op, span.mb) == (120, 1, SpanKind::F, 2)
        {
            span.starved_ns = 3_000_000;
            span.dur_ns -= 1_000_000;
            let (start_ns, dur_ns) = (span.end_ns(), 500_000);
            copies.push(Event::Span(Span {
                op: SpanKind::Send,
                start_ns,
                dur_ns,
                bytes: 1 << 20,
                ..*span
            }));
        }
    }
    let at = events.len() - 40;
    events.splice(at..at, copies);
    let state = state_of(&events, &[DOWN, RIGHT, RIGHT, RIGHT]);
    let text = text(&state, 160, 50);
    assert!(text.contains("sent 1.0M") && text.contains("starved 3.0 ms"), "{text}");
}
