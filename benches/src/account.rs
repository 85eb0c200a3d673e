//! Where a step's time goes, against what the machine can do: `just bench`.
//!
//! For seed-mlp and gpt on two ranks: F, I and W of each rank beside what their matrix products alone take (the faster of candle's and
//! ours, the same shapes, weights that are not in the cache, on both cores at once); waiting, copying, the optimizer and the rest;
//! the window beside the simulation with the measured times. Then, in pairs: what recording costs, and what pinning gains.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use candle_core::{Device, Tensor};
use pp_executor::RankConfig;
use pp_hybrid::{StepOutcome, Trainer, TrainerConfig};
use pp_models::{GptConfig, Job, gpt, seed_mlp};
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind, View, gemm};
use pp_partition::Cut;
use pp_schedule::{Costs, ScheduleName, Sizes, ValidPlan, simulate};
use pp_telemetry::{Recorder, SpanKind};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<mimalloc::MiMalloc> =
    pp_nn::memory::CountingAllocator(mimalloc::MiMalloc);

const RANKS: u32 = 2;
/// Of each run the first steps find their sizes.
const WARM_UP: u64 = 2;

struct Subject {
    name: &'static str,
    job: Job,
    batch: usize,
    micro_batches: usize,
    /// Layers of each rank.
    cut: [usize; 2],
    /// The products of each rank.
    products: [Vec<Product>; 2],
    clip: Option<f64>,
}

/// `times` products of one layer in a forward: `rows × inputs` by `inputs × outputs`.
#[derive(Clone, Copy)]
struct Product {
    rows: usize,
    inputs: usize,
    outputs: usize,
    times: usize,
    /// Whether one factor is a weight: of attention, which has none, both gradients belong to I.
    has_weight: bool,
}

impl Product {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self { rows, inputs, outputs, times: 1, has_weight: true }
    }

    fn flops(&self) -> f64 {
        2.0 * (self.rows * self.inputs * self.outputs * self.times) as f64
    }
}

fn subjects() -> anyhow::Result<Vec<Subject>> {
    let widths = [100, 1024, 1024, 2048, 2048, 1024, 1024, 512, 10];
    let dense = |layers: std::ops::Range<usize>| {
        layers.map(|i| Product::new(8, widths[i], widths[i + 1])).collect::<Vec<_>>()
    };
    let config = GptConfig { layers: 8, width: 256, heads: 8, context: 128, dropout: 0.0 };
    let rows = 2 * config.context;
    let block = || {
        let (w, t, d) = (config.width, config.context, config.width / config.heads);
        let heads = 2 * config.heads;
        vec![
            Product::new(rows, w, 3 * w),
            Product { rows: t, inputs: d, outputs: t, times: heads, has_weight: false },
            Product { rows: t, inputs: t, outputs: d, times: heads, has_weight: false },
            Product::new(rows, w, w),
            Product::new(rows, w, 4 * w),
            Product::new(rows, 4 * w, w),
        ]
    };
    let blocks = || (0..4).flat_map(|_| block()).collect::<Vec<_>>();
    let mut second = blocks();
    second.push(Product::new(rows, config.width, 256));
    Ok(vec![
        Subject {
            name: "seed-mlp",
            job: seed_mlp(None, 1)?,
            batch: 256,
            micro_batches: 32,
            cut: [4, 4],
            products: [dense(0..4), dense(4..8)],
            clip: Some(1.0),
        },
        Subject {
            name: "gpt",
            job: gpt(config, None, 1)?,
            batch: 16,
            micro_batches: 8,
            cut: [5, 5],
            products: [blocks(), second],
            clip: None,
        },
    ])
}

/// A trainer, and the step that comes next.
struct Run<'a> {
    subject: &'a Subject,
    plan: ValidPlan,
    trainer: Trainer,
    step: u64,
}

