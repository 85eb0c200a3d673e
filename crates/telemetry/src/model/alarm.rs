//! Whether the training goes wrong: a loss or a gradient norm that is no number, that jumps, or
//! that stays far above what it was.
//!
//! One detector for all: the trainer warns with it while it trains, and the fold finds the same in
//! any log, also in one that was written before the trainer warned.

use std::collections::VecDeque;
use std::fmt;

use crate::mark_v1::{AlarmV1, WatchdogV1};
use pp_quantile::upper_median;

/// Steps whose numbers a new one is compared with.
const WINDOW: usize = 50;
/// So many of them say what is usual.
const ENOUGH: usize = 10;
/// A jump leaves the median by more than so many median absolute deviations,
const DEVIATIONS: f64 = 10.0;
/// and by more than this factor: of the loss,
const FACTOR: f64 = 3.0;
/// and of the norm of the gradients, which varies more in trainings that go well.
const FACTOR_OF_NORM: f64 = 10.0;
/// Before it is known what is usual, a jump is so many times the largest number so far. The first
/// steps of any training vary much.
const FACTOR_EARLY: f64 = 30.0;
/// Losses of which the median says how it stands; one or two that jump do not make a divergence.
const LEVEL: usize = 3;
/// The loss diverges when its level is above the first loss by this factor,
const OVER_FIRST: f64 = 2.0;
/// or above the best level that it had over a whole window by this one, if that leaves the noise of
/// that window as well.
const OVER_BEST: f64 = 5.0;
/// The loss of a single step that is above the first one by this factor diverges at once.
const OVER_FIRST_AT_ONCE: f64 = 10.0;
/// It is over when the level is below this share of what raised it.
const CALM: f64 = 0.8;
/// Steps for which a jump is shown, and within which the same kind is not told again.
const QUIET: u64 = 50;

/// What is wrong with the training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alarm {
    /// The loss is no finite number.
    LossNotFinite {
        /// The first step of which that is so.
        step: u64,
    },
    /// The norm of the gradients is no finite number.
    NormNotFinite {
        /// The first step of which that is so.
        step: u64,
    },
    /// The loss stays far above what it was.
    Diverging {
        /// The step at which that was first so.
        step: u64,
        /// The loss there.
        loss: f64,
        /// What it is compared with: the first loss, or the best level.
        before: f64,
        /// Whether that is the first loss.
        is_first: bool,
    },
    /// The loss of a step jumped.
    LossSpike {
        /// The step.
        step: u64,
        /// Its loss.
        value: f64,
        /// What was usual.
        usual: f64,
    },
    /// The norm of the gradients of a step jumped.
    NormSpike {
        /// The step.
        step: u64,
        /// Its norm.
        value: f64,
        /// What was usual.
        usual: f64,
    },
}

impl Alarm {
    /// The step at which it began.
    pub fn step(self) -> u64 {
        match self {
            Self::LossNotFinite { step }
            | Self::NormNotFinite { step }
            | Self::Diverging { step, .. }
            | Self::LossSpike { step, .. }
            | Self::NormSpike { step, .. } => step,
        }
    }

    /// Its kind, as in JSON.
    pub fn kind(self) -> &'static str {
        match self {
            Self::LossNotFinite { .. } => "loss_not_finite",
            Self::NormNotFinite { .. } => "norm_not_finite",
            Self::Diverging { .. } => "diverging",
            Self::LossSpike { .. } => "loss_spike",
            Self::NormSpike { .. } => "norm_spike",
        }
    }

    /// In one or two words, for a line without room.
    pub fn short(self) -> &'static str {
        match self {
            Self::LossNotFinite { .. } => "loss not finite",
            Self::NormNotFinite { .. } => "gradient not finite",
            Self::Diverging { .. } => "diverging",
            Self::LossSpike { .. } => "loss spike",
            Self::NormSpike { .. } => "gradient spike",
        }
    }

    /// Whether it is about a single step, after which all may be well again.
    pub fn is_spike(self) -> bool {
        matches!(self, Self::LossSpike { .. } | Self::NormSpike { .. })
    }

    /// How bad it is, for choosing between two.
    fn rank(self) -> u8 {
        match self {
            Self::LossNotFinite { .. } => 4,
            Self::NormNotFinite { .. } => 3,
            Self::Diverging { .. } => 2,
            Self::LossSpike { .. } => 1,
            Self::NormSpike { .. } => 0,
        }
    }
}

