//! A simulated plan as a Chrome trace, which Perfetto and `chrome://tracing` open: a track a rank,
//! a slice a cell, an arrow a message.
//!
//! The format is the JSON object format of the trace event document: times in microseconds. A unit
//! of the costs is drawn as a millisecond.

use serde::Serialize;

use crate::action::{Action, OVERLAP};
use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::ids::{MicroBatch, Stage};
use crate::op::{Op, Phase};
use crate::picture::trace_colour_of;
use crate::plan::ValidPlan;
use crate::simulate::{TimedAction, simulate};
use crate::text::to_json;

const MICROSECONDS_A_UNIT: f64 = 1000.0;

#[derive(Serialize)]
struct About<'a> {
    schedule: &'a str,
    pp: u32,
    micro_batches: u32,
    virtual_stages: u32,
    makespan: f64,
    bubble_ratio: f64,
    time_unit: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Event {
    /// The name of a track.
    Name { name: &'static str, ph: char, pid: u32, tid: u32, args: Name },
    /// What a rank runs, from when, for how long.
    Slice {
        name: String,
        cat: &'static str,
        ph: char,
        pid: u32,
        tid: u32,
        ts: f64,
        dur: f64,
        /// One of the colours that a trace has names for.
        cname: &'static str,
        args: Cell,
    },
    /// One end of a message's arrow.
    Flow {
        name: &'static str,
        cat: &'static str,
        ph: char,
        id: u64,
        pid: u32,
        tid: u32,
        ts: f64,
        /// The arrow ends at the slice that encloses its time, not at the next one.
        #[serde(skip_serializing_if = "Option::is_none")]
        bp: Option<char>,
    },
}

#[derive(Serialize)]
struct Name {
    name: String,
}

#[derive(Serialize)]
struct Cell {
    stage: Stage,
    micro_batch: MicroBatch,
}

/// The plan as it runs with these costs.
///
/// # Errors
/// As [`simulate`].
pub fn chrome_trace(plan: &ValidPlan, costs: &Costs) -> Result<String, ScheduleError> {
    let simulation = simulate(plan, costs)?;
    let mut trace = Trace { text: r#"{"traceEvents":["#.to_owned() };
    let named = |tid: u32, name: String| Event::Name {
        name: "thread_name",
        ph: 'M',
        pid: 0,
        tid,
        args: Name { name },
    };
    for rank in 0..plan.n_ranks() {
        trace.push(&named(rank, format!("rank {rank}")))?;
    }
    for (rank, row) in (0..).zip(simulation.timeline(plan, costs)) {
        for timed in row {
            let op = timed.action.first();
            trace.push(&Event::Slice {
                name: timed.action.to_string(),
                cat: category(timed.action),
                ph: 'X',
                pid: 0,
                tid: rank,
                ts: timed.start * MICROSECONDS_A_UNIT,
                dur: (timed.end - timed.start) * MICROSECONDS_A_UNIT,
                cname: trace_colour_of(op.phase),
                args: Cell { stage: op.stage, micro_batch: op.micro_batch },
            })?;
            for op in timed.action.ops() {
                for arrow in arrows(plan, op, rank, &timed) {
                    trace.push(&arrow)?;
                }
            }
        }
    }
    let about = About {
        schedule: plan.name(),
        pp: plan.n_ranks(),
        micro_batches: plan.n_micro_batches(),
        virtual_stages: plan.n_virtual_stages(),
        makespan: simulation.makespan,
        bubble_ratio: simulation.bubble_ratio,
        time_unit: "a unit of the costs is drawn as a millisecond",
    };
    let mut text = trace.text;
    text.push_str(r#"],"displayTimeUnit":"ms","otherData":"#);
    text.push_str(&json(&about)?);
    text.push('}');
    Ok(text)
}

/// The events so far, as text: a large plan has millions, and only the text of each is kept.
struct Trace {
    text: String,
}

impl Trace {
    fn push(&mut self, event: &Event) -> Result<(), ScheduleError> {
        if !self.text.ends_with('[') {
            self.text.push(',');
        }
        self.text.push_str(&json(event)?);
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Result<String, ScheduleError> {
    // Numbers, strings and lists of them: there is nothing in it that JSON has no form for.
    to_json(value).map_err(|refused| ScheduleError::Costs(refused.to_string()))
}

fn category(action: Action) -> &'static str {
    match action {
        Action::Overlapped(_) => OVERLAP,
        Action::One(op) => match op.phase {
            Phase::Forward => "F",
            Phase::Backward => "B",
            Phase::InputGrad => "I",
            Phase::WeightGrad => "W",
        },
    }
}

/// The ends of arrows at an op: of the message that it uses, and of the one that it sends.
fn arrows(plan: &ValidPlan, op: Op, rank: u32, timed: &TimedAction) -> Vec<Event> {
    let topology = plan.topology();
    let crosses = |stage: &Stage| plan.rank_of(*stage, op.micro_batch).0 != rank;
    let (incoming, outgoing) = (topology.input_stage(op), topology.output_stage(op));
    let is_forward = op.phase == Phase::Forward;
    let (name, cat) =
        if is_forward { ("activation", "activation") } else { ("gradient", "gradient") };
    // A message is known by the stage that uses it.
    let id = |stage: Stage| {
        let place = u64::from(stage.0) * u64::from(plan.n_micro_batches());
        2 * (place + u64::from(op.micro_batch.0)) + u64::from(is_forward)
    };
    let mut events = Vec::new();
    if incoming.is_some_and(|stage| crosses(&stage)) {
        let ts = timed.start * MICROSECONDS_A_UNIT;
        let (id, bp) = (id(op.stage), Some('e'));
        events.push(Event::Flow { name, cat, ph: 'f', id, pid: 0, tid: rank, ts, bp });
    }
    if let Some(stage) = outgoing.filter(crosses) {
        // Inside the slice: its very end belongs to the next one.
        let ts = (timed.start + 0.999 * (timed.end - timed.start)) * MICROSECONDS_A_UNIT;
        let id = id(stage);
        events.push(Event::Flow { name, cat, ph: 's', id, pid: 0, tid: rank, ts, bp: None });
    }
    events
}
