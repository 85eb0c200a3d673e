//! How near `auto` comes to what is possible, and that no fixed schedule is better.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pp_schedule::{
    Costs, PerEdge, Placement, RankShare, ScheduleError, ScheduleName, Simulation, Sizes, Topology,
    simulate,
};

struct Random(u64);

impl Random {
    /// From 0 to below 1.
    fn part(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 31)
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.part()
    }

    fn whole(&mut self, low: u32, high: u32) -> u32 {
        low + (self.part() * f64::from(high - low + 1)) as u32
    }
}

fn synthesise(name: ScheduleName, sizes: &Sizes, costs: &Costs) -> Simulation {
    let of = |topology: &Topology| costs.check(topology).map(|()| costs.clone());
    let plan = name.generate_for(sizes, &of).unwrap();
    let simulation = simulate(&plan, costs).unwrap();
    assert_eq!(simulation.fits_memory, Some(true), "{sizes:?} {costs:?}");
    simulation
}

fn gap(simulation: &Simulation) -> f64 {
    simulation.makespan / simulation.lower_bound - 1.0
}

/// The best makespan of the fixed schedules that keep the limits, among those that hold one copy of
/// the model.
fn best_fixed(sizes: &Sizes, costs: &Costs) -> f64 {
    let mut best = f64::INFINITY;
    for name in ScheduleName::ALL {
        if name.is_synthesised() || !name.trains() || name == ScheduleName::Chimera {
            continue;
        }
        let Ok(plan) = name.generate(sizes) else { continue };
        let simulation = simulate(&plan, costs).unwrap();
        if simulation.fits_memory == Some(true) {
            best = best.min(simulation.makespan);
        }
    }
    best
}

fn sizes(n_ranks: u32, n_micro_batches: u32, n_virtual_stages: u32) -> Sizes {
    Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None }
}

/// Stages that cost so many times as much as the first one.
fn scaled(factors: &[f64], limit: f64) -> Costs {
    let n_stages = factors.len() as u32;
    Costs {
        forward: factors.to_vec(),
        input_grad: factors.to_vec(),
        weight_grad: factors.to_vec(),
        memory_limit: Some(vec![limit; factors.len()]),
        ..Costs::uniform(n_stages, 0.0, 0.0, 0.0, 0.0)
    }
}

#[test]
fn one_slow_stage_costs_its_own_time_alone() {
    for factors in [[1.0, 1.0, 1.0, 2.0], [3.0, 1.0, 1.0, 1.0]] {
        for m in 8..=24 {
            let costs = scaled(&factors, 8.0);
            let simulation = synthesise(ScheduleName::Auto, &sizes(4, m, 1), &costs);
            assert!(gap(&simulation) <= 0.05, "{factors:?} m={m}: {:.4}", gap(&simulation));
            let fixed = best_fixed(&sizes(4, m, 1), &costs);
            assert!(simulation.makespan <= fixed * (1.0 + 1e-9), "{factors:?} m={m}");
        }
    }
}

