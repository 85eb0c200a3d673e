//! The time of the ranks: the parts of the window, the activity of each rank, and the gain from
//! possible changes.

use pp_telemetry::{Account, Model, Part, PhaseEvent, RankTime, SpanKind, WhatIf};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::paint::{Pen, mark_more, panel, slice_top};
use super::super::theme::{STRONG, Theme};
use crate::monitor::input::Action;
use crate::monitor::state::{Found, State};
use crate::monitor::view::rank_looks::starved_style;
use crate::monitor::words::format::{self, wrapped};
use crate::monitor::words::{incomplete_text, letter, rank_name};

/// Cells of a part's name.
const NAME_CELLS: usize = 10;
/// Cells of the rank that one waits for.
const FOR_CELLS: usize = 11;
/// Cells of a number in the table of the ranks.
const CELLS: usize = 10;
/// Rows of the first panel, with its frame: six parts, a head, the ratios and three lines of
/// advice.
const PARTS_ROWS: u16 = 13;
/// Rows of a table that are not about its lines: the frame and the head.
const TABLE_ROWS: u16 = 3;
/// Cells before a line of advice.
const ADVICE_CELLS: usize = 7;
/// Cells of the bar of a part: alone, and where its meaning stands beside it.
const BAR_CELLS: (usize, usize) = (40, 24);
/// Cells of the bar of a rank, at least and at most.
const RANK_BAR_CELLS: (u16, u16) = (24, 80);
/// Cells that a note beside a bar may take, before what the part means.
const NOTE_CELLS: usize = 24;

/// Draws the view.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let found = match state.bubble().found() {
        Some(Ok(found)) => found,
        other => {
            let is_framed = area.width >= 40 && area.height >= 6;
            let inside = if is_framed {
                panel(buffer, area, theme, "where the time goes", "")
            } else {
                area
            };
            let mut why = match other {
                Some(Err(why)) => why.to_string(),
                _ if theme.ascii => "computing...".to_owned(),
                _ => "computing…".to_owned(),
            };
            let incomplete = incomplete_text(state.shown());
            if !incomplete.is_empty() {
                why = format!("{why}; {incomplete}");
            }
            let mut pen = Pen::new(buffer, inside, theme);
            let (width, height) = (pen.width().saturating_sub(1), pen.height());
            for line in wrapped(&why, width as usize, height as usize) {
                pen.put(format!(" {line}"), theme.dim()).next_line();
            }
            return;
        }
    };
    if area.width < 60 || area.height < 12 {
        draw_small(&mut Pen::new(buffer, area, theme), found, state.bubble().defines());
        return;
    }
    let n_rows =
        |n_lines: usize| u16::try_from(n_lines).unwrap_or(u16::MAX).saturating_add(TABLE_ROWS);
    let ranks_rows = n_rows(found.account.ranks.len());
    // Why, and what to try, may take a second line each, where no rank has to go for it.
    let room = (area.width as usize).saturating_sub(2 + ADVICE_CELLS);
    let advice = &found.advice;
    let more = |text: &str| wrapped(text, room, 2).len().saturating_sub(1) as u16;
    let more = more(&advice.why) + more(&advice.next);
    let more = more.min(area.height.saturating_sub(PARTS_ROWS.saturating_add(ranks_rows)));
    let (parts_area, rest) = slice_top(area, PARTS_ROWS + more);
    draw_parts(buffer, parts_area, state, found, theme);
    let (ranks_rows, changes_rows) = shares(rest.height, ranks_rows, n_rows(found.what_if.len()));
    let (ranks_area, rest) = slice_top(rest, ranks_rows);
    draw_ranks(buffer, ranks_area, state, found, theme);
    if changes_rows > 0 {
        draw_changes(buffer, slice_top(rest, changes_rows).0, found, theme);
    }
}

/// The rows of two tables that need these numbers of rows. The ranks come first, because the best
/// change is already named above. With many ranks, which can be scrolled, half of the room is left
/// for the changes.
fn shares(height: u16, ranks: u16, changes: u16) -> (u16, u16) {
    if changes <= TABLE_ROWS {
        return (ranks.min(height), 0);
    }
    // All of them where two thirds are enough for that.
    let most = if ranks <= height / 3 * 2 { ranks } else { (height / 2).max(TABLE_ROWS + 4) };
    let ranks = ranks.min(most.max(height.saturating_sub(changes)));
    let ranks = ranks.min(height);
    let changes = changes.min(height - ranks);
    // A table of a single line says nothing: the ranks can have its rows.
    if changes < TABLE_ROWS + 2 { (height.min(ranks + changes), 0) } else { (ranks, changes) }
}

