//! Where the time goes, as it was last looked at.

use pp_telemetry::{Account, Advice, Model, NoAccount, WhatIf, account, advice, what_if};

/// An account with what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) account: Account,
    pub(crate) what_if: Vec<WhatIf>,
    pub(crate) advice: Advice,
}

/// Where the time goes, as it was last looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct BubbleState {
    /// The run and its last recorded step that this is about.
    about: Option<(String, u64)>,
    found: Option<Result<Box<Found>, NoAccount>>,
    defines: bool,
}

impl BubbleState {
    /// Looks anew, if there is another step.
    pub(crate) fn refresh(&mut self, model: &Model) {
        let run = model.hello().map(|hello| hello.run.clone()).unwrap_or_default();
        let step = model.recorded().last_complete().map_or(0, |step| step.step);
        let about = Some((run, step));
        if self.about == about {
            return;
        }
        self.about = about;
        self.found = Some(account(model).map(|account| {
            let what_if = what_if(&account);
            let advice = advice(&account, &what_if);
            Box::new(Found { account, what_if, advice })
        }));
    }

    /// What was found, or why nothing; `None` before the first look.
    pub(crate) fn found(&self) -> Option<Result<&Found, &NoAccount>> {
        self.found.as_ref().map(Result::as_deref)
    }

    /// Whether it is said what the numbers mean.
    pub(crate) fn defines(&self) -> bool {
        self.defines
    }

    pub(crate) fn toggle_definitions(&mut self) {
        self.defines = !self.defines;
    }

    /// Closes the definitions, if they are open.
    pub(crate) fn back(&mut self) -> bool {
        std::mem::take(&mut self.defines)
    }
}
