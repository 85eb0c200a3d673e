//! The screens of the monitor, as text, for a recorded run at frozen moments and sizes.
//!
//! The log is a simulated 1F1B on four ranks with eight micro-batches, 120 steps; it comes from
//! `cargo run -p pp-telemetry --example simulated_run`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pp_telemetry::{End, Event, Line, LineSplitter, Span, Warn};
use pptop::monitor::{Action, ChildState, Choice, Effect, State, Theme, draw};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const LOG: &[u8] = include_bytes!("fixtures/one_f_one_b_p4_m8.jsonl");
const COLOUR: Theme = Theme::plain(true, false);
const MONO: Theme = Theme::plain(false, false);
const ASCII: Theme = Theme::plain(false, true);

fn log() -> Vec<Event> {
    let mut events = Vec::new();
    LineSplitter::new().push(LOG, |line| match Event::parse(line).unwrap() {
        Line::Event(event) => events.push(event),
        Line::Unknown => panic!("the fixture has an unknown kind"),
    });
    events
}

fn running() -> ChildState {
    ChildState { pid: 41233, ..ChildState::default() }
}

fn state_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> State {
    let mut state = State::new(running(), true);
    events.into_iter().for_each(|event| state.apply(event));
    state
}

/// The run after step 100, in the middle of the next.
fn in_the_middle() -> State {
    let events = log();
    let end = events
        .iter()
        .position(|event| matches!(event, Event::Step(step) if step.step == 100))
        .unwrap();
    let mut state = state_of(&events[..=end]);
    // The fixture keeps the spans of some steps only: the next begins like this one.
    let of_this_step = events.iter().filter_map(|event| match event {
        Event::Span(span) if span.step == 100 => Some(*span),
        _ => None,
    });
    for span in of_this_step.take(70) {
        state.apply(&Event::Span(Span {
            step: 101,
            start_ns: span.start_ns + 424_000_000,
            ..span
        }));
    }
    state
}

fn screen(state: &State, theme: Theme, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, theme)).unwrap();
    terminal
}

macro_rules! assert_screen {
    ($name:literal, $state:expr, $theme:expr, $width:literal, $height:literal) => {
        insta::assert_snapshot!($name, screen($state, $theme, $width, $height).backend());
    };
}

#[test]
fn sizes() {
    let state = in_the_middle();
    assert_screen!("live_19x4", &state, MONO, 19, 4);
    assert_screen!("live_20x5", &state, MONO, 20, 5);
    assert_screen!("live_40x12", &state, MONO, 40, 12);
    assert_screen!("live_80x18", &state, MONO, 80, 18);
    assert_screen!("live_80x24", &state, MONO, 80, 24);
    assert_screen!("live_100x30", &state, MONO, 100, 30);
    assert_screen!("live_160x50", &state, MONO, 160, 50);
}

#[test]
fn plain_characters() {
    assert_screen!("ascii_80x24", &in_the_middle(), ASCII, 80, 24);
}

#[test]
fn colours() {
    // Styles in full only for a small screen: the text of the others says the rest.
    let mut terminal = screen(&in_the_middle(), COLOUR, 60, 16);
    insta::assert_debug_snapshot!("colour_60x16", terminal.current_buffer_mut_after_draw());
}

/// The buffer that was drawn last.
trait Drawn {
    fn current_buffer_mut_after_draw(&mut self) -> &ratatui::buffer::Buffer;
}

impl Drawn for Terminal<TestBackend> {
    fn current_buffer_mut_after_draw(&mut self) -> &ratatui::buffer::Buffer {
        self.backend().buffer()
    }
}

#[test]
fn before_the_run_has_said_anything() {
    let state = state_of(&[]);
    assert_screen!("starting_80x24", &state, MONO, 80, 24);
    assert_screen!("starting_40x12", &state, MONO, 40, 12);
}

#[test]
fn the_first_step_runs() {
    let events = log();
    let n_events = events.iter().position(|event| matches!(event, Event::Step(_))).unwrap() / 2;
    assert_screen!("first_step_80x24", &state_of(&events[..n_events]), MONO, 80, 24);
}

