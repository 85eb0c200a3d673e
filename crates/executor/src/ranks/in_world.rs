//! The rank of this process, and the calls that it answers together with those of other processes.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::{Ranks, Stop, Thread, check_threads};
use crate::config::RankConfig;
use crate::device::DeviceSpec;
use crate::error::{ExecError, RankError};
use crate::exchange::Exchange;
use crate::per_rank::{PerRank, place};
use crate::post::{Neighbours, Post};
use crate::progress::Progress;
use crate::sheet::{Sheet, note_lost, words_of};
use crate::thread::{Reply, STACK_BYTES, cores_for, order, pin, serve};
use crate::transport::{Trouble, World};
use crate::walk::Route;
use crate::worker::{Seat, Worker};
use crate::world::{Answer, Links, Said, WorldCopies, error_of, tell};

/// How often a call looks whether another process has failed.
const LOOK: Duration = Duration::from_millis(20);
/// How long the rank of this process gets to say what was wrong with it, once another process has
/// said that it cannot go on.
const PATIENCE: Duration = Duration::from_millis(500);
/// Exchanges that compare the clocks before the first step.
const COMPARISONS: usize = 16;

impl Ranks {
    /// Starts the rank of this process. Returns when those of all processes have built their
    /// stages.
    pub(super) fn join(config: &RankConfig, world: &Arc<dyn World>) -> Result<Self, ExecError> {
        let n_ranks = config.plan.n_ranks();
        let (ranks, processes) = (n_ranks * config.n_replicas, world.size());
        if ranks != processes {
            return Err(ExecError::World { ranks, processes });
        }
        let (replica, rank) = place(world.index() as usize, n_ranks as usize);
        if matches!((config.devices)(rank, replica), DeviceSpec::Cpu { .. }) {
            check_threads()?;
        }
        let core = if config.pinned {
            let cores = cores_for(1).ok_or(ExecError::Cores { ranks: 1 })?;
            cores.first().copied()
        } else {
            None
        };
        let progress = Progress::new(n_ranks, config.n_replicas);
        world.watch(progress.clone());
        let sheet = config.sheets.as_ref().and_then(|dir| {
            let host = world.hosts().get(world.index() as usize).map_or("", String::as_str);
            // Where it cannot be written, a rank that is killed is named without its op.
            Sheet::create(dir, world.index(), (replica, rank), host).ok()
        });
        let sheet = sheet.map(Arc::new);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (orders, received) = channel();
        let (reply, replies) = channel();
        let route = Arc::new(Route::new(Arc::clone(&config.plan)));
        let body = {
            let (config, world) = (config.clone(), Arc::clone(world));
            let (progress, is_stopped) = (progress.clone(), Arc::clone(&is_stopped));
            move || {
                let opened = world.open(&mut |port| {
                    let stopped = Arc::clone(&is_stopped);
                    let times = (config.origin, config.link_delay);
                    let links = Links::new(Arc::clone(&world), port, n_ranks, stopped, times);
                    let make = || {
                        core.map(pin).transpose()?;
                        let copies = config.exchanges().then(|| {
                            let copies = config.copies((replica, rank));
                            let links = WorldCopies::new(Rc::clone(&links), copies);
                            Box::new(links) as Box<dyn Exchange>
                        });
                        let post = Post::new(Neighbours::World(Rc::clone(&links)));
                        let progress = progress.of(replica, rank).on(sheet.clone());
                        let seat = Seat { replica, rank, post, copies, progress };
                        Worker::new(config.clone(), Arc::clone(&route), seat)
                    };
                    let first = |worker: &mut Worker| worker.in_world(|w| Ok(w.stage_parameters()));
                    serve(0, (replica, rank), make, first, &received, reply.clone());
                });
                if let Err(error) = opened {
                    // Whoever waited for this rank is gone when the run is over.
                    let _ = reply.send(Box::new((0, Err(ExecError::Link(error)))));
                }
            }
        };
        let handle = std::thread::Builder::new()
            .name(format!("rank {rank}.{replica}"))
            .stack_size(STACK_BYTES)
            .spawn(body)
            .map_err(|source| ExecError::Spawn { rank, source })?;
        let mut ranks = Self {
            plan: Arc::clone(&config.plan),
            n_replicas: config.n_replicas,
            deadline: config.deadline,
            threads: vec![Thread { orders, stop: Stop::Flag(is_stopped), handle }],
            progress,
            world: Some(Arc::clone(world)),
            recorder: config.recorder.clone(),
            sheets: config.sheets.clone(),
            stages: Vec::new(),
        };
        let built = ranks.hear(world.as_ref(), &replies)?;
        let mut ranks = ranks.with_stages(built);
        for _ in 0..COMPARISONS {
            ranks.call(|_| Ok(0_u64))?;
        }
        Ok(ranks)
    }

