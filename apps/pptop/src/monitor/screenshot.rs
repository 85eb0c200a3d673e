//! A screen without a terminal: as text, or as a picture.

use std::fmt::Write as _;

use pp_schedule::escaped_xml;
use pp_telemetry::{Model, Run};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use super::chain::before;
use super::input::Action;
use super::state::State;
use super::view::{Theme, draw};
use super::watched::found;
use super::words::format::cells;
use crate::monitor::screen::View;

/// A screen that was drawn.
#[derive(Debug)]
pub struct Screenshot {
    buffer: Buffer,
}

impl Screenshot {
    /// How a view of a run looks on so many columns and rows: `model` is what its log amounts to.
    pub fn of(
        run: &Run,
        model: Model,
        view: View,
        (width, height): (u16, u16),
        theme: Theme,
    ) -> Self {
        let child = found(&run.dir, run.status.as_ref());
        let silent_seconds = child.silent_seconds.unwrap_or(0.0);
        let mut model = model;
        if let Some(before) = before(&run.dir, &model) {
            model.set_before(&before);
        }
        let mut state = State::of(model, child.clone());
        state.observe(child, silent_seconds, 0);
        state.act(Action::Show(view));
        // It is simulated many times for that, and no other views show it.
        if matches!(view, View::Overview | View::Devices | View::Bubble) {
            state.refresh_bubble();
        }
        Self::of_state(&state, (width, height), theme)
    }

    /// How a state looks.
    pub fn of_state(state: &State, (width, height): (u16, u16), theme: Theme) -> Self {
        // A backend in memory cannot fail.
        let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
        let Ok(_) = terminal.draw(|frame| draw(frame, state, theme));
        Self { buffer: terminal.backend().buffer().clone() }
    }

    /// Its characters, line by line.
    pub fn text(&self) -> String {
        text_of(&self.buffer)
    }

    /// A picture of it.
    pub fn svg(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write_svg(&mut text, &self.buffer);
        text
    }
}

