//! The summary of a run that is renewed each second: enough to list runs without reading their logs.

use serde::{Deserialize, Serialize};

use crate::event::SCHEMA;
use crate::machine::{boot_id, host_name, pid_namespace, process_began, unix_ms};

/// How far a run has come, by its own account.
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
    /// When that process began, in clock ticks since the machine did: another process with its number began at another time.
    pub pid_began: u64,
    /// The PID namespace in which that is its number, by the system's own; 0 where it is not known.
    /// Two containers have processes of the same numbers.
    pub pid_namespace: u64,
    /// Which start of the machine it is, in the system's own words; empty where it is not known.
    /// Two machines may have one name.
    pub boot: String,
    /// The machine that it runs on.
    pub host: String,
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
    /// What goes on that is no step, and how far it is: `evaluating 3/12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What is wrong with the training, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// The exit code.
    pub code: Option<i32>,
    /// How it ended, in a line.
    pub reason: Option<String>,
    /// Why nothing is written into the log any more, while the run goes on.
    pub recording_failed: Option<String>,
    /// How long a step takes: the median of the last ones.
    pub step_seconds: Option<f64>,
    /// Events that were lost.
    pub dropped: u64,
    /// Bytes of the log.
    pub events_bytes: u64,
    /// Where the run takes requests.
    pub socket: Option<String>,
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
    /// That of a run of this process that has not said hello yet.
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
