//! The links of a rank whose neighbours are in other processes.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use pp_schedule::Pipe;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, bytes_of, from_bytes, tensor_of, to_bytes};
use super::clock::PeerClock;
use super::label::{Content, Label};
use crate::boundary::Tensors;
use crate::error::RankError;
use crate::exchange::{Bucket, Copies, CopyParcel, CopySums, Exchange, Sums};
use crate::link::{Event, Key, Received};
use crate::transport::{LinkError, Port, World};

type Result<T> = std::result::Result<T, RankError>;

/// How long a rank with a core of its own looks again and again before it sleeps between two looks.
const SPIN: Duration = Duration::from_millis(2);
/// How long it then sleeps. Each look takes some microseconds of the core.
const PAUSE: Duration = Duration::from_micros(50);

/// The links of one rank. They are those of its thread.
pub(crate) struct Links {
    world: Arc<dyn World>,
    port: Box<dyn Port>,
    n_ranks: u32,
    /// The number of the call that this rank is in, and its step.
    call: u64,
    step: u64,
    /// Whether the messages of this call have the shapes of every step.
    has_edges: bool,
    /// Messages that came before they were asked for, with the call that they belong to.
    arrived: HashMap<(u64, Content), Arrived>,
    /// Names of messages with sums that came and were not taken, in the order of their arrival.
    sums: VecDeque<(u64, Content)>,
    /// How long messages of a step take, beyond what they really take.
    delay: Duration,
    /// The most messages that waited.
    peak: usize,
    /// Set when this rank has to give up.
    is_stopped: Arc<AtomicBool>,
    origin: Instant,
    clock: PeerClock,
}

struct Arrived {
    label: Label,
    tensors: Vec<Tensor>,
    /// When it was seen, in nanoseconds of this process.
    at_ns: u64,
}

/// The head of a verdict: two times of process 0, in nanoseconds.
#[derive(Serialize, Deserialize)]
struct Times {
    /// When the answer arrived.
    arrived: u64,
    /// When the verdict was sent.
    answered: u64,
}

/// The links of a rank, for all parts of it.
pub(crate) type SharedLinks = Rc<RefCell<Links>>;

impl Links {
    pub(crate) fn new(
        world: Arc<dyn World>,
        port: Box<dyn Port>,
        n_ranks: u32,
        is_stopped: Arc<AtomicBool>,
        (origin, delay): (Instant, Duration),
    ) -> SharedLinks {
        Rc::new(RefCell::new(Self {
            world,
            port,
            n_ranks,
            call: 0,
            step: 0,
            has_edges: false,
            arrived: HashMap::new(),
            sums: VecDeque::new(),
            delay,
            peak: 0,
            is_stopped,
            origin,
            clock: PeerClock::default(),
        }))
    }

    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// A call begins, the same on all processes.
    pub(crate) fn begin_call(&mut self) {
        self.call += 1;
        self.has_edges = false;
    }

    /// The step that messages belong to from now on.
    pub(crate) fn begin_step(&mut self, step: u64) {
        self.step = step;
        self.has_edges = true;
    }

    /// What to add to a time of this process to have that of process 0, in nanoseconds.
    pub(crate) fn offset_ns(&self) -> i64 {
        self.clock.offset().0
    }

    /// The same, and the time of the exchange that told it.
    pub(crate) fn offset(&self) -> (i64, u64) {
        self.clock.offset()
    }

    /// Sends what an op made to another rank of this replica.
    pub(crate) fn send_boundary(&mut self, to_rank: u32, key: Key, tensors: Tensors) -> Result<()> {
        if tensors.len() > SIZE_AT as usize {
            return Err(RankError::Missing("a bit for each tensor of a boundary"));
        }
        let present = tensors.iter().enumerate();
        let present = present.fold(0, |all, (i, tensor)| all | (u64::from(tensor.is_some()) << i));
        // A boundary may end in tensors that are not there.
        let present = present | (((tensors.len() as u64) << SIZE_AT) & SIZES);
        let replica = self.world.index() / self.n_ranks;
        let tensors = tensors.into_iter().flatten().collect();
        self.send(replica * self.n_ranks + to_rank, Content::Boundary(key), present, tensors)
    }

    fn send(
        &mut self,
        to: u32,
        content: Content,
        present: u64,
        tensors: Vec<Tensor>,
    ) -> Result<()> {
        let sent_ns = self.now_ns().saturating_add_signed(self.clock.offset().0);
        let label = Label { call: self.call, step: self.step, content, sent_ns, present };
        let edge = if self.has_edges { label.edge() } else { None };
        Ok(self.port.send(to, label.to_words(), edge, tensors)?)
    }

