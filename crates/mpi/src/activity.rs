//! What the thread of a rank does, for the watching thread.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the rank's thread does with its port.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    polls: AtomicU64,
    pending: AtomicUsize,
}

impl Activity {
    pub(crate) fn polled(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has looked so far.
    pub(crate) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// Messages to and from other hosts that are under way.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(crate) fn set_pending(&self, pending: usize) {
        self.pending.store(pending, Ordering::Relaxed);
    }
}