/// Stages at random: each with an F, I and W of its own, or each as a whole so many times the
/// first, with and without latencies.
#[test]
fn a_thousand_random_costs() {
    const N: usize = 1000;
    let mut random = Random(20_241_124);
    let mut gaps = Vec::with_capacity(N);
    for case in 0..N {
        let p = random.whole(2, 8);
        let m = random.whole(2 * p, 4 * p);
        let n = p as usize;
        let mut costs = scaled(&vec![1.0; n], 2.0 * f64::from(p));
        for stage in 0..n {
            let whole = random.between(1.0, 4.0);
            let (input_grad, weight_grad) = match case % 4 {
                0 => (whole, whole),
                1 => (random.between(0.8, 1.2) * whole, random.between(0.3, 1.1) * whole),
                _ => (random.between(1.0, 4.0), random.between(1.0, 4.0)),
            };
            costs.forward[stage] = whole;
            costs.input_grad[stage] = input_grad;
            costs.weight_grad[stage] = weight_grad;
            costs.residue[stage] = if case % 2 == 0 { 1.0 } else { random.between(0.3, 1.0) };
        }
        costs.comm = PerEdge::Same(if case % 3 == 0 { random.between(0.0, 1.0) } else { 0.0 });
        let simulation = synthesise(ScheduleName::Auto, &sizes(p, m, 1), &costs);
        let fixed = best_fixed(&sizes(p, m, 1), &costs);
        assert!(simulation.makespan <= fixed * (1.0 + 1e-9), "case {case}: {costs:?}");
        gaps.push(gap(&simulation));
    }
    gaps.sort_by(f64::total_cmp);
    let part = |part: f64| gaps[(part * (N - 1) as f64) as usize];
    assert!(part(0.95) <= 0.05, "95 % of the gaps are at most {:.4}", part(0.95));
    assert!(part(1.0) <= 0.12, "the largest gap is {:.4}", part(1.0));
}

/// On few ranks, with less memory, on several stages a rank: no gap is promised there, but no fixed
/// schedule may be better.
#[test]
fn no_fixed_schedule_that_fits_is_better() {
    let mut random = Random(7);
    let mut n_with_fixed = 0;
    for case in 0..300 {
        let (p, v) = (random.whole(1, 6), random.whole(1, 3));
        let m = random.whole(1, 4 * p);
        let n_stages = p * v;
        let limit = random.between(1.0, 2.5 * f64::from(p));
        let topology = Topology::new(p, v, Placement::Loop).unwrap();
        let share = RankShare { memory_limit: Some(limit), ..RankShare::default() };
        let mut costs = Costs::per_rank_share(&topology, &share);
        for stage in 0..n_stages as usize {
            costs.forward[stage] *= random.between(0.5, 2.0);
            costs.input_grad[stage] *= random.between(0.5, 2.0);
            costs.weight_grad[stage] *= random.between(0.0, 2.0);
        }
        costs.comm = PerEdge::Same(random.between(0.0, 0.3));
        for name in [ScheduleName::Auto, ScheduleName::ZbAuto] {
            if name.check(&sizes(p, m, v)).is_err() {
                continue;
            }
            let ours = synthesise(name, &sizes(p, m, v), &costs);
            let fixed = best_fixed(&sizes(p, m, v), &costs);
            n_with_fixed += u32::from(fixed.is_finite());
            assert!(
                ours.makespan <= fixed * (1.0 + 1e-9),
                "case {case}, {name}: {} is worse than {fixed}: p={p} m={m} v={v} {costs:?}",
                ours.makespan
            );
        }
    }
    assert!(n_with_fixed > 200, "only {n_with_fixed} cases had a fixed schedule that fits");
}

