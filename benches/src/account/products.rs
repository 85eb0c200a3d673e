//! What matrix products alone take, and what one core can do.

use std::sync::Barrier;
use std::time::Instant;

use candle_core::{Device, Tensor};
use pp_nn::{Kernels, View, gemm};

use crate::median;

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

/// The matrices of one rank's products. A pass goes through all layers, as a stage does, so that each finds its weights as cold.
pub(crate) struct Matrices {
    products: Vec<Product>,
    of: Vec<[Vec<f32>; 6]>,
    tensors: Vec<[Tensor; 3]>,
}

/// Which matrix, in [`Matrices::of`] and [`Matrices::tensors`].
const X: usize = 0;
const GY: usize = 1;
const WEIGHT: usize = 2;

impl Matrices {
    pub(crate) fn new(products: &[Product]) -> candle_core::Result<Self> {
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
        let kernels = Kernels::default();
        self.timed(|phase, p, [x, gy, weight, y, gx, gw], _| {
            let kernel = |product| kernels.of(product, p.rows);
            for time in 0..p.times {
                let at = |rows: usize, columns: usize| {
                    let view = View::row_major(rows, columns);
                    View { offset: time * rows * columns, ..view }
                };
                let (xv, gyv) = (at(p.rows, p.inputs), at(p.rows, p.outputs));
                let wv = at(p.outputs, p.inputs);
                match phase {
                    0 => gemm(
                        kernel(pp_nn::Product::Output),
                        (y, gyv),
                        (x, xv),
                        (weight, wv.transposed()),
                        1.0,
                        false,
                    ),
                    1 => gemm(
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
}

/// Seconds that the products of a micro-batch take on each rank, both ranks at once: of F, I and W the faster of candle's and ours.
pub(crate) fn products_alone(matrices: &mut [Matrices; 2]) -> anyhow::Result<[[f64; 3]; 2]> {
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
