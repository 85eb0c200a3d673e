//! What the view of the loss shows.

use std::sync::Arc;

use pp_telemetry::{LossHistory, Metrics, Model};

use super::super::input::Action;
use super::super::words;

/// Strokes from one end of what is drawn to the other.
const STROKES: u64 = 100;

/// Another run, as far as it is laid over the one that is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct OtherRun {
    /// What it is called.
    pub(crate) name: String,
    /// Its last step.
    pub(crate) step: u64,
    loss: Arc<LossHistory>,
    metrics: Arc<Metrics>,
}

impl OtherRun {
    /// What a run has come to by now.
    pub fn of(name: &str, model: &Model) -> Self {
        Self {
            name: words::clean(name).into_owned(),
            step: model.step(),
            loss: Arc::new(model.loss().clone()),
            metrics: Arc::new(model.metrics().clone()),
        }
    }

    /// One of its numbers over all steps.
    pub(crate) fn history(&self, metric: Metric) -> &LossHistory {
        metric.of(&self.loss, &self.metrics)
    }
}

/// A number of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Metric {
    /// The loss of the training, with the validations.
    #[default]
    Loss,
    /// The validations alone.
    Validation,
    /// The norm of all gradients.
    GradNorm,
    /// The learning rate.
    LearningRate,
    /// How long a step takes.
    StepTime,
    /// The measured bubble ratio.
    Bubble,
    /// Tokens or samples a second.
    Rate,
}

impl Metric {
    pub(crate) const ALL: [Self; 7] = [
        Self::Loss,
        Self::Validation,
        Self::GradNorm,
        Self::LearningRate,
        Self::StepTime,
        Self::Bubble,
        Self::Rate,
    ];

    /// Its name on the screen.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Validation => "validation",
            Self::GradNorm => "gradient norm",
            Self::LearningRate => "learning rate",
            Self::StepTime => "step time",
            Self::Bubble => "bubble",
            Self::Rate => "rate",
        }
    }

    /// Its values over all steps.
    pub(crate) fn of<'a>(self, loss: &'a LossHistory, metrics: &'a Metrics) -> &'a LossHistory {
        match self {
            Self::Loss | Self::Validation => loss,
            Self::GradNorm => &metrics.grad_norm,
            Self::LearningRate => &metrics.lr,
            Self::StepTime => &metrics.seconds,
            Self::Bubble => &metrics.bubble_ratio,
            Self::Rate => &metrics.rate,
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|metric| *metric == self).unwrap_or(0);
        Self::ALL.get(at + 1).copied().unwrap_or_default()
    }
}

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The second half of what is over.
    LastHalf,
    /// So many steps.
    Last(u64),
}

impl Part {
    fn next(self) -> Self {
        match self {
            Self::Whole => Self::LastHalf,
            Self::LastHalf => Self::Last(200),
            Self::Last(200) => Self::Last(50),
            Self::Last(_) => Self::Whole,
        }
    }

    /// What it is called.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Whole => "whole run".to_owned(),
            Self::LastHalf => "last half".to_owned(),
            Self::Last(n_steps) => format!("last {n_steps} steps"),
        }
    }

    /// The first step to show of a run that has come from `first` to `last`.
    pub(crate) fn first_step(self, first: u64, last: u64) -> u64 {
        match self {
            Self::Whole => first,
            Self::LastHalf => first + last.saturating_sub(first).div_ceil(2),
            Self::Last(n_steps) => last.saturating_sub(n_steps.saturating_sub(1)).max(first),
        }
    }
}

/// What the view of the loss shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct LossState {
    metric: Metric,
    part: Part,
    is_log: bool,
    /// The step that is looked at.
    cursor: Option<u64>,
    other: Option<OtherRun>,
}

impl LossState {
    /// The step that is looked at, within what is there.
    pub(crate) fn cursor(&self, model: &Model) -> Option<u64> {
        let (first, last) = self.steps(model)?;
        Some(self.cursor?.clamp(first, last))
    }

    /// The run that is laid over the one that is shown.
    pub(crate) fn other(&self) -> Option<&OtherRun> {
        self.other.as_ref()
    }

    /// Lays another run over the one that is shown, or none.
    pub(crate) fn set_other(&mut self, other: Option<OtherRun>) {
        self.other = other;
    }