/// Residues larger than what they are left of, messages that take memory, queue or keep their rank
/// waiting: where any fixed schedule fits there is a plan, and it is as fast; where none does a
/// refusal names the limit that was given.
#[test]
fn whatever_takes_memory_no_fixed_schedule_that_fits_is_better() {
    let mut random = Random(11);
    let (mut n_with_fixed, mut n_refused) = (0, 0);
    for case in 0..400 {
        let (p, v) = (random.whole(1, 5), random.whole(1, 2));
        let m = random.whole(1, 3 * p);
        let n = (p * v) as usize;
        let topology = Topology::new(p, v, Placement::Loop).unwrap();
        let mut costs = Costs::per_rank_share(&topology, &RankShare::default());
        for stage in 0..n {
            costs.forward[stage] *= random.between(0.5, 2.0);
            costs.input_grad[stage] *= random.between(0.5, 2.0);
            costs.weight_grad[stage] *= random.between(0.0, 2.0);
            costs.residue[stage] *= random.between(0.0, 2.5);
            costs.boundary[stage] = if case % 2 == 0 { 0.0 } else { random.between(0.0, 0.8) };
        }
        costs.comm = PerEdge::Same(random.between(0.0, 0.3));
        costs.overlapped_comm = case % 3 > 0;
        costs.bandwidth = (case % 4 > 1).then(|| PerEdge::Same(random.between(0.5, 4.0)));
        let limits = (0..p).map(|_| random.between(1.0, 2.0 * f64::from(p))).collect();
        costs.memory_limit = Some(limits);
        let of = |_: &Topology| Ok(costs.clone());
        for name in [ScheduleName::Auto, ScheduleName::ZbAuto] {
            if name.check(&sizes(p, m, v)).is_err() {
                continue;
            }
            let fixed = best_fixed(&sizes(p, m, v), &costs);
            n_with_fixed += u32::from(fixed.is_finite());
            let told = format!("case {case}, {name}, p={p} m={m} v={v} {costs:?}");
            match name.generate_for(&sizes(p, m, v), &of) {
                Ok(plan) => {
                    let ours = simulate(&plan, &costs).unwrap();
                    assert_eq!(ours.fits_memory, Some(true), "{told}");
                    assert!(
                        ours.makespan <= fixed * (1.0 + 1e-9),
                        "{} is worse than {fixed}: {told}",
                        ours.makespan
                    );
                }
                Err(ScheduleError::MemoryLimit { rank, limit, needed, .. }) => {
                    n_refused += 1;
                    assert!(fixed.is_infinite(), "{fixed} is possible: {told}");
                    let given = costs.memory_limit.as_ref().unwrap()[rank.idx()];
                    assert!((limit - given).abs() < 1e-12 && needed > limit, "{told}");
                }
                Err(other) => panic!("{other}: {told}"),
            }
        }
    }
    assert!(n_with_fixed > 200 && n_refused > 20, "{n_with_fixed}, {n_refused}");
}

