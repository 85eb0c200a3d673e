//! Nothing breaks a screen: no size, no moment of a run, no number in its log, no sequence of keys
//! and clicks.

use std::time::Duration;

use pp_telemetry::{Event, Gpu, Log, Warn};
use pptop::monitor::{Action, ChildState, Choice, Playback, State, Theme, View, target};
use proptest::prelude::*;
use ratatui::layout::Rect;

use super::common::{
    ASCII, MONO, copied, hello_of, log, running, screen, state_in, state_of, whole_log,
};
use super::{bubble, devices, log as messages, loss, screens};

const LEFT: Action = Action::Pan(-1.0);
const RIGHT: Action = Action::Pan(1.0);
const FIRST: Action = Action::Edge { last: false };
const LAST: Action = Action::Edge { last: true };

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Run {
    Whole,
    Recorded,
    Copied(u32, u32),
    SlowAndStarved,
    /// On GPUs, where the greeting says so many ranks and replicas.
    OnGpus(u32, u32),
    Eventful,
    Talkative,
}

impl Run {
    fn events(self) -> Vec<Event> {
        match self {
            Self::Whole => whole_log(),
            Self::Recorded => log(),
            Self::Copied(pp, dp) => copied(pp, dp),
            Self::SlowAndStarved => bubble::played(1.4, 0.2),
            Self::OnGpus(pp, dp) => {
                let mut events = devices::on_gpus();
                let hello = hello_of(&mut events);
                (hello.pp, hello.dp) = (pp, dp);
                events
            }
            Self::Eventful => loss::eventful(),
            Self::Talkative => messages::talkative(),
        }
    }

    /// Those that show the most in a view.
    fn of_view(view: View) -> &'static [Self] {
        match view {
            View::Overview => &[Self::Whole],
            View::Timeline => &[Self::Recorded, Self::Copied(8, 2)],
            View::Devices => &[
                Self::OnGpus(4, 1),
                Self::OnGpus(16, 1),
                Self::OnGpus(8, 2),
                Self::OnGpus(1, 3),
                Self::OnGpus(0, 0),
            ],
            View::Loss => &[Self::Eventful],
            View::Bubble => {
                &[Self::Recorded, Self::Copied(4, 2), Self::Copied(8, 2), Self::SlowAndStarved]
            }
            View::Log => &[Self::Talkative],
        }
    }
}

/// The keys that a view is there for.
fn keys_of_view(view: View) -> Vec<Action> {
    let own = match view {
        View::Overview => &[
            Action::Quit,
            Action::Stop,
            Action::Choose(Choice::Stop),
            Action::Answer(1),
            Action::Answer(-1),
            Action::Accept,
            Action::Choose(Choice::Cancel),
            Action::StepBy(-1),
            Action::StepBy(10),
            Action::NewestStep,
            Action::ZoomIn,
            Action::ZoomOut,
            Action::ZoomFit,
            RIGHT,
            Action::Scroll(1),
            Action::Scroll(-1),
        ][..],
        View::Timeline => &[
            Action::Mode,
            Action::Enter,
            Action::Enter,
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
            Action::Scroll(1),
            Action::Scroll(-1),
            Action::Page(1),
            FIRST,
            LAST,
        ],
        View::Devices => &[
            Action::Sort,
            Action::Enter,
            Action::Full,
            Action::Page(1),
            Action::Page(-1),
            FIRST,
            LAST,
        ],
        View::Loss => &[
            Action::Metric,
            Action::Metric,
            Action::Range,
            Action::LogScale,
            Action::Enter,
            Action::Scroll(1),
            LEFT,
        ],
        View::Bubble => &[
            Action::Definition,
            Action::Scroll(1),
            Action::Scroll(-1),
            Action::Page(1),
            FIRST,
            LAST,
        ],
        View::Log => &[
            Action::Warnings,
            Action::Filter,
            Action::Type('E'),
            Action::Type('漢'),
            Action::Type(' '),
            Action::Erase,
            Action::Accept,
            Action::Page(-1),
            Action::Page(1),
            FIRST,
            LAST,
        ],
    };
    [own, &[Action::Show(view), Action::Help, Action::Back, Action::Freeze]].concat()
}

/// The keys that are about no view, or about all.
fn other_keys() -> Vec<Action> {
    let keys = [
        Action::GoTo,
        Action::Type('1'),
        Action::Panel(1),
        Action::Panel(-1),
        Action::Full,
        Action::Speed(1),
        Action::Speed(-1),
        Action::Loop,
        Action::Run(1),
    ];
    keys.into_iter().chain(View::ALL.map(Action::Show)).chain(View::ALL.map(Action::Show)).collect()
}

/// The keys of a view, mostly, and any.
fn actions(view: View) -> impl Strategy<Value = Action> {
    let any: Vec<Action> =
        View::ALL.into_iter().flat_map(keys_of_view).chain(other_keys()).collect();
    prop_oneof![
        4 => prop::sample::select(keys_of_view(view)),
        3 => prop::sample::select(any),
        1 => (-20_isize..20).prop_map(Action::Scroll),
    ]
}

/// A view, a run, and what is done: pairs of a key and a place that is clicked.
type Use = (View, Run, Vec<(Action, (u16, u16))>);

fn uses() -> impl Strategy<Value = Use> {
    let runs: Vec<Run> = View::ALL.into_iter().flat_map(Run::of_view).copied().collect();
    prop::sample::select(&View::ALL[..]).prop_flat_map(move |view| {
        let run = prop_oneof![
            3 => prop::sample::select(Run::of_view(view)),
            2 => prop::sample::select(runs.clone()),
        ];
        let place = (0_u16..200, 0_u16..60);
        (Just(view), run, prop::collection::vec((actions(view), place), 0..16))
    })
}

