//! A small screen: no frames, one line for each rank, one character for each unit of work.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::footer;
use super::header;
use super::loss_panel::trend_text;
use super::messages;
use super::paint::{Pen, more_text, slice_bottom, slice_top};
use super::pipeline;
use super::rank_table::Row;
use super::theme::{STRONG, Theme};
use super::timeline::{Naming, cells, draw_cells};
use super::verdict;
use crate::monitor::state::State;
use crate::monitor::view::rank_looks::activity_text;
use crate::monitor::words::format::{self, wrapped};
use crate::monitor::words::rank_name;

const UTIL_BAR: usize = 8;
/// Lines of what costs most and what to try, at most.
const VERDICT_LINES: usize = 3;

/// Which lines there are room for.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each line is there or not, whatever the others are"
)]
struct Plan {
    loss: bool,
    bubble: bool,
    n_ranks: u16,
    timeline: bool,
    /// The heads of the columns of the ranks.
    heads: bool,
    /// Lines for what costs most and what to try.
    verdict: u16,
    footer: bool,
}

impl Plan {
    /// The ranks matter most, then the bubble, then the timeline, then the loss, then what to try,
    /// on so many lines.
    fn new(height: u16, n_ranks: u16, has_notice: bool, verdict: u16) -> Self {
        let mut left = height.saturating_sub(1);
        let mut take = |n_rows: u16| {
            let fits = n_rows <= left;
            if fits {
                left -= n_rows;
            }
            fits
        };
        let footer = has_notice && take(1);
        let all_ranks = take(n_ranks);
        let bubble = all_ranks && take(1);
        let timeline = all_ranks && take(n_ranks);
        let loss = take(1);
        let footer = footer || take(1);
        let heads = all_ranks && take(1);
        let verdict = if take(verdict) { verdict } else { 0 };
        let n_ranks = if all_ranks { n_ranks } else { left };
        Self { loss, bubble, n_ranks, timeline, heads, verdict, footer }
    }
}

/// Draws another view than the overview: the first line, the last, and the view between them.
pub(crate) fn draw_page(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let (line, rest) = slice_top(area, 1);
    header::draw_compact(&mut Pen::new(buffer, line, theme), state);
    let (page, line) = slice_bottom(rest, 1);
    let mut pen = Pen::new(buffer, line, theme);
    match footer::notice(state) {
        Some(notice) => footer::draw_notice(&mut pen, &notice),
        None => footer::draw_keys(&mut pen, state),
    }
    if state.shown().hello().is_none() {
        messages::draw_waiting(buffer, page, state, theme);
    } else {
        super::draw_page(buffer, page, state, theme);
    }
}

/// Draws all of it.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let model = state.shown();
    let mut pen = Pen::new(buffer, area, theme);
    header::draw_compact(&mut pen, state);
    let notice = footer::notice(state);
    if model.hello().is_none() {
        pen.next_line().put(format!("starting (pid {})", state.child().pid), STRONG);
        if let Some(notice) = &notice {
            pen.next_line();
            footer::draw_notice(&mut pen, notice);
        }
        return;
    }
    let n_ranks = u16::try_from(model.ranks().len()).unwrap_or(u16::MAX);
    let (verdict, style) = verdict::texts(state, theme);
    let verdict = verdict.last().map_or("", String::as_str);
    let verdict = wrapped(verdict, area.width as usize, VERDICT_LINES);
    let n_lines = u16::try_from(verdict.len()).unwrap_or(u16::MAX);
    let plan = Plan::new(pen.height(), n_ranks, notice.is_some(), n_lines);
    pen.next_line();
    if plan.loss {
        if let Some(loss) = model.loss().last() {
            pen.text(format!(
                "loss {} {}",
                format::number(loss),
                trend_text(model.loss().trend(), theme)
            ));
        }
        if let Some((unit, rate)) = pipeline::rate(model) {
            pen.text(format!("  {} {unit}", format::count(rate)));
        }
        pen.next_line();
    }
    if plan.bubble {
        pipeline::draw_bubble_short(&mut pen, model);
        pen.next_line();
    }
    for line in verdict.iter().take(plan.verdict as usize) {
        pen.put(line, style).next_line();
    }
    let first = state.first_rank(plan.n_ranks as usize);
    state.see_rank_rows(plan.n_ranks as usize);
    let below = model.ranks().len().saturating_sub(first + plan.n_ranks as usize);
    if plan.heads {
        let heads = format!("{:<2}{:<UTIL_BAR$}{:>5}{:>6} {}", "#", "busy", "", "mem", "now");
        pen.put(heads, theme.dim()).next_line();
    }
    let shown = || model.ranks().iter().skip(first).take(plan.n_ranks as usize);
    for (row, rank) in shown().enumerate() {
        pen.put(rank_name(model, rank.replica, rank.rank), STRONG).text(" ");
        let busy = rank.computing_of_window();
        pen.put(theme.gauge(busy.unwrap_or(0.0), UTIL_BAR), theme.bar());
        pen.text(busy.map_or_else(|| "    -".to_owned(), |busy| format!("{:>4.0}%", busy * 100.0)));
        let live = rank.memory.map(|memory| format::bytes(memory.live_bytes));
        pen.text(format!("{:>6} ", live.unwrap_or_else(|| "-".to_owned())));
        let (text, style) = activity_text(model, rank, theme, false);
        pen.put(text, style);
        let is_last = row + 1 == plan.n_ranks as usize;
        let more = more_text(first, below, "");
        if is_last && !more.is_empty() {
            // What is not seen has to be known, even where it covers something.
            let n_cells = u16::try_from(more.len() + 1).unwrap_or(u16::MAX);
            pen.column(area.width.saturating_sub(n_cells));
            pen.put(format!(" {more}"), theme.notice());
        } else if let Some(other) = Row::new(state, rank).waits_for()
            && other.len() + 7 <= pen.left() as usize
        {
            pen.put_right(&format!(" waits {other}"), theme.dim());
        }
        pen.next_line();
    }
    let y = area.height - pen.lines_left();
    if plan.timeline
        && let Some(step) = state.timeline().step(model)
        && let Some(range_ns) = state.timeline().range_ns(step)
    {
        for (y, rank) in (y..).zip(shown()) {
            let of_rank = step
                .spans
                .iter()
                .filter(|span| span.rank == rank.rank && span.replica == rank.replica);
            let cells = cells(of_rank, range_ns, area.width as usize);
            draw_cells(&mut pen, 0, y, &cells, Naming::Short, false);
        }
    }
    if plan.footer {
        pen.line(area.height - 1);
        match &notice {
            Some(notice) => footer::draw_notice(&mut pen, notice),
            None => footer::draw_keys(&mut pen, state),
        }
    }
}