#[test]
fn a_limit_without_room_for_one_micro_batch_is_refused() {
    let costs = scaled(&[1.0, 1.0], 0.5);
    let of = |_: &Topology| Ok(costs.clone());
    for name in [ScheduleName::Auto, ScheduleName::ZbAuto] {
        let refused = name.generate_for(&sizes(2, 4, 1), &of).unwrap_err();
        assert!(matches!(refused, ScheduleError::MemoryLimit { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("rank 0 may hold 0.5") && text.contains("takes 1"), "{text}");
    }
}

/// Messages that lie in memory count against the limit as well.
#[test]
fn messages_count_against_the_limit() {
    for boundary in [0.25, 0.5, 1.0] {
        let mut costs = scaled(&[1.0, 2.0, 1.0, 1.0], 4.0);
        costs.boundary = vec![boundary; 4];
        costs.bandwidth = Some(PerEdge::Same(4.0));
        let simulation = synthesise(ScheduleName::Auto, &sizes(4, 12, 1), &costs);
        assert!(simulation.peak_memory.iter().all(|&peak| peak <= 4.0 + 1e-9));
    }
}

/// Where a limit is very low a plan keeps it, or it is refused by the number that was given.
#[test]
fn messages_never_lead_to_a_limit_that_nobody_gave() {
    let mut n_refused = 0;
    for boundary in [0.5, 1.0, 2.0, 5.0] {
        for limit in [1.0, 1.5, 2.0, 3.0, 6.0] {
            let mut costs = scaled(&[1.0, 1.0, 2.0, 1.0], limit);
            costs.boundary = vec![boundary; 4];
            for name in [ScheduleName::Auto, ScheduleName::ZbAuto] {
                let of = |_: &Topology| Ok(costs.clone());
                match name.generate_for(&sizes(4, 8, 1), &of) {
                    Ok(plan) => {
                        assert_eq!(simulate(&plan, &costs).unwrap().fits_memory, Some(true));
                    }
                    Err(ScheduleError::MemoryLimit { limit: told, needed, .. }) => {
                        assert!((told - limit).abs() < 1e-12, "{told} is not {limit}");
                        assert!(needed > limit && needed.is_finite(), "{needed}, {limit}");
                        n_refused += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
    assert!((1..40).contains(&n_refused), "{n_refused} of 40 were refused");
    // Without a limit there is room for messages too.
    let mut costs = scaled(&[1.0; 4], 1.0);
    (costs.memory_limit, costs.boundary) = (None, vec![5.0; 4]);
    ScheduleName::Auto.generate_for(&sizes(4, 8, 1), &|_| Ok(costs.clone())).unwrap();
}

/// Two ranks and two micro-batches are few enough for every order that there is: none is faster
/// than the bound says.
#[test]
fn no_order_beats_the_lower_bound() {
    let mut random = Random(99);
    for _ in 0..40 {
        let mut costs = scaled(&[1.0, 1.0], random.between(1.0, 3.0));
        for stage in 0..2 {
            costs.forward[stage] = random.between(0.2, 2.0);
            costs.input_grad[stage] = random.between(0.2, 2.0);
            costs.weight_grad[stage] = random.between(0.2, 2.0);
            costs.residue[stage] = random.between(0.0, 1.0);
        }
        costs.comm = PerEdge::Same(random.between(0.0, 1.0));
        let (shortest, bound) = orders::shortest(&costs);
        assert!(bound <= shortest * (1.0 + 1e-9), "{bound} > {shortest}: {costs:?}");
        let ours = synthesise(ScheduleName::Auto, &sizes(2, 2, 1), &costs);
        assert!(ours.makespan >= shortest * (1.0 - 1e-9), "an order was left out: {costs:?}");
        assert!(ours.makespan <= shortest * 1.1, "{} of {shortest}: {costs:?}", ours.makespan);
    }
}

/// Every plan of two ranks and two micro-batches.
mod orders {
    use pp_schedule::{Action, Costs, Draft, Op, Placement, Topology, simulate};

    /// All orders of a rank's six ops in which F, I and W of a micro-batch follow each other.
    fn rows(stage: u32) -> Vec<Vec<Action>> {
        let mut rows = Vec::new();
        extend(stage, &mut Vec::new(), [0, 0], &mut rows);
        rows
    }

    fn extend(stage: u32, row: &mut Vec<Action>, n_done: [u32; 2], rows: &mut Vec<Vec<Action>>) {
        if n_done == [3, 3] {
            rows.push(row.clone());
            return;
        }
        for micro_batch in 0..2 {
            let op = match n_done[micro_batch as usize] {
                0 => Op::forward(stage, micro_batch),
                1 => Op::input_grad(stage, micro_batch),
                2 => Op::weight_grad(stage, micro_batch),
                _ => continue,
            };
            row.push(op.into());
            let mut n_done = n_done;
            n_done[micro_batch as usize] += 1;
            extend(stage, row, n_done, rows);
            row.pop();
        }
    }

    /// The shortest makespan within the limits, and the highest lower bound that any plan was
    /// given.
    pub(super) fn shortest(costs: &Costs) -> (f64, f64) {
        let topology = Topology::new(2, 1, Placement::Loop).unwrap();
        let (mut shortest, mut bound) = (f64::INFINITY, 0.0_f64);
        for first in rows(0) {
            for second in rows(1) {
                let draft = Draft {
                    name: "any".to_owned(),
                    topology: topology.clone(),
                    n_micro_batches: 2,
                    rows: vec![first.clone(), second],
                };
                let Ok(plan) = draft.validate() else { continue };
                let simulation = simulate(&plan, costs).unwrap();
                if simulation.fits_memory == Some(true) {
                    shortest = shortest.min(simulation.makespan);
                    bound = bound.max(simulation.lower_bound);
                }
            }
        }
        (shortest, bound)
    }
}
