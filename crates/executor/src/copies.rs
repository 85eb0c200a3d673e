//! The links between the copies of a stage where ranks are threads.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use pp_schedule::Pipe;

use crate::error::RankError;
use crate::exchange::{Bucket, Copies, CopyParcel, Exchange, Sums};
use crate::link::{Address, Mailbox, Stopped};

type Result<T> = std::result::Result<T, RankError>;

/// The links of one rank, a thread among threads.
pub(crate) struct ThreadLinks {
    mailbox: Rc<RefCell<Mailbox>>,
    /// Those of all ranks, by their places.
    addresses: Arc<[Address]>,
    copies: Copies,
}

impl ThreadLinks {
    /// The links of a rank, which gets its messages from `mailbox`. `addresses` are those of all
    /// ranks, replica by replica, rank by rank.
    pub(crate) fn new(
        copies: Copies,
        addresses: Arc<[Address]>,
        mailbox: Rc<RefCell<Mailbox>>,
    ) -> Self {
        Self { mailbox, addresses, copies }
    }
}

impl Exchange for ThreadLinks {
    fn send(&mut self, pipe: Pipe, bucket: Bucket, sums: &Sums) -> Result<usize> {
        let copy = self.copies.index(pipe);
        for place in self.copies.others(bucket.stage).to_vec() {
            self.send_to(place, bucket, copy, sums)?;
        }
        Ok(copy)
    }

    fn send_to(&mut self, place: usize, bucket: Bucket, copy: usize, sums: &Sums) -> Result<()> {
        // A rank that is gone has failed: its own answer is the better error.
        self.addresses[place].send_sums(CopyParcel { bucket, copy, sums: Arc::clone(sums) });
        Ok(())
    }

    fn send_to_first(&mut self, pipe: Pipe, bucket: Bucket, sums: &Sums) -> Result<usize> {
        let copy = self.copies.index(pipe);
        if let Some(place) = self.copies.first(bucket.stage) {
            self.send_to(place, bucket, copy, sums)?;
        }
        Ok(copy)
    }

    fn take(&mut self) -> Result<Option<CopyParcel>> {
        self.mailbox.borrow_mut().take_sums().map_err(|Stopped| RankError::Stopped)
    }

    fn wait(&mut self) -> Result<CopyParcel> {
        self.mailbox.borrow_mut().receive_sums().map_err(|Stopped| RankError::Stopped)
    }

    fn n_copies(&self) -> usize {
        self.copies.n
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use candle_core::{Device, Tensor};
    use pp_schedule::{Rank, Replica, Stage, Topology};

    use super::*;
    use crate::exchange::CopySums;
    use crate::link::mailbox;

    fn sums(value: f32) -> Sums {
        let tensors = vec![Tensor::new(value, &Device::Cpu).unwrap()];
        Arc::new(CopySums { tensors, made: None })
    }

    /// Two replicas of two pipes on two ranks, whose stages lie in opposite directions.
    fn topology() -> Topology {
        Topology::from_pipes(&[vec![Rank(0), Rank(1)], vec![Rank(1), Rank(0)]]).unwrap()
    }

    fn links(delay: Duration) -> Vec<ThreadLinks> {
        let (addresses, mailboxes): (Vec<_>, Vec<_>) =
            (0..4).map(|_| mailbox(delay, false)).unzip();
        let addresses: Arc<[Address]> = addresses.into();
        let links = |(at, mailbox): (u32, Mailbox)| {
            let place = (Replica(at / 2), Rank(at % 2));
            let copies = Copies::new(&topology(), 2, place);
            ThreadLinks::new(copies, Arc::clone(&addresses), Rc::new(RefCell::new(mailbox)))
        };
        (0..).zip(mailboxes).map(links).collect()
    }

    #[test]
    fn every_rank_gets_what_the_other_copies_of_its_stages_send() {
        let mut links = links(Duration::ZERO);
        for (at, links) in (0..).zip(&mut links) {
            let (replica, rank) = (at / 2, at % 2);
            for pipe in [0, 1] {
                let stage = if pipe == 0 { rank } else { 1 - rank };
                let bucket = Bucket { stage: Stage(stage), number: 7 };
                let value = (100 * stage + 10 * replica + pipe) as f32;
                let copy = links.send(Pipe(pipe), bucket, &sums(value)).unwrap();
                assert_eq!(copy, (2 * replica + pipe) as usize);
            }
        }
        for (at, links) in (0..).zip(&mut links) {
            let mut found: Vec<(u32, usize, f32)> = std::iter::from_fn(|| links.take().unwrap())
                .map(|CopyParcel { bucket: Bucket { stage, number }, copy, sums }| {
                    assert_eq!(number, 7);
                    (stage.0, copy, sums.tensors[0].to_scalar().unwrap())
                })
                .collect();
            found.sort_by_key(|&(stage, copy, _)| (stage, copy));
            let (replica, rank) = (at / 2, at % 2);
            let others = [(0, 0, 0, 0.0), (0, 1, 1, 1.0), (1, 0, 2, 10.0), (1, 1, 3, 11.0)];
            let of_stage = |stage: u32| {
                let is_own = move |of_replica: u32, pipe: u32| {
                    let holder = if pipe == 0 { stage } else { 1 - stage };
                    (of_replica, holder) == (replica, rank)
                };
                let others = others.into_iter().filter(move |of| !is_own(of.0, of.1));
                others.map(move |(_, _, copy, value)| (stage, copy, 100.0 * stage as f32 + value))
            };
            assert_eq!(found, of_stage(0).chain(of_stage(1)).collect::<Vec<_>>(), "rank {at}");
        }
    }

    #[test]
    fn sums_take_as_long_as_a_link_says() {
        let delay = Duration::from_millis(20);
        let mut links = links(delay);
        let begun = Instant::now();
        let bucket = Bucket { stage: Stage(0), number: 0 };
        links[0].send(Pipe(0), bucket, &sums(1.0)).unwrap();
        assert!(links[2].take().unwrap().is_none());
        links[2].wait().unwrap();
        assert!(begun.elapsed() >= delay);
    }

    #[test]
    fn a_rank_that_waits_for_copies_can_be_stopped() {
        let (address, mailbox) = mailbox(Duration::ZERO, false);
        let thread = std::thread::spawn(move || {
            let mailbox = Rc::new(RefCell::new(mailbox));
            let copies = Copies::new(&topology(), 2, (Replica(0), Rank(0)));
            ThreadLinks::new(copies, Arc::new([]), mailbox).wait().is_err()
        });
        address.stop();
        assert!(thread.join().unwrap());
    }
}
