//! The threads of all ranks, and the one who tells them what to do.

use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pp_schedule::{LoweredPlan, Rank, Replica, ScheduleError, ValidPlan, forward_only, lower};

use crate::command::{Command, Reply};
use crate::config::RankConfig;
use crate::device::DeviceSpec;
use crate::error::{ExecError, RankError};
use crate::link::{self, Address, Mailbox};
use crate::worker::Worker;

/// candle walks its graph by recursion, so a deep stage needs a deep stack. Only pages that are
/// touched cost memory.
pub(crate) const STACK_BYTES: usize = 256 << 20;

/// After the first error the others get this long to stop, which they do at their next message.
const PATIENCE: Duration = Duration::from_secs(2);

/// One thread for each rank of each replica.
#[expect(clippy::struct_field_names, reason = "the number of ranks has one name everywhere")]
pub struct Ranks {
    n_ranks: u32,
    plan: Arc<ValidPlan>,
    threads: Vec<Thread>,
    replies: Receiver<Answer>,
    ready: Vec<Reply>,
}

/// Which thread, and what it says. Boxed, so that the channel's own blocks stay small: a rank is
/// charged for what it allocates, and these are freed by whoever listens.
type Answer = Box<(usize, Result<Reply, ExecError>)>;

struct Thread {
    commands: Sender<Command>,
    address: Address,
    handle: Option<JoinHandle<()>>,
}

/// Refuses a process in which the kernels of several CPU ranks would share a thread pool.
///
/// # Errors
/// [`ExecError::Threads`].
pub fn check_threads() -> Result<(), ExecError> {
    match candle_core::utils::get_num_threads() {
        1 => Ok(()),
        threads => Err(ExecError::Threads { threads }),
    }
}

impl Ranks {
    /// Starts the threads; each builds its own stages. Returns when all have.
    ///
    /// # Errors
    /// If plan and partition do not fit, a thread cannot start, or a rank cannot build.
    pub fn spawn(config: &RankConfig) -> Result<Self, ExecError> {
        let (partition, plan) = (config.partition.n_stages(), config.plan.n_stages() as usize);
        if partition != plan {
            return Err(ExecError::Stages { partition, plan });
        }
        let n_ranks = config.plan.n_ranks();
        let is_cpu = |rank, replica| {
            matches!((config.devices)(Rank(rank), Replica(replica)), DeviceSpec::Cpu { .. })
        };
        if (0..config.n_replicas).any(|replica| (0..n_ranks).any(|rank| is_cpu(rank, replica))) {
            check_threads()?;
        }
        let n_threads = n_ranks * config.n_replicas;
        let cores = cores_for(n_threads);
        let spins = cores.is_some();
        if config.pinned && cores.is_none() {
            return Err(ExecError::Cores { ranks: n_threads });
        }
        let cores = cores.filter(|_| config.pinned);
        let lowered = Arc::new(lower(&config.plan));
        let (reply, replies) = channel();
        let mut threads = Vec::new();
        for replica in (0..config.n_replicas).map(Replica) {
            let (addresses, mailboxes): (Vec<Address>, Vec<Mailbox>) =
                (0..n_ranks).map(|_| link::mailbox(config.link_delay, spins)).unzip();
            // One list for all: a list for each rank would take the square of their number.
            let addresses: Arc<[Address]> = addresses.into();
            for (rank, mailbox) in (0..n_ranks).map(Rank).zip(mailboxes) {
                let (commands, orders) = channel();
                let index = threads.len();
                let (config, lowered, reply) =
                    (config.clone(), Arc::clone(&lowered), reply.clone());
                let (address, addresses) = (addresses[rank.idx()].clone(), Arc::clone(&addresses));
                let core = cores.as_ref().map(|cores| cores[index]);
                let body = move || {
                    let make = || {
                        core.map(pin).transpose()?;
                        Worker::new(config, lowered, (rank, replica), addresses, mailbox)
                    };
                    serve(index, (rank, replica), make, &orders, &reply);
                };
                let handle = std::thread::Builder::new()
                    .name(format!("rank {rank}.{replica}"))
                    .stack_size(STACK_BYTES)
                    .spawn(body)
                    .map_err(|source| ExecError::Spawn { rank, source })?;
                threads.push(Thread { commands, address, handle: Some(handle) });
            }
        }
        let mut ranks =
            Self { n_ranks, plan: Arc::clone(&config.plan), threads, replies, ready: Vec::new() };
        ranks.ready = ranks.gather()?;
        Ok(ranks)
    }

    /// What each rank reported when it had built its stages: [`Reply::Ready`], replica by replica.
    pub fn ready(&self) -> &[Reply] {
        &self.ready
    }

