//! One rank of a job: how its file and its process stand.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use pp_trace::machine::{boot_id, look_at, pid_namespace};
use pp_trace::{RankFile, RankFollower, RankHead, ReadError};

use super::held::Held;

/// A file that does not grow for so long is not waited for, if others are two steps further.
const PATIENCE: Duration = Duration::from_secs(3);
/// Steps that are held before the rest of a file waits for the other files.
const STEPS_AHEAD: usize = 3;

/// The process of a rank, as far as this machine can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    There,
    Suspended,
    Gone,
    /// It belongs to another machine or container.
    Elsewhere,
}

/// The file of one rank: what was read from it, and what may still come.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) file: RankFile,
    pub(super) held: Held,
    follower: RankFollower,
    is_at_end: bool,
    /// When the rank did something last.
    grew: Instant,
    seen: Seen,
    told_seen: Seen,
    /// Whether the trouble was told.
    has_told: bool,
}

impl Lane {
    pub(super) fn new(file: RankFile) -> Self {
        Self {
            follower: RankFollower::new(&file.path),
            grew: last_write(&file.path),
            file,
            held: Held::default(),
            is_at_end: false,
            seen: Seen::Elsewhere,
            told_seen: Seen::Elsewhere,
            has_told: false,
        }
    }

    /// Reads a piece of the file, unless enough of it is held. Returns the bytes that were read.
    ///
    /// # Errors
    /// The file is of a newer format. What else fails is kept as [`Held::trouble`].
    pub(super) fn poll(&mut self, buffer: &mut [u8]) -> Result<u64, ReadError> {
        let Self { follower, held, .. } = self;
        if held.trouble.is_some() || held.steps.len() > STEPS_AHEAD {
            return Ok(0);
        }
        let (n_bytes, n_of_steps) = (follower.n_bytes(), held.n_of_steps);
        match follower.poll(buffer, |line| held.take(line)) {
            Ok(poll) => {
                // Looks at the thread and the device go on whatever the rank does.
                if held.n_of_steps > n_of_steps && self.is_at_end {
                    self.grew = Instant::now();
                }
                self.is_at_end = poll.at_end;
                Ok(follower.n_bytes() - n_bytes)
            }
            Err(newer @ ReadError::Newer { .. }) => Err(newer),
            Err(error) => {
                held.trouble = Some(format!("{error}; the rest of the file is left out"));
                self.is_at_end = true;
                Ok(0)
            }
        }
    }

    /// Whether nothing more can come.
    pub(super) fn is_final(&self) -> bool {
        self.is_at_end
            && (self.held.end.is_some() || self.held.trouble.is_some() || self.seen == Seen::Gone)
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
        if let Some(head) = &self.held.head {
            self.seen = seen(head);
        }
    }

    /// How the process was when somebody asked last, and how it is now, if that has changed. A
    /// process that has written its last line may be gone.
    pub(super) fn change_to_tell(&mut self) -> Option<(Seen, Seen)> {
        let is_told = self.told_seen == self.seen || self.held.end.is_some();
        // All that it wrote comes first.
        if is_told || (self.seen == Seen::Gone && !(self.is_at_end && self.held.steps.is_empty())) {
            return None;
        }
        Some((std::mem::replace(&mut self.told_seen, self.seen), self.seen))
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
        let is_new = !std::mem::replace(&mut self.has_told, self.held.trouble.is_some());
        self.held.trouble.clone().filter(|_| is_new)
    }
}
