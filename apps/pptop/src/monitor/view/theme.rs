//! Colours and characters.
//!
//! Colour never says anything that the characters do not say as well. Only the sixteen colours of
//! the terminal's own palette are used, and the background is left as it is, but for the cells of
//! the timeline that stand for computing.

use std::env;
use std::ffi::{OsStr, OsString};

use pp_telemetry::SpanKind;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;

use crate::ability::{Ability, Colours};
use crate::config::{ColorMode, Config, ThemeName};
use crate::monitor::words::letter;

/// Text that a search found.
pub(crate) const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

/// Colours and characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "none follows from the others")]
pub struct Theme {
    /// Whether colours may be used.
    pub colour: bool,
    /// Whether only ASCII characters may be used.
    pub ascii: bool,
    /// Whether the terminal has sixteen colours, and may know no others.
    pub few_colours: bool,
    palette: Palette,
    /// Whether the background is light.
    is_light: bool,
}

impl Default for Theme {
    fn default() -> Self {
        Self::plain(true, false)
    }
}

/// Which colour stands for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Palette {
    forward: Color,
    backward: Color,
    input_grad: Color,
    weight_grad: Color,
    copy: Color,
    /// Waiting, frames, and what is of less weight.
    wait: Color,
    optimizer: Color,
    alarm: Color,
    title: Color,
    notice: Color,
    good: Color,
    bar: Color,
    loss: Color,
    average: Color,
}

const DARK: Palette = Palette {
    forward: Color::Blue,
    backward: Color::Yellow,
    input_grad: Color::Cyan,
    weight_grad: Color::Green,
    copy: Color::Magenta,
    wait: Color::DarkGray,
    optimizer: Color::White,
    alarm: Color::Red,
    title: Color::Reset,
    notice: Color::Yellow,
    good: Color::Green,
    bar: Color::Cyan,
    loss: Color::Blue,
    average: Color::Yellow,
};

