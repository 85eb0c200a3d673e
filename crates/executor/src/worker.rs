//! One rank: what its thread owns, and its part of each call.

use std::rc::Rc;
use std::sync::Arc;

use pp_schedule::{Rank, Replica, Stage};
use pp_trace::SpanKind;

use crate::batch::Batch;
use crate::config::RankConfig;
use crate::error::{ExecError, RankError};
use crate::evaluation::Evaluation;
use crate::exchange::Exchange;
#[cfg(feature = "fault-injection")]
use crate::fault::{Fault, FaultPoint};
use crate::gauge::Gauge;
use crate::journal::{Journal, Place};
use crate::lane::Lane;
use crate::post::Post;
use crate::progress::{Doing, Reporter};
use crate::reduction::{Parts, Reduction};
use crate::report::{Evaluated, StageParameters, StepReport, UpdateReport, What};
use crate::stages::Stages;
use crate::stash::Stash;
use crate::state::{Named, Snapshot};
use crate::ties::Ties;
use crate::training::Training;
use crate::walk::{Route, Walk};
use crate::world::Answer;

type Result<T> = std::result::Result<T, RankError>;

/// The place of a rank, and its links to the other ranks.
pub(crate) struct Seat {
    pub(crate) replica: Replica,
    pub(crate) rank: Rank,
    pub(crate) post: Post,
    /// The links to the other copies of its stages, where the model has several copies.
    pub(crate) copies: Option<Box<dyn Exchange>>,
    pub(crate) progress: Reporter,
}

pub(crate) struct Worker {
    config: RankConfig,
    route: Arc<Route>,
    pub(crate) replica: Replica,
    lane: Lane,
    walk: Walk,
    stages: Stages,
    stash: Stash,
    gauge: Gauge,
    /// The mean over the copies of the model, where there are several, and messages of ties.
    reduction: Option<Reduction>,
    /// Tied parameters.
    ties: Ties,
}

impl Worker {
    /// Makes the device and builds this rank's stages on it. Call it on the rank's thread.
    pub(crate) fn new(mut config: RankConfig, route: Arc<Route>, seat: Seat) -> Result<Self> {
        let Seat { replica, rank, post, copies, progress } = seat;
        let lane = (config.devices)(rank, replica).lane()?;
        let stages = Stages::build(&config, (replica, rank), lane.device())?;
        lane.synchronize()?;
        // The stages have copies of their own now; these would be a second model for as long as the
        // run lasts.
        (config.initial, config.resumed) = (None, None);
        #[cfg(feature = "fault-injection")]
        {
            let is_here =
                |fault: &Fault| fault.rank == rank && fault.replica.is_none_or(|of| of == replica);
            config.fault = config.fault.filter(is_here);
        }
        let mut journal = Journal::new(&config, replica, rank);
        // Calls before the first step have times as well.
        journal.begin(0, &lane)?;
        let pace = config.pace.clone();
        let to_processes = post.world().is_some();
        let n_stages = config.plan.topology().n_stages();
        let reduction = copies.map(|links| Reduction::new(links, to_processes, n_stages));
        let ties = Ties::new(&config, (replica, rank))?;
        let walk = Walk::new(rank, pace, post, journal, progress);
        Ok(Self {
            config,
            route,
            replica,
            gauge: Gauge::new(lane.meter()),
            lane,
            walk,
            stages,
            stash: Stash::default(),
            reduction,
            ties,
        })
    }

    /// Fails here, if a test asked for it.
    #[cfg(feature = "fault-injection")]
    fn strike(&self, at: FaultPoint) -> Result<()> {
        let step = self.walk.progress.get().step;
        self.config.fault.map_or(Ok(()), |fault| fault.strike(step, at))
    }

    pub(crate) fn stage_parameters(&self) -> Vec<StageParameters> {
        self.stages.parameters(self.walk.rank)
    }

    /// Runs a part of a call, and ends the call together with all other processes.
    pub(crate) fn in_world<T: Answer>(
        &mut self,
        job: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let links = self.walk.post.world().map(Rc::clone);
        let links = links.ok_or(RankError::Missing("the world of this rank"))?;
        links.borrow_mut().begin_call();
        let mine = job(self)?;
        self.walk.progress.set(Doing::Idle);
        links.borrow_mut().share(mine)
    }

