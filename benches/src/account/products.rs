//! What matrix products alone take, and what one core can do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::Context as _;
use candle_core::{Device, Tensor};
use pp_nn::{Kernels, Panels, View, gemm};
use serde_json::{Value, json};

use crate::numbers::median;

/// `times` products of one layer in a forward: `rows × inputs` by `inputs × outputs`.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) times: usize,
    /// Whether one factor is a weight: of attention, which has none, both gradients belong to I.
    pub(crate) has_weight: bool,
}

impl Product {
    pub(crate) fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self { rows, inputs, outputs, times: 1, has_weight: true }
    }

    pub(crate) fn flops(&self) -> f64 {
        2.0 * (self.rows * self.inputs * self.outputs * self.times) as f64
    }
}

/// The matrices of one rank's products. A pass goes through all layers, as a stage does, so that
/// each finds its weights as cold.
pub(crate) struct Matrices {
    products: Vec<Product>,
    of: Vec<[Vec<f32>; 6]>,
    /// Packed copies of each weight, for the forward and for the input gradient.
    packed: Vec<[Option<Panels>; 2]>,
    tensors: Vec<[Tensor; 3]>,
    pytorch: Option<PyTorch>,
}

/// Which matrix, in [`Matrices::of`] and [`Matrices::tensors`].
const X: usize = 0;
const GY: usize = 1;
const WEIGHT: usize = 2;

/// Seconds of F, I and W of each product.
type Seconds = Vec<[f64; 3]>;

impl Matrices {
    pub(crate) fn new(products: &[Product]) -> anyhow::Result<Self> {
        let (mut of, mut tensors, mut packed) = (Vec::new(), Vec::new(), Vec::new());
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
            let of_weight = View::row_major(p.outputs, p.inputs);
            let directions = [
                (pp_nn::Product::Output, of_weight.transposed()),
                (pp_nn::Product::InputGradient, of_weight),
            ];
            packed.push(directions.map(|(product, view)| {
                let kernel = Kernels::default().of(product, p.rows);
                if p.has_weight { Panels::pack(kernel, &weight, view) } else { None }
            }));
            let (y, gx, gw) = (gy.clone(), x.clone(), weight.clone());
            of.push([x, gy, weight, y, gx, gw]);
        }
        let pytorch = PyTorch::start(products)?;
        Ok(Self { products: products.to_vec(), of, packed, tensors, pytorch })
    }

    /// Whether PyTorch takes part.
    pub(crate) fn has_pytorch(&self) -> bool {
        self.pytorch.is_some()
    }

    /// Each product of one micro-batch once, in the order of each phase.
    fn timed(
        &mut self,
        mut product: impl FnMut(
            usize,
            &Product,
            &mut [Vec<f32>; 6],
            &[Option<Panels>; 2],
            &[Tensor; 3],
        ) -> candle_core::Result<()>,
    ) -> candle_core::Result<Seconds> {
        let mut seconds = vec![Vec::new(); self.products.len()];
        for phase in 0..3 {
            for (i, p) in self.products.iter().enumerate() {
                let begun = thread_seconds();
                product(phase, p, &mut self.of[i], &self.packed[i], &self.tensors[i])?;
                seconds[i].push(thread_seconds() - begun);
            }
        }
        Ok(seconds.into_iter().map(|of| [of[0], of[1], of[2]]).collect())
    }

    fn candle(&mut self) -> candle_core::Result<Seconds> {
        self.timed(|phase, _, _, _, [x, gy, weight]| {
            std::hint::black_box(match phase {
                0 => x.matmul(&weight.t()?)?,
                1 => gy.matmul(weight)?,
                _ => gy.t()?.matmul(x)?,
            });
            Ok(())
        })
    }

    /// Into matrices that are there; weight gradients are added. Weights are packed before, as in a
    /// run.
    fn ours(&mut self) -> candle_core::Result<Seconds> {
        let kernels = Kernels::default();
        self.timed(|phase, p, [x, gy, weight, y, gx, gw], packed, _| {
            let kernel = |product| kernels.of(product, p.rows);
            for time in 0..p.times {
                let at = |rows: usize, columns: usize| {
                    let view = View::row_major(rows, columns);
                    View { offset: time * rows * columns, ..view }
                };
                let (xv, gyv) = (at(p.rows, p.inputs), at(p.rows, p.outputs));
                let wv = at(p.outputs, p.inputs);
                match (phase, packed) {
                    (0, [Some(panels), _]) => panels.multiply((y, gyv), (x, xv)),
                    (0, _) => gemm(
                        kernel(pp_nn::Product::Output),
                        (y, gyv),
                        (x, xv),
                        (weight, wv.transposed()),
                        1.0,
                        false,
                    ),
                    (1, [_, Some(panels)]) => panels.multiply((gx, xv), (gy, gyv)),
                    (1, _) => gemm(
                        kernel(pp_nn::Product::InputGradient),
                        (gx, xv),
                        (gy, gyv),
                        (weight, wv),
                        1.0,
                        false,
                    ),
                    _ => gemm(
                        kernel(pp_nn::Product::WeightGradient),
                        (gw, wv),
                        (gy, gyv.transposed()),
                        (x, xv),
                        1.0,
                        true,
                    ),
                }
            }
            Ok(())
        })
    }

    /// Sums over products: of attention, which has no weights, both gradients belong to I.
    fn by_phase(&self, seconds: &[[f64; 3]]) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for (p, of) in self.products.iter().zip(seconds) {
            for (phase, seconds) in of.iter().enumerate() {
                sums[if p.has_weight { phase } else { phase.min(1) }] += seconds;
            }
        }
        sums
    }
}

