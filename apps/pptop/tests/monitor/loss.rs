//! The view of the loss, as text, for a recorded run at frozen moments and sizes.

use pp_telemetry::{Event, Log};
use pptop::monitor::{Action, Effect, OtherRun, State, View};

use super::common::{ASCII, COLOUR, MONO, assert_screen, log, screen, state_in, text};

fn state_of(events: &[Event], actions: &[Action]) -> State {
    state_in(View::Loss, events, actions)
}

/// A run with steps whose loss is not finite, a spike, and two checkpoints.
pub(crate) fn eventful() -> Vec<Event> {
    let mut events = log();
    for event in &mut events {
        if let Event::Step(step) = event {
            match step.step {
                30..=33 => step.loss = Some(f32::NAN),
                70 => step.loss = Some(f32::INFINITY),
                50 => step.loss = Some(11.0),
                _ => {}
            }
            step.lr = Some(0.003 * (1.0 - 0.9 * step.step as f64 / 120.0));
        }
    }
    for step in [40, 80] {
        events.push(Event::Log(Log {
            message: format!("checkpoint of step {step} in run-1: 20.0 MB in 0.10 s"),
            step: (step == 80).then_some(step),
            ..Log::default()
        }));
    }
    events
}

#[test]
fn sizes() {
    let state = state_of(&log(), &[]);
    assert_screen!("loss_20x5", &state, MONO, 20, 5);
    assert_screen!("loss_40x12", &state, MONO, 40, 12);
    assert_screen!("loss_80x24", &state, MONO, 80, 24);
    assert_screen!("loss_100x30", &state, MONO, 100, 30);
    assert_screen!("loss_160x50", &state, MONO, 160, 50);
    assert_screen!("loss_240x70", &state, MONO, 240, 70);
}

#[test]
fn what_is_not_finite_stands_out_and_no_spike_is_lost() {
    let state = state_of(&eventful(), &[]);
    assert_screen!("loss_nonfinite_100x30", &state, MONO, 100, 30);
    assert_screen!("loss_nonfinite_40x12", &state, MONO, 40, 12);
    assert_screen!("loss_ascii_80x24", &state, ASCII, 80, 24);
}

#[test]
fn colours() {
    let state = state_of(&eventful(), &[]);
    insta::assert_debug_snapshot!(
        "loss_colour_60x16",
        screen(&state, COLOUR, 60, 16).backend().buffer()
    );
}

#[test]
fn a_logarithmic_axis_and_a_part_of_the_run() {
    let state = state_of(&eventful(), &[Action::LogScale]);
    assert_screen!("loss_log_80x24", &state, MONO, 80, 24);
    let state = state_of(&eventful(), &[Action::Range, Action::Range, Action::Range]);
    assert_screen!("loss_last_50_80x24", &state, MONO, 80, 24);
    let half = text(&state_of(&log(), &[Action::Range]), 80, 24);
    assert!(half.contains("last half"), "{half}");
}

#[test]
fn other_numbers_of_the_steps() {
    let with = |n: usize| state_of(&eventful(), &vec![Action::Metric; n]);
    assert_screen!("loss_validation_80x24", &with(1), MONO, 80, 24);
    assert_screen!("loss_learning_rate_80x24", &with(3), MONO, 80, 24);
    assert_screen!("loss_step_time_80x24", &with(4), MONO, 80, 24);
    assert_screen!("loss_bubble_80x24", &with(5), MONO, 80, 24);
    assert_screen!("loss_rate_80x24", &with(6), MONO, 80, 24);
    assert!(text(&with(2), 80, 24).contains("gradient norm"));
    assert!(text(&with(7), 80, 24).contains("training"));
}

#[test]
fn words_say_whether_it_learns() {
    let falling = text(&state_of(&log(), &[]), 100, 30);
    assert!(falling.contains("it learns"), "{falling}");
    let with_loss = |loss: fn(u64) -> f32| {
        let mut events = log();
        for event in &mut events {
            if let Event::Step(step) = event {
                step.loss = Some(loss(step.step));
            }
        }
        text(&state_of(&events, &[]), 100, 30)
    };
    let flat = with_loss(|_| 2.0);
    assert!(flat.contains("flat"), "{flat}");
    let rising = with_loss(|step| 2.0 + step as f32 * 0.01);
    assert!(rising.contains("gets worse"), "{rising}");
    let broken = with_loss(|step| if step > 100 { f32::NAN } else { 2.0 });
    assert!(broken.contains("not a number") && broken.contains("20 not finite"), "{broken}");
    let mut events = log();
    for event in &mut events {
        if let Event::Eval(eval) = event
            && eval.step > 60
        {
            eval.loss = 9.0;
        }
    }
    let overfits = text(&state_of(&events, &[]), 100, 30);
    assert!(overfits.contains("may overfit"), "{overfits}");
}

