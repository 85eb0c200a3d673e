//! Errors of training.

use std::path::PathBuf;

use pp_executor::{LinkError, RankError};
use pp_hybrid::checkpoint::CheckpointError;
use pp_hybrid::{MeshError, TrainerError};
use pp_partition::PartitionError;
use pp_schedule::{ScheduleError, ScheduleName, Sizes};
use pp_telemetry::NotWritten;

use crate::continuing::ResumeError;
use crate::devices::NoCuda;
use crate::weights::WeightsError;
use crate::workload::BoxError;

/// The reason why a job cannot be trained. [`TrainError::is_refusal`] separates a wrong
/// configuration from work that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The processes of the run could not agree.
    #[error("the processes of the run cannot agree")]
    World(#[source] LinkError),
    /// Another number of ranks than of processes.
    #[error(
        "{ranks} ranks on {replicas} replicas are {} processes, and there are {processes}",
        u64::from(*ranks) * u64::from(*replicas)
    )]
    Processes {
        /// Ranks of the pipeline.
        ranks: u32,
        /// Replicas.
        replicas: u32,
        /// Processes of the run.
        processes: u32,
    },
    /// A process lacks a kernel that the first one chose.
    #[error("this process lacks the kernel {kernel}, which process 0 chose for all")]
    KernelElsewhere {
        /// The kernel.
        kernel: String,
    },
    /// A schedule does not take the costs or sizes.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A schedule does not take the sizes that it was asked for.
    #[error("{source}")]
    Sizes {
        /// The schedule.
        name: ScheduleName,
        /// The sizes.
        sizes: Sizes,
        /// The refusal of the schedule.
        source: Box<ScheduleError>,
    },
    /// A plan without backward.
    #[error("the plan {plan} has no backward, and cannot train")]
    ForwardOnly {
        /// The plan's name.
        plan: String,
    },
    /// A schedule that follows from costs, for layers that follow from the plan. They cannot be
    /// measured before it, and the workload does not know their costs.
    #[error(
        "{schedule} plans by the times of the layers, and {model} has no layers before it has a plan; use a schedule that follows from its sizes, such as 1f1b, or implement Workload::known_costs"
    )]
    UnknownCosts {
        /// The schedule.
        schedule: ScheduleName,
        /// The model.
        model: String,
    },
    /// More stages than layers.
    #[error(
        "{ranks} ranks of {chunks} stages need {} layers, the model {model} has {layers}",
        u64::from(*ranks) * u64::from(*chunks)
    )]
    TooManyStages {
        /// Ranks of the pipeline.
        ranks: u32,
        /// Stages of each.
        chunks: u32,
        /// Layers that the model has.
        layers: usize,
        /// The model.
        model: String,
    },
    /// More ranks than layers.
    #[error("{ranks} ranks need {ranks} layers, the model {model} has {layers}")]
    TooManyRanks {
        /// Ranks of the pipeline.
        ranks: u32,
        /// Layers that the model has.
        layers: usize,
        /// The model.
        model: String,
    },
    /// More ranks than threads of the system.
    #[error(
        "{ranks} ranks on {replicas} replicas are {} threads, this system has {most}",
        u64::from(*ranks) * u64::from(*replicas)
    )]
    Threads {
        /// Ranks of the pipeline.
        ranks: u32,
        /// Replicas of it.
        replicas: u32,
        /// Threads that are available.
        most: u64,
    },
    /// More pinned ranks than cores.
    #[error("{ranks} ranks cannot have a core each, there are {cores}")]
    Cores {
        /// Ranks of all replicas.
        ranks: u32,
        /// Cores that this process may use.
        cores: u32,
    },
    /// Recomputation on a stage that the plan does not have.
    #[error("stage {stage} is to recompute, the plan has {stages}")]
    AbsentStage {
        /// The stage.
        stage: u32,
        /// Stages of the plan.
        stages: u32,
    },
    /// A slow rank that the plan does not have.
    #[error("rank {rank} is to be slow, the plan has {ranks}")]
    AbsentSlowRank {
        /// The rank.
        rank: u32,
        /// Ranks of the plan.
        ranks: u32,
    },
    /// A fault on a rank that the plan does not have.
    #[cfg(feature = "fault-injection")]
    #[error("rank {rank} is to fail, the plan has {ranks}")]
    AbsentFault {
        /// The rank.
        rank: u32,
        /// Ranks of the plan.
        ranks: u32,
    },
    /// A slow rank in a plan that runs each stage on two ranks.
    #[error("no rank can be slow alone: {plan} runs every stage on two ranks")]
    SharedStages {
        /// The plan.
        plan: String,
    },
    /// A batch that does not divide.
    #[error(
        "a batch of {batch} samples does not divide into {micro_batches} micro-batches of {replicas} replicas"
    )]
    Uneven {
        /// Samples of a step.
        batch: u64,
        /// Micro-batches of each replica.
        micro_batches: u32,
        /// Replicas.
        replicas: u32,
        /// Ranks of the plan.
        ranks: u32,
        /// Stages of each.
        virtual_stages: u32,
    },
    /// CUDA was asked for, and cannot be used.
    #[error(transparent)]
    Cuda(#[from] NoCuda),
    /// CUDA was asked for by a workload that only waits.
    #[error("{model} waits instead of computing, and does so on CPUs")]
    WaitsOnCpu {
        /// The model.
        model: String,
    },
    /// Ranks and replicas that do not fit the devices.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The workload could not be built.
    #[error("{0}")]
    Workload(#[source] BoxError),
    /// A model that is too large for this machine.
    #[error(
        "{parameters} parameters on {replicas} replicas need about {} MiB to train; {} MiB are free",
        needed >> 20,
        free >> 20
    )]
    TooManyParameters {
        /// Parameters of one copy.
        parameters: u128,
        /// Copies.
        replicas: u32,
        /// Bytes that all of them need.
        needed: u128,
        /// Bytes that are free.
        free: u64,
        /// Parameters of all copies that would fit.
        most: u128,
    },
    /// A batch that is too large for this machine.
    #[error(
        "a batch of {samples} samples needs about {} MiB; {} MiB are free",
        needed >> 20,
        free >> 20
    )]
    BatchTooLarge {
        /// Samples of a step.
        samples: u64,
        /// Bytes that they need.
        needed: u128,
        /// Bytes that are free.
        free: u64,
        /// Samples that would fit.
        most: u64,
    },
    /// A batch above the largest one of the workload.
    #[error("a batch of {samples} samples is more than {model} takes, {most}")]
    TooManySamples {
        /// The model.
        model: String,
        /// Samples of a step.
        samples: u64,
        /// Samples of the largest batch.
        most: u64,
    },
    /// A micro-batch that is too large for this machine.
    #[error(
        "a micro-batch of {samples} samples needs about {} MiB of activations; {} MiB are free",
        needed >> 20,
        free >> 20
    )]
    ActivationsTooLarge {
        /// Samples of a micro-batch.
        samples: u64,
        /// Bytes that they need.
        needed: u128,
        /// Bytes that are free.
        free: u64,
        /// Samples that would fit.
        most: u128,
    },
    /// A cut that does not fit the plan or the model.
    #[error("the model cannot be cut into {stages} stages")]
    Cut {
        /// The refusal of the cut.
        source: Box<PartitionError>,
        /// Stages of the plan.
        stages: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// Initial weights that do not fit the model.
    #[error("cannot load initial weights from {}", path.display())]
    Initial {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<WeightsError>,
    },
    /// A checkpoint that the run cannot resume from.
    #[error("cannot resume from {}", path.display())]
    Resume {
        /// Its folder.
        path: PathBuf,
        /// The reason.
        source: Box<ResumeError>,
    },
    /// Checkpoints cannot be written where they were asked for.
    #[error("cannot write checkpoints")]
    Checkpoints(#[source] Box<CheckpointError>),
    /// A layer could not be built or measured.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A stage could not be rehearsed.
    #[error(transparent)]
    Rehearsal(#[from] RankError),
    /// A rank could not start, or a step could not be made.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// The signal handlers cannot be installed.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// The log of the run cannot be written.
    #[error(transparent)]
    Recorder(#[from] pp_telemetry::TraceError),
}

impl TrainError {
    /// Whether the configuration, or a file that it names, is wrong. Otherwise the work itself
    /// failed.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Partition(_)
                | Self::Tensor(_)
                | Self::World(_)
                | Self::Rehearsal(_)
                | Self::Trainer(_)
                | Self::Signals(_)
                | Self::Recorder(_)
        )
    }
}

/// The reason why a result of a run is missing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The held-out samples could not be made.
    #[error("cannot make the held-out samples")]
    HeldOut(#[source] candle_core::Error),
    /// The hash of the final weights could not be computed.
    #[error("cannot hash the final weights")]
    Hash(#[source] candle_core::Error),
    /// The trained layers could not be joined to generate a sample.
    #[error("no sample")]
    Rebuild(#[source] Box<PartitionError>),
    /// The text of a sample could not be generated.
    #[error("no sample")]
    Sample(#[source] candle_core::Error),
    /// The tensors of the first step could not be collected.
    #[error("cannot collect the tensors of step 1")]
    Dump(#[source] candle_core::Error),
    /// A file could be written neither at its path nor in the folder of the run.
    #[error("{called}: {at_path}, nor in the run's folder")]
    NotWritten {
        /// The name of the result in messages.
        called: String,
        /// The reason at its path.
        at_path: Box<NotWritten>,
        /// The reason in the folder of the run.
        source: Box<NotWritten>,
    },
}

/// An error with its causes, on one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let reason = cause.to_string().lines().next().unwrap_or_default().to_owned();
        // Some errors end in the text of their cause.
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        source = cause.source();
    }
    text
}
