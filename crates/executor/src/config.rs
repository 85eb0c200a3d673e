//! The configuration of a set of ranks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pp_nn::{Kernels, OptimizerKind, Values};
use pp_partition::{LayerStack, Objective, Partition};
use pp_schedule::{Op, Rank, Replica, ValidPlan};
use pp_trace::Recorder;

use crate::device::DeviceSpec;
use crate::exchange::Copies;
#[cfg(feature = "fault-injection")]
use crate::fault::Fault;
use crate::recompute::Recompute;
use crate::state::OptimizerState;
use crate::transport::InWorld;

/// The default of [`RankConfig::bucket_bytes`].
pub const BUCKET_BYTES: usize = 1 << 20;

/// How long an op of a rank lasts at least, forward or backward. See [`RankConfig::pace`].
pub type Pace = Arc<dyn Fn(Rank, Op) -> Duration + Send + Sync>;

/// The configuration of all ranks. Each rank uses its part.
#[derive(Clone)]
pub struct RankConfig {
    /// The plan that every replica runs.
    pub plan: Arc<ValidPlan>,
    /// The layers of each stage of the plan.
    pub partition: Partition,
    /// The model.
    pub stack: LayerStack,
    /// The loss.
    pub objective: Arc<dyn Objective>,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// The seed of weights and dropout.
    pub seed: u64,
    /// Initial values by name, instead of random ones. No rank keeps them once it has built its
    /// stages. A caller that keeps a clone holds a second copy of the model.
    pub initial: Option<Arc<dyn Values>>,
    /// The state of the optimizer to resume from, instead of a new one. As with `initial`, no rank
    /// keeps it.
    pub resumed: Option<Arc<OptimizerState>>,
    /// Copies of the pipeline.
    pub n_replicas: u32,
    /// Whether each copy of a stage keeps the optimizer's state for its share of the parameters
    /// alone, steps that, and hands the new weights to the others. Results have the same bits.
    pub shards_optimizer: bool,
    /// Where each rank computes, by rank and replica.
    pub devices: Arc<dyn Fn(Rank, Replica) -> DeviceSpec + Send + Sync>,
    /// The kernels for matrix products: the same on every rank, or they would round differently.
    pub kernels: Kernels,
    /// Whether ranks keep packed copies of their weights, where several micro-batches use them.
    /// That is faster, and takes about twice the bytes of the weights. Results have the same bits.
    pub packs_weights: bool,
    /// Which stages run their forward again instead of keeping what it made.
    pub recompute: Recompute,
    /// The bytes of gradients that are sent together to the other copies of a stage, at least, of
    /// parameters that follow one another. With 0 each parameter is sent alone. Results have the
    /// same bits.
    pub bucket_bytes: usize,
    /// How long every message takes, beyond what it really takes.
    pub link_delay: Duration,
    /// Whether each rank's thread is pinned to a core of its own. It is an error if this process
    /// may use fewer cores.
    pub pinned: bool,
    /// How long each op lasts at least: a rank that is done earlier sleeps for the rest. So a run
    /// can have known times on any number of cores. With a pace no span counts as starved, since a
    /// rank that sleeps misses no core.
    pub pace: Option<Pace>,
    /// The time that a call may take. After that it fails with [`ExecError::Deadline`], which names
    /// a rank that holds the others up, and the ranks end. They get 2 s more to stop before the
    /// call returns. Building the model is not a call.
    ///
    /// [`ExecError::Deadline`]: crate::ExecError::Deadline
    pub deadline: Option<Duration>,
    /// The processes of the run, if its ranks are processes; else they are threads of this one.
    pub world: Option<InWorld>,
    /// A folder in which each process keeps what its rank is doing, so that it can be told when the
    /// process is gone: see [`lost_rank`](crate::lost_rank).
    pub sheets: Option<PathBuf>,
    /// Where spans go while the step still runs.
    pub recorder: Recorder,
    /// The moment at which the run's time is 0.
    pub origin: Instant,
    /// A rank to fail on purpose, for tests.
    #[cfg(feature = "fault-injection")]
    pub fault: Option<Fault>,
}

impl RankConfig {
    /// One replica on CPU ranks, seed 0, nothing recorded.
    pub fn new(
        plan: ValidPlan,
        partition: Partition,
        stack: LayerStack,
        objective: Arc<dyn Objective>,
        optimizer: OptimizerKind,
    ) -> Self {
        Self {
            plan: Arc::new(plan),
            partition,
            stack,
            objective,
            optimizer,
            seed: 0,
            initial: None,
            resumed: None,
            n_replicas: 1,
            shards_optimizer: false,
            devices: Arc::new(|rank, _| DeviceSpec::Cpu { index: rank.0 }),
            kernels: Kernels::default(),
            packs_weights: true,
            recompute: Recompute::Never,
            bucket_bytes: BUCKET_BYTES,
            link_delay: Duration::ZERO,
            pinned: false,
            pace: None,
            deadline: None,
            world: None,
            sheets: None,
            recorder: Recorder::disabled(),
            origin: Instant::now(),
            #[cfg(feature = "fault-injection")]
            fault: None,
        }
    }

    /// Whether ranks keep packed copies of their weights. A single micro-batch gains nothing from
    /// them.
    pub(crate) fn keeps_packed(&self) -> bool {
        self.packs_weights && self.plan.n_micro_batches() > self.plan.n_pipes()
    }

    /// The copies of each stage.
    pub(crate) fn n_copies(&self) -> usize {
        (self.n_replicas * self.plan.n_pipes()) as usize
    }

    /// Where the copies of the stages of a rank are.
    pub(crate) fn copies(&self, place: (Replica, Rank)) -> Copies {
        Copies::new(self.plan.topology(), self.n_replicas, place)
    }

    /// Whether a rank exchanges gradients with others: copies of its stages, or the other places of
    /// tied parameters.
    pub(crate) fn exchanges(&self) -> bool {
        self.has_copies() || !self.stack.ties().is_empty()
    }

    /// Whether the model is there more than once, so that gradients have to be averaged.
    pub(crate) fn has_copies(&self) -> bool {
        self.n_replicas > 1 || self.plan.n_pipes() > 1
    }
}
