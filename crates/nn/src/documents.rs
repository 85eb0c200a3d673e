//! Which positions of a sample belong to one document.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

/// The documents of each sample of a micro-batch, where samples are packed from several. A position
/// attends to its own document alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documents {
    /// For each position of each sample, its place in its document: 0 begins one.
    places: Arc<[u32]>,
    samples: usize,
}

impl Documents {
    /// From the positions `(b, t)` that restart at 0 with each document.
    ///
    /// # Errors
    /// If a sample does not begin with 0, or a position is neither 0 nor the next one.
    pub fn from_positions(positions_bt: &Tensor) -> Result<Self> {
        let (samples, t) = positions_bt.dims2()?;
        let places: Vec<u32> = positions_bt.to_dtype(DType::U32)?.flatten_all()?.to_vec1()?;
        for (i, &place) in places.iter().enumerate() {
            let is_first = i.is_multiple_of(t);
            let follows = !is_first && place.checked_sub(1) == Some(places[i - 1]);
            if place != 0 && !follows {
                bail!(
                    "position {place} at place {} of sample {} neither begins a document nor \
                     follows the one before",
                    i % t,
                    i / t
                );
            }
        }
        Ok(Self { places: places.into(), samples })
    }

    /// How many samples and positions these are.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.samples, self.places.len().checked_div(self.samples).unwrap_or(0))
    }

    /// The place of each position in its document, sample by sample.
    pub(crate) fn places(&self) -> &[u32] {
        &self.places
    }

    /// The positions of each document of a sample, in order.
    pub(crate) fn of_sample(&self, sample: usize) -> Vec<Range<usize>> {
        let (_, t) = self.shape();
        let places = &self.places[sample * t..(sample + 1) * t];
        let mut starts: Vec<usize> = (0..t).filter(|&i| places[i] == 0).collect();
        starts.push(t);
        starts.windows(2).map(|two| two[0]..two[1]).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn positions(values: &[u32], samples: usize) -> Tensor {
        let shape = (samples, values.len() / samples);
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn documents_begin_where_positions_do() {
        let documents =
            Documents::from_positions(&positions(&[0, 1, 2, 0, 0, 0, 1, 0, 1, 2], 2)).unwrap();
        assert_eq!(documents.shape(), (2, 5));
        assert_eq!(documents.of_sample(0), [0..3, 3..4, 4..5]);
        assert_eq!(documents.of_sample(1), [0..2, 2..5]);
    }

    #[test]
    fn positions_that_jump_are_refused() {
        for (values, what) in [
            ([1, 2, 3, 4], "position 1 at place 0 of sample 0"),
            ([0, 1, 0, 2], "place 1 of sample 1"),
        ] {
            let error = Documents::from_positions(&positions(&values, 2)).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
