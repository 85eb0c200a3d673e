//! Numbers as short text, and text cut to a number of cells.

use pp_schedule::is_obeyed;
use ratatui::text::Span;

/// `27.3%`.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}%", share * 100.0) } else { "n/a".to_owned() }
}

/// A loss, with four significant digits, and words for values that are not finite.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e5 => format!("{value:.2e}"),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// A count with a letter for thousands, millions, …: `12.4k`.
pub(crate) fn count(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P"])
}

/// Bytes in powers of 1024: `49.1M`.
pub(crate) fn bytes(value: u64) -> String {
    scaled(value as f64, 1024.0, &["B", "K", "M", "G", "T", "P", "E"])
}

/// Bytes without digits behind the point, for the size of a device: `80G`.
pub(crate) fn whole_bytes(value: u64) -> String {
    let text = bytes(value);
    match (text.split_once('.'), text.chars().last()) {
        (Some((_, digit)), Some(unit)) if digit.starts_with('0') => {
            format!("{}{unit}", text.split('.').next().unwrap_or_default())
        }
        _ => text,
    }
}

/// A number in a row: 1st, 2nd, 3rd, 4th, 11th, 21st.
pub(crate) fn ordinal(number: u64) -> String {
    let end = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{end}")
}

/// A text that cannot move the terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { ' ' } else { c }).collect()
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    if !value.is_finite() {
        return "n/a".to_owned();
    }
    let mut scaled = value;
    let mut at = 0;
    // A value that would round up to four digits takes the next unit.
    while scaled.abs() >= base.min(999.5) && at + 1 < units.len() {
        scaled /= base;
        at += 1;
    }
    let is_whole = at == 0 && scaled.fract() == 0.0;
    let digits = usize::from(!is_whole && scaled.abs() < 99.95);
    format!("{scaled:.digits$}{}", units[at])
}

/// A time of any size with its unit: `331 ms`, `1.24 s`, `2 min 5 s`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "n/a".to_owned();
    }
    match seconds.abs() {
        size if size >= 3600.0 => format!(
            "{:.0} h {:.0} min",
            (seconds / 3600.0).floor(),
            (seconds % 3600.0 / 60.0).floor()
        ),
        size if size >= 100.0 => {
            format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), (seconds % 60.0).floor())
        }
        size if size >= 10.0 => format!("{seconds:.1} s"),
        size if size >= 0.9995 => format!("{seconds:.2} s"),
        size if size >= 0.0995 => format!("{:.0} ms", seconds * 1e3),
        size if size >= 0.000_999_5 => format!("{:.1} ms", seconds * 1e3),
        size if size > 0.0 => format!("{:.0} us", seconds * 1e6),
        _ => "0 s".to_owned(),
    }
}

/// A time as a clock shows it: `00:42:10`.
pub(crate) fn clock(seconds: f64) -> String {
    if !seconds.is_finite() || seconds >= 360_000.0 {
        return "99:59:59".to_owned();
    }
    #[expect(clippy::cast_sign_loss, reason = "a negative time becomes 0")]
    let whole = seconds.round() as u64;
    format!("{:02}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

/// The cells that a text takes: two for a character of China or an emoji, none for an accent that
/// stands on another.
pub(crate) fn cells(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { Span::raw(text).width() }
}

/// `text`, cut to `width` cells, with a mark where something is missing.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if cells(text) <= width {
        return text.to_owned();
    }
    let fitting = |room: usize| {
        let mut end = 0;
        for (at, c) in text.char_indices() {
            let next = at + c.len_utf8();
            if cells(&text[..next]) > room {
                break;
            }
            end = next;
        }
        &text[..end]
    };
    if width < 3 {
        return fitting(width).to_owned();
    }
    format!("{}..", fitting(width - 2).trim_end())
}

/// A text as lines of `width` cells, broken between words. The text beyond `n_lines` lines is cut.
pub(crate) fn wrapped(text: &str, width: usize, n_lines: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // A number stays with its percent sign.
    let text = text.replace(" %", "\u{a0}%");
    for word in text.split(' ') {
        let fits = |line: &&mut String| line.chars().count() + 1 + word.chars().count() <= width;
        if let Some(line) = lines.last_mut().filter(fits) {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    if lines.len() > n_lines {
        let rest = lines.split_off(n_lines.saturating_sub(1)).join(" ");
        lines.push(rest);
        lines.truncate(n_lines);
    }
    lines.into_iter().map(|line| cut(&line.replace('\u{a0}', " "), width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_end_as_they_are_spoken() {
        let said = [1, 2, 3, 4, 11, 12, 13, 21, 22, 111, 112].map(ordinal).join(" ");
        assert_eq!(said, "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 111th 112th");
    }

    #[test]
    fn sizes_take_the_unit_that_fits() {
        let texts = [0, 1023, 1024, 51_500_000, 108_000_000, u64::MAX].map(bytes);
        assert_eq!(texts, ["0B", "1.0K", "1.0K", "49.1M", "103M", "16.0E"]);
        assert_eq!([80 << 30, 81_559 << 20, 12].map(whole_bytes), ["80G", "79.6G", "12B"]);
        let texts = [0.0, 7.25, 999.4, 999.6, 12_400.0, 1e30].map(count);
        assert_eq!(texts, ["0", "7.2", "999", "1.0k", "12.4k", "1000000000000000P"]);
    }

    #[test]
    fn times_take_the_unit_that_fits() {
        let texts = [0.0, 2e-5, 0.0042, 0.331, 1.239, 42.06, 125.0, 5000.0].map(duration);
        assert_eq!(
            texts,
            ["0 s", "20 us", "4.2 ms", "331 ms", "1.24 s", "42.1 s", "2 min 5 s", "1 h 23 min"]
        );
        assert_eq!(
            [0.0, 2530.4, 1e9, f64::NAN].map(clock),
            ["00:00:00", "00:42:10", "99:59:59", "99:59:59"]
        );
    }

    #[test]
    fn losses_keep_the_digits_that_matter() {
        let texts =
            [2.402_585, 0.001_234, 12.3456, 1234.5, 1e9, f64::NAN, f64::NEG_INFINITY].map(number);
        assert_eq!(texts, ["2.403", "1.2e-3", "12.35", "1234", "1.00e9", "NaN", "-inf"]);
    }

    #[test]
    fn long_text_is_cut_where_one_can_see_it() {
        assert_eq!(cut("0-2,9-11", 8), "0-2,9-11");
        assert_eq!(cut("0-2,9-11,18-20", 8), "0-2,9-..");
        assert_eq!(cut("abc", 2), "ab");
    }

    #[test]
    fn a_text_is_broken_between_words() {
        assert_eq!(wrapped("one two three", 7, 9), ["one two", "three"]);
        assert_eq!(wrapped("one two three four", 9, 2), ["one two", "three f.."]);
        assert_eq!(wrapped("gains 9.1 % more", 10, 9), ["gains", "9.1 % more"]);
        assert_eq!(wrapped("longerthanaline", 6, 3), ["long.."]);
        assert_eq!(wrapped("one", 6, 0), [""; 0]);
    }
}
