//! Where the time of the ranks goes: the parts of the window, what each rank does, and what changes would bring.

use pp_telemetry::{Account, Part, RankTime};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::devices::rank_name;
use super::super::format;
use super::super::paint::{Pen, panel, slice_bottom, slice_top};
use super::super::theme::{STRONG, Theme};
use crate::monitor::state::{Found, State};

/// Cells of a part's name.
const NAME_CELLS: usize = 10;
/// Cells of a number in the table of the ranks.
const CELLS: usize = 9;
/// Rows of the first panel, with its frame: six parts, a head, the ratios and three lines of advice.
const PARTS_ROWS: u16 = 13;
/// Cells of a line with everything.
const WIDE: u16 = 76;

/// Draws the view.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let found = match state.bubble().found() {
        Some(Ok(found)) => found,
        other => {
            let inside = panel(buffer, area, theme, "where the time goes", "");
            let why = match other {
                Some(Err(why)) => why.to_string(),
                _ => "is being looked at".to_owned(),
            };
            Pen::new(buffer, inside, theme).put(format!(" {why}"), theme.dim());
            return;
        }
    };
    if area.width < 60 || area.height < 12 {
        draw_small(&mut Pen::new(buffer, area, theme), found);
        return;
    }
    let (parts_area, rest) = slice_top(area, PARTS_ROWS);
    draw_parts(buffer, parts_area, state, found, theme);
    let n_changes = u16::try_from(found.what_if.len()).unwrap_or(u16::MAX);
    let n_ranks = u16::try_from(found.account.ranks.len()).unwrap_or(u16::MAX);
    // The ranks matter more than what could be; but something of both is seen where there is room for it.
    let wanted = n_ranks.saturating_add(3);
    let changes_rows =
        n_changes.saturating_add(2).min(rest.height.saturating_sub(wanted.min(rest.height / 2)));
    let (ranks_area, changes_area) = slice_bottom(rest, changes_rows);
    draw_ranks(buffer, ranks_area, state, found, theme);
    if changes_area.height > 2 {
        draw_changes(buffer, changes_area, found, theme);
    }
}

fn style_of(part: Part, theme: Theme) -> Style {
    match part {
        Part::Work => theme.good(),
        Part::Inherent => theme.dim(),
        Part::Imbalance | Part::Other => theme.notice(),
        Part::Copy => theme.op(pp_telemetry::SpanKind::Send),
        Part::Starved => theme.bad(),
    }
}

fn millis(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e3 + 0.0)
}

/// The three lines of a small screen.
fn draw_small(pen: &mut Pen<'_>, found: &Found) {
    let account = &found.account;
    pen.text("bubble ").put(format::percent(account.bubble_ratio), STRONG);
    pen.text(format!(" simulated {}", format::percent(account.simulated_bubble_ratio)));
    pen.next_line();
    for part in account.parts {
        let share = part.seconds / account.window_seconds;
        pen.put(format!("{:<NAME_CELLS$}", part.part.name()), style_of(part.part, pen.theme));
        pen.text(format!("{:>7} ms {:>6}", millis(part.seconds), format::percent(share)));
        pen.next_line();
    }
    pen.put(&found.advice.why, STRONG).next_line();
    pen.text(&found.advice.next);
}

fn draw_parts(buffer: &mut Buffer, area: Rect, state: &State, found: &Found, theme: Theme) {
    let account = &found.account;
    let (first, last) = account.steps;
    let title = format!("where the time goes  steps {first} to {last}");
    let right = if state.bubble().defines() { "b numbers" } else { "b meaning" };
    let inside = panel(buffer, area, theme, &title, right);
    let mut pen = Pen::new(buffer, inside, theme);
    if state.bubble().defines() {
        for part in Part::ALL {
            pen.put(format!(" {:<NAME_CELLS$}", part.name()), style_of(part, theme));
            pen.text(part.formula()).next_line();
        }
        pen.put(
            " bubble     idle time of all ranks over ranks x window; their sum is the measured one",
            theme.dim(),
        );
        pen.next_line();
    } else {
        draw_numbers(&mut pen, account);
    }
    draw_ratios(&mut pen, account);
    let advice = &found.advice;
    for (name, text) in [("what", &advice.what), ("why", &advice.why), ("next", &advice.next)] {
        pen.put(format!(" {name:<5}"), theme.dim());
        let room = pen.left() as usize;
        pen.put(format::cut(text, room), if name == "next" { STRONG } else { Style::new() });
        pen.next_line();
    }
}

