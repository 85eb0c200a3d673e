//! A log that is played again, by a clock of one's own.

use std::collections::VecDeque;
use std::path::Path;

use pp_trace::{Event, ReadError};

use crate::follower::Follower;
use crate::model::Frame;

/// Plays the events of a log by a clock that somebody else moves.
///
/// What is played until a moment is what a viewer of the live run had seen at that moment.
#[derive(Debug)]
pub struct Replay {
    follower: Follower,
    ahead: VecDeque<Event>,
    clock_ns: u64,
    /// The latest moment of an event that was played.
    played_ns: u64,
    is_at_end: bool,
}

impl Replay {
    /// From the beginning of a log.
    pub fn new(path: &Path) -> Self {
        Self::of(Follower::new(path))
    }

    /// From the last of these marks before a step that can be read, else from the beginning.
    pub fn before(path: &Path, frames: &[Frame], step: u64) -> Self {
        let offsets =
            frames.iter().rev().filter(|frame| frame.step < step).map(|frame| frame.offset);
        Self::of(Follower::from_first_mark(path, offsets))
    }

    fn of(follower: Follower) -> Self {
        Self { follower, ahead: VecDeque::new(), clock_ns: 0, played_ns: 0, is_at_end: false }
    }

    /// Moves the clock on and plays what has happened until then, `n_max` events at most. Returns
    /// how many were played.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn advance(
        &mut self,
        by_ns: u64,
        n_max: usize,
        mut on_event: impl FnMut(Event),
    ) -> Result<usize, ReadError> {
        self.clock_ns = self.clock_ns.saturating_add(by_ns);
        let mut n_played = 0;
        while n_played < n_max {
            self.read_ahead()?;
            // What has no time of its own belongs to what was before.
            let is_due = |event: &Event| event.time_ns().is_none_or(|time| time <= self.clock_ns);
            if !self.ahead.front().is_some_and(is_due) {
                break;
            }
            let Some(event) = self.ahead.pop_front() else { break };
            self.played_ns = self.played_ns.max(event.time_ns().unwrap_or(0));
            on_event(event);
            n_played += 1;
        }
        Ok(n_played)
    }

    /// Plays until a step is over, whatever the clock says, and sets the clock to that moment; to
    /// the end where there is no such step.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn play_to_step(
        &mut self,
        step: u64,
        mut on_event: impl FnMut(Event),
    ) -> Result<(), ReadError> {
        loop {
            self.read_ahead()?;
            let Some(event) = self.ahead.pop_front() else { break };
            self.played_ns = self.played_ns.max(event.time_ns().unwrap_or(0));
            let is_it = matches!(&event, Event::Step(found) if found.step >= step);
            on_event(event);
            if is_it {
                break;
            }
        }
        self.clock_ns = self.played_ns;
        Ok(())
    }

    fn read_ahead(&mut self) -> Result<(), ReadError> {
        while self.ahead.is_empty() && !self.is_at_end {
            let ahead = &mut self.ahead;
            let poll = self.follower.poll(|event| ahead.push_back(event))?;
            self.is_at_end = poll.at_end && poll.n_events == 0;
        }
        Ok(())
    }

    /// Sets the clock back, where more is due than one can play in time, to no more than so much
    /// beyond what was played: what is shown and the clock belong together.
    pub fn hold_clock(&mut self, ahead_ns: u64) {
        let is_due = self.ahead.front().and_then(Event::time_ns);
        if is_due.is_some_and(|time| time <= self.clock_ns) {
            self.clock_ns = self.clock_ns.min(self.played_ns.saturating_add(ahead_ns));
        }
    }

    /// Sets the clock to the next event, where nothing happens for a while: the time before the
    /// first step, for example.
    pub fn skip_silence(&mut self, longer_than_ns: u64) {
        if let Some(time) = self.ahead.front().and_then(Event::time_ns)
            && time > self.clock_ns.saturating_add(longer_than_ns)
        {
            self.clock_ns = time;
        }
    }

    /// The clock, in nanoseconds since the run began.
    pub fn clock_ns(&self) -> u64 {
        self.clock_ns
    }

    /// Whether everything was played.
    pub fn is_over(&self) -> bool {
        self.is_at_end && self.ahead.is_empty()
    }

    /// Lines that were no events.
    pub fn n_bad_lines(&self) -> u64 {
        self.follower.n_bad_lines()
    }
}