impl<'a> Run<'a> {
    fn new(subject: &'a Subject, recorder: Recorder, pinned: bool) -> anyhow::Result<Self> {
        let sizes = Sizes {
            n_ranks: RANKS,
            n_micro_batches: subject.micro_batches as u32,
            n_virtual_stages: 1,
            interleave_group: None,
        };
        let plan = ScheduleName::ZbH1.generate(&sizes)?;
        let cut = Cut::Explicit(subject.cut.to_vec());
        let partition = cut.solve(&subject.job.stack, RANKS as usize, None)?;
        let mut ranks = RankConfig::new(
            plan.clone(),
            partition,
            subject.job.stack.clone(),
            subject.job.objective.clone(),
            OptimizerKind::Adam,
        );
        ranks.recorder = recorder;
        ranks.pinned = pinned;
        let rate = LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 };
        let config = TrainerConfig { ranks, clip_norm: subject.clip, rate, steps: 1_000 };
        let mut run = Self { subject, plan, trainer: Trainer::new(config)?, step: 0 };
        for _ in 0..WARM_UP {
            run.step()?;
        }
        Ok(run)
    }

    fn step(&mut self) -> anyhow::Result<StepOutcome> {
        self.step += 1;
        let Self { subject, trainer, step, .. } = self;
        Ok(trainer.step(*step, || subject.job.data.batch(*step, subject.batch))?)
    }

    /// The window that the simulator finds with this step's own mean times.
    fn simulated(&self, outcome: &StepOutcome) -> anyhow::Result<f64> {
        let mean = |op: SpanKind, stage: u32| {
            let of = outcome.spans.iter().filter(|s| s.op == op && s.stage == stage);
            let (mut sum, mut n) = (0.0, 0.0);
            for span in of {
                sum += span.dur_ns as f64 / 1e9;
                n += 1.0;
            }
            sum / f64::max(n, 1.0)
        };
        let mut costs = Costs::uniform(RANKS, 0.0, 0.0, 0.0, 0.0);
        costs.forward = (0..RANKS).map(|stage| mean(SpanKind::F, stage)).collect();
        costs.input_grad = (0..RANKS).map(|stage| mean(SpanKind::I, stage)).collect();
        costs.weight_grad = (0..RANKS).map(|stage| mean(SpanKind::W, stage)).collect();
        Ok(simulate(&self.plan, &costs)?.makespan)
    }
}

/// What one rank spent in spans of some kinds in a step.
fn spent(outcome: &StepOutcome, rank: u32, kinds: &[SpanKind]) -> f64 {
    let of = outcome.spans.iter().filter(|s| s.rank == rank && kinds.contains(&s.op));
    of.map(|s| s.dur_ns as f64 / 1e9).sum()
}

/// The matrices of one rank's products. A pass goes through all layers, as a stage does, so that each finds its weights as cold.
struct Matrices {
    products: Vec<Product>,
    of: Vec<[Vec<f32>; 6]>,
    tensors: Vec<[Tensor; 3]>,
}

/// Which matrix, in [`Matrices::of`] and [`Matrices::tensors`].
const X: usize = 0;
const GY: usize = 1;
const WEIGHT: usize = 2;

impl Matrices {
    fn new(products: &[Product]) -> candle_core::Result<Self> {
        let (mut of, mut tensors) = (Vec::new(), Vec::new());
        for p in products {
            // Weights as layers keep them: (outputs, inputs).
            let shapes = [(p.rows, p.inputs), (p.rows, p.outputs), (p.outputs, p.inputs)];
            let values = |(rows, columns): (usize, usize)| -> Vec<f32> {
                (0..p.times * rows * columns).map(|i| (i * 31 % 101) as f32 / 101.0 - 0.5).collect()
            };
            let [x, gy, weight] = shapes.map(values);
            let tensor = |values: &Vec<f32>, (rows, columns)| match p.times {
                1 => Tensor::from_slice(values, (rows, columns), &Device::Cpu),
                times => Tensor::from_slice(values, (times, rows, columns), &Device::Cpu),
            };
            tensors.push([
                tensor(&x, shapes[X])?,
                tensor(&gy, shapes[GY])?,
                tensor(&weight, shapes[WEIGHT])?,
            ]);
            let (y, gx, gw) = (gy.clone(), x.clone(), weight.clone());
            of.push([x, gy, weight, y, gx, gw]);
        }
        Ok(Self { products: products.to_vec(), of, tensors })
    }

    /// Seconds of F, I and W of one micro-batch: `product` of each layer, in the order of each phase.
    fn timed(
        &mut self,
        mut product: impl FnMut(
            usize,
            &Product,
            &mut [Vec<f32>; 6],
            &[Tensor; 3],
        ) -> candle_core::Result<()>,
    ) -> candle_core::Result<[f64; 3]> {
        let mut seconds = [0.0; 3];
        for phase in 0..3 {
            for ((p, of), tensors) in self.products.iter().zip(&mut self.of).zip(&self.tensors) {
                let begun = Instant::now();
                product(phase, p, of, tensors)?;
                let place = if p.has_weight { phase } else { phase.min(1) };
                seconds[place] += begun.elapsed().as_secs_f64();
            }
        }
        Ok(seconds)
    }

    fn candle(&mut self) -> candle_core::Result<[f64; 3]> {
        self.timed(|phase, _, _, [x, gy, weight]| {
            std::hint::black_box(match phase {
                0 => x.matmul(&weight.t()?)?,
                1 => gy.matmul(weight)?,
                _ => gy.t()?.matmul(x)?,
            });
            Ok(())
        })
    }

