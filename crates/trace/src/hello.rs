//! The first line of a log: what is run, and where.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bounds;

/// How the names of GPUs begin in a device map.
const GPU: &str = "cuda:";

/// What is run, and where.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The major version of the log, [`crate::SCHEMA`].
    pub schema: u32,
    /// The id of the run.
    pub run: String,
    /// The process of the trainer.
    pub pid: u32,
    /// Its command line.
    #[serde(deserialize_with = "bounds::arguments")]
    pub argv: Vec<String>,
    /// The framework that trains, with its version; empty for a run of this program.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// The name of the model.
    pub model: String,
    /// The name of the schedule.
    pub schedule: String,
    /// Ranks along the pipeline.
    pub pp: u32,
    /// Replicas.
    pub dp: u32,
    /// Chunks that each rank owns.
    pub virtual_stages: u32,
    /// Micro-batches of each replica in a step.
    pub micro_batches: u32,
    /// Samples in a step, over all replicas.
    pub batch_size: u64,
    /// Steps that are planned.
    pub steps: u64,
    /// Steps from one validation to the next; the last step has one too. 0 if there is none or if
    /// this is unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub eval_every: u64,
    /// Cores that the ranks may use, on all hosts.
    pub cores: u32,
    /// The machine.
    pub host: String,
    /// The machines of a run in several processes, in the order of their ranks; empty for a run in
    /// one process.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "bounds::hosts")]
    pub hosts: Vec<HostEntry>,
    /// Bytes of the machine's memory, for ranks on its processor; 0 if unknown.
    pub host_memory_bytes: u64,
    /// The socket on which the run takes requests, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The run and the step that this run resumes from, if it was resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continues>,
    /// The folder of its checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<String>,
    /// The seed.
    pub seed: u64,
    /// Parameters of the whole model.
    pub parameters: u64,
    /// Where each stage of each replica lives.
    #[serde(deserialize_with = "bounds::places")]
    pub device_map: Vec<DeviceMapEntry>,
    /// What each stage is made of.
    #[serde(deserialize_with = "bounds::stages")]
    pub stages: Vec<StageInfo>,
    /// The plan: for each rank its operations in order, as in `0F0,0F1,0B0,0B1`.
    #[serde(deserialize_with = "bounds::rows")]
    pub plan: Vec<String>,
    /// The parts that the recorder left out of this line, and the reason; absent if it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omitted: Option<String>,
    /// When the run began, in milliseconds of Unix time: the one link between the run's clock and
    /// the wall clock.
    pub started_unix_ms: u64,
    /// Which clock the spans come from: `host`, or `device` where ranks compute on GPUs.
    pub clock: String,
    /// Tokens that one sample is made of; 0 where samples are not made of tokens.
    pub tokens_per_sample: u64,
    /// The bubble ratio that the schedule promises: by its formula, or by simulation where it has
    /// none.
    pub theory: Option<f64>,
    /// After the first steps, spans are recorded for one step in this many; 1 records all.
    pub span_every: u64,
    /// The most memory that each rank of a replica will hold, found before the run; empty if
    /// unknown.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "bounds::planned")]
    pub memory_plan: Vec<PlannedMem>,
    /// How the layers were cut into stages: `uniform`, `parameters`, `time`, or layers of each
    /// stage such as `3,5`; empty if unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub partition: String,
    /// Matrix kernels, for each product and number of rows; empty if the log does not say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernels: String,
    /// What each layer was measured to take for a micro-batch, forward and backward, in seconds;
    /// empty where nothing was measured.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "bounds::layers")]
    pub layer_seconds: Vec<f64>,
    /// Floating-point operations that one sample needs, forward and backward; 0 where that is not
    /// known.
    #[serde(skip_serializing_if = "is_zero")]
    pub flops_per_sample: u64,
    /// The most floating-point operations per second of all devices together, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_flops: Option<f64>,
}

/// The checkpoint that a run resumes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Continues {
    /// The id of the run that wrote it.
    pub run: String,
    /// Its last step.
    pub step: u64,
    /// Seconds of training until then, over all runs before this one.
    pub elapsed_seconds: f64,
}

