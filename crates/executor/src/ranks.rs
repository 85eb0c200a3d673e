//! The threads of all ranks, and the calls that all of them answer.

mod in_world;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use pp_schedule::{Rank, Replica, Topology, ValidPlan, forward_only};
use pp_trace::Recorder;

use crate::batch::Batch;
use crate::config::RankConfig;
use crate::copies::ThreadLinks;
use crate::device::DeviceSpec;
use crate::error::{ExecError, RankError};
use crate::exchange::Exchange;
use crate::link::{self, Address, Mailbox};
use crate::per_rank::{PerRank, place};
use crate::post::{Neighbours, Post};
use crate::progress::{Doing, Progress};
use crate::report::{Evaluated, StageParameters, StepReport, UpdateReport, What};
use crate::state::Snapshot;
use crate::thread::{Order, Reply, STACK_BYTES, cores_for, order, pin, serve};
use crate::transport::{InWorld, World};
use crate::walk::Route;
use crate::worker::{Seat, Worker};
use crate::world::Answer;

/// How long the other ranks get to stop after the first error. They stop at their next message.
const PATIENCE: Duration = Duration::from_secs(2);

/// One thread for each rank of each replica.
///
/// Each call gives all of them the same job, and returns when all have answered. It fails with the
/// first error of any rank, which names the rank and what it was doing. The other ranks then get
/// 2 s to stop. The threads of those that stop have ended when the call returns; a rank that still
/// computes keeps its thread until its op ends. After an error no rank goes on, and every later
/// call fails with [`ExecError::Ended`]. A call that is refused because its data do not fit reaches
/// no rank, and changes nothing.
pub struct Ranks {
    plan: Arc<ValidPlan>,
    n_replicas: u32,
    deadline: Option<Duration>,
    threads: Vec<Thread>,
    progress: Progress,
    /// The processes of the other ranks, where ranks are processes.
    world: Option<Arc<dyn World>>,
    /// Where the spans of the ranks of other processes go.
    recorder: Recorder,
    /// The folder of the files of processes.
    sheets: Option<PathBuf>,
    stages: Vec<StageParameters>,
}

struct Thread {
    orders: Sender<Order>,
    stop: Stop,
    handle: JoinHandle<()>,
}

/// What makes a rank give up, wherever it waits for another one.
enum Stop {
    Mail(Address),
    Flag(Arc<AtomicBool>),
}

impl Thread {
    fn stop(&self) {
        match &self.stop {
            Stop::Mail(address) => address.stop(),
            Stop::Flag(is_stopped) => is_stopped.store(true, Ordering::Relaxed),
        }
    }
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
        if let Some(InWorld(world)) = &config.world {
            return Self::join(config, world);
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
        let route = Arc::new(Route::new(Arc::clone(&config.plan)));
        let progress = Progress::new(n_ranks, config.n_replicas);
        let (addresses, mailboxes): (Vec<Address>, Vec<Mailbox>) =
            (0..n_threads).map(|_| link::mailbox(config.link_delay, spins)).unzip();
        // One list for all: a list for each rank would take the square of their number.
        let addresses: Arc<[Address]> = addresses.into();
        let mut mailboxes = mailboxes.into_iter();
        let (reply, replies) = channel();
        let mut threads = Vec::new();
        for replica in (0..config.n_replicas).map(Replica) {
            for (rank, mailbox) in (0..n_ranks).map(Rank).zip(mailboxes.by_ref()) {
                let (orders, received) = channel();
                let index = threads.len();
                let address = addresses[index].clone();
                let progress = progress.of(replica, rank);
                let addresses = Arc::clone(&addresses);
                let core = cores.as_ref().map(|cores| cores[index]);
                let (config, route, reply) = (config.clone(), Arc::clone(&route), reply.clone());
                let body = move || {
                    let make = || {
                        core.map(pin).transpose()?;
                        let mailbox = Rc::new(RefCell::new(mailbox));
                        let copies = config.exchanges().then(|| {
                            let copies = config.copies((replica, rank));
                            let (addresses, mailbox) =
                                (Arc::clone(&addresses), Rc::clone(&mailbox));
                            Box::new(ThreadLinks::new(copies, addresses, mailbox))
                                as Box<dyn Exchange>
                        });
                        let first = replica.idx() * n_ranks as usize;
                        let post = Post::new(Neighbours::Threads { addresses, first, mailbox });
                        Worker::new(config, route, Seat { replica, rank, post, copies, progress })
                    };
                    let first = |worker: &mut Worker| Ok(worker.stage_parameters());
                    serve(index, (replica, rank), make, first, &received, reply);
                };
                let handle = std::thread::Builder::new()
                    .name(format!("rank {rank}.{replica}"))
                    .stack_size(STACK_BYTES)
                    .spawn(body)
                    .map_err(|source| ExecError::Spawn { rank, source })?;
                let stop = Stop::Mail(address);
                threads.push(Thread { orders, stop, handle });
            }
        }
        drop(reply);
        let mut ranks = Self {
            plan: Arc::clone(&config.plan),
            n_replicas: config.n_replicas,
            deadline: config.deadline,
            threads,
            progress,
            world: None,
            recorder: config.recorder.clone(),
            sheets: None,
            stages: Vec::new(),
        };
        let built = ranks.gather(&replies, None)?;
        Ok(ranks.with_stages(built))
    }