/// PyTorch in a process of its own, which makes a pass whenever it is asked.
struct PyTorch {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl PyTorch {
    /// `None` where it is not installed.
    fn start(products: &[Product]) -> anyhow::Result<Option<Self>> {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = benches.join("../.venv/bin/python");
        if !python.is_file() {
            return Ok(None);
        }
        let sizes: Vec<Value> = products
            .iter()
            .map(|p| json!([p.rows, p.inputs, p.outputs, p.times, p.has_weight]))
            .collect();
        let mut child = Command::new(python)
            .arg(benches.join("peers/products.py"))
            .arg(Value::from(sizes).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("products.py")?;
        let asks = child.stdin.take().context("products.py without an input")?;
        let answers = child.stdout.take().context("products.py without an output")?;
        Ok(Some(Self { child, asks, answers: BufReader::new(answers) }))
    }

    fn pass(&mut self) -> anyhow::Result<Seconds> {
        writeln!(self.asks, "pass").context("products.py has ended")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("products.py has ended")
    }
}

impl Drop for PyTorch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of this thread.
fn thread_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// The times of each product of a micro-batch on one rank: by candle, by our kernels with packed
/// weights, and by PyTorch, which packs on the way. Medians of some passes; NaN where PyTorch is
/// absent.
pub(crate) struct Alone([Seconds; 3]);

/// What the products of a micro-batch take on one rank, in seconds of F, I and W: medians over all
/// rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    /// Each product by its fastest maker.
    pub(crate) fastest: [f64; 3],
    pub(crate) candle: [f64; 3],
    pub(crate) ours: [f64; 3],
    pub(crate) pytorch: Option<[f64; 3]>,
}

impl Sums {
    /// Chooses the fastest maker of each product once, by its median over all rounds. A choice in
    /// each round would take whichever happened to run while the core was fast.
    pub(crate) fn of(matrices: &Matrices, rounds: &[Alone]) -> Self {
        let of_way = |way: usize| -> Seconds {
            let of_product = |i: usize, phase: usize| {
                median(&rounds.iter().map(|Alone(ways)| ways[way][i][phase]).collect::<Vec<_>>())
            };
            (0..matrices.products.len())
                .map(|i| [0, 1, 2].map(|phase| of_product(i, phase)))
                .collect()
        };
        let ways = [0, 1, 2].map(of_way);
        let fastest: Seconds = (0..matrices.products.len())
            .map(|i| {
                let of = |phase: usize| ways.iter().map(move |way| way[i][phase]);
                [0, 1, 2].map(|phase| of(phase).fold(f64::INFINITY, f64::min))
            })
            .collect();
        Self {
            fastest: matrices.by_phase(&fastest),
            candle: matrices.by_phase(&ways[0]),
            ours: matrices.by_phase(&ways[1]),
            pytorch: matrices.has_pytorch().then(|| matrices.by_phase(&ways[2])),
        }
    }
}

/// What the products of a micro-batch take on each rank, both ranks at once, each program in its
/// turn.
pub(crate) fn products_alone(matrices: &mut [Matrices; 2]) -> anyhow::Result<[Alone; 2]> {
    const PASSES: usize = 7;
    let barrier = Barrier::new(2);
    let measure = |matrices: &mut Matrices| -> anyhow::Result<Alone> {
        let n = matrices.products.len();
        // Of each program, product and phase the times of all passes.
        let mut times = vec![vec![[(); 3].map(|()| Vec::new()); n]; 3];
        for pass in 0..=PASSES {
            barrier.wait();
            let candle = matrices.candle()?;
            barrier.wait();
            let ours = matrices.ours()?;
            barrier.wait();
            let pytorch = matrices.pytorch.as_mut().map(PyTorch::pass).transpose()?;
            if pass == 0 {
                continue;
            }
            for (times, found) in times.iter_mut().zip([Some(candle), Some(ours), pytorch]) {
                for (times, found) in times.iter_mut().zip(found.unwrap_or_default()) {
                    for (times, seconds) in times.iter_mut().zip(found) {
                        times.push(seconds);
                    }
                }
            }
        }
        let medians = |times: &Vec<[Vec<f64>; 3]>| -> Seconds {
            times.iter().map(|of| of.each_ref().map(|times| median(times))).collect()
        };
        Ok(Alone([0, 1, 2].map(|way| medians(&times[way]))))
    };
    let [first, second] = matrices;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| measure(second));
        let first = measure(first)?;
        let second = other.join().map_err(|_| anyhow::anyhow!("a product panicked"))??;
        Ok([first, second])
    })
}

/// What one core can do: floating-point operations a second in a large product, and bytes a second
/// of a sum over much memory.
pub(crate) fn ceilings() -> (f64, f64) {
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
    let kernel = Kernels::default().of(pp_nn::Product::InputGradient, n);
    let seconds = best(&mut || gemm(kernel, (&mut c, view), (&a, view), (&b, view), 1.0, false));
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
