//! The overview on a large screen, in colour and in plain characters; the other sizes are among the screens.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pp_telemetry::{Event, Line, LineSplitter};
use pptop::monitor::{ChildState, State, Theme, draw};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

const LOG: &[u8] = include_bytes!("fixtures/one_f_one_b_p4_m8.jsonl");

/// The run before its last line.
fn state() -> State {
    let running = ChildState { pid: 41233, ..ChildState::default() };
    let mut state = State::new(running, true);
    LineSplitter::new().push(LOG, |line| match Event::parse(line).unwrap() {
        Line::Event(Event::End(_)) => {}
        Line::Event(event) => state.apply(&event),
        Line::Unknown => panic!("the fixture has an unknown kind"),
    });
    state
}

fn screen(theme: Theme, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, &state(), theme)).unwrap();
    terminal
}

fn buffer(theme: Theme, width: u16, height: u16) -> Buffer {
    screen(theme, width, height).backend().buffer().clone()
}

#[test]
fn a_large_screen() {
    insta::assert_snapshot!(
        "overview_240x70",
        screen(Theme::plain(false, false), 240, 70).backend()
    );
}

#[test]
fn a_large_screen_in_plain_characters() {
    let drawn = screen(Theme::plain(false, true), 160, 50);
    let other = drawn.backend().buffer().content.iter().find(|cell| !cell.symbol().is_ascii());
    assert_eq!(other, None);
    insta::assert_snapshot!("overview_ascii_160x50", drawn.backend());
}

/// Styles in full only for a screen of panels that is as small as can be.
#[test]
fn colours() {
    let dark = Theme::plain(true, false);
    insta::assert_debug_snapshot!("overview_colour_80x24", buffer(dark, 80, 24));
    insta::assert_debug_snapshot!("overview_light_60x16", buffer(dark.on_light(), 60, 16));
}

/// Colour fills an operation where a line of characters does without it; what can be read is the same.
#[test]
fn the_words_do_not_depend_on_colour() {
    let word = |text: &str| text.chars().all(char::is_alphanumeric);
    for (width, height) in [(40, 12), (60, 16), (80, 24), (160, 50), (240, 70)] {
        let mono = buffer(Theme::plain(false, false), width, height);
        let colour = buffer(Theme::plain(true, false), width, height);
        for (a, b) in mono.content.iter().zip(&colour.content) {
            assert!(a.symbol() == b.symbol() || !word(a.symbol()), "{width}x{height}: {a:?} {b:?}");
            assert_eq!((a.fg, a.bg), (Color::Reset, Color::Reset), "{width}x{height}: {a:?}");
        }
    }
}
