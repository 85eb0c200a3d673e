//! Activations that wait for their backward, and guards that count them.

use std::cell::Cell;
use std::rc::Rc;

/// Counts what a rank holds: live (stage, micro-batch) pairs, and the bytes that wait for weight
/// gradients to be summed; of each the most there ever was.
#[derive(Clone, Debug, Default)]
pub struct Stash(Rc<Count>);

#[derive(Debug, Default)]
struct Count {
    live: Cell<u32>,
    peak: Cell<u32>,
    residue_bytes: Cell<u64>,
    residue_bytes_peak: Cell<u64>,
}

impl Stash {
    /// One more pair is held, until the guard is dropped.
    pub fn hold(&self) -> Held {
        let live = self.0.live.get() + 1;
        self.0.live.set(live);
        self.0.peak.set(self.0.peak.get().max(live));
        Held(Rc::clone(&self.0))
    }

    /// So many bytes are kept until a weight gradient is summed: until the guard is dropped.
    pub fn keep(&self, bytes: u64) -> Kept {
        let live = self.0.residue_bytes.get() + bytes;
        self.0.residue_bytes.set(live);
        self.0.residue_bytes_peak.set(self.0.residue_bytes_peak.get().max(live));
        Kept { count: Rc::clone(&self.0), bytes }
    }

    /// The most bytes kept for weight gradients since the last call, which starts a new count.
    pub fn take_residue_peak(&self) -> u64 {
        self.0.residue_bytes_peak.replace(self.0.residue_bytes.get())
    }

    /// Pairs held now.
    pub fn live(&self) -> u32 {
        self.0.live.get()
    }

    /// The most since the last call, which starts a new count.
    pub fn take_peak(&self) -> u32 {
        self.0.peak.replace(self.0.live.get())
    }
}

/// One (stage, micro-batch) pair that is held. Dropping it is the only way to let go, so that the
/// count cannot be wrong, also when a step ends early.
#[derive(Debug)]
pub struct Held(Rc<Count>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get() - 1);
    }
}

/// What waits for a weight gradient to be summed: residues, or the finished gradient of a layer
/// that cannot postpone it.
#[derive(Debug)]
pub struct Kept {
    count: Rc<Count>,
    bytes: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.count.residue_bytes.set(self.count.residue_bytes.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_count_themselves() {
        let stash = Stash::default();
        let (a, b) = (stash.hold(), stash.hold());
        drop(a);
        let c = stash.hold();
        assert_eq!((stash.live(), stash.take_peak()), (2, 2));
        drop((b, c));
        assert_eq!((stash.live(), stash.take_peak(), stash.take_peak()), (0, 2, 0));
        let (a, b) = (stash.keep(3), stash.keep(4));
        drop(a);
        let c = stash.keep(1);
        assert_eq!((stash.take_residue_peak(), stash.take_residue_peak()), (7, 5));
        drop((b, c));
        stash.take_residue_peak();
        assert_eq!(stash.take_residue_peak(), 0);
    }
}