#[test]
fn more_ranks_than_cores() {
    let mut events = log();
    let Event::Hello(hello) = &mut events[0] else { panic!("hello first") };
    hello.cores = 2;
    for event in &mut events {
        match event {
            Event::Span(span) => span.starved_ns = span.dur_ns / 3,
            Event::Step(step) => step.starved_ratio = step.bubble_ratio / 2.0,
            _ => {}
        }
    }
    let end = events.len() - 1;
    assert_screen!("two_cores_80x24", &state_of(&events[..end]), MONO, 80, 24);
}

#[test]
fn help_and_questions() {
    let mut state = in_the_middle();
    assert_eq!(state.act(Action::Help), None);
    assert_screen!("help_80x24", &state, MONO, 80, 24);
    state.act(Action::Help);
    assert_eq!(state.act(Action::Quit), None);
    assert_screen!("quit_80x24", &state, MONO, 80, 24);
    state.act(Action::Back);
    state.act(Action::Stop);
    assert_screen!("stop_80x24", &state, MONO, 80, 24);
    assert_eq!(state.act(Action::Choose(Choice::Stop)), Some(Effect::Stop { then_leave: false }));
    assert_screen!("stopping_80x24", &state, MONO, 80, 24);
}

#[test]
fn another_step_and_a_part_of_it() {
    let mut state = in_the_middle();
    for action in [Action::StepBy(-1), Action::StepBy(-1), Action::ZoomIn, Action::Pan(1.0)] {
        assert_eq!(state.act(action), None);
    }
    assert_screen!("step_zoomed_100x30", &state, MONO, 100, 30);
}

#[test]
fn a_frozen_screen_stands_still_and_then_catches_up() {
    let events = log();
    let middle = events.len() / 2;
    let mut state = state_of(&events[..middle]);
    state.act(Action::Freeze);
    let before = screen(&state, MONO, 80, 24).backend().buffer().clone();
    events[middle..events.len() - 1].iter().for_each(|event| state.apply(event));
    assert_eq!(screen(&state, MONO, 80, 24).backend().buffer(), &before);
    assert!(format!("{}", screen(&state, MONO, 80, 24).backend()).contains("FROZEN"));
    state.act(Action::Freeze);
    let caught_up = state_of(&events[..events.len() - 1]);
    assert_eq!(screen(&state, MONO, 80, 24).backend(), screen(&caught_up, MONO, 80, 24).backend());
}

#[test]
fn a_run_that_has_ended_waits_to_be_seen() {
    let mut state = state_of(&log());
    state.observe(ChildState { code: Some(0), ..running() }, 60.0, 0);
    assert_screen!("ended_80x24", &state, MONO, 80, 24);
    assert_eq!(state.act(Action::Quit), Some(Effect::Leave));
}

#[test]
fn a_run_that_has_failed_says_where_and_why() {
    let mut events = log();
    events.truncate(events.len() * 2 / 3);
    events.push(Event::End(End {
        code: 1,
        reason: "the gradient is not finite".to_owned(),
        steps: 60,
        rank: Some(2),
        op: Some("2B3".to_owned()),
        ..End::default()
    }));
    let mut state = state_of(&events);
    state.observe(ChildState { code: Some(1), ..running() }, 0.0, 0);
    assert_screen!("failed_80x24", &state, MONO, 80, 24);
}

#[test]
fn a_run_that_dies_without_a_word_shows_its_last_line() {
    let mut state = state_of(&[]);
    let last_error = Some("error: no such file: data.txt".to_owned());
    state.observe(ChildState { code: Some(2), last_error, ..running() }, 0.0, 0);
    let text = format!("{}", screen(&state, MONO, 80, 24).backend());
    assert!(
        text.contains("failed: the run ended with exit code 2: error: no such file: data.txt"),
        "{text}"
    );
    assert!(text.contains("FAILED (2)"), "{text}");
}

#[test]
fn a_run_that_is_silent_is_called_stale() {
    let mut state = in_the_middle();
    state.observe(running(), 4.0, 0);
    assert!(format!("{}", screen(&state, MONO, 80, 24).backend()).contains("LIVE"));
    state.observe(running(), 12.0, 0);
    let text = format!("{}", screen(&state, MONO, 80, 24).backend());
    assert!(text.contains("STALE 12 s") && text.contains("process 41233 is alive"), "{text}");
}

