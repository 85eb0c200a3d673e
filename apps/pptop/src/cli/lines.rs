//! A run as lines: for files, pipes and terminals without a screen.

use std::time::Duration;

use pp_telemetry::{End, Event, Evidence, Follower, Run, Standing, StepEvent};

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
    loop {
        // Whether it is over is asked before the log is read: what is read then is all that there will be.
        let is_over = Run::of(&run.dir).ok().flatten().is_none_or(|run| match run.standing() {
            // Of a process elsewhere nobody here knows; a log alone is all that there is.
            Standing::Unknown => run.status.is_none(),
            standing => standing.is_over(),
        });
        let mut written = Ok(());
        let mut has_ended = false;
        let poll = follower
            .poll(|event| {
                has_begun |= matches!(event, Event::Hello(_) | Event::Index(_));
                has_ended |= matches!(event, Event::End(_));
                if written.is_ok() {
                    written = line(&event, lines);
                }
            })
            .map_err(|error| unreadable(&error))?;
        written?;
        if has_ended || (is_over && poll.at_end) {
            return if !has_begun {
                Err(not_a_run(run))
            } else if has_ended || lines == Lines::Json {
                Ok(())
            } else {
                // Asked again: its summary may tell what its log does not.
                let standing = Run::of(&run.dir).ok().flatten().map(|run| run.standing());
                let standing = standing.filter(|standing| *standing != Standing::Unknown);
                let word = standing.map_or_else(String::new, |word| format!(": {word}"));
                print(&format!("the log ends here, without a last word of the run{word}\n"))
            };
        }
        if poll.at_end {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn line(event: &Event, lines: Lines) -> Result<(), CliError> {
    let is_told = matches!(
        event,
        Event::Hello(_) | Event::Step(_) | Event::Eval(_) | Event::Warn(_) | Event::End(_)
    );
    match (lines, event) {
        (Lines::Json, _) if is_told => print_json(event),
        (Lines::Plain, Event::Hello(hello)) => print(&format!(
            "{}: {} on {} ranks, {} replicas, {} micro-batches, {} steps\n",
            one_line(&hello.run),
            one_line(&hello.schedule),
            hello.pp,
            hello.dp,
            hello.micro_batches,
            hello.steps
        )),
        (Lines::Plain, Event::Step(step)) => print(&step_line(step)),
        (Lines::Plain, Event::Eval(eval)) => {
            let accuracy = eval
                .accuracy
                .map_or_else(String::new, |share| format!("  accuracy {:.1} %", share * 100.0));
            print(&format!("step {}  validation loss {:.4}{accuracy}\n", eval.step, eval.loss))
        }
        (Lines::Plain, Event::Warn(warn)) => {
            print(&format!("warning: {}\n", one_line(&warn.message)))
        }
        (Lines::Plain, Event::End(end)) if is_stopped(end) => print(&format!(
            "{} after {} steps\n",
            Evidence { end: Some(end), ..Evidence::default() }.standing(),
            end.steps
        )),
        (Lines::Plain, Event::End(end)) => print(&format!(
            "ended with exit code {} after {} steps: {}\n",
            end.code,
            end.steps,
            one_line(&end.reason)
        )),
        _ => Ok(()),
    }
}

/// Whether somebody asked the run to end: then its exit code is for scripts.
fn is_stopped(end: &End) -> bool {
    let evidence = Evidence { end: Some(end), ..Evidence::default() };
    matches!(evidence.standing(), Standing::Stopped(_))
}

fn step_line(step: &StepEvent) -> String {
    format!(
        "step {}  loss {:.5}  bubble {:.1} %  {:.1} ms\n",
        step.step,
        step.loss,
        step.bubble_ratio * 100.0,
        step.seconds * 1e3
    )
}
