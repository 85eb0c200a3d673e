//! What a GPU tells of one number, does not tell now, or never tells.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::error::NvmlError;
use pp_trace::Unavailable;

use crate::no_gpus::first_line;

/// What became of the numbers that a GPU was asked for.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Numbers that it never tells: they are not asked for again.
    never: Vec<Unavailable>,
    /// Numbers that it did not tell in this look.
    now: Vec<Unavailable>,
    /// It is gone: no number is asked for in this look any more.
    lost: Option<String>,
}

impl Answers {
    /// A new look begins.
    pub(crate) fn begin(&mut self) {
        self.now.clear();
        self.lost = None;
    }

    /// Asks for a number, unless it is known that there is no use.
    pub(crate) fn ask<T>(
        &mut self,
        what: &'static str,
        ask: impl FnOnce() -> Result<T, NvmlError>,
    ) -> Option<T> {
        if self.lost.is_some() || self.never_tells(what) {
            return None;
        }
        match ask() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refused(what, error);
                None
            }
        }
    }

    fn refused(&mut self, what: &str, error: NvmlError) {
        let for_ever = |why: &str| (why.to_owned(), true);
        let (why, never) = match error {
            NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::Timeout
            | NvmlError::DriverNotLoaded
            | NvmlError::Uninitialized => {
                self.lost = Some(of_gpu(error));
                return;
            }
            NvmlError::NotSupported => for_ever("NotSupported"),
            // An older driver's library.
            NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
                for_ever("FunctionNotFound")
            }
            NvmlError::NoPermission => ("NoPermission".to_owned(), false),
            error => (numbered(error), false),
        };
        let list = if never { &mut self.never } else { &mut self.now };
        list.push(Unavailable { what: what.to_owned(), why });
    }

    /// Whether there is no use in asking.
    pub(crate) fn never_tells(&self, what: &str) -> bool {
        self.never.iter().any(|never| never.what == what)
    }

    /// What it did not tell in this look.
    pub(crate) fn unavailable(&self) -> Vec<Unavailable> {
        self.never.iter().chain(&self.now).cloned().collect()
    }

    /// Why it is gone.
    pub(crate) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }
}

/// An error that concerns a whole GPU.
pub(crate) fn of_gpu(error: NvmlError) -> String {
    match error {
        NvmlError::GpuLost => "GpuLost: it fell off the bus, or cannot be reached".to_owned(),
        NvmlError::ResetRequired => "ResetRequired: it has to be reset".to_owned(),
        NvmlError::NotFound => "NotFound: the driver has it no longer".to_owned(),
        NvmlError::NoPermission => "NoPermission".to_owned(),
        error => numbered(error),
    }
}

/// An error that may have no name.
fn numbered(error: NvmlError) -> String {
    match error {
        // What it would say is that it is unexpected.
        NvmlError::UnexpectedVariant(code) => format!("error {code}"),
        error => {
            let why = first_line(&error);
            format!("error {} ({why})", u32::from(error))
        }
    }
}

/// Why clocks are lower than they could be. That there is nothing to do is no such reason.
pub(crate) fn throttle(reasons: ThrottleReasons) -> Vec<String> {
    let words = [
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "applications clocks setting"),
        (ThrottleReasons::SW_POWER_CAP, "SW power cap"),
        (ThrottleReasons::HW_SLOWDOWN, "HW slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync boost"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "SW thermal slowdown"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "HW thermal slowdown"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "HW power brake slowdown"),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display clock setting"),
    ];
    let holds = words.into_iter().filter(|&(reason, _)| reasons.contains(reason));
    holds.map(|(_, word)| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_no_reason_and_unknown_bits_are_ignored() {
        let reasons = ThrottleReasons::from_bits_retain(0x1 | 0x4 | 0x40 | 1 << 40);
        assert_eq!(throttle(reasons), ["SW power cap", "HW thermal slowdown"]);
    }

    #[test]
    fn what_is_not_supported_is_asked_for_once() {
        let mut answers = Answers::default();
        let mut asked = 0;
        for error in [NvmlError::NotSupported, NvmlError::Unknown] {
            answers.begin();
            let none: Option<u32> = answers.ask("power_watts", || {
                asked += 1;
                Err(error)
            });
            assert_eq!(none, None);
        }
        assert_eq!(asked, 1);
        assert_eq!(answers.unavailable()[0].why, "NotSupported");
    }

    #[test]
    fn other_errors_may_pass() {
        let mut answers = Answers::default();
        let mut refuse = |error| {
            answers.begin();
            let _: Option<u32> = answers.ask("power_watts", || Err(error));
            answers.unavailable()
        };
        assert_eq!(refuse(NvmlError::NoPermission)[0].why, "NoPermission");
        assert_eq!(
            refuse(NvmlError::Unknown)[0].why,
            "error 999 (an internal driver error occurred)"
        );
        assert_eq!(refuse(NvmlError::UnexpectedVariant(998))[0].why, "error 998");
        answers.begin();
        assert_eq!(answers.ask("power_watts", || Ok(3)), Some(3));
        assert_eq!(answers.unavailable(), []);
    }
}