impl From<Alarm> for AlarmV1 {
    fn from(alarm: Alarm) -> Self {
        match alarm {
            Alarm::LossNotFinite { step } => Self::LossNotFinite { step },
            Alarm::NormNotFinite { step } => Self::NormNotFinite { step },
            Alarm::Diverging { step, loss, before, is_first } => {
                Self::Diverging { step, loss, before, is_first }
            }
            Alarm::LossSpike { step, value, usual } => Self::LossSpike { step, value, usual },
            Alarm::NormSpike { step, value, usual } => Self::NormSpike { step, value, usual },
        }
    }
}

impl From<AlarmV1> for Alarm {
    fn from(saved: AlarmV1) -> Self {
        match saved {
            AlarmV1::LossNotFinite { step } => Self::LossNotFinite { step },
            AlarmV1::NormNotFinite { step } => Self::NormNotFinite { step },
            AlarmV1::Diverging { step, loss, before, is_first } => {
                Self::Diverging { step, loss, before, is_first }
            }
            AlarmV1::LossSpike { step, value, usual } => Self::LossSpike { step, value, usual },
            AlarmV1::NormSpike { step, value, usual } => Self::NormSpike { step, value, usual },
        }
    }
}

/// A number of a loss with four digits, and without a row of zeros.
fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.2e}");
    }
    let text = match size {
        _ if size >= 1000.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// `1616 times`, or nothing where there is nothing to divide by.
fn times(value: f64, usual: f64) -> String {
    let ratio = value / usual;
    if !ratio.is_finite() || usual <= 0.0 {
        return "far above".to_owned();
    }
    match ratio {
        _ if ratio >= 1e6 => format!("{ratio:.0e} times"),
        _ if ratio >= 10.0 => format!("{ratio:.0} times"),
        _ => format!("{ratio:.1} times"),
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LossNotFinite { step } => {
                write!(
                    f,
                    "the loss is not finite from step {step} on; try a lower --lr or --clip-norm 1"
                )
            }
            Self::NormNotFinite { step } => write!(
                f,
                "the gradient norm is not finite from step {step} on; try a lower --lr or --clip-norm 1"
            ),
            Self::Diverging { step, loss, before, is_first } => {
                let what = if is_first { "first" } else { "best level" };
                let times = times(loss, before);
                let (loss, before) = (number(loss), number(before));
                write!(
                    f,
                    "the loss diverges: {loss} at step {step}, {times} the {what} ({before}); try a lower --lr or --clip-norm 1"
                )
            }
            Self::LossSpike { step, value, usual } => write!(
                f,
                "loss spike at step {step}: {}, {} the usual {}",
                number(value),
                times(value, usual),
                number(usual)
            ),
            Self::NormSpike { step, value, usual } => write!(
                f,
                "gradient norm spike at step {step}: {}, {} the usual {}",
                number(value),
                times(value, usual),
                number(usual)
            ),
        }
    }
}

/// The median, and the median distance from it.
fn usual(values: &VecDeque<f64>) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.iter().copied().collect();
    let middle = upper_median(&mut values)?;
    let mut distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    Some((middle, upper_median(&mut distances)?))
}

fn keep(window: &mut VecDeque<f64>, value: f64) {
    if window.len() >= WINDOW {
        window.pop_front();
    }
    window.push_back(value);
}

