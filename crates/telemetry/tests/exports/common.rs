//! What the tests of the exports share: runs of many kinds, what a format makes of them, and what
//! it has to tell.

use pp_schedule::ScheduleName;
use pp_telemetry::{Eval, Event, Export, ExportError, ExportFormat, Hello, Mem, Span, StepEvent};

use super::simulated::{Job, Times, run};

pub(crate) const TIMES: Times = Times {
    forward_ns: 12_000_007,
    backward_ns: 24_000_011,
    link_ns: 800_003,
    optim_ns: 2_000_001,
};

pub(crate) const HOSTILE: &str = "a\"b' <i>&amp;]]>\\n\n\t\u{1}\u{ffff} {x=\"1\"} #";

pub(crate) fn job() -> Job {
    Job { steps: 4, jitter_per_mille: 37, ends: true, ..Job::one_f_one_b() }
}

pub(crate) fn written(
    events: &[Event],
    format: ExportFormat,
    steps: Option<&str>,
) -> Result<Vec<u8>, ExportError> {
    let mut export = Export::new(format, steps.map(|steps| steps.parse().unwrap()));
    let mut bytes = Vec::new();
    let pushed = events.iter().try_for_each(|event| export.push(event, &mut bytes));
    let ended = pushed.and_then(|()| export.finish(&mut bytes));
    if ended.is_err() {
        assert!(bytes.is_empty(), "what is refused leaves no trace");
    }
    ended.map(|()| bytes)
}

pub(crate) fn text(events: &[Event], format: ExportFormat, steps: Option<&str>) -> String {
    String::from_utf8(written(events, format, steps).unwrap()).unwrap()
}

pub(crate) fn hello(events: &mut [Event]) -> &mut Hello {
    let Event::Hello(hello) = &mut events[0] else { panic!("the first event is hello") };
    hello
}

pub(crate) fn spans(events: &[Event]) -> Vec<Span> {
    let is_span = |event: &Event| if let Event::Span(span) = event { Some(*span) } else { None };
    events.iter().filter_map(is_span).collect()
}

pub(crate) fn steps(events: &[Event]) -> Vec<StepEvent> {
    let is_step =
        |event: &Event| if let Event::Step(step) = event { Some(step.clone()) } else { None };
    events.iter().filter_map(is_step).collect()
}

pub(crate) fn memory(events: &[Event]) -> Vec<Mem> {
    let is_memory = |event: &Event| if let Event::Mem(mem) = event { Some(*mem) } else { None };
    events.iter().filter_map(is_memory).collect()
}

pub(crate) fn set_losses(events: &mut [Event], losses: [f32; 3]) {
    let mut losses = losses.into_iter();
    for event in events {
        if let Event::Step(step) = event
            && let Some(loss) = losses.next()
        {
            step.loss = Some(loss);
            step.loss_bits = StepEvent::bits_of(loss);
        }
    }
}

/// Runs of many kinds, with what their names say.
pub(crate) fn runs() -> Vec<(&'static str, Vec<Event>)> {
    let of = |job: &Job| run(job, TIMES);
    let mut nan = of(&job());
    set_losses(&mut nan, [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let mut named = of(&job());
    HOSTILE.clone_into(&mut hello(&mut named).run);
    HOSTILE.clone_into(&mut hello(&mut named).schedule);
    HOSTILE.clone_into(&mut hello(&mut named).device_map[0].device);
    let mut evals = of(&job());
    evals.insert(evals.len() - 1, Event::Eval(Eval { step: 4, loss: 0.1, accuracy: Some(0.875) }));
    let mut without_hello = of(&job());
    without_hello.remove(0);
    let mut torn = of(&job());
    torn.truncate(torn.len() - 30);
    vec![
        ("1f1b", of(&job())),
        ("two replicas", of(&Job { pp: 2, dp: 2, micro_batches: 3, ..job() })),
        ("zb-h1", of(&Job { schedule: ScheduleName::ZbH1, ..job() })),
        (
            "interleaved",
            of(&Job { schedule: ScheduleName::InterleavedOneFOneB, virtual_stages: 2, ..job() }),
        ),
        ("one step", of(&Job { steps: 1, ..job() })),
        ("one rank", of(&Job { pp: 1, ..job() })),
        ("few spans", of(&Job { steps: 9, span_every: 4, ..job() })),
        ("losses that are not finite", nan),
        ("hostile names", named),
        ("a validation", evals),
        ("no hello", without_hello),
        ("torn", torn),
        ("no step", of(&Job { steps: 0, ..job() })),
        ("nothing", Vec::new()),
    ]
}
