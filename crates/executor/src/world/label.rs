//! What a message between processes is.

use std::fmt;

use pp_schedule::{MicroBatch, Payload, Stage};

use crate::exchange::Bucket;
use crate::link::Key;
use crate::transport::LABEL_WORDS;

/// The name of a message: its call, its step and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// The number of the call in which it was sent. All processes make the same calls.
    pub(crate) call: u64,
    /// The step, for people.
    pub(crate) step: u64,
    pub(crate) content: Content,
    /// When it was sent, in nanoseconds of process 0.
    pub(crate) sent_ns: u64,
    /// Which tensors of a boundary there are: a bit for each, from the lowest on.
    pub(crate) present: u64,
}

/// What a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Content {
    /// The input of an op.
    Boundary(Key),
    /// The sums of gradients of a copy of a stage.
    Sums {
        /// The stage, and which of its parameters.
        bucket: Bucket,
        /// The index of the copy among the copies of that stage.
        copy: u32,
    },
    /// What a rank answers to a call, for process 0.
    Answer {
        /// The process that answers.
        from: u32,
    },
    /// What process 0 says to all answers.
    Verdict,
}

const ACTIVATION: u64 = 1;
const GRADIENT: u64 = 2;
const SUMS: u64 = 3;
const ANSWER: u64 = 4;
const VERDICT: u64 = 5;
const KIND_AT: u32 = 60;
const STAGE_AT: u32 = 32;
/// Edges with a number of their own. Every MPI library has so many tags.
const EDGES: u32 = 1 << 14;
const STAGES: u64 = (1 << (KIND_AT - STAGE_AT)) - 1;

impl Label {
    pub(crate) fn to_words(self) -> [u64; LABEL_WORDS] {
        let (kind, stage, number) = match self.content {
            Content::Boundary(Key { payload, to_stage, micro_batch }) => {
                let kind = match payload {
                    Payload::Activation => ACTIVATION,
                    Payload::Gradient => GRADIENT,
                };
                (kind, to_stage.0, micro_batch.0)
            }
            Content::Sums { bucket, copy } => (SUMS, bucket.stage.0, copy),
            Content::Answer { from } => (ANSWER, 0, from),
            Content::Verdict => (VERDICT, 0, 0),
        };
        let content = (kind << KIND_AT) | (u64::from(stage) << STAGE_AT) | u64::from(number);
        let more = match self.content {
            Content::Sums { bucket, .. } => u64::from(bucket.number),
            _ => self.present,
        };
        [self.call, self.step, content, more, self.sent_ns]
    }

    /// The number of the edge of a boundary: its payload and its stage. Only the messages of steps
    /// have the same shapes every time.
    pub(crate) fn edge(self) -> Option<u32> {
        let Content::Boundary(Key { payload, to_stage, .. }) = self.content else { return None };
        let direction = u32::from(payload == Payload::Gradient);
        (to_stage.0 < EDGES / 2).then_some(2 * to_stage.0 + direction)
    }

    /// `None` for words that no process of this version sends.
    pub(crate) fn from_words(
        [call, step, content, more, sent_ns]: [u64; LABEL_WORDS],
    ) -> Option<Self> {
        let stage = Stage(((content >> STAGE_AT) & STAGES) as u32);
        let number = content as u32;
        let boundary = |payload| {
            Content::Boundary(Key { payload, to_stage: stage, micro_batch: MicroBatch(number) })
        };
        let content = match content >> KIND_AT {
            ACTIVATION => boundary(Payload::Activation),
            GRADIENT => boundary(Payload::Gradient),
            SUMS => Content::Sums { bucket: Bucket { stage, number: more as u32 }, copy: number },
            ANSWER => Content::Answer { from: number },
            VERDICT => Content::Verdict,
            _ => return None,
        };
        let present = if matches!(content, Content::Sums { .. }) { 0 } else { more };
        Some(Self { call, step, content, sent_ns, present })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boundary(Key { payload, to_stage, micro_batch }) => {
                let what = match payload {
                    Payload::Activation => "the activation",
                    Payload::Gradient => "the gradient",
                };
                write!(f, "{what} of micro-batch {micro_batch} for stage {to_stage}")
            }
            Self::Sums { bucket: Bucket { stage, number }, copy } => {
                write!(f, "bucket {number} of the gradient sums of copy {copy} of stage {stage}")
            }
            Self::Answer { from } => write!(f, "the answer of process {from}"),
            Self::Verdict => f.write_str("the verdict of process 0"),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (step {}, call {})", self.content, self.step, self.call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_comes_back_from_its_words() {
        let key = |payload| {
            Content::Boundary(Key {
                payload,
                to_stage: Stage(STAGES as u32),
                micro_batch: MicroBatch(u32::MAX),
            })
        };
        for content in [
            key(Payload::Activation),
            key(Payload::Gradient),
            Content::Sums { bucket: Bucket { stage: Stage(3), number: 70_000 }, copy: 2 },
            Content::Answer { from: u32::MAX },
            Content::Verdict,
        ] {
            let present = if matches!(content, Content::Sums { .. }) { 0 } else { 5 };
            let label = Label { call: u64::MAX, step: 7, content, sent_ns: 11, present };
            assert_eq!(Label::from_words(label.to_words()), Some(label));
        }
        assert_eq!(Label::from_words([0, 0, 9 << KIND_AT, 0, 0]), None);
        assert_eq!(Label::from_words([0; LABEL_WORDS]), None);
    }
}
