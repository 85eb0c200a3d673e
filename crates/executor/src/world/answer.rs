//! The answers of ranks, as messages between processes.

use candle_core::{Device, Tensor};
use pp_schedule::Stage;
use pp_trace::Span;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::report::{Evaluated, StageParameters, StepReport, UpdateReport};
use crate::state::{Named, Snapshot};
use crate::transport::LinkError;

/// What a rank answers to a call.
pub(crate) trait Answer: Sized + Send + 'static {
    /// The answer as bytes and tensors, for process 0.
    ///
    /// # Errors
    /// It cannot be written: our own bug.
    fn pack(&self) -> Result<(Vec<u8>, Vec<Tensor>), LinkError>;

    /// The answer of another process.
    ///
    /// # Errors
    /// It cannot be read: our own bug, or another version of this program.
    fn unpack(bytes: &[u8], tensors: Vec<Tensor>) -> Result<Self, LinkError>;

    /// What every process needs of it.
    fn brief(&self) -> Self;

    /// The spans in it.
    fn spans(&self) -> &[Span] {
        &[]
    }
}

/// What a process says to the others, and what it says to process 0 alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) bits: u64,
    pub(crate) words: Vec<u8>,
}

pub(crate) fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, LinkError> {
    rmp_serde::to_vec_named(value).map_err(|error| LinkError(error.to_string()))
}

pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, LinkError> {
    rmp_serde::from_slice(bytes).map_err(|error| LinkError(error.to_string()))
}

/// Bytes as a tensor, which a port carries.
pub(crate) fn tensor_of(bytes: Vec<u8>) -> Result<Tensor, LinkError> {
    let n = bytes.len();
    Tensor::from_vec(bytes, n, &Device::Cpu).map_err(|error| LinkError(error.to_string()))
}

pub(crate) fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, LinkError> {
    tensor.to_vec1().map_err(|error| LinkError(error.to_string()))
}

/// Implements [`Answer`] for answers without tensors. `brief` says what every process needs.
macro_rules! plain {
    ($($answer:ty, $brief:expr $(, $spans:expr)?;)*) => {$(
        impl Answer for $answer {
            fn pack(&self) -> Result<(Vec<u8>, Vec<Tensor>), LinkError> {
                Ok((to_bytes(self)?, Vec::new()))
            }

            fn unpack(bytes: &[u8], _: Vec<Tensor>) -> Result<Self, LinkError> {
                from_bytes(bytes)
            }

            fn brief(&self) -> Self {
                let brief: fn(&Self) -> Self = $brief;
                brief(self)
            }
            $(
                fn spans(&self) -> &[Span] {
                    let spans: fn(&Self) -> &[Span] = $spans;
                    spans(self)
                }
            )?
        }
    )*};
}

plain! {
    u64, |answer| *answer;
    (u64, u64), |answer| *answer;
    Said, |answer| Said { words: Vec::new(), ..*answer };
    Vec<StageParameters>, Clone::clone;
    Evaluated, Clone::clone;
    StepReport, |answer| StepReport { spans: Vec::new(), ..answer.clone() }, |answer| &answer.spans;
    UpdateReport, |answer| UpdateReport { spans: Vec::new(), ..answer.clone() }, |answer| &answer.spans;
}

/// Tensors by stage. Process 0 alone gets them.
impl Answer for Vec<(Stage, Named)> {
    fn pack(&self) -> Result<(Vec<u8>, Vec<Tensor>), LinkError> {
        let names: Vec<(Stage, Vec<&String>)> = self
            .iter()
            .map(|(stage, named)| (*stage, named.iter().map(|(name, _)| name).collect()))
            .collect();
        let tensors = self.iter().flat_map(|(_, named)| named).map(|(_, tensor)| tensor.clone());
        Ok((to_bytes(&names)?, tensors.collect()))
    }

    fn unpack(bytes: &[u8], tensors: Vec<Tensor>) -> Result<Self, LinkError> {
        let names: Vec<(Stage, Vec<String>)> = from_bytes(bytes)?;
        let mut tensors = tensors.into_iter();
        let of_stage = |(stage, names): (Stage, Vec<String>)| {
            (stage, names.into_iter().zip(tensors.by_ref()).collect())
        };
        Ok(names.into_iter().map(of_stage).collect())
    }

    fn brief(&self) -> Self {
        Vec::new()
    }
}

/// A rank's state, which stays in its process.
impl Answer for Snapshot {
    fn pack(&self) -> Result<(Vec<u8>, Vec<Tensor>), LinkError> {
        Ok((to_bytes(&self.optimizer_steps)?, Vec::new()))
    }

    fn unpack(bytes: &[u8], _: Vec<Tensor>) -> Result<Self, LinkError> {
        Ok(Self { stages: Vec::new(), optimizer_steps: from_bytes(bytes)? })
    }

    fn brief(&self) -> Self {
        Self { stages: Vec::new(), optimizer_steps: self.optimizer_steps }
    }
}
