//! What stays on the normal screen when the monitor has gone.

use std::fmt::Write as _;
use std::path::Path;

use pp_schedule::clean_lines;

use super::state::{State, Status};
use super::words::format;

/// A few lines about what came of the run.
pub(crate) fn summary(state: &State, run_dir: &Path) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_summary(&mut text, state, run_dir);
    // The name of a run may be anything, and so may its folder.
    clean_lines(&text).into_owned()
}

fn write_summary(text: &mut String, state: &State, run_dir: &Path) -> std::fmt::Result {
    let model = state.model();
    let name = model.hello().map_or("the run", |hello| hello.run.as_str());
    let step = match (model.step(), model.hello().map_or(0, |hello| hello.steps)) {
        (step, 0) => step.to_string(),
        (step, n_steps) => format!("{step} of {n_steps}"),
    };
    match state.exit_code() {
        None if state.playback().is_some() || state.child().pid == 0 => {
            writeln!(text, "{name}: last known step {step}")?;
        }
        None if state.is_read_only() && state.child().pid == std::process::id() => {
            return writeln!(text, "the demo is over after {step} steps");
        }
        None if state.status() == Status::Died => {
            writeln!(text, "{name} has died after {step} steps")?;
        }
        None if state.child().host.is_some() => {
            let host = state.child().host.as_deref().unwrap_or_default();
            writeln!(text, "{name} runs on {host}; last known step {step}")?;
        }
        None if state.child().is_suspended => writeln!(
            text,
            "{name} is suspended as process {}; step {step} is done",
            state.child().pid
        )?,
        None => writeln!(
            text,
            "{name} is still running as process {}; step {step} is done",
            state.child().pid
        )?,
        Some(0) => {
            let wall = model.end().map(|end| format!(" in {}", format::duration(end.wall_seconds)));
            writeln!(text, "{name} has ended after {step} steps{}", wall.unwrap_or_default())?;
        }
        Some(_) if state.status() == Status::Died => {
            writeln!(text, "{name} has died after {step} steps")?;
        }
        Some(_) if state.status() == Status::Stopped => {
            writeln!(text, "{name} was stopped after {step} steps")?;
        }
        Some(code) => {
            writeln!(text, "{name} has failed after {step} steps, exit code {code}")?;
        }
    }
    if let Some(failure) = state.failure() {
        writeln!(text, "  reason   {failure}")?;
    }
    if let Some(before) = model.hello().and_then(|hello| hello.continues.as_ref()) {
        writeln!(text, "  resumed  {before}")?;
    }
    if let Some(saved) = model.end().and_then(|end| end.saved.as_deref()) {
        writeln!(text, "  saved    {saved}")?;
    }
    if let Some(loss) = model.loss().last() {
        write!(text, "  loss     {}", format::number(loss))?;
        if let Some(mark) = model.loss().marks().last() {
            write!(text, "   validation {} after step {}", format::number(mark.loss), mark.step)?;
            if let Some(accuracy) = mark.accuracy {
                write!(text, ", accuracy {}", format::percent(accuracy))?;
            }
        }
        writeln!(text)?;
    }
    if let Some(bubble) = model.steps().bubble_ratio() {
        write!(
            text,
            "  bubble   {} ±{:.1} measured",
            format::percent(bubble.mean),
            bubble.sd * 100.0
        )?;
        if let Some(hello) = model.hello()
            && let Some(theory) = hello.theory
        {
            write!(text, ", {} in theory ({})", format::percent(theory), hello.schedule)?;
        }
        writeln!(text)?;
    }
    if model.n_dropped() > 0 {
        writeln!(text, "  lost     {} events: the recorder could not keep up", model.n_dropped())?;
    }
    writeln!(text, "  files    {}", run_dir.display())
}
