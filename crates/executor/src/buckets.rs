//! Which parameters of a stage travel together to its other copies, and when their sums are whole.

use std::collections::HashMap;

use candle_core::TensorId;
use pp_nn::Residue;
use pp_partition::Stage;

/// The parameters of each bucket, by their places in the stage: from the last to the first, which
/// is about the order in which a backward finishes them. They follow from the stage alone, so that
/// all copies have the same, whatever their data let them use.
pub(crate) struct Buckets {
    members: Vec<Vec<usize>>,
    /// The place of each parameter in the stage.
    place_of: HashMap<TensorId, usize>,
}

impl Buckets {
    /// A bucket gets parameters until it has `bucket_bytes`.
    pub(crate) fn new(stage: &Stage, bucket_bytes: usize) -> Self {
        let parameters = stage.parameters();
        let mut members: Vec<Vec<usize>> = Vec::new();
        let mut n_bytes = 0;
        for (place, parameter) in parameters.iter().enumerate().rev() {
            match members.last_mut() {
                Some(last) if n_bytes < bucket_bytes => last.push(place),
                _ => {
                    members.push(vec![place]);
                    n_bytes = 0;
                }
            }
            n_bytes += parameter.var.elem_count() * parameter.var.dtype().size_in_bytes();
        }
        let places = parameters.iter().enumerate().map(|(place, p)| (p.var.id(), place));
        Self { members, place_of: places.collect() }
    }

    /// The parameters of a bucket.
    pub(crate) fn members(&self, number: u32) -> &[usize] {
        self.members.get(number as usize).map_or(&[], Vec::as_slice)
    }

    /// The places of parameters; those of other stages have none.
    fn places(&self, ids: Vec<TensorId>) -> impl Iterator<Item = usize> {
        ids.into_iter().filter_map(|id| self.place_of.get(&id).copied())
    }
}

/// What the buckets still wait for in the last micro-batch of a step.
pub(crate) struct Unfinished {
    /// Residues that each parameter waits for.
    of_parameter: Vec<usize>,
    /// The bucket of each parameter.
    bucket_of: Vec<u32>,
    /// Parameters that each bucket waits for.
    of_bucket: Vec<usize>,
    /// Buckets that wait for none, and were not taken yet.
    whole: Vec<u32>,
}

impl Unfinished {
    /// All of `residues` will be summed.
    pub(crate) fn new(buckets: &Buckets, residues: &[Residue]) -> Self {
        let mut of_parameter = vec![0; buckets.place_of.len()];
        for place in residues.iter().flat_map(|residue| buckets.places(residue.parameters())) {
            of_parameter[place] += 1;
        }
        let mut found = Self {
            bucket_of: vec![0; of_parameter.len()],
            of_bucket: Vec::with_capacity(buckets.members.len()),
            whole: Vec::new(),
            of_parameter,
        };
        for (number, members) in (0..).zip(&buckets.members) {
            for &place in members {
                found.bucket_of[place] = number;
            }
            // A parameter that this micro-batch does not use waits for nothing.
            let n_missing = members.iter().filter(|&&place| found.of_parameter[place] > 0).count();
            if n_missing == 0 {
                found.whole.push(number);
            }
            found.of_bucket.push(n_missing);
        }
        found
    }

    /// A residue of these parameters is summed.
    pub(crate) fn summed(&mut self, buckets: &Buckets, parameters: Vec<TensorId>) {
        for place in buckets.places(parameters) {
            self.of_parameter[place] -= 1;
            if self.of_parameter[place] > 0 {
                continue;
            }
            let number = self.bucket_of[place];
            self.of_bucket[number as usize] -= 1;
            if self.of_bucket[number as usize] == 0 {
                self.whole.push(number);
            }
        }
    }

    /// The buckets that have become whole since the last call.
    pub(crate) fn take_whole(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.whole)
    }
}
