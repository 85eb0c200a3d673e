//! The overview and what lies over it, as text, for a recorded run at frozen moments and sizes.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use pp_telemetry::{End, Event, Request};
use pptop::monitor::{Action, ChildState, Choice, Effect, State, Target, target};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Rect;

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
    state.set_now(Duration::from_millis(300));
    state.act(Action::Back);
    state.act(Action::Stop);
    assert_screen!("stop_80x24", &state, MONO, 80, 24);
    assert_eq!(answer(&mut state, Choice::Stop), Some(Effect::Stop { then_leave: false }));
    assert_screen!("stopping_80x24", &state, MONO, 80, 24);
}

/// Chooses an answer of a question that has been open for a while, and takes it.
fn answer(state: &mut State, choice: Choice) -> Option<Effect> {
    state.set_now(Duration::MAX);
    assert_eq!(state.act(Action::Choose(choice)), None);
    let effect = state.act(Action::Accept);
    state.set_now(Duration::ZERO);
    effect
}

#[test]
fn a_run_that_is_not_proven_cannot_be_ended() {
    let mut state = in_the_middle();
    state.set_out_of_reach(Some(
        "status.json names process 41233, but process 7 listens at its socket; nothing is sent"
            .to_owned(),
    ));
    state.act(Action::Stop);
    assert_screen!("out_of_reach_80x24", &state, MONO, 80, 24);
    assert_screen!("out_of_reach_30x9", &state, MONO, 30, 9);
    for choice in [Choice::Stop, Choice::Kill, Choice::Checkpoint, Choice::CheckpointAndStop] {
        state.act(Action::Stop);
        assert_eq!(answer(&mut state, choice), None, "{choice:?}");
    }
}

/// Feeds keys as a terminal without bracketed paste does: all at once, `every` apart.
fn paste_as_keys(state: &mut State, text: &str, every: Duration) -> Vec<Effect> {
    let mut now = Duration::from_secs(5);
    let mut effects = Vec::new();
    for letter in text.chars() {
        let code = if letter == '\n' { KeyCode::Enter } else { KeyCode::Char(letter) };
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        state.set_now(now);
        effects.extend(state.press(key));
        now += every;
    }
    effects
}

#[test]
fn pasted_text_ends_no_run() {
    for launched_here in [false, true] {
        for text in ["fix this", "x\ns\n", "q\ns\n", "x\nk\n", "xs\n", "qs\n", "x\tk\n\n"] {
            let start = || {
                let mut state = State::new(running(), launched_here);
                for event in &hundred_steps() {
                    state.apply(event);
                }
                state
            };
            // Bracketed, it is dropped.
            let mut state = start();
            state.paste(text);
            assert!(text_of_note(&state).contains("pasted text is ignored"), "{text:?}");
            // As keys, nothing is sent to the run, and nothing is answered.
            for every in [0, 1, 40] {
                let mut state = start();
                let effects = paste_as_keys(&mut state, text, Duration::from_millis(every));
                let is_harmless = |effect: &Effect| {
                    matches!(effect, Effect::Detach | Effect::Snapshot | Effect::Redraw)
                };
                assert!(effects.iter().all(is_harmless), "{text:?} every {every} ms: {effects:?}");
                assert!(!text_of_note(&state).contains("asked to end"), "{text:?}");
            }
        }
    }
}

fn text_of_note(state: &State) -> String {
    text(state, 80, 24)
}

#[test]
fn a_prompt_takes_the_first_line_of_what_is_pasted() {
    let mut state = in_the_middle();
    state.act(Action::Filter);
    state.paste("\n wai\u{1b}[31mting\u{7} \nx\ns\n");
    let drawn = text(&state, 80, 24);
    assert!(drawn.contains("search /wai[31mting"), "{drawn}");
    state.act(Action::Back);
    state.act(Action::Filter);
    state.paste(&"long".repeat(1000));
    let drawn = text(&state, 200, 24);
    let typed = drawn.lines().find(|line| line.contains("search /")).unwrap();
    assert_eq!(typed.matches("long").count(), 20, "{drawn}");
}

/// The answer is chosen by a click or a key, and only Enter takes it, and only when the question
/// has been there for a while.
#[test]
fn a_question_is_answered_by_enter_alone() {
    let (early, late) = (Duration::from_millis(299), Duration::from_millis(300));
    let ask = || {
        let mut state = in_the_middle();
        state.set_now(Duration::ZERO);
        state.act(Action::Stop);
        state
    };
    let mut state = ask();
    state.set_now(early);
    for action in [Action::Accept, Action::Back, Action::Answer(1), Action::Choose(Choice::Kill)] {
        assert_eq!(state.act(action), None);
    }
    state.point_at(Target::Answer(2));
    state.set_now(late);
    // It is still there, and on Cancel.
    assert!(text(&state, 80, 24).contains("▸ c  cancel"));
    state.act(Action::Accept);
    assert!(!text(&state, 80, 24).contains("end the run?"));
    // A click chooses.
    let mut state = ask();
    state.set_now(late);
    let drawn = text(&state, 80, 24);
    let row = drawn.lines().position(|line| line.contains("s  stop: end the run")).unwrap();
    let area = Rect::new(0, 0, 80, 24);
    let found = target(&state, area, 40, row as u16).unwrap();
    assert_eq!(found, Target::Answer(1));
    state.point_at(found);
    assert!(text(&state, 80, 24).contains("▸ s  stop"));
    assert_eq!(state.act(Action::Accept), Some(Effect::Stop { then_leave: false }));
    // Arrows and Tab go round, letters choose and do nothing else.
    for (actions, wanted) in [
        (&[Action::Answer(1)] as &[_], Some(Effect::Stop { then_leave: false })),
        (&[Action::Answer(-1)], Some(Effect::Kill)),
        (&[Action::Answer(1); 5], None),
        (&[Action::Choose(Choice::Checkpoint)], Some(Effect::Ask(Request::Checkpoint))),
        (&[Action::Choose(Choice::Kill), Action::Choose(Choice::Cancel)], None),
    ] {
        let mut state = ask();
        state.set_now(late);
        for action in actions {
            assert_eq!(state.act(*action), None);
        }
        assert_eq!(state.act(Action::Accept), wanted, "{actions:?}");
    }
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
    let below = |state: &State| -> Vec<String> {
        text(state, 80, 24).lines().skip(1).map(str::to_owned).collect()
    };
    let before = below(&state);
    events[middle..].iter().for_each(|event| state.apply(event));
    // The first line says how far the run has come meanwhile.
    assert_eq!(below(&state), before);
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
            step.loss = Some(f32::NAN);
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
    assert_eq!(answer(&mut launched, Choice::Detach), Some(Effect::Detach));
    launched.act(Action::Quit);
    let effect = answer(&mut launched, Choice::StopAndLeave);
    assert_eq!(effect, Some(Effect::Stop { then_leave: true }));
    // The run ends while the question is open, so there is no process to stop.
    launched.act(Action::Stop);
    launched.observe(ChildState { code: Some(0), ..running() }, 0.0, 0);
    assert_eq!(answer(&mut launched, Choice::Kill), None);
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
