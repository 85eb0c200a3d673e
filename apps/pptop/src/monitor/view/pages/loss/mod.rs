//! The loss and other numbers of the steps, over the whole run or a part of it.

mod axes;
mod values;

use pp_telemetry::{LossBucket, LossHistory, Mark, Model, Rate};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::monitor::state::{Metric, OtherRun, State};
use crate::monitor::view::chart::{Scale, Series};
use crate::monitor::view::paint::{Pen, panel};
use crate::monitor::view::theme::Theme;
use crate::monitor::words::format;

/// The beginning of a message about a checkpoint.
const CHECKPOINT: &str = "checkpoint of step ";

/// Draws the view.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let plot = Plot::new(state);
    let is_framed = area.width >= 58 && area.height >= 12;
    let mut pen = if is_framed {
        let right = if plot.is_log { "log axis" } else { "" };
        let title = format!("{}  {}", plot.name(), state.loss().part().title());
        let inside = panel(buffer, area, theme, &title, right);
        Pen::new(buffer, inside, theme)
    } else {
        Pen::new(buffer, area, theme)
    };
    if plot.series().buckets.is_empty() {
        let what = match plot.metric {
            Metric::Validation => "no validation yet",
            _ => "no step has finished yet",
        };
        pen.put(format!(" {what}"), theme.dim());
        return;
    }
    if is_framed {
        plot.draw_values(&mut pen);
        pen.next_line();
        plot.draw_legend(&mut pen);
        pen.next_line();
    } else {
        plot.draw_short(&mut pen, state);
        pen.next_line();
    }
    let y = pen.height() - pen.lines_left().min(pen.height());
    plot.draw_chart(&mut pen, y);
}

/// The drawn numbers, and their captions.
struct Plot<'a> {
    model: &'a Model,
    metric: Metric,
    history: &'a LossHistory,
    buckets: Vec<LossBucket>,
    marks: Vec<Mark>,
    /// Steps after which a checkpoint was written.
    checkpoints: Vec<u64>,
    /// Steps after which the run, or one before it, was resumed.
    seams: Vec<u64>,
    /// The run that is drawn on top of this one, and its values.
    other: Option<(&'a OtherRun, Vec<LossBucket>)>,
    /// The step at the cursor.
    cursor: Option<u64>,
    /// The drawn steps.
    steps: (u64, u64),
    is_log: bool,
    /// Whether the axis is not logarithmic although the user asked for it.
    refuses_log: bool,
    /// The factor of the values, and the unit that results.
    factor: f64,
    unit: String,
}

impl<'a> Plot<'a> {
    fn new(state: &'a State) -> Self {
        let (model, metric) = (state.shown(), state.loss().metric());
        let history = metric.of(model.loss(), model.metrics());
        let (first, last) = state.loss().steps(model).unwrap_or((0, 0));
        let in_part = |step: u64| step >= first;
        let marks: Vec<Mark> =
            history.marks().iter().filter(|mark| in_part(mark.step)).copied().collect();
        let buckets = match metric {
            Metric::Validation => marks.iter().map(bucket_of).collect(),
            _ => history.since(first),
        };
        let other = state.loss().other().map(|other| {
            let history = other.history(metric);
            let buckets = match metric {
                Metric::Validation => {
                    let marks = history.marks().iter().filter(|mark| in_part(mark.step));
                    marks.map(bucket_of).collect()
                }
                _ => history.since(first),
            };
            (other, buckets)
        });
        // A bucket may begin before the part that is shown.
        let first_of = |buckets: &[LossBucket]| buckets.first().map(|bucket| bucket.first_step);
        let of_other = other.as_ref().and_then(|(_, buckets)| first_of(buckets));
        let earliest = first_of(&buckets).into_iter().chain(of_other).min();
        let first = earliest.map_or(first, |earliest| earliest.max(first));
        let last = last.max(marks.last().map_or(0, |mark| mark.step));
        let checkpoints = model
            .messages()
            .filter(|message| is_written(&message.text))
            .filter_map(|message| message.step.or_else(|| checkpoint_step(&message.text)))
            .filter(|step| in_part(*step))
            .collect();
        let mut plot = Self {
            model,
            metric,
            history,
            buckets,
            marks,
            checkpoints,
            seams: model
                .seams()
                .map(|before| before.step)
                .filter(|step| in_part(*step + 1))
                .collect(),
            other,
            cursor: state.loss().cursor(model),
            steps: (first, last.max(first)),
            is_log: state.loss().is_log(),
            refuses_log: false,
            factor: 1.0,
            unit: String::new(),
        };
        let highest = plot.whole_scale().high;
        (plot.factor, plot.unit) = unit(model, metric, highest);
        if plot.is_log && plot.whole_scale().log(&plot.series()).is_none() {
            (plot.is_log, plot.refuses_log) = (false, true);
        }
        plot
    }