    /// The steps of the part that is drawn, of both runs.
    pub(crate) fn steps(&self, model: &Model) -> Option<(u64, u64)> {
        let steps = |history: &LossHistory| history.steps();
        let own = steps(self.metric.of(model.loss(), model.metrics()));
        let other = self.other.as_ref().and_then(|other| steps(other.history(self.metric)));
        let (first, last) = match (own, other) {
            (Some(own), Some(other)) => (own.0.min(other.0), own.1.max(other.1)),
            (own, other) => own.or(other)?,
        };
        Some((self.part.first_step(first, last), last))
    }

    /// Closes the last thing that was opened, if any.
    pub(crate) fn back(&mut self) -> bool {
        self.cursor.take().is_some()
    }

    /// The number that is drawn.
    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// The part of the run that is drawn.
    pub(crate) fn part(&self) -> Part {
        self.part
    }

    /// Whether equal distances are equal factors.
    pub(crate) fn is_log(&self) -> bool {
        self.is_log
    }

    /// Does what a key asks for.
    pub(crate) fn act(&mut self, action: Action, model: &Model) {
        match action {
            Action::Pan(by) => self.move_cursor(by, model),
            Action::Metric => self.metric = self.metric.next(),
            Action::Range => self.part = self.part.next(),
            Action::LogScale => self.is_log ^= true,
            _ => {}
        }
    }

    /// The cursor begins at the end that one comes from.
    fn move_cursor(&mut self, by: f64, model: &Model) {
        let Some((first, last)) = self.steps(model) else { return };
        let stride = ((last - first) / STROKES).max(1);
        let to = match self.cursor(model) {
            None if by < 0.0 => last,
            None => first,
            Some(at) if by < 0.0 => at.saturating_sub(stride),
            Some(at) => at.saturating_add(stride),
        };
        self.cursor = Some(to.clamp(first, last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_round() {
        let mut state = LossState::default();
        let model = Model::new();
        let mut press = |action| state.act(action, &model);
        for _ in 0..Metric::ALL.len() {
            press(Action::Metric);
        }
        for _ in 0..4 {
            press(Action::Range);
        }
        press(Action::LogScale);
        press(Action::LogScale);
        assert_eq!(state, LossState::default());
    }

    #[test]
    fn the_cursor_stays_within_what_is_drawn() {
        let mut model = Model::new();
        for step in 1..=1000 {
            model.apply(&pp_telemetry::Event::Step(pp_telemetry::StepEvent {
                step,
                loss: Some(1.0),
                loss_bits: String::new(),
                lr: Some(0.1),
                grad_norm: Some(1.0),
                seconds: 1.0,
                elapsed_seconds: step as f64,
                samples: 1,
                tokens: 0,
                bubble_ratio: 0.0,
                idle_of_step: 0.0,
                starved_ratio: 0.0,
                window_seconds: 1.0,
                dropped: 0,
            }));
        }
        let mut state = LossState::default();
        state.act(Action::Pan(-1.0), &Model::new());
        assert_eq!(state.cursor(&model), None, "nothing is there to look at");
        state.act(Action::Pan(-1.0), &model);
        assert_eq!(state.cursor(&model), Some(1000));
        state.act(Action::Pan(1.0), &model);
        assert_eq!(state.cursor(&model), Some(1000));
        state.act(Action::Pan(-1.0), &model);
        assert_eq!(state.cursor(&model), Some(991));
        (0..200).for_each(|_| state.act(Action::Pan(-1.0), &model));
        assert_eq!(state.cursor(&model), Some(1));
        // Another part of the run does not hold it.
        (0..3).for_each(|_| state.act(Action::Range, &model));
        assert_eq!(state.cursor(&model), Some(951));
        assert!(state.back() && !state.back());
    }

    #[test]
    fn parts_of_a_run_begin_where_they_say() {
        assert_eq!(Part::Whole.first_step(1, 100), 1);
        assert_eq!(Part::LastHalf.first_step(1, 100), 51);
        assert_eq!(Part::Last(50).first_step(1, 100), 51);
        assert_eq!(Part::Last(200).first_step(1, 100), 1);
        assert_eq!(Part::Last(200).first_step(7, 7), 7);
    }
}
