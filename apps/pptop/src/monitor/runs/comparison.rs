//! Two runs side by side.

use pp_telemetry::{Model, Run};

use super::row::model_of;
use super::table::short_time;
use crate::monitor::words::format;

/// Two runs side by side: a line for each number, and which of them is better.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Their names.
    pub names: [String; 2],
    /// What, of the one, of the other, and how the other differs.
    pub lines: Vec<(&'static str, [String; 2], String)>,
}

/// How the second number differs from the first, in percent.
fn change(values: [Option<f64>; 2]) -> String {
    match values {
        [Some(first), Some(second)]
            if first.abs() > 0.0 && first.is_finite() && second.is_finite() =>
        {
            format!("{:+.1} %", (second / first - 1.0) * 100.0)
        }
        _ => String::new(),
    }
}

impl Comparison {
    /// Reads both logs: the last numbers of each. Takes as long as that takes.
    pub fn read(runs: [&Run; 2]) -> Self {
        let names = runs.map(|run| run.id.clone());
        Self::of(names, &runs.map(model_of))
    }

    /// The same of what was read.
    pub fn of(names: [String; 2], models: &[Model; 2]) -> Self {
        let mut lines = Vec::new();
        let mut text = |what, of: &dyn Fn(&Model) -> Option<String>| {
            let both = [&models[0], &models[1]].map(|m| of(m).unwrap_or_else(|| "-".to_owned()));
            let differs = if both[0] == both[1] { "" } else { "differs" };
            lines.push((what, both, differs.to_owned()));
        };
        text("model", &|model| Some(model.hello()?.model.clone()));
        text("schedule", &|model| Some(model.hello()?.schedule.clone()));
        text("ranks x replicas", &|model| {
            model.hello().map(|hello| format!("{} x {}", hello.pp, hello.dp))
        });
        text("virtual stages", &|model| Some(model.hello()?.virtual_stages.to_string()));
        text("micro-batches", &|model| Some(model.hello()?.micro_batches.to_string()));
        let told = |number: u64| Some(number).filter(|&number| number > 0);
        text("batch", &|model| Some(told(model.hello()?.batch_size)?.to_string()));
        // Another program's seed is not known; ours may be 0.
        text("seed", &|model| {
            let hello = model.hello()?;
            hello.program.is_empty().then(|| hello.seed.to_string())
        });
        text("steps", &|model| {
            let of = told(model.hello()?.steps).map_or_else(String::new, |n| format!("/{n}"));
            Some(format!("{}{of}", model.step()))
        });
        let mut number =
            |what, of: &dyn Fn(&Model) -> Option<f64>, shown: &dyn Fn(f64) -> String| {
                let values = [of(&models[0]), of(&models[1])];
                let both = values.map(|value| value.map_or_else(|| "-".to_owned(), shown));
                lines.push((what, both, change(values)));
            };
        number("last loss", &|model| model.loss().last(), &format::number);
        number("loss ema", &|model| model.loss().ema(), &format::number);
        number(
            "last validation",
            &|model| model.loss().marks().last().map(|mark| mark.loss),
            &format::number,
        );
        number("step", &|model| Some(model.steps().seconds()?.p50), &format::duration);
        number(
            "samples a second",
            &|model| {
                let batch = Some(model.hello()?.batch_size).filter(|&batch| batch > 0)?;
                Some(batch as f64 / model.steps().seconds()?.p50)
            },
            &format::count,
        );
        number("bubble", &|model| Some(model.steps().bubble_ratio()?.mean), &format::percent);
        number(
            "peak memory",
            &|model| model.peak_memory().map(|(_, bytes)| bytes as f64),
            &|bytes| format::bytes(bytes as u64),
        );
        number(
            "time",
            &|model| {
                let end = model.end().map(|end| end.wall_seconds);
                end.or_else(|| Some(model.steps().last()?.elapsed_seconds))
            },
            &short_time,
        );
        Self { names, lines }
    }
}