/// What is usual, if `value` jumps out of it.
fn jumps(window: &VecDeque<f64>, value: f64, factor: f64) -> Option<f64> {
    if window.len() < ENOUGH {
        let largest = window.iter().copied().fold(0.0, f64::max);
        return (largest > 0.0 && value > largest * FACTOR_EARLY).then_some(largest);
    }
    let (middle, deviation) = usual(window)?;
    let is_far = value > middle + DEVIATIONS * deviation && value > middle * factor;
    (is_far && middle > 0.0).then_some(middle)
}

/// Looks at each step of a run, one after another, and says what goes wrong.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Watchdog {
    losses: VecDeque<f64>,
    norms: VecDeque<f64>,
    first: Option<f64>,
    /// The lowest median of a whole window of losses, and the spread in that window.
    best: Option<(f64, f64)>,
    /// What lasts.
    state: Option<Alarm>,
    /// The last jump.
    spike: Option<Alarm>,
    /// The step after which a jump of each kind may be told again: of the loss, of the norm.
    quiet_until: [u64; 2],
    n_spikes: u64,
    step: u64,
}

impl Watchdog {
    /// Looks at a step. What is wrong from here on is returned once, to be told.
    pub fn step(&mut self, step: u64, loss: f64, grad_norm: f64) -> Option<Alarm> {
        self.step = step;
        let before = self.state;
        let spike = self.spikes(step, loss, grad_norm);
        self.state = self.lasting(step, loss, grad_norm);
        if loss.is_finite() {
            self.first.get_or_insert(loss);
            keep(&mut self.losses, loss);
            if self.state.is_none() && self.losses.len() == WINDOW {
                let found = usual(&self.losses);
                if let Some(found) = found.filter(|new| self.best.is_none_or(|best| new.0 < best.0))
                {
                    self.best = Some(found);
                }
            }
        }
        if grad_norm.is_finite() {
            keep(&mut self.norms, grad_norm);
        }
        let is_new = |alarm: &Alarm| before.is_none_or(|before| before.rank() != alarm.rank());
        match self.state {
            Some(alarm) => Some(alarm).filter(is_new),
            None => spike,
        }
    }

    /// What lasts, after this step.
    fn lasting(&self, step: u64, loss: f64, grad_norm: f64) -> Option<Alarm> {
        if !loss.is_finite() {
            let known = matches!(self.state, Some(Alarm::LossNotFinite { .. }));
            return self.state.filter(|_| known).or(Some(Alarm::LossNotFinite { step }));
        }
        if !grad_norm.is_finite() {
            let known = matches!(self.state, Some(Alarm::NormNotFinite { .. }));
            return self.state.filter(|_| known).or(Some(Alarm::NormNotFinite { step }));
        }
        let mut last: Vec<f64> = self.losses.iter().rev().take(LEVEL - 1).copied().collect();
        last.push(loss);
        let level = upper_median(&mut last.clone())?;
        if let Some(alarm @ Alarm::Diverging { before, is_first, .. }) = self.state {
            let factor = if is_first { OVER_FIRST } else { OVER_BEST };
            return Some(alarm).filter(|_| level > before * factor * CALM);
        }
        let is_whole = last.len() == LEVEL;
        if let Some(first) = self.first.filter(|&first| first > 0.0)
            && ((is_whole && last.iter().all(|&loss| loss > first * OVER_FIRST))
                || loss > first * OVER_FIRST_AT_ONCE)
        {
            return Some(Alarm::Diverging { step, loss, before: first, is_first: true });
        }
        // The noise of a loss grows less than the loss itself: far beyond it is no noise.
        let (best, deviation) = self.best.filter(|&(best, _)| best > 0.0)?;
        let bound = (best * OVER_BEST).max(best + DEVIATIONS * deviation);
        let recent: Vec<f64> = self.losses.iter().rev().take(ENOUGH - 1).copied().collect();
        let stays = recent.len() + 1 == ENOUGH && recent.iter().all(|&loss| loss > bound);
        (stays && loss > bound).then_some(Alarm::Diverging {
            step,
            loss,
            before: best,
            is_first: false,
        })
    }