fn style_of(part: Part, theme: Theme) -> Style {
    match part {
        Part::Work => theme.good(),
        Part::Inherent => theme.dim(),
        Part::Imbalance | Part::Other => theme.notice(),
        Part::Copy => theme.op(SpanKind::Send),
        Part::Starved => theme.bad(),
    }
}

/// With one digit, and no sign where that is a zero.
fn tenths(value: f64) -> String {
    format!("{:.1}", if value.abs() < 0.05 { 0.0 } else { value })
}

fn millis(seconds: f64) -> String {
    tenths(seconds * 1e3)
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{}%", tenths(share * 100.0)) } else { format::percent(share) }
}

/// A change by so much of a hundred.
fn change(share: f64, unit: &str) -> String {
    format!("{:+.1}{unit}", if share.abs() < 5e-4 { 0.0 } else { share * 100.0 })
}

/// A small screen: the bubble, its parts, and the advice if there is room.
fn draw_small(pen: &mut Pen<'_>, found: &Found, defines: bool) {
    let account = &found.account;
    pen.text("bubble ").put(format::percent(account.bubble_ratio), STRONG);
    let simulated = format!("  simulated {}", format::percent(account.simulated_bubble_ratio));
    if simulated.len() <= pen.left() as usize {
        pen.text(simulated);
    }
    pen.next_line();
    let mut parts = account.parts.to_vec();
    if (pen.lines_left() as usize) < parts.len() {
        // What costs most comes first; the work is no bubble.
        parts.retain(|part| part.part != Part::Work);
        parts.sort_by(|a, b| b.of_bubble.total_cmp(&a.of_bubble));
    }
    for part in parts {
        let style = style_of(part.part, pen.theme);
        pen.put(format!("{:<NAME_CELLS$}", part.part.name()), style);
        if defines {
            let room = pen.left() as usize;
            pen.text(format::cut(part.part.formula(), room)).next_line();
            continue;
        }
        let share = percent(part.seconds / account.window_seconds);
        if pen.left() >= 18 {
            pen.text(format!("{:>7} ms", millis(part.seconds)));
        }
        pen.text(format!(" {share:>6}")).next_line();
    }
    for (text, style) in [(&found.advice.why, Style::new()), (&found.advice.next, STRONG)] {
        for line in wrapped(text, pen.width() as usize, pen.lines_left() as usize) {
            pen.put(line, style).next_line();
        }
    }
}

fn draw_parts(buffer: &mut Buffer, area: Rect, state: &State, found: &Found, theme: Theme) {
    let account = &found.account;
    let (first, last) = account.steps;
    let n_steps = account.n_steps;
    let mut title = match n_steps {
        1 => format!("where the time goes  step {last}"),
        _ => format!("where the time goes  {n_steps} recorded steps, {first} to {last}"),
    };
    let incomplete = incomplete_text(state.shown());
    if !incomplete.is_empty() {
        title = format!("{title}  {incomplete}");
    }
    let what = if state.bubble().defines() { "numbers" } else { "meaning" };
    let right = state.keymap().hint(Action::Definition, what);
    let inside = panel(buffer, area, theme, &title, &right);
    let mut pen = Pen::new(buffer, inside, theme);
    if state.bubble().defines() {
        for part in Part::ALL {
            pen.put(format!(" {:<NAME_CELLS$}", part.name()), style_of(part, theme));
            let room = pen.left() as usize;
            pen.text(format::cut(part.formula(), room)).next_line();
        }
        pen.put(format!(" {:<NAME_CELLS$}", "bubble"), theme.dim());
        let room = pen.left() as usize;
        let text = "idle share of ranks x window; BUSY + STARVED + BUBBLE = 100 %";
        pen.put(format::cut(text, room), theme.dim());
        pen.next_line();
    } else {
        draw_numbers(&mut pen, account);
    }
    draw_ratios(&mut pen, account);
    let advice = &found.advice;
    let room = (pen.width() as usize).saturating_sub(ADVICE_CELLS);
    let n_next = wrapped(&advice.next, room, 2).len();
    let n_why = (pen.lines_left() as usize).saturating_sub(1 + n_next).clamp(1, 2);
    let lines =
        [("cost", &advice.what, 1), ("cause", &advice.why, n_why), ("try", &advice.next, 2)];
    for (name, text, n_lines) in lines {
        pen.put(format!(" {name:<5}"), theme.dim());
        let n_lines = n_lines.min(pen.lines_left() as usize);
        let style = if name == "try" { STRONG } else { Style::new() };
        for line in wrapped(text, pen.left() as usize, n_lines) {
            pen.column(ADVICE_CELLS as u16).put(line, style).next_line();
        }
    }
}

