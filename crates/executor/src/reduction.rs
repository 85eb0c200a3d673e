//! The mean of the gradients over all copies of the model, while the rank still computes.
//!
//! ```text
//! last W of the stage   | layer 3 | layer 2 | layer 1 | layer 0 |
//! bucket 0 (layers 3, 2)                    |-sent---- there ---| mean |
//! bucket 1 (layers 1, 0)                                        |-sent---- there | mean |
//! ```
//!
//! A backward finishes the sums of its parameters about from the last layer to the first, and in
//! this order they are gathered in *buckets*. A bucket is sent to the other copies of the stage as
//! soon as it is whole, and the rank goes on. It takes the mean of a bucket before an op, or while
//! it waits for a message, when the sums of all copies are there; it waits for those that are still
//! missing after its last op. (Li et al. 2020, arXiv:2006.15704, section 3.2.) No op is interrupted
//! for it, so that the time of an op is that of its layers alone.
//!
//! Sums are added in the order of the copies, whatever the order of their arrival, so the bits do
//! not depend on when that was, nor on the size of the buckets.

use std::collections::BTreeMap;
use std::sync::Arc;

use pp_nn::memory;
use pp_schedule::{MicroBatch, Pipe, Stage};
use pp_trace::SpanKind;

use crate::clock::Moment;
use crate::error::RankError;
use crate::exchange::{Bucket, CopyParcel, CopySums, Exchange, StageSums, Sums};
use crate::journal::{Journal, Place};
use crate::lane::Lane;
use crate::progress::{Doing, Reporter};
use crate::stages::Stages;

type Result<T> = std::result::Result<T, RankError>;

/// The means of one rank.
pub(crate) struct Reduction {
    links: Box<dyn Exchange>,
    /// Whether other processes get the sums.
    to_processes: bool,
    /// Buckets that are whole and not sent.
    full: Vec<(Pipe, Bucket)>,
    /// What this rank has sent and has no mean of yet.
    under_way: BTreeMap<Bucket, UnderWay>,
    /// What other copies have sent before this rank has.
    early: Vec<CopyParcel>,
    /// Sums that other copies may still read.
    shared: Vec<Sums>,
    /// The number of stages. Buckets behind the last one are tied parameters.
    n_stages: u32,
    /// What other places of tied parameters have sent.
    tied: Vec<CopyParcel>,
}

/// The parts of a rank that its means need.
pub(crate) struct Parts<'a> {
    pub(crate) stages: &'a mut Stages,
    pub(crate) lane: &'a Lane,
    pub(crate) journal: &'a mut Journal,
    pub(crate) progress: &'a Reporter,
}

/// A bucket whose mean is not taken yet.
struct UnderWay {
    /// A pipe of which this rank has the stage.
    pipe: Pipe,
    /// Bytes that this rank has sent.
    bytes: u64,
    sent: Moment,
    /// In the order of the copies.
    copies: Vec<Option<Sums>>,
}

impl UnderWay {
    fn is_whole(&self) -> bool {
        self.copies.iter().all(Option::is_some)
    }
}

impl Reduction {
    pub(crate) fn new(links: Box<dyn Exchange>, to_processes: bool, n_stages: u32) -> Self {
        Self {
            links,
            to_processes,
            full: Vec::new(),
            under_way: BTreeMap::new(),
            early: Vec::new(),
            shared: Vec::new(),
            n_stages,
            tied: Vec::new(),
        }
    }

    /// Forgets the last step. All copies have answered, so nobody reads what they shared.
    pub(crate) fn begin(&mut self) {
        self.let_go();
        self.full.clear();
        self.under_way.clear();
        self.tied.clear();
    }

    /// Lets go of what all copies have taken.
    pub(crate) fn let_go(&mut self) {
        self.shared.clear();
    }

    /// Sends buckets of a stage that are whole now.
    pub(crate) fn whole(
        &mut self,
        (pipe, stage): (Pipe, Stage),
        numbers: Vec<u32>,
        parts: &mut Parts<'_>,
    ) -> Result<()> {
        let buckets = numbers.into_iter().map(|number| (pipe, Bucket { stage, number }));
        self.full.extend(buckets);
        // A device would have to be done with its queue first: it is asked once, at the end.
        let is_costly = self.to_processes && matches!(parts.lane, Lane::Queue(_));
        if is_costly { Ok(()) } else { self.send(parts) }
    }

