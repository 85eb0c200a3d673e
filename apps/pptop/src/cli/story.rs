//! A run as text: a line for each step, and the summary of the notebook's experiment at the end.

use std::fmt::Write as _;

use pp_quantile::nearest;
use pp_telemetry::Hello;
use pp_train::{Evaluation, Session, StepOutcome};

use super::learned::{Goal, Verdict, learned};

/// The story of a run so far.
pub(crate) struct Story {
    steps_planned: u64,
    theory: Option<f64>,
    devices: usize,
    stages: u32,
    micro_batches: u32,
    losses: Vec<f32>,
    seconds: Vec<f64>,
    bubbles: Vec<f64>,
    peak_bytes: Vec<u64>,
    /// What was planned for each rank, where it is known.
    planned_bytes: Vec<u64>,
    validation: Vec<(u64, f64, Option<f64>)>,
    majority: Option<f64>,
    goal: Goal,
}

/// The middle of some numbers; NaN if there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a part `q` of the numbers lies; NaN if there are none.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    nearest(&mut values.to_vec(), q).unwrap_or(f64::NAN)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 20)
}

impl Story {
    pub(crate) fn new(session: &Session, hello: &Hello, goal: Goal) -> Self {
        let n_ranks = hello.pp * hello.dp;
        Self {
            steps_planned: hello.steps,
            theory: hello.theory,
            devices: hello
                .device_map
                .iter()
                .map(|place| hello.place_name(place))
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
            stages: session.plan().n_stages(),
            micro_batches: hello.micro_batches,
            losses: Vec::new(),
            seconds: Vec::new(),
            bubbles: Vec::new(),
            peak_bytes: vec![0; n_ranks as usize],
            planned_bytes: hello.memory_plan.iter().map(|planned| planned.peak_bytes).collect(),
            validation: Vec::new(),
            majority: session.job().data.majority_accuracy(),
            goal,
        }
    }

    pub(crate) fn stepped(&mut self, outcome: &StepOutcome) {
        self.losses.push(outcome.loss);
        self.seconds.push(outcome.seconds);
        self.bubbles.push(outcome.bubble.bubble_ratio);
        for (peak, memory) in self.peak_bytes.iter_mut().zip(&outcome.memory) {
            *peak = (*peak).max(memory.peak_bytes);
        }
    }

    /// Whether the last step was the first of the run.
    pub(crate) fn has_one_step(&self) -> bool {
        self.losses.len() == 1
    }

    pub(crate) fn evaluated(&mut self, step: u64, found: &Evaluation) {
        self.validation.push((step, found.loss, found.accuracy));
    }

    pub(crate) fn step_line(&self, outcome: &StepOutcome) -> String {
        let theory = self.theory.map_or_else(String::new, |t| format!(" (theory {t:.3})"));
        let starved = match outcome.bubble.starved_ratio {
            share if share >= 0.005 => format!("  starved {share:.3}"),
            _ => String::new(),
        };
        let peak = outcome.memory.iter().map(|memory| memory.peak_bytes).max().unwrap_or(0);
        format!(
            "step {}/{}  loss {:.4}  lr {:.2e}  norm {:.3}  {:.1} ms  bubble_ratio {:.3}{theory}{starved}  peak {:.1} MiB",
            outcome.step,
            self.steps_planned,
            outcome.loss,
            outcome.lr,
            outcome.grad_norm,
            1000.0 * outcome.seconds,
            outcome.bubble.bubble_ratio,
            mib(peak)
        )
    }

    fn planned(&self) -> String {
        let planned: Vec<String> =
            self.planned_bytes.iter().map(|&b| format!("{:.1}", mib(b))).collect();
        if planned.is_empty() { String::new() } else { format!(", planned {}", planned.join(" ")) }
    }

    /// What the losses say, in words.
    fn verdict(&self) -> String {
        let learned = learned(&self.losses, self.goal);
        match (self.goal, learned.verdict, learned.change) {
            // The notebook's own words.
            (Goal::BelowOne, Verdict::Converged, _) => "converged".to_owned(),
            (Goal::BelowOne, Verdict::Partly, _) => "partly converged".to_owned(),
            (Goal::BelowOne, Verdict::Not, _) => "not converged".to_owned(),
            (Goal::None, _, _) => "nothing to learn".to_owned(),
            (_, _, Some(change)) => format!("{} ({:+.1} %)", learned.word, 100.0 * change),
            (_, _, None) => learned.word.to_owned(),
        }
    }

    /// The notebook's summary, with our numbers.
    pub(crate) fn closing(&self) -> String {
        let (Some(first), Some(last)) = (self.losses.first(), self.losses.last()) else {
            return String::new();
        };
        let theory =
            self.theory.map_or_else(|| "no theory".to_owned(), |t| format!("theory {t:.4}"));
        let peaks: Vec<String> =
            self.peak_bytes.iter().map(|&b| format!("{:.1}", mib(b))).collect();
        let mut text = format!(
            "devices {}  stages {}  micro-batches {}\n\
             bubble_ratio {:.4} measured (median), {theory}\n\
             step {:.1} ms mean, {:.1} ms median, {:.1} ms p95\n\
             memory by rank, peak MiB: {}{}\n\
             loss {first:.4} first, {last:.4} last: {}",
            self.devices,
            self.stages,
            self.micro_batches,
            median(&self.bubbles),
            1000.0 * self.seconds.iter().sum::<f64>() / self.seconds.len() as f64,
            1000.0 * median(&self.seconds),
            1000.0 * quantile(&self.seconds, 0.95),
            peaks.join(" "),
            self.planned(),
            self.verdict()
        );
        if let Some((step, loss, accuracy)) = self.validation.last() {
            let best = self.validation.iter().map(|v| v.1).fold(f64::NAN, f64::min);
            let _ = write!(text, "\nvalidation loss {loss:.4} at step {step}, best {best:.4}");
            if let (Some(accuracy), Some(majority)) = (accuracy, self.majority) {
                let _ = write!(
                    text,
                    ", accuracy {accuracy:.4} (the most frequent class: {majority:.4})"
                );
            }
        }
        text
    }
}
