//! The first event of a run's log.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use pp_executor::{DeviceSpec, InWorld};
use pp_hybrid::Trainer;
use pp_schedule::{Rank, Replica};
use pp_telemetry::{
    Continues, DeviceMapEntry, Hello, HostEntry, LogSize, PlannedMem, Recorder, SCHEMA, StageInfo,
};

use crate::devices::{GpuName, gpu_name};
use crate::session::Session;

/// What a run has beside its session when it opens its log.
pub(crate) struct Opened<'a> {
    /// Its id.
    pub(crate) run: &'a str,
    /// The socket on which it takes requests.
    pub(crate) socket: Option<&'a Path>,
    /// The folder of its checkpoints.
    pub(crate) checkpoints: Option<&'a Path>,
    /// The predicted memory of each rank.
    pub(crate) memory_plan: Vec<PlannedMem>,
    /// When it started.
    pub(crate) started: SystemTime,
}

impl Session {
    /// The machines of the run, with the clock of the first process of each.
    fn hosts(&self, offsets: &[(i64, u64)]) -> Vec<HostEntry> {
        let Some(InWorld(world)) = &self.config.world else { return Vec::new() };
        let mut hosts: Vec<HostEntry> = Vec::new();
        for (host, &(offset_ns, round_trip_ns)) in world.hosts().iter().zip(offsets) {
            if hosts.iter().all(|known| known.host != *host) {
                hosts.push(HostEntry {
                    host: host.clone(),
                    clock_offset_seconds: offset_ns as f64 / 1e9,
                    clock_error_seconds: round_trip_ns as f64 / 2e9,
                });
            }
        }
        hosts
    }

    /// The first event of the run. It also decides which steps have their spans recorded.
    pub(crate) fn hello(
        &self,
        trainer: &Trainer,
        recorder: &Recorder,
        opened: Opened<'_>,
        offsets: &[(i64, u64)],
    ) -> Hello {
        let Opened { run, socket, checkpoints, mut memory_plan, started } = opened;
        if checkpoints.is_none() {
            // Without checkpoints nothing is copied.
            for planned in &mut memory_plan {
                planned.checkpoint_bytes = 0;
            }
        }
        let plan = &self.plan;
        let stages: Vec<StageInfo> = trainer
            .stages()
            .into_iter()
            .map(|of| {
                let layers = self.partition.layers(of.stage.idx());
                StageInfo {
                    stage: of.stage.0,
                    copy: of.pipe.0,
                    rank: of.rank.0,
                    layers: Some([layers.start as u32, layers.end as u32 - 1]),
                    parameters: of.parameters,
                    parameter_bytes: of.bytes,
                }
            })
            .collect();
        let devices = self.devices();
        let device_map = stages
            .iter()
            .flat_map(|stage| (0..self.config.dp).map(move |replica| (stage, replica)))
            .map(|(stage, replica)| {
                let device = devices(Rank(stage.rank), Replica(replica));
                let host = self.host_of(stage.rank, replica);
                let GpuName { uuid, pci } = match device {
                    DeviceSpec::Cuda { ordinal } if host.is_none() => gpu_name(ordinal),
                    // The names of another host's GPUs are not known here.
                    _ => GpuName::default(),
                };
                let (stage, rank) = (stage.stage, stage.rank);
                DeviceMapEntry { stage, rank, replica, device: device.to_string(), host, uuid, pci }
            })
            .collect();
        let n_ranks = u64::from(plan.n_ranks()) * u64::from(self.config.dp);
        // An op, its two messages, and the waits before them.
        let n_spans_per_step = plan.n_ops() as u64 * u64::from(self.config.dp) * 4;
        let n_steps_before = self.steps_before();
        let n_steps = self.config.steps.saturating_sub(n_steps_before);
        let size = LogSize { n_steps_before, n_steps, n_spans_per_step, n_ranks };
        Hello {
            schema: SCHEMA,
            run: run.to_owned(),
            pid: std::process::id(),
            // The log is UTF-8: bytes of an argument that are not become replacement characters.
            argv: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            program: String::new(),
            model: self.config.workload.name().to_owned(),
            schedule: plan.name().to_owned(),
            pp: plan.n_ranks(),
            dp: self.config.dp,
            virtual_stages: plan.n_virtual_stages(),
            micro_batches: plan.n_micro_batches(),
            batch_size: self.batch_size,
            steps: self.config.steps,
            eval_every: self.config.eval_every.unwrap_or(0),
            cores: self.cores(),
            host: pp_telemetry::host_name(),
            hosts: self.hosts(offsets),
            host_memory_bytes: pp_telemetry::host_memory_bytes().unwrap_or(0),
            socket: socket.map(|path| path.display().to_string()),
            continues: self.config.resume.as_ref().map(|resume| {
                let manifest = resume.checkpoint.manifest();
                Continues {
                    run: manifest.run.clone(),
                    step: manifest.step,
                    elapsed_seconds: manifest.elapsed_seconds,
                }
            }),
            checkpoints: checkpoints.map(|dir| dir.display().to_string()),
            omitted: None,
            seed: self.config.seed,
            parameters: stages.iter().filter(|s| s.copy == 0).map(|s| s.parameters).sum(),
            device_map,
            stages,
            plan: plan.to_text_rows(),
            started_unix_ms: started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
            clock: if self.mesh.is_on_cpu() { "host" } else { "device" }.to_owned(),
            tokens_per_sample: self.job.data.tokens_per_sample(),
            theory: self.theory().filter(|_| !self.mesh.shares_devices()),
            span_every: recorder.set_span_policy(self.config.spans, size),
            memory_plan,
            partition: self.config.cut.to_string(),
            kernels: self.chosen.as_ref().map(|c| c.kernels.to_string()).unwrap_or_default(),
            layer_seconds: self.layer_seconds.clone(),
            flops_per_sample: self.job.flops_per_sample,
            peak_flops: self.config.peak_flops.map(|of_one| of_one * self.n_devices()),
        }
    }
}