    /// Notes the stages of the first replica.
    fn with_stages(mut self, built: PerRank<Vec<StageParameters>>) -> Self {
        let first = built.into_places().filter(|&((replica, _), _)| replica == Replica(0));
        self.stages = first.flat_map(|(_, of_rank)| of_rank).collect();
        self.stages.sort_by_key(|s| (s.pipe, s.stage));
        self
    }

    /// The parameters of each stage of one replica: pipe by pipe, stage by stage.
    pub fn stages(&self) -> &[StageParameters] {
        &self.stages
    }

    /// What each rank is doing, for another thread to look at while a call is under way.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Forward and backward of a whole batch, by the plan. Gradients are summed over micro-batches,
    /// then averaged over all copies of the model.
    ///
    /// `step` counts from 1. `batches` are the data of each replica.
    ///
    /// # Errors
    /// The first error of any rank. [`ExecError::Batches`] if there is not one batch for each
    /// replica, [`ExecError::MicroBatches`] if a batch and the plan differ in their micro-batches.
    pub fn step(
        &mut self,
        step: u64,
        batches: &[Arc<Batch>],
    ) -> Result<PerRank<StepReport>, ExecError> {
        self.check_replicas(batches)?;
        let plan = self.plan.n_micro_batches() as usize;
        let mut sizes = batches.iter().map(|batch| batch.micro_batches.len());
        if let Some(batch) = sizes.find(|&batch| batch != plan) {
            return Err(ExecError::MicroBatches { batch, plan });
        }
        let batches = batches.to_vec();
        self.call(move |worker| worker.step(step, &batches[worker.replica.idx()]))
    }

    /// An optimizer step with the gradients of the last [`Self::step`], each multiplied with `clip`
    /// first.
    ///
    /// # Errors
    /// The first error of any rank.
    pub fn update(&mut self, lr: f64, clip: f32) -> Result<PerRank<UpdateReport>, ExecError> {
        self.call(move |worker| worker.update(lr, clip))
    }

    /// Ends a step in the place of [`Self::update`], without the gradients of the last
    /// [`Self::step`]: weights and optimizers stay as they are.
    ///
    /// # Errors
    /// The first error of any rank.
    pub fn skip_update(&mut self) -> Result<PerRank<UpdateReport>, ExecError> {
        self.call(|worker| Ok(worker.skip_update()))
    }

    /// Evaluates data, forward only, with the first copy of the model of each replica.
    ///
    /// `batches` are the data of each replica, in any number of micro-batches. A replica without
    /// micro-batches does nothing.
    ///
    /// # Errors
    /// The first error of any rank. [`ExecError::Batches`] if there is not one batch for each
    /// replica.
    pub fn evaluate(&mut self, batches: &[Arc<Batch>]) -> Result<PerRank<Evaluated>, ExecError> {
        self.check_replicas(batches)?;
        let topology = self.plan.topology().first_pipe();
        let mut work: Vec<(Arc<Batch>, Option<Arc<Route>>)> = Vec::with_capacity(batches.len());
        for batch in batches {
            let n = batch.micro_batches.len();
            // Nearly always all replicas have the same number of micro-batches.
            let same = work.iter().find(|(other, _)| other.micro_batches.len() == n);
            let route = match same {
                Some((_, route)) => route.clone(),
                None if n == 0 => None,
                None => Some(evaluation_route(&topology, n)?),
            };
            work.push((Arc::clone(batch), route));
        }
        self.call(move |worker| match &work[worker.replica.idx()] {
            (batch, Some(route)) => worker.evaluate(route, batch),
            (_, None) => Ok(Evaluated::default()),
        })
    }

    /// Copies of tensors on the host with their names, in layer order.
    ///
    /// # Errors
    /// The first error of any rank.
    pub fn collect(&mut self, what: What) -> Result<Vec<(String, Tensor)>, ExecError> {
        let found = self.call(move |worker| worker.collect(what))?;
        let mut stages: Vec<_> = found.into_places().flat_map(|(_, of_rank)| of_rank).collect();
        stages.sort_by_key(|(stage, _)| *stage);
        Ok(stages.into_iter().flat_map(|(_, tensors)| tensors).collect())
    }

    /// A copy of everything that a later run needs to go on, rank by rank. The ranks make their
    /// copies at the same time.
    ///
    /// # Errors
    /// The first error of any rank.
    pub fn snapshot(&mut self) -> Result<PerRank<Snapshot>, ExecError> {
        self.call(Worker::snapshot)
    }

    fn check_replicas(&self, batches: &[Arc<Batch>]) -> Result<(), ExecError> {
        let (batches, replicas) = (batches.len(), self.n_replicas);
        if batches == replicas as usize {
            Ok(())
        } else {
            Err(ExecError::Batches { batches, replicas })
        }
    }