    /// Gives the rank of this process a job, as all other processes do, and waits for the answers
    /// of all.
    pub(super) fn call_in_world<T: Answer>(
        &mut self,
        world: &dyn World,
        job: impl Fn(&mut Worker) -> Result<T, RankError> + Send + Sync + 'static,
    ) -> Result<PerRank<T>, ExecError> {
        let (reply, replies) = channel();
        let job = Arc::new(move |worker: &mut Worker| worker.in_world(|worker| job(worker)));
        let is_sent = self.threads[0].orders.send(order(0, job, reply)).is_ok();
        if !is_sent {
            self.leave();
            let (replica, rank) = place(world.index() as usize, self.plan.n_ranks() as usize);
            return Err(ExecError::Gone { replica, rank });
        }
        let answers = self.hear(world, &replies)?;
        if world.index() == 0 {
            // Each rank of this process has recorded its own.
            let others = answers.as_slice().iter().skip(1);
            others.flat_map(Answer::spans).for_each(|&span| self.recorder.span(span));
        }
        Ok(answers)
    }

    /// The answers of all processes, which the rank of this one gets.
    fn hear<T>(
        &mut self,
        world: &dyn World,
        replies: &Receiver<Reply<Vec<T>>>,
    ) -> Result<PerRank<T>, ExecError> {
        let n_ranks = self.plan.n_ranks();
        let begun = Instant::now();
        let mut trouble: Option<Instant> = None;
        let error = loop {
            match replies.recv_timeout(LOOK).map(|reply| reply.1) {
                Ok(Ok(all)) => return Ok(PerRank::new(n_ranks, all)),
                Ok(Err(error)) => break Some(error),
                Err(RecvTimeoutError::Disconnected) => break None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if trouble.is_none() && world.trouble().is_some() {
                trouble = Some(Instant::now());
            }
            if trouble.is_some_and(|since| since.elapsed() >= PATIENCE) {
                break None;
            }
            if let Some(deadline) = self.deadline.filter(|&deadline| begun.elapsed() >= deadline) {
                let error = self.overdue(&vec![false; world.size() as usize], deadline);
                break Some(error);
            }
        };
        let is_told = |error: &ExecError| matches!(error, ExecError::Rank { source, .. } if matches!(**source, RankError::Stopped));
        let error = match (error, world.trouble()) {
            (Some(error), _) if !is_told(&error) => {
                tell(world, &error);
                error
            }
            (_, Some(trouble)) => {
                if let (Trouble::Lost { index, .. }, Some(dir)) = (&trouble, &self.sheets) {
                    note_lost(dir, *index);
                    if let Some(words) = words_of(dir, *index) {
                        // What it was in when it was lost, and not when it was last heard of.
                        self.progress.set_words(*index as usize, [words.step, words.doing]);
                    }
                }
                error_of(&trouble, world, &self.plan, &self.progress)
            }
            (Some(error), None) => error,
            (None, None) => {
                let (replica, rank) = place(world.index() as usize, n_ranks as usize);
                let error = ExecError::Gone { replica, rank };
                tell(world, &error);
                error
            }
        };
        self.leave();
        Err(error)
    }

    /// Ends the rank of this process without waiting for its thread: messages may be under way that
    /// nobody takes any more.
    fn leave(&mut self) {
        self.threads.iter().for_each(Thread::stop);
        self.threads.clear();
    }

    /// Agrees on a number with the other processes: all get the bits that any of them gives. Without
    /// other processes that is the number itself. Process 0 also gets what each of the others says,
    /// in their order.
    ///
    /// # Errors
    /// A process that failed or is gone.
    pub fn agree(&mut self, bits: u64, said: Vec<u8>) -> Result<(u64, Vec<Vec<u8>>), ExecError> {
        if self.world.is_none() {
            return Ok((bits, Vec::new()));
        }
        let given = self.call(move |_| Ok(Said { bits, words: said.clone() }))?;
        let all = given.as_slice().iter().fold(0, |all, said| all | said.bits);
        let others = given.into_places().skip(1).map(|(_, said)| said.words);
        Ok((all, others.collect()))
    }

    /// What has to be added to the clock of each process to have that of process 0, and the time of
    /// the exchange that told it, in nanoseconds. Empty without other processes.
    ///
    /// # Errors
    /// A process that failed or is gone.
    pub fn clock_offsets(&mut self) -> Result<Vec<(i64, u64)>, ExecError> {
        if self.world.is_none() {
            return Ok(Vec::new());
        }
        let offsets = self.call(|worker| {
            let (offset, round_trip) = worker.clock_offset();
            Ok((offset as u64, round_trip))
        })?;
        Ok(offsets.as_slice().iter().map(|&(offset, trip)| (offset as i64, trip)).collect())
    }
}