fn draw_numbers(pen: &mut Pen<'_>, account: &Account) {
    let theme = pen.theme;
    pen.put(
        format!(" {:<NAME_CELLS$}{:>9} {:>8} {:>8}", "", "ms", "window", "bubble"),
        theme.dim(),
    );
    pen.next_line();
    for part in account.parts {
        let share = part.seconds / account.window_seconds;
        pen.put(format!(" {:<NAME_CELLS$}", part.part.name()), style_of(part.part, theme));
        pen.put(format!("{:>9}", millis(part.seconds)), STRONG);
        pen.text(format!(" {:>8}", format::percent(share)));
        let of_bubble = match part.part {
            Part::Work => String::new(),
            _ => format!("{:+.1}pp", part.of_bubble * 100.0 + 0.0),
        };
        pen.text(format!(" {of_bubble:>8}  "));
        let room = (pen.left() as usize).saturating_sub(1).min(40);
        let n_cells = (share.clamp(0.0, 1.0) * room as f64).round();
        #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
        let bar = if theme.ascii { "#" } else { "█" }.repeat(n_cells as usize);
        pen.put(bar, style_of(part.part, theme));
        if part.part == Part::Imbalance
            && let Some((rank, seconds)) = account.slowest_rank().filter(|(_, s)| *s > 5e-5)
        {
            pen.text(format!(" rank {rank}: {} ms", millis(seconds)));
        }
        if part.part == Part::Copy
            && let Some((from, to, delay)) = account.slowest_edge
        {
            let arrow = if theme.ascii { "->" } else { "→" };
            pen.text(format!(" slowest {from}{arrow}{to}: {} ms", millis(delay)));
        }
        pen.next_line();
    }
}

/// The bubble three times: measured, simulated from these times, and by the formula.
fn draw_ratios(pen: &mut Pen<'_>, account: &Account) {
    pen.text(" bubble measured ").put(format::percent(account.bubble_ratio), STRONG);
    pen.text("  simulated from these times ");
    pen.put(format::percent(account.simulated_bubble_ratio), STRONG);
    if let Some(theory) = account.theory() {
        pen.text("  theory ").put(format::percent(theory), STRONG);
    }
    pen.next_line();
}

/// A column of the table of the ranks.
type Column = (&'static str, fn(&RankTime) -> f64);

/// The columns, those that are left out first at the end.
const COLUMNS: [Column; 11] = [
    ("fwd", |time| time.forward),
    ("bwd", |time| time.backward),
    ("wgrad", |time| time.weight_grad),
    ("wait act", |time| time.wait_act),
    ("wait grad", |time| time.wait_grad),
    ("copy", |time| time.copy),
    ("optim", |time| time.optimizer),
    ("idle", |time| time.other),
    ("reduce", |time| time.all_reduce),
    ("data", |time| time.data),
    ("ckpt", |time| time.checkpoint),
];

fn draw_ranks(buffer: &mut Buffer, area: Rect, state: &State, found: &Found, theme: Theme) {
    let account = &found.account;
    let title = "each rank, ms of a step";
    let ranks = &account.ranks;
    let n_rows = area.height.saturating_sub(3) as usize;
    let first = state.first_rank(n_rows).min(ranks.len().saturating_sub(n_rows));
    let right = if ranks.len() > n_rows {
        format!("{} to {} of {}", first + 1, (first + n_rows).min(ranks.len()), ranks.len())
    } else {
        format!("step {} ms", millis(account.step_seconds))
    };
    let inside = panel(buffer, area, theme, title, &right);
    let mut pen = Pen::new(buffer, inside, theme);
    // What no rank has ever done needs no column.
    let columns: Vec<Column> = COLUMNS
        .into_iter()
        .filter(|(_, time)| ranks.iter().any(|rank| time(rank).abs() > 5e-6))
        .take((inside.width as usize).saturating_sub(25) / CELLS)
        .collect();
    pen.put(format!(" {:<6}", "rank"), theme.dim());
    for (name, _) in &columns {
        pen.put(format!("{name:>CELLS$}"), theme.dim());
    }
    pen.put(format!("{:>CELLS$}{:>CELLS$}", "starved", "slower"), theme.dim());
    let most = account.slowest_rank();
    for rank in ranks.iter().skip(first) {
        pen.next_line();
        let name = rank_name(state.shown(), rank.replica, rank.rank);
        pen.put(format!(" {name:<6}"), STRONG);
        for (name, time) in &columns {
            let style = if name.starts_with("wait") { theme.dim() } else { Style::new() };
            pen.put(format!("{:>CELLS$}", millis(time(rank))), style);
        }
        pen.text(format!("{:>CELLS$}", millis(rank.starved)));
        let its = account.imbalance_of_rank.get(rank.rank as usize).copied().unwrap_or(0.0);
        let is_most = most.is_some_and(|(slow, _)| slow == rank.rank) && its > 5e-5;
        pen.put(
            format!("{:>CELLS$}", millis(its)),
            if is_most { theme.notice() } else { theme.dim() },
        );
    }
}

fn draw_changes(buffer: &mut Buffer, area: Rect, found: &Found, theme: Theme) {
    let right = if found.account.halves_are_guessed { "I and W guessed as B/2" } else { "" };
    let inside = panel(buffer, area, theme, "what if, simulated from this run's times", right);
    let mut pen = Pen::new(buffer, inside, theme);
    let name_cells =
        found.what_if.iter().map(|line| line.change.chars().count()).max().unwrap_or(0);
    for line in &found.what_if {
        pen.text(format!(" {:<name_cells$}", line.change));
        pen.put(format!("  bubble {:>6}", format::percent(line.bubble_ratio)), STRONG);
        let style = if line.gain > 0.02 { theme.good() } else { theme.dim() };
        pen.put(format!("  {:+6.1}% through", line.gain * 100.0 + 0.0), style);
        if inside.width >= WIDE {
            pen.put(format!("  {:4.1} activations", line.peak_activations), theme.dim());
        }
        if line.flags.chars().count() + 2 <= pen.left() as usize {
            pen.put(format!("  {}", line.flags), theme.dim());
        }
        pen.next_line();
    }
}