    /// Gives every rank the same job, and waits for all answers.
    fn call<T: Answer>(
        &mut self,
        job: impl Fn(&mut Worker) -> Result<T, RankError> + Send + Sync + 'static,
    ) -> Result<PerRank<T>, ExecError> {
        if self.threads.is_empty() {
            return Err(ExecError::Ended);
        }
        if let Some(world) = self.world.clone() {
            return self.call_in_world(world.as_ref(), job);
        }
        // Held here until all have answered: what it holds is freed by this thread.
        let job = Arc::new(job);
        let (reply, replies) = channel();
        for (index, thread) in self.threads.iter().enumerate() {
            let order = order(index, Arc::clone(&job), reply.clone());
            if thread.orders.send(order).is_err() {
                // The ranks before it would wait for its messages; those after it have no order.
                self.end(|other| other >= index);
                let (replica, rank) = place(index, self.plan.n_ranks() as usize);
                return Err(ExecError::Gone { replica, rank });
            }
        }
        drop(reply);
        self.gather(&replies, self.deadline)
    }

    /// One answer from each rank. The first error stops the others.
    fn gather<T>(
        &mut self,
        replies: &Receiver<Reply<T>>,
        deadline: Option<Duration>,
    ) -> Result<PerRank<T>, ExecError> {
        let n_ranks = self.plan.n_ranks();
        let begun = Instant::now();
        let mut found: Vec<Option<T>> = self.threads.iter().map(|_| None).collect();
        let mut has_answered = vec![false; found.len()];
        let mut n_silent = found.len();
        let mut first: Option<(ExecError, Instant)> = None;
        while n_silent > 0 {
            let reply = match (&first, deadline) {
                (None, None) => replies.recv().map_err(|_| RecvTimeoutError::Disconnected),
                (None, Some(deadline)) => {
                    replies.recv_timeout(deadline.saturating_sub(begun.elapsed()))
                }
                (Some((_, since)), _) => {
                    replies.recv_timeout(PATIENCE.saturating_sub(since.elapsed()))
                }
            };
            let error = match (reply.map(|answer| *answer), deadline) {
                (Ok((index, answer)), _) => {
                    has_answered[index] = true;
                    n_silent -= 1;
                    match answer {
                        Ok(answer) => {
                            found[index] = Some(answer);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
                (Err(_), _) if first.is_some() => break,
                (Err(RecvTimeoutError::Timeout), Some(deadline)) => {
                    self.overdue(&has_answered, deadline)
                }
                (Err(_), _) => self.gone(&has_answered),
            };
            if first.is_none() {
                self.threads.iter().for_each(Thread::stop);
                first = Some((error, Instant::now()));
            }
        }
        match first {
            Some((error, _)) => {
                // A rank that still computes would hold up the caller.
                self.end(|index| has_answered[index]);
                Err(error)
            }
            None => Ok(PerRank::new(n_ranks, found.into_iter().flatten().collect())),
        }
    }

    /// The error of a call past its deadline. It names a rank that waits for no other, if there is
    /// one.
    fn overdue(&self, has_answered: &[bool], deadline: Duration) -> ExecError {
        let ranks = self.progress.read().into_iter().zip(has_answered);
        let silent = ranks.filter(|&(_, has_answered)| !has_answered).map(|(rank, _)| rank);
        let held_up = silent.min_by_key(|rank| match rank.doing {
            doing if doing.is_waiting() => 2,
            Doing::Idle => 1,
            _ => 0,
        });
        let gone = || self.gone(has_answered);
        held_up.map_or_else(gone, |at| ExecError::Deadline {
            replica: at.replica,
            rank: at.rank,
            step: at.step,
            is_evaluating: at.is_evaluating,
            doing: at.doing,
            deadline,
        })
    }

    /// The error of a thread that has ended without an answer.
    fn gone(&self, has_answered: &[bool]) -> ExecError {
        let index = has_answered.iter().position(|has_answered| !has_answered).unwrap_or_default();
        let (replica, rank) = place(index, self.plan.n_ranks() as usize);
        ExecError::Gone { replica, rank }
    }

    /// Ends all ranks, and waits for the threads of those that have no work left.
    fn end(&mut self, is_done: impl Fn(usize) -> bool) {
        self.threads.iter().for_each(Thread::stop);
        let threads = self.threads.drain(..).enumerate();
        // The rest of each thread is dropped here, so that no order can come.
        let done = threads.filter_map(|(index, thread)| is_done(index).then_some(thread.handle));
        let done: Vec<JoinHandle<()>> = done.collect();
        for handle in done {
            // Its panics were answers already.
            let _ = handle.join();
        }
    }
}

/// The route of an evaluation: `n` forwards through one copy of the model.
fn evaluation_route(topology: &Topology, n: usize) -> Result<Arc<Route>, ExecError> {
    let plan = forward_only(topology.clone(), n as u32)?;
    Ok(Arc::new(Route::new(Arc::new(plan))))
}

impl Drop for Ranks {
    fn drop(&mut self) {
        // A call that panicked may have left ranks that wait for a message of its step.
        self.end(|_| true);
    }
}