    /// Moves messages on, without waiting for any.
    pub(crate) fn poll(&mut self) -> Result<()> {
        while let Some(message) = self.port.poll()? {
            let words = message.label;
            let Some(label) = Label::from_words(words) else {
                let why = format!("process {} sent an unknown message: {words:?}", message.from);
                return Err(LinkError(why).into());
            };
            self.keep(message.from, label, message.tensors)?;
        }
        Ok(())
    }

    /// A message is of this call, or of the next one, which its sender may have begun already.
    fn keep(&mut self, from: u32, label: Label, tensors: Vec<Tensor>) -> Result<()> {
        let at_ns = self.now_ns();
        let is_due = label.call == self.call || label.call == self.call + 1;
        let arrived = Arrived { label, tensors, at_ns };
        let is_second =
            is_due && self.arrived.insert((label.call, label.content), arrived).is_some();
        self.peak = self.peak.max(self.arrived.len());
        if is_due && !is_second {
            if matches!(label.content, Content::Sums { .. }) {
                self.sums.push_back((label.call, label.content));
            }
            return Ok(());
        }
        let expected = format!("a message of call {} (step {})", self.call, self.step);
        let arrived = format!("{label} of process {from}");
        let arrived = if is_second { format!("{arrived} a second time") } else { arrived };
        Err(RankError::OutOfPlace { arrived, expected })
    }

    /// Whether a message is there, and late enough.
    fn is_there(&self, wanted: (u64, Content)) -> bool {
        let Some(arrived) = self.arrived.get(&wanted) else { return false };
        let is_of_step = matches!(wanted.1, Content::Boundary(_) | Content::Sums { .. });
        if self.delay.is_zero() || !is_of_step {
            return true;
        }
        let now = self.now_ns().saturating_add_signed(self.clock.offset().0);
        now >= arrived.label.sent_ns + self.delay.as_nanos() as u64
    }