impl std::fmt::Display for Continues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from step {}", self.run, self.step)
    }
}

/// A machine of a run in several processes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostEntry {
    /// Its name.
    pub host: String,
    /// What is added to the time of its first process, which counts from its own start, to have the
    /// time of the run, in seconds, when the run began. All times in the log have it already.
    pub clock_offset_seconds: f64,
    /// How far that may be off, in seconds: half of the quickest exchange of two messages.
    pub clock_error_seconds: f64,
}

/// What a rank will hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedMem {
    /// The rank.
    pub rank: u32,
    /// All of it, at the worst moment.
    pub peak_bytes: u64,
    /// Bytes of parameters.
    pub parameter_bytes: u64,
    /// Bytes of gradients.
    pub gradient_bytes: u64,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: u64,
    /// Bytes of packed copies of weights.
    pub packed_bytes: u64,
    /// Bytes that wait between ops: activations, residues of weight gradients, messages.
    pub stash_bytes: u64,
    /// What an op needs beyond that while it runs.
    pub temporary_bytes: u64,
    /// Bytes of the copy for a checkpoint: parameters and optimizer state. They come on top of
    /// `peak_bytes`, because a copy belongs to the thread that writes it, and no measured peak of a
    /// rank has it. 0 for a run that was not asked for checkpoints.
    #[serde(skip_serializing_if = "is_zero")]
    pub checkpoint_bytes: u64,
}

/// Where one stage of one replica lives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMapEntry {
    /// The stage.
    pub stage: u32,
    /// The rank that computes it.
    pub rank: u32,
    /// The replica.
    pub replica: u32,
    /// The device, such as `cpu:0`.
    pub device: String,
    /// The host of the rank's process; absent where ranks are threads of one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What the driver calls the device for ever; absent for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its address on the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
}

/// What one stage is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StageInfo {
    /// The stage.
    pub stage: u32,
    /// The copy of the model that it belongs to: Chimera has two, 0 and 1.
    #[serde(skip_serializing_if = "is_first")]
    pub copy: u32,
    /// The rank that computes it.
    pub rank: u32,
    /// Its first and its last layer; `None` if the run does not tell them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<[u32; 2]>,
    /// Its parameters.
    pub parameters: u64,
    /// The bytes of its parameters.
    pub parameter_bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Nearly every schedule has one copy of the model, whose number goes without saying.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_first(copy: &u32) -> bool {
    *copy == 0
}

impl Hello {
    /// The partition of the layers: the one in the log or, in an older log, the one on the command
    /// line; `None` if neither has one.
    pub fn cut(&self) -> Option<&str> {
        if !self.partition.is_empty() {
            return Some(&self.partition);
        }
        let flag = "--partition";
        let mut args = self.argv.iter().skip_while(|arg| !arg.starts_with(flag));
        if let Some(given) = args.next() {
            let given = given.strip_prefix(flag)?;
            return given.strip_prefix('=').or_else(|| args.next().map(String::as_str));
        }
        match self.model.as_str() {
            _ if self.argv.is_empty() => None,
            "sleep" => Some("uniform"),
            "gpt" | "seed-mlp" | "wine-mlp" => Some("time"),
            _ => None,
        }
    }

    /// The first step of this run: 1, or the one after the checkpoint that it resumes from.
    pub fn first_step(&self) -> u64 {
        self.continues.as_ref().map_or(0, |before| before.step).saturating_add(1)
    }

    /// Ranks over all replicas, and cores, when there are more ranks than cores; `None` too where
    /// the cores are not known, or where ranks compute on GPUs and need cores for little.
    pub fn ranks_over_cores(&self) -> Option<(u64, u32)> {
        let n_ranks = u64::from(self.pp) * u64::from(self.dp);
        let are_too_many = self.cores > 0 && n_ranks > u64::from(self.cores);
        (are_too_many && !self.is_on_gpus()).then_some((n_ranks, self.cores))
    }

    /// The name of a place: that of its device, and of its host if the run has several.
    pub fn place_name(&self, place: &DeviceMapEntry) -> String {
        match &place.host {
            Some(host) if self.hosts.len() > 1 => format!("{}@{host}", place.device),
            _ => place.device.clone(),
        }
    }

