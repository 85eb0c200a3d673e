//! The output of a run on standard output and standard error.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use pp_schedule::clean_lines;
use pp_telemetry::{End, Event, Hello};
use pp_train::{Notice, Observer, Ready, StepOutcome, Stopped, causes};

use super::CliError;
use super::job::Spec;
use super::learned::Goal;
use super::story::Story;

/// The time between two progress lines of an evaluation.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The format of standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Plain,
    Json,
}

impl Output {
    /// Writes the end of a run that a signal ends before its first step.
    pub(crate) fn end(self, end: &End) {
        self.event(&Event::End(end.clone()));
    }

    /// Writes an event from another thread than that of the run.
    pub(crate) fn event(self, event: &Event) {
        if self == Self::Json
            && let Ok(json) = event.to_json()
        {
            let mut stdout = std::io::stdout();
            // The reader may be gone.
            let _ = writeln!(stdout, "{json}").and_then(|()| stdout.flush());
        }
    }
}

/// Writes the output of a run.
pub(crate) struct Teller {
    output: Output,
    id: String,
    is_seed: bool,
    log_every: u64,
    /// `None` before the first step.
    story: Option<Story>,
    /// The time of the last progress line of an evaluation.
    said: Instant,
    /// Whether standard output is gone. The run goes on without it.
    silent: bool,
}

impl Observer for Teller {
    fn notice(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Event(event) => self.event(event),
            Notice::Ready(ready) => self.ready(ready),
            Notice::Stepped(outcome) => self.stepped(outcome),
            // With --json the alarm is a line of the run, and standard error stays for the program.
            Notice::Alarm(message) if self.output == Output::Plain => {
                let _ = writeln!(std::io::stderr(), "pptop: {message}");
            }
            Notice::Warning(message) => super::note(message),
            Notice::Evaluating { done, total } => self.evaluating(*done, *total),
            Notice::Evaluated { step, found } => {
                if let Some(story) = &mut self.story {
                    story.evaluated(*step, found);
                }
                let accuracy = found.accuracy;
                let accuracy =
                    accuracy.map_or_else(String::new, |a| format!("  accuracy {:.1} %", 100.0 * a));
                self.plain(&format!("step {step}: validation loss {:.4}{accuracy}", found.loss));
            }
            // With --json it is in the last line of the run.
            Notice::Saved(text) => self.plain(text),
            Notice::Sample(text) => match self.output {
                Output::Plain => self.plain(text),
                // Standard output holds the run's lines alone.
                Output::Json => {
                    let _ = writeln!(std::io::stderr(), "{text}");
                }
            },
            _ => {}
        }
    }
}

impl Teller {
    pub(crate) fn new(output: Output, id: &str, spec: &Spec) -> Self {
        Self {
            output,
            id: id.to_owned(),
            is_seed: spec.is_seed,
            log_every: spec.log_every,
            story: None,
            said: Instant::now(),
            silent: false,
        }
    }

    fn event(&mut self, event: &Event) {
        match (self.output, event) {
            (Output::Json, event) => match event.to_json() {
                Ok(json) => self.line(&json),
                Err(error) => self.line(
                    &serde_json::json!({"ev": "warn", "message": error.to_string()}).to_string(),
                ),
            },
            (Output::Plain, Event::End(end)) if end.steps > 0 => {
                let summary = self.story.as_ref().map(Story::closing);
                self.plain(&summary.unwrap_or_default());
            }
            (Output::Plain, _) => {}
        }
    }

    fn ready(&mut self, ready: &Ready<'_>) {
        let Ready { session, hello, .. } = ready;
        self.story = Some(Story::new(session, hello, Goal::of(session.job(), self.is_seed)));
        self.plain(&format!("{}\n{}", ready.opening, devices_line(hello)));
        if let Some(continued) = session.continued() {
            self.plain(&continued);
        }
        if let Some(chosen) = session.kernels_chosen() {
            self.plain(&format!("kernels {} ({})", chosen.kernels.summary(), chosen.how));
        }
        self.plain(&format!("run {} in {}", self.id, ready.dir.display()));
        self.plain(ready.took);
    }

    fn stepped(&mut self, outcome: &StepOutcome) {
        let Some(story) = &mut self.story else { return };
        story.stepped(outcome);
        if story.has_one_step() || outcome.step.is_multiple_of(self.log_every) {
            let line = story.step_line(outcome);
            self.plain(&line);
        }
    }

    fn evaluating(&mut self, done: usize, total: usize) {
        if done == 0 {
            self.said = Instant::now();
        } else if self.output == Output::Plain && self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            self.plain(&format!("evaluating {done}/{total}"));
        }
    }

    fn plain(&mut self, text: &str) {
        if self.output == Output::Plain {
            self.line(text);
        }
    }

    fn line(&mut self, text: &str) {
        if self.silent {
            return;
        }
        let text = super::for_terminal(text, std::io::stdout().is_terminal());
        let mut stdout = std::io::stdout().lock();
        let Err(failed) = writeln!(stdout, "{}", clean_lines(&text)).and_then(|()| stdout.flush())
        else {
            return;
        };
        self.silent = true;
        // A reader that has gone away is no error. Every other failure loses lines.
        if failed.kind() != std::io::ErrorKind::BrokenPipe {
            let message = "the run and its log continue";
            let _ = writeln!(
                std::io::stderr(),
                "pptop: cannot write to standard output: {failed}; {message}"
            );
        }
    }
}

/// The error of the command for a run that ended early.
pub(crate) fn ended(stopped: &Stopped, spec: &Spec) -> CliError {
    match stopped {
        Stopped::NotStarted(error) => spec.told(error),
        Stopped::Failed(error) => CliError::Failed(format!("training failed: {}", causes(error))),
        Stopped::Result(error) => CliError::Failed(causes(error)),
        Stopped::Checkpoints(_) => CliError::Failed(causes(stopped)),
        Stopped::NotFinite(found) => CliError::Failed(format!(
            "training failed: {found}; try a lower --lr, --clip-norm 1, or --on-nonfinite skip"
        )),
        Stopped::Spike { .. } => CliError::Failed(stopped.to_string()),
        other => CliError::Code(other.code() as u8),
    }
}

/// The devices of each stage: `stage 0: cpu:0, cpu:1 · stage 1: cpu:2, cpu:3`.
fn devices_line(hello: &Hello) -> String {
    let mut names: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for entry in &hello.device_map {
        names.entry(entry.stage).or_default().push(hello.place_name(entry));
    }
    let of = |stage: u32| names.get(&stage).map(|names| names.join(", ")).unwrap_or_default();
    let stages = hello
        .stages
        .iter()
        .filter(|s| s.copy == 0)
        .map(|s| format!("stage {}: {}", s.stage, of(s.stage)));
    stages.collect::<Vec<_>>().join(" · ")
}