    /// Waits until `is_over` finds something. Also tells whether it was there at once.
    fn wait_for<T>(&mut self, is_over: impl Fn(&Self) -> Option<T>) -> Result<(T, bool)> {
        let mut at_once = true;
        let mut begun = None;
        loop {
            self.poll()?;
            if let Some(found) = is_over(self) {
                return Ok((found, at_once));
            }
            at_once = false;
            if self.is_stopped.load(Ordering::Relaxed) || self.world.trouble().is_some() {
                return Err(RankError::Stopped);
            }
            let begun = *begun.get_or_insert_with(Instant::now);
            if self.world.spins() && begun.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Waits for a message of this call.
    fn receive(&mut self, content: Content) -> Result<Arrived> {
        let wanted = (self.call, content);
        self.wait_for(|links| links.is_there(wanted).then_some(()))?;
        self.arrived.remove(&wanted).ok_or(RankError::Missing("a message that has arrived"))
    }

    /// Waits for the input of an op; but not while there are sums to take.
    pub(crate) fn receive_boundary(&mut self, key: Key) -> Result<Event> {
        let wanted = (self.call, Content::Boundary(key));
        let (is_sums, at_once) = self.wait_for(|links| {
            let is_sums = links.first_sums().is_some();
            (is_sums || links.is_there(wanted)).then_some(is_sums)
        })?;
        if is_sums {
            return Ok(Event::Sums(at_once));
        }
        let arrived = self.arrived.remove(&wanted);
        let arrived = arrived.ok_or(RankError::Missing("a message that has arrived"))?;
        let present = arrived.label.present;
        let n = (present & SIZES) >> SIZE_AT;
        let mut there = arrived.tensors.into_iter();
        let tensor = |i: u64| if present & (1 << i) == 0 { None } else { there.next() };
        let tensors = (0..n).map(tensor).collect();
        Ok(Event::Received(Received { tensors, made: None, at_once }))
    }

    /// The name of sums of this call that are there to be taken.
    fn first_sums(&self) -> Option<(u64, Content)> {
        let is_due = |name: &&(u64, Content)| name.0 == self.call && self.is_there(**name);
        self.sums.iter().find(is_due).copied()
    }

    /// Takes sums of this call that are there.
    fn take_sums(&mut self, name: (u64, Content)) -> Result<CopyParcel> {
        self.sums.retain(|other| *other != name);
        match (name.1, self.arrived.remove(&name)) {
            (Content::Sums { bucket, copy }, Some(Arrived { tensors, .. })) => {
                let sums = Arc::new(CopySums { tensors, made: None });
                Ok(CopyParcel { bucket, copy: copy as usize, sums })
            }
            _ => Err(RankError::Missing("sums that have arrived")),
        }
    }

    /// The most messages that waited since the last call of this.
    pub(crate) fn take_peak(&mut self) -> u32 {
        std::mem::replace(&mut self.peak, self.arrived.len()) as u32
    }

    /// Ends a call: process 0 gets all answers, and tells all others what they need of them. The
    /// answers are in the order of processes.
    pub(crate) fn share<T: Answer>(&mut self, mine: T) -> Result<Vec<T>> {
        let (me, n) = (self.world.index(), self.world.size());
        if me > 0 {
            let (bytes, mut tensors) = mine.pack()?;
            tensors.insert(0, tensor_of(bytes)?);
            let sent = self.now_ns();
            self.send(0, Content::Answer { from: me }, 0, tensors)?;
            let arrived = self.receive(Content::Verdict)?;
            let [head, bytes] = &arrived.tensors[..] else {
                return Err(RankError::Missing("a whole verdict"));
            };
            let times: Times = from_bytes(&bytes_of(head)?)?;
            self.clock.note(sent, times.arrived, times.answered, arrived.at_ns);
            let all: Vec<Vec<u8>> = from_bytes(&bytes_of(bytes)?)?;
            let unpack = |bytes: Vec<u8>| T::unpack(&bytes, Vec::new());
            let mut all =
                all.into_iter().map(unpack).collect::<std::result::Result<Vec<T>, _>>()?;
            let own = all.get_mut(me as usize).ok_or(RankError::Missing("an answer"))?;
            *own = mine;
            return Ok(all);
        }
        let mut all = vec![mine];
        let mut arrived_at = vec![0];
        for from in 1..n {
            let arrived = self.receive(Content::Answer { from })?;
            let mut tensors = arrived.tensors.into_iter();
            let bytes = tensors.next().ok_or(RankError::Missing("an answer"))?;
            all.push(T::unpack(&bytes_of(&bytes)?, tensors.collect())?);
            arrived_at.push(arrived.at_ns);
        }
        let brief = |answer: &T| Ok(answer.brief().pack()?.0);
        let briefs = all.iter().map(brief).collect::<Result<Vec<Vec<u8>>>>()?;
        let briefs = tensor_of(to_bytes(&briefs)?)?;
        for (to, arrived) in (1..n).zip(arrived_at.into_iter().skip(1)) {
            let times = Times { arrived, answered: self.now_ns() };
            let tensors = vec![tensor_of(to_bytes(&times)?)?, briefs.clone()];
            self.send(to, Content::Verdict, 0, tensors)?;
        }
        Ok(all)
    }
}

/// Where the number of tensors of a boundary is, above the bits for each of them.
const SIZE_AT: u32 = 56;
const SIZES: u64 = 0xff << SIZE_AT;

/// The links of a rank to the other copies of its stages.
pub(crate) struct WorldCopies {
    links: SharedLinks,
    copies: Copies,
}

impl WorldCopies {
    pub(crate) fn new(links: SharedLinks, copies: Copies) -> Self {
        Self { links, copies }
    }
}

impl Exchange for WorldCopies {
    fn send(&mut self, pipe: Pipe, bucket: Bucket, sums: &Sums) -> Result<usize> {
        let copy = self.copies.index(pipe);
        for place in self.copies.others(bucket.stage).to_vec() {
            self.send_to(place, bucket, copy, sums)?;
        }
        Ok(copy)
    }

    fn send_to(&mut self, place: usize, bucket: Bucket, copy: usize, sums: &Sums) -> Result<()> {
        let content = Content::Sums { bucket, copy: copy as u32 };
        self.links.borrow_mut().send(place as u32, content, 0, sums.tensors.clone())
    }

    fn send_to_first(&mut self, pipe: Pipe, bucket: Bucket, sums: &Sums) -> Result<usize> {
        let copy = self.copies.index(pipe);
        if let Some(place) = self.copies.first(bucket.stage) {
            self.send_to(place, bucket, copy, sums)?;
        }
        Ok(copy)
    }

    fn take(&mut self) -> Result<Option<CopyParcel>> {
        let mut links = self.links.borrow_mut();
        links.poll()?;
        links.first_sums().map(|name| links.take_sums(name)).transpose()
    }

    fn wait(&mut self) -> Result<CopyParcel> {
        let mut links = self.links.borrow_mut();
        let (name, _) = links.wait_for(Links::first_sums)?;
        links.take_sums(name)
    }

    fn n_copies(&self) -> usize {
        self.copies.n
    }
}
