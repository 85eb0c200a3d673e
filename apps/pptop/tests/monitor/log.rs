//! The view of the log, as text: what the run said, what was slow and what was lost.

use pp_telemetry::{Dropped, Event, Log, Warn};
use pptop::monitor::{Action, State, View};
use ratatui::style::Modifier;

use super::common::{
    ASCII, COLOUR, MONO, assert_screen, log, screen, slow_down_one_backward, state_in, text,
};

fn said(second: f64, step: u64, message: &str) -> Event {
    let message = message.to_owned();
    let step = (step > 0).then_some(step);
    Event::Log(Log { elapsed_ns: (second * 1e9) as u64, step, message })
}

fn warned(second: f64, step: u64, message: &str) -> Event {
    let (elapsed_ns, message) = ((second * 1e9) as u64, message.to_owned());
    Event::Warn(Warn { elapsed_ns, step: Some(step), message, ..Warn::default() })
}

/// The run with messages of its own: checkpoints, warnings, a slow operation, lost events, and a
/// text that would clear the screen.
pub(crate) fn talkative() -> Vec<Event> {
    let mut events = log();
    slow_down_one_backward(&mut events);
    for step in (10_u32..=120).step_by(10) {
        let second = f64::from(step) * 0.424;
        events.push(said(
            second,
            step.into(),
            &format!("checkpoint step {step} written (412 MiB)"),
        ));
    }
    events.push(warned(
        20.0,
        47,
        "GPU 2: clocks lowered from 1980 to 1845 MHz by the software power cap, which holds as long as the \
         power limit of 500 W stays below what the kernels ask for; see nvidia-smi -q -d PERFORMANCE",
    ));
    events.push(warned(31.0, 73, "the gradient norm rose from 0.75 to 12.1"));
    events.push(Event::Dropped(Dropped { elapsed_ns: 44_500_000_000, count: 12 }));
    events.push(said(47.2, 0, "\u{1b}[2J\u{1b}[31mred\tand \u{7}loud, 漢字 and é"));
    events
}

fn state_of(events: &[Event], actions: &[Action]) -> State {
    state_in(View::Log, events, actions)
}

/// What is typed after `/`.
fn typed(text: &str) -> Vec<Action> {
    std::iter::once(Action::Filter).chain(text.chars().map(Action::Type)).collect()
}

#[test]
fn every_size() {
    let state = state_of(&talkative(), &[]);
    assert_screen!("log_20x5", &state, MONO, 20, 5);
    assert_screen!("log_40x12", &state, MONO, 40, 12);
    assert_screen!("log_80x24", &state, MONO, 80, 24);
    assert_screen!("log_100x30", &state, MONO, 100, 30);
    assert_screen!("log_160x50", &state, MONO, 160, 50);
    assert_screen!("log_240x70", &state, MONO, 240, 70);
}

#[test]
fn plain_characters() {
    let state = state_of(&talkative(), &[]);
    assert_screen!("ascii_80x24", &state, ASCII, 80, 24);
    let drawn = screen(&state, ASCII, 80, 24).backend().to_string();
    assert!(drawn.is_ascii(), "{drawn}");
}

#[test]
fn colours_on_dark_and_on_light() {
    let mut actions = typed("clocks");
    actions.push(Action::Accept);
    let state = state_of(&talkative(), &actions);
    let dark = COLOUR;
    for (name, theme) in [("dark_60x16", dark), ("light_60x16", dark.on_light())] {
        insta::assert_debug_snapshot!(name, screen(&state, theme, 60, 16).backend().buffer());
    }
}

#[test]
fn scrolling_up_holds_and_says_so() {
    let mut events = talkative();
    let mut state = state_of(&events, &[Action::Scroll(-1), Action::Page(-1)]);
    assert_screen!("pinned_80x18", &state, MONO, 80, 18);
    let newest = |text: String| text.lines().rev().nth(2).unwrap().to_owned();
    let held = newest(text(&state, 80, 18));
    for at in 0..50 {
        let event = said(60.0 + f64::from(at), 0, &format!("message {at}"));
        state.apply(&event);
        events.push(event);
    }
    assert_eq!(newest(text(&state, 80, 18)), held);
    assert!(text(&state, 80, 18).contains("pinned 61 lines above the newest, G follows"));
    state.act(Action::Edge { last: true });
    assert!(newest(text(&state, 80, 18)).contains("message 49"));
    state.act(Action::Edge { last: false });
    assert!(text(&state, 80, 18).contains("model built"));
    state.act(Action::Back);
    assert!(newest(text(&state, 80, 18)).contains("message 49"));
}

#[test]
fn what_is_looked_for_stands_alone_while_it_is_typed() {
    let events = talkative();
    let mut state = state_of(&events, &typed("CHECKpoint step 1"));
    assert_screen!("typed_80x18", &state, MONO, 80, 18);
    state.act(Action::Accept);
    assert_screen!("found_80x18", &state, MONO, 80, 18);
    let terminal = screen(&state, MONO, 80, 18);
    let buffer = terminal.backend().buffer();
    let marked =
        buffer.content().iter().filter(|cell| cell.modifier.contains(Modifier::UNDERLINED));
    // Steps 10, 100, 110 and 120.
    assert_eq!(marked.count(), 4 * "checkpoint step 1".len());
    state.act(Action::Back);
    assert!(text(&state, 80, 24).contains("gradient norm"));
    let nothing = state_of(&events, &typed("no such thing"));
    assert!(text(&nothing, 80, 24).contains("no match"));
}

#[test]
fn warnings_stand_alone() {
    let state = state_of(&talkative(), &[Action::Warnings]);
    assert_screen!("warnings_80x18", &state, MONO, 80, 18);
}

#[test]
fn what_moves_the_cursor_never_reaches_the_terminal() {
    let state = state_of(&talkative(), &[]);
    for (width, height) in [(80, 24), (40, 12), (160, 50)] {
        let terminal = screen(&state, MONO, width, height);
        let buffer = terminal.backend().buffer();
        let has_control = |symbol: &str| symbol.contains(char::is_control);
        assert!(buffer.content().iter().all(|cell| !has_control(cell.symbol())));
        assert!(terminal.backend().to_string().contains("loud"));
    }
}
