//! Links between the ranks of one process: a mailbox each, sends that never block.
//!
//! A mailbox gets two kinds of parcels: the inputs of ops, from ranks of the same replica, and sums
//! of gradients, from the other copies of the rank's stages. A rank asks for an input by its key,
//! and takes sums in the order in which they come.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use pp_nn::memory;
use pp_schedule::{MicroBatch, Op, Payload, Phase, Stage, Transfer};

use crate::boundary::Tensors;
use crate::exchange::CopyParcel;
use crate::lane::Made;

/// The name of a message within a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) payload: Payload,
    pub(crate) to_stage: Stage,
    pub(crate) micro_batch: MicroBatch,
}

impl Key {
    /// What `op` makes for `to_stage`; or, with its own stage, what it starts from itself.
    pub(crate) fn of(op: Op, to_stage: Stage) -> Self {
        let payload = match op.phase {
            Phase::Forward => Payload::Activation,
            Phase::Backward | Phase::InputGrad | Phase::WeightGrad => Payload::Gradient,
        };
        Self { payload, to_stage, micro_batch: op.micro_batch }
    }
}

impl From<Transfer> for Key {
    fn from(transfer: Transfer) -> Self {
        Self {
            payload: transfer.payload,
            to_stage: transfer.to_stage,
            micro_batch: transfer.micro_batch,
        }
    }
}

struct Parcel {
    key: Key,
    tensors: Tensors,
    /// The queue in which they are made; `None` where they are there.
    made: Option<Made>,
    /// Whether the receiver alone holds them from now on.
    given: bool,
    deliver_at: Instant,
}

/// Boxed, so that the channel's own blocks stay small.
enum Message {
    Parcel(Box<Parcel>),
    /// Sums of a copy of a stage, and when they arrive.
    Sums(Box<(CopyParcel, Instant)>),
    /// Another rank failed.
    Stop,
}

/// How long a rank that has a core of its own looks again and again before it lets itself be woken:
/// a wake-up costs some 20 us, and in a balanced pipeline the message is often that near. A
/// micro-batch that computes next to nothing costs 19 us so, and 51 us without it (`just bench`,
/// links).
const SPIN: Duration = Duration::from_micros(100);

/// The sending half of a rank's mailbox.
#[derive(Clone)]
pub(crate) struct Address {
    sender: Sender<Message>,
    waiting: Arc<Waiting>,
    delay: Duration,
}

/// Messages that were sent and not used yet.
#[derive(Debug, Default)]
struct Waiting {
    now: AtomicU32,
    peak: AtomicU32,
}

/// The receiving half.
pub(crate) struct Mailbox {
    receiver: Receiver<Message>,
    /// Messages that came before they were asked for.
    arrived: HashMap<Key, Box<Parcel>>,
    /// Sums of other copies, in the order in which they were sent.
    sums: VecDeque<Box<(CopyParcel, Instant)>>,
    waiting: Arc<Waiting>,
    /// Whether there is a core for each rank, so that looking takes none from another.
    spins: bool,
}

/// A message.
pub(crate) struct Received {
    pub(crate) tensors: Tensors,
    /// The queue in which they are made; `None` where they are there.
    pub(crate) made: Option<Made>,
    /// Whether it was there already.
    pub(crate) at_once: bool,
}

/// Told to stop while waiting.
#[derive(Debug)]
pub(crate) struct Stopped;

/// What ends a wait for the input of an op.
pub(crate) enum Event {
    /// The input.
    Received(Received),
    /// Sums of another copy are there: [`Mailbox::take_sums`]. It says whether they were there at
    /// once.
    Sums(bool),
}

/// A mailbox and its address; every message takes `delay` to arrive. `spins` says that there is a
/// core for each rank.
pub(crate) fn mailbox(delay: Duration, spins: bool) -> (Address, Mailbox) {
    let (sender, receiver) = channel();
    let waiting = Arc::new(Waiting::default());
    let address = Address { sender, waiting: Arc::clone(&waiting), delay };
    let mailbox =
        Mailbox { receiver, arrived: HashMap::new(), sums: VecDeque::new(), waiting, spins };
    (address, mailbox)
}

/// The bytes of each tensor: the allocator counts them one by one.
fn each_size(tensors: &[Option<Tensor>]) -> impl Iterator<Item = usize> {
    tensors.iter().flatten().map(|t| t.elem_count() * t.dtype().size_in_bytes())
}

pub(crate) fn bytes(tensors: &[Option<Tensor>]) -> usize {
    each_size(tensors).sum()
}

