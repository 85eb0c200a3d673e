//! The text about the drawn numbers: values, a verdict, and the legend.

use pp_telemetry::{Alarm, LossBucket, LossHistory, Mark, Trend};
use ratatui::style::Style;

use super::Plot;
use crate::monitor::state::{Metric, Part, State};
use crate::monitor::view::chart::other_sign;
use crate::monitor::view::loss_panel::trend_text;
use crate::monitor::view::paint::Pen;
use crate::monitor::view::theme::STRONG;
use crate::monitor::words::format;

/// The share by which the last two validations must exceed the best one before a warning is shown.
const VALIDATION_RISES: f64 = 0.02;

impl Plot<'_> {
    /// The values at the cursor, the drawn number first.
    fn values_at(&self, step: u64) -> Vec<(&'static str, String, Style)> {
        let of = |history: &LossHistory| history.at(step).filter(LossBucket::has_values);
        let range = |bucket: LossBucket, text: &dyn Fn(f64) -> String| {
            let (low, high) = (text(bucket.min), text(bucket.max));
            if low == high { low } else { format!("{low}..{high}") }
        };
        let number = |value: f64| format::number(value);
        let mut values = vec![("step", step.to_string(), STRONG)];
        let metrics = self.model.metrics();
        if !matches!(self.metric, Metric::Loss | Metric::Validation)
            && let Some(bucket) = of(self.history)
        {
            let text = range(bucket, &|value| self.text(value));
            values.push((self.metric.title(), text, STRONG));
        }
        match self.model.loss().at(step) {
            Some(bucket) if bucket.has_values() => {
                values.push(("loss", range(bucket, &number), STRONG));
                values.push(("ema", format::number(bucket.ema), Style::new()));
            }
            Some(_) => values.push(("loss", "not finite".to_owned(), STRONG)),
            None => {}
        }
        if let Some((other, _)) = &self.other {
            let at = other.history(self.metric).at(step).filter(LossBucket::has_values);
            let text = at.map_or_else(|| "-".to_owned(), |bucket| range(bucket, &|v| self.text(v)));
            values.push(("other", text, STRONG));
        }
        for (metric, name, history) in [
            (Metric::LearningRate, "lr", &metrics.lr),
            (Metric::GradNorm, "grad norm", &metrics.grad_norm),
        ] {
            if metric != self.metric
                && let Some(bucket) = of(history)
            {
                values.push((name, range(bucket, &number), Style::new()));
            }
        }
        let mut marks = self.history.marks().iter().rev();
        if let Some(mark) = marks.find(|mark| mark.step <= step) {
            values.push(("val", format!("{} @{}", number(mark.loss), mark.step), Style::new()));
        }
        values
    }

    /// The most important values, as many as fit, each with its name.
    fn values(&self) -> Vec<(&'static str, String, Style)> {
        if let Some(step) = self.cursor {
            return self.values_at(step);
        }
        let theme_free = Style::new();
        let mut values = Vec::new();
        if self.metric != Metric::Validation
            && let Some(last) = self.history.last()
        {
            values.push(("last", self.text(last), STRONG));
        }
        if self.series().has_average
            && let Some(ema) = self.history.ema()
        {
            values.push(("ema", self.text(ema), theme_free));
        }
        match self.metric {
            Metric::Loss | Metric::Validation => {
                if self.metric == Metric::Validation
                    && let Some(mark) = self.history.marks().last()
                {
                    let text = format!("{} @{}", self.text(mark.loss), mark.step);
                    values.push(("last", text, STRONG));
                    if let Some(accuracy) = mark.accuracy {
                        values.push(("right", format::percent(accuracy), theme_free));
                    }
                }
                if let Some(best) = self.history.best_mark() {
                    let text = format!("{} @{}", self.text(best.loss), best.step);
                    values.push(("best val", text, theme_free));
                }
            }
            Metric::StepTime => {
                if let Some(seconds) = self.model.steps().seconds() {
                    values.push(("p50", self.text(seconds.p50), theme_free));
                    values.push(("p95", self.text(seconds.p95), theme_free));
                }
            }
            Metric::Bubble => {
                if let Some(theory) = self.model.hello().and_then(|hello| hello.theory) {
                    values.push(("theory", self.text(theory), theme_free));
                }
            }
            Metric::GradNorm | Metric::LearningRate | Metric::Rate => {}
        }
        let with_values = || self.buckets.iter().filter(|bucket| bucket.has_values());
        if !matches!(self.metric, Metric::Loss | Metric::Validation) {
            let lowest = with_values().min_by(|a, b| a.min.total_cmp(&b.min));
            let highest = with_values().max_by(|a, b| a.max.total_cmp(&b.max));
            if let Some((lowest, highest)) = lowest.zip(highest) {
                values.push(("lowest", self.text(lowest.min), theme_free));
                values.push(("highest", self.text(highest.max), theme_free));
            }
        }
        values
    }

    /// The verdict on the learning: in long form, in short form, and whether it is good.
    fn verdict(&self) -> Option<(&'static str, &'static str, bool)> {
        let trend = self.history.trend();
        if self.metric == Metric::GradNorm
            && let Some(alarm) = self.model.alarm()
        {
            return Some((alarm_words(alarm), alarm.short(), false));
        }
        if !matches!(self.metric, Metric::Loss | Metric::Validation) {
            let word = match trend? {
                Trend::Falling => "falling",
                Trend::Flat => "flat",
                Trend::Rising => "rising",
            };
            return Some((word, word, true));
        }
        if self.history.last().is_some_and(|last| !last.is_finite()) {
            return Some(("the last loss is not a number", "not a number", false));
        }
        if let Some(alarm) = self.model.alarm() {
            return Some((alarm_words(alarm), alarm.short(), false));
        }
        let validation_rises = || {
            // A single one may be chance.
            let best = self.history.best_mark()?;
            let is_worse = |mark: &Mark| {
                mark.step > best.step && mark.loss > best.loss + best.loss.abs() * VALIDATION_RISES
            };
            let last_two = self.history.marks().last_chunk::<2>()?;
            Some(last_two.iter().all(is_worse))
        };
        Some(match trend {
            None => ("too few steps for a trend", "", true),
            Some(Trend::Falling) if validation_rises() == Some(true) => {
                ("falling, but validation rises: it may overfit", "it may overfit", false)
            }
            Some(Trend::Falling) => ("falling: it learns", "it learns", true),
            Some(Trend::Flat) => ("flat: it has stopped learning", "flat", false),
            Some(Trend::Rising) => ("rising: it gets worse", "rising", false),
        })
    }

    pub(super) fn draw_values(&self, pen: &mut Pen<'_>) {
        let theme = pen.theme;
        for (name, text, style) in self.values() {
            if name.len() + text.chars().count() + 4 > pen.left() as usize {
                break;
            }
            pen.put(format!(" {name} "), theme.dim()).put(text, style).text("  ");
        }
        // Beside the values of another step, words about the last one would mislead.
        if let Some((long, short, is_good)) = self.verdict().filter(|_| self.cursor.is_none()) {
            let fits = |words: &&str| words.len() < pen.left() as usize;
            let words = [long, short].into_iter().find(fits).unwrap_or("");
            let is_alarm = self.model.alarm().is_some()
                && matches!(self.metric, Metric::Loss | Metric::Validation | Metric::GradNorm);
            let bad = if is_alarm { theme.bad() } else { theme.notice() };
            pen.put(words, if is_good { STRONG } else { bad });
        }
    }

    pub(super) fn draw_legend(&self, pen: &mut Pen<'_>) {
        let theme = pen.theme;
        let (dots, average) = if theme.ascii { (":", "*") } else { ("⣿", "⣿") };
        let mut items: Vec<(&str, Style, String)> = Vec::new();
        if self.metric != Metric::Validation {
            let name = if self.metric == Metric::Loss { "training" } else { self.metric.title() };
            items.push((dots, theme.loss(), format!("{name} min..max")));
        }
        if self.series().has_average {
            items.push((average, theme.average(), "ema (bold)".to_owned()));
        }
        if !self.marks.is_empty() {
            let sign = if theme.ascii { "o" } else { "◆" };
            items.push((sign, theme.validation(), "validation".to_owned()));
        }
        if let Some((other, _)) = &self.other {
            let history = other.history(self.metric);
            let last =
                history.last().map_or_else(String::new, |last| format!(" {}", self.text(last)));
            let text = format!("{} (ema){last} @{}", other.name, other.step);
            let sign = if other_sign(theme) == 'x' { "x" } else { "×" };
            // A run other than that of the head line needs its name.
            items.insert(0, (sign, theme.notice(), text));
        }
        if self.reference().is_some() {
            let sign = if theme.ascii { "-" } else { "╌" };
            items.push((sign, theme.dim(), "theory".to_owned()));
        }
        if !self.checkpoints.is_empty() {
            items.push(("K", theme.notice(), "checkpoint".to_owned()));
        }
        if !self.seams.is_empty() {
            items.push(("R", theme.notice(), "resumed".to_owned()));
        }
        let n_nonfinite: u64 = self.buckets.iter().map(|bucket| bucket.n_nonfinite).sum();
        if n_nonfinite > 0 {
            items.insert(0, ("!", theme.bad(), format!("{n_nonfinite} not finite")));
        }
        if self.refuses_log {
            items.insert(0, ("no log axis:", theme.notice(), "nothing is above 0".to_owned()));
        }
        for (sign, style, text) in items {
            if sign.chars().count() + text.chars().count() + 4 > pen.left() as usize {
                break;
            }
            pen.text(" ").put(sign, style).put(format!(" {text}  "), theme.dim());
        }
    }

    /// All of it in one line of a small screen.
    pub(super) fn draw_short(&self, pen: &mut Pen<'_>, state: &State) {
        let theme = pen.theme;
        pen.put(self.metric.title(), STRONG);
        let trend = trend_text(self.history.trend(), theme);
        let trend = if self.cursor.is_some() { "" } else { trend };
        let mut parts: Vec<String> =
            self.values().into_iter().map(|(name, text, _)| format!("{name} {text}")).collect();
        // The last value needs no name.
        if let Some(first) = parts.first_mut() {
            let value = first.trim_start_matches("last ");
            *first = if trend.is_empty() { value.to_owned() } else { format!("{value} {trend}") };
        }
        let n_nonfinite = self.history.n_nonfinite();
        if n_nonfinite > 0 {
            parts.insert(1.min(parts.len()), format!("!{n_nonfinite} not finite"));
        }
        if self.is_log {
            parts.push("log axis".to_owned());
        }
        if state.loss().part() != Part::Whole {
            parts.push(state.loss().part().title());
        }
        for part in parts {
            if part.chars().count() + 1 > pen.left() as usize {
                break;
            }
            pen.text(" ").text(part);
        }
    }
}

/// An alarm in as many words as there is room for beside the values.
fn alarm_words(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::LossNotFinite { .. } => "the loss is not finite",
        Alarm::NormNotFinite { .. } => "the gradient norm is not finite",
        Alarm::Diverging { .. } => "the loss diverges: try a lower --lr",
        Alarm::LossSpike { .. } => "the loss has jumped",
        Alarm::NormSpike { .. } => "the gradient norm has jumped",
    }
}