fn draw_numbers(pen: &mut Pen<'_>, account: &Account) {
    let theme = pen.theme;
    pen.put(
        format!(" {:<NAME_CELLS$}{:>9} {:>8} {:>8}", "", "ms", "window", "bubble"),
        theme.dim(),
    );
    pen.next_line();
    let longest =
        Part::ALL.map(|part| part.formula().chars().count()).into_iter().max().unwrap_or(0);
    for part in account.parts {
        let share = part.seconds / account.window_seconds;
        pen.put(format!(" {:<NAME_CELLS$}", part.part.name()), style_of(part.part, theme));
        pen.put(format!("{:>9}", millis(part.seconds)), STRONG);
        pen.text(format!(" {:>8}", percent(share)));
        let of_bubble = match part.part {
            Part::Work => String::new(),
            _ => change(part.of_bubble, "pp"),
        };
        pen.text(format!(" {of_bubble:>8}  "));
        let meaning_at = BAR_CELLS.1 + NOTE_CELLS;
        let left = pen.left() as usize;
        // Where there is room, what the part means stands beside it.
        let has_meaning = left > meaning_at + longest;
        let room = left.saturating_sub(1).min(if has_meaning { BAR_CELLS.1 } else { BAR_CELLS.0 });
        let n_cells = (share.clamp(0.0, 1.0) * room as f64).round();
        #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
        let bar = if theme.ascii { "#" } else { "█" }.repeat(n_cells as usize);
        pen.put(&bar, style_of(part.part, theme));
        if !bar.is_empty() {
            pen.text(" ");
        }
        pen.text(note(part.part, account, theme));
        if has_meaning {
            let column = pen.width() as usize - left + meaning_at;
            pen.column(column as u16).put(part.part.formula(), theme.dim());
        }
        pen.next_line();
    }
}

/// What is known of a part beside its time: which rank, or which message.
fn note(part: Part, account: &Account, theme: Theme) -> String {
    match part {
        Part::Imbalance => account
            .slowest_rank()
            .filter(|(_, seconds)| *seconds > 5e-5)
            .map(|(rank, seconds)| format!("rank {rank}: {} ms", millis(seconds))),
        Part::Copy => account.slowest_edge.map(|(from, to, delay)| {
            let arrow = if theme.ascii { "->" } else { "→" };
            format!("slowest {from}{arrow}{to}: {} ms", millis(delay))
        }),
        Part::Work | Part::Inherent | Part::Starved | Part::Other => None,
    }
    .unwrap_or_default()
}

/// The bubble three times: measured, simulated from these times, and by the formula.
fn draw_ratios(pen: &mut Pen<'_>, account: &Account) {
    pen.text(" bubble measured ").put(format::percent(account.bubble_ratio), STRONG);
    let clock = if account.starved_ratio() >= 0.005 { " (wall)" } else { "" };
    pen.text(format!("  simulated from these times{clock} "));
    pen.put(format::percent(account.simulated_bubble_ratio), STRONG);
    if let Some(theory) = account.theory() {
        pen.text("  theory ").put(format::percent(theory), STRONG);
    }
    if !clock.is_empty() && pen.left() >= 24 {
        pen.text("  core per rank ");
        pen.put(format::percent(account.simulated_net_bubble_ratio), STRONG);
    }
    pen.next_line();
}