    /// Sends all buckets that are whole.
    pub(crate) fn send(&mut self, parts: &mut Parts<'_>) -> Result<()> {
        for (pipe, bucket) in std::mem::take(&mut self.full) {
            let sent = parts.journal.now(parts.lane)?;
            let run = parts.stages.get(pipe, bucket.stage)?;
            let sums = run.finish(bucket.number, parts.lane, self.to_processes)?;
            let bytes = sums.sizes().sum::<usize>() as u64;
            self.shared.push(Arc::clone(&sums));
            let copy = self.links.send(pipe, bucket, &sums)?;
            let n_copies = self.links.n_copies();
            let under_way = self.under_way.entry(bucket).or_insert_with(|| UnderWay {
                pipe,
                bytes,
                sent,
                copies: vec![None; n_copies],
            });
            under_way.copies[copy] = Some(sums);
            let early = std::mem::take(&mut self.early);
            early.into_iter().try_for_each(|parcel| self.arrived(parcel))?;
        }
        Ok(())
    }

    fn arrived(&mut self, parcel: CopyParcel) -> Result<()> {
        if parcel.bucket.stage.0 >= self.n_stages {
            self.tied.push(parcel);
            return Ok(());
        }
        let Some(under_way) = self.under_way.get_mut(&parcel.bucket) else {
            self.early.push(parcel);
            return Ok(());
        };
        match under_way.copies.get_mut(parcel.copy) {
            Some(place @ None) => *place = Some(parcel.sums),
            _ => return Err(RankError::Missing("a place for the gradient of a copy")),
        }
        Ok(())
    }

    /// Takes what other copies have sent, and keeps messages moving. Never waits.
    pub(crate) fn listen(&mut self) -> Result<()> {
        while let Some(parcel) = self.links.take()? {
            self.arrived(parcel)?;
        }
        Ok(())
    }

    /// Takes the means of which all sums are there. Never waits, and neither does the device.
    pub(crate) fn advance(&mut self, parts: &mut Parts<'_>) -> Result<()> {
        self.listen()?;
        let mut whole = Vec::new();
        for (&bucket, under_way) in self.under_way.iter().filter(|(_, found)| found.is_whole()) {
            let made = under_way.copies.iter().flatten().filter_map(|sums| sums.made.as_ref());
            let mut is_ready = true;
            for made in made {
                is_ready &= made.ready.is_passed()?;
            }
            if is_ready {
                whole.push(bucket);
            }
        }
        if whole.is_empty() {
            return Ok(());
        }
        let before = parts.progress.get().doing;
        parts.progress.set(Doing::Averaging);
        whole.into_iter().try_for_each(|bucket| self.mean(bucket, parts))?;
        parts.progress.set(before);
        Ok(())
    }

    /// Whether sums are missing of which this rank needs the mean.
    pub(crate) fn is_waiting(&self) -> bool {
        self.under_way.values().any(|under_way| !under_way.is_whole())
    }

