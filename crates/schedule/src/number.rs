//! Numbers for people.

/// A number with six significant digits at most, and an exponent where it is very small or very
/// large: costs may be in any unit.
///
/// ```
/// use pp_schedule::short_number;
/// let numbers = [0.0, 33.0, 0.1 + 0.2, 12_345.678, 2.5e-9].map(short_number);
/// assert_eq!(numbers, ["0", "33", "0.3", "12345.7", "2.5e-9"]);
/// ```
pub fn short_number(number: f64) -> String {
    const DIGITS: i32 = 6;
    let size = number.abs();
    if size == 0.0 || !size.is_finite() {
        return number.to_string();
    }
    let exponent = size.log10().floor() as i32;
    if !(-4..12).contains(&exponent) {
        let text = format!("{number:.5e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trimmed(digits));
    }
    let n_decimals = (DIGITS - 1 - exponent).max(0) as usize;
    trimmed(&format!("{number:.n_decimals$}")).to_owned()
}

/// Without zeros at the end of a fraction.
fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}