impl Address {
    /// Sends; never blocks. `given` says that the sender keeps no handle of the tensors, so that
    /// their memory is the receiver's from now on. A receiver that is gone has failed: its own
    /// answer is the better error.
    pub(crate) fn send(&self, key: Key, tensors: Tensors, made: Option<Made>, given: bool) {
        if given {
            each_size(&tensors).for_each(memory::moved_out);
        }
        let now = self.waiting.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.waiting.peak.fetch_max(now, Ordering::Relaxed);
        let deliver_at = Instant::now() + self.delay;
        let parcel = Parcel { key, tensors, made, given, deliver_at };
        let _ = self.sender.send(Message::Parcel(Box::new(parcel)));
    }

    /// Sends the sums of a copy of a stage; never blocks.
    pub(crate) fn send_sums(&self, parcel: CopyParcel) {
        let parcel = Box::new((parcel, Instant::now() + self.delay));
        let _ = self.sender.send(Message::Sums(parcel));
    }

    /// Makes the rank give up at its next receive.
    pub(crate) fn stop(&self) {
        let _ = self.sender.send(Message::Stop);
    }
}

impl Mailbox {
    /// Takes the input of an op, and waits for it if need be; but not while there are sums to take.
    pub(crate) fn receive(&mut self, key: Key) -> Result<Event, Stopped> {
        let mut at_once = true;
        loop {
            self.drain()?;
            if self.has_sums() {
                return Ok(Event::Sums(at_once));
            }
            let now = Instant::now();
            let deliver_at = self.arrived.get(&key).map(|parcel| parcel.deliver_at);
            if deliver_at.is_some_and(|at| at <= now) {
                break;
            }
            at_once = false;
            self.wait(deliver_at)?;
        }
        let Some(parcel) = self.arrived.remove(&key) else { return Err(Stopped) };
        self.waiting.now.fetch_sub(1, Ordering::Relaxed);
        if parcel.given {
            each_size(&parcel.tensors).for_each(memory::moved_in);
        }
        let Parcel { tensors, made, .. } = *parcel;
        Ok(Event::Received(Received { tensors, made, at_once }))
    }

    /// Takes sums of another copy, if some have arrived.
    pub(crate) fn take_sums(&mut self) -> Result<Option<CopyParcel>, Stopped> {
        self.drain()?;
        Ok(if self.has_sums() { self.sums.pop_front().map(|parcel| parcel.0) } else { None })
    }

    /// Takes sums of another copy, and waits for them if need be.
    pub(crate) fn receive_sums(&mut self) -> Result<CopyParcel, Stopped> {
        loop {
            if let Some(parcel) = self.take_sums()? {
                return Ok(parcel);
            }
            self.wait(None)?;
        }
    }

    /// Whether the first of the sums have arrived. All take the same time, so they arrive in the
    /// order in which they were sent.
    fn has_sums(&self) -> bool {
        self.sums.front().is_some_and(|parcel| parcel.1 <= Instant::now())
    }

    /// Waits for a message, or until one that was sent arrives: the sums, or what arrives at
    /// `deliver_at`.
    fn wait(&mut self, deliver_at: Option<Instant>) -> Result<(), Stopped> {
        let of_sums = self.sums.front().map(|parcel| parcel.1);
        let until = deliver_at.into_iter().chain(of_sums).min();
        let message = match until {
            None => Some(self.next()?),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                match self.receiver.recv_timeout(left) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
                }
            }
        };
        message.map_or(Ok(()), |message| self.keep(message))
    }

    /// The next message, whenever it comes.
    fn next(&mut self) -> Result<Message, Stopped> {
        if self.spins {
            let begun = Instant::now();
            while begun.elapsed() < SPIN {
                match self.receiver.try_recv() {
                    Ok(message) => return Ok(message),
                    Err(TryRecvError::Empty) => std::hint::spin_loop(),
                    Err(TryRecvError::Disconnected) => return Err(Stopped),
                }
            }
        }
        self.receiver.recv().map_err(|_| Stopped)
    }

    /// Looks through what lies in the channel without waiting: a stop must not hide behind it.
    fn drain(&mut self) -> Result<(), Stopped> {
        while let Ok(message) = self.receiver.try_recv() {
            self.keep(message)?;
        }
        Ok(())
    }

    fn keep(&mut self, message: Message) -> Result<(), Stopped> {
        match message {
            Message::Parcel(parcel) => {
                self.arrived.insert(parcel.key, parcel);
                Ok(())
            }
            Message::Sums(parcel) => {
                self.sums.push_back(parcel);
                Ok(())
            }
            Message::Stop => Err(Stopped),
        }
    }

    /// The most messages that waited since the last call.
    pub(crate) fn take_peak(&self) -> u32 {
        self.waiting.peak.swap(self.waiting.now.load(Ordering::Relaxed), Ordering::Relaxed)
    }
}
