//! Ranks as processes: what carries their messages.
//!
//! Each process of a world has one rank, and all of them run the same program. They make the same
//! calls in the same order, and each call ends on all of them together.

#[cfg(any(test, feature = "fault-injection"))]
mod double;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candle_core::Tensor;

use crate::progress::Progress;

#[cfg(any(test, feature = "fault-injection"))]
pub use double::threads_as_processes;

/// Words of a label. A transport hands them on as they are.
pub const LABEL_WORDS: usize = 5;

/// The processes of a run, each of which has one rank.
///
/// The index of a process is the place of its rank: replica by replica, and in each rank by rank.
/// Process 0 records the run.
pub trait World: Send + Sync {
    /// How many processes there are.
    fn size(&self) -> u32;

    /// The index of this process.
    fn index(&self) -> u32;

    /// The name of the host of each process, by index.
    fn hosts(&self) -> &[String];

    /// The cores that the processes may use, over all hosts.
    fn cores(&self) -> u32;

    /// Whether there is a core for each rank on this host, so that a rank may look for a message
    /// again and again.
    fn spins(&self) -> bool;

    /// Opens the links of this process's rank, and calls `body` with them, once, on this thread.
    /// Returns when `body` does.
    ///
    /// # Errors
    /// The links cannot be opened; `body` is not called then.
    fn open(&self, body: &mut dyn FnMut(Box<dyn Port>)) -> Result<(), LinkError>;

    /// Process 0 gives `bytes` to all others; `None` on every other process, which gets them. All
    /// processes call this at the same time, outside of any call to the ranks.
    ///
    /// # Errors
    /// A process that is gone, or a message that could not be moved.
    fn broadcast(&self, bytes: Option<Vec<u8>>) -> Result<Vec<u8>, LinkError>;

    /// Sends process 0 a note. Any thread may do so, at any time; it waits until the note is on its
    /// way.
    ///
    /// # Errors
    /// The note cannot be sent.
    fn note(&self, bytes: Vec<u8>) -> Result<(), LinkError>;

    /// On process 0, the notes that have arrived since the last call, each with the process that sent
    /// it. Never waits.
    fn notes(&self) -> Vec<(u32, Vec<u8>)>;

    /// Lets the world tell other processes what the rank of this one is doing, and write into the
    /// same table what theirs are doing, as far as this process is told.
    fn watch(&self, progress: Progress);

    /// Tells all other processes that this one cannot go on, and why, in plain text. Waits for a
    /// second at most: whoever cannot be told notices the silence.
    fn fail(&self, notice: Vec<u8>);

    /// The reason why the run cannot go on, if another process has one. Never waits.
    fn trouble(&self) -> Option<Trouble>;

    /// A flag for whoever learns that this process was asked to end. The reason may be that another
    /// one has died: once the flag is set, that is looked for at once.
    fn hurried(&self) -> Arc<AtomicBool>;

    /// Ends all processes at once, and does not return.
    fn abort(&self, code: i32) -> !;
}

/// The links of one rank to those of other processes. It stays on the thread that opened it.
pub trait Port {
    /// Starts to send tensors of the host to a process, and returns at once. The tensors are kept
    /// until they are sent, and nobody may change them until the receiver has answered.
    ///
    /// `edge` is a number for messages whose tensors always have the same types and shapes: the
    /// receiver may make room for the next one before it comes.
    ///
    /// # Errors
    /// The message cannot be sent.
    fn send(
        &mut self,
        to: u32,
        label: [u64; LABEL_WORDS],
        edge: Option<u32>,
        tensors: Vec<Tensor>,
    ) -> Result<(), LinkError>;

    /// Moves messages on. Returns one that has arrived, if there is one. Never waits.
    ///
    /// # Errors
    /// A message could not be moved.
    fn poll(&mut self) -> Result<Option<Message>, LinkError>;
}

/// A message that has arrived.
#[derive(Debug)]
pub struct Message {
    /// The process that sent it.
    pub from: u32,
    /// What it is.
    pub label: [u64; LABEL_WORDS],
    /// Its tensors, on the host.
    pub tensors: Vec<Tensor>,
}

/// Why a run cannot go on.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// A process has told so.
    Told {
        /// The process.
        from: u32,
        /// What it told, see [`World::fail`].
        notice: Arc<[u8]>,
    },
    /// A process is gone, is stopped, or cannot be reached.
    Lost {
        /// The process.
        index: u32,
        /// For how long it has been silent.
        silent: Duration,
    },
}

impl Trouble {
    /// What a notice says: see [`World::fail`].
    pub fn why(notice: &[u8]) -> String {
        let found: Result<serde_json::Value, _> = serde_json::from_slice(notice);
        let why = found.ok().and_then(|found| found.get("why")?.as_str().map(ToOwned::to_owned));
        why.unwrap_or_else(|| String::from_utf8_lossy(notice).into_owned())
    }
}

/// A message could not be moved.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct LinkError(
    /// What the transport said.
    pub String,
);

/// The world of a run, where its ranks are processes.
#[derive(Clone)]
pub struct InWorld(pub Arc<dyn World>);

impl fmt::Debug for InWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.0.index(), self.0.size())
    }
}
