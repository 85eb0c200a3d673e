//! The overview and what lies over it, as text, for a recorded run at frozen moments and sizes.

use pp_telemetry::{End, Event};
use pptop::monitor::{Action, ChildState, Choice, Effect, State};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::common::{
    ASCII, COLOUR, MONO, assert_screen, hello_of, hundred_steps, log, part_of_the_next_step,
    running, screen, state_of, text, whole_log,
};

/// The run after step 100, in the middle of the next.
pub(crate) fn in_the_middle() -> State {
    let mut events = hundred_steps();
    events.extend(part_of_the_next_step(&events));
    state_of(&events)
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
    let mut events = whole_log();
    hello_of(&mut events).cores = 2;
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
    events[middle..].iter().for_each(|event| state.apply(event));
    assert_eq!(screen(&state, MONO, 80, 24).backend().buffer(), &before);
    assert!(text(&state, 80, 24).contains("FROZEN"));
    state.act(Action::Freeze);
    let caught_up = state_of(&events);
    assert_eq!(screen(&state, MONO, 80, 24).backend(), screen(&caught_up, MONO, 80, 24).backend());
}

#[test]
fn a_run_that_has_ended_waits_to_be_seen() {
    let mut state = state_of(&whole_log());
    state.observe(ChildState { code: Some(0), ..running() }, 60.0, 0);
    assert_screen!("ended_80x24", &state, MONO, 80, 24);
    assert_eq!(state.act(Action::Quit), Some(Effect::Leave));
}

#[test]
fn a_run_that_has_failed_says_where_and_why() {
    let mut events = whole_log();
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
    let text = text(&state, 80, 24);
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
    assert!(text(&state, 80, 24).contains("LIVE"));
    state.observe(running(), 12.0, 0);
    let text = text(&state, 80, 24);
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
    let text = text(&state_of(&events), 100, 30);
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
    let hello = hello_of(&mut events);
    (hello.pp, hello.dp, hello.virtual_stages) = (8, 2, 2);
    let mut state = state_of(&events);
    let first = text(&state, 80, 24);
    assert!(first.contains("1 to 4 of 16"), "{first}");
    (0..100).for_each(|_| assert_eq!(state.act(Action::Scroll(1)), None));
    let last = text(&state, 80, 24);
    assert!(last.contains("13 to 16 of 16") && last.contains("7.1"), "{last}");
}