    /// Into matrices that are there; weight gradients are added.
    fn ours(&mut self) -> candle_core::Result<[f64; 3]> {
        self.timed(|phase, p, [x, gy, weight, y, gx, gw], _| {
            for time in 0..p.times {
                let at = |rows: usize, columns: usize| {
                    let view = View::row_major(rows, columns);
                    View { offset: time * rows * columns, ..view }
                };
                let (xv, gyv) = (at(p.rows, p.inputs), at(p.rows, p.outputs));
                let wv = at(p.outputs, p.inputs);
                match phase {
                    0 => gemm((y, gyv), (x, xv), (weight, wv.transposed()), 1.0, false),
                    1 => gemm((gx, xv), (gy, gyv), (weight, wv), 1.0, false),
                    _ => gemm((gw, wv), (gy, gyv.transposed()), (x, xv), 1.0, true),
                }
            }
            Ok(())
        })
    }
}

/// Seconds that the products of a micro-batch take on each rank, both ranks at once: of F, I and W the faster of candle's and ours.
fn products_alone(matrices: &mut [Matrices; 2]) -> anyhow::Result<[[f64; 3]; 2]> {
    const PASSES: usize = 7;
    let barrier = Barrier::new(2);
    let measure = |matrices: &mut Matrices| -> candle_core::Result<[f64; 3]> {
        let mut of: [[Vec<f64>; 3]; 2] = Default::default();
        for pass in 0..=PASSES {
            barrier.wait();
            let candle = matrices.candle()?;
            barrier.wait();
            let ours = matrices.ours()?;
            if pass > 0 {
                for phase in 0..3 {
                    of[0][phase].push(candle[phase]);
                    of[1][phase].push(ours[phase]);
                }
            }
        }
        let [candle, ours] = of.map(|of| of.map(|seconds| median(&seconds)));
        Ok(std::array::from_fn(|phase| candle[phase].min(ours[phase])))
    };
    let [first, second] = matrices;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| measure(second));
        let first = measure(first)?;
        let second = other.join().map_err(|_| anyhow::anyhow!("a product panicked"))??;
        Ok([first, second])
    })
}

/// What one core can do: floating-point operations a second in a large product, and bytes a second of a sum over much memory.
fn ceilings() -> (f64, f64) {
    let n = 1024;
    let view = View::row_major(n, n);
    let (a, b) = (vec![0.5f32; n * n], vec![0.25f32; n * n]);
    let mut c = vec![0.0f32; n * n];
    let best = |f: &mut dyn FnMut()| {
        let times = (0..7).map(|_| {
            let begun = Instant::now();
            f();
            begun.elapsed().as_secs_f64()
        });
        times.fold(f64::INFINITY, f64::min)
    };
    let seconds = best(&mut || gemm((&mut c, view), (&a, view), (&b, view), 1.0, false));
    let large = vec![1.0f32; 64 << 20];
    let read = best(&mut || {
        let mut sums = [0.0f32; 64];
        for chunk in large.chunks_exact(64) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += x;
            }
        }
        std::hint::black_box(sums);
    });
    (2.0 * (n * n * n) as f64 / seconds, size_of_val(large.as_slice()) as f64 / read)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Where the step's time goes.
fn account(subject: &Subject, rounds: usize) -> anyhow::Result<Value> {
    const PHASES: [(SpanKind, &str); 3] =
        [(SpanKind::F, "F"), (SpanKind::I, "I"), (SpanKind::W, "W")];
    let mut run = Run::new(subject, Recorder::disabled(), false)?;
    let [first, second] = &subject.products;
    let mut matrices = [Matrices::new(first)?, Matrices::new(second)?];
    let mut alone: [[Vec<f64>; 3]; 2] = Default::default();
    let mut outcomes = Vec::new();
    let mut windows = Vec::new();
    for _ in 0..rounds {
        let outcome = run.step()?;
        windows.push(outcome.bubble.window_seconds / run.simulated(&outcome)?);
        outcomes.push(outcome);
        for (alone, found) in alone.iter_mut().zip(products_alone(&mut matrices)?) {
            for (alone, found) in alone.iter_mut().zip(found) {
                alone.push(found * subject.micro_batches as f64);
            }
        }
    }
    let of_step =
        |f: &dyn Fn(&StepOutcome) -> f64| median(&outcomes.iter().map(f).collect::<Vec<_>>());
    let step = of_step(&|o| o.seconds);
    println!("{}: a step takes {:.1} ms", subject.name, 1e3 * step);
    println!(
        "  {:<6} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "rank", "compute", "products", "ratio", "wait", "copy", "optimizer", "rest"
    );
    let mut ranks = Vec::new();
    for rank in 0..RANKS {
        let ms = |kinds: &[SpanKind]| 1e3 * of_step(&|o| spent(o, rank, kinds));
        let of_rank = &alone[rank as usize];
        let gemms: f64 = of_rank.iter().map(|a| 1e3 * median(a)).sum();
        let compute: f64 = PHASES.iter().map(|(kind, _)| ms(&[*kind])).sum();
        let wait = ms(&[SpanKind::WaitAct, SpanKind::WaitGrad]);
        let copy = ms(&[SpanKind::Send, SpanKind::Recv]);
        let optimizer = ms(&[SpanKind::Optim]);
        let rest = 1e3 * step - compute - wait - copy - optimizer;
        println!(
            "  {rank:<6} {compute:>9.1} {gemms:>9.1} {:>7.2} {wait:>9.1} {copy:>9.2} {optimizer:>9.1} {rest:>9.1}",
            compute / gemms
        );
        let phases: Vec<Value> = PHASES
            .iter()
            .zip(of_rank)
            .map(|((kind, name), alone)| {
                let (spans, alone) = (ms(&[*kind]), 1e3 * median(alone));
                println!("    {name}    {spans:>9.1} {alone:>9.1} {:>7.2}", spans / alone);
                json!({"phase": name, "spans_ms": spans, "products_ms": alone, "ratio": spans / alone})
            })
            .collect();
        ranks.push(json!({
            "rank": rank, "phases": phases, "compute_ms": compute, "products_ms": gemms, "ratio": compute / gemms,
            "wait_ms": wait, "copy_ms": copy, "optimizer_ms": optimizer, "rest_ms": rest,
        }));
    }
    let flops: f64 = subject.products.iter().flatten().map(Product::flops).sum();
    let flops = 3.0 * flops * subject.micro_batches as f64;
    let window = median(&windows);
    println!("  window by simulated window {window:.3}; {:.1} GFLOP a step\n", flops / 1e9);
    Ok(json!({
        "job": subject.name, "step_ms": 1e3 * step, "ranks": ranks, "window_by_simulated": window, "flops": flops,
    }))
}

