//! What one rank did from one moment to another.

use serde::{Deserialize, Serialize};

/// The kind of work, or of waiting, that a [`Span`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanKind {
    /// Forward.
    #[serde(rename = "F")]
    F,
    /// Full backward.
    #[serde(rename = "B")]
    B,
    /// Backward for the gradient of the input only.
    #[serde(rename = "I")]
    I,
    /// Backward for the gradient of the weights only.
    #[serde(rename = "W")]
    W,
    /// Handing a tensor to a neighbour.
    Send,
    /// Taking over a tensor that has already arrived.
    Recv,
    /// Waiting for an activation of the stage before.
    WaitAct,
    /// Waiting for a gradient of the stage behind.
    WaitGrad,
    /// The mean of a bucket of gradients over the copies of the model: from sending the own sums
    /// until the mean is there. It may lie beside other spans of its rank.
    AllReduce,
    /// The optimizer.
    Optim,
    /// Writing a checkpoint.
    Checkpoint,
    /// Reading and preparing the batch.
    Data,
}

impl SpanKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 12] = [
        Self::F,
        Self::B,
        Self::I,
        Self::W,
        Self::Send,
        Self::Recv,
        Self::WaitAct,
        Self::WaitGrad,
        Self::AllReduce,
        Self::Optim,
        Self::Checkpoint,
        Self::Data,
    ];

    /// Whether the rank computes for the model: only these kinds count as busy.
    pub fn is_compute(self) -> bool {
        match self {
            Self::F | Self::B | Self::I | Self::W => true,
            Self::Send
            | Self::Recv
            | Self::WaitAct
            | Self::WaitGrad
            | Self::AllReduce
            | Self::Optim
            | Self::Checkpoint
            | Self::Data => false,
        }
    }

    /// Whether the rank moves a tensor between stages.
    pub fn is_copy(self) -> bool {
        matches!(self, Self::Send | Self::Recv)
    }

    /// Whether the rank waits for a neighbour.
    pub fn is_wait(self) -> bool {
        matches!(self, Self::WaitAct | Self::WaitGrad)
    }

    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::F => "F",
            Self::B => "B",
            Self::I => "I",
            Self::W => "W",
            Self::Send => "send",
            Self::Recv => "recv",
            Self::WaitAct => "wait_act",
            Self::WaitGrad => "wait_grad",
            Self::AllReduce => "all_reduce",
            Self::Optim => "optim",
            Self::Checkpoint => "checkpoint",
            Self::Data => "data",
        }
    }
}

#[cfg(feature = "schedule")]
impl From<pp_schedule::Phase> for SpanKind {
    fn from(phase: pp_schedule::Phase) -> Self {
        use pp_schedule::Phase;
        match phase {
            Phase::Forward => Self::F,
            Phase::Backward => Self::B,
            Phase::InputGrad => Self::I,
            Phase::WeightGrad => Self::W,
        }
    }
}

/// What one rank did, from `start_ns` on, for `dur_ns`.
///
/// Times are those of the run's monotonic clock, which starts with the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The training step, from 1.
    pub step: u64,
    /// The replica that the rank belongs to.
    #[serde(default)]
    pub replica: u32,
    /// The place along the pipeline.
    pub rank: u32,
    /// The stage that was worked on; 0 for work that belongs to no stage.
    #[serde(default)]
    pub stage: u32,
    /// The micro-batch that was worked on; 0 for work that belongs to none. For the mean of
    /// gradients, the number of the bucket within its stage.
    #[serde(default)]
    pub mb: u32,
    /// What was done.
    pub op: SpanKind,
    /// When it began.
    pub start_ns: u64,
    /// How long it took by the wall clock.
    pub dur_ns: u64,
    /// How long this thread really ran on a core meanwhile.
    #[serde(default)]
    pub cpu_ns: u64,
    /// Bytes moved; 0 for anything but copies and reductions.
    #[serde(default)]
    pub bytes: u64,
    /// How long the thread was ready to run but had no core.
    #[serde(default)]
    pub starved_ns: u64,
}

