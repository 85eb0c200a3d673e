//! What costs most and what to try, in one line: the verdict of the view of the bubble, for the
//! overview.

use ratatui::style::Style;

use super::paint::Pen;
use super::theme::{STRONG, Theme};
use crate::monitor::screen::View;
use crate::monitor::state::State;
use crate::monitor::words::format;

/// Share of the time without a core above which one should know.
const STARVED_NOTICE: f64 = 0.1;

/// Whether there is a line for it.
pub(crate) fn has_line(state: &State) -> bool {
    state.view() == View::Overview && state.shown().hello().is_some()
}

/// Draws it, with all that is known where there is room for that.
pub(crate) fn draw(pen: &mut Pen<'_>, state: &State) {
    let room = (pen.left() as usize).saturating_sub(2);
    let (texts, style) = texts(state, pen.theme);
    let fits = |text: &&String| text.chars().count() <= room;
    let text = texts.iter().find(fits).or(texts.last()).cloned().unwrap_or_default();
    pen.text(" ").put(format::cut(&text, room), style);
}

/// The line, from the longest wording to the shortest.
pub(crate) fn texts(state: &State, theme: Theme) -> (Vec<String>, Style) {
    let why = match state.bubble().found() {
        Some(Ok(found)) => {
            let advice = &found.advice;
            let style = if advice.part.is_some() { STRONG } else { theme.dim() };
            return (vec![advice.sentence(), advice.verdict().to_owned()], style);
        }
        Some(Err(why)) => why.to_string(),
        None => "analysing where the time goes".to_owned(),
    };
    match without_account(state).or_else(|| state.standing_word()) {
        Some(text) => (vec![text], theme.notice()),
        None => (vec![why], theme.dim()),
    }
}

/// What is known before it is known where the time goes.
fn without_account(state: &State) -> Option<String> {
    let model = state.shown();
    if let Some((n_ranks, gpu)) = model.ranks_on_one_gpu() {
        return Some(format!("{n_ranks} ranks share {gpu}: throughput counts, not the bubble"));
    }
    if let Some((n_ranks, n_cores)) = model.ranks_over_cores() {
        let cores = if n_cores == 1 { "core" } else { "cores" };
        return Some(format!(
            "{n_ranks} ranks share {n_cores} {cores}: time without a core counts as starved, not bubble"
        ));
    }
    let starved = model.steps().starved_ratio().filter(|starved| starved.mean > STARVED_NOTICE)?;
    let share = starved.mean * 100.0;
    Some(format!("ranks had no core for {share:.0}% of the time: something else uses this machine"))
}
