//! The speed of each core over time, and the cause of its changes: `just bench-speeds [SECONDS]`.
//!
//! Each core does three things in turns: a chain of additions, in which each waits for the one
//! before; products that stay in the second-level cache; and reads of memory. A lower clock slows
//! the chain as much as the products. Work on the second hardware thread of the core slows the
//! products most: they need all of its arithmetic units, and the chain needs one of them now and
//! then. If that work belongs to another virtual machine, nothing in this one counts it, not even
//! `steal`.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod numbers;

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pp_nn::{Kernel, Panels, View};
use pp_quantile::nearest_rank;
use pp_telemetry::Processor;

use numbers::median;

/// A look at one core: millions of additions a second in a chain, GFLOP/s, GB/s.
#[derive(Clone, Copy)]
struct Look {
    chain: f64,
    products: f64,
    reads: f64,
}

struct Bench {
    panels: Panels,
    a: Vec<f32>,
    c: Vec<f32>,
    memory: Vec<u64>,
}

/// Rows, columns and terms: eight tiles of AVX-512, one panel.
const SIZES: (usize, usize, usize) = (104, 32, 256);

impl Bench {
    fn new(kernel: Kernel) -> anyhow::Result<Self> {
        let (rows, columns, terms) = SIZES;
        let b = vec![0.25f32; terms * columns];
        let panels = Panels::pack(kernel, &b, View::row_major(terms, columns));
        Ok(Self {
            panels: panels.context("this kernel has no panels")?,
            a: vec![0.5; rows * terms],
            c: vec![0.0; rows * columns],
            memory: vec![1; 32 << 20],
        })
    }

    fn look(&mut self) -> Look {
        const ADDITIONS: usize = 1_000_000;
        let (rows, columns, terms) = SIZES;
        let begun = Instant::now();
        let mut sum = 0.0f64;
        let one = black_box(1.0f64);
        for _ in 0..ADDITIONS {
            sum += one;
        }
        black_box(sum);
        let chain = ADDITIONS as f64 / 1e6 / begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        let mut n = 0;
        while begun.elapsed() < Duration::from_millis(2) {
            let of_c = View::row_major(rows, columns);
            self.panels.multiply((&mut self.c, of_c), (&self.a, View::row_major(rows, terms)));
            n += 1;
        }
        let flops = 2.0 * (n * rows * columns * terms) as f64;
        let products = flops / 1e9 / begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        let sum: u64 = self.memory.iter().fold(0, |sum, &x| sum.wrapping_add(x));
        black_box(sum);
        let bytes = (8 * self.memory.len()) as f64;
        Look { chain, products, reads: bytes / 1e9 / begun.elapsed().as_secs_f64() }
    }
}

/// Looks at this thread's core until the time is over.
fn watch(core: usize, seconds: u64) -> anyhow::Result<Vec<Look>> {
    let mut only = rustix::thread::CpuSet::new();
    only.set(core);
    rustix::thread::sched_setaffinity(None, &only)
        .with_context(|| format!("cannot run on core {core} alone"))?;
    let widest = [Kernel::Avx512, Kernel::Avx2, Kernel::Neon];
    let kernel = widest.into_iter().find(|kernel| kernel.is_available());
    let mut bench = Bench::new(kernel.context("this processor has no kernel on panels")?)?;
    let begun = Instant::now();
    let mut looks = Vec::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        looks.push(bench.look());
    }
    Ok(looks)
}

/// Prints the medians of the looks at a core with fast products, and of those with slow ones.
fn print(core: usize, looks: &[Look]) {
    let mut products: Vec<f64> = looks.iter().map(|look| look.products).collect();
    // The 95th percentile, so that no single look decides.
    let Some(fast) = nearest_rank(&mut products, 95) else { return };
    for (name, is_fast) in [("fast", true), ("slow", false)] {
        let of: Vec<&Look> =
            looks.iter().filter(|look| (look.products >= 0.8 * fast) == is_fast).collect();
        let share = 100.0 * of.len() as f64 / looks.len() as f64;
        let median_of =
            |f: fn(&Look) -> f64| median(&of.iter().map(|look| f(look)).collect::<Vec<_>>());
        println!(
            "{core:>4}  {name}  {share:>5.1} % {:>11.1} {:>17.1} {:>11.1}",
            median_of(|look| look.products),
            median_of(|look| look.chain),
            median_of(|look| look.reads),
        );
    }
}

fn main() -> anyhow::Result<()> {
    let seconds = match std::env::args().nth(1) {
        Some(seconds) => seconds.parse().context("the number of seconds")?,
        None => 30,
    };
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let cores = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    let threads: Vec<_> =
        cores.map(|core| (core, std::thread::spawn(move || watch(core, seconds)))).collect();
    println!("{}, all cores at once for {seconds} s", Processor::here());
    println!("core  products  share     GFLOP/s  million adds/s     GB/s read");
    for (core, thread) in threads {
        match thread.join() {
            Ok(looks) => print(core, &looks?),
            Err(_) => anyhow::bail!("the thread on core {core} panicked"),
        }
    }
    Ok(())
}
