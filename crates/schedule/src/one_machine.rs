//! How long one machine takes with ops that have heads and tails.
//!
//! Jackson's preemptive schedule: at any time the op with the longest tail among those that can
//! run. Its length is the largest, over all sets of ops, of the earliest head + all work + the
//! shortest tail (Carlier 1982, "The one-machine sequencing problem"), so it bounds every schedule
//! that does not interrupt ops from below.

use std::collections::BinaryHeap;

use crate::ordered::Ordered;
use crate::work;

/// An op on its rank.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// The earliest time at which it can start.
    pub(crate) head: f64,
    pub(crate) time: f64,
    /// The least time from its end to the end of all.
    pub(crate) tail: f64,
}

/// A set of ops that cannot be done sooner: the earliest start, all their work, the least that
/// follows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Critical {
    pub(crate) fill: f64,
    pub(crate) work: f64,
    pub(crate) drain: f64,
    /// How many pieces of ops without a gap it consists of.
    pub(crate) n_pieces: usize,
}

impl Critical {
    pub(crate) fn sum(&self) -> f64 {
        self.fill + self.work + self.drain
    }
}

/// Jackson's preemptive schedule, and its critical set.
pub(crate) fn one_machine(jobs: &mut [Job]) -> Critical {
    jobs.sort_by(|a, b| a.head.total_cmp(&b.head));
    // By tail: what is left of each op that can run.
    let mut ready: BinaryHeap<(Ordered, Ordered)> = BinaryHeap::new();
    let (mut now, mut next) = (0.0_f64, 0);
    // Pieces of time with the tail of who ran, to find the critical set afterwards.
    let mut pieces: Vec<(f64, f64, f64)> = Vec::with_capacity(2 * jobs.len());
    let mut worst = (0.0, 0.0);
    while next < jobs.len() || !ready.is_empty() {
        if ready.is_empty() {
            now = now.max(jobs[next].head);
        }
        while let Some(job) = jobs.get(next).filter(|job| job.head <= now) {
            ready.push((Ordered(job.tail), Ordered(job.time)));
            next += 1;
        }
        let Some((Ordered(tail), Ordered(left))) = ready.pop() else { continue };
        let until = jobs.get(next).map_or(f64::INFINITY, |job| job.head);
        let end = (now + left).min(until);
        pieces.push((now, end, tail));
        if now + left > until {
            ready.push((Ordered(tail), Ordered(now + left - until)));
        } else if end + tail >= (worst.0 + worst.1) * (1.0 - 1e-12) {
            // Of equal sums the later one has more work in it.
            worst = (end, tail);
        }
        now = end;
    }
    let (end, drain) = worst;
    // Back from its end, over all that ran without a gap and has no shorter tail.
    let mut fill = end;
    let mut n_pieces = 0;
    for &(start, stop, tail) in pieces.iter().rev().skip_while(|piece| piece.1 > end) {
        if stop < fill || tail < drain {
            break;
        }
        fill = start;
        n_pieces += 1;
    }
    Critical { fill, work: end - fill, drain, n_pieces }
}

/// The coarser bound: the jobs are those of one micro-batch, and there are `n_times` as many.
pub(crate) fn sums(jobs: &mut [Job], n_times: f64) -> Critical {
    // By tail, and by all longer ones: W may come last, with nothing behind it.
    jobs.sort_by(|a, b| b.tail.total_cmp(&a.tail));
    let mut best = Critical::default();
    let (mut fill, mut time) = (f64::INFINITY, 0.0);
    for (at, job) in jobs.iter().enumerate() {
        work::done(1);
        fill = job.head.min(fill);
        time += job.time;
        // Of equal tails all belong to the set.
        if jobs.get(at + 1).is_some_and(|next| next.tail >= job.tail) {
            continue;
        }
        let (work, drain) = (n_times * time, job.tail);
        let critical = Critical { fill, work, drain, n_pieces: usize::MAX };
        if critical.sum() > best.sum() {
            best = critical;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(head: f64, time: f64, tail: f64) -> Job {
        Job { head, time, tail }
    }

    /// The largest, over all sets, of earliest head + work + shortest tail.
    fn over_all_sets(jobs: &[Job]) -> f64 {
        let mut most = 0.0_f64;
        for set in 1..1_u32 << jobs.len() {
            let those = || jobs.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0);
            let head = those().map(|(_, job)| job.head).fold(f64::INFINITY, f64::min);
            let tail = those().map(|(_, job)| job.tail).fold(f64::INFINITY, f64::min);
            most = most.max(head + those().map(|(_, job)| job.time).sum::<f64>() + tail);
        }
        most
    }

    #[test]
    fn it_is_the_largest_sum_over_all_sets() {
        let mut random = 1_u64;
        let mut number = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((random >> 33) % most) as f64
        };
        for _ in 0..300 {
            let n = 1 + number(8) as usize;
            let mut jobs: Vec<Job> =
                (0..n).map(|_| job(number(12), 1.0 + number(5), number(12))).collect();
            let want = over_all_sets(&jobs);
            let found = one_machine(&mut jobs);
            assert!((found.sum() - want).abs() < 1e-9, "{found:?} is not {want}: {jobs:?}");
        }
    }

    #[test]
    fn the_coarser_bound_is_the_largest_sum_over_all_shortest_tails() {
        let mut random = 3_u64;
        let mut number = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((random >> 33) % most) as f64
        };
        for _ in 0..300 {
            let n = 1 + number(8) as usize;
            let mut jobs: Vec<Job> =
                (0..n).map(|_| job(number(12), 1.0 + number(5), number(6))).collect();
            let over_all_tails = jobs.iter().map(|shortest| {
                let those = || jobs.iter().filter(|job| job.tail >= shortest.tail);
                let head = those().map(|job| job.head).fold(f64::INFINITY, f64::min);
                head + 7.0 * those().map(|job| job.time).sum::<f64>() + shortest.tail
            });
            let want = over_all_tails.fold(0.0, f64::max);
            let found = sums(&mut jobs, 7.0);
            assert!((found.sum() - want).abs() < 1e-9, "{found:?} is not {want}: {jobs:?}");
        }
    }
}