/// The characters of a screen, without colours and without blanks at the ends of lines.
fn text_of(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.y..buffer.area.y + buffer.area.height {
        let line: String = cells_of(buffer, y).map(|(_, cell, _)| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The cells of a line that show something, each with its column and how many columns it takes.
/// What stands in the columns that a wide character covers is not shown.
fn cells_of(buffer: &Buffer, y: u16) -> impl Iterator<Item = (u16, &Cell, u16)> {
    let end = buffer.area.x + buffer.area.width;
    let mut next = buffer.area.x;
    std::iter::from_fn(move || {
        let x = Some(next).filter(|&x| x < end)?;
        let cell = &buffer[(x, y)];
        let n_columns = u16::try_from(cells(cell.symbol())).unwrap_or(1).clamp(1, end - x);
        next = x + n_columns;
        Some((x, cell, n_columns))
    })
}

/// A cell of the picture.
const CELL_WIDTH: f64 = 8.4;
const CELL_HEIGHT: f64 = 17.0;
const FONT_SIZE: f64 = 14.0;
const MARGIN: f64 = 10.0;
const BACKGROUND: &str = "#11151c";
const FOREGROUND: &str = "#d6dbe5";

/// The colours that a usual dark terminal has for the sixteen names.
fn colour(colour: Color) -> Option<&'static str> {
    Some(match colour {
        Color::Black => "#11151c",
        Color::Red => "#e0565b",
        Color::Green => "#4fb477",
        Color::Yellow => "#d9a441",
        Color::Blue => "#4a86d8",
        Color::Magenta => "#b46fd1",
        Color::Cyan => "#3fa9b5",
        Color::Gray => "#b8c0cc",
        Color::DarkGray => "#7b8594",
        Color::LightRed => "#f08080",
        Color::LightGreen => "#7ed69f",
        Color::LightYellow => "#f2cb6c",
        Color::LightBlue => "#7fb0f0",
        Color::LightMagenta => "#d49bea",
        Color::LightCyan => "#74d3dd",
        Color::White => "#ffffff",
        _ => return None,
    })
}

/// Text, background, whether it is bold or dim.
type Look = (&'static str, Option<&'static str>, bool, bool);

/// How a cell looks.
fn look(cell: &Cell) -> Look {
    let style = cell.style();
    let fg = style.fg.and_then(colour).unwrap_or(FOREGROUND);
    let bg = style.bg.and_then(colour);
    let (fg, bg) = if style.add_modifier.contains(Modifier::REVERSED) {
        (bg.unwrap_or(BACKGROUND), Some(fg))
    } else {
        (fg, bg)
    };
    let is = |modifier| style.add_modifier.contains(modifier);
    (fg, bg, is(Modifier::BOLD), is(Modifier::DIM))
}

fn write_svg(text: &mut String, buffer: &Buffer) -> std::fmt::Result {
    let (columns, rows) = (buffer.area.width, buffer.area.height);
    let width = f64::from(columns) * CELL_WIDTH + 2.0 * MARGIN;
    let height = f64::from(rows) * CELL_HEIGHT + 2.0 * MARGIN;
    writeln!(
        text,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="{FONT_SIZE}">"#
    )?;
    writeln!(text, r#"<rect width="100%" height="100%" rx="6" fill="{BACKGROUND}"/>"#)?;
    for y in 0..rows {
        let mut run: Option<Stretch> = None;
        for (x, cell, n_columns) in cells_of(buffer, y) {
            // A font may have its own idea of how wide a wide character is, so each begins at its
            // own column.
            let (is_wide, look) = (n_columns > 1, look(cell));
            if run.as_ref().is_none_or(|run| is_wide || run.is_wide || run.look != look)
                && let Some(run) =
                    run.replace(Stretch { x, end: x, is_wide, look, symbols: String::new() })
            {
                write_run(text, y, &run)?;
            }
            if let Some(run) = &mut run {
                run.symbols.push_str(cell.symbol());
                run.end = x + n_columns;
            }
        }
        if let Some(run) = run {
            write_run(text, y, &run)?;
        }
    }
    writeln!(text, "</svg>")
}

/// Cells beside each other that look alike.
struct Stretch {
    x: u16,
    end: u16,
    is_wide: bool,
    look: Look,
    symbols: String,
}

fn write_run(text: &mut String, y: u16, run: &Stretch) -> std::fmt::Result {
    let Stretch { x, end, ref symbols, look: (fg, bg, is_bold, is_dim), .. } = *run;
    let left = MARGIN + f64::from(x) * CELL_WIDTH;
    let top = MARGIN + f64::from(y) * CELL_HEIGHT;
    let width = f64::from(end - x) * CELL_WIDTH;
    if let Some(bg) = bg {
        writeln!(
            text,
            r#"<rect x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{CELL_HEIGHT}" fill="{bg}"/>"#
        )?;
    }
    let shown = symbols.trim_end();
    if shown.trim_start().is_empty() {
        return Ok(());
    }
    let n_cells = cells(shown) as f64;
    let escaped = escaped_xml(shown);
    let weight = if is_bold { r#" font-weight="bold""# } else { "" };
    let opacity = if is_dim { r#" opacity="0.65""# } else { "" };
    writeln!(
        text,
        r#"<text x="{left:.1}" y="{:.1}" textLength="{:.1}" lengthAdjust="spacingAndGlyphs" xml:space="preserve" fill="{fg}"{weight}{opacity}>{escaped}</text>"#,
        top + CELL_HEIGHT - 4.0,
        n_cells * CELL_WIDTH
    )
}

#[cfg(test)]
mod tests {
    use pp_schedule::{Phase, Shade};
    use pp_telemetry::SpanKind;

    use super::*;

    /// The hue of `#rrggbb`, in degrees.
    #[expect(clippy::float_cmp, reason = "the largest is one of them")]
    fn hue(colour: &str) -> f64 {
        let channel = |at| f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap());
        let [red, green, blue] = [1, 3, 5].map(channel);
        let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
        let turn = if most == red {
            (green - blue) / (most - least)
        } else if most == green {
            2.0 + (blue - red) / (most - least)
        } else {
            4.0 + (red - green) / (most - least)
        };
        (turn * 60.0).rem_euclid(360.0)
    }

    /// The colour of an operation on the screen, as the picture of the screen has it, and in the
    /// pictures of plans and of runs.
    #[test]
    fn what_is_computed_has_one_colour_on_the_screen_and_in_pictures() {
        for phase in [Phase::Forward, Phase::Backward, Phase::InputGrad, Phase::WeightGrad] {
            let kind = SpanKind::from(phase);
            let on_screen = Theme::default().block(kind).bg.and_then(colour).unwrap();
            for depth in [0.0, 1.0] {
                let in_picture = Shade { phase, depth, is_second_copy: false }.fill();
                let apart = (hue(on_screen) - hue(&in_picture)).abs();
                assert!(apart < 8.0, "{kind:?}: {on_screen} and {in_picture}");
            }
            // Nor is the second copy of a model taken for another phase.
            let second = hue(&Shade { phase, depth: 0.0, is_second_copy: true }.fill());
            for other in [Phase::Forward, Phase::Backward, Phase::InputGrad, Phase::WeightGrad] {
                let other = Shade { phase: other, depth: 0.0, is_second_copy: false }.fill();
                assert!((second - hue(&other)).abs() > 12.0, "{kind:?} {other}");
            }
        }
    }
}