#[test]
fn a_loss_that_is_no_number_is_seen() {
    let mut events = log();
    for event in &mut events {
        if let Event::Step(step) = event
            && (60..64).contains(&step.step)
        {
            step.loss = f32::NAN;
        }
    }
    events.pop();
    let text = format!("{}", screen(&state_of(&events), MONO, 100, 30).backend());
    assert!(text.contains("4 not finite") && text.contains('!'), "{text}");
}

#[test]
fn detaching_and_stopping_are_asked_about_only_where_they_mean_something() {
    let mut found = State::new(running(), false);
    assert_eq!(found.act(Action::Quit), Some(Effect::Detach));
    let mut launched = State::new(running(), true);
    assert_eq!(launched.act(Action::Quit), None);
    assert_eq!(launched.act(Action::Choose(Choice::Detach)), Some(Effect::Detach));
    launched.act(Action::Quit);
    assert_eq!(
        launched.act(Action::Choose(Choice::StopAndLeave)),
        Some(Effect::Stop { then_leave: true })
    );
    // The run ends while the question stands: nobody is there to be stopped.
    launched.act(Action::Stop);
    launched.observe(ChildState { code: Some(0), ..running() }, 0.0, 0);
    assert_eq!(launched.act(Action::Choose(Choice::Kill)), None);
}

/// Sixteen ranks in two replicas: what does not fit is scrolled to.
#[test]
fn many_ranks_scroll() {
    let mut events = log();
    let Event::Hello(hello) = &mut events[0] else { panic!("hello first") };
    (hello.pp, hello.dp, hello.virtual_stages) = (8, 2, 2);
    let mut state = state_of(&events[..events.len() - 1]);
    let first = format!("{}", screen(&state, MONO, 80, 24).backend());
    assert!(first.contains("1 to 4 of 16"), "{first}");
    (0..100).for_each(|_| assert_eq!(state.act(Action::Scroll(1)), None));
    let last = format!("{}", screen(&state, MONO, 80, 24).backend());
    assert!(last.contains("13 to 16 of 16") && last.contains("7.1"), "{last}");
}

/// All actions that change what is shown.
fn actions() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        Action::Quit,
        Action::Stop,
        Action::Help,
        Action::Back,
        Action::Freeze,
        Action::StepBy(-1),
        Action::StepBy(10),
        Action::NewestStep,
        Action::ZoomIn,
        Action::ZoomOut,
        Action::ZoomFit,
        Action::Pan(1.0),
        Action::Scroll(1),
        Action::Scroll(-1),
        Action::Choose(Choice::Stop),
        Action::Choose(Choice::Cancel),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// No size, no part of the log and no sequence of keys breaks the drawing.
    #[test]
    fn any_size_can_be_drawn(
        width in 0_u16..=200,
        height in 0_u16..=60,
        share in 0.0..=1.0_f64,
        actions in prop::collection::vec(actions(), 0..12),
        ascii in any::<bool>(),
        colour in any::<bool>(),
        code in prop::option::of(0..3_i32),
        silent_seconds in 0.0..100.0_f64,
    ) {
        let events = log();
        #[expect(clippy::cast_sign_loss, reason = "a share is not negative")]
        let n_events = (events.len() as f64 * share) as usize;
        let mut state = state_of(&events[..n_events]);
        state.apply(&Event::Warn(Warn { message: "wide 漢字 and \u{1b}[31m\t\u{7}".to_owned(), ..Warn::default() }));
        state.observe(ChildState { code, ..running() }, silent_seconds, 0);
        for action in actions {
            state.act(action);
            screen(&state, Theme::plain(colour, ascii), width, height);
        }
        screen(&state, Theme::plain(colour, ascii), width, height);
    }
}

/// Small sizes one by one: that is where cells go below zero.
#[test]
fn every_small_size_can_be_drawn() {
    let mut state = in_the_middle();
    for overlay in [None, Some(Action::Help), Some(Action::Quit)] {
        overlay.map(|action| state.act(action));
        for (width, height) in (0..=24).flat_map(|width| (0..=9).map(move |height| (width, height)))
        {
            screen(&state, ASCII, width, height);
        }
        for (width, height) in
            [(60, 16), (59, 16), (60, 15), (140, 40), (139, 40), (200, 1), (1, 60), (200, 60)]
        {
            screen(&state, MONO, width, height);
        }
    }
}