    /// Whether one of the numbers jumps, and whether that has to be told.
    fn spikes(&mut self, step: u64, loss: f64, grad_norm: f64) -> Option<Alarm> {
        let of_norm = jumps(&self.norms, grad_norm, FACTOR_OF_NORM).map(|usual| Alarm::NormSpike {
            step,
            value: grad_norm,
            usual,
        });
        let of_loss = jumps(&self.losses, loss, FACTOR).map(|usual| Alarm::LossSpike {
            step,
            value: loss,
            usual,
        });
        let mut told = None;
        for (kind, alarm) in [(1, of_norm), (0, of_loss)] {
            let Some(alarm) = alarm else { continue };
            self.n_spikes += 1;
            self.spike = Some(alarm);
            if step >= self.quiet_until[kind] {
                self.quiet_until[kind] = step.saturating_add(QUIET);
                told = Some(alarm);
            }
        }
        told
    }

    /// What is wrong now: what lasts, or else a jump within the last steps.
    pub fn alarm(&self) -> Option<Alarm> {
        let is_fresh = |alarm: &Alarm| self.step.saturating_sub(alarm.step()) < QUIET;
        self.state.or_else(|| self.spike.filter(is_fresh))
    }

    /// Jumps of the loss and of the norm so far.
    pub fn n_spikes(&self) -> u64 {
        self.n_spikes
    }

    /// The last jump.
    pub fn last_spike(&self) -> Option<Alarm> {
        self.spike
    }

    /// Whether it keeps its bounds: one that was read from a log might not.
    pub(crate) fn is_bounded(&self) -> bool {
        self.losses.len() <= WINDOW && self.norms.len() <= WINDOW
    }
}

impl From<&Watchdog> for WatchdogV1 {
    fn from(watchdog: &Watchdog) -> Self {
        Self {
            losses: watchdog.losses.clone(),
            norms: watchdog.norms.clone(),
            first: watchdog.first,
            best: watchdog.best,
            state: watchdog.state.map(AlarmV1::from),
            spike: watchdog.spike.map(AlarmV1::from),
            quiet_until: watchdog.quiet_until,
            n_spikes: watchdog.n_spikes,
            step: watchdog.step,
        }
    }
}

