//! Every view at every size, with colours and in ASCII; without colours each view has a file of its
//! own.
//!
//! A screen with colours is two pictures: what stands in the cells, and below it, for each cell
//! that is not plain, a letter for its colour (a capital for a background).

use std::fmt::Write as _;

use pptop::monitor::{State, Theme, View};
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use super::common::{self, ASCII, COLOUR, hundred_steps, state_in};

const SIZES: [(u16, u16); 6] = [(20, 5), (40, 12), (80, 24), (100, 30), (160, 50), (240, 70)];

fn screen(state: &State, theme: Theme, (width, height): (u16, u16)) -> Buffer {
    common::screen(state, theme, width, height).backend().buffer().clone()
}

fn text(buffer: &Buffer, of_cell: impl Fn(&Cell) -> String) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| of_cell(&buffer[(x, y)])).collect();
        writeln!(text, "{}|", line.trim_end()).unwrap();
    }
    text
}

/// A letter for the colours of a cell.
fn colour(cell: &Cell) -> String {
    let letter = |colour: Color| match colour {
        Color::Reset => ' ',
        Color::Black => 'k',
        Color::Red | Color::LightRed => 'r',
        Color::Green | Color::LightGreen => 'g',
        Color::Yellow | Color::LightYellow => 'y',
        Color::Blue | Color::LightBlue => 'b',
        Color::Magenta | Color::LightMagenta => 'm',
        Color::Cyan | Color::LightCyan => 'c',
        Color::Gray | Color::White => 'w',
        Color::DarkGray => 'd',
        other => panic!("{other:?} is none of the sixteen"),
    };
    let drawn = match cell.bg {
        Color::Reset if cell.symbol() == " " => ' ',
        Color::Reset => letter(cell.fg),
        background => letter(background).to_ascii_uppercase(),
    };
    let is_bold = cell.modifier.contains(Modifier::BOLD);
    if drawn == ' ' && is_bold && cell.symbol() != " " { "*".to_owned() } else { drawn.to_string() }
}

fn all_sizes(view: View, draw: impl Fn(&State, (u16, u16)) -> String) -> String {
    let state = state_in(view, &hundred_steps(), &[]);
    let mut all = String::new();
    for size in SIZES {
        writeln!(all, "{} x {}\n{}", size.0, size.1, draw(&state, size)).unwrap();
    }
    all
}

#[test]
fn in_ascii() {
    for view in View::ALL {
        let drawn = all_sizes(view, |state, size| {
            text(&screen(state, ASCII, size), |cell| cell.symbol().to_owned())
        });
        assert!(drawn.is_ascii(), "{}", view.title());
        insta::assert_snapshot!(format!("ascii_{}", view.title().to_lowercase()), drawn);
    }
}

#[test]
fn in_colour() {
    for view in View::ALL {
        let drawn = all_sizes(view, |state, size| {
            let buffer = screen(state, COLOUR, size);
            let symbols = text(&buffer, |cell| cell.symbol().to_owned());
            format!("{symbols}\n{}", text(&buffer, colour))
        });
        insta::assert_snapshot!(format!("colour_{}", view.title().to_lowercase()), drawn);
    }
}

#[test]
fn on_a_light_background() {
    for view in View::ALL {
        let drawn =
            all_sizes(view, |state, size| text(&screen(state, COLOUR.on_light(), size), colour));
        // Text in yellow or white cannot be read there.
        let is_readable = !drawn.contains(['y', 'w']);
        assert!(is_readable, "{}", view.title());
        insta::assert_snapshot!(format!("light_{}", view.title().to_lowercase()), drawn);
    }
}
