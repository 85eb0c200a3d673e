//! The small message in front of tensors: what they are, and their types and shapes.

use candle_core::{DType, Shape, Tensor};
use pp_executor::{LABEL_WORDS, LinkError};

/// Tags of the three kinds of messages of ranks. Messages of one tag between two processes never
/// overtake each other, so bodies follow the heads in their order.
pub(crate) const HEAD: i32 = 1;
pub(crate) const TABLE: i32 = 2;
pub(crate) const BODY: i32 = 3;
/// The tag of the bodies of edge 0. Those of other edges follow.
pub(crate) const EDGE: i32 = 16;

/// Words of a head. It is small enough that every MPI library sends it at once.
pub(crate) const WORDS: usize = 64;
/// Words of the table of types and shapes that a head has room for.
const ROOM: usize = WORDS - LABEL_WORDS - 3;

/// A head, and the rest of its table where it has no room for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) label: [u64; LABEL_WORDS],
    pub(crate) n_tensors: usize,
    /// The number of the edge, for messages that have the same shapes every time.
    pub(crate) edge: Option<u32>,
    /// Words of the table.
    pub(crate) n_words: usize,
    table: Vec<u64>,
}

const TYPES: [(DType, u64); 7] = [
    (DType::F32, 1),
    (DType::F64, 2),
    (DType::BF16, 3),
    (DType::F16, 4),
    (DType::U8, 5),
    (DType::U32, 6),
    (DType::I64, 7),
];

/// For each tensor its type, its number of dimensions, and the dimensions.
pub(crate) fn table(tensors: &[Tensor]) -> Result<Vec<u64>, LinkError> {
    let mut words = Vec::new();
    for tensor in tensors {
        let dtype = tensor.dtype();
        let code = TYPES.iter().find(|(known, _)| *known == dtype);
        let (_, code) = code.ok_or_else(|| LinkError(format!("no message has {dtype:?}")))?;
        words.push(*code);
        words.push(tensor.dims().len() as u64);
        words.extend(tensor.dims().iter().map(|&dimension| dimension as u64));
    }
    Ok(words)
}

/// The types and shapes of `n` tensors.
pub(crate) fn read_table(words: &[u64], n: usize) -> Result<Vec<(DType, Shape)>, LinkError> {
    let broken = || LinkError("a message has a broken table of its tensors".to_owned());
    let mut words = words.iter().copied();
    let mut found = Vec::new();
    for _ in 0..n {
        let code = words.next().ok_or_else(broken)?;
        let dtype = TYPES.iter().find(|(_, known)| *known == code).map(|(dtype, _)| *dtype);
        let n_dims = words.next().ok_or_else(broken)? as usize;
        let dims: Vec<usize> = words.by_ref().take(n_dims).map(|word| word as usize).collect();
        if dims.len() < n_dims {
            return Err(broken());
        }
        found.push((dtype.ok_or_else(broken)?, Shape::from(dims)));
    }
    if words.next().is_some() { Err(broken()) } else { Ok(found) }
}

impl Head {
    pub(crate) fn new(
        label: [u64; LABEL_WORDS],
        edge: Option<u32>,
        n_tensors: usize,
        table: &[u64],
    ) -> Self {
        let inside = if table.len() <= ROOM { table.to_vec() } else { Vec::new() };
        Self { label, n_tensors, edge, n_words: table.len(), table: inside }
    }

    pub(crate) fn to_words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[..LABEL_WORDS].copy_from_slice(&self.label);
        words[LABEL_WORDS] = self.n_tensors as u64;
        words[LABEL_WORDS + 1] = self.n_words as u64;
        words[LABEL_WORDS + 2] = self.edge.map_or(0, |edge| 1 + u64::from(edge));
        words[LABEL_WORDS + 3..][..self.table.len()].copy_from_slice(&self.table);
        words
    }

    pub(crate) fn from_words(words: &[u64; WORDS]) -> Self {
        let mut label = [0; LABEL_WORDS];
        label.copy_from_slice(&words[..LABEL_WORDS]);
        let (n_tensors, n_words) = (words[LABEL_WORDS] as usize, words[LABEL_WORDS + 1] as usize);
        let inside = if n_words <= ROOM { n_words } else { 0 };
        let edge = words[LABEL_WORDS + 2].checked_sub(1).map(|edge| edge as u32);
        Self { label, n_tensors, edge, n_words, table: words[LABEL_WORDS + 3..][..inside].to_vec() }
    }

    /// The tag of the bodies.
    pub(crate) fn tag(&self) -> i32 {
        self.edge.map_or(BODY, |edge| EDGE + edge as i32)
    }

    /// The table, if the head has it.
    pub(crate) fn table(&self) -> Option<&[u64]> {
        (self.n_words <= ROOM).then_some(&self.table)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn heads_and_tables_come_back() {
        let one = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let scalar = Tensor::new(7_u8, &Device::Cpu).unwrap();
        for (n, edge) in [(0, None), (1, Some(0)), (13, Some(7)), (15, None), (200, Some(9))] {
            let mut tensors = vec![one.clone(); n];
            tensors.push(scalar.clone());
            let words = table(&tensors).unwrap();
            let head = Head::new([1, 2, 3, u64::MAX, 5], edge, tensors.len(), &words);
            let back = Head::from_words(&head.to_words());
            assert_eq!(back, head);
            assert_eq!(back.table().is_some(), words.len() <= ROOM);
            assert_eq!(back.table().unwrap_or(&words), words);
            let found = read_table(&words, tensors.len()).unwrap();
            for ((dtype, shape), tensor) in found.iter().zip(&tensors) {
                assert_eq!((*dtype, shape), (tensor.dtype(), tensor.shape()));
            }
            assert!(read_table(&words, tensors.len() + 1).is_err());
            assert!(read_table(&words, tensors.len() - 1).is_err());
        }
        assert!(read_table(&[99, 0], 1).is_err());
        assert!(read_table(&[1, u64::MAX, 3], 1).is_err());
    }
}
