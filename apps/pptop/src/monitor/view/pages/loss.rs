//! The loss and other numbers of the steps, over the whole run or a part of it.

use pp_telemetry::{Alarm, LossBucket, LossHistory, Mark, Model, Rate, Trend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::chart::{Chart, Scale, Series, other_sign, round_up};
use super::super::format;
use super::super::paint::{Pen, panel};
use super::super::theme::{STRONG, Theme};
use crate::monitor::state::{Metric, OtherRun, Part, State};

/// Cells from one number of the axis of the steps to the next, at least.
const TICK_CELLS: f64 = 12.0;
/// Rows from one number of the other axis to the next, at least.
const TICK_ROWS: u16 = 3;
/// How far above the best validation the last two have to be before one should know, as a share of it.
const VALIDATION_RISES: f64 = 0.02;
/// What the message about a checkpoint begins with.
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

/// What is drawn, and what is said about it.
struct Plot<'a> {
    model: &'a Model,
    metric: Metric,
    history: &'a LossHistory,
    buckets: Vec<LossBucket>,
    marks: Vec<Mark>,
    /// Steps after which the weights were written down.
    checkpoints: Vec<u64>,
    /// The run that is laid over this one, and what is drawn of it.
    other: Option<(&'a OtherRun, Vec<LossBucket>)>,
    /// The step that is looked at.
    cursor: Option<u64>,
    /// The steps that are drawn.
    steps: (u64, u64),
    is_log: bool,
    /// Why the axis is not logarithmic although it was asked for.
    refuses_log: bool,
    /// What a value is multiplied with, and the unit that it has then.
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
            .filter(|message| message.text.starts_with(CHECKPOINT))
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
            // What is drawn of it is its average.
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
            // No room for round numbers: the ends are told as they are.
            return (scale, vec![in_unit.low, in_unit.high]);
        }
        let (rounded, ticks) = in_unit.rounded(n_ticks);
        let (low, high) = (rounded.low / self.factor, rounded.high / self.factor);
        (Scale { low, high, ..rounded }, ticks)
    }

    /// The values at the cursor: that which is drawn first.
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

    /// The values that one wants to know, as many as fit, each with its name.
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

    /// Whether the model learns, in words: at length, in short, and whether that is well.
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
            return Some(("the last loss is no number", "no number", false));
        }
        if let Some(alarm) = self.model.alarm() {
            return Some((alarm_words(alarm), alarm.short(), false));
        }
        let validation_rises = || {
            // One alone may be chance.
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

    fn draw_values(&self, pen: &mut Pen<'_>) {
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

    fn draw_legend(&self, pen: &mut Pen<'_>) {
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
            // What is not the run of the head line has to be named.
            items.insert(0, (sign, theme.notice(), text));
        }
        if self.reference().is_some() {
            let sign = if theme.ascii { "-" } else { "╌" };
            items.push((sign, theme.dim(), "theory".to_owned()));
        }
        if !self.checkpoints.is_empty() {
            items.push(("K", theme.notice(), "checkpoint".to_owned()));
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
    fn draw_short(&self, pen: &mut Pen<'_>, state: &State) {
        let theme = pen.theme;
        pen.put(self.metric.title(), STRONG);
        let trend = super::super::loss::trend_text(self.history.trend(), theme);
        let trend = if self.cursor.is_some() { "" } else { trend };
        let mut parts: Vec<String> =
            self.values().into_iter().map(|(name, text, _)| format!("{name} {text}")).collect();
        // The last value goes without saying what it is.
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

    fn reference(&self) -> Option<f64> {
        let theory = self.model.hello().and_then(|hello| hello.theory);
        theory.filter(|_| self.metric == Metric::Bubble)
    }

    fn draw_chart(&self, pen: &mut Pen<'_>, y: u16) {
        let theme = pen.theme;
        let height = pen.height().saturating_sub(y);
        // The numbers of the steps have a line of their own where there is room for it.
        let n_axis_rows = match height {
            0..=3 => 0,
            4..=9 => 1,
            _ => 2,
        };
        let n_rows = height - n_axis_rows;
        let (scale, ticks) = self.scale(match n_rows {
            0..=5 => 0,
            _ => usize::from(n_rows / TICK_ROWS).clamp(4, 9),
        });
        let labels = match n_rows {
            0..=5 => ticks.iter().map(|tick| format::number(*tick)).collect(),
            _ => labels(&ticks),
        };
        let label_cells = labels.iter().map(String::len).max().unwrap_or(0).clamp(3, 9) as u16;
        let n_columns = pen.width().saturating_sub(label_cells + 2);
        if n_rows == 0 || n_columns == 0 {
            return;
        }
        let (bar, tick_bar, dash) =
            if theme.ascii { ('|', '+', '-') } else { ('│', '┤', '╌') };
        let x0 = label_cells + 2;
        for row in 0..n_rows {
            pen.cell(x0 - 1, y + row, bar, theme.dim());
        }
        for (value, label) in ticks.iter().zip(&labels) {
            let row = y + scale.y(value / self.factor, n_rows as usize) as u16;
            pen.cell(x0 - 1, row, tick_bar, theme.dim());
            pen.line(row).put(format!("{label:>width$}", width = x0 as usize - 1), theme.dim());
        }
        if let Some(theory) = self.reference() {
            let row = y + scale.y(theory, n_rows as usize) as u16;
            (x0..x0.saturating_add(n_columns)).for_each(|x| pen.cell(x, row, dash, theme.dim()));
        }
        let chart = Chart::new((x0, y), n_columns as usize, n_rows as usize, theme);
        if let Some(step) = self.cursor {
            chart.draw_cursor(pen, step, &scale);
        }
        if let Some((_, buckets)) = &self.other {
            chart.draw_points(pen, buckets, &scale);
        }
        chart.draw(pen, &self.series(), &scale);
        if n_axis_rows > 0 {
            self.draw_steps(pen, &scale, (x0, y + n_rows), n_columns, n_axis_rows == 2);
        }
    }

    fn draw_steps(
        &self,
        pen: &mut Pen<'_>,
        scale: &Scale,
        (x0, y): (u16, u16),
        n_columns: u16,
        has_own_line: bool,
    ) {
        let theme = pen.theme;
        let (corner, line, tick_sign) =
            if theme.ascii { ('+', '-', '+') } else { ('└', '─', '┬') };
        pen.cell(x0 - 1, y, corner, theme.dim());
        (x0..x0.saturating_add(n_columns)).for_each(|x| pen.cell(x, y, line, theme.dim()));
        let n = n_columns as usize;
        let whole = (scale.last_step - scale.first_step) as f64;
        let every = round_up((whole / f64::from(n_columns) * TICK_CELLS).max(1.0));
        #[expect(clippy::cast_sign_loss, reason = "one and more")]
        let every = every as u64;
        let mut ticks: Vec<u64> = std::iter::successors(
            Some(scale.first_step.div_ceil(every).saturating_mul(every)),
            |tick| tick.checked_add(every),
        )
        .take_while(|tick| *tick <= scale.last_step)
        .take(n)
        .collect();
        // The newest step is told where it does not stand on another number.
        let is_free = |tick: &u64| {
            let text = (scale.last_step.to_string().len() + 1 + tick.to_string().len()) as u64;
            scale.x(scale.last_step, n) as u64 > scale.x(*tick, n) as u64 + text
        };
        if ticks.last().is_none_or(is_free) {
            ticks.push(scale.last_step);
        }
        let row = if has_own_line { y + 1 } else { y };
        let mut end = 0;
        for tick in ticks {
            let text = tick.to_string();
            let at = scale.x(tick, n);
            if has_own_line {
                pen.cell(x0 + at as u16, y, tick_sign, theme.dim());
            }
            // What would go over the edge stands at it.
            let from = at.min(n.saturating_sub(text.len()));
            if from >= end && from + text.len() <= n {
                pen.line(row).column(x0 + from as u16).put(&text, theme.dim());
                end = from + text.len() + 1;
            }
        }
        for step in &self.checkpoints {
            pen.cell(x0 + scale.x(*step, n) as u16, y, 'K', theme.notice());
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

fn bucket_of(mark: &Mark) -> LossBucket {
    let is_finite = mark.loss.is_finite();
    let (min, max) =
        if is_finite { (mark.loss, mark.loss) } else { (f64::INFINITY, f64::NEG_INFINITY) };
    let n_nonfinite = u64::from(!is_finite);
    LossBucket { first_step: mark.step, last_step: mark.step, min, max, ema: f64::NAN, n_nonfinite }
}

fn checkpoint_step(text: &str) -> Option<u64> {
    let rest = text.strip_prefix(CHECKPOINT)?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// The unit that suits a number whose highest value is known: a factor and its name.
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

/// The numbers of an axis, all with as many digits as their distances need.
fn labels(ticks: &[f64]) -> Vec<String> {
    let closest =
        ticks.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(f64::INFINITY, f64::min);
    let largest = ticks.iter().fold(0.0_f64, |largest, tick| largest.max(tick.abs()));
    let n_digits = -(closest.log10() + 1e-9).floor();
    if largest >= 1e6 || n_digits > 6.0 || !n_digits.is_finite() {
        return ticks.iter().map(|tick| format::number(*tick)).collect();
    }
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
    let n_digits = n_digits.max(0.0) as usize;
    // No zero with a sign: 0 is added.
    ticks.iter().map(|tick| format!("{:.n_digits$}", tick + 0.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_an_axis_have_equally_many_digits() {
        assert_eq!(labels(&[2.0, 2.5, 3.0]), ["2.0", "2.5", "3.0"]);
        assert_eq!(labels(&[0.0, 200.0]), ["0", "200"]);
        assert_eq!(labels(&[-0.0, 0.0002]), ["0.0000", "0.0002"]);
        assert_eq!(labels(&[1.0]), ["1.000"]);
        assert_eq!(labels(&[1e-9, 2e-9]), ["1.0e-9", "2.0e-9"]);
    }

    #[test]
    fn the_step_of_a_checkpoint_is_read_from_its_message() {
        assert_eq!(checkpoint_step("checkpoint of step 120 in run: 3 MB"), Some(120));
        assert_eq!(checkpoint_step("checkpoint of step x"), None);
    }
}
