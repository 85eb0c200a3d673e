//! A run as lines: for files, pipes and terminals without a screen.

use std::time::Duration;

use pp_telemetry::{End, Event, Evidence, Follower, Level, Model, Run, Standing, StepEvent};
use pptop::monitor::{lost_line, slow_line};

use super::standing::{Standing as Summary, not_a_run, unreadable};
use super::{CliError, one_line, print, print_json};

/// How often one looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    Plain,
    Json,
}

/// Writes what a run says, line by line, until it is over; with `once` only how it stands.
pub(crate) fn follow(run: &Run, lines: Lines, once: bool) -> Result<(), CliError> {
    if once {
        let summary = Summary::of(run)?;
        return match lines {
            Lines::Json => print_json(&summary),
            Lines::Plain => print(&summary.line()),
        };
    }
    let mut follower = Follower::new(&run.log);
    let mut has_begun = false;
    let mut teller = Teller { lines, model: Model::new() };
    loop {
        // The end of the run is checked before the log is read, so that what is read then is
        // complete.
        let is_over = Run::of(&run.dir).ok().flatten().is_none_or(|run| match run.standing() {
            // The process of a run elsewhere is unknown here: only its log counts.
            Standing::Unknown => run.status.is_none(),
            standing => standing.is_over(),
        });
        let mut written = Ok(());
        let mut has_ended = false;
        let poll = follower
            .poll(|event| {
                has_begun |= matches!(event, Event::Hello(_) | Event::Index(_) | Event::Phase(_));
                has_ended |= matches!(event, Event::End(_));
                if written.is_ok() {
                    written = teller.tell(&event);
                }
            })
            .map_err(|error| unreadable(&error))?;
        written?;
        if has_ended || (is_over && poll.at_end) {
            return if !has_begun {
                Err(not_a_run(run, follower.first_refusal().as_deref()))
            } else if has_ended || lines == Lines::Json {
                Ok(())
            } else {
                teller.sum_up()?;
                // Asked again: its summary may tell what its log does not.
                let standing = Run::of(&run.dir).ok().flatten().map(|run| run.standing());
                let standing = standing.filter(|standing| *standing != Standing::Unknown);
                let word = standing.map_or_else(String::new, |word| format!(": {word}"));
                print(&format!("the log ends here, without an end record{word}\n"))
            };
        }
        if poll.at_end {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Turns events into lines. What comes again and again is one line with a count.
struct Teller {
    lines: Lines,
    model: Model,
}

impl Teller {
    fn tell(&mut self, event: &Event) -> Result<(), CliError> {
        if self.lines == Lines::Json {
            return line(event, self.lines);
        }
        if matches!(event, Event::End(_)) {
            self.sum_up()?;
        }
        self.model.apply(event);
        let Event::Warn(_) = event else { return line(event, self.lines) };
        match self.model.messages().next_back() {
            // The first of them, and then ever more of them at a time.
            Some(message) if is_power_of_ten(message.count) => {
                print(&format!("warning: {}\n", one_line(&message.line())))
            }
            _ => Ok(()),
        }
    }

    /// What one knows only when all of it is there.
    fn sum_up(&self) -> Result<(), CliError> {
        let again = self
            .model
            .messages()
            .filter(|message| message.level == Level::Warn && !is_power_of_ten(message.count));
        for message in again {
            print(&format!("warning: {}\n", one_line(&message.line())))?;
        }
        for (_, alarm) in self.model.alarms() {
            // The trainer of an older version did not warn itself.
            let text = alarm.to_string();
            if !self.model.messages().any(|message| message.text == text) {
                print(&format!("warning: {text}\n"))?;
            }
        }
        for group in self.model.slow_groups() {
            print(&format!("slow: {}\n", one_line(&slow_line(group))))?;
        }
        for lost in self.model.lost_groups() {
            print(&format!("lost: {}\n", lost_line(&lost)))?;
        }
        Ok(())
    }
}

/// 1, 10, 100, and so on.
fn is_power_of_ten(mut count: u64) -> bool {
    while count >= 10 && count.is_multiple_of(10) {
        count /= 10;
    }
    count == 1
}

fn line(event: &Event, lines: Lines) -> Result<(), CliError> {
    let is_told = matches!(
        event,
        Event::Hello(_) | Event::Step(_) | Event::Eval(_) | Event::Warn(_) | Event::End(_)
    );
    match (lines, event) {
        (Lines::Json, _) if is_told => print_json(event),
        (Lines::Plain, Event::Hello(hello)) => print(&format!(
            "{}: {} on {} ranks{}, {} micro-batches{}{}\n",
            one_line(&hello.run),
            one_line(&hello.schedule),
            hello.pp,
            if hello.dp > 1 { format!(" x {} replicas", hello.dp) } else { String::new() },
            hello.micro_batches,
            if hello.steps == 0 { String::new() } else { format!(", {} steps", hello.steps) },
            hello
                .continues
                .as_ref()
                .map_or_else(String::new, |before| { one_line(&format!(", continues {before}")) })
        )),
        (Lines::Plain, Event::Step(step)) => print(&step_line(step)),
        (Lines::Plain, Event::Eval(eval)) => {
            let accuracy = eval
                .accuracy
                .map_or_else(String::new, |share| format!("  accuracy {:.1} %", share * 100.0));
            print(&format!("step {}  validation loss {:.4}{accuracy}\n", eval.step, eval.loss))
        }
        (Lines::Plain, Event::Phase(phase)) => match (phase.dur_ns, phase.step) {
            (Some(ns), Some(step)) => {
                let name = one_line(&phase.phase);
                print(&format!("{name} after step {step}: {:.2} s\n", ns as f64 * 1e-9))
            }
            (Some(ns), None) => {
                print(&format!("{}: {:.2} s\n", one_line(&phase.phase), ns as f64 * 1e-9))
            }
            (None, _) => Ok(()),
        },
        (Lines::Plain, Event::End(end)) => {
            if let Some(saved) = &end.saved {
                print(&format!("{}\n", one_line(saved)))?;
            }
            let standing = Evidence { end: Some(end), ..Evidence::default() }.standing();
            let (code, steps, reason) = (end.code, end.steps, one_line(&end.reason));
            print(&if is_stopped(end) {
                format!("{standing} after {steps} steps\n")
            } else {
                format!("ended with exit code {code} after {steps} steps: {reason}\n")
            })
        }
        _ => Ok(()),
    }
}

/// Whether the run was asked to end. Its exit code is for scripts then.
fn is_stopped(end: &End) -> bool {
    let evidence = Evidence { end: Some(end), ..Evidence::default() };
    matches!(evidence.standing(), Standing::Stopped(_))
}

/// The line of a step. A log of another program may lack the bubble or the time.
fn step_line(step: &StepEvent) -> String {
    let known = |value: f64, unit: &str| {
        if value.is_finite() { format!("{value:.1} {unit}") } else { "-".to_owned() }
    };
    let (bubble, time) = (known(step.bubble_ratio * 100.0, "%"), known(step.seconds * 1e3, "ms"));
    let loss = step.loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.5}"));
    format!("step {}  loss {loss}  bubble {bubble}  {time}\n", step.step)
}

#[cfg(test)]
mod tests {
    use pp_telemetry::{Event, Line};

    use super::*;

    #[test]
    fn what_a_log_lacks_is_a_dash() {
        let event = |line: &str| match Event::parse(line.as_bytes()).unwrap() {
            Line::Event(Event::Step(step)) => step_line(&step),
            other => panic!("{other:?}"),
        };
        let line = event(r#"{"ev":"step","step":3,"loss":1.5,"seconds":0.25}"#);
        assert_eq!(line, "step 3  loss 1.50000  bubble -  250.0 ms\n");
        let line = event(r#"{"ev":"step","step":3,"loss":1.5,"seconds":0.25,"bubble_ratio":0.5}"#);
        assert_eq!(line, "step 3  loss 1.50000  bubble 50.0 %  250.0 ms\n");
    }
}
