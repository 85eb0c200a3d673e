//! What the losses of a run say: whether it has learned what its data can teach.

use pp_train::Job;
use serde::Serialize;

/// What a final loss says. The names are those of `compare --json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It has learned.
    Converged,
    /// The loss has fallen, not so far.
    Partly,
    /// The loss has not fallen.
    Not,
}

/// What a job's data can teach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// The notebook's own rule: a loss below 1.
    BelowOne,
    /// The loss of the best guess that ignores the inputs. A model that uses them gets below it.
    Below(f64),
    /// Labels that have nothing to do with the inputs: this loss is the least possible.
    Noise(f64),
    /// Nothing is learned here.
    None,
}

/// What the losses of a run say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Learned {
    pub(crate) verdict: Verdict,
    /// The verdict in a word, with what happened where it did not converge.
    pub(crate) word: &'static str,
    /// From the first loss to the last ones, as a part of the first.
    pub(crate) change: Option<f64>,
}

/// What is above nothing: a loss that changes by less has not changed.
const FLAT: f64 = 0.01;
/// From this growth on a loss has not only got worse: the warning of a run that trains begins here
/// as well.
const DOUBLED: f64 = 1.0;
/// How far below the best blind guess a model has to come to have used its inputs.
const USED_INPUTS: f64 = 0.9;
/// The last losses are those of this part of the steps: one batch is easier than another.
const LAST_PART: usize = 10;

impl Goal {
    /// The goal of a job.
    pub(crate) fn of(job: &Job, is_seed: bool) -> Self {
        match job.data.blind_loss() {
            _ if is_seed => Self::BelowOne,
            None => Self::None,
            Some(blind) if job.data.is_learnable() => Self::Below(blind),
            Some(least) => Self::Noise(least),
        }
    }

    /// What to say of it below a table.
    pub(crate) fn legend(self) -> Option<String> {
        const REST: &str = "improved: it fell by 1 % or more; flat: it changed by less; worse: it rose by more; diverged: it doubled, or is no number";
        match self {
            Self::BelowOne => Some(
                "verdict, by the notebook's rule: converged (the final loss is below 1 and below the first), improved (below the first), flat, worse or diverged."
                    .to_owned(),
            ),
            Self::Below(blind) => Some(format!(
                "verdict: converged (the loss is below {:.3}, 10 % under the best guess that ignores the inputs, {blind:.3}); {REST}.",
                USED_INPUTS * blind
            )),
            Self::Noise(least) => Some(format!(
                "verdict: converged (the loss is within 1 % of {least:.3}, the least that random labels allow); {REST}."
            )),
            Self::None => None,
        }
    }
}

/// Judges the losses of a run, from its first step to its last.
pub(crate) fn learned(losses: &[f32], goal: Goal) -> Learned {
    let first = losses.first().map_or(f64::NAN, |&loss| f64::from(loss));
    // The notebook looks at the last loss alone.
    let n_last = if goal == Goal::BelowOne { 1 } else { losses.len().div_ceil(LAST_PART).max(1) };
    let tail = &losses[losses.len().saturating_sub(n_last)..];
    let last = tail.iter().map(|&loss| f64::from(loss)).sum::<f64>() / tail.len() as f64;
    let change = (last / first - 1.0).is_finite().then_some(last / first - 1.0);
    let has_converged = match goal {
        Goal::BelowOne => last < 1.0 && last < first,
        Goal::Below(blind) => last <= USED_INPUTS * blind,
        Goal::Noise(noise) => last <= (1.0 + FLAT) * noise,
        Goal::None => false,
    };
    let flat = if goal == Goal::BelowOne { 0.0 } else { FLAT };
    let (verdict, word) = match change {
        Some(_) if goal == Goal::None => (Verdict::Not, "-"),
        Some(_) if has_converged => (Verdict::Converged, "converged"),
        Some(change) if change < 0.0 && change <= -flat => (Verdict::Partly, "improved"),
        Some(change) if change <= FLAT => (Verdict::Not, "flat"),
        Some(change) if change < DOUBLED => (Verdict::Not, "worse"),
        _ => (Verdict::Not, "diverged"),
    };
    Learned { verdict, word, change }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(losses: &[f32], goal: Goal) -> &'static str {
        learned(losses, goal).word
    }

    #[test]
    fn the_same_fall_means_something_else_for_another_job() {
        let fell = [5.5, 4.0, 3.0, 2.6];
        assert_eq!(word(&fell, Goal::Below(3.0)), "converged", "2.6 is 13 % below a blind guess");
        assert_eq!(word(&fell, Goal::Below(2.7)), "improved", "a blind guess is nearly as good");
        assert_eq!(word(&fell, Goal::BelowOne), "improved");
        assert_eq!(word(&[2.31, 2.3024], Goal::Noise(10_f64.ln())), "converged");
        assert_eq!(word(&[1.2, 0.8], Goal::BelowOne), "converged");
        // A loss below 1 is no achievement where guessing gives 0.9.
        assert_eq!(word(&[0.95, 0.89], Goal::Below(0.9)), "improved");
    }

    #[test]
    fn what_does_not_fall_is_flat_worse_or_diverged() {
        for (losses, wanted) in [
            (&[5.5, 5.49][..], "flat"),
            (&[5.5, 5.54], "flat"),
            (&[4.3019, 4.3455], "worse"),
            (&[5.5, 10.9], "worse"),
            (&[5.5, 11.1], "diverged"),
            (&[5.5, 8888.0], "diverged"),
            (&[5.5, f32::NAN], "diverged"),
            (&[5.5, f32::INFINITY], "diverged"),
            (&[], "diverged"),
        ] {
            let learned = learned(losses, Goal::Below(3.0));
            assert_eq!((learned.word, learned.verdict), (wanted, Verdict::Not), "{losses:?}");
        }
        assert_eq!(learned(&[f32::NAN], Goal::Below(3.0)).change, None);
        assert_eq!(word(&[1.0, 0.5], Goal::None), "-");
    }

    #[test]
    fn one_easy_batch_at_the_end_does_not_decide() {
        let mut losses = vec![5.0_f32; 100];
        losses[99] = 0.1;
        assert_eq!(word(&losses, Goal::Below(3.0)), "improved");
        losses[90..].fill(2.0);
        assert_eq!(word(&losses, Goal::Below(3.0)), "converged");
    }

    #[test]
    fn scripts_see_the_names_of_before() {
        let names = [Verdict::Converged, Verdict::Partly, Verdict::Not];
        let json = serde_json::to_string(&names).unwrap();
        assert_eq!(json, r#"["converged","partly","not"]"#);
    }
}