    /// Whether ranks compute on GPUs.
    pub fn is_on_gpus(&self) -> bool {
        self.device_map.iter().any(|place| place.device.starts_with(GPU))
    }

    /// The GPU that most ranks share, and how many do, where any is shared. The times of their ops
    /// say little about the schedule.
    pub fn ranks_on_one_gpu(&self) -> Option<(u64, &str)> {
        let on_gpus = self.device_map.iter().filter(|place| place.device.starts_with(GPU));
        let mut ranks_of: BTreeMap<&str, BTreeSet<(u32, u32)>> = BTreeMap::new();
        for place in on_gpus {
            ranks_of.entry(&place.device).or_default().insert((place.replica, place.rank));
        }
        let shared = ranks_of.into_iter().map(|(device, ranks)| (ranks.len() as u64, device));
        // Of several with equally many ranks the first by name.
        let most = shared.rev().max_by_key(|(n, _)| *n);
        most.filter(|(n, _)| *n > 1)
    }

    /// Without the lists that its reader would refuse as too long; `omitted` names them. `None` if
    /// there are none.
    pub(crate) fn without_what_is_refused(&self) -> Option<Self> {
        let mut kept = self.clone();
        let mut left_out = Vec::new();
        let mut bound = |what: &'static str, n: usize, most: usize| {
            let is_over = n > most;
            if is_over {
                left_out.push(format!("{n} {what} (a log holds at most {most})"));
            }
            is_over
        };
        if bound("stages", kept.stages.len(), bounds::STAGES_MAX) {
            kept.stages.clear();
        }
        if bound("places of the device map", kept.device_map.len(), bounds::STAGES_MAX) {
            kept.device_map.clear();
        }
        if bound("rows of the plan", kept.plan.len(), bounds::ROWS_MAX) {
            kept.plan.clear();
        }
        if bound("ranks of the memory plan", kept.memory_plan.len(), bounds::ROWS_MAX) {
            kept.memory_plan.clear();
        }
        if bound("layers", kept.layer_seconds.len(), bounds::STAGES_MAX) {
            kept.layer_seconds.clear();
        }
        if bound("arguments", kept.argv.len(), bounds::ROWS_MAX) {
            kept.argv.truncate(1);
        }
        if left_out.is_empty() {
            return None;
        }
        kept.say_omitted(&left_out.join(", "));
        Some(kept)
    }

    /// Without its plan. `n_bytes` is the length of the line with the plan, for `omitted`.
    #[must_use]
    pub fn without_plan(&self, n_bytes: usize) -> Self {
        let mut kept = Self { plan: Vec::new(), ..self.clone() };
        kept.say_omitted(&format!(
            "the plan: with it, this line would have {}",
            bounds::mib(n_bytes)
        ));
        kept
    }

    /// With its numbers and shortened texts alone, for a hello with names of megabytes.
    #[must_use]
    pub fn brief(&self, n_bytes: usize) -> Self {
        let mut kept = Self {
            run: bounds::shortened(&self.run),
            model: bounds::shortened(&self.model),
            schedule: bounds::shortened(&self.schedule),
            host: bounds::shortened(&self.host),
            clock: bounds::shortened(&self.clock),
            argv: Vec::new(),
            device_map: Vec::new(),
            stages: Vec::new(),
            plan: Vec::new(),
            memory_plan: Vec::new(),
            partition: bounds::shortened(&self.partition),
            kernels: bounds::shortened(&self.kernels),
            layer_seconds: Vec::new(),
            socket: None,
            continues: self
                .continues
                .as_ref()
                .map(|before| Continues { run: bounds::shortened(&before.run), ..before.clone() }),
            checkpoints: None,
            omitted: None,
            ..self.clone()
        };
        kept.say_omitted(&format!(
            "all lists: with them, this line would have {}",
            bounds::mib(n_bytes)
        ));
        kept
    }

    fn say_omitted(&mut self, what: &str) {
        let what = match self.omitted.take() {
            Some(before) => format!("{before}; {what}"),
            None => what.to_owned(),
        };
        self.omitted = Some(what);
    }
}
