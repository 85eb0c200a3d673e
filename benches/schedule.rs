//! How fast are plans made, checked and simulated? One question a benchmark.

use divan::Bencher;
use divan::counter::ItemsCount;
use pp_schedule::{Costs, ScheduleName, Sizes, ValidPlan, lower, simulate};

fn main() {
    divan::main();
}

/// Ranks, micro-batches, chunks: each four times the ops of the one before.
const SIZES: [(u32, u32, u32); 3] = [(8, 64, 1), (16, 128, 1), (32, 256, 1)];

fn plan(schedule: ScheduleName, (p, m, v): (u32, u32, u32)) -> ValidPlan {
    let n_virtual_stages = v.max(schedule.default_virtual_stages());
    let sizes = Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages, interleave_group: None };
    schedule.generate(&sizes).unwrap_or_else(|refused| panic!("{refused}"))
}

#[divan::bench(args = SIZES)]
fn generate_and_validate_1f1b(bencher: Bencher<'_, '_>, sizes: (u32, u32, u32)) {
    let n_ops = plan(ScheduleName::OneFOneB, sizes).n_ops();
    bencher.counter(ItemsCount::new(n_ops)).bench(|| plan(ScheduleName::OneFOneB, sizes));
}

#[divan::bench(args = SIZES)]
fn generate_and_validate_interleaved(bencher: Bencher<'_, '_>, sizes: (u32, u32, u32)) {
    let n_ops = plan(ScheduleName::InterleavedOneFOneB, sizes).n_ops();
    bencher
        .counter(ItemsCount::new(n_ops))
        .bench(|| plan(ScheduleName::InterleavedOneFOneB, sizes));
}

#[divan::bench(args = SIZES)]
fn simulate_1f1b(bencher: Bencher<'_, '_>, sizes: (u32, u32, u32)) {
    let plan = plan(ScheduleName::OneFOneB, sizes);
    let costs = Costs::uniform(plan.n_stages(), 1.0, 1.0, 1.0, 0.1);
    bencher.counter(ItemsCount::new(plan.n_ops())).bench(|| simulate(&plan, &costs));
}

#[divan::bench(args = SIZES)]
fn lower_1f1b(bencher: Bencher<'_, '_>, sizes: (u32, u32, u32)) {
    let plan = plan(ScheduleName::OneFOneB, sizes);
    bencher.counter(ItemsCount::new(plan.n_ops())).bench(|| lower(&plan));
}