/// Times and sizes of spans that no run has.
fn spoil_spans(events: &mut [Event], extreme: u64) {
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

/// Numbers of steps that no run has, or at most a bad one.
fn spoil_steps(events: &mut [Event], extreme: f32) {
    for event in events {
        if let Event::Step(step) = event
            && step.step % 3 == 0
        {
            step.loss = Some(extreme);
            step.seconds = f64::from(extreme);
            step.grad_norm = Some(f64::from(extreme).powi(9));
            step.bubble_ratio = f64::from(extreme).powi(7);
        }
    }
}

/// Words in any script, with what a terminal would obey, and a GPU that says impossible things.
fn foreign_words() -> impl Strategy<Value = Vec<Event>> {
    const HOSTILE: &str = "wide 漢字 and \u{1b}[31m\t\u{7}";
    let warn = Event::Warn(Warn { message: HOSTILE.to_owned(), ..Warn::default() });
    let gpu = Event::Gpu(Box::new(Gpu {
        uuid: devices::uuid(0),
        error: Some(HOSTILE.to_owned()),
        utilisation: Some(f64::NAN),
        power_watts: Some(f64::INFINITY),
        temperature_celsius: Some(-1e300),
        ..Gpu::default()
    }));
    let message = (any::<u64>(), "\\PC{0,80}|.{0,300}").prop_map(|(elapsed_ns, message)| {
        Event::Log(Log { elapsed_ns, message, ..Log::default() })
    });
    let messages = prop::collection::vec(message, 0..20);
    (prop::sample::subsequence(vec![warn, gpu], 0..=2), messages)
        .prop_map(|(first, then)| [first, then].concat())
}

fn part(events: &[Event], share: f64) -> &[Event] {
    &events[..(events.len() as f64 * share) as usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_view_of_any_size_can_be_drawn(
        (width, height) in (0_u16..=200, 0_u16..=60),
        (ascii, colour) in any::<(bool, bool)>(),
        (view, run, actions) in uses(),
        share in prop_oneof![4 => 0.0..=1.0_f64, 1 => Just(1.0)],
        spans in prop::option::of(prop::sample::select(vec![0, 1, u64::MAX, u64::MAX / 2])),
        steps in prop::option::of(prop::sample::select(vec![
            f32::MAX, f32::MIN, f32::MIN_POSITIVE, 0.0, -0.0, f32::NAN, f32::NEG_INFINITY, 1e-30, 3.0,
        ])),
        refreshes in any::<bool>(),
        foreign in prop::option::weighted(0.6, foreign_words()),
        playback in prop::option::of((0.0..1e6_f64, 0.0..1e6_f64, any::<bool>(), any::<bool>())),
        code in prop::option::of(0..3_i32),
        silent_seconds in 0.0..100.0_f64,
    ) {
        let mut events = run.events();
        spans.inspect(|extreme| spoil_spans(&mut events, *extreme));
        steps.inspect(|extreme| spoil_steps(&mut events, *extreme));
        let mut state = state_of(part(&events, share));
        // Other views than the log show such words as they are, and so does a prompt.
        let is_plain = ascii
            && foreign.is_none()
            && run != Run::Talkative
            && !actions.iter().any(|(action, _)| matches!(action, Action::Type(c) if !c.is_ascii()));
        foreign.iter().flatten().for_each(|event| state.apply(event));
        if let Some((seconds, whole_seconds, is_at_end, is_loop)) = playback {
            let playback = Playback { seconds, whole_seconds, is_at_end, ..Playback::new(4.0, is_loop) };
            state = state.replayed(playback);
        }
        state.observe(ChildState { code, ..running() }, silent_seconds, 0);
        state.act(Action::Show(view));
        let theme = Theme::plain(colour, ascii);
        let draw = |state: &State| -> Result<(), TestCaseError> {
            let drawn = screen(state, theme, width, height);
            let other = drawn.backend().buffer().content.iter().find(|cell| !cell.symbol().is_ascii());
            prop_assert!(!is_plain || other.is_none(), "{:?}", other);
            Ok(())
        };
        draw(&state)?;
        let mut now = Duration::ZERO;
        state.set_out_of_reach(spans.is_some().then(|| "it runs on elsewhere; end it there".to_owned()));
        for (action, (x, y)) in actions {
            now += Duration::from_millis(u64::from(x) * 10);
            state.set_now(now);
            state.act(action);
            if refreshes {
                state.refresh_bubble();
            }
            draw(&state)?;
            if let Some(target) = target(&state, Rect::new(0, 0, width, height), x, y) {
                state.point_at(target);
            }
        }
        draw(&state)?;
    }
}

/// What a screen without cells has once stumbled over.
#[test]
fn no_size_at_all_can_be_drawn() {
    screen(&state_in(View::Loss, &[], &[]), MONO, 0, 0);
    let mut events = log();
    spoil_spans(&mut events, u64::MAX);
    let mut state = state_in(View::Timeline, part(&events, 0.785_615_075_208_467_5), &[]);
    for action in [LEFT, Action::Scroll(1)] {
        state.act(action);
        screen(&state, MONO, 0, 0);
    }
}

/// Small sizes one by one: that is where cells go below zero.
#[test]
fn every_small_size_can_be_drawn() {
    let mut state = screens::in_the_middle();
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
