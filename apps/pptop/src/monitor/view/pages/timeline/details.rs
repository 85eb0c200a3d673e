//! The lines about the operation that is chosen.

use pp_telemetry::{Span, SpanKind};
use ratatui::style::Style;

use super::{Page, in_plan, time};
use crate::monitor::input::Action;
use crate::monitor::state::{Dependency, Planned, bytes, first_compute_ns, usual_ns};
use crate::monitor::view::paint::Pen;
use crate::monitor::view::theme::{STRONG, Theme};
use crate::monitor::words::{format, letter, name, rank_name};

impl Page<'_> {
    /// The lines about the chosen operation.
    pub(super) fn draw_details(
        &self,
        pen: &mut Pen<'_>,
        y: u16,
        n_lines: u16,
        plan: Option<&Planned>,
    ) {
        let theme = pen.theme;
        if n_lines == 0 {
            return;
        }
        if !self.is_framed {
            self.draw_words(pen, y, n_lines, plan);
            return;
        }
        let Some(chosen) = self.chosen else {
            pen.line(y + 1);
            self.put_keys(
                pen,
                &[
                    (Action::Pan(1.0), "choose an operation"),
                    (Action::Scroll(1), "choose a rank"),
                    (Action::Mode, "mode"),
                ],
            );
            pen.line(y + 2);
            self.draw_steps(pen);
            return;
        };
        pen.line(y).put(format!(" {} ", self.name_with_rank(chosen)), STRONG);
        for (text, style) in self.facts(chosen, plan) {
            if text.chars().count() + 2 > pen.left() as usize {
                break;
            }
            pen.text(" ").put(text, style).text(" ");
        }
        pen.line(y + 1);
        let Some(found) = self.cause else {
            self.put_keys(pen, &[(Action::Enter, "what it waited for"), (Action::Back, "back")]);
            pen.line(y + 2);
            self.draw_steps(pen);
            return;
        };
        let (text, style) = self.cause_text(chosen, &found, theme);
        pen.text(" ").put(text, style);
        pen.line(y + 2);
        let mut keys = vec![(Action::Back, "back")];
        if found.cause().is_some() {
            keys.insert(0, (Action::Enter, "goes there"));
        }
        self.put_keys(pen, &keys);
        if let Some(from) = self.path.first() {
            let n = self.path.len();
            let operations = if n == 1 { "operation" } else { "operations" };
            let from = self.name_with_rank(from);
            pen.put(format!("  {n} {operations} back from {from}"), theme.dim());
        }
    }

    /// The same in words, as many as a small screen has room for.
    fn draw_words(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16, plan: Option<&Planned>) {
        let theme = pen.theme;
        let width = pen.width() as usize;
        let mut lines: Vec<(String, Style)> = Vec::new();
        let mut add = |text: &str, style: Style| {
            lines.extend(wrapped(text, width).into_iter().map(|line| (line, style)));
        };
        if let Some(chosen) = self.chosen {
            let facts = self.facts(chosen, plan).into_iter().map(|(text, _)| text);
            let facts: Vec<String> = facts.collect();
            add(&format!("{} {}", self.name_with_rank(chosen), facts.join(" ")), STRONG);
            if let Some(found) = self.cause {
                let (text, style) = self.cause_text(chosen, &found, theme);
                if n_lines == 1 {
                    let cause = found.cause().map(|cause| self.name_with_rank(cause));
                    let waited = time(found.waited_ns);
                    let text = format!("{waited} for {}", cause.unwrap_or_default());
                    lines = vec![(text, style)];
                } else if n_lines < 4 {
                    // There what it waited for matters more than where it stands.
                    lines.truncate(1);
                }
                lines.extend(wrapped(&text, width).into_iter().map(|line| (line, style)));
            }
        } else {
            let step_ns = self.step.step_ns.unwrap_or(0);
            add(&format!("step {}  {}", self.step.step, time(step_ns)), STRONG);
        }
        for ((text, style), y) in lines.iter().zip(y..y.saturating_add(n_lines)) {
            pen.line(y).put(text, *style);
        }
        if lines.len() < n_lines as usize {
            pen.line(y + n_lines - 1);
            let keys: &[(Action, &str)] = match (self.chosen, self.cause) {
                (None, _) => &[(Action::Pan(1.0), "operation"), (Action::Scroll(1), "rank")],
                (_, None) => &[(Action::Enter, "what it waited for")],
                _ => &[(Action::Enter, "goes there"), (Action::Back, "back")],
            };
            self.put_keys(pen, keys);
        }
    }

    fn put_keys(&self, pen: &mut Pen<'_>, keys: &[(Action, &str)]) {
        let theme = pen.theme;
        for (action, what) in keys {
            let of = |action| self.state.keymap().key_of(action);
            let keys = match action {
                Action::Pan(_) => [of(Action::Pan(-1.0)), of(Action::Pan(1.0))],
                Action::Scroll(_) => [of(Action::Scroll(1)), of(Action::Scroll(-1))],
                other => [of(*other), None],
            };
            let keys: Vec<String> = keys.into_iter().flatten().collect();
            if keys.is_empty() {
                continue;
            }
            let keys = keys.join(" ");
            if keys.chars().count() + what.len() + 3 <= pen.left() as usize {
                pen.text(" ").put(keys, STRONG).put(format!(" {what} "), theme.dim());
            }
        }
    }

    /// `r2 B3`.
    pub(super) fn name_with_rank(&self, span: &Span) -> String {
        let rank = rank_name(self.model, span.replica, span.rank);
        let kind = letter(span.op);
        if span.op.is_compute() {
            let chunks = self.model.hello().is_some_and(|hello| hello.virtual_stages > 1);
            let stage = if chunks { format!("s{}", span.stage) } else { String::new() };
            format!("r{rank} {kind}{}{stage}", span.mb)
        } else {
            format!("r{rank} {}", name(span.op))
        }
    }

    /// What is known of an operation, what matters most first.
    fn facts(&self, span: &Span, plan: Option<&Planned>) -> Vec<(String, Style)> {
        let usual = Style::new();
        let mut facts = vec![(format!("took {}", time(span.dur_ns)), STRONG)];
        if let Some(usual_ns) = usual_ns(self.model.recorded(), span) {
            let more = span.dur_ns as f64 - usual_ns as f64;
            facts.push((format!("({} vs its median)", signed(more)), usual));
        }
        let (first, _) = self.step.range_ns().unwrap_or_default();
        facts.push((format!("at {}", time(span.start_ns.saturating_sub(first))), usual));
        if span.op.is_compute() {
            facts.push((format!("stage {}  micro-batch {}", span.stage, span.mb), usual));
        } else if span.op == SpanKind::AllReduce {
            facts.push((format!("stage {}  bucket {}", span.stage, span.mb), usual));
        }
        if let Some(planned) = plan.and_then(|plan| in_plan(plan, span)) {
            let begin = first_compute_ns(self.step).unwrap_or(first);
            let at = begin.saturating_add(planned.start_ns);
            facts.push((format!("planned at {}", time(at.saturating_sub(first))), usual));
        }
        let moved = bytes(self.step, span);
        for (what, n_bytes) in
            [("received", moved.taken), ("sent", moved.sent), ("moved", moved.own)]
        {
            if n_bytes > 0 {
                facts.push((format!("{what} {}", format::bytes(n_bytes)), usual));
            }
        }
        facts.push((format!("starved {}", time(span.starved_ns)), usual));
        facts
    }

    fn cause_text(&self, span: &Span, found: &Dependency<'_>, theme: Theme) -> (String, Style) {
        let (first, _) = self.step.range_ns().unwrap_or_default();
        let ended = |span: &Span| time(span.end_ns().saturating_sub(first));
        let waited = time(found.waited_ns);
        if span.op == SpanKind::AllReduce {
            let text = "from the moment at which this copy sent its sums until the mean over all \
                        copies was there; the rank may do other work meanwhile";
            return (text.to_owned(), Style::new());
        }
        match (found.needs, found.cause()) {
            (Some(needs), Some(cause)) if needs == cause => {
                let later = span.start_ns.saturating_sub(needs.end_ns());
                let later = time(later);
                let text = format!(
                    "waited {waited} for {}, which ended at {}; began {later} later",
                    self.name_with_rank(needs),
                    ended(needs)
                );
                (text, if found.waited_ns > 0 { theme.notice() } else { Style::new() })
            }
            (Some(needs), Some(cause)) => {
                let text = format!(
                    "{} arrived at {}, but this rank was busy with {} until {}",
                    self.name_with_rank(needs),
                    ended(needs),
                    self.name_with_rank(cause),
                    ended(cause)
                );
                (text, Style::new())
            }
            (None, Some(cause)) => {
                let text = format!(
                    "needs no other rank; followed {}, which ended at {}",
                    self.name_with_rank(cause),
                    ended(cause)
                );
                (text, Style::new())
            }
            (_, None) => ("the first operation of the step".to_owned(), Style::new()),
        }
    }

    /// Of which steps the operations are known.
    fn draw_steps(&self, pen: &mut Pen<'_>) {
        let theme = pen.theme;
        let every = self.model.hello().map_or(1, |hello| hello.span_every);
        let steps: Vec<u64> =
            self.model.recorded().complete_steps().map(|step| step.step).collect();
        if every <= 1 || steps.is_empty() {
            return;
        }
        let head = format!(" every {} step is recorded: ", format::ordinal(every));
        let room = (pen.left() as usize).saturating_sub(head.len() + 1);
        pen.put(head, theme.dim());
        let mut ranges = ranges(&steps);
        let mut is_cut = false;
        while ranges.join(", ").len() + 5 > room && ranges.len() > 1 {
            ranges.remove(0);
            is_cut = true;
        }
        pen.text(if is_cut { "..., " } else { "" }).text(ranges.join(", "));
    }
}

/// Steps as text, with those that follow each other as one: `1-3`, `20`.
fn ranges(steps: &[u64]) -> Vec<String> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &step in steps {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(step) => *last = step,
            _ => ranges.push((step, step)),
        }
    }
    let text = |(first, last): (u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.into_iter().map(text).collect()
}

/// `text` in lines of `width` characters, cut between words.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A difference with its sign: `+3.1 ms`.
pub(super) fn signed(ns: f64) -> String {
    let sign = if ns < 0.0 { '-' } else { '+' };
    #[expect(clippy::cast_sign_loss, reason = "what is absolute has no sign")]
    let text = time(ns.abs() as u64);
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_follow_each_other_are_one() {
        assert_eq!(ranges(&[1, 2, 3, 20, 40]), ["1-3", "20", "40"]);
        assert_eq!(ranges(&[]), [""; 0]);
    }
}
