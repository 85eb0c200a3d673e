//! A chart of numbers over steps.
//!
//! A column of dots stands for some steps and reaches from their lowest value to their highest, so
//! that no spike is lost however many steps there are. Braille characters give eight dots a cell;
//! with plain characters a cell is one dot.

use pp_telemetry::{LossBucket, Mark};

use super::paint::Pen;
use super::theme::Theme;

/// What is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Series<'a> {
    /// The values, some steps each.
    pub(crate) buckets: &'a [LossBucket],
    /// Values that stand for themselves.
    pub(crate) marks: &'a [Mark],
    /// Whether the moving average is drawn as well.
    pub(crate) has_average: bool,
}

/// Which value and which step stand where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) first_step: u64,
    pub(crate) last_step: u64,
    /// Whether equal distances are equal factors; `low` is above 0 then.
    pub(crate) is_log: bool,
}

impl Scale {
    /// From the lowest to the highest of the values.
    pub(crate) fn of(series: &Series<'_>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for bucket in series.buckets.iter().filter(|bucket| bucket.has_values()) {
            (low, high) = (low.min(bucket.min), high.max(bucket.max));
        }
        for mark in series.marks.iter().filter(|mark| mark.loss.is_finite()) {
            (low, high) = (low.min(mark.loss), high.max(mark.loss));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= high.abs() * 1e-6 {
            // What does not change is a line in the middle.
            let margin = (high.abs() * 0.05).max(1e-6);
            (low, high) = (low - margin, high + margin);
        }
        let steps = series.buckets.first().zip(series.buckets.last());
        let (first_step, last_step) =
            steps.map_or((0, 0), |(first, last)| (first.first_step, last.last_step));
        Self { low, high, first_step, last_step: last_step.max(first_step), is_log: false }
    }

    /// The same with equal distances for equal factors, from the lowest value above 0 on; `None` if
    /// there is none.
    pub(crate) fn log(self, series: &Series<'_>) -> Option<Self> {
        let of_buckets = series.buckets.iter().filter(|bucket| bucket.has_values());
        // Of a bucket that begins below 0, only its highest value is known to lie above.
        let values = of_buckets
            .flat_map(|bucket| [bucket.min, bucket.max])
            .chain(series.marks.iter().map(|mark| mark.loss).filter(|loss| loss.is_finite()));
        let low = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        if !low.is_finite() {
            return None;
        }
        let low = if self.low > 0.0 { self.low } else { low };
        Some(Self { low, high: self.high.max(low * 1.01), is_log: true, ..self })
    }

    /// Reaches to round numbers; tells which of them are to be written, `n_max` of them at most or
    /// a few more.
    pub(crate) fn rounded(self, n_max: usize) -> (Self, Vec<f64>) {
        let n_max = n_max.max(2);
        if self.is_log && self.high / self.low >= 2.0 {
            return self.rounded_log(n_max);
        }
        let step = round_up((self.high - self.low) / (n_max - 1) as f64);
        let first = (self.low / step + 1e-9).floor();
        let last = (self.high / step - 1e-9).ceil();
        if !(step.is_finite() && (0.0..=1000.0).contains(&(last - first))) {
            return (self, vec![self.low, self.high]);
        }
        #[expect(clippy::cast_sign_loss, reason = "the last is no less than the first")]
        let n_steps = (last - first) as usize;
        let ticks: Vec<f64> = (0..=n_steps).map(|at| (first + at as f64) * step).collect();
        let low = if self.is_log { self.low } else { first * step };
        (Self { low, high: last * step, ..self }, ticks)
    }

