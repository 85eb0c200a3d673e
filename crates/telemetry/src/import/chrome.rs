//! Chrome traces that `pptop export chrome-trace` has written, as runs again.
//!
//! A trace has less than a log: the loss and the spans, but no memory plan, no learning rate and no
//! settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pp_trace::{RankHead, Span, SpanKind};

use super::ImportError;
use super::rank_writer::{RankWriter, stages};
use super::stream::{TraceEvent, read};

/// Ranks over all replicas at most.
const RANKS_MAX: usize = 65_536;

/// A rank, and what was written of it.
struct Rank {
    file: RankWriter,
    /// The step that its spans belong to, with its first start and its last end.
    step: u64,
    began_ns: u64,
    ended_ns: u64,
}

/// What a first reading finds: the stages of each rank of each replica.
type Places = BTreeMap<(u32, u32), BTreeSet<u32>>;

/// Writes the files of all ranks into a folder; gives the number of the last step.
///
/// # Errors
/// The trace is broken, or not one of `pptop`.
pub fn import_chrome_trace(trace: &Path, into: &Path) -> Result<u64, ImportError> {
    let mut places = Places::new();
    read(trace, |event| {
        if let Some((replica, span)) = span_of(&event) {
            let stages = places.entry((replica, span.rank)).or_default();
            if span.op.is_compute() {
                stages.insert(span.stage);
            }
        }
        if places.len() > RANKS_MAX {
            return Err(ImportError::nothing(
                trace,
                format!("it has more than {RANKS_MAX} ranks; use a trace of fewer"),
            ));
        }
        Ok(())
    })?;
    if places.is_empty() {
        let why = "it has no operations as pptop export chrome-trace writes them; use pptop import kineto for traces of PyTorch's profiler";
        return Err(ImportError::nothing(trace, why));
    }
    let pp = places.keys().map(|(_, rank)| rank + 1).max().unwrap_or(1);
    let dp = places.keys().map(|(replica, _)| replica + 1).max().unwrap_or(1);
    if pp as usize * dp as usize > RANKS_MAX {
        return Err(ImportError::nothing(
            trace,
            format!("it has more than {RANKS_MAX} ranks; use a trace of fewer"),
        ));
    }
    let last_stage = places.values().flatten().max().copied().unwrap_or(0);
    let mut ranks: BTreeMap<(u32, u32), Rank> = BTreeMap::new();
    for (&(replica, rank), own) in &places {
        let pipeline: Vec<u32> = (0..pp).map(|rank| replica.saturating_mul(pp) + rank).collect();
        let head = RankHead {
            rank,
            pp,
            pipeline,
            program: "Chrome trace".to_owned(),
            n_stages: Some(last_stage.saturating_add(1)),
            stages: stages(own.iter().copied()),
            boot: "trace".to_owned(),
            ..RankHead::default()
        };
        let file = RankWriter::create(into, head)?;
        ranks.insert((replica, rank), Rank { file, step: 0, began_ns: 0, ended_ns: 0 });
    }
    let mut last_step = 0;
    // The loss of a step comes after its spans.
    let mut loss = None;
    read(trace, |event| {
        if event.ph.0 == "C" && event.name.0 == "loss" {
            // Steps without spans may follow, and have a loss as well.
            loss = loss.or(event.args.loss);
            return Ok(());
        }
        let Some((replica, span)) = span_of(&event) else { return Ok(()) };
        if span.step > last_step {
            for rank in ranks.values_mut() {
                rank.close(loss)?;
            }
            (last_step, loss) = (span.step, None);
        }
        match ranks.get_mut(&(replica, span.rank)) {
            Some(rank) => rank.span(&span),
            None => Ok(()),
        }
    })?;
    for mut rank in ranks.into_values() {
        rank.close(loss)?;
        rank.file.finish()?;
    }
    Ok(last_step)
}

impl Rank {
    fn span(&mut self, span: &Span) -> Result<(), ImportError> {
        if self.step != span.step {
            (self.step, self.began_ns) = (span.step, span.start_ns);
            self.ended_ns = span.end_ns();
        }
        self.began_ns = self.began_ns.min(span.start_ns);
        self.ended_ns = self.ended_ns.max(span.end_ns());
        self.file.span(span)
    }

    fn close(&mut self, loss: Option<f64>) -> Result<(), ImportError> {
        let step = std::mem::take(&mut self.step);
        if step == 0 {
            return Ok(());
        }
        self.file.step(step, (self.began_ns, self.ended_ns), loss)
    }
}

/// The replica and the span of an event, if it is one. Means of gradients are pairs of events, and
/// their times are left out.
fn span_of(event: &TraceEvent) -> Option<(u32, Span)> {
    if event.ph.0 != "X" {
        return None;
    }
    let op = SpanKind::ALL.into_iter().find(|kind| kind.name() == event.cat.0)?;
    let small = |number: Option<u64>| number.and_then(|n| u32::try_from(n).ok());
    let of_rank = |number| small(number).filter(|&n| (n as usize) < RANKS_MAX);
    let replica = of_rank(event.pid.whole())?;
    let rank = of_rank(event.tid.whole())?;
    let start_ns = u64::try_from(event.start_ns()?).ok()?;
    Some((
        replica,
        Span {
            step: event.args.step.filter(|&step| step > 0)?,
            replica,
            rank,
            stage: small(event.args.stage)?,
            mb: small(event.args.micro_batch)?,
            op,
            start_ns,
            dur_ns: event.dur_ns()?,
            cpu_ns: 0,
            bytes: event.args.bytes.unwrap_or(0),
            starved_ns: 0,
        },
    ))
}
