//! Colours and characters.
//!
//! Colour never says anything that the characters do not say as well. Only the sixteen colours of the terminal's own
//! palette are used, and the background is left as it is, but for the cells of the timeline that stand for computing.

use std::env;
use std::ffi::OsString;

use pp_telemetry::SpanKind;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;

/// Text that one looks for.
pub(crate) const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

/// Colours and characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// Whether colours may be used.
    pub colour: bool,
    /// Whether only ASCII characters may be used.
    pub ascii: bool,
}

const ASCII_BORDER: border::Set<'static> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

impl Theme {
    /// Colours or none, all characters or ASCII alone, whatever the environment says.
    pub const fn plain(colour: bool, ascii: bool) -> Self {
        Self { colour, ascii }
    }

    /// What the terminal can show: `NO_COLOR` with any value turns colours off, `TERM=dumb` also everything but ASCII.
    pub fn from_env(ascii: bool) -> Self {
        Self::from_variables(ascii, |name| env::var_os(name))
    }

    fn from_variables(ascii: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let dumb = variable("TERM").is_some_and(|term| term == "dumb");
        let no_colour = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: !no_colour && !dumb, ascii: ascii || dumb }
    }

    pub(crate) fn border(self) -> border::Set<'static> {
        if self.ascii { ASCII_BORDER } else { border::PLAIN }
    }

    fn with(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// Frames, axes and what is of less weight.
    pub(crate) fn dim(self) -> Style {
        if self.colour {
            Style::new().fg(Color::DarkGray)
        } else {
            Style::new().add_modifier(Modifier::DIM)
        }
    }

    pub(crate) fn good(self) -> Style {
        self.with(Color::Green)
    }

    pub(crate) fn notice(self) -> Style {
        self.with(Color::Yellow)
    }

    pub(crate) fn bad(self) -> Style {
        self.with(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn bar(self) -> Style {
        self.with(Color::Cyan)
    }

    pub(crate) fn loss(self) -> Style {
        self.with(Color::Blue)
    }

    pub(crate) fn average(self) -> Style {
        self.with(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn validation(self) -> Style {
        self.with(Color::Green).add_modifier(Modifier::BOLD)
    }

    /// How text about an operation looks.
    pub(crate) fn op(self, kind: SpanKind) -> Style {
        match kind {
            SpanKind::F => self.with(Color::Blue),
            SpanKind::B => self.with(Color::Yellow),
            SpanKind::I => self.with(Color::Cyan),
            SpanKind::W => self.with(Color::Green),
            SpanKind::Send | SpanKind::Recv | SpanKind::AllReduce => self.with(Color::Magenta),
            SpanKind::Optim | SpanKind::Checkpoint | SpanKind::Data => self.with(Color::White),
            SpanKind::WaitAct | SpanKind::WaitGrad => self.dim(),
        }
    }

    /// How a cell of the timeline looks: computing is a block of its colour.
    pub(crate) fn block(self, kind: SpanKind) -> Style {
        if !self.colour || !kind.is_compute() {
            return self.op(kind);
        }
        match kind {
            SpanKind::F => Style::new().fg(Color::White).bg(Color::Blue),
            SpanKind::B => Style::new().fg(Color::Black).bg(Color::Yellow),
            SpanKind::I => Style::new().fg(Color::Black).bg(Color::Cyan),
            _ => Style::new().fg(Color::Black).bg(Color::Green),
        }
    }

    /// What fills the rest of an operation's cells behind its name.
    pub(crate) fn fill(self, kind: SpanKind) -> char {
        match kind {
            _ if self.colour && kind.is_compute() => ' ',
            SpanKind::F if self.ascii => '-',
            SpanKind::F => '─',
            SpanKind::B if self.ascii => '=',
            SpanKind::B => '═',
            SpanKind::I if self.ascii => '~',
            SpanKind::I => '╌',
            SpanKind::W if self.ascii => '%',
            SpanKind::W => '┄',
            _ => letter(kind),
        }
    }

    /// A rank that does nothing, or waits.
    pub(crate) fn idle(self) -> char {
        if self.ascii { '.' } else { '·' }
    }

    /// A bar of `width` cells, `share` of it full.
    pub(crate) fn gauge(self, share: f64, width: usize) -> String {
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        let n_eighths = (share * width as f64 * 8.0).round();
        #[expect(clippy::cast_sign_loss, reason = "the share is clamped to 0 and more")]
        let n_eighths = n_eighths as usize;
        let (n_full, rest) = (n_eighths / 8, n_eighths % 8);
        let mut bar: String =
            std::iter::repeat_n(if self.ascii { '#' } else { '█' }, n_full).collect();
        if rest > 0 && !self.ascii {
            bar.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][rest - 1]);
        }
        let n_empty = width.saturating_sub(bar.chars().count());
        bar.extend(std::iter::repeat_n(self.idle(), n_empty));
        bar
    }

    /// Small columns, one for each share.
    pub(crate) fn columns(self, shares: impl Iterator<Item = f64>) -> String {
        let levels: [char; 8] = if self.ascii {
            ['_', '_', '.', '.', '-', '-', '=', '=']
        } else {
            ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
        };
        #[expect(clippy::cast_sign_loss, reason = "the share is clamped to 0 and more")]
        let level = |share: f64| (share.clamp(0.0, 1.0) * 7.99) as usize;
        shares.map(|share| levels[level(share).min(7)]).collect()
    }
}

/// The letter of an operation in the timeline.
pub(crate) fn letter(kind: SpanKind) -> char {
    match kind {
        SpanKind::F => 'f',
        SpanKind::B => 'B',
        SpanKind::I => 'I',
        SpanKind::W => 'W',
        SpanKind::Send | SpanKind::Recv => '>',
        SpanKind::AllReduce => 'R',
        SpanKind::Optim => 'O',
        SpanKind::Checkpoint => 'K',
        SpanKind::Data => 'D',
        SpanKind::WaitAct | SpanKind::WaitGrad => '·',
    }
}

/// What an operation is called in the legend.
pub(crate) fn name(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::F => "fwd",
        SpanKind::B => "bwd",
        SpanKind::I => "input grad",
        SpanKind::W => "weight grad",
        SpanKind::Send | SpanKind::Recv => "copy",
        SpanKind::AllReduce => "reduce",
        SpanKind::Optim => "optim",
        SpanKind::Checkpoint => "checkpoint",
        SpanKind::Data => "data",
        SpanKind::WaitAct | SpanKind::WaitGrad => "wait",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_about_colour() {
        let theme = |pairs: &'static [(&str, &str)]| {
            let variable = |name: &str| {
                pairs.iter().find(|pair| pair.0 == name).map(|pair| OsString::from(pair.1))
            };
            let theme = Theme::from_variables(false, variable);
            (theme.colour, theme.ascii)
        };
        assert_eq!(theme(&[("TERM", "xterm-256color")]), (true, false));
        assert_eq!(theme(&[("TERM", "xterm"), ("NO_COLOR", "1")]), (false, false));
        assert_eq!(theme(&[("TERM", "xterm"), ("NO_COLOR", "")]), (true, false));
        assert_eq!(theme(&[("TERM", "dumb")]), (false, true));
    }

    #[test]
    fn bars_have_their_width_whatever_the_share() {
        for ascii in [false, true] {
            let theme = Theme { colour: false, ascii };
            for share in [-1.0, 0.0, 0.01, 0.5, 0.999, 1.0, 7.0, f64::NAN, f64::INFINITY] {
                assert_eq!(theme.gauge(share, 8).chars().count(), 8, "{share}");
            }
            assert_eq!(theme.gauge(0.5, 0), "");
        }
        assert_eq!(Theme { colour: false, ascii: true }.gauge(0.5, 8), "####....");
        assert_eq!(Theme { colour: false, ascii: false }.gauge(0.735, 8), "█████▉··");
    }
}
