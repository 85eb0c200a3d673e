//! The cut for ranks that hold several stages, as numbers.

use crate::error::PartitionError;
use crate::ranks::Ranks;
use crate::solve::{Table, min_max, uniform};

/// The most cuts of which every one is tried.
const TRIED_MAX: usize = 20_000;

/// Ends of contiguous, non-empty parts, one for each stage, for ranks that hold several stages.
///
/// The measure is roughly what a step takes: m times the load of the busiest rank, and p − 1 times
/// the largest stage, for which ranks wait while the pipeline fills and drains. Without the second
/// term, a rank might get a large and a small stage where two equal ones load it as much. Among
/// equal cuts, the one with the smallest sum of squares of the loads wins, then of the stages.
///
/// Where each rank holds one stage, this is [`min_max`]. Otherwise it tries every cut, if there are
/// no more than 20,000. If there are more, it starts from two cuts, improves each by moving ends,
/// and takes the better one. That one comes close to the best, but nothing proves that it is.
///
/// # Errors
/// As [`min_max`].
pub fn balanced(costs: &[f64], ranks: &Ranks) -> Result<Vec<usize>, PartitionError> {
    let (n, parts) = (costs.len(), ranks.n_stages());
    let one_each = min_max(costs, parts)?;
    if ranks.is_one_each() || parts == n {
        return Ok(one_each);
    }
    let search = Search { table: Table::new(costs), ranks };
    if n_cuts(n, parts).is_some_and(|cuts| cuts <= TRIED_MAX) {
        let mut best = (search.measure(&one_each), one_each);
        search.try_all(&mut vec![], &mut best);
        return Ok(best.1);
    }
    let starts = [one_each, uniform(n, parts)?];
    let improved = starts.map(|ends| search.improved(ends));
    let [first, second] = improved.map(|ends| (search.measure(&ends), ends));
    Ok(if second.0 < first.0 { second.1 } else { first.1 })
}

/// The ways to cut `n` layers into `parts` parts; `None` where the number is huge.
fn n_cuts(n: usize, parts: usize) -> Option<usize> {
    (1..parts).try_fold(1_usize, |cuts, k| Some(cuts.checked_mul(n - k)? / k))
}

/// The measure of a cut, and what decides between equals.
type Measure = [f64; 3];

struct Search<'a> {
    table: Table,
    ranks: &'a Ranks,
}