impl From<WatchdogV1> for Watchdog {
    fn from(saved: WatchdogV1) -> Self {
        Self {
            losses: saved.losses,
            norms: saved.norms,
            first: saved.first,
            best: saved.best,
            state: saved.state.map(Alarm::from),
            spike: saved.spike.map(Alarm::from),
            quiet_until: saved.quiet_until,
            n_spikes: saved.n_spikes,
            step: saved.step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The alarms that these losses raise, with a constant norm.
    fn told(losses: impl IntoIterator<Item = f64>) -> Vec<Alarm> {
        let mut watchdog = Watchdog::default();
        (1..).zip(losses).filter_map(|(step, loss)| watchdog.step(step, loss, 1.0)).collect()
    }

    /// Numbers around 1 that look random.
    fn noise(at: u64) -> f64 {
        let x = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        0.7 + 0.6 * ((x >> 40) as f64 / (1_u64 << 24) as f64)
    }

    #[test]
    fn a_loss_that_goes_from_five_to_thousands_is_told_at_once_and_once() {
        let mut watchdog = Watchdog::default();
        assert_eq!(watchdog.step(1, 5.5, 2.0), None);
        assert_eq!(watchdog.step(2, 7.0, 3.0), None);
        let alarm = watchdog.step(3, 8888.0, 1e13).unwrap();
        assert_eq!(alarm, Alarm::Diverging { step: 3, loss: 8888.0, before: 5.5, is_first: true });
        let text = alarm.to_string();
        assert!(
            text.starts_with("the loss diverges: 8888 at step 3, 1616 times the first (5.5)"),
            "{text}"
        );
        for step in 4..500 {
            assert_eq!(watchdog.step(step, 9000.0, 1e13), None, "{step}");
        }
        assert_eq!(watchdog.alarm(), Some(alarm));
        // It may come back.
        (500..600).for_each(|step| assert_eq!(watchdog.step(step, 2.0, 1.0), None));
        assert_eq!(watchdog.alarm(), None);
    }

    #[test]
    fn a_loss_that_stays_above_its_first_or_its_best_diverges() {
        let rises = told((1..=40).map(|step| 5.5 + f64::from(step)));
        assert!(matches!(rises[..], [Alarm::Diverging { is_first: true, .. }]), "{rises:?}");
        // Far below the first loss, and lost again.
        let lost = (1..=300).map(|step| if step < 200 { 5.5 / f64::from(step) } else { 5.0 });
        let lost = told(lost);
        assert!(
            matches!(lost[..], [Alarm::LossSpike { .. }, Alarm::Diverging { is_first: false, .. }]),
            "{lost:?}"
        );
    }

    #[test]
    fn a_number_that_is_none_is_told_once_until_it_is_one_again() {
        let nan = told([2.0, f64::NAN, f64::NAN, f64::INFINITY, 2.0, f64::NAN]);
        assert_eq!(nan, [Alarm::LossNotFinite { step: 2 }, Alarm::LossNotFinite { step: 6 }]);
        let mut watchdog = Watchdog::default();
        assert_eq!(watchdog.step(1, 1.0, f64::INFINITY), Some(Alarm::NormNotFinite { step: 1 }));
        assert_eq!(watchdog.step(2, 1.0, f64::NAN), None);
        assert_eq!(watchdog.step(3, f64::NAN, f64::NAN), Some(Alarm::LossNotFinite { step: 3 }));
    }

    #[test]
    fn a_jump_is_told_and_a_row_of_them_not_again_for_a_while() {
        let mut watchdog = Watchdog::default();
        for step in 1..=60 {
            assert_eq!(watchdog.step(step, 2.0 * noise(step), noise(step)), None, "{step}");
        }
        let alarm = watchdog.step(61, 9.0, 1.0).unwrap();
        assert!(matches!(alarm, Alarm::LossSpike { step: 61, .. }), "{alarm:?}");
        assert!(matches!(watchdog.step(62, 2.0, 40.0), Some(Alarm::NormSpike { .. })));
        assert_eq!(watchdog.step(63, 9.0, 40.0), None);
        assert_eq!((watchdog.n_spikes(), watchdog.alarm().map(Alarm::step)), (4, Some(63)));
        (64..200).for_each(|step| assert_eq!(watchdog.step(step, 2.0, 1.0), None));
        assert_eq!(watchdog.alarm(), None, "it is long ago");
    }

    #[test]
    fn what_is_well_raises_no_alarm() {
        // Random labels: the loss hovers at the logarithm of ten.
        assert_eq!(told((0..500).map(|at| 2.30 + 0.02 * noise(at))), []);
        // Small batches of a job that is nearly learned: noise as large as the loss.
        assert_eq!(
            told((0..500).map(|at| 1.8 * (-(at as f64) / 40.0).exp() + 0.1 * noise(at).powi(4))),
            []
        );
        // A loss of zero, and one below it.
        assert_eq!(told((0..100).map(|_| 0.0)), []);
        assert_eq!(told((0..100).map(|at| -1.0 - f64::from(at))), []);
        assert_eq!(told([]), []);
    }

    #[test]
    fn it_comes_back_from_a_log_as_it_was() {
        let mut watchdog = Watchdog::default();
        for step in 1..=70 {
            let loss = if step == 66 { f64::NAN } else { noise(step) };
            watchdog.step(step, loss, noise(step + 1));
            let text = serde_json::to_string(&WatchdogV1::from(&watchdog)).unwrap();
            let back: WatchdogV1 = serde_json::from_str(&text).unwrap();
            assert_eq!(Watchdog::from(back), watchdog, "{step}");
        }
        assert!(watchdog.is_bounded());
    }
}
