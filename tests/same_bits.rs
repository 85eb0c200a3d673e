//! The same bits for every schedule, cut and number of ranks, and those of a plain loop.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor, Var};
use pp_executor::{RankConfig, Recompute};
use pp_hybrid::{Trainer, TrainerConfig, weights_hash};
use pp_models::{GptConfig, Job, gpt, seed_mlp};
use pp_nn::{Kernel, Kernels, ParameterStore, clip_factor, global_norm};
use pp_partition::{Cut, LayerProfile, Partition, Profile};
use pp_schedule::{
    Action, Draft, Op, Phase, ScheduleName, Sizes, ValidPlan, export_csv, import_csv,
};

mod plain_loop;
use plain_loop::{CLIP, OPTIMIZER, Run, rate};
mod uneven;
use uneven::small_llama;

fn plan(schedule: ScheduleName, pp: u32, micro_batches: usize) -> ValidPlan {
    let sizes = Sizes {
        n_ranks: pp,
        n_micro_batches: micro_batches as u32,
        n_virtual_stages: schedule.default_virtual_stages(),
        interleave_group: None,
    };
    schedule.generate(&sizes).unwrap()
}

fn trainer(job: &Job, run: Run, plan: ValidPlan, partition: Partition, replicas: u32) -> Trainer {
    trainer_with(job, run, plan, partition, replicas, Recompute::Never)
}

fn trainer_with(
    job: &Job,
    run: Run,
    plan: ValidPlan,
    partition: Partition,
    replicas: u32,
    recompute: Recompute,
) -> Trainer {
    let mut ranks =
        RankConfig::new(plan, partition, job.stack.clone(), job.objective.clone(), OPTIMIZER);
    ranks.seed = run.seed;
    ranks.n_replicas = replicas;
    ranks.recompute = recompute;
    Trainer::new(TrainerConfig { ranks, clip_norm: CLIP, rate: rate(), steps: run.steps }).unwrap()
}

/// Loss bits of every step and the hash of the final weights.
fn pipeline(job: &Job, run: Run, plan: ValidPlan, partition: Partition) -> (Vec<u32>, String) {
    let peaks = plan.peak_activations();
    let mailboxes = pp_schedule::mailbox_peaks(&plan);
    let name = plan.name().to_owned();
    let mut trainer = trainer(job, run, plan, partition, 1);
    let bits = (1..=run.steps)
        .map(|step| {
            let outcome = trainer.step(step, || job.data.batch(step, run.batch)).unwrap();
            assert_eq!(
                outcome.stash_peaks, peaks,
                "{name}: what ranks held is what the schedule says"
            );
            let bounded =
                outcome.mailbox_peaks.iter().zip(&mailboxes).all(|(seen, most)| seen <= most);
            assert!(
                bounded,
                "{name}: {:?} messages waited, at most {mailboxes:?} should",
                outcome.mailbox_peaks
            );
            outcome.loss.to_bits()
        })
        .collect();
    (bits, weights_hash(&trainer.weights().unwrap()).unwrap())
}

/// Times that make the exact cut by time differ from the others.
fn profile(job: &Job) -> Profile {
    let layer = |i: usize| LayerProfile {
        name: job.stack.name(i).to_owned(),
        parameters: 0,
        parameter_bytes: 0,
        forward_seconds: 1.0 + (i % 3) as f64,
        input_grad_seconds: 1.0,
        weight_grad_seconds: 1.0,
        activation_bytes: 0,
        residue_bytes: 0,
        boundary_bytes: 0,
    };
    Profile { layers: (0..job.stack.len()).map(layer).collect() }
}

fn partitions(job: &Job, stages: usize) -> Vec<Partition> {
    let layers = job.stack.len();
    let mut front = vec![1; stages];
    front[stages - 1] = layers + 1 - stages;
    let mut back = vec![1; stages];
    back[0] = layers + 1 - stages;
    let cuts =
        [Cut::Uniform, Cut::Parameters, Cut::Time, Cut::Explicit(front), Cut::Explicit(back)];
    let profile = profile(job);
    let mut found: Vec<Partition> = Vec::new();
    for cut in cuts {
        let partition = cut.solve(&job.stack, stages, Some(&profile)).unwrap();
        if !found.contains(&partition) {
            found.push(partition);
        }
    }
    found
}

