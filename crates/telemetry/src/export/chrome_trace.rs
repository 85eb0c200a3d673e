//! A run as a Chrome trace, which Perfetto and `chrome://tracing` open: a process a replica, a
//! track a rank, a slice a span, an arrow a tensor that one stage waits for, and curves of memory,
//! loss and bubble.
//!
//! Times are microseconds in the format. They are written as decimals with three places, so that no
//! nanosecond is lost and slices that touch do not overlap.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Write};

use pp_schedule::{Phase, to_json, trace_colour_of};
use serde_json::json;

use super::untimed::Untimed;
use super::{ExportError, Writer};
use crate::model::Tally;
use crate::op_of::op_of;
use pp_trace::{Event, Hello, Mem, Nonfinite, PhaseEvent, Span, SpanKind, StepEvent};

/// Ranks, over all replicas, that are named before anything is known of them.
const NAMED_MAX: u64 = 65_536;
/// Ends of arrows that wait for their other end at most; a log with more in one step is broken.
const HALVES_MAX: usize = 1 << 20;
/// Phases before the first step that wait for it at most.
const PHASES_MAX: usize = 1024;
/// So many of them are kept before one looks which are still waited for.
const HALVES_MIN: usize = 1024;

/// Nanoseconds, as the microseconds of the format.
#[derive(Debug, Clone, Copy)]
struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// A tensor that a stage waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tensor {
    step: u64,
    replica: u32,
    /// The stage that uses it.
    stage: u32,
    mb: u32,
    is_gradient: bool,
}

/// One end of an arrow.
#[derive(Debug, Clone, Copy)]
struct ArrowEnd {
    is_start: bool,
    rank: u32,
    ns: u64,
}

/// The trace so far.
#[derive(Debug, Default)]
pub(super) struct ChromeTrace {
    hello: Option<Box<Hello>>,
    /// The device of each rank, by replica and rank.
    devices: HashMap<(u32, u32), String>,
    has_begun: bool,
    n_objects: u64,
    named: HashSet<(u32, u32)>,
    named_replicas: HashSet<u32>,
    untimed: Untimed,
    tally: Tally,
    /// Steps of which operations were lost, and the last of them.
    incomplete: (u64, Option<u64>),
    halves: HashMap<Tensor, ArrowEnd>,
    halves_looked_at: usize,
    n_arrows: u64,
    n_means: u64,
    /// Phases that are over and came before the first event of a step.
    phases: Vec<PhaseEvent>,
    names_driver: bool,
}

impl ChromeTrace {
    fn object(
        &mut self,
        out: &mut dyn Write,
        object: fmt::Arguments<'_>,
    ) -> Result<(), ExportError> {
        let before = if self.n_objects == 0 { "" } else { ",\n" };
        self.n_objects += 1;
        Ok(write!(out, "{before}{{{object}}}")?)
    }

    fn begin(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        writeln!(out, "{{\"traceEvents\":[")?;
        let Some((dp, pp)) = self.hello.as_ref().map(|hello| (hello.dp, hello.pp)) else {
            return Ok(());
        };
        if u64::from(dp) * u64::from(pp) <= NAMED_MAX {
            for replica in 0..dp {
                for rank in 0..pp {
                    self.name(replica, rank, out)?;
                }
            }
        }
        for phase in std::mem::take(&mut self.phases) {
            self.phase(&phase, out)?;
        }
        Ok(())
    }

