//! Which rank holds which stage.
//!
//! ```text
//! loop, p=4 v=2          V, p=4 v=2             two pipes, p=4: first | second copy
//! rank 0   0   4         rank 0   0   7         rank 0   0 | 3
//! rank 1   1   5         rank 1   1   6         rank 1   1 | 2
//! rank 2   2   6         rank 2   2   5         rank 2   2 | 1
//! rank 3   3   7         rank 3   3   4         rank 3   3 | 0
//! ```

use serde::{Deserialize, Serialize};

use crate::error::ScheduleError;
use crate::ids::{Chunk, MicroBatch, Pipe, Rank, Stage};
use crate::op::Op;
use crate::work;

/// How stages are dealt out to ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Round and round: stage s on rank s mod p.
    Loop,
    /// To and fro: ranks 0 to p−1, then p−1 back to 0, and so on, so that two neighbouring stages
    /// share a rank at each turn.
    V,
}

/// The rank of every stage, in each copy of the model.
///
/// Nearly always there is one copy, one *pipe*. With k pipes the first m/k micro-batches run in the
/// first copy, the next m/k in the second, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Pipe by pipe, stage by stage.
    rank_of: Vec<Rank>,
    chunk_of: Vec<Chunk>,
    /// The stages of each rank, rank by rank, so that a look-up by rank does not search all stages.
    held: Vec<(Pipe, Stage)>,
    /// Where the stages of each rank begin in `held`, and after the last one its end.
    held_from: Vec<usize>,
    n_ranks: u32,
    n_stages: u32,
    n_virtual_stages: u32,
}

impl Topology {
    /// `n_ranks` ranks with `n_virtual_stages` stages each.
    ///
    /// # Errors
    /// [`ScheduleError::Zero`] or [`ScheduleError::TooLarge`] when there would be no stage, or more
    /// than can be numbered.
    pub fn new(
        n_ranks: u32,
        n_virtual_stages: u32,
        placement: Placement,
    ) -> Result<Self, ScheduleError> {
        let n_stages = n_stages(n_ranks, n_virtual_stages)?;
        let ranks = (0..n_stages).map(|stage| {
            let (turn, place) = (stage / n_ranks, stage % n_ranks);
            match placement {
                Placement::V if turn % 2 == 1 => Rank(n_ranks - 1 - place),
                Placement::Loop | Placement::V => Rank(place),
            }
        });
        Self::from_ranks(ranks.collect())
    }

    /// Any assignment of one pipe: entry s is the rank of stage s. There are as many ranks as the
    /// highest number says.
    ///
    /// # Errors
    /// [`ScheduleError::Zero`] without a stage, [`ScheduleError::IdleRank`] when a rank would hold
    /// none.
    pub fn from_ranks(ranks: Vec<Rank>) -> Result<Self, ScheduleError> {
        Self::from_pipes(&[ranks])
    }

    /// Any assignment of several pipes: entry s of each list is the rank of stage s in that copy of
    /// the model.
    ///
    /// # Errors
    /// As [`Topology::from_ranks`]; [`ScheduleError::Pipes`] when the lists differ in length.
    pub fn from_pipes(pipes: &[Vec<Rank>]) -> Result<Self, ScheduleError> {
        let n_stages = pipes.first().map_or(0, Vec::len);
        if n_stages == 0 {
            return Err(ScheduleError::Zero { what: "stages" });
        }
        if let Some(other) = pipes.iter().find(|pipe| pipe.len() != n_stages) {
            return Err(ScheduleError::Pipes { first: n_stages, other: other.len() });
        }
        let ranks = pipes.concat();
        let highest = ranks.iter().max().copied().unwrap_or_default();
        if highest.idx() >= ranks.len() {
            return Err(ScheduleError::IdleRank { rank: first_absent(&ranks), n_stages });
        }
        let n_ranks = highest.0 + 1;
        let mut n_all = vec![0_u32; n_ranks as usize];
        let mut n_virtual_stages = 1;
        let mut chunk_of = Vec::with_capacity(ranks.len());
        for pipe in pipes {
            let mut n_held = vec![0_u32; n_ranks as usize];
            for rank in pipe {
                chunk_of.push(Chunk(n_held[rank.idx()]));
                n_held[rank.idx()] += 1;
                n_all[rank.idx()] += 1;
                n_virtual_stages = n_virtual_stages.max(n_held[rank.idx()]);
            }
        }
        if let Some(idle) = n_all.iter().position(|&n| n == 0) {
            return Err(ScheduleError::IdleRank { rank: Rank(idle as u32), n_stages });
        }
        let n_stages = n_stages as u32;
        let (held, held_from) = held(&ranks, n_stages, n_ranks);
        Ok(Self { rank_of: ranks, chunk_of, held, held_from, n_ranks, n_stages, n_virtual_stages })
    }