/// Every schedule that trains one copy of the model: the notebook's on 1 to 4 ranks under every
/// cut, the others on 2 and 4 ranks.
fn check_all(job: &Job, run: Run) {
    let (losses, weights) = plain_loop::train(job, run);
    let want = (losses, weights_hash(&weights).unwrap());
    let mut n = 0;
    for schedule in ScheduleName::ALL {
        if !schedule.trains() || schedule == ScheduleName::Chimera {
            continue;
        }
        let is_notebook = ScheduleName::NOTEBOOK.contains(&schedule);
        let ranks: &[u32] = if is_notebook { &[1, 2, 3, 4] } else { &[2, 4] };
        for &pp in ranks {
            let plan = plan(schedule, pp, run.micro_batches);
            let mut cuts = partitions(job, plan.n_stages() as usize);
            if !is_notebook {
                cuts.truncate(2);
            }
            for partition in cuts {
                let sizes = partition.sizes();
                let got = pipeline(job, run, plan.clone(), partition);
                assert_eq!(got, want, "{schedule} pp={pp} cut {sizes:?}");
                n += 1;
            }
        }
    }
    assert!(n >= 60, "only {n} combinations were run");
}

/// With each kernel, every schedule and cut rounds alike, with packed copies of the weights and
/// without. BLAS takes part where the build has it and a library is there: `OpenBLAS` rounds by
/// shape alone.
#[test]
fn each_kernel_has_the_same_bits_in_every_plan() {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        let kernels = Kernels::all(kernel);
        // Few rows, and more.
        let more = Run { batch: 160, micro_batches: 4, steps: 2, ..MLP };
        for (job, run) in [
            (seed_mlp(None, MLP.seed).unwrap(), Run { steps: 2, ..MLP }),
            (seed_mlp(None, MLP.seed).unwrap(), more),
            (small_gpt(0.1), Run { steps: 2, ..GPT }),
            (small_llama(true, true), Run { steps: 2, ..GPT }),
        ] {
            let (losses, weights) = plain_loop::train_by(kernels, &job, run);
            let want = (losses, weights_hash(&weights).unwrap());
            let plans = [
                (ScheduleName::Gpipe, 2, Cut::Uniform, true),
                (ScheduleName::OneFOneB, 2, Cut::Parameters, false),
                (ScheduleName::ZbH1, 4, Cut::Uniform, true),
                (ScheduleName::ZbV, 2, Cut::Uniform, true),
            ];
            let mut evaluations = Vec::new();
            for (schedule, pp, cut, packs) in plans {
                let plan = plan(schedule, pp, run.micro_batches);
                let partition = cut.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
                let stack = job.stack.clone();
                let mut ranks =
                    RankConfig::new(plan, partition, stack, job.objective.clone(), OPTIMIZER);
                (ranks.seed, ranks.kernels, ranks.packs_weights) = (run.seed, kernels, packs);
                let (clip_norm, rate, steps) = (CLIP, rate(), run.steps);
                let config = TrainerConfig { ranks, clip_norm, rate, steps };
                let mut trainer = Trainer::new(config).unwrap();
                let losses = (1..=run.steps).map(|step| {
                    trainer.step(step, || job.data.batch(step, run.batch)).unwrap().loss.to_bits()
                });
                let losses = losses.collect();
                let got = (losses, weights_hash(&trainer.weights().unwrap()).unwrap());
                assert_eq!(got, want, "{kernel}, {schedule} pp={pp}, packed {packs}");
                // The copies are of before the update; an evaluation must not see them.
                let held_out = job.data.batch(1, 40).unwrap();
                evaluations.push(trainer.evaluate(&[held_out]).unwrap().loss.to_bits());
            }
            assert!(
                evaluations.windows(2).all(|two| two[0] == two[1]),
                "{kernel}: {evaluations:?}"
            );
        }
    }
}

