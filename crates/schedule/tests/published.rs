//! Numbers that others have published, against ours.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "sums of small whole numbers are exact")]

use pp_schedule::{
    Costs, RankShare, ScheduleName, Simulation, Sizes, Topology, ValidPlan, closed_form, simulate,
};

fn sizes(n_ranks: u32, n_micro_batches: u32, n_virtual_stages: u32) -> Sizes {
    Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None }
}

/// Every op costs its share of a chunk: F = I = W = 1 on every stage, B = 2.
fn in_chunk_times(plan: &ValidPlan) -> Simulation {
    simulate(plan, &Costs::uniform(plan.n_stages(), 1.0, 1.0, 1.0, 0.0)).unwrap()
}

#[test]
fn the_schedules_of_pytorch_take_as_long_and_hold_as_much() {
    use ScheduleName::{
        DualPipeV, Gpipe, InterleavedOneFOneB as Interleaved, InterleavedZb, LoopedBfs, OneFOneB,
        ZbV,
    };
    let check = |name: ScheduleName, (p, m, v), makespan: f64, busy: f64, peaks: &[u32]| {
        let simulation = in_chunk_times(&name.generate(&sizes(p, m, v)).unwrap());
        assert_eq!(simulation.makespan, makespan, "{name} p={p} m={m} v={v}");
        assert_eq!(simulation.busy, vec![busy; p as usize], "{name} p={p} m={m} v={v}");
        assert_eq!(simulation.peak_activations, peaks, "{name} p={p} m={m} v={v}");
    };
    check(Gpipe, (4, 8, 1), 33.0, 24.0, &[8, 8, 8, 8]);
    check(OneFOneB, (4, 8, 1), 33.0, 24.0, &[4, 3, 2, 1]);
    check(Interleaved, (4, 8, 2), 57.0, 48.0, &[11, 9, 7, 5]);
    check(Interleaved, (4, 10, 2), 69.0, 60.0, &[12, 10, 8, 6]);
    check(Interleaved, (2, 8, 2), 51.0, 48.0, &[5, 3]);
    check(LoopedBfs, (4, 8, 2), 57.0, 48.0, &[16; 4]);
    check(InterleavedZb, (4, 8, 2), 51.0, 48.0, &[8; 4]);
    check(ZbV, (2, 6, 2), 37.0, 36.0, &[4; 2]);
    check(ZbV, (4, 8, 2), 51.0, 48.0, &[8; 4]);
    check(DualPipeV, (4, 10, 2), 66.0, 60.0, &[9; 4]);
}

/// One row of the bubble table of arXiv:2401.10241.
struct PaperRow {
    p: u32,
    m: u32,
    share: RankShare,
    /// `span_bubble` of 1F1B, ZB-H1, ZB-H2, ZB-1p and ZB-2p.
    span_bubbles: [f64; 5],
}

fn paper() -> Vec<PaperRow> {
    let row = |p, m, [forward, input_grad, weight_grad, comm]: [f64; 4], residue, span_bubbles| {
        let unit = RankShare::default();
        let share = RankShare { forward, input_grad, weight_grad, comm, residue, ..unit };
        PaperRow { p, m, share, span_bubbles }
    };
    let (small, large) = (0.3664, 0.4324);
    vec![
        row(8, 24, [18.522, 18.086, 9.337, 0.601], small, [0.2431, 0.1585, 0.1083, 0.1585, 0.0433]),
        row(8, 32, [18.513, 18.086, 9.331, 0.626], small, [0.1985, 0.1242, 0.0837, 0.1242, 0.0039]),
        row(8, 64, [18.546, 18.097, 9.321, 0.762], small, [0.1240, 0.0674, 0.0444, 0.0674, 0.0026]),
        row(
            8,
            24,
            [29.718, 29.444, 19.927, 0.527],
            large,
            [0.2347, 0.1323, 0.0698, 0.1323, 0.0029],
        ),
        row(
            8,
            64,
            [29.935, 29.621, 19.388, 0.535],
            large,
            [0.1091, 0.0554, 0.0294, 0.0554, 0.0010],
        ),
        row(
            32,
            128,
            [10.408, 10.204, 7.703, 0.408],
            large,
            [0.2168, 0.1106, 0.0490, 0.1106, 0.0029],
        ),
    ]
}

fn at_share(name: ScheduleName, sizes: &Sizes, share: RankShare) -> Simulation {
    let costs = |topology: &Topology| Ok(Costs::per_rank_share(topology, &share));
    let plan = name.generate_for(sizes, &costs).unwrap();
    simulate(&plan, &Costs::per_rank_share(plan.topology(), &share)).unwrap()
}