    /// The difference of the clocks of this process and of process 0, and the time of the exchange
    /// that told it, in nanoseconds.
    pub(crate) fn clock_offset(&self) -> (i64, u64) {
        self.walk.post.world().map_or((0, 0), |links| links.borrow().offset())
    }

    /// An error with the place where it happened.
    pub(crate) fn failed(&self, source: RankError) -> ExecError {
        ExecError::of_rank(self.walk.progress.get(), source)
    }

    /// Forward and backward of a whole batch, by the plan; then the mean over all copies of the
    /// model.
    pub(crate) fn step(&mut self, step: u64, batch: &Batch) -> Result<StepReport> {
        self.walk.progress.begin(step);
        if let Some(links) = self.walk.post.world() {
            let mut links = links.borrow_mut();
            links.begin_step(step);
            self.walk.journal.set_offset(links.offset_ns());
        }
        self.walk.journal.begin(step, &self.lane)?;
        // All copies have taken the weights that this rank stepped.
        self.reduction.iter_mut().for_each(Reduction::begin);
        self.walk.post.let_go()?;
        self.stages.begin();
        self.gauge.begin(&self.stages);
        let mut pass = Training {
            config: &self.config,
            plan: self.route.plan(),
            lane: &self.lane,
            stages: &mut self.stages,
            stash: &self.stash,
            gauge: &mut self.gauge,
            reduction: self.reduction.as_mut(),
            progress: self.walk.progress.clone(),
            step,
            batch,
            first_samples: batch.first_samples(),
            losses: Vec::new(),
        };
        self.walk.along(&self.route, &self.lane, &mut pass)?;
        let (micro_batches, losses): (Vec<_>, Vec<_>) = pass.losses.into_iter().unzip();
        let square_sums = self.gradient_norms()?;
        let losses = micro_batches.into_iter().zip(self.lane.download(&losses)?).collect();
        self.lane.synchronize()?;
        self.walk.journal.settle()?;
        Ok(StepReport {
            losses,
            square_sums,
            spans: self.walk.journal.take(),
            stash_peak: self.stash.take_peak(),
            residue_bytes_peak: self.stash.take_residue_peak(),
            mailbox_peak: self.walk.post.take_peak(),
        })
    }

    /// The square sums of the gradients, after the mean over all copies of the model.
    fn gradient_norms(&mut self) -> Result<Vec<(Stage, Vec<f64>)>> {
        self.average_rest()?;
        self.join_ties()?;
        self.walk.progress.set(self.lane.doing(Doing::SummingSquares));
        let square_sums = self.stages.square_sums(&self.lane)?;
        self.walk.progress.set(Doing::Idle);
        Ok(square_sums)
    }

    /// The rest of the mean over the copies of the model: what was not done while ops ran.
    fn average_rest(&mut self) -> Result<()> {
        if !self.config.has_copies() {
            return Ok(());
        }
        self.walk.progress.set(Doing::Averaging);
        #[cfg(feature = "fault-injection")]
        self.strike(FaultPoint::Reduce)?;
        let Some(reduction) = &mut self.reduction else { return Ok(()) };
        let Walk { journal, progress, .. } = &mut self.walk;
        let (stages, lane) = (&mut self.stages, &self.lane);
        let mut parts = Parts { stages, lane, journal, progress };
        reduction.send(&mut parts)?;
        reduction.advance(&mut parts)?;
        while reduction.is_waiting() {
            parts.progress.set(Doing::AwaitingGradients);
            reduction.wait()?;
            reduction.advance(&mut parts)?;
        }
        parts.progress.set(Doing::Averaging);
        reduction.finish(&mut parts)
    }

    /// Adds the gradients of both places of each tied parameter.
    fn join_ties(&mut self) -> Result<()> {
        let (false, Some(reduction)) = (self.ties.is_empty(), &mut self.reduction) else {
            return Ok(());
        };
        self.walk.progress.set(Doing::AwaitingGradients);
        let to_processes = self.walk.post.world().is_some();
        let Walk { journal, progress, .. } = &mut self.walk;
        let (stages, lane) = (&mut self.stages, &self.lane);
        self.ties.join(reduction, &mut Parts { stages, lane, journal, progress }, to_processes)
    }