/// Chimera trains two copies of the model with half the micro-batches each: two replicas.
#[test]
fn chimera_has_the_bits_of_two_replicas() {
    let half = |run: Run| run.micro_batches / 2;
    for (job, run) in [
        (seed_mlp(None, MLP.seed).unwrap(), MLP),
        (small_gpt(0.1), GPT),
        (small_llama(true, false), GPT),
    ] {
        let uniform = |stages: u32| Cut::Uniform.solve(&job.stack, stages as usize, None).unwrap();
        for pp in [2, 4] {
            let two = plan(ScheduleName::OneFOneB, pp, half(run));
            let want = replicas(&job, run, two, uniform(pp), 2);
            let chimera = plan(ScheduleName::Chimera, pp, run.micro_batches);
            assert_eq!(replicas(&job, run, chimera.clone(), uniform(pp), 1), want, "pp={pp}");
            // And two replicas of it are four.
            let twice = plan(ScheduleName::Chimera, pp, half(run));
            let four = plan(ScheduleName::OneFOneB, pp, half(run) / 2);
            assert_eq!(
                replicas(&job, run, twice, uniform(pp), 2),
                replicas(&job, run, four, uniform(pp), 4),
                "pp={pp}, two replicas"
            );
            // What it exports is a plan of two copies as well.
            let csv = export_csv(&chimera);
            let imported = import_csv("chimera.csv", csv.as_bytes(), None).unwrap();
            assert_eq!(replicas(&job, run, imported, uniform(pp), 1), want, "pp={pp}, imported");
        }
    }
}

/// Loss bits of every step and the hash of the final weights.
fn replicas(job: &Job, run: Run, plan: ValidPlan, cut: Partition, dp: u32) -> (Vec<u32>, String) {
    let peaks = plan.peak_activations();
    let mut trainer = trainer(job, run, plan, cut, dp);
    let step = |step| {
        let outcome = trainer.step(step, || job.data.batch(step, run.batch)).unwrap();
        assert!(outcome.stash_peaks.chunks(peaks.len()).all(|of_replica| of_replica == peaks));
        outcome.loss.to_bits()
    };
    let losses = (1..=run.steps).map(step).collect();
    (losses, weights_hash(&trainer.weights().unwrap()).unwrap())
}

const MLP: Run = Run { seed: 3, steps: 5, batch: 16, micro_batches: 8 };
const GPT: Run = Run { seed: 5, steps: 5, batch: 8, micro_batches: 8 };

fn small_gpt(dropout: f64) -> Job {
    gpt(GptConfig { layers: 6, width: 32, heads: 2, context: 16, dropout }, None, 5).unwrap()
}

#[test]
fn seed_mlp_with_dropout() {
    check_all(&seed_mlp(None, MLP.seed).unwrap(), MLP);
}

#[test]
fn gpt_with_dropout() {
    check_all(&small_gpt(0.1), GPT);
}

#[test]
fn llama_with_uneven_tokens() {
    check_all(&small_llama(false, false), Run { steps: 3, ..GPT });
}

#[test]
fn tied_llama_with_uneven_tokens_of_packed_documents() {
    check_all(&small_llama(true, true), Run { steps: 3, ..GPT });
}

/// A plan that runs backwards in reversed order, and one that splits them, still sum in order.
#[test]
fn any_order_of_backwards_and_split_backwards() {
    let job = small_gpt(0.1);
    let (losses, weights) = plain_loop::train(&job, GPT);
    let want = (losses, weights_hash(&weights).unwrap());
    for split in [false, true] {
        let mut draft: Draft = plan(ScheduleName::Gpipe, 2, GPT.micro_batches).into_draft();
        for row in &mut draft.rows {
            let m = GPT.micro_batches;
            row[m..].reverse();
            if split {
                let half = |action: &Action, phase| Action::from(Op { phase, ..action.first() });
                let backwards = row.split_off(m);
                row.extend(backwards.iter().map(|action| half(action, Phase::InputGrad)));
                row.extend(backwards.iter().map(|action| half(action, Phase::WeightGrad)));
            }
        }
        let plan = draft.validate().unwrap();
        let partition = Cut::Uniform.solve(&job.stack, 2, None).unwrap();
        assert_eq!(pipeline(&job, GPT, plan, partition), want, "split: {split}");
    }
}

