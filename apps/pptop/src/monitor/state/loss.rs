//! What the view of the loss shows.

use super::super::input::Action;

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
}

impl LossState {
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
    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Metric => self.metric = self.metric.next(),
            Action::Range => self.part = self.part.next(),
            Action::LogScale => self.is_log ^= true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_round() {
        let mut state = LossState::default();
        for _ in 0..Metric::ALL.len() {
            state.act(Action::Metric);
        }
        for _ in 0..4 {
            state.act(Action::Range);
        }
        state.act(Action::LogScale);
        state.act(Action::LogScale);
        assert_eq!(state, LossState::default());
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
