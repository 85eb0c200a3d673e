//! The mean of the gradients over all copies of the model, while the rank still computes.
//!
//! ```text
//! last W of the stage   | layer 3 | layer 2 | layer 1 | layer 0 |
//! bucket 0 (layers 3, 2)                    |-sent----- mean -|
//! bucket 1 (layers 1, 0)                                        |-sent----- mean -|
//! ```
//!
//! A backward finishes the sums of its parameters from the last layer to the first. They are
//! gathered in *buckets*. A full bucket is sent to the other copies of the stage at once, and the
//! rank goes on. It takes the mean of a bucket between two layers of the last W, before an op, or
//! while it waits for a message, when the sums of all copies are there; it waits for those that are
//! still missing after its last op. (Li et al. 2020, arXiv:2006.15704, section 3.2.)
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
    /// A bucket with so many bytes is full.
    bucket_bytes: usize,
    /// Whether other processes get the sums.
    to_processes: bool,
    /// The bucket of each stage that is not full yet.
    filling: BTreeMap<(Pipe, Stage), Filling>,
    /// Buckets that are full and not sent.
    full: Vec<(Pipe, Stage, Filling)>,
    /// What this rank has sent and has no mean of yet.
    under_way: BTreeMap<Bucket, UnderWay>,
    /// What other copies have sent before this rank has.
    early: Vec<CopyParcel>,
    /// Sums that other copies may still read.
    shared: Vec<Sums>,
}

/// The parts of a rank that its means need.
pub(crate) struct Parts<'a> {
    pub(crate) stages: &'a mut Stages,
    pub(crate) lane: &'a Lane,
    pub(crate) journal: &'a mut Journal,
    pub(crate) progress: &'a Reporter,
}

/// A bucket that gets more parameters.
#[derive(Default)]
struct Filling {
    number: u32,
    /// Places of parameters in their stage.
    parameters: Vec<usize>,
    bytes: usize,
}

/// A bucket whose mean is not taken yet.
struct UnderWay {
    /// Places of parameters in their stage.
    parameters: Vec<usize>,
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
    pub(crate) fn new(links: Box<dyn Exchange>, bucket_bytes: usize, to_processes: bool) -> Self {
        Self {
            links,
            bucket_bytes,
            to_processes,
            filling: BTreeMap::new(),
            full: Vec::new(),
            under_way: BTreeMap::new(),
            early: Vec::new(),
            shared: Vec::new(),
        }
    }

    /// Forgets the last step. All copies have answered, so nobody reads what they shared.
    pub(crate) fn begin(&mut self) {
        self.let_go();
        self.filling.clear();
        self.full.clear();
        self.under_way.clear();
    }

    /// Lets go of what all copies have taken.
    pub(crate) fn let_go(&mut self) {
        self.shared.clear();
    }

    /// Takes parameters of a stage whose sums are finished, and sends their bucket if it is full.
    /// `is_last` says that the stage has no others.
    pub(crate) fn finished(
        &mut self,
        (pipe, stage): (Pipe, Stage),
        parameters: &[usize],
        is_last: bool,
        parts: &mut Parts<'_>,
    ) -> Result<()> {
        for &parameter in parameters {
            let filling = self.filling.entry((pipe, stage)).or_default();
            filling.bytes += parts.stages.get(pipe, stage)?.bytes_of(parameter);
            filling.parameters.push(parameter);
            if filling.bytes >= self.bucket_bytes {
                self.full(pipe, stage);
            }
        }
        let has_more = |filling: &Filling| !filling.parameters.is_empty();
        if is_last && self.filling.get(&(pipe, stage)).is_some_and(has_more) {
            self.full(pipe, stage);
        }
        // A device would have to be done with its queue first: it is asked once, at the end.
        let is_costly = self.to_processes && matches!(parts.lane, Lane::Queue(_));
        if is_costly { Ok(()) } else { self.send(parts) }
    }

    /// The bucket of a stage gets no more parameters.
    fn full(&mut self, pipe: Pipe, stage: Stage) {
        let filling = self.filling.entry((pipe, stage)).or_default();
        let next = Filling { number: filling.number + 1, ..Filling::default() };
        self.full.push((pipe, stage, std::mem::replace(filling, next)));
    }

    /// Sends all full buckets.
    pub(crate) fn send(&mut self, parts: &mut Parts<'_>) -> Result<()> {
        for (pipe, stage, filling) in std::mem::take(&mut self.full) {
            let Filling { number, parameters, bytes } = filling;
            let bucket = Bucket { stage, number };
            let sent = parts.journal.now(parts.lane)?;
            let sums = parts.stages.get(pipe, stage)?.finish(
                &parameters,
                parts.lane,
                self.to_processes,
            )?;
            self.shared.push(Arc::clone(&sums));
            let copy = self.links.send(pipe, bucket, &sums)?;
            let n_copies = self.links.n_copies();
            let under_way = self.under_way.entry(bucket).or_insert_with(|| UnderWay {
                parameters,
                bytes: bytes as u64,
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

    /// Takes the means of which all sums are there. Never waits, and neither does the device.
    pub(crate) fn advance(&mut self, parts: &mut Parts<'_>) -> Result<()> {
        while let Some(parcel) = self.links.take()? {
            self.arrived(parcel)?;
        }
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
        let UnderWay { parameters, bytes, sent, copies } =
            self.under_way.remove(&bucket).ok_or(missing)?;
        let copies: Option<Vec<Sums>> = copies.into_iter().collect();
        let copies = copies.ok_or(RankError::Missing("the gradient of a copy"))?;
        parts.stages.average(bucket.stage, &parameters, &copies, parts.lane)?;
        let micro_batch = MicroBatch(bucket.number);
        let place = Place { kind: SpanKind::AllReduce, stage: bucket.stage, micro_batch };
        let end = parts.journal.now(parts.lane)?;
        parts.journal.moved(place, sent, end, bytes);
        Ok(())
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
            let copy = self.links.send_to_first(pipe, Bucket { stage, number: 0 }, &sums)?;
            match found.get_mut(&stage) {
                Some(copies) => copies[copy] = Some(sums),
                // The memory is that of the rank that gets it.
                None if !self.to_processes => sums.sizes().for_each(memory::moved_out),
                None => {}
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