/// A forward that runs once more draws the same dropout and gives the same gradients, on all stages
/// or on one.
#[test]
fn recompute_keeps_the_bits() {
    for (job, run) in [
        (seed_mlp(None, MLP.seed).unwrap(), MLP),
        (small_gpt(0.1), GPT),
        (small_llama(true, true), GPT),
    ] {
        let (losses, weights) = plain_loop::train(&job, run);
        let want = (losses, weights_hash(&weights).unwrap());
        for schedule in [
            ScheduleName::OneFOneB,
            ScheduleName::Gpipe,
            ScheduleName::ZbH1,
            ScheduleName::InterleavedOneFOneB,
        ] {
            for recompute in [Recompute::Always, Recompute::Stages([1].into())] {
                let plan = plan(schedule, 2, run.micro_batches);
                let partition =
                    Cut::Uniform.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
                let mut trainer = trainer_with(&job, run, plan, partition, 1, recompute.clone());
                let step = |step| {
                    let outcome = trainer.step(step, || job.data.batch(step, run.batch)).unwrap();
                    outcome.loss.to_bits()
                };
                let losses = (1..=run.steps).map(step).collect();
                let got = (losses, weights_hash(&trainer.weights().unwrap()).unwrap());
                assert_eq!(got, want, "{schedule}, {recompute:?}");
            }
        }
    }
}

/// Two replicas of half the micro-batches each: the same samples, the same masks, another sum.
#[test]
fn two_replicas_agree_with_one() {
    for (job, run) in [
        (seed_mlp(None, MLP.seed).unwrap(), MLP),
        (small_gpt(0.1), GPT),
        (small_llama(true, true), GPT),
    ] {
        let go = |replicas: u32| {
            let plan = plan(ScheduleName::OneFOneB, 2, run.micro_batches / replicas as usize);
            let partition = Cut::Uniform.solve(&job.stack, 2, None).unwrap();
            let mut trainer = trainer(&job, run, plan, partition, replicas);
            let mut losses = Vec::new();
            let mut gradients = Vec::new();
            for step in 1..=run.steps {
                losses.push(trainer.step(step, || job.data.batch(step, run.batch)).unwrap().loss);
                if step == 1 {
                    gradients = trainer.gradients().unwrap();
                }
            }
            (losses, gradients, weights_hash(&trainer.weights().unwrap()).unwrap())
        };
        let (one, two) = (go(1), go(2));
        assert_eq!((&two.0, &two.2), (&go(2).0, &go(2).2), "two runs of one dp have the same bits");
        let norm = |t: &Tensor| {
            f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt()
        };
        let global = one.1.iter().map(|(_, g)| norm(g).powi(2)).sum::<f64>().sqrt();
        for ((name, a), (_, b)) in one.1.iter().zip(&two.1) {
            let error = norm(&(a - b).unwrap());
            assert!(
                error <= 1e-6 * norm(a).max(1e-3 * global),
                "{name}: off by {error}, of {}",
                norm(a)
            );
        }
        for (a, b) in one.0.iter().zip(&two.0) {
            assert!((a - b).abs() <= 1e-6 * a.abs(), "losses {a} and {b}");
        }
    }
}

/// A loop on candle's own layers, without dropout: other kernels, the same mathematics.
#[test]
fn candles_own_layers_agree_to_1e_5() {
    let seed = seed_mlp(Some(0.0), MLP.seed).unwrap();
    check_candle(&seed, MLP, &|w, x| {
        let mut x = x.clone();
        for i in 0..8 {
            x = linear(w, &format!("layers.{i}"), &x);
            if i < 7 {
                x = x.relu().unwrap();
            }
        }
        x
    });
    check_candle(&small_gpt(0.0), GPT, &|w, ids| {
        let (b, t) = ids.dims2().unwrap();
        let token =
            var(w, "embedding.token.weight").index_select(&ids.flatten_all().unwrap(), 0).unwrap();
        let mut x = token
            .reshape((b, t, 32))
            .unwrap()
            .broadcast_add(&var(w, "embedding.position.weight").narrow(0, 0, t).unwrap())
            .unwrap();
        for i in 0..6 {
            let name = |part: &str| format!("blocks.{i}.{part}");
            let qkv = linear(w, &name("attention.qkv"), &layer_norm(w, &name("ln1"), &x));
            let mixed = pp_nn::CausalSelfAttention::new(2).forward_composed(&qkv, None).unwrap();
            x = (&x + linear(w, &name("attention.proj"), &mixed)).unwrap();
            let hidden =
                linear(w, &name("mlp.fc"), &layer_norm(w, &name("ln2"), &x)).gelu().unwrap();
            x = (&x + linear(w, &name("mlp.proj"), &hidden)).unwrap();
        }
        let x = layer_norm(w, "head.ln", &x).reshape((b * t, 32)).unwrap();
        x.matmul(&var(w, "head.linear.weight").t().unwrap()).unwrap()
    });
}

