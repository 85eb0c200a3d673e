//! The flags for a training that goes wrong.

use pp_train::{OnNonfinite, OnSpike};

use super::help::headings;
use super::refusal::choice;

/// The flags for a training that goes wrong.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct GuardArgs {
    /// If the loss or the gradient norm of a step is not finite: stop with exit code 1, skip the
    /// step (N in a row, 10 by default, end the run), or continue [default: stop]
    #[arg(long, value_name = "stop|skip[:N]|continue", value_parser = nonfinite, help_heading = headings::CHECKPOINTS)]
    on_nonfinite: Option<OnNonfinite>,
    /// If the loss or the gradient norm jumps, or the loss diverges: warn, or stop with exit code 1
    /// [default: warn]
    #[arg(long, value_name = "warn|stop", value_parser = spike, help_heading = headings::CHECKPOINTS)]
    on_spike: Option<OnSpike>,
    /// Let --init or --model DIR read weights that are not finite
    #[arg(long, help_heading = headings::CHECKPOINTS)]
    pub(crate) allow_nonfinite: bool,
}

impl GuardArgs {
    /// What happens to a step that is not finite.
    pub(crate) fn on_nonfinite(&self) -> OnNonfinite {
        self.on_nonfinite.unwrap_or_default()
    }

    /// What happens at a spike.
    pub(crate) fn on_spike(&self) -> OnSpike {
        self.on_spike.unwrap_or_default()
    }
}

fn nonfinite(text: &str) -> Result<OnNonfinite, String> {
    match text {
        "stop" => Ok(OnNonfinite::Stop),
        "skip" => Ok(OnNonfinite::Skip { most: OnNonfinite::SKIPPED_MOST }),
        "continue" => Ok(OnNonfinite::Continue),
        _ => match text.strip_prefix("skip:") {
            Some(number) => {
                let most = number.parse::<u64>().ok().filter(|&most| most > 0);
                let most = most.ok_or("use skip:N with a whole number N from 1")?;
                Ok(OnNonfinite::Skip { most })
            }
            None => Err(choice(text, &["stop", "skip", "continue"])),
        },
    }
}

fn spike(text: &str) -> Result<OnSpike, String> {
    match text {
        "warn" => Ok(OnSpike::Warn),
        "stop" => Ok(OnSpike::Stop),
        _ => Err(choice(text, &["warn", "stop"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_a_word_and_skip_takes_a_limit() {
        assert_eq!(nonfinite("stop"), Ok(OnNonfinite::default()));
        assert_eq!(nonfinite("skip"), Ok(OnNonfinite::Skip { most: 10 }));
        assert_eq!(nonfinite("skip:3"), Ok(OnNonfinite::Skip { most: 3 }));
        assert_eq!(nonfinite("continue"), Ok(OnNonfinite::Continue));
        for text in ["", "skip:", "skip:0", "skip:-1", "ignore", "stop:3"] {
            assert!(nonfinite(text).is_err(), "{text}");
        }
        assert_eq!(spike("warn"), Ok(OnSpike::default()));
        assert_eq!(spike("stop"), Ok(OnSpike::Stop));
        assert!(spike("skip").unwrap_err().contains("warn or stop"));
    }
}
