//! The summary of a run, renewed every second. Runs can be listed from it without reading logs.

use serde::{Deserialize, Serialize};

use crate::event::SCHEMA;
use crate::hello::Continues;
use crate::machine::{boot_id, host_name, pid_namespace, process_began, unix_ms};

/// The state that a run reports for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is trained yet.
    #[default]
    Starting,
    /// It trains.
    Running,
    /// Its last line is written.
    Ended,
}

/// The summary of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The major version of the log.
    pub schema: u32,
    /// The id of the run.
    pub run: String,
    /// The process of the trainer.
    pub pid: u32,
    /// The start time of that process, in clock ticks since the boot. It tells the process from a
    /// later one with the same number.
    pub pid_began: u64,
    /// The number of the PID namespace of `pid`; 0 if unknown. Processes in two containers can have
    /// the same `pid`.
    pub pid_namespace: u64,
    /// The id of the machine's boot; empty if unknown. Two machines can have the same name.
    pub boot: String,
    /// The machine that it runs on.
    pub host: String,
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
    /// Virtual stages of a rank; 0 in a summary of an older version, as the next two.
    pub virtual_stages: u32,
    /// Micro-batches of a replica.
    pub micro_batches: u32,
    /// Samples of a step.
    pub batch_size: u64,
    /// How far it has come.
    pub state: State,
    /// Steps that are over.
    pub step: u64,
    /// Steps that are planned.
    pub steps: u64,
    /// The last loss.
    pub loss: Option<f32>,
    /// The running phase and its progress: `evaluating 3/12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The alarm that the training raises, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// The exit code.
    pub code: Option<i32>,
    /// How it ended, in a line.
    pub reason: Option<String>,
    /// The reason why the log is no longer written while the run goes on.
    pub recording_failed: Option<String>,
    /// The time of a step: the median of the last ones.
    pub step_seconds: Option<f64>,
    /// Events that were lost.
    pub dropped: u64,
    /// Bytes of the log.
    pub events_bytes: u64,
    /// The socket on which the run takes requests.
    pub socket: Option<String>,
    /// The folder of its checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<String>,
    /// The run and the step that it resumes from, if it was resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continues>,
    /// What is saved of a run that has ended, and where, in a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// Files with weights that the run has written into its folder, by their names.
    pub files: Vec<String>,
    /// When it began, in milliseconds of Unix time.
    pub started_unix_ms: u64,
    /// When this was written, in milliseconds of Unix time.
    pub updated_unix_ms: u64,
    /// When the run last did anything but look at its devices, in milliseconds of Unix time; 0 in a
    /// summary of an older version.
    pub progressed_unix_ms: u64,
}

impl Status {
    /// The summary of a run of this process before its `hello`.
    pub fn starting() -> Self {
        let pid = std::process::id();
        Self {
            schema: SCHEMA,
            pid,
            pid_began: process_began(pid).unwrap_or(0),
            pid_namespace: pid_namespace().unwrap_or(0),
            boot: boot_id().unwrap_or_default(),
            host: host_name(),
            started_unix_ms: unix_ms(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_another_version_can_be_read() {
        let status: Status =
            serde_json::from_str(r#"{"schema":1,"run":"a","state":"running","later":[1]}"#)
                .unwrap();
        assert_eq!((status.run.as_str(), status.state), ("a", State::Running));
    }
}
