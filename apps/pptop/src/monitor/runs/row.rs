//! What the list says of a run.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use pp_telemetry::{Follower, Model, Run, Standing, Status};

/// Bytes of a log that is read where a run has no summary; of a longer one nothing is said.
const LOG_BYTES_READ: u64 = 16 << 20;

/// What the list says of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The run.
    pub run: Run,
    /// How it stands.
    pub standing: Standing,
    /// Steps that are over, and that are planned.
    pub steps: (u64, u64),
    /// The last loss.
    pub loss: Option<f64>,
    /// How long it took, or has gone on.
    pub seconds: Option<f64>,
    /// The model.
    pub model: String,
    /// The schedule.
    pub schedule: String,
    /// Ranks, virtual stages, replicas, micro-batches: `p4 m8`, `p4 v2 d2 m8`.
    pub sizes: String,
}

impl Row {
    /// What the summary of a run says, or its log where it has none and is not long.
    pub fn of(run: Run) -> Self {
        let standing = run.standing();
        let empty = Self {
            standing,
            steps: (0, 0),
            loss: None,
            seconds: None,
            model: String::new(),
            schedule: String::new(),
            sizes: String::new(),
            run,
        };
        match empty.run.status.clone() {
            Some(status) => empty.with_status(&status),
            None => empty.with_log(),
        }
    }

    fn with_status(self, status: &Status) -> Self {
        let until_ms = if self.standing.is_alive() { now_ms() } else { status.updated_unix_ms };
        let ms =
            until_ms.checked_sub(status.started_unix_ms).filter(|_| status.started_unix_ms > 0);
        let sizes = (status.pp, status.virtual_stages, status.dp, status.micro_batches);
        Self {
            steps: (status.step, status.steps),
            loss: status.loss.map(f64::from),
            seconds: ms.map(|ms| ms as f64 * 1e-3),
            model: status.model.clone(),
            schedule: status.schedule.clone(),
            sizes: sizes_text(sizes),
            ..self
        }
    }

    fn with_log(self) -> Self {
        if self.run.bytes > LOG_BYTES_READ {
            return self;
        }
        let model = model_of(&self.run);
        let Some(hello) = model.hello() else { return self };
        let end = model.end().map(|end| end.wall_seconds);
        Self {
            steps: (model.step(), hello.steps),
            loss: model.loss().last(),
            seconds: end.or_else(|| model.steps().last().map(|step| step.elapsed_seconds)),
            model: hello.model.clone(),
            schedule: hello.schedule.clone(),
            sizes: sizes_text((hello.pp, hello.virtual_stages, hello.dp, hello.micro_batches)),
            ..self
        }
    }

    /// How it stands, in few cells.
    pub(crate) fn state(&self) -> String {
        match self.standing {
            Standing::Failed(code) => format!("failed {code}"),
            other => other.name().to_owned(),
        }
    }

    /// All that a search looks into.
    pub(crate) fn text(&self) -> String {
        let state = self.state();
        [&self.run.id, &state, &self.model, &self.schedule, &self.sizes]
            .map(String::as_str)
            .join(" ")
    }
}

/// What a log amounts to, as far as it can be read.
pub(crate) fn model_of(run: &Run) -> Model {
    let mut model = Model::new();
    let mut follower = Follower::from_last_mark(&run.log);
    // What cannot be read is told when the run is opened.
    while follower.poll(|event| model.apply(&event)).is_ok_and(|poll| !poll.at_end) {}
    model
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What is one, and what nobody knows, is left out, but for the ranks.
fn sizes_text((pp, virtual_stages, dp, micro_batches): (u32, u32, u32, u32)) -> String {
    if pp == 0 {
        return String::new();
    }
    let mut text = format!("p{pp}");
    for (letter, number, least) in [('v', virtual_stages, 2), ('d', dp, 2), ('m', micro_batches, 1)]
    {
        if number >= least {
            let _ = write!(text, " {letter}{number}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_name_what_matters() {
        assert_eq!(sizes_text((4, 1, 1, 8)), "p4 m8");
        assert_eq!(sizes_text((4, 2, 2, 16)), "p4 v2 d2 m16");
        assert_eq!(sizes_text((4, 0, 1, 0)), "p4");
        assert_eq!(sizes_text((0, 0, 0, 0)), "");
    }
}
