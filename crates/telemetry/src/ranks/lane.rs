//! One rank of a job: what its file says, as far as it was read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use pp_trace::machine::{boot_id, look_at, pid_namespace};
use pp_trace::{
    Event, Mem, RankEnd, RankFile, RankFollower, RankHead, RankLine, RankStep, ReadError, Span,
};

/// A file that does not grow for so long is not waited for, if others are two steps further.
const PATIENCE: Duration = Duration::from_secs(3);
/// Steps that are held before the rest of a file waits for the other files.
const STEPS_AHEAD: usize = 3;
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

/// The process of a rank, as far as this machine can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    There,
    Suspended,
    Gone,
    /// It belongs to another machine or container.
    Elsewhere,
}

/// The file of one rank and what was read from it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) file: RankFile,
    follower: RankFollower,
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
    pub(super) seen: Seen,
    told_seen: Seen,
    /// Whether the trouble was told.
    has_told: bool,
    /// Events that its recorder has lost.
    pub(super) n_dropped: u64,
    /// Lines of a step 0.
    pub(super) n_of_step_0: u64,
    is_at_end: bool,
    /// Whether the last piece had anything that the rank did.
    has_grown: bool,
    /// When something was written last.
    grew: Instant,
}

impl Lane {
    pub(super) fn new(file: RankFile) -> Self {
        Self {
            follower: RankFollower::new(&file.path),
            grew: last_write(&file.path),
            file,
            head: None,
            steps: BTreeMap::new(),
            last_begun: 0,
            released: 0,
            asides: Vec::new(),
            end: None,
            trouble: None,
            n_late: 0,
            seen: Seen::Elsewhere,
            told_seen: Seen::Elsewhere,
            has_told: false,
            n_dropped: 0,
            n_of_step_0: 0,
            is_at_end: false,
            has_grown: false,
        }
    }

    /// Reads a piece of the file, unless enough of it is held. Returns the bytes that were read.
    ///
    /// # Errors
    /// The file is of a newer format. What else fails is kept as [`Lane::trouble`].
    pub(super) fn poll(&mut self, buffer: &mut [u8]) -> Result<u64, ReadError> {
        if self.trouble.is_some() || self.steps.len() > STEPS_AHEAD {
            return Ok(0);
        }
        let before = self.follower.n_bytes();
        self.has_grown = false;
        let mut follower =
            std::mem::replace(&mut self.follower, RankFollower::new(&self.file.path));
        let poll = follower.poll(buffer, |line| self.take(line));
        self.follower = follower;
        match poll {
            Ok(poll) => {
                // Looks at the thread and the device go on whatever the rank does.
                if self.has_grown && self.is_at_end {
                    self.grew = Instant::now();
                }
                self.is_at_end = poll.at_end;
                Ok(self.follower.n_bytes() - before)
            }
            Err(newer @ ReadError::Newer { .. }) => Err(newer),
            Err(error) => {
                self.trouble = Some(format!("{error}; the rest of the file is left out"));
                self.is_at_end = true;
                Ok(0)
            }
        }
    }

    fn take(&mut self, line: RankLine) {
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
        self.has_grown = true;
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

    /// Whether nothing more can come.
    pub(super) fn is_final(&self) -> bool {
        self.is_at_end && (self.end.is_some() || self.trouble.is_some() || self.seen == Seen::Gone)
    }

    /// Whether the file is not waited for.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_at_end && (self.is_final() || self.grew.elapsed() > PATIENCE)
    }

    /// For how long the rank has done nothing, if all that is there was read.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.is_at_end.then(|| self.grew.elapsed())
    }

    /// Whether all that is there was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Looks at the process.
    pub(super) fn look(&mut self) {
        if let Some(head) = &self.head {
            self.seen = seen(head);
        }
    }

    /// How the process was when somebody asked last, and how it is now, if that has changed. A
    /// process that has written its last line may be gone.
    pub(super) fn change_to_tell(&mut self) -> Option<(Seen, Seen)> {
        let is_told = self.told_seen == self.seen || self.end.is_some();
        // All that it wrote comes first.
        if is_told || (self.seen == Seen::Gone && !(self.is_at_end && self.steps.is_empty())) {
            return None;
        }
        Some((std::mem::replace(&mut self.told_seen, self.seen), self.seen))
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

    pub(super) fn n_bytes(&self) -> u64 {
        self.follower.n_bytes()
    }

    pub(super) fn n_bad_lines(&self) -> u64 {
        self.follower.n_bad_lines()
    }

    pub(super) fn first_refusal(&self) -> Option<String> {
        self.follower.first_refusal()
    }
}

/// When a file was written last, on this process's clock.
fn last_write(path: &Path) -> Instant {
    let now = Instant::now();
    let modified = fs::metadata(path).and_then(|about| about.modified()).ok();
    let age = modified.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    now.checked_sub(age).unwrap_or(now)
}

/// The process that a head names.
pub(super) fn seen(head: &RankHead) -> Seen {
    let is_here = !head.boot.is_empty()
        && boot_id().is_some_and(|own| own == head.boot)
        && pid_namespace().is_none_or(|own| head.pid_namespace == own);
    if !is_here {
        return Seen::Elsewhere;
    }
    match look_at(head.pid) {
        Some((began, letter)) if began == head.pid_began => match letter {
            'T' | 't' => Seen::Suspended,
            _ => Seen::There,
        },
        _ => Seen::Gone,
    }
}

impl Lane {
    /// What is wrong with the file, the first time that somebody asks.
    pub(super) fn trouble_to_tell(&mut self) -> Option<String> {
        let is_new = !std::mem::replace(&mut self.has_told, self.trouble.is_some());
        self.trouble.clone().filter(|_| is_new)
    }
}