/// Yellow, white and the bright colours cannot be read on white. What is computed keeps its colour:
/// text about it stands on that.
const LIGHT: Palette = Palette {
    optimizer: Color::Black,
    notice: Color::Magenta,
    bar: Color::Blue,
    average: Color::Magenta,
    ..DARK
};

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
    /// The colours for a dark background, or none, and all characters or ASCII alone.
    pub const fn plain(colour: bool, ascii: bool) -> Self {
        Self { colour, ascii, few_colours: false, palette: DARK, is_light: false }
    }

    /// The same for a light background.
    #[must_use]
    pub const fn on_light(self) -> Self {
        Self { palette: LIGHT, is_light: true, ..self }
    }

    /// What the configuration wants, else what the terminal can show ([`Ability`]); `NO_COLOR` with
    /// any value turns colours off.
    pub fn from_config(config: &Config) -> Self {
        Self::from_settings(config, &|name| env::var_os(name))
    }

    fn from_settings(config: &Config, variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let mut theme =
            Self::of(config.theme.value, config.color.value, config.ascii_said(), variable);
        let palette = &mut theme.palette;
        for (what, colour) in [
            ("forward", &mut palette.forward),
            ("backward", &mut palette.backward),
            ("input_grad", &mut palette.input_grad),
            ("weight_grad", &mut palette.weight_grad),
            ("copy", &mut palette.copy),
            ("wait", &mut palette.wait),
            ("optimizer", &mut palette.optimizer),
            ("alarm", &mut palette.alarm),
            ("title", &mut palette.title),
        ] {
            if let Some(other) = config.color_of(what) {
                *colour = other.color();
            }
        }
        theme
    }

    fn of(
        name: ThemeName,
        mode: ColorMode,
        ascii: Option<bool>,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Self {
        let ability = Ability::of(variable);
        let no_colour = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = match mode {
            _ if name == ThemeName::Mono => false,
            ColorMode::Always => true,
            ColorMode::Never => false,
            ColorMode::Auto => !no_colour && ability.colours != Colours::None,
        };
        let light = match name {
            ThemeName::Light => true,
            ThemeName::Auto => variable("COLORFGBG").is_some_and(|value| is_light(&value)),
            ThemeName::Dark | ThemeName::Mono => false,
        };
        let theme = Self {
            few_colours: ability.colours != Colours::Many,
            ..Self::plain(colour, ascii.unwrap_or(ability.ascii.is_some()))
        };
        if light { theme.on_light() } else { theme }
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
            Style::new().fg(self.palette.wait)
        } else {
            Style::new().add_modifier(Modifier::DIM)
        }
    }

    pub(crate) fn title(self) -> Style {
        STRONG.fg(if self.colour { self.palette.title } else { Color::Reset })
    }

    pub(crate) fn good(self) -> Style {
        self.with(self.palette.good)
    }

    pub(crate) fn notice(self) -> Style {
        self.with(self.palette.notice)
    }

    pub(crate) fn bad(self) -> Style {
        self.with(self.palette.alarm).add_modifier(Modifier::BOLD)
    }

    /// What was looked for.
    pub(crate) fn found(self) -> Style {
        self.notice().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED))
    }

    pub(crate) fn bar(self) -> Style {
        self.with(self.palette.bar)
    }

    pub(crate) fn loss(self) -> Style {
        self.with(self.palette.loss)
    }

    pub(crate) fn average(self) -> Style {
        self.with(self.palette.average).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn validation(self) -> Style {
        self.with(self.palette.good).add_modifier(Modifier::BOLD)
    }

    /// The colour of an operation.
    fn colour_of(self, kind: SpanKind) -> Color {
        match kind {
            SpanKind::F => self.palette.forward,
            SpanKind::B => self.palette.backward,
            SpanKind::I => self.palette.input_grad,
            SpanKind::W => self.palette.weight_grad,
            SpanKind::Send | SpanKind::Recv | SpanKind::AllReduce => self.palette.copy,
            SpanKind::Optim | SpanKind::Checkpoint | SpanKind::Data => self.palette.optimizer,
            SpanKind::WaitAct | SpanKind::WaitGrad => self.palette.wait,
        }
    }

    /// How text about an operation looks.
    pub(crate) fn op(self, kind: SpanKind) -> Style {
        let colour = self.colour_of(kind);
        if self.is_light && !kind.is_wait() && self.colour && is_faint(colour) {
            return Style::new().fg(text_on(colour)).bg(colour);
        }
        self.shade(kind)
    }

    /// How a cell looks that is filled to some part with an operation.
    pub(crate) fn shade(self, kind: SpanKind) -> Style {
        if kind.is_wait() { self.dim() } else { self.with(self.colour_of(kind)) }
    }

    /// How a cell of the timeline looks: computing is a block of its colour.
    pub(crate) fn block(self, kind: SpanKind) -> Style {
        if !self.colour || !kind.is_compute() {
            return self.op(kind);
        }
        match self.colour_of(kind) {
            Color::Reset => Style::new().add_modifier(Modifier::REVERSED),
            colour => Style::new().fg(text_on(colour)).bg(colour),
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

    /// What fills an operation's cells while gradients are under way beside it.
    pub(crate) fn reducing(self) -> char {
        if self.ascii { '_' } else { '▁' }
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

/// Whether a terminal that says so has a light background: `0;15`, `0;default;15`.
fn is_light(colours: &OsStr) -> bool {
    let background = colours.to_str().and_then(|text| text.rsplit(';').next());
    matches!(background.and_then(|number| number.trim().parse().ok()), Some(7_u8 | 9..=15))
}

/// Whether text of this colour cannot be read on white.
fn is_faint(colour: Color) -> bool {
    matches!(
        colour,
        Color::Yellow
            | Color::White
            | Color::Gray
            | Color::LightYellow
            | Color::LightGreen
            | Color::LightCyan
    )
}

/// What can be read on a block of a colour.
fn text_on(colour: Color) -> Color {
    match colour {
        Color::Blue | Color::Red | Color::Magenta | Color::Black | Color::DarkGray => Color::White,
        _ => Color::Black,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AnsiColor, COLORED};

    #[test]
    fn the_environment_decides_about_colour() {
        let theme = |pairs: &'static [(&str, &str)]| {
            let variable = |name: &str| {
                pairs.iter().find(|pair| pair.0 == name).map(|pair| OsString::from(pair.1))
            };
            let theme = Theme::of(ThemeName::Auto, ColorMode::Auto, None, &variable);
            (theme.colour, theme.ascii)
        };
        assert_eq!(theme(&[("TERM", "xterm-256color")]), (true, false));
        assert_eq!(theme(&[("TERM", "xterm"), ("NO_COLOR", "1")]), (false, false));
        assert_eq!(theme(&[("TERM", "xterm"), ("NO_COLOR", "")]), (true, false));
        assert_eq!(theme(&[("TERM", "dumb")]), (false, true));
        assert_eq!(theme(&[("TERM", "linux")]), (true, true));
        assert_eq!(theme(&[("TERM", "vt100"), ("LANG", "C.UTF-8")]), (false, true));
        assert_eq!(theme(&[("TERM", "xterm"), ("LC_ALL", "C")]), (true, true));
    }

    #[test]
    fn what_somebody_says_is_over_what_the_terminal_can_do() {
        let vt100 = |name: &str| (name == "TERM").then(|| OsString::from("vt100"));
        let theme = Theme::of(ThemeName::Auto, ColorMode::Always, Some(false), &vt100);
        assert_eq!((theme.colour, theme.ascii, theme.few_colours), (true, false, true));
        let xterm = |name: &str| (name == "TERM").then(|| OsString::from("xterm-256color"));
        let theme = Theme::of(ThemeName::Auto, ColorMode::Never, Some(true), &xterm);
        assert_eq!((theme.colour, theme.ascii, theme.few_colours), (false, true, false));
    }

    #[test]
    fn the_background_decides_about_the_theme() {
        let theme = |name, mode, pairs: &'static [(&str, &str)]| {
            let variable = |name: &str| {
                pairs.iter().find(|pair| pair.0 == name).map(|pair| OsString::from(pair.1))
            };
            let theme = Theme::of(name, mode, Some(false), &variable);
            Theme { few_colours: false, ..theme }
        };
        let dark = Theme::plain(true, false);
        for (says, wanted) in [
            ("15;0", dark),
            ("0;15", dark.on_light()),
            ("0;default;15", dark.on_light()),
            ("12;8", dark),
            ("0;7", dark.on_light()),
            ("", dark),
            ("0;default", dark),
            ("15;300", dark),
        ] {
            let pairs = Box::leak(Box::new([("COLORFGBG", says), ("TERM", "xterm")]));
            assert_eq!(theme(ThemeName::Auto, ColorMode::Auto, pairs), wanted, "{says}");
            assert_eq!(theme(ThemeName::Dark, ColorMode::Auto, pairs), dark, "{says}");
        }
        let no_colour: &[_] = &[("NO_COLOR", "1"), ("TERM", "xterm")];
        assert!(theme(ThemeName::Light, ColorMode::Always, no_colour).colour);
        assert!(!theme(ThemeName::Light, ColorMode::Auto, no_colour).colour);
        assert!(!theme(ThemeName::Light, ColorMode::Never, &[]).colour);
        assert!(!theme(ThemeName::Mono, ColorMode::Always, &[]).colour);
    }

    #[test]
    fn the_configuration_can_change_every_colour() {
        let mut config = Config::load(|_| None, &[]).unwrap();
        let xterm = |name: &str| (name == "TERM").then(|| OsString::from("xterm-256color"));
        let plain = Theme::from_settings(&config, &xterm);
        assert_eq!(plain, Theme::default());
        config.colors = [Some(AnsiColor::BrightMagenta); COLORED.len()];
        let theme = Theme::from_settings(&config, &xterm);
        let styles = [theme.dim(), theme.title(), theme.bad()];
        let styles = styles.into_iter().chain(SpanKind::ALL.map(|kind| theme.op(kind)));
        assert!(styles.into_iter().all(|style| style.fg == Some(Color::LightMagenta)));
        assert_eq!(theme.block(SpanKind::F).bg, Some(Color::LightMagenta));
        config.colors = [Some(AnsiColor::Default); COLORED.len()];
        let theme = Theme::from_settings(&config, &xterm);
        assert_eq!(theme.block(SpanKind::F), Style::new().add_modifier(Modifier::REVERSED));
    }

    #[test]
    fn text_on_a_light_background_can_be_read() {
        let theme = Theme::default().on_light();
        let styles = [
            theme.dim(),
            theme.title(),
            theme.bad(),
            theme.notice(),
            theme.good(),
            theme.bar(),
            theme.loss(),
            theme.average(),
            theme.validation(),
            theme.found(),
        ];
        for style in styles.into_iter().chain(SpanKind::ALL.map(|kind| theme.op(kind))) {
            assert!(style.fg.is_none_or(|colour| !is_faint(colour)), "{style:?}");
            // On a block of its own colour it is black.
            assert!(style.bg.is_none() || style.fg == Some(Color::Black), "{style:?}");
        }
    }

    #[test]
    fn what_is_computed_has_one_colour_on_any_background() {
        let (dark, light) = (Theme::default(), Theme::default().on_light());
        for kind in [SpanKind::F, SpanKind::B, SpanKind::I, SpanKind::W] {
            assert_eq!(dark.block(kind), light.block(kind), "{kind:?}");
            assert_eq!(dark.colour_of(kind), light.colour_of(kind), "{kind:?}");
        }
    }

    #[test]
    fn bars_have_their_width_whatever_the_share() {
        for ascii in [false, true] {
            let theme = Theme::plain(false, ascii);
            for share in [-1.0, 0.0, 0.01, 0.5, 0.999, 1.0, 7.0, f64::NAN, f64::INFINITY] {
                assert_eq!(theme.gauge(share, 8).chars().count(), 8, "{share}");
            }
            assert_eq!(theme.gauge(0.5, 0), "");
        }
        assert_eq!(Theme::plain(false, true).gauge(0.5, 8), "####....");
        assert_eq!(Theme::plain(false, false).gauge(0.735, 8), "█████▉··");
    }
}