    fn series(&self) -> Series<'_> {
        let has_average = !matches!(self.metric, Metric::Validation | Metric::LearningRate);
        Series { buckets: &self.buckets, marks: &self.marks, has_average }
    }

    /// From the lowest to the highest value of both runs.
    fn whole_scale(&self) -> Scale {
        let own = Scale::of(&self.series());
        let Some((_, buckets)) = &self.other else { return own };
        let values = buckets.iter().filter(|bucket| bucket.has_values());
        values.fold(own, |scale, bucket| {
            // The other run is drawn by its average.
            let value = if bucket.ema.is_finite() { bucket.ema } else { bucket.max };
            Scale { low: scale.low.min(value), high: scale.high.max(value), ..scale }
        })
    }

    fn name(&self) -> String {
        let title = self.metric.title();
        if self.unit.is_empty() { title.to_owned() } else { format!("{title}, {}", self.unit) }
    }

    /// A value with its unit.
    fn text(&self, value: f64) -> String {
        match self.metric {
            Metric::StepTime => format::duration(value),
            Metric::Bubble => format::percent(value),
            Metric::Rate => {
                let prefix = self.unit.split_once(' ').map_or("", |(prefix, _)| prefix);
                format!("{}{prefix}", format::number(value * self.factor))
            }
            _ => format::number(value),
        }
    }

    fn scale(&self, n_ticks: usize) -> (Scale, Vec<f64>) {
        let mut scale = self.whole_scale();
        (scale.first_step, scale.last_step) = self.steps;
        if self.metric == Metric::Bubble
            && let Some(theory) = self.model.hello().and_then(|hello| hello.theory)
        {
            scale = Scale { low: scale.low.min(theory), high: scale.high.max(theory), ..scale };
        }
        if self.is_log {
            scale = scale.log(&self.series()).unwrap_or(scale);
        }
        let in_unit =
            Scale { low: scale.low * self.factor, high: scale.high * self.factor, ..scale };
        if n_ticks < 2 {
            // Without room for round numbers, the ends are written as they are.
            return (scale, vec![in_unit.low, in_unit.high]);
        }
        let (rounded, ticks) = in_unit.rounded(n_ticks);
        let (low, high) = (rounded.low / self.factor, rounded.high / self.factor);
        (Scale { low, high, ..rounded }, ticks)
    }

    fn reference(&self) -> Option<f64> {
        let theory = self.model.hello().and_then(|hello| hello.theory);
        theory.filter(|_| self.metric == Metric::Bubble)
    }
}

fn bucket_of(mark: &Mark) -> LossBucket {
    let is_finite = mark.loss.is_finite();
    let (min, max) =
        if is_finite { (mark.loss, mark.loss) } else { (f64::INFINITY, f64::NEG_INFINITY) };
    let n_nonfinite = u64::from(!is_finite);
    LossBucket { first_step: mark.step, last_step: mark.step, min, max, ema: f64::NAN, n_nonfinite }
}

/// Whether a message says that a checkpoint was written, and not only requested or copied.
fn is_written(text: &str) -> bool {
    text.starts_with(CHECKPOINT) && !text.ends_with(" requested") && !text.contains(" copied: ")
}

fn checkpoint_step(text: &str) -> Option<u64> {
    let rest = text.strip_prefix(CHECKPOINT)?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// The unit for a number, by its highest value: a factor and a name.
fn unit(model: &Model, metric: Metric, highest: f64) -> (f64, String) {
    let (factor, name) = match metric {
        Metric::StepTime if highest < 2e-3 => (1e6, "us"),
        Metric::StepTime if highest < 2.0 => (1e3, "ms"),
        Metric::StepTime => (1.0, "s"),
        Metric::Bubble => (100.0, "%"),
        Metric::Rate if highest >= 2e6 => (1e-6, "M"),
        Metric::Rate if highest >= 2e3 => (1e-3, "k"),
        _ => (1.0, ""),
    };
    let name = match (metric, model.steps().rate()) {
        (Metric::Rate, Some(Rate::Tokens(_))) => format!("{name} tok/s").trim().to_owned(),
        (Metric::Rate, _) => format!("{name} samples/s").trim().to_owned(),
        _ => name.to_owned(),
    };
    (factor, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_of_a_checkpoint_is_read_from_its_message() {
        assert_eq!(checkpoint_step("checkpoint of step 120 in run: 3 MB"), Some(120));
        assert_eq!(checkpoint_step("checkpoint of step x"), None);
        assert!(is_written("checkpoint of step 120 in run: 3 MB"));
        assert!(is_written("checkpoint of step 120 is durable after 0.1 s: run/checkpoints"));
        assert!(!is_written("checkpoint of step 120 requested"));
        assert!(!is_written("checkpoint of step 120 copied: 3.0 MB in 0.001 s"));
    }
}
