//! Looks at the threads of ranks, as the system counts them.

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pp_trace::{Cpu, Event};

/// The system keeps so many bytes of a thread's name.
const NAME_BYTES_MAX: usize = 15;

/// The thread of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankThread {
    /// The replica.
    pub replica: u32,
    /// The rank.
    pub rank: u32,
    /// The system's number of the thread.
    pub tid: u32,
}

/// The threads of this process that bear the name of a rank, `rank 2.0` for rank 2 of replica 0, as
/// the executor gives it.
pub fn rank_threads() -> Vec<RankThread> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let thread = |task: fs::DirEntry| {
        let tid = task.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let (rank, replica) = place(name.trim_end_matches('\n'))?;
        Some(RankThread { replica, rank, tid })
    };
    let mut threads: Vec<RankThread> = tasks.flatten().filter_map(thread).collect();
    threads.sort_by_key(|thread| (thread.replica, thread.rank));
    threads
}

/// Rank and replica in a thread's name. A name that may have been cut is refused: it may lack the
/// end of a number.
fn place(name: &str) -> Option<(u32, u32)> {
    if name.len() >= NAME_BYTES_MAX {
        return None;
    }
    let (rank, replica) = name.strip_prefix("rank ")?.split_once('.')?;
    Some((rank.parse().ok()?, replica.parse().ok()?))
}

/// Looks at the threads of ranks until it is dropped.
#[derive(Debug)]
pub struct ThreadSampler {
    /// Dropped to end the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ThreadSampler {
    /// Starts looking, once in `every`, and hands `sink` an [`Event::Cpu`] for each thread and
    /// look; times count from `origin`. A thread that is gone is passed over, and so is every
    /// thread where the system does not count.
    ///
    /// # Errors
    /// The system has no thread to do it.
    pub fn start(
        threads: Vec<RankThread>,
        every: Duration,
        origin: Instant,
        sink: impl Fn(Event) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (end, ended) = channel::<()>();
        let looks = move || loop {
            for &thread in &threads {
                if let Some(cpu) = look(thread, origin) {
                    sink(Event::Cpu(cpu));
                }
            }
            if ended.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        };
        let thread = thread::Builder::new().name("rank looks".to_owned()).spawn(looks)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for ThreadSampler {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It waits for nothing but this, and what it could have panicked about is over.
            let _ = thread.join();
        }
    }
}

fn look(thread: RankThread, origin: Instant) -> Option<Cpu> {
    let task = format!("/proc/self/task/{}", thread.tid);
    let times = fs::read_to_string(format!("{task}/schedstat")).ok()?;
    let (cpu_ns, run_queue_ns) = times_of(&times)?;
    let status = fs::read_to_string(format!("{task}/status")).ok()?;
    Some(Cpu {
        elapsed_ns: origin.elapsed().as_nanos() as u64,
        replica: thread.replica,
        rank: thread.rank,
        cpu_ns,
        run_queue_ns,
        voluntary_switches: count_of(&status, "voluntary_ctxt_switches:")?,
        involuntary_switches: count_of(&status, "nonvoluntary_ctxt_switches:")?,
    })
}

/// Time on a core and time in the queue for one, from `schedstat`.
fn times_of(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A number of `status`.
fn count_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_place() {
        assert_eq!(place("rank 2.1"), Some((2, 1)));
        assert_eq!(place("rank 2"), None);
        assert_eq!(place("pp-trace"), None);
        assert_eq!(place("rank 1000.10000"), None, "it may be 1000.100000");
    }

    #[test]
    fn the_system_s_words() {
        assert_eq!(times_of("123 45 6\n"), Some((123, 45)));
        assert_eq!(times_of("123"), None);
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(count_of(status, "voluntary_ctxt_switches:"), Some(7));
        assert_eq!(count_of(status, "nonvoluntary_ctxt_switches:"), Some(3));
    }
}