    fn rounded_log(self, n_max: usize) -> (Self, Vec<f64>) {
        let (mut below, mut ticks) = (self.low, Vec::new());
        let decades = |value: f64| value.log10().floor();
        for decade in decades(self.low) as i32..=decades(self.high) as i32 + 1 {
            for factor in [1.0, 2.0, 5.0] {
                let tick = factor * 10_f64.powi(decade);
                if tick <= self.low * 1.000_001 {
                    below = tick;
                    ticks.clear();
                }
                if ticks.last().is_none_or(|last| *last < self.high * 0.999_999) {
                    ticks.push(tick);
                }
            }
        }
        let high = ticks.last().copied().unwrap_or(self.high);
        if ticks.len() > n_max {
            ticks.retain(|tick| (tick.log10() - tick.log10().round()).abs() < 1e-9);
        }
        let every = ticks.len().div_ceil(n_max).max(1);
        let ticks = ticks.into_iter().step_by(every).collect();
        (Self { low: below.min(self.low), high, ..self }, ticks)
    }

    /// The dot that a step stands for, of `n` from left to right.
    pub(crate) fn x(&self, step: u64, n: usize) -> usize {
        let whole = (self.last_step - self.first_step).max(1) as f64;
        let share = step.clamp(self.first_step, self.last_step).saturating_sub(self.first_step)
            as f64
            / whole;
        dot(share, n)
    }

    /// The dot that a value stands for, of `n` from top to bottom.
    pub(crate) fn y(&self, value: f64, n: usize) -> usize {
        let share = if self.is_log {
            (self.high / value.max(self.low)).ln() / (self.high / self.low).ln()
        } else {
            (self.high - value) / (self.high - self.low)
        };
        dot(share, n)
    }
}

/// The next number that is 1, 2 or 5 times a power of ten.
pub(crate) fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-300).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&round| round >= value * 0.999)
        .unwrap_or(value)
}

fn dot(share: f64, n: usize) -> usize {
    let last = n.saturating_sub(1);
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
    let at = (share.clamp(0.0, 1.0) * last as f64).round() as usize;
    at.min(last)
}

/// The points of another run.
pub(crate) fn other_sign(theme: Theme) -> char {
    if theme.ascii { 'x' } else { '×' }
}

/// A raster of dots, with what they belong to.
pub(crate) struct Chart {
    /// Its upper left cell.
    origin: (u16, u16),
    n_columns: usize,
    n_rows: usize,
    /// Dots in one cell: across and down.
    per_cell: (usize, usize),
    theme: Theme,
    train: Vec<bool>,
    average: Vec<bool>,
}

/// The bits of a Braille character: across, then down.
const BRAILLE: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

impl Chart {
    /// An empty one.
    pub(crate) fn new(origin: (u16, u16), n_columns: usize, n_rows: usize, theme: Theme) -> Self {
        let per_cell = if theme.ascii { (1, 1) } else { (2, 4) };
        let n_dots = n_columns * per_cell.0 * n_rows * per_cell.1;
        Self {
            origin,
            n_columns,
            n_rows,
            per_cell,
            theme,
            train: vec![false; n_dots],
            average: vec![false; n_dots],
        }
    }

    fn n_dots(&self) -> (usize, usize) {
        (self.n_columns * self.per_cell.0, self.n_rows * self.per_cell.1)
    }

    /// Draws the values of another run as points, one a column: below what is drawn later.
    pub(crate) fn draw_points(&self, pen: &mut Pen<'_>, buckets: &[LossBucket], scale: &Scale) {
        let (x0, y0) = self.origin;
        let sign = other_sign(self.theme);
        let mut rows: Vec<Option<usize>> = vec![None; self.n_columns];
        for bucket in buckets.iter().filter(|bucket| bucket.has_values()) {
            // Its average where it has one: single steps would fill the chart.
            let value = if bucket.ema.is_finite() { bucket.ema } else { bucket.max };
            if let Some(row) = rows.get_mut(scale.x(bucket.last_step, self.n_columns)) {
                *row = Some(scale.y(value, self.n_rows));
            }
        }
        for (x, row) in rows.into_iter().enumerate() {
            if let Some(y) = row {
                pen.cell(x0 + x as u16, y0 + y as u16, sign, self.theme.notice());
            }
        }
    }

