//! The numbers of a run as CSV: a line a step, or a line a span.
//!
//! Numbers are written so that reading them gives back the same bits; what is not finite is `nan`,
//! `inf` or `-inf`.

use std::fmt;
use std::io::Write;

use super::{ExportError, Writer};
use crate::model::Tally;
use pp_trace::{Continues, Eval, Event, StepEvent};

/// A float as a CSV file has it.
struct Number<T>(T);

impl<T: Into<f64> + Copy + fmt::Debug> fmt::Display for Number<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value: f64 = self.0.into();
        if value.is_nan() {
            f.write_str("nan")
        } else {
            // The shortest text that gives back this number of this width, and the names of the
            // infinities.
            write!(f, "{:?}", self.0)
        }
    }
}

/// A number that a run may not tell: then its cell is empty.
fn told<T: Into<f64> + Copy + fmt::Debug>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| Number(value).to_string())
}

/// What is measured, if it was: without spans, and where a rank is missing, it was not.
fn known(value: f64) -> String {
    told(Some(value).filter(|value| !value.is_nan()))
}

/// Samples or tokens: if a step has neither, the run does not tell them.
fn counted(number: u64, step: &StepEvent) -> String {
    if step.samples == 0 && step.tokens == 0 { String::new() } else { number.to_string() }
}

const STEP_HEADER: &str = "step,loss,lr,grad_norm,seconds,elapsed_seconds,samples,tokens,bubble_ratio,idle_of_step,\
starved_ratio,window_seconds,validation_loss,validation_accuracy,missing_ops";

/// Further columns of a run that was resumed: the run that it resumes from, and its last step.
const CONTINUES_HEADER: &str = "continues_run,continues_step";

/// A line a step, with the validation that followed it.
#[derive(Debug, Default)]
pub(super) struct StepRows {
    /// What stands at the end of each line.
    continues: Option<String>,
    has_header: bool,
    /// The newest step: its validation may still come. With it how many of its operations were
    /// lost; nothing where none was recorded.
    step: Option<(StepEvent, Option<u64>)>,
    tally: Tally,
    eval: Option<Eval>,
}

impl StepRows {
    fn header(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        if !std::mem::replace(&mut self.has_header, true) {
            let more = self.continues.as_ref().map(|_| format!(",{CONTINUES_HEADER}"));
            writeln!(out, "{STEP_HEADER}{}", more.unwrap_or_default())?;
        }
        Ok(())
    }

    fn write_row(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        let Some((step, missing)) = self.step.take() else { return Ok(()) };
        let mut missing = missing.map_or_else(String::new, |missing| missing.to_string());
        missing.push_str(self.continues.as_deref().unwrap_or_default());
        self.header(out)?;
        write!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{},{},",
            step.step,
            told(step.loss),
            told(step.lr),
            told(step.grad_norm),
            Number(step.seconds),
            Number(step.elapsed_seconds),
            counted(step.samples, &step),
            counted(step.tokens, &step),
            known(step.bubble_ratio),
            known(step.idle_of_step),
            known(step.starved_ratio),
            known(step.window_seconds),
        )?;
        match self.eval.take_if(|eval| eval.step <= step.step).filter(|e| e.step == step.step) {
            Some(Eval { loss, accuracy: Some(accuracy), .. }) => {
                writeln!(out, "{},{},{missing}", Number(loss), Number(accuracy))?;
            }
            Some(Eval { loss, accuracy: None, .. }) => {
                writeln!(out, "{},,{missing}", Number(loss))?;
            }
            None => writeln!(out, ",,{missing}")?,
        }
        Ok(())
    }
}

impl Writer for StepRows {
    fn push(&mut self, event: &Event, out: &mut dyn Write) -> Result<(), ExportError> {
        let missing = self.tally.push(event);
        match event {
            Event::Step(step) => {
                self.write_row(out)?;
                self.step = Some((step.clone(), missing));
            }
            Event::Eval(eval) => self.eval = Some(eval.clone()),
            Event::Hello(hello) if !self.has_header => {
                let columns =
                    |before: &Continues| format!(",{},{}", field(&before.run), before.step);
                self.continues = hello.continues.as_ref().map(columns);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        self.write_row(out)?;
        self.header(out)
    }
}

/// A text as one field.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

const SPAN_HEADER: &str = "step,replica,rank,stage,mb,op,start_ns,dur_ns,cpu_ns,bytes,starved_ns";

/// A line a span, in the order in which they were recorded, under the keys of the log.
#[derive(Debug, Default)]
pub(super) struct SpanRows {
    has_header: bool,
}

impl SpanRows {
    fn header(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        if !std::mem::replace(&mut self.has_header, true) {
            writeln!(out, "{SPAN_HEADER}")?;
        }
        Ok(())
    }
}

impl Writer for SpanRows {
    fn push(&mut self, event: &Event, out: &mut dyn Write) -> Result<(), ExportError> {
        let Event::Span(span) = event else { return Ok(()) };
        self.header(out)?;
        writeln!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{}",
            span.step,
            span.replica,
            span.rank,
            span.stage,
            span.mb,
            span.op.name(),
            span.start_ns,
            span.dur_ns,
            span.cpu_ns,
            span.bytes,
            span.starved_ns
        )?;
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        self.header(out)
    }
}
