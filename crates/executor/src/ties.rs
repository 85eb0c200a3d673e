//! Tied parameters: one parameter that stands in two places of the model.
//!
//! Each place has a copy of the value and sums its own gradients. When all sums are whole, the sum of
//! the second place is added to that of the first, on both ranks in this order, so that both copies
//! take the same step. The order of the two does not depend on the cut, on the schedule, or on
//! whether both places are on one rank.

use pp_partition::PartitionError;
use pp_schedule::{Pipe, Rank, Replica, Stage};

use crate::config::RankConfig;
use crate::error::RankError;
use crate::exchange::{Bucket, Sums};
use crate::lane::Lane;
use crate::reduction::Reduction;
use crate::stages::Stages;

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
pub(crate) fn tied_stages(
    config: &RankConfig,
) -> std::result::Result<Vec<[(Stage, String); 2]>, PartitionError> {
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
    // A tie of which no layer has an end ties nothing.
    Ok(ties.iter().filter_map(both).collect())
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

    /// Adds the sums of both ends of each, when nothing will be added to them any more.
    pub(crate) fn join(
        &self,
        stages: &mut Stages,
        reduction: &mut Reduction,
        lane: &Lane,
        to_processes: bool,
    ) -> Result<()> {
        // All that others wait for is sent before anything is waited for.
        let mut own: Vec<[Option<Sums>; 2]> = Vec::new();
        for Pair { bucket, pipe, ends } in &self.0 {
            let mut sums = [None, None];
            for (at, end) in ends.iter().enumerate().filter(|(_, end)| end.elsewhere.is_none()) {
                let other = ends[1 - at].elsewhere;
                let run = stages.get(*pipe, end.stage)?;
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
            let here = || ends.iter().filter(|end| end.elsewhere.is_none());
            for (nth, end) in here().enumerate() {
                // A rank with both ends steps both.
                let sum = if nth == 0 { sum.clone() } else { sum.copy()? };
                stages.get(*pipe, end.stage)?.replace_one(&end.name, sum)?;
            }
        }
        Ok(())
    }
}
