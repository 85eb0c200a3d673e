//! The overview on a large screen, in colour and in plain characters; the other sizes are among the
//! screens.

use pptop::monitor::Theme;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::common::{self, ASCII, COLOUR, MONO, log, state_of};

fn screen(theme: Theme, width: u16, height: u16) -> Terminal<TestBackend> {
    common::screen(&state_of(&log()), theme, width, height)
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
    let drawn = screen(ASCII, 160, 50);
    let other = drawn.backend().buffer().content.iter().find(|cell| !cell.symbol().is_ascii());
    assert_eq!(other, None);
    insta::assert_snapshot!("overview_ascii_160x50", drawn.backend());
}

/// Styles in full only for a screen of panels that is as small as can be.
#[test]
fn colours() {
    let dark = COLOUR;
    insta::assert_debug_snapshot!("overview_colour_80x24", buffer(dark, 80, 24));
    insta::assert_debug_snapshot!("overview_light_60x16", buffer(dark.on_light(), 60, 16));
}

/// Colour fills an operation where a line of characters does without it; what can be read is the
/// same.
#[test]
fn the_words_do_not_depend_on_colour() {
    let word = |text: &str| text.chars().all(char::is_alphanumeric);
    for (width, height) in [(40, 12), (60, 16), (80, 24), (160, 50), (240, 70)] {
        let mono = buffer(MONO, width, height);
        let colour = buffer(COLOUR, width, height);
        for (a, b) in mono.content.iter().zip(&colour.content) {
            assert!(a.symbol() == b.symbol() || !word(a.symbol()), "{width}x{height}: {a:?} {b:?}");
            assert_eq!((a.fg, a.bg), (Color::Reset, Color::Reset), "{width}x{height}: {a:?}");
        }
    }
}
