//! The smallest piece of work: which stage computes what for which micro-batch. As text `2F0`:
//! stage 2, forward, micro-batch 0.

use std::fmt;
use std::str::FromStr;

use crate::ids::{MicroBatch, Stage};
use crate::text::excerpt;

/// What an op computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// `F`: the forward pass.
    Forward,
    /// `B`: the full backward pass. Atomic: its input gradient leaves when all of it is done.
    Backward,
    /// `I`: the gradient of the input alone, which is what the stage before waits for.
    InputGrad,
    /// `W`: the gradient of the weights alone, which no op waits for.
    WeightGrad,
}

impl Phase {
    /// Every phase, in the order of the letters `F B I W`.
    pub const ALL: [Self; 4] = [Self::Forward, Self::Backward, Self::InputGrad, Self::WeightGrad];

    /// The letter that stands for this phase in text.
    pub fn letter(self) -> char {
        match self {
            Self::Forward => 'F',
            Self::Backward => 'B',
            Self::InputGrad => 'I',
            Self::WeightGrad => 'W',
        }
    }

    /// The phase that a letter stands for.
    pub fn from_letter(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.letter() == letter)
    }

    /// Whether this phase produces the gradient of the stage's input: `B` and `I` do.
    #[inline]
    pub fn gives_input_grad(self) -> bool {
        matches!(self, Self::Backward | Self::InputGrad)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// One unit of work: a phase of one micro-batch on one stage.
///
/// ```
/// use pp_schedule::{Op, Phase};
/// let op: Op = "2F0".parse()?;
/// assert_eq!((op.stage.0, op.phase, op.micro_batch.0), (2, Phase::Forward, 0));
/// assert_eq!(op.to_string(), "2F0");
/// # Ok::<(), pp_schedule::ParseOpError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op {
    /// The stage that computes.
    pub stage: Stage,
    /// What it computes.
    pub phase: Phase,
    /// For which micro-batch.
    pub micro_batch: MicroBatch,
}

impl Op {
    /// An op from its three parts.
    #[inline]
    pub fn new(stage: Stage, phase: Phase, micro_batch: MicroBatch) -> Self {
        Self { stage, phase, micro_batch }
    }

    /// `F` of a micro-batch on a stage.
    #[inline]
    pub fn forward(stage: u32, micro_batch: u32) -> Self {
        Self::new(Stage(stage), Phase::Forward, MicroBatch(micro_batch))
    }

    /// `B` of a micro-batch on a stage.
    #[inline]
    pub fn backward(stage: u32, micro_batch: u32) -> Self {
        Self::new(Stage(stage), Phase::Backward, MicroBatch(micro_batch))
    }

    /// `I` of a micro-batch on a stage.
    #[inline]
    pub fn input_grad(stage: u32, micro_batch: u32) -> Self {
        Self::new(Stage(stage), Phase::InputGrad, MicroBatch(micro_batch))
    }

    /// `W` of a micro-batch on a stage.
    #[inline]
    pub fn weight_grad(stage: u32, micro_batch: u32) -> Self {
        Self::new(Stage(stage), Phase::WeightGrad, MicroBatch(micro_batch))
    }

    /// The stage whose result this op begins with, in a model of `n_stages` stages: an F takes the
    /// activation of the stage before, a B or I the gradient of the stage after. `None` where the
    /// input is data or a loss, and for W, whose input its own stage has made.
    #[inline]
    pub fn input_stage(self, n_stages: u32) -> Option<Stage> {
        match self.phase {
            Phase::Forward => self.stage.before(),
            Phase::Backward | Phase::InputGrad => self.stage.after(n_stages),
            Phase::WeightGrad => None,
        }
    }

    /// The stage that waits for the result of this op: behind an F the stage after, behind a B or I
    /// the stage before. `None` where no stage follows, and for W, which no op waits for.
    #[inline]
    pub fn output_stage(self, n_stages: u32) -> Option<Stage> {
        match self.phase {
            Phase::Forward => self.stage.after(n_stages),
            Phase::Backward | Phase::InputGrad => self.stage.before(),
            Phase::WeightGrad => None,
        }
    }

    /// The same micro-batch and phase on another stage.
    #[inline]
    pub(crate) fn on(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` honours the widths that the grid asks for.
        f.pad(&format!("{}{}{}", self.stage, self.phase, self.micro_batch))
    }
}

/// A text that is not an op.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an op; write stage, one of F B I W and micro-batch, such as 2F0, or a pair such as \
     (0F7;7B3)OVERLAP_F_B"
)]
pub struct ParseOpError {
    /// The text, cut to what fits on a line.
    pub text: String,
}

impl FromStr for Op {
    type Err = ParseOpError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseOpError { text: excerpt(text) };
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
        let (stage, rest) = text.split_at(at);
        let mut rest = rest.chars();
        let phase = rest.next().and_then(Phase::from_letter).ok_or_else(refused)?;
        let micro_batch = rest.as_str();
        // `u32::from_str` takes a leading `+`, which is no part of this format.
        if !micro_batch.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refused());
        }
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| refused());
        Ok(Self::new(Stage(number(stage)?), phase, MicroBatch(number(micro_batch)?)))
    }
}

/// Makes a type travel as its own text.
macro_rules! as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use as_text;

as_text!(Op);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_feeds_the_next_one_and_hands_gradients_back() {
        let stages = |op: Op| {
            let number = |stage: Option<Stage>| stage.map(|stage| stage.0);
            (number(op.input_stage(3)), number(op.output_stage(3)))
        };
        assert_eq!(stages(Op::forward(0, 5)), (None, Some(1)));
        assert_eq!(stages(Op::forward(2, 5)), (Some(1), None));
        assert_eq!(stages(Op::backward(2, 5)), (None, Some(1)));
        assert_eq!(stages(Op::input_grad(0, 5)), (Some(1), None));
        assert_eq!(stages(Op::weight_grad(1, 5)), (None, None));
    }

    #[test]
    fn text_that_is_no_op_is_refused() {
        for text in [
            "",
            "F",
            "0",
            "0F",
            "F0",
            "0G0",
            "0f0",
            "-1F0",
            "0F-1",
            "0F+1",
            "0F0 ",
            "4294967296F0",
            "0F0F0",
        ] {
            let refused = text.parse::<Op>().unwrap_err();
            assert!(refused.to_string().contains(&format!("`{text}`")), "{refused}");
        }
        let long = "9".repeat(10_000);
        assert!(long.parse::<Op>().unwrap_err().to_string().len() < 200);
    }
}