    /// Waits for sums of another copy.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let parcel = self.links.wait()?;
        self.arrived(parcel)
    }

    /// Takes all means; nothing is waiting.
    pub(crate) fn finish(&mut self, parts: &mut Parts<'_>) -> Result<()> {
        while let Some(&bucket) = self.under_way.keys().next() {
            self.mean(bucket, parts)?;
        }
        if self.early.is_empty() {
            Ok(())
        } else {
            Err(RankError::Missing("the gradients that another copy has sent"))
        }
    }

    /// Takes the mean of a bucket.
    fn mean(&mut self, bucket: Bucket, parts: &mut Parts<'_>) -> Result<()> {
        let missing = RankError::Missing("the gradient of a copy");
        let UnderWay { pipe, bytes, sent, copies } =
            self.under_way.remove(&bucket).ok_or(missing)?;
        let copies: Option<Vec<Sums>> = copies.into_iter().collect();
        let copies = copies.ok_or(RankError::Missing("the gradient of a copy"))?;
        parts.stages.average(pipe, bucket, &copies, parts.lane)?;
        let micro_batch = MicroBatch(bucket.number);
        let place = Place { kind: SpanKind::AllReduce, stage: bucket.stage, micro_batch };
        let end = parts.journal.now(parts.lane)?;
        parts.journal.moved(place, sent, end, bytes);
        Ok(())
    }

    /// Sends the sum of one end of a tied parameter to the place of the other.
    pub(crate) fn send_tied(
        &mut self,
        place: usize,
        bucket: Bucket,
        end: usize,
        sum: &Sums,
    ) -> Result<()> {
        self.shared.push(Arc::clone(sum));
        self.links.send_to(place, bucket, end, sum)
    }

    /// Waits for the sum of the other end of a tied parameter.
    pub(crate) fn take_tied(&mut self, bucket: Bucket, end: usize) -> Result<Sums> {
        loop {
            let is_it = |parcel: &CopyParcel| parcel.bucket == bucket && parcel.copy == end;
            if let Some(at) = self.tied.iter().position(is_it) {
                return Ok(self.tied.swap_remove(at).sums);
            }
            let parcel = self.links.wait()?;
            self.arrived(parcel)?;
        }
    }

    /// Exchanges tensors of whole stages, and waits for those of the other copies. Returns those of
    /// every copy of each stage, its own included.
    pub(crate) fn exchange(&mut self, own: Vec<(Pipe, Stage, CopySums)>) -> Result<StageSums> {
        let mut found: BTreeMap<Stage, Vec<Option<Sums>>> = BTreeMap::new();
        let n_copies = self.links.n_copies();
        for (pipe, stage, sums) in own {
            let sums = Arc::new(sums);
            self.shared.push(Arc::clone(&sums));
            let copy = self.links.send(pipe, Bucket { stage, number: 0 }, &sums)?;
            found.entry(stage).or_insert_with(|| vec![None; n_copies])[copy] = Some(sums);
        }
        self.wait_for_all(&mut found, |_| {})?;
        Ok(whole(found))
    }

    /// Gives tensors of whole stages to the first copy of each. Returns those of every copy for the
    /// stages of which the first is here, `firsts`.
    pub(crate) fn gather(
        &mut self,
        own: Vec<(Pipe, Stage, CopySums)>,
        firsts: &[Stage],
    ) -> Result<StageSums> {
        let n_copies = self.links.n_copies();
        let mut found: BTreeMap<Stage, Vec<Option<Sums>>> =
            firsts.iter().map(|&stage| (stage, vec![None; n_copies])).collect();
        for (pipe, stage, sums) in own {
            let sums = Arc::new(sums);
            let is_given = !found.contains_key(&stage);
            if is_given && !self.to_processes {
                // The memory is that of the rank that gets it, and may be freed at once there.
                sums.sizes().for_each(memory::moved_out);
            }
            let copy = self.links.send_to_first(pipe, Bucket { stage, number: 0 }, &sums)?;
            if let Some(copies) = found.get_mut(&stage) {
                copies[copy] = Some(sums);
            }
        }
        self.wait_for_all(&mut found, |sums| {
            sums.sizes().for_each(memory::moved_in);
        })?;
        Ok(whole(found))
    }

    /// Waits until every copy has sent its tensors of these stages. `takes` looks at what comes from
    /// other threads.
    fn wait_for_all(
        &mut self,
        found: &mut BTreeMap<Stage, Vec<Option<Sums>>>,
        takes: impl Fn(&CopySums),
    ) -> Result<()> {
        while found.values().flatten().any(Option::is_none) {
            let CopyParcel { bucket, copy, sums } = self.links.wait()?;
            let place = found.get_mut(&bucket.stage).and_then(|copies| copies.get_mut(copy));
            match place {
                Some(place @ None) => {
                    if !self.to_processes {
                        takes(&sums);
                    }
                    *place = Some(sums);
                }
                _ => return Err(RankError::Missing("a place for what a copy has sent")),
            }
        }
        Ok(())
    }
}

fn whole(found: BTreeMap<Stage, Vec<Option<Sums>>>) -> StageSums {
    let whole = |(stage, copies): (Stage, Vec<Option<Sums>>)| {
        (stage, copies.into_iter().flatten().collect())
    };
    found.into_iter().map(whole).collect()
}
