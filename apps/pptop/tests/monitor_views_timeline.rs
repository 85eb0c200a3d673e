//! The view of the timeline, as text, for a recorded run at frozen moments and sizes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pp_schedule::{ScheduleName, Sizes};
use pp_telemetry::{Event, Line, LineSplitter, Span, SpanKind};
use pptop::monitor::{Action, ChildState, State, Theme, View, draw};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const LOG: &[u8] = include_bytes!("fixtures/one_f_one_b_p4_m8.jsonl");
const COLOUR: Theme = Theme::plain(true, false);
const MONO: Theme = Theme::plain(false, false);
const ASCII: Theme = Theme::plain(false, true);

const LEFT: Action = Action::Pan(-1.0);
const RIGHT: Action = Action::Pan(1.0);
const DOWN: Action = Action::Scroll(1);

fn log() -> Vec<Event> {
    let mut events = Vec::new();
    LineSplitter::new().push(LOG, |line| match Event::parse(line).unwrap() {
        Line::Event(event) => events.push(event),
        Line::Unknown => panic!("the fixture has an unknown kind"),
    });
    // The run still goes on.
    events.pop();
    events
}

fn state_of<'a>(events: impl IntoIterator<Item = &'a Event>, actions: &[Action]) -> State {
    let running = ChildState { pid: 41233, ..ChildState::default() };
    let mut state = State::new(running, true);
    events.into_iter().for_each(|event| state.apply(event));
    state.act(Action::Show(View::Timeline));
    for action in actions {
        assert_eq!(state.act(*action), None);
    }
    state
}

fn screen(state: &State, theme: Theme, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, theme)).unwrap();
    terminal
}

fn text(state: &State, width: u16, height: u16) -> String {
    screen(state, MONO, width, height).backend().to_string()
}

macro_rules! assert_screen {
    ($name:literal, $state:expr, $theme:expr, $width:literal, $height:literal) => {
        insta::assert_snapshot!($name, screen($state, $theme, $width, $height).backend());
    };
}

/// Sixteen ranks in two replicas: each rank of the fixture four times, slightly later in the second replica.
fn many_ranks() -> Vec<Event> {
    let mut events = Vec::new();
    for event in log() {
        match event {
            Event::Hello(mut hello) => {
                (hello.pp, hello.dp) = (8, 2);
                hello.stages.extend(hello.stages.clone().into_iter().map(|mut stage| {
                    stage.stage += 4;
                    stage.rank += 4;
                    stage
                }));
                let sizes = Sizes {
                    n_ranks: 8,
                    n_micro_batches: 8,
                    n_virtual_stages: 1,
                    interleave_group: None,
                };
                let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap().to_string();
                hello.plan = plan.lines().map(str::to_owned).collect();
                events.push(Event::Hello(hello));
            }
            Event::Span(span) => {
                for (replica, by) in [(0, 0), (0, 4), (1, 0), (1, 4)] {
                    let (rank, stage) = (span.rank + by, span.stage + by);
                    let start_ns = span.start_ns + 3_000_000 * u64::from(replica);
                    events.push(Event::Span(Span { replica, rank, stage, start_ns, ..span }));
                }
            }
            other => events.push(other),
        }
    }
    events
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
    let mut state = state_of(&many_ranks(), &[]);
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
    let Event::Hello(hello) = &mut events[0] else { panic!("hello first") };
    hello.plan = vec!["0F0,0B0".to_owned(); 4];
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

fn actions() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        Action::Mode,
        Action::Enter,
        Action::Enter,
        Action::Back,
        Action::Freeze,
        Action::StepBy(-1),
        Action::StepBy(10),
        Action::NewestStep,
        Action::ZoomIn,
        Action::ZoomIn,
        Action::ZoomOut,
        Action::ZoomFit,
        LEFT,
        RIGHT,
        RIGHT,
        DOWN,
        Action::Scroll(-1),
        Action::Page(1),
        Action::Edge { last: true },
        Action::Edge { last: false },
        Action::Show(View::Timeline),
        Action::Help,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// No size, no part of the log and no sequence of keys breaks the drawing.
    #[test]
    fn any_size_can_be_drawn(
        width in 0_u16..=200,
        height in 0_u16..=60,
        share in 0.0..=1.0_f64,
        actions in prop::collection::vec(actions(), 0..14),
        ascii in any::<bool>(),
        colour in any::<bool>(),
        many in any::<bool>(),
        extreme in prop::option::of(prop::sample::select(vec![0, 1, u64::MAX, u64::MAX / 2])),
    ) {
        let mut events = if many { many_ranks() } else { log() };
        if let Some(extreme) = extreme {
            let spans = events.iter_mut().filter_map(|event| match event {
                Event::Span(span) => Some(span),
                _ => None,
            });
            for (at, span) in spans.enumerate().filter(|(at, _)| at % 7 == 0) {
                if at % 2 == 0 {
                    span.dur_ns = extreme;
                } else {
                    span.start_ns = extreme;
                }
                (span.bytes, span.starved_ns, span.mb) = (extreme, extreme, u32::MAX);
            }
        }
        #[expect(clippy::cast_sign_loss, reason = "a share is not negative")]
        let n_events = (events.len() as f64 * share) as usize;
        let mut state = state_of(&events[..n_events], &[]);
        for action in actions {
            state.act(action);
            screen(&state, Theme::plain(colour, ascii), width, height);
        }
        let drawn = screen(&state, Theme::plain(colour, ascii), width, height);
        let other = drawn.backend().buffer().content.iter().find(|cell| !cell.symbol().is_ascii());
        prop_assert!(!ascii || other.is_none(), "{:?}", other);
    }
}
