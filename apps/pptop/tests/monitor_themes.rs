//! Every view at every size, with colours and in ASCII; without colours each view has a test file of its own.
//!
//! A screen with colours is two pictures: what stands in the cells, and below it, for each cell that is not plain, a letter for its
//! colour (a capital for a background).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use pp_telemetry::{Event, Line, LineSplitter};
use pptop::monitor::{Action, ChildState, State, Theme, View, draw};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

const LOG: &[u8] = include_bytes!("fixtures/one_f_one_b_p4_m8.jsonl");
const SIZES: [(u16, u16); 6] = [(20, 5), (40, 12), (80, 24), (100, 30), (160, 50), (240, 70)];

/// The run after step 100.
fn state(view: View) -> State {
    let mut state = State::new(ChildState { pid: 41233, ..ChildState::default() }, true);
    let mut is_over = false;
    LineSplitter::new().push(LOG, |line| {
        let Line::Event(event) = Event::parse(line).unwrap() else { panic!("an unknown kind") };
        if !is_over {
            state.apply(&event);
        }
        is_over |= matches!(&event, Event::Step(step) if step.step == 100);
    });
    state.act(Action::Show(view));
    state.refresh_bubble();
    state
}

fn screen(state: &State, theme: Theme, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, theme)).unwrap();
    terminal.backend().buffer().clone()
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
    let state = state(view);
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
            text(&screen(state, Theme::plain(false, true), size), |cell| cell.symbol().to_owned())
        });
        assert!(drawn.is_ascii(), "{}", view.title());
        insta::assert_snapshot!(format!("ascii_{}", view.title().to_lowercase()), drawn);
    }
}

#[test]
fn in_colour() {
    for view in View::ALL {
        let drawn = all_sizes(view, |state, size| {
            let buffer = screen(state, Theme::plain(true, false), size);
            let symbols = text(&buffer, |cell| cell.symbol().to_owned());
            format!("{symbols}\n{}", text(&buffer, colour))
        });
        insta::assert_snapshot!(format!("colour_{}", view.title().to_lowercase()), drawn);
    }
}

#[test]
fn on_a_light_background() {
    for view in View::ALL {
        let drawn = all_sizes(view, |state, size| {
            text(&screen(state, Theme::plain(true, false).on_light(), size), colour)
        });
        // Text in yellow or white cannot be read there.
        let is_readable = !drawn.contains(['y', 'w']);
        assert!(is_readable, "{}", view.title());
        insta::assert_snapshot!(format!("light_{}", view.title().to_lowercase()), drawn);
    }
}
