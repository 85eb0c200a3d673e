//! The curves of the runs before a resumed one, which lie beside it.

use std::path::Path;
use std::thread::{self, JoinHandle};

use pp_telemetry::{Before, Model};

use super::state::State;

/// The curves of the runs before a resumed one. A thread reads them: their logs may be long.
#[derive(Default)]
pub(crate) enum Chain {
    #[default]
    Unknown,
    Reading(JoinHandle<Option<Before>>),
    /// `None` if their logs cannot be found.
    Read(Option<Box<Before>>),
}

impl Chain {
    /// Gives the curves to a run that wants them; whether it did.
    pub(crate) fn show(&mut self, state: &mut State, dir: &Path) -> bool {
        if state.model().wants_before().is_none() {
            return false;
        }
        match std::mem::take(self) {
            Self::Unknown => {
                let continues = state.model().wants_before().cloned();
                let runs_dir = dir.parent().map(Path::to_owned);
                let read = move || Before::read(&runs_dir?, &continues?);
                let thread = thread::Builder::new().name("before".to_owned()).spawn(read);
                *self = thread.map_or(Self::Read(None), Self::Reading);
            }
            Self::Reading(thread) if thread.is_finished() => {
                *self = Self::Read(thread.join().ok().flatten().map(Box::new));
            }
            other => *self = other,
        }
        match self {
            Self::Read(Some(before)) => state.set_before(before),
            _ => return false,
        }
        true
    }
}

/// The curves of the runs before the one in `dir`, whose folders lie beside it.
pub(crate) fn before(dir: &Path, model: &Model) -> Option<Before> {
    Before::read(dir.parent()?, model.wants_before()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pp_telemetry::{Continues, Event, Hello};

    use super::*;
    use crate::monitor::state::ChildState;

    fn events(run: &str, steps: std::ops::RangeInclusive<u64>, after: Option<&str>) -> Vec<Event> {
        let step = steps.start() - 1;
        let continues =
            after.map(|run| Continues { run: run.to_owned(), step, ..Continues::default() });
        let hello = Hello { run: run.to_owned(), continues, ..Hello::default() };
        let step = |step: u64| {
            let line = format!(r#"{{"step":{step},"loss":{step}.0,"seconds":1.0}}"#);
            Event::Step(serde_json::from_str(&line).unwrap())
        };
        std::iter::once(Event::Hello(Box::new(hello))).chain(steps.map(step)).collect()
    }

    #[test]
    fn a_watched_run_gets_the_curve_of_the_run_before_it_and_gets_it_again_after_a_seek() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("one");
        fs::create_dir(&dir).unwrap();
        let lines = events("one", 1..=30, None);
        let lines: Vec<String> =
            lines.iter().map(|event| event.to_json().unwrap() + "\n").collect();
        fs::write(dir.join("events.jsonl"), lines.concat()).unwrap();

        let mut state = State::new(ChildState::default(), false);
        let mut chain = Chain::default();
        let dir = folder.path().join("two");
        assert!(!chain.show(&mut state, &dir), "nothing is known yet");
        let second = events("two", 21..=40, Some("one"));
        for _ in 0..2 {
            for event in &second {
                state.apply(event);
            }
            while !chain.show(&mut state, &dir) {
                thread::yield_now();
            }
            let loss = state.model().loss();
            assert_eq!((loss.steps(), loss.buckets().len()), (Some((1, 40)), 40));
            assert!(!chain.show(&mut state, &dir), "once is enough");
            state.restart();
        }
    }

    #[test]
    fn a_run_whose_parent_is_gone_has_its_own_curve() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::new(ChildState::default(), false);
        for event in &events("two", 21..=40, Some("one")) {
            state.apply(event);
        }
        let mut chain = Chain::default();
        while !matches!(chain, Chain::Read(_)) {
            assert!(!chain.show(&mut state, &folder.path().join("two")));
        }
        assert_eq!(state.model().loss().steps(), Some((21, 40)));
        assert_eq!(state.model().seams().map(|seam| seam.step).collect::<Vec<_>>(), [20]);
    }
}
