//! What the copies of a stage send each other.
//!
//! A stage has a copy in each replica and, with Chimera, in each pipe. Only the copies of a stage
//! exchange its gradients; the thread that calls the ranks takes no part.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use pp_schedule::{Pipe, Rank, Replica, Stage, Topology};

use crate::error::RankError;
use crate::lane::Made;

type Result<T> = std::result::Result<T, RankError>;

/// The sums of gradients of some parameters of a stage, as a copy of it has them.
pub(crate) type Sums = Arc<CopySums>;

/// The sums of gradients of one copy of a stage.
pub(crate) struct CopySums {
    /// In an order that all copies have.
    pub(crate) tensors: Vec<Tensor>,
    /// The queue in which they are made; `None` where they are there. Their rank keeps them until
    /// its next update, before which every other rank has waited for its own queue.
    pub(crate) made: Option<Made>,
}

/// For every stage what all its copies have sent: replica by replica, in each pipe by pipe.
pub(crate) type StageSums = BTreeMap<Stage, Vec<Sums>>;

impl CopySums {
    /// The bytes of each tensor.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.tensors.iter().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes())
    }
}

/// Some parameters of a stage, whose gradients travel together. They are counted stage by stage, in
/// the same order on all copies. Behind the last stage come the tied parameters, each counted pipe by
/// pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bucket {
    pub(crate) stage: Stage,
    pub(crate) number: u32,
}

/// What another copy of a stage has sent.
pub(crate) struct CopyParcel {
    pub(crate) bucket: Bucket,
    /// The index of the copy among the copies of the stage: replica by replica, in each pipe by
    /// pipe.
    pub(crate) copy: usize,
    pub(crate) sums: Sums,
}

/// A rank's links to the other copies of its stages. Threads pass handles of tensors; another
/// transport moves the bytes. The rank takes the mean itself: every copy adds in the same order, and
/// so gets the same bits.
pub(crate) trait Exchange {
    /// Sends sums of the copy in `pipe` to all other copies of the stage. Never waits. Returns the
    /// index of this copy.
    fn send(&mut self, pipe: Pipe, bucket: Bucket, sums: &Sums) -> Result<usize>;

    /// Sends tensors of the copy in `pipe` to the first copy of the stage alone. Never waits. Returns
    /// the index of this copy.
    fn send_to_first(&mut self, pipe: Pipe, bucket: Bucket, sums: &Sums) -> Result<usize>;

    /// Sends sums to one place, as `copy` of what the bucket names. Never waits.
    fn send_to(&mut self, place: usize, bucket: Bucket, copy: usize, sums: &Sums) -> Result<()>;

    /// Takes what another copy has sent, if something has arrived.
    fn take(&mut self) -> Result<Option<CopyParcel>>;

    /// Takes what another copy has sent, and waits for it.
    ///
    /// # Errors
    /// [`RankError::Stopped`] if the rank is told to stop while it waits.
    fn wait(&mut self) -> Result<CopyParcel>;

    /// Copies of each stage, this one included.
    fn n_copies(&self) -> usize;
}

/// Where the copies of a rank's stages are. A place is the index of a rank: replica by replica, in
/// each rank by rank.
pub(crate) struct Copies {
    /// The other places that hold a copy of each stage. One with the stage in two pipes needs one
    /// message, not two, and is named once.
    others: BTreeMap<Stage, Vec<usize>>,
    /// The place of the first copy of each stage, if that is another one.
    firsts: BTreeMap<Stage, usize>,
    replica: Replica,
    n_pipes: usize,
    /// Copies of each stage.
    pub(crate) n: usize,
}

impl Copies {
    /// Of the stages of the rank at a place.
    pub(crate) fn new(
        topology: &Topology,
        n_replicas: u32,
        (replica, rank): (Replica, Rank),
    ) -> Self {
        let n_ranks = topology.n_ranks() as usize;
        let own = replica.idx() * n_ranks + rank.idx();
        let (mut others, mut firsts) = (BTreeMap::new(), BTreeMap::new());
        for &(_, stage) in topology.stages_of(rank) {
            let of_replica = |replica: u32| {
                let holder = move |pipe| topology.rank_of(pipe, stage).idx();
                topology.pipes().map(move |pipe| replica as usize * n_ranks + holder(pipe))
            };
            let mut holders: Vec<usize> = (0..n_replicas).flat_map(of_replica).collect();
            let first = holders.first().copied().filter(|&first| first != own);
            firsts.extend(first.map(|first| (stage, first)));
            holders.retain(|&other| other != own);
            holders.sort_unstable();
            holders.dedup();
            others.insert(stage, holders);
        }
        let n_pipes = topology.n_pipes() as usize;
        Self { others, firsts, replica, n_pipes, n: n_replicas as usize * n_pipes }
    }

    /// The index of the copy that this rank has in a pipe.
    pub(crate) fn index(&self, pipe: Pipe) -> usize {
        self.replica.idx() * self.n_pipes + pipe.idx()
    }

    /// The places of all other copies of a stage.
    pub(crate) fn others(&self, stage: Stage) -> &[usize] {
        self.others.get(&stage).map_or(&[], Vec::as_slice)
    }

    /// The place of the first copy of a stage, if that is another one.
    pub(crate) fn first(&self, stage: Stage) -> Option<usize> {
        self.firsts.get(&stage).copied()
    }
}