    /// What the driver did that was no step: a track of its own, in a process after those of the
    /// replicas.
    fn phase(&mut self, phase: &PhaseEvent, out: &mut dyn Write) -> Result<(), ExportError> {
        let Some(dur_ns) = phase.dur_ns else { return Ok(()) };
        let pid = self.hello.as_ref().map_or(u32::MAX, |hello| hello.dp);
        if !std::mem::replace(&mut self.names_driver, true) {
            self.object(
                out,
                format_args!(
                    r#""name":"process_name","ph":"M","pid":{pid},"args":{{"name":"driver"}}"#
                ),
            )?;
            self.object(out, format_args!(r#""name":"process_sort_index","ph":"M","pid":{pid},"args":{{"sort_index":{pid}}}"#))?;
            self.object(out, format_args!(r#""name":"thread_name","ph":"M","pid":{pid},"tid":0,"args":{{"name":"driver"}}"#))?;
        }
        let (name, step) = (to_json(&phase.phase).map_err(io::Error::from)?, json!(phase.step));
        self.object(
            out,
            format_args!(
                r#""name":{name},"cat":"phase","ph":"X","pid":{pid},"tid":0,"ts":{},"dur":{},"args":{{"step":{step},"done":{},"total":{}}}"#,
                Micros(phase.start_ns),
                Micros(dur_ns),
                phase.done,
                phase.total,
            ),
        )
    }

    /// Names a track and its process, the first time that they are seen.
    fn name(&mut self, replica: u32, rank: u32, out: &mut dyn Write) -> Result<(), ExportError> {
        if !self.named.insert((replica, rank)) {
            return Ok(());
        }
        if self.named_replicas.insert(replica) {
            self.object(out, format_args!(r#""name":"process_name","ph":"M","pid":{replica},"args":{{"name":"replica {replica}"}}"#))?;
            self.object(out, format_args!(r#""name":"process_sort_index","ph":"M","pid":{replica},"args":{{"sort_index":{replica}}}"#))?;
        }
        let name = match self.devices.get(&(replica, rank)) {
            Some(device) => format!("rank {rank} ({device})"),
            None => format!("rank {rank}"),
        };
        let name = to_json(&name).map_err(io::Error::from)?;
        self.object(out, format_args!(r#""name":"thread_name","ph":"M","pid":{replica},"tid":{rank},"args":{{"name":{name}}}"#))?;
        self.object(out, format_args!(r#""name":"thread_sort_index","ph":"M","pid":{replica},"tid":{rank},"args":{{"sort_index":{rank}}}"#))
    }

    fn slice(&mut self, span: &Span, out: &mut dyn Write) -> Result<(), ExportError> {
        self.name(span.replica, span.rank, out)?;
        if span.op == SpanKind::AllReduce {
            return self.mean(span, out);
        }
        let kind = span.op.name();
        let name: &dyn fmt::Display = if span.op.is_compute() {
            &format_args!("{}{kind}{}", span.stage, span.mb)
        } else {
            &kind
        };
        self.object(
            out,
            format_args!(
                r#""name":"{name}","cat":"{kind}","ph":"X","pid":{},"tid":{},"ts":{},"dur":{},"cname":"{}","args":{{"step":{},"micro_batch":{},"stage":{},"bytes":{},"starved_us":{},"cpu_us":{}}}"#,
                span.replica,
                span.rank,
                Micros(span.start_ns),
                Micros(span.dur_ns),
                colour(span.op),
                span.step,
                span.mb,
                span.stage,
                span.bytes,
                Micros(span.starved_ns),
                Micros(span.cpu_ns),
            ),
        )?;
        self.arrows(span, out)
    }

    /// The mean of a bucket of gradients. Slices of a track may not overlap in part, and a mean may
    /// begin in one op and end in another: so it is a pair of events beside the track.
    fn mean(&mut self, span: &Span, out: &mut dyn Write) -> Result<(), ExportError> {
        self.n_means += 1;
        let Span { replica, rank, stage, mb, step, bytes, .. } = *span;
        let id = self.n_means;
        for (ph, ns) in [("b", span.start_ns), ("e", span.end_ns())] {
            self.object(
                out,
                format_args!(
                    r#""name":"rank {rank} all_reduce","cat":"all_reduce","ph":"{ph}","id":{id},"pid":{replica},"tid":{rank},"ts":{},"args":{{"step":{step},"stage":{stage},"bucket":{mb},"bytes":{bytes}}}"#,
                    Micros(ns),
                ),
            )?;
        }
        Ok(())
    }

    /// The tensor that a span uses, and the one that it makes.
    fn arrows(&mut self, span: &Span, out: &mut dyn Write) -> Result<(), ExportError> {
        let Some(op) = op_of(span).filter(|_| span.op.is_compute()) else { return Ok(()) };
        // How many stages there are is not known here: half an arrow that begins or ends behind the
        // last one stays alone.
        let used = op.input_stage(u32::MAX).map(|_| span.stage);
        let made = op.output_stage(u32::MAX).map(|stage| stage.0);
        // A slice of no length holds no arrow.
        if span.dur_ns == 0 {
            return Ok(());
        }
        let tensor = |stage| Tensor {
            step: span.step,
            replica: span.replica,
            stage,
            mb: span.mb,
            is_gradient: span.op != SpanKind::F,
        };
        if let Some(stage) = used {
            let end = ArrowEnd { is_start: false, rank: span.rank, ns: span.start_ns };
            self.arrow(tensor(stage), end, out)?;
        }
        if let Some(stage) = made {
            // Inside the slice: its very end belongs to the next one.
            let end = ArrowEnd { is_start: true, rank: span.rank, ns: span.end_ns() - 1 };
            self.arrow(tensor(stage), end, out)?;
        }
        Ok(())
    }

    /// Writes an arrow when both of its ends are known.
    fn arrow(
        &mut self,
        tensor: Tensor,
        end: ArrowEnd,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let other = match self.halves.remove(&tensor) {
            Some(other) if other.is_start != end.is_start => other,
            _ => {
                if self.halves.len() < HALVES_MAX {
                    self.halves.insert(tensor, end);
                }
                return Ok(());
            }
        };
        self.n_arrows += 1;
        let (id, pid) = (self.n_arrows, tensor.replica);
        let name = if tensor.is_gradient { "gradient" } else { "activation" };
        let (from, to) = if end.is_start { (end, other) } else { (other, end) };
        self.object(
            out,
            format_args!(
                r#""name":"{name}","cat":"{name}","ph":"s","id":{id},"pid":{pid},"tid":{},"ts":{}"#,
                from.rank,
                Micros(from.ns)
            ),
        )?;
        // The arrow ends at the slice that encloses its time, not at the next one.
        self.object(
            out,
            format_args!(
                r#""name":"{name}","cat":"{name}","ph":"f","bp":"e","id":{id},"pid":{pid},"tid":{},"ts":{}"#,
                to.rank,
                Micros(to.ns)
            ),
        )
    }

    /// A point of a curve; JSON has no form for what is not finite, so that is said in words.
    fn point(
        &mut self,
        (name, key): (&str, &str),
        value: f64,
        text: &dyn fmt::Display,
        ns: u64,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let ts = Micros(ns);
        let what = match Nonfinite::of(value) {
            None => {
                return self.object(
                    out,
                    format_args!(
                        r#""name":"{name}","ph":"C","pid":0,"ts":{ts},"args":{{"{key}":{text}}}"#
                    ),
                );
            }
            Some(Nonfinite::Nan) => "nan",
            Some(Nonfinite::Inf) => "inf",
            Some(Nonfinite::NegInf) => "-inf",
        };
        self.object(
            out,
            format_args!(
                r#""name":"{name} is {what}","cat":"{key}","ph":"i","s":"g","pid":0,"tid":0,"ts":{ts}"#
            ),
        )
    }

    fn step(&mut self, step: &StepEvent, ns: u64, out: &mut dyn Write) -> Result<(), ExportError> {
        if let Some(loss) = step.loss {
            let text = format_args!("{loss:?}");
            self.point(("loss", "loss"), f64::from(loss), &text, ns, out)?;
        }
        // Without spans, and where a rank is missing, it was not measured.
        if step.bubble_ratio.is_nan() {
            return Ok(());
        }
        let ratio = format_args!("{:?}", step.bubble_ratio);
        self.point(("bubble ratio", "bubble_ratio"), step.bubble_ratio, &ratio, ns, out)
    }

    fn untimed(&mut self, event: &Event, ns: u64, out: &mut dyn Write) -> Result<(), ExportError> {
        match event {
            Event::Mem(Mem { replica, rank, live_bytes, .. }) => self.object(
                out,
                format_args!(
                    r#""name":"memory of rank {rank}","ph":"C","pid":{replica},"ts":{},"args":{{"live_bytes":{live_bytes}}}"#,
                    Micros(ns)
                ),
            ),
            Event::Eval(eval) => {
                let loss = format_args!("{:?}", eval.loss);
                let names = ("validation loss", "validation_loss");
                self.point(names, f64::from(eval.loss), &loss, ns, out)
            }
            _ => Ok(()),
        }
    }
}

impl Writer for ChromeTrace {
    fn push(&mut self, event: &Event, out: &mut dyn Write) -> Result<(), ExportError> {
        self.untimed.see(event);
        let missing = self.tally.push(event).filter(|&missing| missing > 0);
        match event {
            Event::Hello(hello) => {
                self.devices.clear();
                for entry in hello.device_map.iter().filter(|entry| !entry.device.is_empty()) {
                    let place = (entry.replica, entry.rank);
                    self.devices.entry(place).or_insert_with(|| hello.place_name(entry));
                }
                self.hello = Some(hello.clone());
            }
            Event::Phase(phase) if self.has_begun => self.phase(phase, out)?,
            Event::Phase(phase) if phase.dur_ns.is_some() && self.phases.len() < PHASES_MAX => {
                self.phases.push(phase.clone());
            }
            Event::Span(span) => {
                self.begin(out)?;
                self.slice(span, out)?;
            }
            Event::Mem(Mem { step, .. }) | Event::Eval(crate::Eval { step, .. }) => {
                if let Some(ns) = self.untimed.time_of(event, *step) {
                    self.begin(out)?;
                    self.untimed(event, ns, out)?;
                }
            }
            Event::Step(step) => {
                self.begin(out)?;
                let (ns, waited) = self.untimed.step_over(event, step.step);
                for event in waited {
                    self.untimed(&event, ns, out)?;
                }
                self.step(step, ns, out)?;
                if let Some(missing) = missing {
                    let step = step.step;
                    self.incomplete = (self.incomplete.0 + 1, Some(step));
                    self.object(
                        out,
                        format_args!(
                            r#""name":"step {step} is not complete: {missing} operations were lost","cat":"incomplete","ph":"i","s":"g","pid":0,"tid":0,"ts":{},"args":{{"step":{step},"missing_ops":{missing}}}"#,
                            Micros(ns)
                        ),
                    )?;
                }
                // Spans of a step that is over may still come, but not of the one before it. Looked
                // for when there are twice as many as the last time: a log may have more steps than
                // tensors.
                if self.halves.len() >= self.halves_looked_at {
                    self.halves.retain(|tensor, _| tensor.step >= step.step);
                    self.halves_looked_at = 2 * self.halves.len() + HALVES_MIN;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        self.begin(out)?;
        let (ns, waited) = self.untimed.rest();
        for event in waited {
            self.untimed(&event, ns, out)?;
        }
        let about = to_json(&self.hello.as_ref().map_or_else(
            || json!({}),
            |hello| {
                let mut about = json!({
                    "run": hello.run,
                    "model": hello.model,
                    "schedule": hello.schedule,
                    "pp": hello.pp,
                    "dp": hello.dp,
                    "virtual_stages": hello.virtual_stages,
                    "micro_batches": hello.micro_batches,
                    "host": hello.host,
                    "clock": hello.clock,
                    "started_unix_ms": hello.started_unix_ms,
                    "span_every": hello.span_every,
                    "theory": hello.theory,
                    "incomplete_steps": self.incomplete.0,
                    "last_incomplete_step": self.incomplete.1,
                });
                if let Some(before) = &hello.continues {
                    about["continues"] = json!({"run": before.run, "step": before.step});
                }
                about
            },
        ))
        .map_err(io::Error::from)?;
        writeln!(out, "\n],\"displayTimeUnit\":\"ms\",\"otherData\":{about}}}")?;
        Ok(())
    }
}

/// The colour of a slice, of those that a trace has names for: that of the screen, as near as they
/// come.
fn colour(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::F => trace_colour_of(Phase::Forward),
        SpanKind::B => trace_colour_of(Phase::Backward),
        SpanKind::I => trace_colour_of(Phase::InputGrad),
        SpanKind::W => trace_colour_of(Phase::WeightGrad),
        SpanKind::Send | SpanKind::Recv => "detailed_memory_dump",
        kind if kind.is_wait() => "grey",
        _ => "generic_work",
    }
}
