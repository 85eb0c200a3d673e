//! Counts what loops do, so that a test can tell linear from quadratic without a clock. Outside of
//! this crate's own tests it is nothing.

/// A loop has made `n` more turns.
#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing must be left of it")]
pub(crate) fn done(n: usize) {
    #[cfg(test)]
    count::TURNS.with(|turns| turns.set(turns.get() + n as u64));
    #[cfg(not(test))]
    let _ = n;
}

#[cfg(test)]
mod count {
    use std::cell::Cell;

    thread_local! {
        pub(super) static TURNS: Cell<u64> = const { Cell::new(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::count::TURNS;
    use crate::costs::{Costs, PerEdge, RankShare};
    use crate::footprint::{StageBytes, footprints};
    use crate::lower::lower;
    use crate::plan::ValidPlan;
    use crate::schedule_name::ScheduleName;
    use crate::simulate::simulate;
    use crate::sizes::Sizes;

    /// Everything that a command does with a plan, at costs that leave out no part of it.
    fn prepare(name: ScheduleName, sizes: &Sizes) -> ValidPlan {
        let plan = name.generate(sizes).unwrap();
        let topology = plan.topology();
        for memory_limit in [None, Some(f64::from(sizes.n_micro_batches))] {
            let share = RankShare { memory_limit, ..RankShare::default() };
            let mut costs = Costs::per_rank_share(topology, &share);
            simulate(&plan, &costs).unwrap();
            costs.bandwidth = Some(PerEdge::Same(10.0));
            costs.boundary = vec![1.0; topology.n_stages() as usize];
            simulate(&plan, &costs).unwrap();
        }
        lower(&plan);
        footprints(&plan, &vec![StageBytes::default(); topology.n_stages() as usize]);
        plan
    }

    /// Turns of all counted loops, and ops, for each of the sizes that the schedule takes.
    fn turns_and_ops(
        name: ScheduleName,
        sizes: [(u32, u32); 2],
        v: u32,
    ) -> Option<[(u64, u64); 2]> {
        let mut found = [(0, 0); 2];
        for (found, (n_ranks, n_micro_batches)) in found.iter_mut().zip(sizes) {
            let sizes =
                Sizes { n_ranks, n_micro_batches, n_virtual_stages: v, interleave_group: None };
            name.check(&sizes).ok()?;
            let before = TURNS.get();
            let n_ops = prepare(name, &sizes).n_ops() as u64;
            *found = (TURNS.get() - before, n_ops);
        }
        Some(found)
    }

    /// Quadratic growth would make eight times as many ranks, or micro-batches, take some eight
    /// times as many turns an op.
    fn assert_linear(sizes: [(u32, u32); 2]) {
        let mut n_checked = 0;
        for name in ScheduleName::ALL.into_iter().filter(|name| !name.is_synthesised()) {
            let v = name.default_virtual_stages();
            let Some([small, large]) = turns_and_ops(name, sizes, v) else { continue };
            let an_op = |(turns, ops): (u64, u64)| turns as f64 / ops as f64;
            assert!(
                an_op(large) <= 1.5 * an_op(small),
                "{name}, v={v}: {:.1} turns an op at p={}, m={}, and {:.1} at p={}, m={}",
                an_op(small),
                sizes[0].0,
                sizes[0].1,
                an_op(large),
                sizes[1].0,
                sizes[1].1
            );
            n_checked += 1;
        }
        assert!(n_checked >= 4, "only {n_checked} schedules take these sizes");
    }

    #[test]
    fn work_grows_with_the_ops_when_ranks_do() {
        // `simulate` of 80,000 ranks and one micro-batch took 5.6 s: each rank looked for its
        // stages among all stages.
        assert_linear([(64, 1), (512, 1)]);
        assert_linear([(64, 8), (512, 8)]);
    }

    #[test]
    fn work_grows_with_the_ops_when_micro_batches_do() {
        assert_linear([(1, 64), (1, 512)]);
        assert_linear([(4, 64), (4, 512)]);
    }

    #[test]
    fn work_grows_with_the_ops_when_a_rank_holds_many_stages() {
        for v in [8, 64] {
            for (n_ranks, n_micro_batches) in [(2, 1), (2, 4)] {
                for name in [ScheduleName::LoopedBfs, ScheduleName::InterleavedZb] {
                    let sizes = [(n_ranks, n_micro_batches); 2];
                    let few = turns_and_ops(name, sizes, v).unwrap()[0];
                    let many = turns_and_ops(name, sizes, 8 * v).unwrap()[0];
                    let an_op = |(turns, ops): (u64, u64)| turns as f64 / ops as f64;
                    assert!(an_op(many) <= 1.5 * an_op(few), "{name}: {few:?} {many:?}");
                }
            }
        }
    }
}
