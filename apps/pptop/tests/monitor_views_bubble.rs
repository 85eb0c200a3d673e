//! The view of the bubble, as text, for a recorded run at frozen moments and sizes; then all views at any size.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pp_schedule::{Costs, Phase, ScheduleName, Sizes, simulate};
use pp_telemetry::{Event, Line, LineSplitter, Span, SpanKind};
use pptop::monitor::{Action, ChildState, Choice, Playback, State, Theme, View, draw};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const LOG: &[u8] = include_bytes!("fixtures/one_f_one_b_p4_m8.jsonl");
const COLOUR: Theme = Theme::plain(true, false);
const MONO: Theme = Theme::plain(false, false);
const ASCII: Theme = Theme::plain(false, true);

const RIGHT: Action = Action::Pan(1.0);

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

fn state_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> State {
    let running = ChildState { pid: 41233, ..ChildState::default() };
    let mut state = State::new(running, true);
    events.into_iter().for_each(|event| state.apply(event));
    state.act(Action::Show(View::Bubble));
    state.refresh_bubble();
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

/// The fixture's run with other spans: its plan played through, where rank 2 takes so many times as long as the others and every
/// operation loses a part of its time for want of a core.
fn played(slower: f64, starved: f64) -> Vec<Event> {
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

/// Each rank of the fixture four times: `pp` ranks in `dp` replicas, the second a little later.
fn copied(pp: u32, dp: u32) -> Vec<Event> {
    let mut events = Vec::new();
    for event in log() {
        match event {
            Event::Hello(mut hello) => {
                (hello.pp, hello.dp) = (pp, dp);
                let of_four = hello.stages.clone();
                for by in (4..pp).step_by(4) {
                    hello.stages.extend(of_four.iter().cloned().map(|mut stage| {
                        stage.stage += by;
                        stage.rank += by;
                        stage
                    }));
                }
                let sizes = Sizes {
                    n_ranks: pp,
                    n_micro_batches: 8,
                    n_virtual_stages: 1,
                    interleave_group: None,
                };
                let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
                hello.plan = plan.to_text_rows();
                events.push(Event::Hello(hello));
            }
            Event::Span(span) => {
                for (replica, by) in
                    (0..dp).flat_map(|replica| (0..pp).step_by(4).map(move |by| (replica, by)))
                {
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
    let Event::Hello(hello) = &mut events[0] else { panic!("hello first") };
    hello.plan.clear();
    let text = text(&state_of(&events), 80, 24);
    assert!(text.contains("the log does not say what the plan is"), "{text}");
}

fn actions() -> impl Strategy<Value = Action> {
    let mut all = vec![
        Action::Quit,
        Action::Stop,
        Action::Help,
        Action::GoTo,
        Action::Filter,
        Action::Type('1'),
        Action::Type('漢'),
        Action::Erase,
        Action::Accept,
        Action::Back,
        Action::Panel(1),
        Action::Panel(-1),
        Action::Enter,
        Action::Full,
        Action::Freeze,
        Action::StepBy(-1),
        Action::StepBy(10),
        Action::NewestStep,
        Action::ZoomIn,
        Action::ZoomOut,
        Action::ZoomFit,
        Action::Pan(-1.0),
        RIGHT,
        Action::Scroll(1),
        Action::Scroll(-1),
        Action::Page(1),
        Action::Edge { last: true },
        Action::Edge { last: false },
        Action::Mode,
        Action::Sort,
        Action::Definition,
        Action::Speed(1),
        Action::Speed(-1),
        Action::Loop,
        Action::Run(1),
        Action::Choose(Choice::Stop),
        Action::Choose(Choice::Cancel),
    ];
    all.extend(View::ALL.map(Action::Show));
    all.extend(View::ALL.map(Action::Show));
    prop::sample::select(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// No view, no size, no part of the log and no sequence of keys breaks the drawing.
    #[test]
    fn any_view_of_any_size_can_be_drawn(
        width in 0_u16..=200,
        height in 0_u16..=60,
        share in 0.0..=1.0_f64,
        view in prop::sample::select(&View::ALL[..]),
        actions in prop::collection::vec(actions(), 0..14),
        ascii in any::<bool>(),
        colour in any::<bool>(),
        which in 0..4,
        playback in prop::option::of((0.0..1e6_f64, 0.0..1e6_f64, any::<bool>(), any::<bool>())),
        code in prop::option::of(0..3_i32),
        silent_seconds in 0.0..100.0_f64,
        extreme in prop::option::of(prop::sample::select(vec![0, 1, u64::MAX, u64::MAX / 2])),
    ) {
        let mut events = match which {
            0 => log(),
            1 => copied(8, 2),
            2 => copied(4, 2),
            _ => played(1.4, 0.2),
        };
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
        let mut state = state_of(&events[..n_events]);
        if let Some((seconds, whole_seconds, is_at_end, is_loop)) = playback {
            let playback = Playback { seconds, whole_seconds, is_at_end, ..Playback::new(4.0, is_loop) };
            state = state.replayed(playback);
        }
        let child = ChildState { pid: 41233, code, ..ChildState::default() };
        state.observe(child, silent_seconds, 0);
        state.act(Action::Show(view));
        screen(&state, Theme::plain(colour, ascii), width, height);
        for action in actions {
            state.act(action);
            state.refresh_bubble();
            screen(&state, Theme::plain(colour, ascii), width, height);
        }
    }
}
