//! The links between the copies of a stage, over which their gradients pass.
//!
//! A stage has a copy in each replica and, with Chimera, in each pipe. Only the copies of a stage
//! exchange its gradients; the thread that calls the ranks takes no part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use candle_core::Tensor;
use pp_schedule::{Pipe, Replica, Stage, Topology};

use crate::error::RankError;
use crate::lane::Made;
use crate::per_rank::place;

/// The sums of gradients of one stage as a copy of it has them.
pub(crate) type Sums = Arc<CopySums>;

/// The sums of gradients of one copy of a stage.
pub(crate) struct CopySums {
    /// In the order of the stage's parameters.
    pub(crate) tensors: Vec<Tensor>,
    /// The queue in which they are made; `None` where they are there. Their rank keeps them until
    /// its next update, before which every other rank has waited for its own queue.
    pub(crate) made: Option<Made>,
}

/// For every stage the sums of all its copies: replica by replica, in each pipe by pipe.
pub(crate) type StageSums = BTreeMap<Stage, Vec<Sums>>;

/// What a rank gives the other copies of one of its stages.
pub(crate) struct OwnSums {
    pub(crate) pipe: Pipe,
    pub(crate) stage: Stage,
    pub(crate) sums: Sums,
}

/// A rank's links to the other copies of its stages. Threads pass handles of tensors; another
/// transport would move the bytes. The rank takes the mean itself: every copy adds in the same
/// order, and so gets the same bits.
pub(crate) trait Exchange {
    /// Sends the sums of all stages of this rank, and waits for those of the other copies.
    /// Returns the sums of every copy of each of these stages, its own included.
    ///
    /// # Errors
    /// [`RankError::Stopped`] if the rank is told to stop while it waits, and
    /// [`RankError::Missing`] if other sums arrive than those of its stages.
    fn exchange(&mut self, own: Vec<OwnSums>) -> Result<StageSums, RankError>;
}

/// Boxed, so that the channel's own blocks stay small.
enum Message {
    Sums(Box<Parcel>),
    /// Another rank failed.
    Stop,
}

struct Parcel {
    stage: Stage,
    /// The index of the copy among the copies of that stage.
    copy: usize,
    sums: Sums,
}

/// The sending half of a rank's link.
#[derive(Clone)]
pub(crate) struct CopyAddress(Sender<Message>);

impl CopyAddress {
    /// Makes the rank give up at its next exchange.
    pub(crate) fn stop(&self) {
        let _ = self.0.send(Message::Stop);
    }
}

/// The links of one rank, a thread among threads.
pub(crate) struct ThreadLinks {
    receiver: Receiver<Message>,
    /// The other ranks that hold a copy of a stage of this one.
    others: BTreeMap<Stage, Vec<CopyAddress>>,
    replica: Replica,
    n_pipes: usize,
    n_copies: usize,
}

/// The links of all ranks of `n_replicas` replicas with their addresses, replica by replica, rank
/// by rank.
pub(crate) fn thread_links(
    topology: &Topology,
    n_replicas: u32,
) -> Vec<(CopyAddress, ThreadLinks)> {
    let n_ranks = topology.n_ranks() as usize;
    let n = n_ranks * n_replicas as usize;
    let (addresses, receivers): (Vec<_>, Vec<_>) =
        (0..n).map(|_| channel()).map(|(sender, receiver)| (CopyAddress(sender), receiver)).unzip();
    let holders = |stage: Stage| {
        let of_replica = move |replica: u32| {
            topology
                .pipes()
                .map(move |pipe| replica as usize * n_ranks + topology.rank_of(pipe, stage).idx())
        };
        (0..n_replicas).flat_map(of_replica)
    };
    let links_of = |(index, receiver): (usize, Receiver<Message>)| {
        let (replica, rank) = place(index, n_ranks);
        let mut others = BTreeMap::new();
        for &(_, stage) in topology.stages_of(rank) {
            let mut holders: Vec<usize> = holders(stage).filter(|&other| other != index).collect();
            // A rank that holds the stage in two pipes needs one message, not two.
            holders.sort_unstable();
            holders.dedup();
            let of_stage = holders.into_iter().map(|other| addresses[other].clone());
            others.insert(stage, of_stage.collect());
        }
        let links = ThreadLinks {
            receiver,
            others,
            replica,
            n_pipes: topology.n_pipes() as usize,
            n_copies: n_replicas as usize * topology.n_pipes() as usize,
        };
        (addresses[index].clone(), links)
    };
    receivers.into_iter().enumerate().map(links_of).collect()
}