impl Span {
    /// A line that is letter for letter as the recorder writes it, many times as fast as any JSON;
    /// `None` for every other, which may be a span all the same.
    pub(crate) fn parse_written(line: &[u8]) -> Option<Self> {
        let mut rest = line;
        let step = number(&mut rest, br#"{"ev":"span","step":"#)?;
        let mut small = |key: &[u8]| u32::try_from(number(&mut rest, key)?).ok();
        let replica = small(br#","replica":"#)?;
        let rank = small(br#","rank":"#)?;
        let stage = small(br#","stage":"#)?;
        let mb = small(br#","mb":"#)?;
        rest = rest.strip_prefix(br#","op":""#)?;
        let n_letters = rest.iter().take(NAME_BYTES_MAX + 1).position(|&byte| byte == b'"')?;
        let (name, behind) = rest.split_at(n_letters);
        let op = SpanKind::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)?;
        rest = behind;
        let start_ns = number(&mut rest, br#"","start_ns":"#)?;
        let dur_ns = number(&mut rest, br#","dur_ns":"#)?;
        let cpu_ns = number(&mut rest, br#","cpu_ns":"#)?;
        let bytes = number(&mut rest, br#","bytes":"#)?;
        let starved_ns = number(&mut rest, br#","starved_ns":"#)?;
        (rest == b"}").then_some(Self {
            step,
            replica,
            rank,
            stage,
            mb,
            op,
            start_ns,
            dur_ns,
            cpu_ns,
            bytes,
            starved_ns,
        })
    }

    /// The moment at which the span is over.
    pub fn end_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.dur_ns)
    }
}

/// Bytes of the longest name of a kind, and some more.
const NAME_BYTES_MAX: usize = 16;

/// Takes a key and the whole number behind it from the beginning of `rest`.
fn number(rest: &mut &[u8], key: &[u8]) -> Option<u64> {
    let digits = rest.strip_prefix(key)?;
    let n_digits = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, behind) = digits.split_at(n_digits);
    // JSON has no number without digits, and none that begins with a needless zero.
    if digits.is_empty() || (n_digits > 1 && digits[0] == b'0') {
        return None;
    }
    let mut value = 0_u64;
    for digit in digits {
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    *rest = behind;
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Event, Line};

    #[test]
    fn names_are_those_of_the_log() {
        for kind in SpanKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
    }

    #[test]
    fn four_kinds_compute() {
        let computing: Vec<_> =
            SpanKind::ALL.into_iter().filter(|kind| kind.is_compute()).collect();
        assert_eq!(computing, [SpanKind::F, SpanKind::B, SpanKind::I, SpanKind::W]);
    }

    fn spans() -> impl Strategy<Value = Span> {
        let small = || prop_oneof![0..20_u32, any::<u32>()];
        let large = || prop_oneof![0..20_u64, any::<u64>()];
        let ids = (small(), small(), small(), small(), prop::sample::select(&SpanKind::ALL[..]));
        let times = (large(), large(), large(), large(), large(), large());
        (ids, times).prop_map(|((replica, rank, stage, mb, op), times)| {
            let (step, start_ns, dur_ns, cpu_ns, bytes, starved_ns) = times;
            Span { step, replica, rank, stage, mb, op, start_ns, dur_ns, cpu_ns, bytes, starved_ns }
        })
    }

    proptest! {
        #[test]
        fn what_the_recorder_writes_is_read_fast(span in spans()) {
            let line = Event::Span(span).to_json().unwrap();
            prop_assert_eq!(Span::parse_written(line.as_bytes()), Some(span));
        }

        /// Whatever is taken the fast way is what JSON says it is.
        #[test]
        fn the_fast_way_says_what_json_says(
            span in spans(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), prop::sample::select(&b"0123456789-.e \"{},:stepFB\\"[..])), 0..3),
        ) {
            let mut line = Event::Span(span).to_json().unwrap().into_bytes();
            for (at, replaces, byte) in edits {
                let at = at.index(line.len());
                if replaces { line[at] = byte } else { line.insert(at, byte) }
            }
            if let Some(fast) = Span::parse_written(&line) {
                let slow: Span = serde_json::from_slice(&line).unwrap();
                prop_assert_eq!(fast, slow);
                prop_assert_eq!(Event::parse(&line).unwrap(), Line::Event(Event::Span(fast)));
            }
        }
    }
}
