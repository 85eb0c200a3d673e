//! What the tests of the screens share: a recorded run, a monitor that has read it, and what it
//! draws.
//!
//! The log is a simulated 1F1B on four ranks with eight micro-batches, 120 steps; it comes from
//! `cargo run -p pp-telemetry --example simulated_run`.

use std::sync::LazyLock;

use pp_schedule::{Costs, Phase, Pipe, ScheduleName, Sizes, ValidPlan, simulate};
use pp_telemetry::{Event, Hello, Line, LineSplitter, Span, SpanKind, StageInfo};
use pptop::monitor::{Action, ChildState, State, Theme, View, draw};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

pub(crate) const COLOUR: Theme = Theme::plain(true, false);
pub(crate) const MONO: Theme = Theme::plain(false, false);
pub(crate) const ASCII: Theme = Theme::plain(false, true);

static RECORDED: LazyLock<Vec<Event>> = LazyLock::new(|| {
    let mut events = Vec::new();
    let bytes = include_bytes!("../fixtures/one_f_one_b_p4_m8.jsonl");
    LineSplitter::new().push(bytes, |line| match Event::parse(line).unwrap() {
        Line::Event(event) => events.push(event),
        Line::Unknown => panic!("the fixture has an unknown kind"),
    });
    events
});

/// The recorded run to its end.
pub(crate) fn whole_log() -> Vec<Event> {
    RECORDED.clone()
}

/// The recorded run while it still goes on: all but the last event.
pub(crate) fn log() -> Vec<Event> {
    let mut events = whole_log();
    assert!(matches!(events.pop(), Some(Event::End(_))), "the end comes last");
    events
}

/// The recorded run after step 100.
pub(crate) fn hundred_steps() -> Vec<Event> {
    let mut events = log();
    let is_last = |event: &Event| matches!(event, Event::Step(step) if step.step == 100);
    let end = events.iter().position(is_last).unwrap();
    events.truncate(end + 1);
    events
}

/// A part of step 101 in spans that are like those of step 100: the log keeps the spans of some
/// steps only.
pub(crate) fn part_of_the_next_step(events: &[Event]) -> Vec<Event> {
    let next = events.iter().filter_map(|event| match event {
        Event::Span(span) if span.step == 100 => {
            Some(Event::Span(Span { step: 101, start_ns: span.start_ns + 424_000_000, ..*span }))
        }
        _ => None,
    });
    next.take(70).collect()
}

/// B3 of rank 2 takes half as long again in step 100, and has no core for a third of that.
pub(crate) fn slow_down_one_backward(events: &mut [Event]) {
    for event in events {
        if let Event::Span(span) = event
            && (span.step, span.rank, span.op, span.mb) == (100, 2, SpanKind::B, 3)
        {
            span.dur_ns = span.dur_ns * 3 / 2;
            span.starved_ns = span.dur_ns / 3;
        }
    }
}

/// Each rank of the fixture several times: `pp` ranks in `dp` replicas, each replica a little later
/// than the one before.
pub(crate) fn copied(pp: u32, dp: u32) -> Vec<Event> {
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

/// A run that is simulated: the fixture's events with the spans of another plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Play {
    pub(crate) pp: u32,
    pub(crate) schedule: ScheduleName,
    pub(crate) virtual_stages: u32,
    /// A rank, and how many times as long as the others it takes.
    pub(crate) slow: Option<(u32, f64)>,
    /// The share of every operation for which it has no core.
    pub(crate) starved: f64,
    pub(crate) cores: u32,
}

impl Play {
    pub(crate) const PLAIN: Self = Self {
        pp: 4,
        schedule: ScheduleName::OneFOneB,
        virtual_stages: 1,
        slow: None,
        starved: 0.0,
        cores: 8,
    };

