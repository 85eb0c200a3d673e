//! How far the clock of this process is behind that of process 0.
//!
//! Each call ends with a message to process 0 and one back, and their four times bound the
//! difference from both sides. The method is that of the Network Time Protocol (RFC 5905, section
//! 8): the exchange with the shortest way there and back tells most.

use std::collections::VecDeque;

/// Exchanges that are looked back on. Clocks drift, so an old one tells less and less.
const KEPT: usize = 64;

/// What the last exchanges told.
#[derive(Debug, Default)]
pub(crate) struct PeerClock(VecDeque<Exchange>);

#[derive(Clone, Copy, Debug)]
struct Exchange {
    /// What to add to a time of this process, in nanoseconds.
    offset_ns: i64,
    /// How long both messages took together.
    round_trip_ns: u64,
}

impl PeerClock {
    /// Notes an exchange: sent here, arrived there, answered there, arrived here, in nanoseconds,
    /// each by the clock of its place.
    pub(crate) fn note(&mut self, sent: u64, arrived: u64, answered: u64, back: u64) {
        let [sent, arrived, answered, back] = [sent, arrived, answered, back].map(|ns| ns as i64);
        let offset_ns = i64::midpoint(arrived - sent, answered - back);
        let round_trip_ns = ((back - sent) - (answered - arrived)).max(0) as u64;
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Exchange { offset_ns, round_trip_ns });
    }

    /// What to add to a time of this process, and how long the exchange took that told it, in
    /// nanoseconds. The offset is wrong by half of that time at most.
    pub(crate) fn offset(&self) -> (i64, u64) {
        let best = self.0.iter().min_by_key(|exchange| exchange.round_trip_ns);
        best.map_or((0, 0), |best| (best.offset_ns, best.round_trip_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_exchange_of_the_last_ones_tells_the_offset() {
        let mut clock = PeerClock::default();
        assert_eq!(clock.offset(), (0, 0));
        // The other clock is 5 minutes ahead. Each way takes 10, but the first answer lay there for
        // a while before anybody looked.
        let ahead = 300_000_000_000;
        clock.note(1_000, ahead + 1_710, ahead + 1_720, 1_730);
        let (offset, round_trip) = clock.offset();
        assert_eq!((offset - ahead as i64, round_trip), (350, 720));
        clock.note(2_000, ahead + 2_010, ahead + 2_500, 2_510);
        assert_eq!(clock.offset(), (ahead as i64, 20));
        // And one that is behind.
        let mut clock = PeerClock::default();
        clock.note(ahead + 2_000, 2_010, 2_500, ahead + 2_510);
        assert_eq!(clock.offset(), (-(ahead as i64), 20));
        // What is long ago counts no longer.
        for k in 0..KEPT as u64 {
            clock.note(ahead + 9_000 + k, 9_100 + k, 9_200 + k, ahead + 9_300 + k);
        }
        assert_eq!(clock.offset(), (-(ahead as i64), 200));
    }
}
