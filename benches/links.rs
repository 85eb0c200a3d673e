//! What does a micro-batch cost that computes next to nothing? Ops, messages and wake-ups: the
//! executor's own time.

use divan::Bencher;
use pp_executor::RankConfig;
use pp_hybrid::{Trainer, TrainerConfig};
use pp_models::wine_mlp;
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes};

fn main() {
    divan::main();
}

/// Ranks and micro-batches: the difference between two numbers of micro-batches is theirs, the rest
/// is the step's.
const SIZES: [(u32, u32); 4] = [(1, 1), (1, 33), (2, 1), (2, 33)];

#[divan::bench(args = SIZES)]
fn step(bencher: Bencher<'_, '_>, (n_ranks, n_micro_batches): (u32, u32)) {
    let make = || -> anyhow::Result<_> {
        let job = wine_mlp(None, 1)?;
        let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages: 1, interleave_group: None };
        let plan = ScheduleName::OneFOneB.generate(&sizes)?;
        let partition = Cut::Uniform.solve(&job.stack, n_ranks as usize, None)?;
        let ranks = RankConfig::new(
            plan,
            partition,
            job.stack.clone(),
            job.objective.clone(),
            OptimizerKind::Sgd,
        );
        let rate = LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 };
        let config = TrainerConfig { ranks, clip_norm: None, rate, steps: 1_000_000 };
        let batch = job.data.batch(1, n_micro_batches as usize)?;
        Ok((Trainer::new(config)?, batch))
    };
    let (mut trainer, batch) = make().unwrap_or_else(|e| panic!("{e}"));
    let mut step = 0;
    bencher.bench_local(|| {
        step += 1;
        trainer.step(step, || Ok(batch.clone())).map(|outcome| outcome.loss)
    });
}
