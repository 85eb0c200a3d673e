//! Which kernel is the fastest on this machine: measured in well under a second.

use std::time::Instant;

use crate::cpu::{self, Addends, InstructionSet, Kernel, Kernels, Panels, Product, View};

/// Another kernel replaces the rule's if it takes at most this fraction of its time: its best time,
/// and its time in more than half of the rounds.
pub const NEEDED: f64 = 0.75;

/// Inputs and outputs of the weight: 4 MiB, more than most second-level caches hold.
const WIDTH: usize = 1024;
/// Rows that stand for few, some and many.
const ROWS: [usize; 3] = [8, 32, 256];
/// How often each kernel has its turn.
const ROUNDS: [usize; 3] = [60, 30, 9];

/// What one kernel took for one product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// The product.
    pub product: Product,
    /// Rows of the micro-batch; the weight is 1,024 × 1,024.
    pub rows: usize,
    /// The kernel.
    pub kernel: Kernel,
    /// Its best time.
    pub seconds: f64,
    /// Share of the rounds in which it took at most [`NEEDED`] of the time of the rule's kernel.
    pub clear_wins: f64,
}

impl Trial {
    /// Floating-point operations a second.
    pub fn flops(&self) -> f64 {
        2.0 * (self.rows * WIDTH * WIDTH) as f64 / self.seconds
    }
}

/// A choice, and what it was made from.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// The choice.
    pub kernels: Kernels,
    /// What was measured.
    pub trials: Vec<Trial>,
}

/// Measures every kernel that this processor and this build have, in turns, on one thread. What
/// else runs on the machine can only make a time longer, so the best time of each counts. On a busy
/// machine one kernel alone may meet a quiet moment, so its time in each round counts as well.
///
/// Panels of weights are packed before. A run that does not keep packed weights uses the same
/// choice, so that its bits are the same.
///
/// The rule ([`Kernels::for_processor`]) stays where nothing is clearly faster ([`NEEDED`]).
pub fn tune() -> Tuning {
    let candidates: Vec<Kernel> = Kernel::ALL.into_iter().filter(|k| k.is_available()).collect();
    let rule = Kernels::for_processor();
    let mut bench = Bench::new();
    let mut trials = Vec::new();
    for product in Product::ALL {
        for (rows, n_rounds) in ROWS.into_iter().zip(ROUNDS) {
            // Made for few rows; with many it would take longer than all others together.
            let takes_part = |&kernel: &Kernel| kernel != Kernel::InPlace || rows != ROWS[2];
            let kernels: Vec<Kernel> = candidates.iter().copied().filter(takes_part).collect();
            let mut time_all =
                || kernels.iter().map(|&kernel| bench.seconds(product, rows, kernel)).collect();
            let rounds: Vec<Vec<f64>> = (0..n_rounds).map(|_| time_all()).collect();
            let usual = kernels.iter().position(|&kernel| kernel == rule.of(product, rows));
            trials.extend(kernels.iter().enumerate().map(|(i, &kernel)| {
                let clear = |times: &&Vec<f64>| {
                    usual.is_some_and(|usual| times[i] <= NEEDED * times[usual])
                };
                Trial {
                    product,
                    rows,
                    kernel,
                    seconds: rounds.iter().map(|times| times[i]).fold(f64::INFINITY, f64::min),
                    clear_wins: rounds.iter().filter(clear).count() as f64 / n_rounds as f64,
                }
            }));
        }
    }
    Tuning { kernels: choose(rule, &trials), trials }
}

/// The rule, except where a trial was clearly faster.
fn choose(rule: Kernels, trials: &[Trial]) -> Kernels {
    let mut chosen = rule;
    for product in Product::ALL {
        for (class, rows) in ROWS.into_iter().enumerate() {
            let of_class = || trials.iter().filter(|t| t.product == product && t.rows == rows);
            let by_rule = rule.of(product, rows);
            let usual = of_class().find(|t| t.kernel == by_rule);
            // Where the rule reads weights in place, panels of them would cost memory.
            let has_panels = by_rule.takes_panels() || product == Product::WeightGradient;
            let fastest = of_class()
                .filter(|t| has_panels || !t.kernel.takes_panels())
                .filter(|t| t.clear_wins > 0.5 || t.kernel == by_rule)
                .min_by(|a, b| a.seconds.total_cmp(&b.seconds));
            let (Some(usual), Some(fastest)) = (usual, fastest) else { continue };
            if fastest.seconds <= NEEDED * usual.seconds {
                chosen = chosen.with(product, class, fastest.kernel);
            }
        }
    }
    chosen
}

/// Matrices for all trials.
struct Bench {
    x: Vec<f32>,
    gy: Vec<f32>,
    weight: Vec<f32>,
    gradient: Vec<f32>,
    panels: Vec<(Kernel, bool, Panels)>,
}

