//! Some consecutive steps of a run.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Steps from one to another, both included. As text `10..20`, `10..`, `..20` or `10`.
///
/// ```
/// use pp_telemetry::StepRange;
/// let steps: StepRange = "10..20".parse()?;
/// assert!(steps.contains(10) && steps.contains(20) && !steps.contains(21));
/// assert_eq!("7".parse::<StepRange>()?.to_string(), "7..7");
/// assert!("20..10".parse::<StepRange>().is_err());
/// # Ok::<(), pp_telemetry::StepRangeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepRange {
    first: u64,
    last: u64,
}

impl StepRange {
    /// Whether a step is one of them.
    pub fn contains(self, step: u64) -> bool {
        (self.first..=self.last).contains(&step)
    }
}

impl fmt::Display for StepRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.first)?;
        if self.last < u64::MAX { write!(f, "{}", self.last) } else { Ok(()) }
    }
}

/// A text that means no steps.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StepRangeError {
    /// It has another form.
    #[error("not a range of steps; write A..B, both included, such as 10..20, 10.. or 10")]
    Malformed,
    /// It is empty.
    #[error("{first} is greater than {last}; write {last}..{first}")]
    Reversed {
        /// What stands first.
        first: u64,
        /// What stands last.
        last: u64,
    },
    /// There is no step 0.
    #[error("there is no step 0; the first step is 1")]
    Zero,
}

impl FromStr for StepRange {
    type Err = StepRangeError;

    fn from_str(text: &str) -> Result<Self, StepRangeError> {
        let number = |text: &str| text.trim().parse().map_err(|_| StepRangeError::Malformed);
        let (first, last) = match text.split_once("..") {
            None => (number(text)?, number(text)?),
            Some((first, last)) if !(first.is_empty() && last.is_empty()) => (
                if first.is_empty() { 1 } else { number(first)? },
                if last.is_empty() { u64::MAX } else { number(last)? },
            ),
            Some(_) => return Err(StepRangeError::Malformed),
        };
        if first == 0 || last == 0 {
            return Err(StepRangeError::Zero);
        }
        if first > last {
            return Err(StepRangeError::Reversed { first, last });
        }
        Ok(Self { first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_range_says_what_to_write() {
        for (text, remedy) in [
            ("", "write A..B"),
            ("..", "write A..B"),
            ("a..b", "write A..B"),
            ("1..2..3", "write A..B"),
            ("-1..2", "write A..B"),
            ("0..3", "first step is 1"),
            ("..0", "first step is 1"),
            ("0", "first step is 1"),
            ("9..3", "write 3..9"),
            ("1.5", "write A..B"),
        ] {
            let refused = text.parse::<StepRange>().unwrap_err().to_string();
            assert!(refused.contains(remedy), "{text}: {refused}");
        }
    }

    #[test]
    fn an_open_end_reaches_to_the_last_step() {
        let from: StepRange = "5..".parse().unwrap();
        assert!(!from.contains(4) && from.contains(5) && from.contains(u64::MAX));
        assert_eq!(from.to_string(), "5..");
        let to: StepRange = "..5".parse().unwrap();
        assert!(to.contains(1) && !to.contains(6));
    }
}