    /// Draws a line from top to bottom at a step.
    pub(crate) fn draw_cursor(&self, pen: &mut Pen<'_>, step: u64, scale: &Scale) {
        let (x0, y0) = self.origin;
        let x = x0 + scale.x(step, self.n_columns) as u16;
        let sign = if self.theme.ascii { '|' } else { '┃' };
        for y in 0..self.n_rows as u16 {
            pen.cell(x, y0 + y, sign, self.theme.dim());
        }
    }

    /// Draws the values, then what is not finite, then the marks.
    pub(crate) fn draw(mut self, pen: &mut Pen<'_>, series: &Series<'_>, scale: &Scale) {
        let (n_x, n_y) = self.n_dots();
        let mut before: Option<(usize, usize)> = None;
        let mut train_before: Option<(usize, usize)> = None;
        for bucket in series.buckets {
            let x = scale.x(bucket.last_step, n_x);
            if bucket.has_values() {
                let (top, bottom) = (scale.y(bucket.max, n_y), scale.y(bucket.min, n_y));
                draw_line((x, top), (x, bottom), |x, y| self.train[y * n_x + x] = true);
                // Few steps stand far apart: a line leads from one to the next.
                let middle = (x, usize::midpoint(top, bottom));
                draw_line(train_before.unwrap_or(middle), middle, |x, y| {
                    self.train[y * n_x + x] = true;
                });
                train_before = Some(middle);
            } else {
                train_before = None;
            }
            if series.has_average && bucket.ema.is_finite() {
                let y = scale.y(bucket.ema, n_y);
                let (from_x, from_y) = before.unwrap_or((x, y));
                draw_line((from_x, from_y), (x, y), |x, y| self.average[y * n_x + x] = true);
                before = Some((x, y));
            }
        }
        for y in 0..self.n_rows {
            for x in 0..self.n_columns {
                self.draw_cell(pen, x, y);
            }
        }
        self.draw_nonfinite(pen, series, scale);
        let (x0, y0) = self.origin;
        for mark in series.marks.iter().filter(|mark| mark.loss.is_finite()) {
            let (x, y) =
                (scale.x(mark.step, self.n_columns) as u16, scale.y(mark.loss, self.n_rows) as u16);
            let sign = if self.theme.ascii { 'o' } else { '◆' };
            pen.cell(x0 + x, y0 + y, sign, self.theme.validation());
        }
    }

    /// A column for each step that has no finite value, and above columns that stand side by side
    /// how many these are.
    fn draw_nonfinite(&self, pen: &mut Pen<'_>, series: &Series<'_>, scale: &Scale) {
        let (x0, y0) = self.origin;
        let mut columns = vec![0; self.n_columns];
        for bucket in series.buckets.iter().filter(|bucket| bucket.n_nonfinite > 0) {
            if let Some(n) = columns.get_mut(scale.x(bucket.last_step, self.n_columns)) {
                *n += bucket.n_nonfinite;
            }
        }
        for at in (0..self.n_columns).filter(|&at| columns[at] > 0) {
            for y in 0..self.n_rows as u16 {
                pen.cell(x0 + at as u16, y0 + y, '!', self.theme.bad());
            }
        }
        let mut at = 0;
        while at < self.n_columns {
            let group = columns[at..].iter().take_while(|n| **n > 0);
            let (n_columns, n_nonfinite) = group.fold((0, 0), |(n, sum), more| (n + 1, sum + more));
            let text = n_nonfinite.to_string();
            if n_columns > 0 && text.len() <= self.n_columns && self.n_rows > 1 {
                let first = at.min(self.n_columns - text.len());
                for (digit, x) in text.chars().zip(first..) {
                    pen.cell(x0 + x as u16, y0, digit, self.theme.bad());
                }
            }
            at += n_columns.max(1);
        }
    }