#[test]
fn the_zero_bubble_papers_fixed_columns() {
    for PaperRow { p, m, share, span_bubbles } in paper() {
        let names = [ScheduleName::OneFOneB, ScheduleName::ZbH1, ScheduleName::ZbH2];
        for (name, published) in names.into_iter().zip(span_bubbles) {
            let ours = at_share(name, &sizes(p, m, 1), share).span_bubble;
            let error = (ours - published).abs();
            assert!(error <= 0.00005, "{name} p={p} m={m}: {ours:.6} is not {published}");
        }
    }
}

/// Their heuristics under a memory of p and 2p activations; ours is as good or better, and keeps
/// the limit.
#[test]
fn the_zero_bubble_papers_automatic_columns() {
    for PaperRow { p, m, share, span_bubbles } in paper() {
        for (limit, published) in [(p, span_bubbles[3]), (2 * p, span_bubbles[4])] {
            let share = RankShare { memory_limit: Some(f64::from(limit)), ..share };
            let ours = at_share(ScheduleName::ZbAuto, &sizes(p, m, 1), share);
            assert_eq!(ours.fits_memory, Some(true));
            let bubble = ours.span_bubble;
            assert!(bubble <= published + 1e-4, "p={p} m={m} limit {limit}: {bubble:.6}");
        }
    }
}

/// arXiv:2405.15362 and its program: idle slots of a rank, and chunks that it holds.
#[test]
fn v_half_and_v_min() {
    let check = |name: ScheduleName, p: u32, m: u32, most_idle: u32, peak: u32| {
        let simulation = in_chunk_times(&name.generate(&sizes(p, m, 2)).unwrap());
        let idle = simulation.makespan - f64::from(6 * m);
        assert!(idle <= f64::from(most_idle), "{name} p={p} m={m}: {idle} idle slots");
        assert_eq!(simulation.peak_activations.iter().max(), Some(&peak), "{name} p={p} m={m}");
    };
    for p in (4..=16).step_by(2) {
        for m in [2 * p, 3 * p, 4 * p, 8 * p] {
            check(ScheduleName::VHalf, p, m, 3 * p - 7, p + 2);
        }
    }
    for (p, idle, peak) in [(4, 11, 4), (6, 17, 6), (8, 27, 8), (12, 41, 10), (16, 59, 12)] {
        for m in [2 * p, 3 * p, 4 * p, 8 * p] {
            check(ScheduleName::VMin, p, m, idle, peak);
        }
    }
}

/// The notebook's table, which calls the ratio of GPipe and the overhead of the others by one name.
#[test]
fn the_notebooks_eleven_values() {
    let values = [
        (4, 4, 0.429),
        (4, 8, 0.273),
        (4, 16, 0.158),
        (4, 32, 0.086),
        (4, 64, 0.045),
        (4, 100, 0.029),
        (8, 16, 0.304),
        (16, 32, 0.319),
        (32, 64, 0.326),
        (8, 32, 0.179),
        (16, 64, 0.190),
    ];
    for (p, m, value) in values {
        let plan = ScheduleName::Gpipe.generate(&sizes(p, m, 1)).unwrap();
        let simulated = in_chunk_times(&plan).bubble_ratio;
        let formula = closed_form(ScheduleName::Gpipe, &sizes(p, m, 1), &RankShare::default())
            .unwrap()
            .bubble_ratio;
        assert!(
            (simulated - value).abs() <= 0.0005,
            "p={p} m={m}: simulated {simulated}, published {value}"
        );
        assert!(
            (formula - value).abs() <= 0.0005,
            "p={p} m={m}: formula {formula}, published {value}"
        );
    }
    let overhead = |name: ScheduleName, v| {
        in_chunk_times(&name.generate(&sizes(4, 32, v)).unwrap()).bubble_overhead
    };
    assert!((overhead(ScheduleName::OneFOneB, 1) - 0.094).abs() <= 0.0005);
    assert!((overhead(ScheduleName::InterleavedOneFOneB, 2) - 0.047).abs() <= 0.0005);
}

/// The size at which `PyTorch`'s generator takes seconds. Ours has to stay linear to get here at
/// all in a debug build.
#[test]
fn a_large_plan_is_generated_validated_and_simulated() {
    let plan = ScheduleName::InterleavedOneFOneB.generate(&sizes(32, 512, 4)).unwrap();
    assert_eq!(plan.n_ops(), 131_072);
    let simulation = in_chunk_times(&plan);
    assert_eq!(simulation.makespan, 3.0 * (4.0 * 512.0 + 31.0));
    assert_eq!(simulation.lower_bound, simulation.makespan);
}