    /// Gives every rank a command and waits for all replies, replica by replica, rank by rank.
    ///
    /// # Errors
    /// The first error of any rank, with its rank and op. Afterwards no rank obeys any more, and
    /// every call fails. A batch that does not fit the plan is refused before any rank sees it.
    pub fn all(
        &mut self,
        command: impl Fn(Replica, Rank) -> Command,
    ) -> Result<Vec<Reply>, ExecError> {
        if self.threads.is_empty() {
            return Err(ExecError::Ended);
        }
        let place = |index: u32| (Replica(index / self.n_ranks), Rank(index % self.n_ranks));
        let commands: Vec<Command> = (0..self.threads.len() as u32)
            .map(|index| {
                let (replica, rank) = place(index);
                command(replica, rank)
            })
            .collect();
        commands.iter().try_for_each(|command| self.check(command))?;
        for (thread, command) in self.threads.iter().zip(commands) {
            // A thread that is gone has left its error in the replies.
            let _ = thread.commands.send(command);
        }
        self.gather()
    }

    /// A batch has as many micro-batches as the plan that it is for.
    fn check(&self, command: &Command) -> Result<(), ExecError> {
        let (batch, plan) = match command {
            Command::Step { batch, .. } => (batch, self.plan.n_micro_batches() as usize),
            Command::Evaluate { batch, plan } => (batch, plan.n_micro_batches as usize),
            _ => return Ok(()),
        };
        let batch = batch.micro_batches.len();
        if batch == plan { Ok(()) } else { Err(ExecError::MicroBatches { batch, plan }) }
    }

    /// One reply from each rank. The first error stops the others.
    fn gather(&mut self) -> Result<Vec<Reply>, ExecError> {
        let mut found: Vec<Option<Reply>> = self.threads.iter().map(|_| None).collect();
        let mut first: Option<(ExecError, Instant)> = None;
        for _ in 0..self.threads.len() {
            let reply = match &first {
                None => self.replies.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((_, since)) => {
                    self.replies.recv_timeout(PATIENCE.saturating_sub(since.elapsed()))
                }
            };
            match reply.map(|answer| *answer) {
                Ok((index, Ok(reply))) => found[index] = Some(reply),
                Ok((_, Err(error))) if first.is_none() => {
                    self.threads.iter().for_each(|thread| thread.address.stop());
                    first = Some((error, Instant::now()));
                }
                Ok((_, Err(_))) => {}
                Err(_) => break,
            }
        }
        match first {
            Some((error, _)) => {
                // Whoever still computes cannot be waited for.
                self.threads.clear();
                Err(error)
            }
            None => Ok(found.into_iter().flatten().collect()),
        }
    }

    /// A plan that only evaluates: `n_micro_batches` forwards on the same ranks, through the first copy of the model.
    ///
    /// # Errors
    /// Without a micro-batch.
    pub fn evaluation_plan(&self, n_micro_batches: u32) -> Result<Arc<LoweredPlan>, ScheduleError> {
        let topology = self.plan.topology().first_pipe();
        Ok(Arc::new(lower(&forward_only(topology, n_micro_batches)?)))
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        // Whoever waits for a message of a step that nobody will finish.
        self.threads.iter().for_each(|thread| thread.address.stop());
        for mut thread in self.threads.drain(..) {
            drop(thread.commands);
            if let Some(handle) = thread.handle.take() {
                // Its panics were replies already.
                let _ = handle.join();
            }
        }
    }
}

/// A core for each of `n` threads; `None` where this process may not use as many.
fn cores_for(n: u32) -> Option<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let cores: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&core| allowed.is_set(core))
        .take(n as usize)
        .collect();
    (cores.len() == n as usize).then_some(cores)
}

/// Keeps this thread on `core`.
fn pin(core: usize) -> Result<(), RankError> {
    let mut only = rustix::thread::CpuSet::new();
    only.set(core);
    rustix::thread::sched_setaffinity(None, &only)
        .map_err(|errno| RankError::Pin { core, source: errno.into() })
}

/// The life of a rank's thread.
fn serve(
    index: usize,
    (rank, replica): (Rank, Replica),
    make: impl FnOnce() -> Result<Worker, RankError>,
    orders: &Receiver<Command>,
    reply: &Sender<Answer>,
) {
    let fail = |step, op, source| {
        let error = ExecError::Rank { replica, rank, step, op, source: Box::new(source) };
        // Nobody listens any more when another rank's error has ended the run.
        let _ = reply.send(Box::new((index, Err(error))));
    };
    // Sleeps that end up to 50 us late, the system's default, are gaps in every rank's time. Where
    // it cannot be changed, they stay.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut worker = match catch_unwind(AssertUnwindSafe(make)) {
        Ok(Ok(worker)) => worker,
        Ok(Err(error)) => return fail(0, None, error),
        Err(panic) => return fail(0, None, RankError::Panic(panic_text(panic.as_ref()))),
    };
    if reply.send(Box::new((index, Ok(Reply::Ready(worker.stage_parameters()))))).is_err() {
        return;
    }
    for command in orders {
        let answer = catch_unwind(AssertUnwindSafe(|| worker.handle(command)));
        let source = match answer {
            Ok(Ok(answer)) => {
                if reply.send(Box::new((index, Ok(answer)))).is_err() {
                    return;
                }
                continue;
            }
            Ok(Err(error)) => error,
            Err(panic) => RankError::Panic(panic_text(panic.as_ref())),
        };
        return fail(worker.step, worker.op, source);
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
