//! Where the time of a run goes, found beside the loop: a long plan is simulated many times for
//! that, and the screen never waits.
//!
//! One thread works on one question at a time. A question that comes meanwhile takes the place of
//! the one that waits: the newest is the one that somebody wants to see.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::state::{AccountRequest, Looked};

/// What waits for the thread.
#[derive(Debug, Default)]
struct Desk {
    next: Option<(usize, AccountRequest)>,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    desk: Mutex<Desk>,
    has_come: Condvar,
}

impl Shared {
    /// A panic never leaves the desk half-changed.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request; `None` when there will be no more.
    fn next(&self) -> Option<(usize, AccountRequest)> {
        let mut desk = self.desk();
        loop {
            if desk.is_over {
                return None;
            }
            if let Some(next) = desk.next.take() {
                return Some(next);
            }
            desk = self.has_come.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Answers questions about runs, each by its place among them.
#[derive(Debug)]
pub(crate) struct Accountant {
    shared: Arc<Shared>,
    sender: Sender<(usize, Looked)>,
    receiver: Receiver<(usize, Looked)>,
    has_thread: bool,
}

impl Accountant {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = channel();
        Self { shared: Arc::default(), sender, receiver, has_thread: false }
    }

    /// Asks about a run. Where there is no thread to be had, it is found here and now.
    pub(crate) fn ask(&mut self, run: usize, question: AccountRequest) {
        self.shared.desk().next = Some((run, question));
        self.shared.has_come.notify_one();
        if self.has_thread {
            return;
        }
        let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
        let work = move || {
            while let Some((run, question)) = shared.next() {
                if sender.send((run, question.answer())).is_err() {
                    break;
                }
            }
        };
        self.has_thread = thread::Builder::new().name("account".to_owned()).spawn(work).is_ok();
        if !self.has_thread
            && let Some((run, question)) = self.shared.desk().next.take()
        {
            // Its own receiver is there.
            let _ = self.sender.send((run, question.answer()));
        }
    }

    /// What was found since the last time.
    pub(crate) fn found(&self) -> impl Iterator<Item = (usize, Looked)> {
        self.receiver.try_iter()
    }
}

impl Drop for Accountant {
    fn drop(&mut self) {
        self.shared.desk().is_over = true;
        self.shared.has_come.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pp_telemetry::{Event, Hello, Model, Span, SpanKind, StepEvent};

    use super::*;
    use crate::monitor::state::{ChildState, State};

    /// A run of one rank that has finished some steps.
    fn state(n_steps: u64) -> State {
        let mut model = Model::new();
        let hello = Hello {
            pp: 1,
            dp: 1,
            micro_batches: 1,
            schedule: "gpipe".to_owned(),
            plan: vec!["0F0,0B0".to_owned()],
            ..Hello::default()
        };
        model.apply(&Event::Hello(Box::new(hello)));
        for step in 1..=n_steps {
            for (op, start_ns) in [(SpanKind::F, 0), (SpanKind::B, 1000)] {
                let start_ns = step * 10_000 + start_ns;
                let (cpu_ns, bytes, starved_ns) = (900, 0, 0);
                let (replica, rank, stage, mb, dur_ns) = (0, 0, 0, 0, 1000);
                model.apply(&Event::Span(Span {
                    step,
                    replica,
                    rank,
                    stage,
                    mb,
                    op,
                    start_ns,
                    dur_ns,
                    cpu_ns,
                    bytes,
                    starved_ns,
                }));
            }
            let json = format!(r#"{{"ev":"step","step":{step},"loss":1.0,"seconds":1e-5}}"#);
            let step: StepEvent = serde_json::from_str(&json).unwrap();
            model.apply(&Event::Step(step));
        }
        State::of(model, ChildState::default())
    }

    #[test]
    fn the_newest_question_wins_and_an_answer_says_which_step_it_is_about() {
        let mut state = state(3);
        let mut accountant = Accountant::new();
        // Nobody works yet: the second question takes the place of the first.
        accountant.has_thread = true;
        accountant.ask(0, state.question().unwrap());
        assert!(state.question().is_none(), "the same is asked once");
        assert!(state.bubble().is_computing() && state.bubble().found().is_none());
        let json = r#"{"ev":"step","step":4,"loss":1.0,"seconds":1e-5}"#;
        for text in [
            r#"{"ev":"span","step":4,"rank":0,"op":"F","start_ns":90000,"dur_ns":1000}"#,
            r#"{"ev":"span","step":4,"rank":0,"op":"B","start_ns":91000,"dur_ns":1000}"#,
            json,
        ] {
            match Event::parse(text.as_bytes()) {
                Ok(pp_telemetry::Line::Event(event)) => state.apply(&event),
                other => panic!("{other:?}"),
            }
        }
        accountant.has_thread = false;
        accountant.ask(0, state.question().unwrap());
        let (run, looked) = accountant.receiver.recv_timeout(Duration::from_mins(1)).unwrap();
        assert_eq!(run, 0);
        assert!(accountant.found().next().is_none());
        state.looked(looked);
        let found = state.bubble().found().unwrap().unwrap();
        assert_eq!(found.account.steps.1, 4);
        assert!(!state.bubble().is_computing());
        // The same as it would be found here.
        let mut other = State::of(state.shown().clone(), ChildState::default());
        other.refresh_bubble();
        assert_eq!(other.bubble().found().unwrap().unwrap().account, found.account);
    }
}
