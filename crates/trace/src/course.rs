//! The part of the summary that follows from several events: the running phase and the time of a
//! step.

use std::collections::VecDeque;

use crate::event::Event;
use crate::phase::PhaseEvent;
use crate::step::StepEvent;

/// The number of last steps whose times are kept.
const STEPS: usize = 50;
/// The most characters of a phase's name.
const LETTERS_MAX: usize = 32;

/// The running phase and the times of the last steps.
#[derive(Debug, Default)]
pub(crate) struct Course {
    has_hello: bool,
    first_step: u64,
    phase: Option<PhaseEvent>,
    /// Each step with its time in seconds.
    steps: VecDeque<(u64, f64)>,
}

impl Course {
    pub(crate) fn note(&mut self, event: &Event) {
        match event {
            // A phase that began before the first hello belongs to the run as well.
            Event::Hello(hello) => {
                let phase = self.phase.take().filter(|_| !self.has_hello);
                let first_step = hello.first_step();
                *self = Self { has_hello: true, first_step, phase, steps: VecDeque::new() };
            }
            Event::Phase(phase) => self.note_phase(phase),
            Event::Step(step) => self.note_step(step),
            Event::End(_) => self.phase = None,
            _ => {}
        }
    }

    fn note_phase(&mut self, event: &PhaseEvent) {
        let mut event = event.clone();
        if let Some((at, _)) = event.phase.char_indices().nth(LETTERS_MAX) {
            event.phase.truncate(at);
        }
        if event.dur_ns.is_none() {
            self.phase = Some(event);
        } else if self.phase.as_ref().is_some_and(|phase| phase.phase == event.phase) {
            self.phase = None;
        }
    }

    /// The end of a step also ends the phase before it.
    fn note_step(&mut self, step: &StepEvent) {
        self.phase = None;
        if self.steps.len() >= STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back((step.step, step.seconds));
    }

    /// The running phase and its progress: `evaluating 3/12`.
    pub(crate) fn phase(&self) -> Option<String> {
        self.phase.as_ref().map(PhaseEvent::text)
    }

    /// The time of a step: the lower median of the last ones. The first step of the run is left
    /// out, because it includes one-time costs.
    pub(crate) fn step_seconds(&self) -> Option<f64> {
        let first = self.first_step.max(1);
        let has_first = self.steps.front().is_some_and(|&(step, _)| step <= first);
        let skip = usize::from(has_first && self.steps.len() > 1);
        let settled = self.steps.iter().skip(skip).map(|&(_, seconds)| seconds);
        let mut seconds: Vec<f64> = settled.filter(|seconds| seconds.is_finite()).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len().div_ceil(2).saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::{Continues, Hello};

    fn step(step: u64, seconds: f64) -> Event {
        let line = format!(r#"{{"step":{step},"loss":1.0,"seconds":{seconds}}}"#);
        Event::Step(serde_json::from_str(&line).unwrap())
    }

    fn phase(name: &str, dur_ns: Option<u64>) -> Event {
        let phase = name.to_owned();
        Event::Phase(PhaseEvent { phase, dur_ns, done: 3, total: 12, ..PhaseEvent::default() })
    }

    #[test]
    fn what_goes_on_is_known_until_it_is_over() {
        let mut course = Course::default();
        course.note(&phase("building", None));
        course.note(&Event::Hello(Box::default()));
        assert_eq!(course.phase().as_deref(), Some("building 3/12"), "it began before");
        course.note(&phase("evaluating", None));
        course.note(&phase("building", Some(1)));
        assert_eq!(course.phase().as_deref(), Some("evaluating 3/12"));
        course.note(&step(1, 1.0));
        assert_eq!(course.phase(), None);
        course.note(&phase(&"x".repeat(99), None));
        assert_eq!(course.phase(), Some(format!("{} 3/12", "x".repeat(32))));
        course.note(&Event::Hello(Box::default()));
        assert_eq!((course.phase(), course.step_seconds()), (None, None), "another run");
    }

    #[test]
    fn a_step_takes_the_median_of_the_last_ones_without_the_first() {
        let mut course = Course::default();
        assert_eq!(course.step_seconds(), None);
        course.note(&step(1, 9.0));
        assert_eq!(course.step_seconds(), Some(9.0));
        course.note(&step(2, 1.0));
        assert_eq!(course.step_seconds(), Some(1.0));
        (3..=200).for_each(|at| course.note(&step(at, at as f64)));
        assert_eq!((course.steps.len(), course.step_seconds()), (STEPS, Some(175.0)));
    }

    #[test]
    fn the_first_step_of_a_resumed_run_is_the_one_after_its_checkpoint() {
        let mut course = Course::default();
        let continues = Some(Continues { step: 40, ..Continues::default() });
        course.note(&Event::Hello(Box::new(Hello { continues, ..Hello::default() })));
        course.note(&step(41, 9.0));
        course.note(&step(42, 1.0));
        assert_eq!(course.step_seconds(), Some(1.0));
    }
}
