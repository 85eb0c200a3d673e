//! How the learning rate changes over a run.

use std::f64::consts::PI;
use std::fmt;

/// The shape after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearningRateCurve {
    /// The peak throughout.
    Constant,
    /// Multiplied by `gamma` after every `every` steps.
    Step {
        /// Steps between changes.
        every: u64,
        /// The factor.
        gamma: f64,
    },
    /// Half a cosine from the peak to a tenth of it at the last step
    /// (Loshchilov, Hutter 2017, arXiv:1608.03983).
    Cosine,
}

/// The learning rate of every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// The highest rate.
    pub peak: f64,
    /// The shape after the warm-up.
    pub curve: LearningRateCurve,
    /// Steps of linear growth from `peak / warmup` to `peak`.
    pub warmup: u64,
}

impl fmt::Display for LearningRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peak, curve, warmup } = self;
        write!(f, "{peak}")?;
        match curve {
            LearningRateCurve::Constant => {}
            LearningRateCurve::Step { every, gamma } => {
                write!(f, ", times {gamma} every {every} steps")?;
            }
            LearningRateCurve::Cosine => f.write_str(", half a cosine")?,
        }
        if *warmup > 0 { write!(f, ", {warmup} steps of warm-up") } else { Ok(()) }
    }
}

impl LearningRate {
    /// Whether the rate of a step depends on the number of steps of the run.
    pub fn needs_steps(&self) -> bool {
        self.curve == LearningRateCurve::Cosine
    }

    /// The rate of `step`, counted from 1, in a run of `steps`.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        let step = step.max(1);
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let done = step - self.warmup - 1;
        match self.curve {
            LearningRateCurve::Constant => self.peak,
            LearningRateCurve::Step { every, gamma } => {
                self.peak * gamma.powf((done / every.max(1)) as f64)
            }
            LearningRateCurve::Cosine => {
                let whole = steps.saturating_sub(self.warmup + 1).max(1) as f64;
                let progress = (done as f64 / whole).min(1.0);
                self.peak * (0.1 + 0.9 * 0.5 * (1.0 + (PI * progress).cos()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "halves of 1 are exact")]
    fn the_three_curves() {
        let rate = |curve, warmup| LearningRate { peak: 1.0, curve, warmup };
        let step = rate(LearningRateCurve::Step { every: 20, gamma: 0.5 }, 0);
        assert_eq!([1, 20, 21, 40, 41].map(|s| step.at(s, 50)), [1.0, 1.0, 0.5, 0.5, 0.25]);
        let cosine = rate(LearningRateCurve::Cosine, 10);
        assert!(
            (cosine.at(1, 110) - 0.1).abs() < 1e-12 && (cosine.at(10, 110) - 1.0).abs() < 1e-12
        );
        assert!(
            (cosine.at(11, 110) - 1.0).abs() < 1e-12 && (cosine.at(110, 110) - 0.1).abs() < 1e-12
        );
        assert_eq!(rate(LearningRateCurve::Constant, 0).at(7, 9), 1.0);
    }
}