/// How a run differs from a plain one.
#[derive(Clone, Copy)]
enum Variant {
    Plain,
    Recorded,
    Pinned,
}

/// The median of some steps of a run that is built for it: where its memory lies is part of the chance.
fn steps_of(subject: &Subject, variant: Variant) -> anyhow::Result<f64> {
    const STEPS: usize = 3;
    let folder = std::env::temp_dir().join(format!("pptop-account-{}", std::process::id()));
    let recorder = match variant {
        Variant::Recorded => Recorder::create(&folder)?,
        Variant::Plain | Variant::Pinned => Recorder::disabled(),
    };
    let mut run = Run::new(subject, recorder, matches!(variant, Variant::Pinned))?;
    let seconds: Vec<f64> =
        (0..STEPS).map(|_| Ok(run.step()?.seconds)).collect::<anyhow::Result<_>>()?;
    drop(run);
    let _ = std::fs::remove_dir_all(&folder);
    Ok(median(&seconds))
}

/// Plain runs beside plain ones, recorded ones and pinned ones, in turns: the ratio of each pair.
fn pairs(subject: &Subject, n: usize) -> anyhow::Result<Vec<Value>> {
    let variants = [
        ("plain once more", Variant::Plain),
        ("recorded", Variant::Recorded),
        ("pinned", Variant::Pinned),
    ];
    let mut ratios = vec![Vec::new(); variants.len()];
    for _ in 0..n {
        let plain = steps_of(subject, Variant::Plain)?;
        for ((_, variant), ratios) in variants.iter().zip(&mut ratios) {
            ratios.push(steps_of(subject, *variant)? / plain);
        }
    }
    let mut found = Vec::new();
    for ((what, _), mut ratios) in variants.into_iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let (low, high) = (ratios[n / 4], ratios[n - 1 - n / 4]);
        println!(
            "  {what:<16} {:.4} of the time of a plain run, half of {n} pairs between {low:.4} and {high:.4}",
            median(&ratios)
        );
        found.push(
            json!({"what": what, "pairs": n, "median": median(&ratios), "quartiles": [low, high]}),
        );
    }
    println!();
    Ok(found)
}

fn main() -> anyhow::Result<()> {
    ensure!(candle_core::utils::get_num_threads() == 1, "RAYON_NUM_THREADS must be 1");
    let (flops, bytes) = ceilings();
    println!(
        "one core: {:.1} GFLOP/s in a product of 1024 x 1024, {:.1} GB/s read\n",
        flops / 1e9,
        bytes / 1e9
    );
    let mut accounts = Vec::new();
    let mut compared = Vec::new();
    for subject in &subjects()? {
        accounts.push(account(subject, 9)?);
        compared.push(json!({"job": subject.name, "pairs": pairs(subject, 20)?}));
    }
    let found = json!({
        "core": {"flops_per_second": flops, "bytes_per_second": bytes}, "accounts": accounts, "pairs": compared,
    });
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/account.json");
    std::fs::write(&path, serde_json::to_string_pretty(&found)? + "\n")
        .with_context(|| path.display().to_string())?;
    println!("written: benches/results/account.json");
    Ok(())
}
