//! What process 0 has measured and decided, for the processes that follow it.
//!
//! Two processes that measure find different times, so one of them measures for all.

use std::fmt::Debug;

use pp_executor::{InWorld, LinkError};
use pp_hybrid::Mesh;
use pp_nn::Kernels;
use pp_partition::{Cut, Partition};
use pp_schedule::{export_csv, import_csv};
use serde::{Deserialize, Serialize};

use super::{Prepared, Session, build, initial};
use crate::config::Config;
use crate::error::TrainError;
use crate::job::Job;
use crate::kernels::Chosen;
use crate::profiles::Profiles;

/// The decisions of process 0.
#[derive(Serialize, Deserialize)]
struct Told {
    kernels: Option<String>,
    /// The plan, if it follows from costs: its name and its rows.
    plan: Option<(String, String, u32)>,
    layers: Vec<usize>,
    /// What every process has to find the same.
    same: Same,
}

/// What each process finds for itself, and has to find the same as process 0.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Same {
    /// The kind of device.
    device: String,
    /// The bytes of a bucket of gradients.
    bucket_bytes: usize,
    /// The data.
    data: Option<String>,
    /// The checkpoint: its run, its step and its place among those of its folder.
    checkpoint: Option<(String, u64, u64)>,
}

impl Same {
    fn of(config: &Config, job: &Job, mesh: Mesh) -> Self {
        let checkpoint = config.resume.as_ref().map(|resume| {
            let manifest = resume.checkpoint.manifest();
            (manifest.run.clone(), manifest.step, manifest.sequence)
        });
        let device = if mesh.is_on_cpu() { "cpu" } else { "cuda" }.to_owned();
        let data = job.data.fingerprint();
        Self { device, bucket_bytes: config.bucket_bytes, data, checkpoint }
    }

    /// Refuses to go on with something else than process 0.
    fn refuse_other(&self, first: &Self) -> Result<(), TrainError> {
        let differs = |what: &str, here: &dyn Debug, first: &dyn Debug| {
            Err(link(&format!("{what} here is {here:?}, and that of process 0 is {first:?}")))
        };
        if self.device != first.device {
            return differs("the kind of device", &self.device, &first.device);
        }
        if self.bucket_bytes != first.bucket_bytes {
            let what = "the size of buckets of gradients";
            return differs(what, &self.bucket_bytes, &first.bucket_bytes);
        }
        if self.data != first.data {
            return differs("the fingerprint of the data", &self.data, &first.data);
        }
        if self.checkpoint != first.checkpoint {
            return differs("the checkpoint", &self.checkpoint, &first.checkpoint);
        }
        Ok(())
    }
}

fn link(error: &impl ToString) -> TrainError {
    TrainError::World(LinkError(error.to_string()))
}

impl Session {
    /// Tells the other processes what was decided.
    pub(super) fn tell(&self, world: &InWorld) -> Result<(), TrainError> {
        let plan = &self.plan;
        let follows = self.config.synthesised().is_some();
        let told = Told {
            kernels: self.chosen.as_ref().map(|chosen| chosen.kernels.to_string()),
            plan: follows
                .then(|| (plan.name().to_owned(), export_csv(plan), plan.n_micro_batches())),
            layers: self.partition.sizes(),
            same: Same::of(&self.config, &self.job, self.mesh),
        };
        let bytes = serde_json::to_vec(&told).map_err(|error| link(&error))?;
        world.0.broadcast(Some(bytes)).map(drop).map_err(TrainError::World)
    }
}

impl Prepared {
    /// The session that process 0 has decided on.
    pub(super) fn follow(
        mut self,
        world: &InWorld,
        profiles: &mut Profiles,
    ) -> Result<Session, TrainError> {
        let bytes = world.0.broadcast(None).map_err(TrainError::World)?;
        let told: Told = serde_json::from_slice(&bytes).map_err(|error| link(&error))?;
        if let Some((name, rows, n_micro_batches)) = told.plan {
            let plan = import_csv(&name, rows.as_bytes(), Some(n_micro_batches));
            self.plan = plan.map_err(|error| link(&error))?;
        }
        let job = match self.job.take() {
            Some(job) => job,
            None => build(&self.config, self.plan.topology())?,
        };
        Same::of(&self.config, &job, self.mesh).refuse_other(&told.same)?;
        let n_stages = self.plan.n_stages() as usize;
        let partition: Partition = Cut::Explicit(told.layers).solve(&job.stack, n_stages, None)?;
        let chosen = match told.kernels {
            None => None,
            Some(text) => {
                let kernels: Kernels = text.parse().map_err(|error| link(&error))?;
                if let Some(missing) = kernels.missing() {
                    let kernel = missing.to_string();
                    return Err(TrainError::KernelElsewhere { kernel });
                }
                Some(Chosen::told(kernels))
            }
        };
        let initial = initial(&self.config, &job, profiles)?;
        let Self { config, plan, batch_size, mesh, .. } = self;
        let mut session = Session {
            config,
            job,
            plan,
            partition,
            batch_size,
            mesh,
            promise: None,
            layer_seconds: Vec::new(),
            chosen,
            initial,
            resumed: None,
            changes: Vec::new(),
        };
        session.resume()?;
        Ok(session)
    }
}