    /// An optimizer step. `clip` is what gradients are multiplied with first.
    pub(crate) fn update(&mut self, lr: f64, clip: f32) -> Result<UpdateReport> {
        self.walk.progress.set(Doing::Updating);
        #[cfg(feature = "fault-injection")]
        self.strike(FaultPoint::Optimizer)?;
        self.reduction.iter_mut().for_each(Reduction::let_go);
        let started = self.walk.journal.start(&self.lane)?;
        let shapes = self.lane.keep_shapes();
        self.stages.update(lr, clip)?;
        drop(shapes);
        self.hand_over()?;
        self.walk.journal.end(Place::rank(SpanKind::Optim), started, &self.lane)?;
        self.walk.progress.set(self.lane.doing(Doing::Updating));
        self.lane.synchronize()?;
        self.walk.journal.settle()?;
        self.walk.progress.set(Doing::Idle);
        Ok(self.updated())
    }

    /// Exchanges the weights that each copy of a stage has stepped, where they share the optimizer.
    fn hand_over(&mut self) -> Result<()> {
        let to_processes = self.walk.post.world().is_some();
        let (true, Some(links)) = (self.config.shards_optimizer, &mut self.reduction) else {
            return Ok(());
        };
        let own = self.stages.stepped(&self.lane, to_processes)?;
        self.walk.progress.set(Doing::AwaitingWeights);
        let copies = links.exchange(own)?;
        self.walk.progress.set(Doing::Updating);
        self.stages.take_stepped(&self.config, self.replica, &copies, &self.lane)
    }

    /// Ends a step without an update: weights and optimizers stay as they are.
    pub(crate) fn skip_update(&mut self) -> UpdateReport {
        self.reduction.iter_mut().for_each(Reduction::let_go);
        self.updated()
    }

    fn updated(&mut self) -> UpdateReport {
        let memory = self.gauge.report(&self.stages);
        UpdateReport { memory, spans: self.walk.journal.take() }
    }

    /// Forward only, by a plan for it.
    pub(crate) fn evaluate(&mut self, route: &Route, batch: &Batch) -> Result<Evaluated> {
        self.walk.progress.begin_evaluation();
        let objective = self.config.objective.as_ref();
        let (plan, stages) = (route.plan(), &mut self.stages);
        let mut pass = Evaluation::new(plan, objective, &self.lane, stages, batch);
        self.walk.along(route, &self.lane, &mut pass)?;
        let found = pass.finish()?;
        self.walk.post.take_peak();
        self.walk.progress.end_evaluation();
        Ok(found)
    }

    /// Host copies of tensors, by stage. All replicas have the same; the first one answers alone.
    pub(crate) fn collect(&mut self, what: What) -> Result<Vec<(Stage, Named)>> {
        if self.replica != Replica(0) {
            return Ok(Vec::new());
        }
        self.walk.progress.set(Doing::Collecting);
        let found = self.stages.collect(what)?;
        self.walk.progress.set(Doing::Idle);
        Ok(found)
    }

    /// A copy of everything that a later run needs to go on. The first replica has it alone; other
    /// copies give it what they have of the optimizer's state.
    pub(crate) fn snapshot(&mut self) -> Result<Snapshot> {
        self.walk.progress.set(Doing::Collecting);
        #[cfg(feature = "fault-injection")]
        self.strike(FaultPoint::Copy)?;
        let is_first = self.replica == Replica(0);
        if !is_first && !self.config.shards_optimizer {
            self.walk.progress.set(Doing::Idle);
            return Ok(Snapshot::default());
        }
        let started = self.walk.journal.start(&self.lane)?;
        let mut snapshot = if is_first { self.stages.snapshot()? } else { Snapshot::default() };
        if self.config.shards_optimizer {
            let own = self.stages.shared_moments()?;
            let firsts = if is_first { self.stages.of_first() } else { Vec::new() };
            let copies = match &mut self.reduction {
                Some(links) => links.gather(own, &firsts)?,
                // The only copy has it all.
                None => {
                    own.into_iter().map(|(_, stage, own)| (stage, vec![Arc::new(own)])).collect()
                }
            };
            self.stages.join_moments(&self.config, &copies, &mut snapshot)?;
        }
        self.walk.journal.end(Place::rank(SpanKind::Checkpoint), started, &self.lane)?;
        self.lane.synchronize()?;
        self.walk.journal.settle()?;
        self.walk.progress.set(Doing::Idle);
        // The recorder has the span, and nobody else asks for it.
        drop(self.walk.journal.take());
        Ok(snapshot)
    }
}