/// A column of the table of the ranks.
type Column = (&'static str, fn(&RankTime) -> f64);

/// The columns; the last are left out first.
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

/// The columns of a narrow screen.
const NARROW_COLUMNS: [Column; 6] = [
    ("fwd", |time| time.forward),
    ("bwd", |time| time.backward + time.weight_grad),
    ("wait", |time| time.wait_act + time.wait_grad),
    ("copy", |time| time.copy),
    ("idle", |time| time.other),
    ("optim", |time| time.optimizer),
];

/// Draws what each rank does in a step.
pub(crate) fn draw_ranks(
    buffer: &mut Buffer,
    area: Rect,
    state: &State,
    found: &Found,
    theme: Theme,
) {
    let account = &found.account;
    let ranks = &account.ranks;
    let title = format!("each rank, ms of a step{}", hidden_mean(ranks));
    let n_rows = area.height.saturating_sub(TABLE_ROWS) as usize;
    let first = state.first_rank(n_rows).min(ranks.len().saturating_sub(n_rows));
    let right = if ranks.len() > n_rows {
        format!("{} to {} of {}", first + 1, (first + n_rows).min(ranks.len()), ranks.len())
    } else {
        format!("step {} ms", millis(account.step_seconds))
    };
    let beside = beside_the_steps(state.shown());
    let room = (area.width as usize).saturating_sub(title.len() + right.chars().count() + 12);
    let right = match beside.chars().count() {
        0 => right,
        n if n > room => right,
        _ => format!("{beside}   {right}"),
    };
    let inside = panel(buffer, area, theme, &title, &right);
    let below = ranks.len().saturating_sub(first + n_rows);
    mark_more(buffer, area, theme, (first, below), &state.keymap().scroll_keys());
    let mut pen = Pen::new(buffer, inside, theme);
    let n_fit = (inside.width as usize).saturating_sub(8 + 2 * CELLS + FOR_CELLS) / CELLS;
    // Where both kinds of waiting do not fit, they are one.
    let all: &[Column] = if n_fit < 5 { &NARROW_COLUMNS } else { &COLUMNS };
    // What no rank has ever done needs no column.
    let columns: Vec<Column> = all
        .iter()
        .copied()
        .filter(|(_, time)| ranks.iter().any(|rank| time(rank).abs() > 5e-6))
        .take(n_fit)
        .collect();
    pen.put(format!(" {:<6}", "rank"), theme.dim());
    for (name, _) in &columns {
        pen.put(format!("{name:>CELLS$}"), theme.dim());
    }
    pen.put(format!("{:>CELLS$}{:>CELLS$}", "starved", Part::Imbalance.name()), theme.dim());
    pen.put(format!("{:>FOR_CELLS$}", "waits for"), theme.dim());
    let bar_cells = pen.left().saturating_sub(3).min(RANK_BAR_CELLS.1);
    let bar_cells = if bar_cells < RANK_BAR_CELLS.0 { 0 } else { bar_cells };
    if bar_cells > 0 {
        pen.put("  of the step", theme.dim());
    }
    for rank in ranks.iter().skip(first) {
        pen.next_line();
        let name = rank_name(state.shown(), rank.replica, rank.rank);
        let is_culprit = found.advice.rank == Some(rank.rank);
        let style = if is_culprit { STRONG.patch(theme.notice()) } else { STRONG };
        pen.put(format!(" {name:<6}"), style);
        for (name, time) in &columns {
            let style = if name.starts_with("wait") { theme.dim() } else { Style::new() };
            pen.put(format!("{:>CELLS$}", millis(time(rank))), style);
        }
        let starved = starved_style(Some(rank.starved / account.window_seconds), theme);
        pen.put(format!("{:>CELLS$}", millis(rank.starved)), starved);
        let its = account.imbalance_of_rank.get(rank.rank as usize).copied().unwrap_or(0.0);
        pen.put(
            format!("{:>CELLS$}", millis(its)),
            if is_culprit { theme.notice() } else { theme.dim() },
        );
        pen.text(format!("{:>FOR_CELLS$}", waits_for(rank)));
        pen.text("  ");
        draw_rank_bar(&mut pen, rank, account.step_seconds, bar_cells);
    }
}

/// How much of the gradient mean lies beside other work, where there is one.
fn hidden_mean(ranks: &[RankTime]) -> String {
    let sum = |of: fn(&RankTime) -> f64| ranks.iter().map(of).sum::<f64>();
    let whole = sum(|rank| rank.all_reduce_whole);
    if whole <= 0.0 {
        return String::new();
    }
    let share = 1.0 - sum(|rank| rank.all_reduce) / whole;
    format!("; {} of the gradient mean beside other work", format::percent(share))
}

/// The rank that it waits for most, and how long.
fn waits_for(rank: &RankTime) -> String {
    rank.waits_for
        .map_or_else(String::new, |(other, seconds)| format!("r{other} {}", millis(seconds)))
}

/// What a rank does in a step, side by side, each kind as long as its share.
fn draw_rank_bar(pen: &mut Pen<'_>, rank: &RankTime, step_seconds: f64, n_cells: u16) {
    let theme = pen.theme;
    let kinds: [(SpanKind, f64); 9] = [
        (SpanKind::F, rank.forward),
        (SpanKind::B, rank.backward),
        (SpanKind::W, rank.weight_grad),
        // Ready to compute, but without a core.
        (SpanKind::WaitAct, rank.starved),
        (SpanKind::Send, rank.copy),
        (SpanKind::AllReduce, rank.all_reduce),
        (SpanKind::Optim, rank.optimizer),
        (SpanKind::Data, rank.data),
        (SpanKind::Checkpoint, rank.checkpoint),
    ];
    let (mut sum, mut n_drawn) = (0.0, 0);
    for (kind, seconds) in kinds {
        sum += seconds;
        // The end of each kind is rounded, so that all together have the right length.
        let end = (sum / step_seconds * f64::from(n_cells)).round().clamp(0.0, f64::from(n_cells));
        #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
        let n = (end as usize).saturating_sub(n_drawn);
        let first = letter(kind).to_ascii_uppercase();
        let text: String =
            std::iter::once(first).chain(std::iter::repeat(theme.fill(kind))).take(n).collect();
        if kind == SpanKind::WaitAct {
            pen.put("-".repeat(n), theme.bad());
        } else {
            pen.put(text, theme.block(kind));
        }
        n_drawn += n;
    }
    pen.put(
        theme.idle().to_string().repeat((n_cells as usize).saturating_sub(n_drawn)),
        theme.dim(),
    );
}

/// What took time between the steps, which no step has in its numbers: `between steps: evaluating 6
/// x 410 ms`.
fn beside_the_steps(model: &Model) -> String {
    let between = model
        .phase_costs()
        .filter(|(name, _)| !PhaseEvent::OF_THE_START.contains(name))
        .filter_map(|(name, cost)| {
            let each = format::duration(cost.median_seconds()?);
            Some(format!("{} {} x {each}", format::plain(name), cost.count))
        });
    let between: Vec<String> = between.collect();
    if between.is_empty() {
        String::new()
    } else {
        format!("between steps: {}", between.join(", "))
    }
}

/// Draws what changes would bring, the best first.
pub(crate) fn draw_changes(buffer: &mut Buffer, area: Rect, found: &Found, theme: Theme) {
    let n_rows = area.height.saturating_sub(TABLE_ROWS) as usize;
    let lines = best_of(&found.what_if, n_rows);
    let right = match (lines.len() < found.what_if.len(), found.account.halves_are_guessed) {
        (true, _) => format!("the best {} of {}", lines.len(), found.what_if.len()),
        (false, true) => "I and W guessed as B/2".to_owned(),
        (false, false) => String::new(),
    };
    let inside = panel(buffer, area, theme, "what if, simulated from this run's times", &right);
    let mut pen = Pen::new(buffer, inside, theme);
    let name_cells = lines.iter().map(|line| line.change.chars().count()).max().unwrap_or(0);
    let head = ["bubble", "throughput", "activations"];
    pen.put(
        format!(" {:<name_cells$}  {:>7}  {:>10}  {:>11}", "", head[0], head[1], head[2]),
        theme.dim(),
    );
    // What gains less than the steps differ among themselves is not pointed out.
    let least = found.account.noise().max(0.02);
    let best = lines.iter().map(|line| line.gain).fold(least, f64::max);
    for (at, line) in lines.iter().enumerate() {
        pen.next_line();
        let is_best = line.gain >= best;
        pen.put(
            format!(" {:<name_cells$}", line.change),
            if is_best { STRONG } else { Style::new() },
        );
        pen.put(format!("  {:>7}", format::percent(line.bubble_ratio)), STRONG);
        let gain = match at {
            0 => "now".to_owned(),
            _ => change(line.gain, "%"),
        };
        pen.put(
            format!("  {gain:>10}"),
            if line.gain > least { theme.good() } else { theme.dim() },
        );
        pen.put(format!("  {:>11.1}", line.peak_activations), theme.dim());
        if line.flags != line.change && line.flags.chars().count() + 2 <= pen.left() as usize {
            pen.put(format!("  {}", line.flags), if is_best { STRONG } else { theme.dim() });
        }
    }
}

/// The run as it is, and of the changes as many as there is room for: what gains most comes first.
fn best_of(changes: &[WhatIf], n_rows: usize) -> Vec<&WhatIf> {
    let Some((as_it_is, changes)) = changes.split_first() else { return Vec::new() };
    let mut changes: Vec<&WhatIf> = changes.iter().collect();
    changes.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    std::iter::once(as_it_is).chain(changes).take(n_rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out_and_never_more_than_there_are() {
        for (height, ranks, changes) in
            (0..60).flat_map(|h| (4..40).flat_map(move |r| [3, 4, 9, 14].map(|c| (h, r, c))))
        {
            let (for_ranks, for_changes) = shares(height, ranks, changes);
            assert!(for_ranks + for_changes <= height, "{height} {ranks} {changes}");
            assert!(for_changes == 0 || for_changes >= TABLE_ROWS + 2);
        }
        assert_eq!(shares(8, 7, 14), (8, 0));
        assert_eq!(shares(33, 7, 14), (7, 14));
        assert_eq!(shares(32, 19, 14), (19, 13));
        assert_eq!(shares(30, 67, 14), (16, 14));
    }
}