#[test]
fn what_is_below_zero_has_no_logarithm() {
    let mut events = log();
    for event in &mut events {
        match event {
            Event::Step(step) => step.loss = Some(-1.0),
            Event::Eval(eval) => eval.loss = -1.0,
            _ => {}
        }
    }
    let text = text(&state_of(&events, &[Action::LogScale]), 100, 30);
    assert!(text.contains("no log axis"), "{text}");
}

#[test]
fn a_cursor_shows_the_values_of_a_step() {
    let left = |n: usize| vec![Action::Pan(-1.0); n];
    let state = state_of(&log(), &left(30));
    assert_screen!("loss_cursor_80x24", &state, MONO, 80, 24);
    assert_screen!("loss_cursor_ascii_100x30", &state, ASCII, 100, 30);
    let screen = text(&state, 100, 30);
    for name in ["step 91", "loss ", "ema ", "lr ", "grad norm ", "val "] {
        assert!(screen.contains(name), "{name} is not in\n{screen}");
    }
    // A small screen has the values alone.
    assert!(text(&state, 60, 12).contains("step 91"), "{}", text(&state, 60, 12));
    // Of a step without a finite loss no number is made up.
    let state = state_of(&eventful(), &left(120 - 31 + 1));
    let screen = text(&state, 100, 30);
    assert!(screen.contains("step 31") && screen.contains("loss not finite"), "{screen}");
    // The key that goes back closes the cursor first.
    let mut state = state_of(&log(), &left(1));
    assert!(text(&state, 100, 30).contains("step 120"));
    state.act(Action::Back);
    assert!(text(&state, 100, 30).contains("it learns"));
}

/// The same run with losses that are higher and go on for longer.
fn other() -> OtherRun {
    let mut events = log();
    for event in &mut events {
        if let Event::Step(step) = event {
            step.loss = step.loss.map(|loss| loss + 0.8);
            step.step += 30;
        }
    }
    OtherRun::of("gpt-other", state_of(&events, &[]).model())
}

#[test]
fn two_runs_lie_over_each_other() {
    let mut state = state_of(&log(), &[]);
    state.lay_over(Some(other()));
    assert_screen!("loss_two_runs_80x24", &state, MONO, 80, 24);
    assert_screen!("loss_two_runs_ascii_100x30", &state, ASCII, 100, 30);
    let screen = text(&state, 100, 30);
    assert!(screen.contains("gpt-other (ema)") && screen.contains("150"), "{screen}");
    for _ in 0..20 {
        state.act(Action::Pan(-1.0));
    }
    assert_screen!("loss_two_runs_cursor_100x30", &state, MONO, 100, 30);
    for metric in 0..7 {
        for (width, height) in [(1, 1), (20, 5), (40, 12), (80, 24), (200, 60)] {
            let _ = text(&state, width, height);
        }
        assert_eq!(state.act(Action::Metric), None, "{metric}");
    }
    state.lay_over(None);
    assert!(!text(&state, 100, 30).contains("gpt-other"));
    assert_eq!(state.act(Action::Compare), Some(Effect::Compare));
}

/// The screen says in red what a log of any age shows: the loss diverges.
#[test]
fn a_loss_that_diverges_is_seen() {
    let mut events = log();
    for event in &mut events {
        if let Event::Step(step) = event
            && step.step > 60
        {
            step.loss = Some(8888.0);
            step.grad_norm = Some(1e13);
        }
    }
    let state = state_of(&events, &[]);
    assert_screen!("loss_diverges_80x24", &state, MONO, 80, 24);
    let overview = state_in(View::Overview, &events, &[]);
    assert_screen!("overview_diverges_100x34", &overview, MONO, 100, 34);
    let overview = screen(&overview, COLOUR, 80, 24);
    let buffer = overview.backend().buffer();
    let red = buffer.content.iter().filter(|cell| cell.fg == ratatui::style::Color::Red);
    let red: String = red.map(ratatui::buffer::Cell::symbol).collect();
    assert!(red.contains("diverging"), "{red}");
    let log = text(&state_in(View::Log, &events, &[]), 160, 24);
    assert!(log.contains("the loss diverges: 8888 at step 61"), "{log}");
}
