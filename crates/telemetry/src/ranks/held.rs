//! What the lines of one rank's file say, until it is handed over.

use std::collections::BTreeMap;

use pp_trace::{Event, Mem, RankEnd, RankHead, RankLine, RankStep, Span};

/// Spans of a step of one rank. A longer step is no step.
const SPANS_MAX: usize = 4 << 20;
/// Lines that belong to no step and wait until the ranks of the job are known.
const ASIDES_MAX: usize = 10_000;

/// What is known of one step of one rank.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) spans: Vec<Span>,
    pub(super) memory: Option<Mem>,
    /// Its last line, if the step is over.
    pub(super) step: Option<RankStep>,
}

/// What was read of one rank and not handed over yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) head: Option<RankHead>,
    /// The steps that are held, by their number.
    pub(super) steps: BTreeMap<u64, Part>,
    /// The last step that has begun; 0 before the first.
    pub(super) last_begun: u64,
    /// Steps up to this one have been handed over.
    pub(super) released: u64,
    /// What belongs to no step.
    pub(super) asides: Vec<Event>,
    pub(super) end: Option<RankEnd>,
    /// Why the file is not read any more.
    pub(super) trouble: Option<String>,
    /// Lines of steps that had been handed over already.
    pub(super) n_late: u64,
    /// Lines of a step 0.
    pub(super) n_of_step_0: u64,
    /// Events that its recorder has lost.
    pub(super) n_dropped: u64,
    /// Lines about steps so far: what the rank itself did.
    pub(super) n_of_steps: u64,
}

impl Held {
    /// Takes a line in.
    pub(super) fn take(&mut self, line: RankLine) {
        if self.head.is_none() && !matches!(line, RankLine::Head(_)) {
            let why = "its first line is missing or damaged, so nobody knows whose it is";
            self.trouble = Some(why.to_owned());
            return;
        }
        match line {
            RankLine::Head(head) => {
                if self.head.is_none() {
                    self.head = Some(*head);
                }
            }
            RankLine::Step(step) => {
                if let Some(part) = self.part(step.step) {
                    part.step = Some(step);
                }
            }
            RankLine::End(end) => self.end = Some(end),
            RankLine::Event(Event::Span(span)) => {
                if let Some(part) = self.part(span.step) {
                    part.spans.push(span);
                    if part.spans.len() > SPANS_MAX {
                        let step = span.step;
                        part.spans = Vec::new();
                        self.trouble = Some(format!(
                            "step {step} has more than {SPANS_MAX} spans; the rest of the file is left out"
                        ));
                    }
                }
            }
            RankLine::Event(Event::Mem(memory)) => {
                if let Some(part) = self.part(memory.step) {
                    part.memory = Some(memory);
                }
            }
            RankLine::Event(
                aside @ (Event::Cpu(_)
                | Event::Gpu(_)
                | Event::Log(_)
                | Event::Warn(_)
                | Event::Phase(_)
                | Event::Dropped(_)),
            ) => {
                if self.asides.len() < ASIDES_MAX {
                    self.asides.push(aside);
                }
            }
            // The lines of a whole run have no place in the file of a rank.
            RankLine::Event(_) => {}
        }
    }

    /// The part of a step, unless the step was handed over already.
    fn part(&mut self, step: u64) -> Option<&mut Part> {
        self.n_of_steps += 1;
        if step == 0 {
            self.n_of_step_0 += 1;
            return None;
        }
        if step <= self.released {
            self.n_late += 1;
            return None;
        }
        self.last_begun = self.last_begun.max(step);
        Some(self.steps.entry(step).or_default())
    }

    /// Whether a step is over on this rank: it says so, or is two steps further. One that is
    /// missing before a later one never was.
    pub(super) fn has_closed(&self, step: u64) -> bool {
        match self.steps.get(&step) {
            Some(part) => part.step.is_some() || self.last_begun >= step.saturating_add(2),
            None => self.last_begun > step,
        }
    }

    /// Takes a step out.
    pub(super) fn release(&mut self, step: u64) -> Option<Part> {
        self.released = self.released.max(step);
        self.steps.remove(&step)
    }

    /// Leaves out all steps up to this one.
    pub(super) fn skip_to(&mut self, step: u64) {
        self.steps = self.steps.split_off(&step.saturating_add(1));
        self.released = self.released.max(step);
    }
}
