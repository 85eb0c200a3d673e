//! The curves of the runs before a resumed one, in front of its own.

use pp_trace::Continues;

use super::{LossHistory, Metrics, Model};

/// The curves of the runs that led to a checkpoint, one behind another. Steps that a later run made
/// again are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Before {
    pub(crate) loss: LossHistory,
    pub(crate) metrics: Metrics,
    /// Where these runs were resumed themselves, the first one first.
    pub(crate) seams: Vec<Continues>,
}

impl Model {
    /// Puts the curves of the runs before this one, which was resumed, in front of its own. Does
    /// nothing a second time.
    pub fn set_before(&mut self, before: &Before) {
        let Some(continues) = self.hello.as_ref().and_then(|hello| hello.continues.as_ref()) else {
            return;
        };
        if std::mem::replace(&mut self.has_before, true) {
            return;
        }
        self.loss.follow(&before.loss, continues.step);
        self.metrics.follow(&before.metrics, continues.step);
        self.seams_before.clone_from(&before.seams);
    }

    /// The checkpoint that the run resumes from, as long as the curves before it are not known.
    pub fn wants_before(&self) -> Option<&Continues> {
        self.hello.as_ref()?.continues.as_ref().filter(|_| !self.has_before)
    }

    /// Where runs were resumed, the first one first.
    pub fn seams(&self) -> impl Iterator<Item = &Continues> {
        self.seams_before.iter().chain(self.hello.iter().filter_map(|h| h.continues.as_ref()))
    }
}
