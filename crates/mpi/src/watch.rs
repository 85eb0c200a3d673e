//! A thread that keeps messages moving while the rank computes, and watches the other processes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferrompi::{Communicator, MpiDatatype, PersistentRequest, Source, Tag};
use pp_executor::{Progress, Trouble};

use crate::activity::Activity;
use crate::head::HEAD;
use crate::hosts::Hosts;

/// How often the thread looks while messages to or from other hosts are under way. A look that wakes
/// the thread interrupts the rank: with looks every 0.2 ms here and every millisecond else, a step of
/// `gpt` on two ranks and two cores took 12 % longer (Intel Xeon, 2026-11-30).
const BUSY: Duration = Duration::from_micros(500);
/// How often it looks else.
const CALM: Duration = Duration::from_millis(20);
/// How often a process says what it is doing.
const BEAT: Duration = Duration::from_millis(100);
/// A thread that did not run for so long was stopped with its process, and cannot say who was
/// silent meanwhile.
const STOPPED: Duration = Duration::from_secs(1);

/// For how long a process that was stopped may be why it is asked to end.
const REASON_FOR: Duration = Duration::from_secs(30);

/// Tags of the messages between the watching threads.
const HEART: i32 = 1;
const FAIL: i32 = 2;
pub(crate) const NOTE: i32 = 3;

/// The longest notice. It is small enough that every MPI library sends it at once.
const NOTICE_BYTES: usize = 3000;

/// What the watching thread has seen.
#[derive(Default)]
pub(crate) struct Seen {
    has_trouble: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
    progress: Mutex<Option<Progress>>,
    /// Notes of other processes that nobody has asked for yet.
    notes: Mutex<Vec<(u32, Vec<u8>)>>,
    /// What has come of notes of which more will come.
    begun: Mutex<HashMap<u32, Vec<u8>>>,
    /// Set when the run is over: silence means nothing from then on.
    pub(crate) is_over: AtomicBool,
    /// Set when this process was asked to end: then a silent process is the reason.
    pub(crate) is_hurried: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let has_trouble = self.has_trouble.load(Ordering::Acquire);
        has_trouble.then(|| lock(&self.trouble).clone()).flatten()
    }

    /// Notes why the run cannot go on. The first reason stays, unless process 0 is lost: whoever has
    /// told it why waits for it to end the run.
    fn note(&self, trouble: Trouble) {
        let mut noted = lock(&self.trouble);
        if noted.is_none() || matches!(trouble, Trouble::Lost { index: 0, .. }) {
            *noted = Some(trouble);
        }
        drop(noted);
        self.has_trouble.store(true, Ordering::Release);
    }

    /// Takes a piece of a note. Those of one process come in their order.
    fn piece(&self, from: u32, piece: &[u8]) {
        let Some((is_last, bytes)) = piece.split_first() else { return };
        let mut begun = lock(&self.begun);
        begun.entry(from).or_default().extend_from_slice(bytes);
        if *is_last != 0
            && let Some(whole) = begun.remove(&from)
        {
            lock(&self.notes).push((from, whole));
        }
    }

    pub(crate) fn notes(&self) -> Vec<(u32, Vec<u8>)> {
        std::mem::take(&mut lock(&self.notes))
    }

    pub(crate) fn watch(&self, progress: Progress) {
        *lock(&self.progress) = Some(progress);
    }
}

/// What the thread needs.
pub(crate) struct Watch {
    /// The communicator of the ranks' messages, to keep them moving.
    pub(crate) ranks: Arc<Communicator>,
    /// That of the watching threads.
    pub(crate) watchers: Arc<Communicator>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) me: u32,
    pub(crate) activity: Arc<Activity>,
    pub(crate) seen: Arc<Seen>,
    /// How long a process may be silent.
    pub(crate) silence: Duration,
}

/// How long a process may be silent once this one was asked to end. The launcher asks all processes
/// when one has died, and gives them a second.
const HURRIED: Duration = Duration::from_millis(350);
/// For how long. If nobody has died by then, the signal had another reason.
const HURRY_FOR: Duration = Duration::from_millis(2500);
/// A process that was silent for so long is told nothing more until it is heard of again: messages
/// that nobody takes fill the library's room.
const TALK_FOR: Duration = Duration::from_secs(3);

/// After this process was stopped, another one may be silent for so many times as long.
const UNCOUNTED: u32 = 3;