type Weights = Vec<(String, Var)>;

fn var<'a>(weights: &'a Weights, name: &str) -> &'a Tensor {
    weights.iter().find(|(n, _)| n == name).unwrap().1.as_tensor()
}

fn linear(weights: &Weights, name: &str, x: &Tensor) -> Tensor {
    let (w, b) = (var(weights, &format!("{name}.weight")), var(weights, &format!("{name}.bias")));
    let mut shape = x.dims().to_vec();
    *shape.last_mut().unwrap() = w.dim(0).unwrap();
    let y = x.reshape(((), w.dim(1).unwrap())).unwrap().matmul(&w.t().unwrap()).unwrap();
    y.broadcast_add(b).unwrap().reshape(shape).unwrap()
}

fn layer_norm(weights: &Weights, name: &str, x: &Tensor) -> Tensor {
    let centred = x.broadcast_sub(&x.mean_keepdim(2).unwrap()).unwrap();
    let variance = centred.sqr().unwrap().mean_keepdim(2).unwrap();
    let normal = centred.broadcast_div(&(variance + 1e-5).unwrap().sqrt().unwrap()).unwrap();
    let scaled = normal.broadcast_mul(var(weights, &format!("{name}.weight"))).unwrap();
    scaled.broadcast_add(var(weights, &format!("{name}.bias"))).unwrap()
}

fn check_candle(job: &Job, run: Run, forward: &dyn Fn(&Weights, &Tensor) -> Tensor) {
    use candle_nn::Optimizer as _;
    let store = ParameterStore::seeded(run.seed);
    for i in 0..job.stack.len() {
        job.stack.build(i, store.builder(DType::F32, &Device::Cpu)).unwrap();
    }
    let weights: Weights = store.parameters().into_iter().map(|p| (p.name, p.var)).collect();
    let vars = weights.iter().map(|(_, v)| v.clone()).collect();
    let params = candle_nn::ParamsAdamW { weight_decay: 0.0, ..Default::default() };
    let mut adam = candle_nn::AdamW::new(vars, params).unwrap();
    let (want, _) = plain_loop::train(job, run);
    let rows = run.batch / run.micro_batches;
    for step in 1..=run.steps {
        let (inputs, targets) = job.data.batch(step, run.batch).unwrap();
        let mut total = 0.0;
        let mut sums: Vec<Option<Tensor>> = vec![None; weights.len()];
        let mut last = None;
        for j in 0..run.micro_batches {
            let logits = forward(&weights, &inputs[0].narrow(0, j * rows, rows).unwrap());
            let targets = targets.narrow(0, j * rows, rows).unwrap().flatten_all().unwrap();
            let loss = candle_nn::loss::cross_entropy(&logits, &targets).unwrap();
            total += f64::from(loss.to_scalar::<f32>().unwrap()) / run.micro_batches as f64;
            let grads = (loss / run.micro_batches as f64).unwrap().backward().unwrap();
            for (sum, (_, v)) in sums.iter_mut().zip(&weights) {
                let g = grads.get(v.as_tensor()).unwrap();
                *sum = Some(match sum.take() {
                    Some(s) => (s + g).unwrap(),
                    None => g.clone(),
                });
            }
            last = Some(grads);
        }
        let squares = sums
            .iter()
            .flatten()
            .map(|g| f64::from(g.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()));
        let clip = f64::from(clip_factor(global_norm(squares.collect::<Vec<_>>()), CLIP));
        let mut grads = last.unwrap();
        for ((_, v), sum) in weights.iter().zip(sums) {
            grads.insert(v.as_tensor(), (sum.unwrap() * clip).unwrap());
        }
        adam.set_learning_rate(rate().at(step, run.steps));
        adam.step(&grads).unwrap();
        let ours = f64::from(f32::from_bits(want[step as usize - 1]));
        assert!(
            (ours - total).abs() <= 1e-5 * total.abs(),
            "step {step}: {ours} ours, {total} candle's"
        );
    }
}