impl Bench {
    fn new() -> Self {
        let value = |i: usize| (i * 31 % 101) as f32 / 101.0 - 0.5;
        let most = ROWS[2] * WIDTH;
        let weight: Vec<f32> = (0..WIDTH * WIDTH).map(value).collect();
        let mut panels = Vec::new();
        for kernel in Kernel::ALL {
            let Some(set) = InstructionSet::of(kernel) else { continue };
            for is_output in [true, false] {
                let mut made = Panels::new(set, WIDTH, WIDTH);
                let view = View::row_major(WIDTH, WIDTH);
                made.fill((&weight, if is_output { view.transposed() } else { view }));
                panels.push((kernel, is_output, made));
            }
        }
        Self {
            x: (0..most).map(value).collect(),
            gy: (0..most).map(value).collect(),
            gradient: weight.clone(),
            weight,
            panels,
        }
    }

    /// One product, as a layer makes it: weights that a kernel wants as panels are there already.
    fn seconds(&mut self, product: Product, rows: usize, kernel: Kernel) -> f64 {
        let (of_rows, square) = (View::row_major(rows, WIDTH), View::row_major(WIDTH, WIDTH));
        let is_output = product == Product::Output;
        let panels =
            self.panels.iter().find(|(of, direction, _)| *of == kernel && *direction == is_output);
        let begun = Instant::now();
        match (product, panels) {
            (Product::WeightGradient, _) => cpu::gemm(
                kernel,
                (&mut self.gradient, square),
                (&self.gy, of_rows.transposed()),
                (&self.x, of_rows),
                1.0,
                true,
            ),
            (_, Some((.., panels))) => {
                let (to, from) = ((&mut self.gy[..], of_rows), (&self.x[..], of_rows));
                cpu::gemm_by_panels(panels, to, from, Addends::default());
            }
            (_, None) => {
                let right = if is_output { square.transposed() } else { square };
                let (to, from) = ((&mut self.gy[..], of_rows), (&self.x[..], of_rows));
                cpu::gemm(kernel, to, from, (&self.weight, right), 1.0, false);
            }
        }
        begun.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if `seconds` were measured for every product and any number of rows, in each round.
    fn trials(seconds: &[(Kernel, f64)]) -> Vec<Trial> {
        let usual = seconds[0].1;
        let mut trials = Vec::new();
        for product in Product::ALL {
            for rows in ROWS {
                let of = |&(kernel, seconds)| {
                    let clear_wins = f64::from(u8::from(seconds <= NEEDED * usual));
                    Trial { product, rows, kernel, seconds, clear_wins }
                };
                trials.extend(seconds.iter().map(of));
            }
        }
        trials
    }

    #[test]
    fn the_rule_stays_where_nothing_is_clearly_faster() {
        let rule = Kernels::all(Kernel::Avx512);
        let near = trials(&[(Kernel::Avx512, 1.0), (Kernel::Avx2, 0.85), (Kernel::Gemm, 1.2)]);
        assert_eq!(choose(rule, &near), rule);
        let clear = trials(&[(Kernel::Avx512, 1.0), (Kernel::Avx2, 0.7), (Kernel::Gemm, 0.75)]);
        assert_eq!(choose(rule, &clear), Kernels::all(Kernel::Avx2));
        // Panels of weights take memory; the weight gradient has none.
        let in_place = Kernels::all(Kernel::InPlace);
        let panels = trials(&[(Kernel::InPlace, 1.0), (Kernel::Avx2, 0.1), (Kernel::Gemm, 0.9)]);
        let chosen = choose(in_place, &panels);
        for rows in ROWS {
            assert_eq!(chosen.of(Product::Output, rows), Kernel::InPlace);
            assert_eq!(chosen.of(Product::InputGradient, rows), Kernel::InPlace);
            assert_eq!(chosen.of(Product::WeightGradient, rows), Kernel::Avx2);
        }
        // A single quiet moment on a busy machine is not enough.
        let mut lucky = clear.clone();
        for trial in &mut lucky {
            trial.clear_wins = trial.clear_wins.min(0.5);
        }
        assert_eq!(choose(rule, &lucky), rule);
        // Of a rule whose kernel was not measured nothing is known to be faster.
        assert_eq!(choose(Kernels::all(Kernel::Blas), &clear), Kernels::all(Kernel::Blas));
    }

    #[test]
    fn every_kernel_is_tried_for_every_product_and_class() {
        let tuning = tune();
        let mut wanted = Vec::new();
        for product in Product::ALL {
            for rows in ROWS {
                let kernels = Kernel::ALL.into_iter().filter(|kernel| kernel.is_available());
                // In place is not for many rows.
                let kernels = kernels.filter(|&k| k != Kernel::InPlace || rows != ROWS[2]);
                wanted.extend(kernels.map(|kernel| (product, rows, kernel)));
            }
        }
        let tried: Vec<_> = tuning.trials.iter().map(|t| (t.product, t.rows, t.kernel)).collect();
        assert_eq!(tried, wanted);
        assert_eq!(choose(Kernels::for_processor(), &tuning.trials), tuning.kernels);
    }
}
