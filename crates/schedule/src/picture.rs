//! What pictures of plans and pictures of runs have in common: colours, the marks of an axis, and
//! text that is safe in XML.

use quick_xml::escape::escape;

use crate::op::Phase;
use crate::text::is_obeyed;

/// The colour of an op: the phase is the hue, and the further from the input, the darker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shade {
    /// What the op computes.
    pub phase: Phase,
    /// Where its stage lies among those of its rank: 0 is the first, 1 the last of them.
    pub depth: f64,
    /// Whether it belongs to the second copy of the model, which has its own hue.
    pub is_second_copy: bool,
}

impl Shade {
    fn hsl(self) -> (f64, f64, f64) {
        // The hues of a terminal's blue, yellow, cyan and green: what is computed has one colour on
        // screens and in pictures.
        let (hue, saturation, light, turn) = match self.phase {
            Phase::Forward => (214.0, 62.0, 70.0, 26.0),
            Phase::Backward => (39.0, 74.0, 62.0, -22.0),
            Phase::InputGrad => (186.0, 46.0, 62.0, -16.0),
            Phase::WeightGrad => (143.0, 40.0, 62.0, -36.0),
        };
        let turn = if self.is_second_copy { turn } else { 0.0 };
        (hue + turn, saturation, light - 26.0 * self.depth)
    }

    /// How light it is, in percent.
    pub fn light(self) -> f64 {
        self.hsl().2
    }

    /// The colour itself, such as `#83ace2`: some programs that read SVG know no `hsl()`.
    pub fn fill(self) -> String {
        let (hue, saturation, light) = self.hsl();
        let (saturation, light) = (saturation / 100.0, light / 100.0);
        let chroma = saturation * light.min(1.0 - light);
        let channel = |n: f64| {
            let k = (n + hue / 30.0).rem_euclid(12.0);
            let value = light - chroma * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
            (255.0 * value).round() as u8
        };
        format!("#{:02x}{:02x}{:02x}", channel(0.0), channel(8.0), channel(4.0))
    }

    /// The colour of text upon it.
    pub fn ink(self) -> &'static str {
        if self.light() < 52.0 { "#ffffff" } else { "#1a1a1a" }
    }
}

/// What a letter stands for, in the legend of a picture.
pub fn legend_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "F forward",
        Phase::Backward => "B backward",
        Phase::InputGrad => "I gradient of the input",
        Phase::WeightGrad => "W gradient of the weights",
    }
}

/// The nearest of the colours that traces have names for (`cname` in the Trace Event format).
pub fn trace_colour_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "rail_response",
        Phase::Backward => "rail_idle",
        Phase::InputGrad => "background_memory_dump",
        Phase::WeightGrad => "rail_load",
    }
}

/// What the shades mean, for the legend of a picture that has them.
pub fn legend_of_shades(has_later_stages: bool, has_second_copy: bool) -> Vec<&'static str> {
    let notes = [
        (has_later_stages, "darker: a later stage of the rank"),
        (has_second_copy, "another hue: the second copy of the model"),
    ];
    notes.into_iter().filter_map(|(is_there, note)| is_there.then_some(note)).collect()
}

/// Round numbers from 0 to `length` for an axis of `scale` pixels a unit, about a hundred pixels
/// apart.
pub fn axis_marks(length: f64, scale: f64) -> Vec<f64> {
    let wanted = 100.0 / scale;
    let power = 10_f64.powf(wanted.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|&step| step >= wanted);
    let step = step.unwrap_or(10.0 * power);
    let n_steps = (length * (1.0 + 1e-9) / step) as u32;
    (0..=n_steps).map(|i| f64::from(i) * step).collect()
}

/// A text as it may stand in XML, between tags or in an attribute; what XML has no form for is
/// replaced.
///
/// ```
/// let safe = pp_schedule::escaped_xml("a<b> & \"c\"\n");
/// assert_eq!(safe, "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}");
/// ```
pub fn escaped_xml(text: &str) -> String {
    let has_no_form = |c: char| is_obeyed(c) || matches!(c, '\u{fffe}' | '\u{ffff}');
    escape(text.replace(has_no_form, "\u{fffd}")).into_owned()
}
