//! Cuts as numbers: costs in, ends of the parts out. No tensors, no clock.

use crate::error::PartitionError;

fn check(parts: usize, layers: usize) -> Result<(), PartitionError> {
    if parts == 0 {
        return Err(PartitionError::NoStages { layers });
    }
    if parts > layers {
        return Err(PartitionError::TooManyStages { stages: parts, layers });
    }
    Ok(())
}

/// Ends of `parts` parts of equal length; the first ones are longer by one if need be.
///
/// # Errors
/// If there are more parts than layers, or none.
pub fn uniform(layers: usize, parts: usize) -> Result<Vec<usize>, PartitionError> {
    check(parts, layers)?;
    Ok((1..=parts).map(|k| layers / parts * k + (layers % parts).min(k)).collect())
}

/// Ends of parts of the given sizes.
///
/// # Errors
/// If a size is 0, or the sizes do not fit the numbers of parts or layers.
pub fn explicit(
    sizes: &[usize],
    layers: usize,
    parts: usize,
) -> Result<Vec<usize>, PartitionError> {
    if let Some(stage) = sizes.iter().position(|&size| size == 0) {
        return Err(PartitionError::EmptyStage { stage, sizes: sizes.to_vec() });
    }
    check(parts, layers)?;
    if sizes.len() != parts {
        return Err(PartitionError::WrongCount { sizes: sizes.to_vec(), stages: parts });
    }
    if sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size)) != Some(layers) {
        return Err(PartitionError::WrongSum { sizes: sizes.to_vec(), layers });
    }
    Ok(sizes
        .iter()
        .scan(0, |end, size| {
            *end += size;
            Some(*end)
        })
        .collect())
}

/// Ends of `parts` contiguous, non-empty parts whose largest cost is as small as possible; among
/// those, the ones with the smallest sum of squares. Exact, by dynamic programming:
/// `best(k, j) = min over i of join(best(k−1, i), cost(i..j))`, O(parts · layers²).
///
/// # Errors
/// If there are more parts than layers, none, or a cost is negative or not finite.
pub fn min_max(costs: &[f64], parts: usize) -> Result<Vec<usize>, PartitionError> {
    check(parts, costs.len())?;
    check_costs(costs)?;
    let table = Table::new(costs);
    let largest = table.best(parts, f64::INFINITY, f64::max).0;
    // The second pass minimises another sum under the first one's result: taken together in one
    // pass, a prefix that is good for one could hide the prefix that is best for both.
    Ok(table.best(parts, largest, |sum, cost| sum + cost * cost).1)
}

fn check_costs(costs: &[f64]) -> Result<(), PartitionError> {
    match costs.iter().position(|c| !c.is_finite() || *c < 0.0) {
        Some(layer) => Err(PartitionError::BadCost { layer, cost: costs[layer] }),
        None => Ok(()),
    }
}

pub(crate) struct Table {
    /// Cost of the first j layers.
    prefix: Vec<f64>,
}

impl Table {
    pub(crate) fn new(costs: &[f64]) -> Self {
        let mut prefix = vec![0.0];
        for cost in costs {
            prefix.push(prefix[prefix.len() - 1] + cost);
        }
        Self { prefix }
    }

    pub(crate) fn n_layers(&self) -> usize {
        self.prefix.len() - 1
    }

    /// The cost of the layers from `start` to before `end`.
    pub(crate) fn cost(&self, start: usize, end: usize) -> f64 {
        self.prefix[end] - self.prefix[start]
    }

    /// The least `join` over all cuts with no part above `limit`, and the ends of such a cut.
    fn best(&self, parts: usize, limit: f64, join: impl Fn(f64, f64) -> f64) -> (f64, Vec<usize>) {
        let n = self.n_layers();
        let mut row = vec![f64::INFINITY; n + 1];
        row[0] = 0.0;
        let mut starts = Vec::with_capacity(parts);
        for k in 1..=parts {
            let mut next = vec![f64::INFINITY; n + 1];
            let mut start = vec![k - 1; n + 1];
            // Part k ends at j and leaves a layer for each later part.
            for j in k..=n - (parts - k) {
                for (i, &before) in row.iter().enumerate().take(j).skip(k - 1) {
                    let cost = self.cost(i, j);
                    let value = join(before, cost);
                    if cost <= limit && value < next[j] {
                        (next[j], start[j]) = (value, i);
                    }
                }
            }
            row = next;
            starts.push(start);
        }
        let mut ends = vec![n];
        for start in starts.iter().skip(1).rev() {
            ends.push(start[ends[ends.len() - 1]]);
        }
        ends.reverse();
        (row[n], ends)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums of small whole numbers are exact")]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn largest(costs: &[f64], ends: &[usize]) -> f64 {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(a, &b)| costs[a..b].iter().sum::<f64>()).fold(0.0, f64::max)
    }

    fn squares(costs: &[f64], ends: &[usize]) -> f64 {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(a, &b)| costs[a..b].iter().sum::<f64>().powi(2)).sum()
    }

    /// Every way to cut `n` layers into `parts` non-empty parts.
    pub(crate) fn all(n: usize, parts: usize) -> Vec<Vec<usize>> {
        if parts == 1 {
            return vec![vec![n]];
        }
        (parts - 1..n)
            .flat_map(|end| {
                all(end, parts - 1).into_iter().map(move |mut ends| {
                    ends.push(n);
                    ends
                })
            })
            .collect()
    }

    proptest! {
        /// The oracle tries every cut. Whole numbers, so that sums are exact.
        #[test]
        fn no_cut_is_better(costs in prop::collection::vec(0u32..50, 1..10), parts in 1usize..10) {
            let costs: Vec<f64> = costs.into_iter().map(f64::from).collect();
            prop_assume!(parts <= costs.len());
            let ends = min_max(&costs, parts).unwrap();
            prop_assert_eq!(ends.len(), parts);
            prop_assert_eq!(ends[parts - 1], costs.len());
            prop_assert!(ends.windows(2).all(|w| w[0] < w[1]) && ends[0] > 0);
            let cuts = all(costs.len(), parts);
            let best = cuts.iter().map(|c| largest(&costs, c)).fold(f64::INFINITY, f64::min);
            prop_assert_eq!(largest(&costs, &ends), best);
            let even = cuts.iter().filter(|c| largest(&costs, c) == best).map(|c| squares(&costs, c));
            prop_assert_eq!(squares(&costs, &ends), even.fold(f64::INFINITY, f64::min));
        }

        #[test]
        fn uniform_parts_differ_by_one_at_most(layers in 1usize..100, parts in 1usize..100) {
            prop_assume!(parts <= layers);
            let ends = uniform(layers, parts).unwrap();
            let sizes: Vec<_> = std::iter::once(0).chain(ends.iter().copied()).zip(&ends).map(|(a, b)| b - a).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            prop_assert_eq!(ends[parts - 1], layers);
        }
    }

    #[test]
    fn cases_that_others_get_wrong() {
        assert_eq!(min_max(&[99.0, 99.0, 99.0, 99.0, 103.0, 100.0], 4).unwrap(), [2, 4, 5, 6]);
        assert_eq!(min_max(&[1.0; 5], 4).unwrap(), [1, 2, 3, 5]);
        let refused = min_max(&[1.0, f64::NAN], 1).unwrap_err().to_string();
        assert!(refused.contains("layer 1 has the cost NaN"), "{refused}");
    }
}
