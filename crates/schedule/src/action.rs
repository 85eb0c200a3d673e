//! One cell of a plan: an op, or a forward and a backward that run as one. As text `2F0`, or
//! `(0F7;7B3)OVERLAP_F_B`.
//!
//! The overlapped pair is `DualPipe`'s: while the messages of one half are under way, the other
//! half computes. It starts when both inputs are there, and both results leave when it ends.

use std::fmt;
use std::str::FromStr;

use crate::ids::{MicroBatch, Stage};
use crate::op::{Op, ParseOpError, Phase, as_text};
use crate::text::excerpt;

/// What stands behind a pair in text.
pub(crate) const OVERLAP: &str = "OVERLAP_F_B";

/// What a rank does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// One op.
    One(Op),
    /// An F and a B of two micro-batches, as one.
    Overlapped(Pair),
}

/// An F and a full B. Only its two halves can be asked for, so that it holds nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    forward: (Stage, MicroBatch),
    backward: (Stage, MicroBatch),
}

impl Pair {
    /// F of one (stage, micro-batch) with B of another.
    #[inline]
    pub fn new(forward: (Stage, MicroBatch), backward: (Stage, MicroBatch)) -> Self {
        Self { forward, backward }
    }

    /// Its first half.
    #[inline]
    pub fn forward(self) -> Op {
        Op::new(self.forward.0, Phase::Forward, self.forward.1)
    }

    /// Its second half.
    #[inline]
    pub fn backward(self) -> Op {
        Op::new(self.backward.0, Phase::Backward, self.backward.1)
    }
}

impl Action {
    /// The ops in it, in the order in which one thread runs them: one, or F and B.
    #[inline]
    pub fn ops(self) -> impl Iterator<Item = Op> + Clone {
        let (first, second) = match self {
            Self::One(op) => (op, None),
            Self::Overlapped(pair) => (pair.forward(), Some(pair.backward())),
        };
        std::iter::once(first).chain(second)
    }

    /// The op that names it: itself, or the forward of a pair.
    #[inline]
    pub fn first(self) -> Op {
        match self {
            Self::One(op) => op,
            Self::Overlapped(pair) => pair.forward(),
        }
    }
}

impl From<Op> for Action {
    #[inline]
    fn from(op: Op) -> Self {
        Self::One(op)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(op) => fmt::Display::fmt(op, f),
            // `pad` honours the widths that the grid asks for.
            Self::Overlapped(pair) => {
                f.pad(&format!("({};{}){OVERLAP}", pair.forward(), pair.backward()))
            }
        }
    }
}

impl FromStr for Action {
    type Err = ParseOpError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(inside) = text.strip_suffix(OVERLAP) else { return text.parse().map(Self::One) };
        let halves = inside
            .strip_prefix('(')
            .and_then(|inside| inside.strip_suffix(')'))
            .and_then(|inside| inside.split_once(';'));
        let pair = halves.and_then(|(forward, backward)| {
            let (forward, backward): (Op, Op) = (forward.parse().ok()?, backward.parse().ok()?);
            let phases = (forward.phase, backward.phase);
            (phases == (Phase::Forward, Phase::Backward)).then(|| {
                let place = |op: Op| (op.stage, op.micro_batch);
                Pair::new(place(forward), place(backward))
            })
        });
        pair.map(Self::Overlapped).ok_or_else(|| ParseOpError { text: excerpt(text) })
    }
}

as_text!(Action);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_a_forward_and_a_backward() {
        let text = "(0F7;7B3)OVERLAP_F_B";
        let action: Action = text.parse().unwrap();
        let Action::Overlapped(pair) = action else { panic!("{action:?} is no pair") };
        assert_eq!(
            (pair.forward().to_string(), pair.backward().to_string()),
            ("0F7".into(), "7B3".into())
        );
        assert_eq!(action.to_string(), text);
        assert_eq!(action.ops().collect::<Vec<_>>(), [Op::forward(0, 7), Op::backward(7, 3)]);
        for text in [
            "OVERLAP_F_B",
            "()OVERLAP_F_B",
            "(0F7)OVERLAP_F_B",
            "(0F7;7I3)OVERLAP_F_B",
            "(7B3;0F7)OVERLAP_F_B",
            "(0F7;7B3;1F0)OVERLAP_F_B",
            "(0F7;7B3",
            "(0F7;7B3)OVERLAP_B_F",
            "(0F7;7B3)overlap_f_b",
            "((0F7;7B3))OVERLAP_F_B",
        ] {
            assert!(text.parse::<Action>().is_err(), "{text}");
        }
    }
}