/// When a process was heard of.
#[derive(Clone, Copy)]
struct Heard {
    at: Instant,
    /// Whether the usual limit holds. It does not if this process was stopped since then: the
    /// others may have given it up and ended, and the launcher may be about to end this one too.
    counts: bool,
}

/// How long a process that cannot go on tries to say so. Whoever cannot be told notices the silence.
const TELL_FOR: Duration = Duration::from_secs(1);
/// How long messages that are given up may still take to leave.
const LAST_BEATS: Duration = Duration::from_millis(100);

/// Messages that may never leave. If a link is down, tensors for the same process can fill its
/// buffer, and a blocking send would wait behind them for minutes.
struct Sending<T: MpiDatatype>(Vec<PersistentRequest<T>>);

impl<T: MpiDatatype> Sending<T> {
    /// Begins to send.
    fn start(&mut self, watch: &Communicator, words: Vec<T>, to: i32, tag: i32) {
        let started = watch.send_init(words, to, tag).and_then(|mut request| {
            request.start()?;
            Ok(request)
        });
        self.0.extend(started);
    }

    /// Drops what has left, and says whether that is all.
    fn is_done(&mut self) -> bool {
        self.0.retain_mut(|request| !matches!(request.test(), Ok(Some(_))));
        self.0.is_empty()
    }

    /// Waits until all has left, but not for longer than that.
    fn wait(&mut self, most: Duration) {
        let begun = Instant::now();
        while !self.is_done() && begun.elapsed() < most {
            std::thread::sleep(BUSY);
        }
    }
}

impl<T: MpiDatatype> Drop for Sending<T> {
    fn drop(&mut self) {
        self.wait(LAST_BEATS);
        // A request that is dropped waits for its message. The process ends soon.
        self.0.drain(..).for_each(std::mem::forget);
    }
}

/// Tells all other processes that this one cannot go on.
pub(crate) fn fail(watch: &Communicator, hosts: &Hosts, me: u32, notice: &[u8]) {
    let notice = &notice[..notice.len().min(NOTICE_BYTES)];
    let mut sending = Sending(Vec::new());
    for (index, &to) in hosts.mpi_ranks.iter().enumerate() {
        if index as u32 != me {
            sending.start(watch, notice.to_vec(), to, FAIL);
        }
    }
    sending.wait(TELL_FOR);
}

/// The pieces in which process 0 is sent a note. Every MPI library sends them at once: the watching
/// thread must not wait for the rest of one. The first byte of a piece says whether it is the last.
pub(crate) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let n_pieces = bytes.len().div_ceil(NOTICE_BYTES).max(1);
    (0..n_pieces).map(move |at| {
        let rest = &bytes[at * NOTICE_BYTES..];
        let mut piece = vec![u8::from(at + 1 == n_pieces)];
        piece.extend_from_slice(&rest[..rest.len().min(NOTICE_BYTES)]);
        piece
    })
}

impl Watch {
    /// Runs until the run is over, or MPI refuses.
    pub(crate) fn run(self) {
        // Sleeps end when they should, or messages would lie around.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let n = self.hosts.mpi_ranks.len();
        let mut heard = vec![Heard { at: Instant::now(), counts: true }; n];
        let mut beat = Instant::now();
        let mut beats: Vec<Sending<u64>> = (0..n).map(|_| Sending(Vec::new())).collect();
        let mut last_look = Instant::now();
        let mut last_polls = 0;
        let mut stopped: Option<Instant> = None;
        let mut asked: Option<Instant> = None;
        while !self.seen.is_over.load(Ordering::Relaxed) {
            let polls = self.activity.polls();
            let is_polling = std::mem::replace(&mut last_polls, polls) != polls;
            // Any call keeps messages moving. A rank that waits makes its own.
            let moved =
                is_polling || self.ranks.iprobe::<u64>(Source::Any, Tag::Value(HEAD)).is_ok();
            if !moved || self.listen(&mut heard).is_err() {
                return;
            }
            let now = Instant::now();
            if now - last_look > STOPPED {
                heard.fill(Heard { at: now, counts: false });
                stopped = Some(now);
            }
            last_look = now;
            if now - beat >= BEAT {
                beat = now;
                self.beat(&heard, now, &mut beats);
            }
            // A process that was stopped a moment ago, and is asked to end, is itself the reason.
            if asked.is_none() && self.seen.is_hurried.load(Ordering::Relaxed) {
                asked = Some(now);
            }
            let is_hurried = asked.is_some_and(|asked| now - asked < HURRY_FOR);
            let is_reason =
                asked.is_some() && stopped.is_some_and(|stopped| now - stopped < REASON_FOR);
            if !is_reason {
                self.look_for_silence(&heard, now, is_hurried);
            }
            let is_busy = self.activity.pending() > 0 && !is_polling;
            std::thread::sleep(if is_busy { BUSY } else { CALM });
        }
    }

