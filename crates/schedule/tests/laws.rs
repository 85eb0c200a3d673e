//! What holds for every size, every cost and every valid plan.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::mem::discriminant;

use pp_schedule::{
    Action, Costs, Draft, Instruction, MicroBatch, Op, Phase, Pipe, Rank, RankShare, ScheduleError,
    ScheduleName, Sizes, Stage, Topology, Transfer, ValidPlan, closed_form, export_csv, import_csv,
    lower, lower_rendezvous, mailbox_peaks, simulate,
};
use proptest::prelude::*;

fn sizes(n_ranks: u32, n_micro_batches: u32, n_virtual_stages: u32) -> Sizes {
    Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

/// The formulas and the simulator have nothing in common but the plan's sizes.
fn formulas_hold(name: ScheduleName, sizes: &Sizes, share: &RankShare) {
    let plan = name.generate(sizes).unwrap();
    let formula = closed_form(name, sizes, share).unwrap();
    let simulation = simulate(&plan, &Costs::per_rank_share(plan.topology(), share)).unwrap();
    for (rank, &idle) in simulation.idle.iter().enumerate() {
        assert!(
            close(idle, formula.idle_per_rank),
            "{name} {sizes:?} rank {rank}: idle {idle}, formula {}",
            formula.idle_per_rank
        );
    }
    assert!(close(simulation.bubble_ratio, formula.bubble_ratio), "{name} {sizes:?}");
    assert!(close(simulation.bubble_overhead, formula.bubble_overhead), "{name} {sizes:?}");
    assert!(close(simulation.span_bubble, formula.span_bubble), "{name} {sizes:?}");
    assert_eq!(simulation.peak_activations, formula.peak_activations, "{name} {sizes:?}");
}

#[test]
fn formulas_equal_the_simulation_at_every_size() {
    let mut n_checked = HashMap::new();
    let shares = [
        RankShare::default(),
        // F = B, which Chimera's formula wants.
        RankShare { forward: 2.0, ..RankShare::default() },
        RankShare { forward: 2.0, input_grad: 1.5, weight_grad: 0.75, ..RankShare::default() },
    ];
    for p in 1..=16 {
        for m in 1..=64 {
            for name in ScheduleName::ALL {
                for v in if name.default_virtual_stages() == 1 { 1..=1 } else { 2..=3 } {
                    let sizes = sizes(p, m, v);
                    for share in &shares {
                        if closed_form(name, &sizes, share).is_some() {
                            formulas_hold(name, &sizes, share);
                            *n_checked.entry(name).or_insert(0) += 1;
                        }
                    }
                }
            }
        }
    }
    let mut without: Vec<_> =
        ScheduleName::ALL.into_iter().filter(|name| !n_checked.contains_key(name)).collect();
    without.sort_unstable();
    let none = [ScheduleName::VMin, ScheduleName::Hanayo, ScheduleName::ZbAuto, ScheduleName::Auto];
    assert_eq!(without, none, "schedules without a formula");
    assert!(n_checked.values().all(|&n| n >= 64), "{n_checked:?}");
}

fn share() -> impl Strategy<Value = RankShare> {
    let time = || 0.1..10.0_f64;
    (time(), time(), time()).prop_map(|(forward, input_grad, weight_grad)| RankShare {
        forward,
        input_grad,
        weight_grad,
        residue: 0.5,
        ..RankShare::default()
    })
}

fn schedule() -> impl Strategy<Value = (ScheduleName, Sizes)> {
    let group = proptest::option::weighted(0.1, 1..=32_u32);
    (0..ScheduleName::ALL.len(), 1..=12_u32, 1..=40_u32, 1..=4_u32, group)
        .prop_map(|(name, p, m, v, group)| {
            let name = ScheduleName::ALL[name];
            // A schedule that takes one number of stages gets that.
            let alone = Sizes { interleave_group: None, ..sizes(p, m, v) };
            let v = match name.check(&alone) {
                Err(ScheduleError::VirtualStages { .. }) => name.default_virtual_stages(),
                _ => v,
            };
            let interleave_group = group.filter(|_| name == ScheduleName::InterleavedOneFOneB);
            (name, Sizes { interleave_group, ..sizes(p, m, v) })
        })
        .prop_filter("a size that the schedule takes", |(name, sizes)| name.check(sizes).is_ok())
}

/// Any valid plan at all: stages on ranks at random, each backward whole or in halves, ops in any
/// order that runs.
fn any_plan() -> impl Strategy<Value = Draft> {
    (1..=4_u32, 0..=4_usize, 1..=5_u32, any::<bool>(), any::<u64>()).prop_map(
        |(p, n_more, m, is_forward_only, seed)| {
            let mut random = Random(seed);
            let mut ranks: Vec<Rank> = (0..p).map(Rank).collect();
            ranks.extend((0..n_more).map(|_| Rank(random.below(p as usize) as u32)));
            for place in (1..ranks.len()).rev() {
                ranks.swap(place, random.below(place + 1));
            }
            let topology = Topology::from_ranks(ranks).unwrap();
            let mut to_do = Vec::new();
            for stage in topology.stages() {
                for micro_batch in (0..m).map(MicroBatch) {
                    let phases: &[Phase] = match (is_forward_only, random.below(2)) {
                        (true, _) => &[Phase::Forward],
                        (false, 0) => &[Phase::Forward, Phase::Backward],
                        (false, _) => &[Phase::Forward, Phase::InputGrad, Phase::WeightGrad],
                    };
                    to_do.extend(phases.iter().map(|&phase| Op::new(stage, phase, micro_batch)));
                }
            }
            let mut rows: Vec<Vec<Action>> = vec![Vec::new(); p as usize];
            let mut done = HashSet::new();
            while !to_do.is_empty() {
                let ready: Vec<usize> =
                    (0..to_do.len()).filter(|&at| is_ready(to_do[at], &topology, &done)).collect();
                let op = to_do.swap_remove(ready[random.below(ready.len())]);
                done.insert(op);
                rows[topology.rank_of(Pipe(0), op.stage).idx()].push(op.into());
            }
            Draft { name: "any".to_owned(), topology, n_micro_batches: m, rows }
        },
    )
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// The dependencies, said once more in the plainest way.
fn is_ready(op: Op, topology: &Topology, done: &HashSet<Op>) -> bool {
    let has = |stage: Stage, phase| done.contains(&Op { stage, phase, ..op });
    match op.phase {
        Phase::Forward => {
            topology.before(op.stage).is_none_or(|before| has(before, Phase::Forward))
        }
        Phase::Backward | Phase::InputGrad => {
            let gradient = |after| has(after, Phase::Backward) || has(after, Phase::InputGrad);
            has(op.stage, Phase::Forward) && topology.after(op.stage).is_none_or(gradient)
        }
        Phase::WeightGrad => has(op.stage, Phase::InputGrad),
    }
}

/// Whether every row gets to its end, by trying all rows again and again.
fn runs_to_the_end(draft: &Draft) -> bool {
    let mut heads = vec![0; draft.rows.len()];
    let mut done = HashSet::new();
    loop {
        let before = done.len();
        for (rank, row) in draft.rows.iter().enumerate() {
            let runs =
                |action: &&Action| action.ops().all(|op| is_ready(op, &draft.topology, &done));
            if let Some(action) = row.get(heads[rank]).filter(runs) {
                done.extend(action.ops());
                heads[rank] += 1;
            }
        }
        if done.len() == before {
            return heads.iter().zip(&draft.rows).all(|(&head, row)| head == row.len());
        }
    }
}

/// Runs a lowered plan on links that hold messages, ranks in random turns; counts what waits for
/// each rank.
fn run_buffered(rows: &[Vec<Instruction>], seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    let mut heads = vec![0; rows.len()];
    let mut boxes: Vec<HashSet<Transfer>> = vec![HashSet::new(); rows.len()];
    let mut peaks = vec![0; rows.len()];
    let mut n_left: usize = rows.iter().map(Vec::len).sum();
    // One rank is slow: the others run ahead of it as far as they can.
    let slow = random.below(rows.len());
    while n_left > 0 {
        let can_run = |rank: &usize| match rows[*rank].get(heads[*rank]) {
            Some(Instruction::Recv(transfer)) => boxes[*rank].contains(transfer),
            Some(_) => true,
            None => false,
        };
        let ready: Vec<usize> = (0..rows.len()).filter(can_run).collect();
        assert!(!ready.is_empty(), "the lowered plan hangs at {heads:?}");
        let fast: Vec<usize> = ready.iter().copied().filter(|&rank| rank != slow).collect();
        let rank = if fast.is_empty() { slow } else { fast[random.below(fast.len())] };
        match rows[rank][heads[rank]] {
            Instruction::Send(transfer) => {
                assert!(boxes[transfer.to.idx()].insert(transfer), "{transfer} is sent twice");
                peaks[transfer.to.idx()] =
                    boxes[transfer.to.idx()].len().max(peaks[transfer.to.idx()] as usize) as u32;
            }
            Instruction::Recv(transfer) => assert!(boxes[rank].remove(&transfer)),
            Instruction::Compute(_) => {}
        }
        heads[rank] += 1;
        n_left -= 1;
    }
    assert!(boxes.iter().all(HashSet::is_empty), "a message was never received");
    peaks
}

/// Runs a lowered plan on links whose sends wait for their receive.
fn run_rendezvous(rows: &[Vec<Instruction>]) {
    let mut heads = vec![0; rows.len()];
    loop {
        let mut moved = false;
        for rank in 0..rows.len() {
            match rows[rank].get(heads[rank]) {
                Some(Instruction::Compute(_)) => {
                    heads[rank] += 1;
                    moved = true;
                }
                Some(Instruction::Send(transfer)) => {
                    let peer = transfer.to.idx();
                    if rows[peer].get(heads[peer]) == Some(&Instruction::Recv(*transfer)) {
                        heads[rank] += 1;
                        heads[peer] += 1;
                        moved = true;
                    }
                }
                Some(Instruction::Recv(_)) | None => {}
            }
        }
        if !moved {
            assert!(
                heads.iter().zip(rows).all(|(&head, row)| head == row.len()),
                "rendezvous hangs at {heads:?}"
            );
            return;
        }
    }
}

/// The most chunks that any rank may hold, as each schedule promises.
fn stated_peak(name: ScheduleName, sizes: &Sizes) -> u32 {
    let &Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages: v, .. } = sizes;
    match name {
        ScheduleName::Naive | ScheduleName::ForwardOnly => 1,
        ScheduleName::Gpipe | ScheduleName::LoopedBfs => m * v,
        ScheduleName::OneFOneB | ScheduleName::ZbH1 | ScheduleName::Chimera => p,
        ScheduleName::ZbH2 => 2 * p - 1,
        // One group ahead in all chunks but the last, and the way there and back.
        ScheduleName::InterleavedOneFOneB => (v - 1) * name.check(sizes).unwrap() + 2 * p - 1,
        ScheduleName::InterleavedZb => (v - 1) * name.check(sizes).unwrap() + p,
        ScheduleName::ZbV => 2 * p,
        ScheduleName::VHalf => 2 * (p / 2) + 2,
        ScheduleName::VMin => 2 * ((p + 1) / 3) + 2,
        ScheduleName::DualPipeV => 2 * p + 1,
        // p activations of a rank's whole share; for the last two that is their limit.
        _ => p * v,
    }
}

/// What the executor and the sums of gradients rely on: every stage goes through the micro-batches
/// of a copy of the model in order.
fn micro_batches_ascend(plan: &ValidPlan) {
    let mut last: HashMap<(Stage, Phase, Pipe), MicroBatch> = HashMap::new();
    for op in (0..plan.n_ranks()).flat_map(|rank| plan.ops(Rank(rank))) {
        let key = (op.stage, op.phase, plan.pipe_of(op.micro_batch));
        let before = last.insert(key, op.micro_batch);
        assert!(before < Some(op.micro_batch), "{op} of {} comes late", plan.name());
    }
}

fn laws_of_a_plan(plan: &ValidPlan, costs: &Costs, seed: u64) {
    let simulation = simulate(plan, costs).unwrap();
    assert!(simulation.lower_bound <= simulation.makespan && simulation.lower_bound > 0.0);
    let busiest = simulation.busy.iter().copied().fold(0.0, f64::max);
    assert!(simulation.lower_bound >= busiest * (1.0 - 1e-9));
    assert!((0.0..1.0).contains(&simulation.bubble_ratio), "{}", simulation.bubble_ratio);
    assert!(close(
        simulation.bubble_overhead,
        simulation.bubble_ratio / (1.0 - simulation.bubble_ratio)
    ));
    let mut ends = HashMap::new();
    let timeline: Vec<Vec<_>> = simulation.timeline(plan, costs).map(Iterator::collect).collect();
    for timed in timeline.iter().flatten() {
        ends.extend(timed.action.ops().map(|op| (op, timed.end)));
    }
    for row in &timeline {
        assert!(
            row.windows(2).all(|pair| pair[0].end <= pair[1].start),
            "two ops of a rank overlap"
        );
        let ops = row.iter().flat_map(|timed| timed.action.ops().map(move |op| (op, timed.start)));
        for (op, start) in ops {
            let Some(from) = plan.input_stage(op) else { continue };
            let phases = if op.phase == Phase::Forward {
                [Phase::Forward; 2]
            } else {
                [Phase::Backward, Phase::InputGrad]
            };
            let made = phases
                .iter()
                .find_map(|&phase| ends.get(&Op { stage: from, phase, ..op }))
                .unwrap();
            assert!(*made <= start, "{op} starts before its input is made");
        }
    }

    let lowered = lower(plan);
    let computes = |row: &Vec<Instruction>| {
        let op = |instruction: &Instruction| match instruction {
            Instruction::Compute(action) => Some(*action),
            _ => None,
        };
        row.iter().filter_map(op).collect::<Vec<_>>()
    };
    assert_eq!(lowered.rows.iter().map(computes).collect::<Vec<_>>(), plan.rows());
    let peaks = run_buffered(&lowered.rows, seed);
    let bounds = mailbox_peaks(plan);
    assert!(
        peaks.iter().zip(&bounds).all(|(counted, bound)| counted <= bound),
        "{peaks:?} {bounds:?}"
    );
    let rendezvous = lower_rendezvous(plan);
    assert_eq!(rendezvous.iter().map(computes).collect::<Vec<_>>(), plan.rows());
    run_rendezvous(&rendezvous);

    let csv = export_csv(plan);
    let back = import_csv(plan.name(), csv.as_bytes(), Some(plan.n_micro_batches())).unwrap();
    assert_eq!(&back, plan);
    assert_eq!(csv, format!("{plan}\n"));
    let with_bubbles = csv.replace(',', ",,").replace('\n', ",\r\n");
    assert_eq!(&import_csv(plan.name(), with_bubbles.as_bytes(), None).unwrap(), plan);
}

/// The sizes that a refusal tells its reader to use instead.
fn follow(refused: &ScheduleError, remedy: &str, sizes: &Sizes) -> Vec<Sizes> {
    let words: Vec<&str> = remedy.split([' ', ',', ':']).collect();
    let numbers = |sign: &str| -> Vec<u32> {
        words.iter().filter_map(|word| word.strip_prefix(sign)?.parse().ok()).collect()
    };
    let mut followed = Vec::new();
    followed.extend(numbers("m=").into_iter().map(|m| Sizes { n_micro_batches: m, ..*sizes }));
    followed.extend(numbers("p=").into_iter().map(|p| Sizes { n_ranks: p, ..*sizes }));
    followed.extend(numbers("v=").into_iter().map(|v| Sizes { n_virtual_stages: v, ..*sizes }));
    let mut groups = numbers("N=");
    if let Some((_, group)) = remedy.split_once("an interleave group of ") {
        groups.push(group.parse().unwrap());
    }
    followed.extend(groups.into_iter().map(|n| Sizes { interleave_group: Some(n), ..*sizes }));
    match refused {
        ScheduleError::Zero { what: "ranks" } => followed = vec![Sizes { n_ranks: 1, ..*sizes }],
        ScheduleError::Zero { what: "micro-batches" } => {
            followed = vec![Sizes { n_micro_batches: 1, ..*sizes }];
        }
        ScheduleError::Zero { .. } => followed = vec![Sizes { n_virtual_stages: 1, ..*sizes }],
        _ if remedy.starts_with("leave") => {
            followed = vec![Sizes { interleave_group: None, ..*sizes }];
        }
        _ => {}
    }
    followed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn formulas_equal_the_simulation_at_any_cost((name, sizes) in schedule(), share in share()) {
        if closed_form(name, &sizes, &share).is_some() {
            formulas_hold(name, &sizes, &share);
        }
    }

    #[test]
    fn sizes_that_a_schedule_refuses_are_told_with_a_remedy_that_works(name in 0..ScheduleName::ALL.len(), p in 0..=12_u32, m in 0..=40_u32, v in 0..=4_u32, group in proptest::option::of(0..=40_u32)) {
        let name = ScheduleName::ALL[name];
        let sizes = Sizes { interleave_group: group, ..sizes(p, m, v) };
        match name.check(&sizes) {
            Ok(_) => prop_assert!(name.generate(&sizes).is_ok()),
            Err(refused) => {
                prop_assert_eq!(refused.rule(), "size");
                let told = refused.to_string();
                let (_, remedy) = told.split_once("; ").unwrap();
                let followed = follow(&refused, remedy, &sizes);
                prop_assert!(!followed.is_empty(), "no remedy in: {refused}");
                for better in followed {
                    // Where two sizes are wrong, the next message is about the other one.
                    let now = name.check(&better).err();
                    let zero = matches!(refused, ScheduleError::Zero { .. });
                    let same = now.as_ref().is_some_and(|now| {
                        if zero { now == &refused } else { discriminant(now) == discriminant(&refused) }
                    });
                    prop_assert!(!same, "{refused}: then {better:?} is refused: {now:?}");
                }
                prop_assert!(refused.to_string().len() <= 300, "{refused}");
                prop_assert_eq!(name.generate(&sizes).unwrap_err(), refused);
            }
        }
    }

    #[test]
    fn every_schedule_keeps_the_laws((name, sizes) in schedule(), share in share(), comm in 0.0..3.0_f64, seed in any::<u64>()) {
        let plan = name.generate(&sizes).unwrap();
        let most = stated_peak(name, &sizes);
        prop_assert!(plan.peak_activations().iter().all(|&peak| peak <= most), "{name} {sizes:?}: {:?} > {most}", plan.peak_activations());
        micro_batches_ascend(&plan);
        let share = RankShare { comm, ..share };
        laws_of_a_plan(&plan, &Costs::per_rank_share(plan.topology(), &share), seed);
    }

    #[test]
    fn every_valid_plan_keeps_the_laws(draft in any_plan(), costs in prop::collection::vec(0.0..5.0_f64, 24), comm in 0.0..3.0_f64, seed in any::<u64>()) {
        let n_stages = draft.topology.n_stages() as usize;
        let list = |at: usize| costs[at * 8..at * 8 + n_stages].to_vec();
        let ones = vec![1.0; n_stages];
        let costs = Costs {
            forward: list(0).iter().map(|cost| cost + 0.01).collect(), input_grad: list(1), weight_grad: list(2),
            activation: ones.clone(), residue: ones, ..Costs::uniform(n_stages as u32, 0.0, 0.0, 0.0, comm)
        };
        laws_of_a_plan(&draft.validate().unwrap(), &costs, seed);
    }

    #[test]
    fn a_plan_is_valid_exactly_if_it_runs(draft in any_plan(), row in any::<prop::sample::Index>(), one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>()) {
        let mut draft = draft;
        let row = row.index(draft.rows.len());
        let n_cells = draft.rows[row].len();
        draft.rows[row].swap(one.index(n_cells), other.index(n_cells));
        let runs = runs_to_the_end(&draft);
        match draft.validate() {
            Ok(_) => prop_assert!(runs),
            Err(refused) => {
                prop_assert!(!runs, "{refused}");
                prop_assert!(matches!(refused.rule(), "order" | "deadlock"), "{refused}");
                prop_assert!(refused.headline().len() <= 300);
            }
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[0-3FBIW,\n\r;()]{0,80}") {
        for input in [bytes.as_slice(), text.as_bytes()] {
            if let Err(refused) = import_csv("any", input, None) {
                prop_assert!(refused.headline().len() <= 300);
            }
        }
    }

    #[test]
    fn ops_travel_as_text(stage in any::<u32>(), phase in 0..4_usize, micro_batch in any::<u32>()) {
        let op = Op::new(Stage(stage), Phase::ALL[phase], MicroBatch(micro_batch));
        prop_assert_eq!(op.to_string().parse::<Op>().unwrap(), op);
    }
}