impl Exchange for ThreadLinks {
    fn exchange(&mut self, own: Vec<OwnSums>) -> Result<StageSums, RankError> {
        let mut found: BTreeMap<Stage, Vec<Option<Sums>>> = BTreeMap::new();
        let mut n_missing = 0;
        for OwnSums { pipe, stage, sums } in own {
            let copy = self.replica.idx() * self.n_pipes + pipe.idx();
            // A rank sends everything before it waits, so no two ranks wait for each other.
            for other in self.others.get(&stage).into_iter().flatten() {
                let parcel = Parcel { stage, copy, sums: Arc::clone(&sums) };
                // A rank that is gone has failed: its own answer is the better error.
                let _ = other.0.send(Message::Sums(Box::new(parcel)));
            }
            let copies = found.entry(stage).or_insert_with(|| {
                n_missing += self.n_copies;
                vec![None; self.n_copies]
            });
            copies[copy] = Some(sums);
            n_missing -= 1;
        }
        while n_missing > 0 {
            match self.receiver.recv() {
                Ok(Message::Sums(parcel)) => {
                    let Parcel { stage, copy, sums } = *parcel;
                    let missing = RankError::Missing("a gradient of one of this rank's stages");
                    let copies = found.get_mut(&stage).ok_or(missing)?;
                    copies[copy] = Some(sums);
                    n_missing -= 1;
                }
                Ok(Message::Stop) | Err(_) => return Err(RankError::Stopped),
            }
        }
        let whole = |(stage, copies): (Stage, Vec<Option<Sums>>)| {
            let copies: Option<Vec<Sums>> = copies.into_iter().collect();
            Ok((stage, copies.ok_or(RankError::Missing("the gradient of a copy"))?))
        };
        found.into_iter().map(whole).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use pp_schedule::Rank;

    use super::*;

    fn sums(value: f32) -> Sums {
        let tensors = vec![Tensor::new(value, &Device::Cpu).unwrap()];
        Arc::new(CopySums { tensors, made: None })
    }

    /// Two replicas of two pipes on two ranks, whose stages lie in opposite directions.
    fn links() -> Vec<(CopyAddress, ThreadLinks)> {
        let pipes = [vec![Rank(0), Rank(1)], vec![Rank(1), Rank(0)]];
        thread_links(&Topology::from_pipes(&pipes).unwrap(), 2)
    }

    fn own(topology_rank: u32, replica: u32) -> Vec<OwnSums> {
        let stage_in = |pipe: u32| if pipe == 0 { topology_rank } else { 1 - topology_rank };
        let of = |pipe: u32| {
            let value = (100 * stage_in(pipe) + 10 * replica + pipe) as f32;
            OwnSums { pipe: Pipe(pipe), stage: Stage(stage_in(pipe)), sums: sums(value) }
        };
        vec![of(0), of(1)]
    }

    #[test]
    fn every_rank_gets_all_copies_of_its_stages_in_one_order() {
        let threads: Vec<_> = links()
            .into_iter()
            .enumerate()
            .map(|(index, (_, mut links))| {
                let (replica, rank) = ((index / 2) as u32, (index % 2) as u32);
                std::thread::spawn(move || links.exchange(own(rank, replica)).unwrap())
            })
            .collect();
        for thread in threads {
            let found = thread.join().unwrap();
            let value = |sums: &Sums| sums.tensors[0].to_scalar::<f32>().unwrap();
            let of = |stage| found[&Stage(stage)].iter().map(value).collect::<Vec<_>>();
            assert_eq!(of(0), [0.0, 1.0, 10.0, 11.0]);
            assert_eq!(of(1), [100.0, 101.0, 110.0, 111.0]);
        }
    }

    #[test]
    fn a_rank_that_waits_for_copies_can_be_stopped() {
        let mut links = links();
        let (address, mut waiting) = links.remove(0);
        let thread = std::thread::spawn(move || waiting.exchange(own(0, 0)).is_err());
        address.stop();
        assert!(thread.join().unwrap());
    }
}
