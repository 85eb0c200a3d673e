//! Tied parameters: one parameter that stands in two places of the model.
//!
//! Each place has a copy of the value and sums its own gradients. When all sums are whole, both ranks
//! add the sum of the second place to that of the first, so that both copies take the same step. The
//! order does not depend on the cut, on the schedule, or on whether both places are on one rank.

use pp_schedule::{MicroBatch, Pipe, Rank, Replica, Stage};
use pp_trace::SpanKind;

use crate::config::RankConfig;
use crate::error::RankError;
use crate::exchange::{Bucket, Sums};
use crate::journal::Place;
use crate::reduction::{Parts, Reduction};

type Result<T> = std::result::Result<T, RankError>;

/// The ties of which a rank has one end or both.
pub(crate) struct Ties(Vec<Pair>);

/// A tied parameter in one copy of the model.
struct Pair {
    /// Its name for messages.
    bucket: Bucket,
    pipe: Pipe,
    ends: [End; 2],
}

struct End {
    stage: Stage,
    name: String,
    /// The place of its rank, if that is another one.
    elsewhere: Option<usize>,
}

/// The stages of both places of each tied parameter, and their names: that of the first, and that of
/// the second.
pub(crate) fn tied_stages(config: &RankConfig) -> Result<Vec<[(Stage, String); 2]>> {
    let ties = config.stack.ties();
    if ties.is_empty() {
        return Ok(Vec::new());
    }
    let layers = config.stack.parameters()?;
    let topology = config.plan.topology();
    let place = |wanted: &String| {
        let of_layer =
            |(_, of): &(usize, &Vec<(String, _)>)| of.iter().any(|(name, _)| name == wanted);
        let layer = layers.iter().enumerate().find(of_layer)?.0;
        let has = |stage: &Stage| config.partition.layers(stage.idx()).contains(&layer);
        Some((topology.stages().find(has)?, wanted.clone()))
    };
    let both = |(second, first): (&String, &String)| Some([place(first)?, place(second)?]);
    let all: Option<Vec<_>> = ties.iter().map(both).collect();
    // A cut takes no tie of a parameter that no layer has.
    all.ok_or(RankError::Missing("a place of a tied parameter"))
}

impl Ties {
    /// Those of the rank at a place.
    pub(crate) fn new(config: &RankConfig, (replica, rank): (Replica, Rank)) -> Result<Self> {
        let topology = config.plan.topology();
        let mut pairs = Vec::new();
        for (number, both) in (0..).zip(tied_stages(config)?) {
            for pipe in topology.pipes() {
                let ends = both.clone().map(|(stage, name)| {
                    let holder = topology.rank_of(pipe, stage);
                    let place = replica.idx() * topology.n_ranks() as usize + holder.idx();
                    End { stage, name, elsewhere: (holder != rank).then_some(place) }
                });
                if ends.iter().all(|end| end.elsewhere.is_some()) {
                    continue;
                }
                let bucket = Bucket { stage: Stage(topology.n_stages() + number), number: pipe.0 };
                pairs.push(Pair { bucket, pipe, ends });
            }
        }
        Ok(Self(pairs))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the sums of both ends of each, when nothing will be added to them any more. What is
    /// exchanged with another rank has a span.
    pub(crate) fn join(
        &self,
        reduction: &mut Reduction,
        parts: &mut Parts<'_>,
        to_processes: bool,
    ) -> Result<()> {
        let lane = parts.lane;
        let sent = parts.journal.now(lane)?;
        // All that others wait for is sent before anything is waited for.
        let mut own: Vec<[Option<Sums>; 2]> = Vec::new();
        for Pair { bucket, pipe, ends } in &self.0 {
            let mut sums = [None, None];
            for (at, end) in ends.iter().enumerate().filter(|(_, end)| end.elsewhere.is_none()) {
                let other = ends[1 - at].elsewhere;
                let run = parts.stages.get(*pipe, end.stage)?;
                let is_sent_out = to_processes && other.is_some();
                let sum = run.finish_one(&end.name, lane, is_sent_out)?;
                if let Some(place) = other {
                    reduction.send_tied(place, *bucket, at, &sum)?;
                }
                sums[at] = Some(sum);
            }
            own.push(sums);
        }
        for (Pair { bucket, pipe, ends }, sums) in self.0.iter().zip(own) {
            let mut both = Vec::with_capacity(2);
            for (at, own) in sums.into_iter().enumerate() {
                let sums = match own {
                    Some(own) => own,
                    None => reduction.take_tied(*bucket, at)?,
                };
                lane.await_made(sums.made.as_ref())?;
                let tensor = sums.tensors.first();
                let tensor =
                    tensor.ok_or(RankError::Missing("the gradient of a tied parameter"))?;
                both.push(lane.take_one(tensor, sums.made.as_ref())?);
            }
            let sum = (&both[0] + &both[1])?;
            drop(both);
            let bytes = (sum.elem_count() * sum.dtype().size_in_bytes()) as u64;
            let here: Vec<&End> = ends.iter().filter(|end| end.elsewhere.is_none()).collect();
            for (nth, end) in here.iter().enumerate() {
                // A rank with both ends steps both.
                let sum = if nth == 0 { sum.clone() } else { sum.copy()? };
                parts.stages.get(*pipe, end.stage)?.replace_one(&end.name, sum)?;
            }
            if let [End { stage, .. }] = here[..] {
                let (kind, micro_batch) = (SpanKind::AllReduce, MicroBatch(0));
                let end = parts.journal.now(lane)?;
                let place = Place { kind, stage: *stage, micro_batch };
                parts.journal.moved(place, sent.clone(), end, bytes);
            }
        }
        Ok(())
    }
}