impl Search<'_> {
    fn measure(&self, ends: &[usize]) -> Measure {
        let mut start = 0;
        let stages: Vec<f64> = ends
            .iter()
            .map(|&end| self.table.cost(std::mem::replace(&mut start, end), end))
            .collect();
        let largest = stages.iter().copied().fold(0.0, f64::max);
        let waits = (self.ranks.n_ranks() - 1) as f64 * largest;
        let loads = self.ranks.loads(&stages);
        let busiest = loads.iter().copied().fold(0.0, f64::max);
        let squares = |costs: &[f64]| costs.iter().map(|cost| cost * cost).sum();
        [busiest + waits, squares(&loads), squares(&stages)]
    }

    /// Tries every cut that begins with `ends`.
    fn try_all(&self, ends: &mut Vec<usize>, best: &mut (Measure, Vec<usize>)) {
        let n = self.table.n_layers();
        let left = self.ranks.n_stages() - ends.len();
        let first = ends.last().map_or(1, |end| end + 1);
        if left == 1 {
            ends.push(n);
            let measure = self.measure(ends);
            if measure < best.0 {
                *best = (measure, ends.clone());
            }
            ends.pop();
            return;
        }
        for end in first..=n - (left - 1) {
            ends.push(end);
            self.try_all(ends, best);
            ends.pop();
        }
    }

    /// The cut that no move makes better.
    fn improved(&self, mut ends: Vec<usize>) -> Vec<usize> {
        let mut measure = self.measure(&ends);
        loop {
            let better = self.moves(&ends).find_map(|moved| {
                let of_moved = self.measure(&moved);
                (of_moved < measure).then_some((of_moved, moved))
            });
            match better {
                Some(better) => (measure, ends) = better,
                None => return ends,
            }
        }
    }

    /// Cuts with one end anywhere else; with two ends, or two and all between them, a layer further.
    fn moves(&self, ends: &[usize]) -> impl Iterator<Item = Vec<usize>> {
        let (n, inner) = (self.table.n_layers(), ends.len() - 1);
        let with = |change: &dyn Fn(&mut Vec<usize>)| {
            let mut changed = ends.to_vec();
            change(&mut changed);
            changed
        };
        let one = (0..inner).flat_map(move |at| {
            let first = if at == 0 { 1 } else { ends[at - 1] + 1 };
            (first..ends[at + 1]).map(move |end| with(&|ends| ends[at] = end))
        });
        let pairs = move || (0..inner).flat_map(move |a| (a + 1..inner).map(move |b| (a, b)));
        let two = pairs().flat_map(move |(a, b)| {
            [(1, 1), (1, -1), (-1, 1), (-1, -1)].map(|(by, and_by)| {
                with(&|ends| {
                    ends[a] = ends[a].saturating_add_signed(by);
                    ends[b] = ends[b].saturating_add_signed(and_by);
                })
            })
        });
        let all = pairs().flat_map(move |(a, b)| {
            [1, -1].map(|by| {
                with(&|ends| {
                    for end in &mut ends[a..=b] {
                        *end = end.saturating_add_signed(by);
                    }
                })
            })
        });
        one.chain(two).chain(all).filter(move |moved| {
            moved[0] > 0 && moved[inner] == n && moved.windows(2).all(|w| w[0] < w[1])
        })
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums of small numbers are exact")]
mod tests {
    use super::*;
    use crate::solve::tests::{all, largest};
    use proptest::prelude::*;

    proptest! {
        /// The oracle tries every cut, and has its own measure.
        #[test]
        fn no_cut_is_better_for_ranks_of_several_stages(
            costs in prop::collection::vec(0u32..50, 4..10),
            placement in prop::collection::vec(0usize..3, 4..7),
            two_copies: bool,
            micro_batches in 1usize..9,
        ) {
            prop_assume!(placement.len() <= costs.len() && placement.contains(&2));
            let costs: Vec<f64> = costs.into_iter().map(f64::from).collect();
            let backwards: Vec<usize> = placement.iter().rev().copied().collect();
            let copies = if two_copies { vec![placement, backwards] } else { vec![placement] };
            let (parts, n_copies) = (copies[0].len(), copies.len());
            let measure = |ends: &[usize]| {
                let starts = std::iter::once(0).chain(ends.iter().copied());
                let stages: Vec<f64> =
                    starts.zip(ends).map(|(a, &b)| costs[a..b].iter().sum()).collect();
                let load = |rank: usize| -> f64 {
                    let all = copies.iter().flat_map(|ranks| ranks.iter().zip(&stages));
                    all.filter(|(at, _)| **at == rank).map(|(_, cost)| cost).sum()
                };
                let busiest = (0..3).map(load).fold(0.0, f64::max);
                busiest * (micro_batches as f64 / n_copies as f64) + 2.0 * largest(&costs, ends)
            };
            let ends = balanced(&costs, &Ranks::new(copies.clone(), micro_batches)).unwrap();
            let cuts = all(costs.len(), parts);
            let best = cuts.iter().map(|c| measure(c)).fold(f64::INFINITY, f64::min);
            prop_assert_eq!(measure(&ends), best);
        }

        /// The best cut is found by trying all.
        #[test]
        fn moves_come_close_to_the_best_cut(
            costs in prop::collection::vec(90u32..110, 12..16),
            is_v: bool,
        ) {
            let costs: Vec<f64> = costs.into_iter().map(f64::from).collect();
            let placement = if is_v { vec![0, 1, 2, 2, 1, 0] } else { vec![0, 1, 2, 0, 1, 2] };
            let ranks = Ranks::new(vec![placement], 8);
            let search = Search { table: Table::new(&costs), ranks: &ranks };
            let measure = |ends: &[usize]| search.measure(ends)[0];
            let moved = search.improved(uniform(costs.len(), 6).unwrap());
            let tried = balanced(&costs, &ranks).unwrap();
            prop_assert!(measure(&moved) <= 1.15 * measure(&tried), "{moved:?}, {tried:?}");
        }
    }

    /// An embedding, six blocks and a head on two ranks, to and fro. Both cuts below have two blocks
    /// in the largest stage, and the smallest sum of squares gives one rank four of six.
    #[test]
    fn stages_of_a_rank_are_balanced_together() {
        let costs = [0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2];
        assert_eq!(min_max(&costs, 4).unwrap(), [2, 4, 6, 8]);
        let to_and_fro = Ranks::new(vec![vec![0, 1, 1, 0]], 8);
        let ends = balanced(&costs, &to_and_fro).unwrap();
        let loads = |ends: &[usize]| {
            let stage =
                |s: usize| costs[if s == 0 { 0 } else { ends[s - 1] }..ends[s]].iter().sum::<f64>();
            [stage(0) + stage(3), stage(1) + stage(2)].map(|load| (load * 10.0).round() / 10.0)
        };
        assert_eq!(loads(&ends), [3.3, 3.0]);
        assert_eq!(largest(&costs, &ends), 2.1);
    }

    #[test]
    fn a_large_model_is_cut_evenly() {
        let ranks = Ranks::new(vec![(0..16).map(|stage| stage % 8).collect()], 32);
        let ends = balanced(&[1.0; 80], &ranks).unwrap();
        assert_eq!(ends, (1..=16).map(|k| 5 * k).collect::<Vec<_>>());
        // A head that takes as long as eight blocks.
        let costs = [&[0.0][..], &[1.0; 80], &[8.0]].concat();
        let ends = balanced(&costs, &ranks).unwrap();
        let search = Search { table: Table::new(&costs), ranks: &ranks };
        // 88 on 8 ranks are 11 for each; the rank with the head has three blocks more.
        assert_eq!(search.measure(&ends)[0], 32.0 * 11.0 + 7.0 * largest(&costs, &ends));
        assert!(largest(&costs, &ends) <= 9.0, "{ends:?}");
    }
}