    /// p, the number of ranks.
    #[inline]
    pub fn n_ranks(&self) -> u32 {
        self.n_ranks
    }

    /// n, the number of stages.
    #[inline]
    pub fn n_stages(&self) -> u32 {
        self.n_stages
    }

    /// How many copies of the model there are.
    #[inline]
    pub fn n_pipes(&self) -> u32 {
        self.rank_of.len() as u32 / self.n_stages
    }

    /// v, the stages of a rank in one pipe; where ranks hold different numbers, the most that one
    /// holds.
    #[inline]
    pub fn n_virtual_stages(&self) -> u32 {
        self.n_virtual_stages
    }

    /// The rank that holds a stage in one copy of the model.
    ///
    /// # Panics
    /// When there is no such pipe or stage.
    #[inline]
    pub fn rank_of(&self, pipe: Pipe, stage: Stage) -> Rank {
        work::done(1);
        self.rank_of[self.at(pipe, stage)]
    }

    /// The rank of every stage of one copy, in the order of the stages.
    ///
    /// # Panics
    /// When there is no such pipe.
    pub fn ranks(&self, pipe: Pipe) -> &[Rank] {
        &self.rank_of[self.at(pipe, Stage(0))..][..self.n_stages as usize]
    }

    /// The stages that a rank holds, pipe by pipe, ascending.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn stages_of(&self, rank: Rank) -> &[(Pipe, Stage)] {
        work::done(1);
        &self.held[self.held_from[rank.idx()]..self.held_from[rank.idx() + 1]]
    }

    /// Every copy of the model.
    pub fn pipes(&self) -> impl DoubleEndedIterator<Item = Pipe> + use<> {
        (0..self.n_pipes()).map(Pipe)
    }

    /// Every stage, from the input of the model to its output.
    pub fn stages(&self) -> impl DoubleEndedIterator<Item = Stage> + use<> {
        (0..self.n_stages()).map(Stage)
    }

    /// Which of its rank's stages of that pipe a stage is, counted from the lowest.
    ///
    /// # Panics
    /// When there is no such pipe or stage.
    #[inline]
    pub fn chunk_of(&self, pipe: Pipe, stage: Stage) -> Chunk {
        self.chunk_of[self.at(pipe, stage)]
    }

    /// The stage before, unless this is the first.
    #[inline]
    pub fn before(&self, stage: Stage) -> Option<Stage> {
        stage.before()
    }

    /// The stage after, unless this is the last.
    #[inline]
    pub fn after(&self, stage: Stage) -> Option<Stage> {
        stage.after(self.n_stages)
    }

    /// The stage whose result `op` begins with: see [`Op::input_stage`].
    #[inline]
    pub fn input_stage(&self, op: Op) -> Option<Stage> {
        op.input_stage(self.n_stages)
    }

    /// The stage that waits for the result of `op`: see [`Op::output_stage`].
    #[inline]
    pub fn output_stage(&self, op: Op) -> Option<Stage> {
        op.output_stage(self.n_stages)
    }

    /// The first copy of the model alone: where it is evaluated.
    #[must_use]
    pub fn first_pipe(&self) -> Self {
        let n_stages = self.n_stages as usize;
        let rank_of = self.rank_of[..n_stages].to_vec();
        let (held, held_from) = held(&rank_of, self.n_stages, self.n_ranks);
        let chunk_of = self.chunk_of[..n_stages].to_vec();
        Self { rank_of, chunk_of, held, held_from, ..*self }
    }

    #[inline]
    fn at(&self, pipe: Pipe, stage: Stage) -> usize {
        debug_assert!(stage.0 < self.n_stages, "stage {stage} of {}", self.n_stages);
        pipe.idx() * self.n_stages as usize + stage.idx()
    }
}

/// Where the micro-batches of one step run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    topology: &'a Topology,
    n_per_pipe: u32,
}

impl<'a> Places<'a> {
    /// The micro-batches must divide over the pipes.
    #[inline]
    pub(crate) fn new(topology: &'a Topology, n_micro_batches: u32) -> Self {
        Self { topology, n_per_pipe: (n_micro_batches / topology.n_pipes()).max(1) }
    }

    #[inline]
    pub(crate) fn pipe_of(self, micro_batch: MicroBatch) -> Pipe {
        // Division takes longer than all the rest, and nearly always there is one pipe.
        if micro_batch.0 < self.n_per_pipe {
            Pipe(0)
        } else {
            Pipe(micro_batch.0 / self.n_per_pipe)
        }
    }

    #[inline]
    pub(crate) fn rank_of(self, stage: Stage, micro_batch: MicroBatch) -> Rank {
        self.topology.rank_of(self.pipe_of(micro_batch), stage)
    }

    /// Micro-batches of one pipe.
    #[inline]
    pub(crate) fn n_per_pipe(self) -> u32 {
        self.n_per_pipe
    }
}

