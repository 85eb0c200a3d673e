//! Where the time goes, as it was last looked at.

use pp_telemetry::{Account, Advice, Model, NoAccount, WhatIf, account, advice, what_if};

/// An account with what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) account: Account,
    pub(crate) what_if: Vec<WhatIf>,
    pub(crate) advice: Advice,
}

/// A run, by its id and its last recorded step.
type About = (String, u64);

/// A request for an account, with all its inputs.
#[derive(Debug)]
pub(crate) struct AccountRequest {
    about: About,
    model: Model,
}

/// What was found, and about what.
#[derive(Debug)]
pub(crate) struct Looked {
    about: About,
    found: Result<Box<Found>, NoAccount>,
}

impl AccountRequest {
    /// Simulates the plan of the run many times.
    pub(crate) fn answer(self) -> Looked {
        Looked { about: self.about, found: look(&self.model) }
    }
}

fn look(model: &Model) -> Result<Box<Found>, NoAccount> {
    let account = account(model)?;
    let what_if = what_if(&account);
    let advice = advice(&account, &what_if);
    Ok(Box::new(Found { account, what_if, advice }))
}

fn about(model: &Model) -> About {
    let run = model.hello().map(|hello| hello.run.clone()).unwrap_or_default();
    (run, model.recorded().last_complete().map_or(0, |step| step.step))
}

/// Where the time goes, as it was last looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct BubbleState {
    /// What `found` is about.
    about: Option<About>,
    found: Option<Result<Box<Found>, NoAccount>>,
    /// What somebody was asked to look at.
    asked: Option<About>,
    defines: bool,
}

impl BubbleState {
    /// Looks anew, here and now, if there is another step.
    pub(crate) fn refresh(&mut self, model: &Model) {
        let about = Some(about(model));
        if self.about == about {
            return;
        }
        self.asked.clone_from(&about);
        self.about = about;
        self.found = Some(look(model));
    }

    /// What to look at anew, if there is another step than was asked about.
    pub(crate) fn question(&mut self, model: &Model) -> Option<AccountRequest> {
        let about = about(model);
        if self.asked.as_ref() == Some(&about) {
            return None;
        }
        // What was found of another run says nothing of this one.
        if self.about.as_ref().is_some_and(|(run, _)| *run != about.0) {
            (self.about, self.found) = (None, None);
        }
        self.asked = Some(about.clone());
        Some(AccountRequest { about, model: model.for_account() })
    }

    /// Takes what was found, unless it is of another run by now.
    pub(crate) fn looked(&mut self, looked: Looked) {
        if self.asked.as_ref().is_some_and(|(run, _)| *run == looked.about.0) {
            self.about = Some(looked.about);
            self.found = Some(looked.found);
        }
    }

    /// Whether there is something newer than what was found.
    #[cfg(test)]
    pub(crate) fn is_computing(&self) -> bool {
        self.asked != self.about
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
