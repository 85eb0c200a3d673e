//! GFLOP/s of each kernel for each product of a layer, the choice that follows, and GFLOP/s of the
//! chosen kernels on matrices that come from memory: `just bench-kernels`.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod numbers;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context as _;
use pp_nn::{Kernel, Panels, Product, Tuning, View, gemm, tune};

use numbers::median;

// As `pptop` has it: large blocks lie in huge pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let times = match std::env::args().nth(1) {
        Some(times) => times.parse().context("how often to measure")?,
        None => 1,
    };
    let mut choices: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..times {
        println!("one core's limit: {:.0} GFLOP/s", limit());
        let tuning = tune();
        print(&tuning);
        print_from_memory(&tuning);
        println!("one core's limit: {:.0} GFLOP/s", limit());
        *choices.entry(tuning.kernels.to_string()).or_default() += 1;
    }
    for (choice, n) in choices {
        println!("{n} of {times}: {choice}");
    }
    Ok(())
}

/// GFLOP/s of a product whose matrices stay in the second-level cache, by the fastest kernel.
fn limit() -> f64 {
    // Eight tiles of the widest kernel, one panel.
    let (m, n, k) = (104, 32, 256);
    let views = [View::row_major(m, n), View::row_major(m, k), View::row_major(k, n)];
    let (a, b, mut c) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0.0f32; m * n]);
    let mut fastest = 0.0f64;
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        for _ in 0..200 {
            let begun = Instant::now();
            gemm(kernel, (&mut c, views[0]), (&a, views[1]), (&b, views[2]), 1.0, false);
            let seconds = begun.elapsed().as_secs_f64();
            fastest = fastest.max(1e-9 * 2.0 * (m * n * k) as f64 / seconds);
        }
    }
    fastest
}

/// GFLOP/s of every trial, a line for each product and number of rows.
fn print(tuning: &Tuning) {
    let kernels: Vec<Kernel> = Kernel::ALL.into_iter().filter(|k| k.is_available()).collect();
    print!("{:<16} {:>5}", "GFLOP/s", "rows");
    for kernel in &kernels {
        print!(" {:>9}", kernel.name());
    }
    println!();
    for product in Product::ALL {
        let of_product = || tuning.trials.iter().filter(move |t| t.product == product);
        let mut rows: Vec<usize> = of_product().map(|t| t.rows).collect();
        rows.dedup();
        for rows in rows {
            print!("{:<16} {rows:>5}", product.name());
            for kernel in &kernels {
                let found = of_product().find(|t| t.rows == rows && t.kernel == *kernel);
                match found {
                    Some(trial) => print!(" {:>9.1}", 1e-9 * trial.flops()),
                    None => print!(" {:>9}", "–"),
                }
            }
            println!();
        }
    }
}

/// The chosen kernels on matrices that come from memory, as in a step: many copies, one after the
/// other. Weights are packed before, where the kernel wants panels.
fn print_from_memory(tuning: &Tuning) {
    const ROUNDS: usize = 5;
    println!("from memory      rows  weight of 1024 x 256    256 x 1024   1024 x 1024");
    for product in Product::ALL {
        for rows in [32, 256] {
            print!("{:<16} {rows:>5}", product.name());
            for ((outputs, inputs), width) in
                [(1024, 256), (256, 1024), (1024, 1024)].into_iter().zip([21, 13, 13])
            {
                let mut matrices = Matrices::new(tuning, product, rows, (outputs, inputs));
                let seconds: Vec<f64> = (0..ROUNDS).flat_map(|_| matrices.seconds()).collect();
                let flops = 2.0 * (rows * outputs * inputs) as f64;
                print!(" {:>width$.1}", 1e-9 * flops / median(&seconds));
            }
            println!();
        }
    }
}

/// Copies of what one product needs: some 64 MiB without the panels.
struct Matrices {
    product: Product,
    kernel: Kernel,
    rows: usize,
    weight: (usize, usize),
    copies: Vec<Copy>,
}

struct Copy {
    x: Vec<f32>,
    gy: Vec<f32>,
    weight: Vec<f32>,
    panels: Option<Panels>,
}

impl Matrices {
    fn new(tuning: &Tuning, product: Product, rows: usize, weight: (usize, usize)) -> Self {
        let (outputs, inputs) = weight;
        let kernel = tuning.kernels.of(product, rows);
        let view = View::row_major(outputs, inputs);
        let view = if product == Product::Output { view.transposed() } else { view };
        let bytes = 4 * (rows * (outputs + inputs) + outputs * inputs);
        let copies = (0..(64 << 20) / bytes).map(|_| {
            let weight = vec![0.25; outputs * inputs];
            let panels = Panels::pack(kernel, &weight, view);
            Copy { x: vec![0.5; rows * inputs], gy: vec![0.5; rows * outputs], weight, panels }
        });
        Self { product, kernel, rows, weight, copies: copies.collect() }
    }

    /// The time of one product with each copy.
    fn seconds(&mut self) -> Vec<f64> {
        let (outputs, inputs) = self.weight;
        let of_weight = View::row_major(outputs, inputs);
        let (of_x, of_gy) =
            (View::row_major(self.rows, inputs), View::row_major(self.rows, outputs));
        let time_of = |copy: &mut Copy| {
            let Copy { x, gy, weight, panels } = copy;
            let begun = Instant::now();
            match (self.product, panels) {
                (Product::WeightGradient, _) => gemm(
                    self.kernel,
                    (weight, of_weight),
                    (gy, of_gy.transposed()),
                    (x, of_x),
                    1.0,
                    true,
                ),
                (Product::Output, Some(panels)) => panels.multiply((gy, of_gy), (x, of_x)),
                (Product::InputGradient, Some(panels)) => panels.multiply((x, of_x), (gy, of_gy)),
                (Product::Output, None) => {
                    let weight = (&weight[..], of_weight.transposed());
                    gemm(self.kernel, (gy, of_gy), (x, of_x), weight, 1.0, false);
                }
                (Product::InputGradient, None) => {
                    gemm(self.kernel, (x, of_x), (gy, of_gy), (weight, of_weight), 1.0, false);
                }
            }
            begun.elapsed().as_secs_f64()
        };
        self.copies.iter_mut().map(time_of).collect()
    }
}