/// p·v, checked.
pub(crate) fn n_stages(n_ranks: u32, n_virtual_stages: u32) -> Result<u32, ScheduleError> {
    for (what, count) in [("ranks", n_ranks), ("virtual stages", n_virtual_stages)] {
        if count == 0 {
            return Err(ScheduleError::Zero { what });
        }
    }
    let n_stages = u64::from(n_ranks) * u64::from(n_virtual_stages);
    let limit = u64::from(u32::MAX - 1);
    u32::try_from(n_stages).ok().filter(|&n| u64::from(n) <= limit).ok_or(ScheduleError::TooLarge {
        what: "stages",
        value: u128::from(n_stages),
        limit: u128::from(limit),
    })
}

/// The stages of every rank, rank by rank, and where those of each begin.
fn held(rank_of: &[Rank], n_stages: u32, n_ranks: u32) -> (Vec<(Pipe, Stage)>, Vec<usize>) {
    let mut held_from = vec![0_usize; n_ranks as usize + 1];
    for rank in rank_of {
        held_from[rank.idx() + 1] += 1;
    }
    for rank in 0..n_ranks as usize {
        held_from[rank + 1] += held_from[rank];
    }
    let mut next = held_from.clone();
    let mut held = vec![(Pipe(0), Stage(0)); rank_of.len()];
    for (at, rank) in (0..).zip(rank_of) {
        held[next[rank.idx()]] = (Pipe(at / n_stages), Stage(at % n_stages));
        next[rank.idx()] += 1;
    }
    (held, held_from)
}

fn first_absent(ranks: &[Rank]) -> Rank {
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let absent =
        sorted.iter().zip(0_u32..).find_map(|(rank, place)| (rank.0 != place).then_some(place));
    Rank(absent.unwrap_or(sorted.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(topology: &Topology) -> Vec<u32> {
        topology.ranks(Pipe(0)).iter().map(|rank| rank.0).collect()
    }

    #[test]
    fn placements_deal_out_the_stages() {
        let looped = Topology::new(4, 2, Placement::Loop).unwrap();
        assert_eq!(ranks(&looped), [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(looped.stages_of(Rank(1)), [(Pipe(0), Stage(1)), (Pipe(0), Stage(5))]);
        assert_eq!(looped.chunk_of(Pipe(0), Stage(5)), Chunk(1));
        let zigzag = Topology::new(3, 3, Placement::V).unwrap();
        assert_eq!(ranks(&zigzag), [0, 1, 2, 2, 1, 0, 0, 1, 2]);
    }

    #[test]
    fn two_copies_of_a_model_share_the_ranks() {
        let pipes = vec![(0..3).map(Rank).collect(), (0..3).rev().map(Rank).collect()];
        let topology = Topology::from_pipes(&pipes).unwrap();
        assert_eq!((topology.n_pipes(), topology.n_ranks(), topology.n_stages()), (2, 3, 3));
        assert_eq!(topology.n_virtual_stages(), 1);
        assert_eq!(topology.stages_of(Rank(0)), [(Pipe(0), Stage(0)), (Pipe(1), Stage(2))]);
        let places = Places::new(&topology, 4);
        let rank = |micro_batch| places.rank_of(Stage(0), MicroBatch(micro_batch)).0;
        assert_eq!([rank(0), rank(1), rank(2), rank(3)], [0, 0, 2, 2]);
        assert_eq!(topology.first_pipe(), Topology::new(3, 1, Placement::Loop).unwrap());
        let refused = Topology::from_pipes(&[vec![Rank(0)], vec![]]).unwrap_err();
        assert_eq!(refused, ScheduleError::Pipes { first: 1, other: 0 });
    }

    #[test]
    fn a_rank_without_a_stage_is_refused() {
        let refused = Topology::from_ranks(vec![Rank(0), Rank(2), Rank(2)]).unwrap_err();
        assert_eq!(refused, ScheduleError::IdleRank { rank: Rank(1), n_stages: 3 });
        let refused = Topology::from_ranks(vec![Rank(0), Rank(4_000_000_000)]).unwrap_err();
        assert_eq!(refused, ScheduleError::IdleRank { rank: Rank(1), n_stages: 2 });
        assert_eq!(
            Topology::from_ranks(Vec::new()).unwrap_err(),
            ScheduleError::Zero { what: "stages" }
        );
    }

    #[test]
    fn sizes_that_cannot_be_numbered_are_refused() {
        assert_eq!(
            Topology::new(0, 1, Placement::Loop).unwrap_err(),
            ScheduleError::Zero { what: "ranks" }
        );
        let refused = Topology::new(1 << 20, 1 << 20, Placement::V).unwrap_err();
        assert!(matches!(refused, ScheduleError::TooLarge { what: "stages", .. }), "{refused}");
    }
}