    fn draw_cell(&self, pen: &mut Pen<'_>, x: usize, y: usize) {
        let (n_x, _) = self.n_dots();
        let (mut bits, mut has_train, mut has_average) = (0, false, false);
        for (dx, column) in BRAILLE.iter().enumerate().take(self.per_cell.0) {
            for (dy, bit) in column.iter().enumerate().take(self.per_cell.1) {
                let at = (y * self.per_cell.1 + dy) * n_x + x * self.per_cell.0 + dx;
                has_train |= self.train[at];
                has_average |= self.average[at];
                if self.train[at] || self.average[at] {
                    bits |= bit;
                }
            }
        }
        let style = if has_average { self.theme.average() } else { self.theme.loss() };
        let symbol = match (self.theme.ascii, has_average, has_train) {
            (_, false, false) => return,
            (true, true, _) => '*',
            (true, false, true) => ':',
            (false, _, _) => char::from_u32(0x2800 + bits).unwrap_or(' '),
        };
        pen.cell(self.origin.0 + x as u16, self.origin.1 + y as u16, symbol, style);
    }
}

/// All dots of a line, its ends included.
fn draw_line(
    (x0, y0): (usize, usize),
    (x1, y1): (usize, usize),
    mut set: impl FnMut(usize, usize),
) {
    let n_steps = x0.abs_diff(x1).max(y0.abs_diff(y1)).max(1);
    for at in 0..=n_steps {
        let between = |from: usize, to: usize| {
            if to >= from {
                from + (to - from) * at / n_steps
            } else {
                from - (from - to) * at / n_steps
            }
        };
        set(between(x0, x1), between(y0, y1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(low: f64, high: f64, is_log: bool) -> Scale {
        Scale { low, high, first_step: 1, last_step: 100, is_log }
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let close = |found: &[f64], wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len(), "{found:?}");
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-9 * wanted.abs().max(1.0), "{found} {wanted}");
            }
        };
        let (rounded, ticks) = scale(2.4, 5.43, false).rounded(5);
        close(&ticks, &[2.0, 3.0, 4.0, 5.0, 6.0]);
        close(&[rounded.low, rounded.high], &[2.0, 6.0]);
        close(&scale(0.4239, 0.4261, false).rounded(3).1, &[0.422, 0.424, 0.426, 0.428]);
        close(
            &scale(0.3, 70.0, true).rounded(20).1,
            &[0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0],
        );
        close(&scale(0.3, 70.0, true).rounded(3).1, &[1.0, 10.0, 100.0]);
        let (rounded, ticks) = scale(2.4, 2.6, true).rounded(3);
        close(&ticks, &[2.4, 2.5, 2.6]);
        assert!(rounded.is_log && rounded.low > 0.0);
    }

    #[test]
    fn equal_factors_are_equal_distances() {
        let scale = scale(1.0, 100.0, true);
        assert_eq!(
            [100.0, 10.0, 1.0, 0.0, -3.0].map(|value| scale.y(value, 21)),
            [0, 10, 20, 20, 20]
        );
    }

    #[test]
    fn what_is_not_above_zero_has_no_logarithm() {
        let bucket = |min, max| LossBucket {
            first_step: 1,
            last_step: 1,
            min,
            max,
            ema: f64::NAN,
            n_nonfinite: 0,
        };
        let log = |buckets: &[LossBucket]| {
            let series = Series { buckets, marks: &[], has_average: false };
            Scale::of(&series).log(&series)
        };
        assert_eq!(log(&[bucket(-2.0, -1.0)]), None);
        let found = log(&[bucket(-2.0, 4.0), bucket(0.5, 3.0)]).unwrap();
        assert!((found.low - 0.5).abs() < 1e-12 && (found.high - 4.0).abs() < 1e-12);
    }

    #[test]
    fn round_numbers_are_1_2_or_5_times_a_power_of_ten() {
        for (value, round) in
            [(0.9, 1.0), (1.0, 1.0), (1.2, 2.0), (3.0, 5.0), (7.0, 10.0), (42_000.0, 50_000.0)]
        {
            assert!((round_up(value) - round).abs() < 1e-9 * round, "{value}");
        }
    }
}
