//! The line that is written after each training step, and the one after each validation.

use serde::{Deserialize, Deserializer, Serialize};

use crate::number::Notes;

/// One finished training step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "StepLine", into = "StepLine")]
pub struct StepEvent {
    /// The step, from 1.
    pub step: u64,
    /// The training loss: mean over the whole batch. `None` if the run does not tell it.
    pub loss: Option<f32>,
    /// The 32 bits of `loss` as eight hexadecimal digits.
    pub loss_bits: String,
    /// The learning rate of this step. `None` if the run does not tell it.
    pub lr: Option<f64>,
    /// The norm of all gradients together, before clipping. `None` if the run does not tell it.
    pub grad_norm: Option<f64>,
    /// The whole step, from reading the batch to the end of the optimizer.
    pub seconds: f64,
    /// Time since the run began.
    pub elapsed_seconds: f64,
    /// Samples in this step, over all replicas; 0 if the run does not tell them.
    pub samples: u64,
    /// Tokens in this step; 0 where the samples are not made of tokens.
    pub tokens: u64,
    /// Measured share of the compute window in which ranks did not compute.
    pub bubble_ratio: f64,
    /// The same share of the whole step.
    pub idle_of_step: f64,
    /// Share of the compute window in which a computing rank was ready but had no core.
    pub starved_ratio: f64,
    /// First start to last end of compute: mean over the replicas.
    pub window_seconds: f64,
    /// Events that the recorder has lost so far.
    pub dropped: u64,
}

impl StepEvent {
    /// `loss` in the form of [`StepEvent::loss_bits`].
    pub fn bits_of(loss: f32) -> String {
        format!("{:08x}", loss.to_bits())
    }
}

/// A number that may be left out: then it is not told. `Some(None)` is a `null`.
type Told<T> = Option<Option<T>>;

/// Reads a key that is there, whatever it holds.
fn told<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Told<T>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// [`StepEvent`] as it stands in the log.
#[derive(Clone, Serialize, Deserialize)]
struct StepLine {
    step: u64,
    #[serde(default, deserialize_with = "told", skip_serializing_if = "Option::is_none")]
    loss: Told<f32>,
    #[serde(default)]
    loss_bits: String,
    #[serde(default, deserialize_with = "told", skip_serializing_if = "Option::is_none")]
    lr: Told<f64>,
    #[serde(default, deserialize_with = "told", skip_serializing_if = "Option::is_none")]
    grad_norm: Told<f64>,
    #[serde(default)]
    seconds: Option<f64>,
    #[serde(default)]
    elapsed_seconds: Option<f64>,
    #[serde(default)]
    samples: u64,
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    bubble_ratio: Option<f64>,
    #[serde(default)]
    idle_of_step: Option<f64>,
    #[serde(default)]
    starved_ratio: Option<f64>,
    #[serde(default)]
    window_seconds: Option<f64>,
    #[serde(default)]
    dropped: u64,
    #[serde(flatten)]
    notes: Notes,
}

impl From<StepEvent> for StepLine {
    fn from(event: StepEvent) -> Self {
        let mut notes = Notes::default();
        Self {
            step: event.step,
            loss: event.loss.map(|loss| notes.put("loss", f64::from(loss)).map(|_| loss)),
            loss_bits: event.loss_bits,
            lr: event.lr.map(|lr| notes.put("lr", lr)),
            grad_norm: event.grad_norm.map(|norm| notes.put("grad_norm", norm)),
            seconds: notes.put("seconds", event.seconds),
            elapsed_seconds: notes.put("elapsed_seconds", event.elapsed_seconds),
            samples: event.samples,
            tokens: event.tokens,
            bubble_ratio: notes.put("bubble_ratio", event.bubble_ratio),
            idle_of_step: notes.put("idle_of_step", event.idle_of_step),
            starved_ratio: notes.put("starved_ratio", event.starved_ratio),
            window_seconds: notes.put("window_seconds", event.window_seconds),
            dropped: event.dropped,
            notes,
        }
    }
}

impl From<StepLine> for StepEvent {
    fn from(line: StepLine) -> Self {
        let notes = &line.notes;
        Self {
            step: line.step,
            loss: line.loss.map(|loss| loss.unwrap_or_else(|| notes.get("loss", None) as f32)),
            lr: line.lr.map(|lr| notes.get("lr", lr)),
            grad_norm: line.grad_norm.map(|norm| notes.get("grad_norm", norm)),
            seconds: notes.get("seconds", line.seconds),
            elapsed_seconds: notes.get("elapsed_seconds", line.elapsed_seconds),
            samples: line.samples,
            tokens: line.tokens,
            bubble_ratio: notes.get("bubble_ratio", line.bubble_ratio),
            idle_of_step: notes.get("idle_of_step", line.idle_of_step),
            starved_ratio: notes.get("starved_ratio", line.starved_ratio),
            window_seconds: notes.get("window_seconds", line.window_seconds),
            dropped: line.dropped,
            loss_bits: line.loss_bits,
        }
    }
}

/// One validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "EvalLine", into = "EvalLine")]
pub struct Eval {
    /// The training step after which it was made.
    pub step: u64,
    /// The validation loss.
    pub loss: f32,
    /// Share of right answers, for jobs that classify.
    pub accuracy: Option<f64>,
}

/// [`Eval`] as it stands in the log.
#[derive(Clone, Serialize, Deserialize)]
struct EvalLine {
    step: u64,
    loss: Option<f32>,
    #[serde(default)]
    accuracy: Option<f64>,
    #[serde(flatten)]
    notes: Notes,
}

impl From<Eval> for EvalLine {
    fn from(event: Eval) -> Self {
        let mut notes = Notes::default();
        let loss = notes.put("loss", f64::from(event.loss)).map(|_| event.loss);
        Self {
            step: event.step,
            loss,
            accuracy: event.accuracy.filter(|share| share.is_finite()),
            notes,
        }
    }
}

impl From<EvalLine> for Eval {
    fn from(line: EvalLine) -> Self {
        let loss = line.loss.unwrap_or_else(|| line.notes.get("loss", None) as f32);
        Self { step: line.step, loss, accuracy: line.accuracy }
    }
}