    pub(crate) fn events(self) -> Vec<Event> {
        let sizes = Sizes {
            n_ranks: self.pp,
            n_micro_batches: 8,
            n_virtual_stages: self.virtual_stages,
            interleave_group: None,
        };
        let plan = self.schedule.generate(&sizes).unwrap();
        let n_stages = plan.n_stages();
        let ms = 12e6 / f64::from(self.virtual_stages);
        let mut costs = Costs::uniform(n_stages, ms, ms, ms, 500e3);
        let topology = plan.topology();
        for (stage, rank) in topology.ranks(Pipe(0)).iter().enumerate() {
            let factor = self.slow.filter(|slow| slow.0 == rank.0).map_or(1.0, |slow| slow.1);
            costs.forward[stage] *= factor;
            costs.input_grad[stage] *= factor;
            costs.weight_grad[stage] *= factor;
        }
        let mut events = log();
        events.retain(|event| match event {
            Event::Span(_) => false,
            Event::Mem(memory) => memory.rank < self.pp,
            _ => true,
        });
        let hello = hello_of(&mut events);
        let stages = topology.ranks(Pipe(0)).iter().enumerate().map(|(stage, rank)| {
            let of_four = &hello.stages[stage % hello.stages.len()];
            let first = 3 * stage as u32;
            StageInfo {
                stage: stage as u32,
                rank: rank.0,
                layers: Some([first, first + 2]),
                ..of_four.clone()
            }
        });
        hello.stages = stages.collect();
        hello.device_map.retain(|device| device.rank < self.pp);
        (hello.pp, hello.virtual_stages, hello.cores) = (self.pp, self.virtual_stages, self.cores);
        self.schedule.as_str().clone_into(&mut hello.schedule);
        hello.plan = plan.to_text_rows();
        self.put_spans(&plan, &costs, &mut events);
        events
    }

    fn put_spans(self, plan: &ValidPlan, costs: &Costs, events: &mut Vec<Event>) {
        let simulation = simulate(plan, costs).unwrap();
        let mut spans = Vec::new();
        for (rank, row) in (0..).zip(simulation.timeline(plan, costs)) {
            let mut free_ns = 0;
            for timed in row {
                let op = timed.action.ops().next().unwrap();
                #[expect(clippy::cast_sign_loss, reason = "times are not negative")]
                let (start_ns, end_ns) = (timed.start as u64, timed.end as u64);
                #[expect(clippy::cast_sign_loss, reason = "a share is not negative")]
                let starved_ns = ((end_ns - start_ns) as f64 * self.starved) as u64;
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
        for step in [1, 20, 40, 60, 80, 100, 120] {
            let is_its = |event: &Event| matches!(event, Event::Step(found) if found.step == step);
            let at = events.iter().position(is_its).unwrap();
            if let Event::Step(found) = &mut events[at] {
                found.seconds = simulation.makespan * 1e-9 + 0.004;
            }
            let began_ns = step * 1_000_000_000;
            let its = spans.iter().map(|span| {
                Event::Span(Span { step, start_ns: began_ns + span.start_ns, ..*span })
            });
            events.splice(at..at, its.collect::<Vec<_>>());
        }
        for event in events {
            if let Event::Step(step) = event {
                step.bubble_ratio = simulation.bubble_ratio;
                step.starved_ratio = self.starved * (1.0 - simulation.bubble_ratio);
                step.seconds = simulation.makespan * 1e-9 + 0.004;
            }
        }
    }
}

pub(crate) fn hello_of(events: &mut [Event]) -> &mut Hello {
    let Event::Hello(hello) = &mut events[0] else { panic!("hello first") };
    hello
}

pub(crate) fn running() -> ChildState {
    ChildState { pid: 41233, ..ChildState::default() }
}

/// A monitor that started its run, after these events.
pub(crate) fn state_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> State {
    let mut state = State::new(running(), true);
    events.into_iter().for_each(|event| state.apply(event));
    state
}

/// The same with a view, after some keys that ask nothing of the program around it.
pub(crate) fn state_in<'a>(
    view: View,
    events: impl IntoIterator<Item = &'a Event>,
    actions: &[Action],
) -> State {
    let mut state = state_of(events);
    state.act(Action::Show(view));
    state.refresh_bubble();
    for action in actions {
        assert_eq!(state.act(*action), None);
    }
    state
}

pub(crate) fn screen(
    state: &State,
    theme: Theme,
    width: u16,
    height: u16,
) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, theme)).unwrap();
    terminal
}

/// What can be read without colours.
pub(crate) fn text(state: &State, width: u16, height: u16) -> String {
    screen(state, MONO, width, height).backend().to_string()
}

/// Compares a screen with its picture in `snapshots`; wants `screen` in scope, so that a picture
/// tells how it was made.
macro_rules! assert_screen {
    ($name:literal, $state:expr, $theme:expr, $width:literal, $height:literal) => {
        insta::assert_snapshot!($name, screen($state, $theme, $width, $height).backend());
    };
}
pub(crate) use assert_screen;
