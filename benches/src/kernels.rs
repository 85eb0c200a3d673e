//! GFLOP/s of each kernel for each product of a layer, and the choice that follows.
//! Run it with `just bench-kernels`.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context as _;
use pp_nn::{Kernel, Product, Tuning, View, gemm, tune};

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
