//! Which rank holds which stage.
//!
//! ```text
//! loop, p=4 v=2          V, p=4 v=2
//! rank 0   0   4         rank 0   0   7
//! rank 1   1   5         rank 1   1   6
//! rank 2   2   6         rank 2   2   5
//! rank 3   3   7         rank 3   3   4
//! ```

use serde::{Deserialize, Serialize};

use crate::error::ScheduleError;
use crate::ids::{Chunk, Rank, Stage};

/// How stages are dealt out to ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Round and round: stage s on rank s mod p.
    Loop,
    /// To and fro: ranks 0 to p−1, then p−1 back to 0, and so on, so that two neighbouring stages share a rank at each turn.
    V,
}

/// The rank of every stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    rank_of: Vec<Rank>,
    chunk_of: Vec<Chunk>,
    n_ranks: u32,
    n_virtual_stages: u32,
}

impl Topology {
    /// `n_ranks` ranks with `n_virtual_stages` stages each.
    ///
    /// # Errors
    /// [`ScheduleError::Zero`] or [`ScheduleError::TooLarge`] when there would be no stage, or more than can be numbered.
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

    /// Any assignment: entry s is the rank of stage s. There are as many ranks as the highest number says.
    ///
    /// # Errors
    /// [`ScheduleError::Zero`] without a stage, [`ScheduleError::IdleRank`] when a rank would hold none.
    pub fn from_ranks(ranks: Vec<Rank>) -> Result<Self, ScheduleError> {
        let highest = ranks.iter().max().copied().ok_or(ScheduleError::Zero { what: "stages" })?;
        if highest.idx() >= ranks.len() {
            return Err(ScheduleError::IdleRank {
                rank: first_absent(&ranks),
                n_stages: ranks.len(),
            });
        }
        let n_ranks = highest.0 + 1;
        let mut n_held = vec![0_u32; n_ranks as usize];
        let mut chunk_of = Vec::with_capacity(ranks.len());
        for rank in &ranks {
            chunk_of.push(Chunk(n_held[rank.idx()]));
            n_held[rank.idx()] += 1;
        }
        if let Some(idle) = n_held.iter().position(|&n| n == 0) {
            return Err(ScheduleError::IdleRank { rank: Rank(idle as u32), n_stages: ranks.len() });
        }
        let n_virtual_stages = n_held.iter().max().copied().unwrap_or(1);
        Ok(Self { rank_of: ranks, chunk_of, n_ranks, n_virtual_stages })
    }

    /// p, the number of ranks.
    #[inline]
    pub fn n_ranks(&self) -> u32 {
        self.n_ranks
    }

    /// n, the number of stages.
    #[inline]
    pub fn n_stages(&self) -> u32 {
        self.rank_of.len() as u32
    }

    /// v, the stages of a rank; where ranks hold different numbers, the most that one holds.
    #[inline]
    pub fn n_virtual_stages(&self) -> u32 {
        self.n_virtual_stages
    }

    /// The rank that holds a stage.
    ///
    /// # Panics
    /// When there is no such stage.
    #[inline]
    pub fn rank_of(&self, stage: Stage) -> Rank {
        self.rank_of[stage.idx()]
    }

    /// The rank of every stage, in the order of the stages.
    pub fn ranks(&self) -> &[Rank] {
        &self.rank_of
    }

    /// The stages that a rank holds, ascending.
    pub fn stages_of(&self, rank: Rank) -> Vec<Stage> {
        self.stages().filter(|&stage| self.rank_of(stage) == rank).collect()
    }

    /// Every stage, from the input of the model to its output.
    pub fn stages(&self) -> impl DoubleEndedIterator<Item = Stage> + use<> {
        (0..self.n_stages()).map(Stage)
    }

    /// Which of its rank's stages a stage is, counted from the lowest.
    ///
    /// # Panics
    /// When there is no such stage.
    #[inline]
    pub fn chunk_of(&self, stage: Stage) -> Chunk {
        self.chunk_of[stage.idx()]
    }

    /// The stage before, unless this is the first.
    #[inline]
    pub fn before(&self, stage: Stage) -> Option<Stage> {
        stage.0.checked_sub(1).map(Stage)
    }

    /// The stage after, unless this is the last.
    #[inline]
    pub fn after(&self, stage: Stage) -> Option<Stage> {
        (stage.0 + 1 < self.n_stages()).then_some(Stage(stage.0 + 1))
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
        topology.ranks().iter().map(|rank| rank.0).collect()
    }

    #[test]
    fn placements_deal_out_the_stages() {
        let looped = Topology::new(4, 2, Placement::Loop).unwrap();
        assert_eq!(ranks(&looped), [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(looped.stages_of(Rank(1)), [Stage(1), Stage(5)]);
        assert_eq!(looped.chunk_of(Stage(5)), Chunk(1));
        let zigzag = Topology::new(3, 3, Placement::V).unwrap();
        assert_eq!(ranks(&zigzag), [0, 1, 2, 2, 1, 0, 0, 1, 2]);
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
