//! What works now: the bottom line and the help offer that and nothing else, and a key that does
//! not work says why.

use super::State;
use crate::monitor::input::Where;

impl State {
    /// What the user looks at and what can be done there.
    pub(crate) fn at(&self) -> Where {
        let model = self.shown();
        let n_complete = model.recorded().complete_steps().take(2).count();
        let has_step = self.timeline.step(model).is_some();
        Where {
            view: self.view,
            is_replay: self.playback.is_some(),
            has_runs: self.place.1 > 1,
            can_stop: self.stop_refusal().is_none(),
            can_freeze: self.playback.is_some() || self.is_frozen() || !self.is_over(),
            has_step,
            has_steps: n_complete > 1,
            has_loss: model.step() > 0,
            has_account: matches!(self.bubble.found(), Some(Ok(_))),
            is_held: self.timeline.is_held(),
            n_ranks: model.ranks().len(),
            n_lines: self.log.entries(model).len(),
        }
    }

    /// Whether the screen stands still.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Why the run cannot be ended from here; `None` where it can.
    pub(crate) fn stop_refusal(&self) -> Option<String> {
        let hello = self.model.hello();
        if self.is_demo {
            Some("this is a demo: there is no run to end".to_owned())
        } else if self.playback.is_some() {
            Some("this is a replay: there is no run to end".to_owned())
        } else if self.is_over() {
            Some("the run is already over".to_owned())
        } else if let Some(hello) = hello.filter(|hello| !hello.program.is_empty()) {
            let program = crate::monitor::words::format::plain(&hello.program);
            Some(format!("this is a job of {program}: end it where it was started"))
        } else if self.child.is_foreign {
            Some("this is a job of another program: end it where it was started".to_owned())
        } else if self.read_only {
            Some("this monitor is read-only: it cannot end the run".to_owned())
        } else if let Some(host) = &self.child.host {
            let host = crate::monitor::words::format::plain(host);
            Some(format!("the run is on {host}: end it there"))
        } else if self.child.pid == 0 && hello.is_none_or(|hello| hello.socket.is_none()) {
            Some("the process of the run is unknown: it cannot be ended from here".to_owned())
        } else {
            None
        }
    }
}
