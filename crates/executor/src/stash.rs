//! Activations that wait for their backward, and guards that count them.

use std::cell::Cell;
use std::rc::Rc;

/// Counts what a rank holds: live (stage, micro-batch) pairs, and the most there ever were.
#[derive(Clone, Debug, Default)]
pub struct Stash(Rc<Count>);

#[derive(Debug, Default)]
struct Count {
    live: Cell<u32>,
    peak: Cell<u32>,
}

impl Stash {
    /// One more pair is held, until the guard is dropped.
    pub fn hold(&self) -> Held {
        let live = self.0.live.get() + 1;
        self.0.live.set(live);
        self.0.peak.set(self.0.peak.get().max(live));
        Held(Rc::clone(&self.0))
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
    }
}