    /// The processes that this one hears of: process 0 hears of all, and all hear of process 0.
    fn others(&self) -> impl Iterator<Item = (usize, i32)> + '_ {
        let me = self.me as usize;
        let is_heard = move |&(index, _): &(usize, i32)| index != me && (me == 0 || index == 0);
        self.hosts.mpi_ranks.iter().copied().enumerate().filter(is_heard)
    }

    fn beat(&self, heard: &[Heard], now: Instant, beats: &mut [Sending<u64>]) {
        let words = {
            let progress = lock(&self.seen.progress);
            progress.as_ref().map_or([0; 2], |progress| progress.words(self.me as usize))
        };
        let talks = |&(index, _): &(usize, i32)| now - heard[index].at < TALK_FOR;
        for (index, to) in self.others().filter(talks) {
            // A process that cannot be told notices the silence.
            if beats[index].is_done() {
                beats[index].start(&self.watchers, words.to_vec(), to, HEART);
            }
        }
    }

    /// Takes what other watching threads have sent.
    fn listen(&self, heard: &mut [Heard]) -> ferrompi::Result<()> {
        while let Some((message, status)) = self.watchers.improbe::<u8>(Source::Any, Tag::Any)? {
            let mut bytes = vec![0_u8; status.count.unwrap_or(0)];
            let status = message.mrecv(&mut bytes)?;
            let Source::Rank(mpi_rank) = status.source else { continue };
            let Some(from) = self.hosts.mpi_ranks.iter().position(|&rank| rank == mpi_rank) else {
                continue;
            };
            heard[from] = Heard { at: Instant::now(), counts: true };
            if status.tag == Tag::Value(FAIL) {
                self.seen.note(Trouble::Told { from: from as u32, notice: bytes.into() });
            } else if status.tag == Tag::Value(NOTE) {
                self.seen.piece(from as u32, &bytes);
            } else if let Some(progress) = &*lock(&self.seen.progress) {
                let mut words = [0; 2];
                for (word, eight) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *word = u64::from_ne_bytes(*eight);
                }
                progress.set_words(from, words);
            }
        }
        Ok(())
    }

    fn look_for_silence(&self, heard: &[Heard], now: Instant, is_hurried: bool) {
        let most = if is_hurried { HURRIED.min(self.silence) } else { self.silence };
        let silent = |&(index, _): &(usize, i32)| {
            let Heard { at, counts } = heard[index];
            now - at > if counts { most } else { self.silence * UNCOUNTED }
        };
        // The one that is silent for longest.
        if let Some((index, _)) = self.others().filter(silent).min_by_key(|&(i, _)| heard[i].at) {
            let silent = now - heard[index].at;
            self.seen.note(Trouble::Lost { index: index as u32, silent });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_the_pieces_that_it_is_cut_into() {
        let seen = Seen::default();
        for length in [0, 1, NOTICE_BYTES - 1, NOTICE_BYTES, NOTICE_BYTES + 1, 3 * NOTICE_BYTES] {
            let note: Vec<u8> = (0..length).map(|at| at as u8).collect();
            pieces(&note).for_each(|piece| seen.piece(3, &piece));
            assert_eq!(seen.notes(), [(3, note)]);
        }
    }

    #[test]
    fn notes_of_several_processes_are_put_together_from_their_pieces() {
        let seen = Seen::default();
        seen.piece(1, &[0, b'a']);
        seen.piece(2, &[0, b'x']);
        seen.piece(1, &[0]);
        assert!(seen.notes().is_empty());
        seen.piece(1, &[1, b'b', b'c']);
        seen.piece(2, &[1]);
        seen.piece(1, &[1]);
        seen.piece(1, &[]);
        let notes = seen.notes();
        assert_eq!(notes, [(1, b"abc".to_vec()), (2, b"x".to_vec()), (1, Vec::new())]);
        assert!(seen.notes().is_empty());
    }
}
