//! The step against its plan: the line above the rows, and the rows of the plan.

use pp_telemetry::{RankState, Span};

use super::details::signed;
use super::lines::Lines;
use super::overlaid::shades;
use super::row::CHOSEN;
use super::{Page, in_plan, is_of, time};
use crate::monitor::state::{Mode, Planned, first_compute_ns};
use crate::monitor::view::paint::Pen;
use crate::monitor::view::theme::STRONG;

impl Page<'_> {
    /// The rows of the plan, and a line above them.
    pub(super) fn draw_plan<'r>(
        &self,
        pen: &mut Pen<'_>,
        mut y: u16,
        lines: Lines,
        plan: &Planned,
        shown: impl Iterator<Item = (usize, &'r RankState)>,
    ) -> u16 {
        if lines.heads > 0 {
            let text = format!(
                " planned: mean times on a core, without copies or message delays   {}",
                time(plan.makespan_ns)
            );
            let style = pen.theme.dim();
            pen.line(y).put(text, style);
            y += 1;
        }
        // The plan begins where the step begins to compute.
        let begin = first_compute_ns(self.step).unwrap_or(0) as f64;
        let range_ns = (self.range_ns.0 - begin, self.range_ns.1 - begin);
        for (row, rank) in shown {
            self.draw_label(pen, y, row, rank);
            let of_rank = plan.rows.get(rank.rank as usize).into_iter().flatten();
            self.draw_row(pen, y, lines.per_rank, of_rank, range_ns);
            let same = self.chosen.filter(|span| is_of(span, rank));
            let same = same.and_then(|span| in_plan(plan, span));
            if let Some(span) = same {
                self.draw_mark(pen, y, lines.per_rank, span, range_ns, CHOSEN);
            }
            y += lines.per_rank;
        }
        y
    }

    pub(super) fn draw_head(
        &self,
        pen: &mut Pen<'_>,
        mode: Mode,
        plan: Option<&Planned>,
        refusal: Option<&str>,
    ) {
        let theme = pen.theme;
        match mode {
            Mode::Measured => {
                pen.put(" measured only", theme.dim());
            }
            Mode::WithPlan => {
                pen.put(" measured by the wall clock", theme.dim());
                if let Some(why) = refusal {
                    pen.put(format!("   no plan: {why}"), theme.notice());
                }
                let measured_ns = self.window_ns();
                if let Some((plan, measured_ns)) = plan.zip(measured_ns) {
                    let behind = measured_ns as f64 - plan.makespan_ns as f64;
                    let share = behind / (plan.makespan_ns.max(1)) as f64;
                    pen.put(format!("   {}", time(measured_ns)), theme.dim());
                    let behind = signed(behind);
                    let fast = if share < 0.0 { ": this step beat its mean" } else { "" };
                    let text = format!("measured - plan {behind} ({:+.1}%){fast} ", share * 100.0);
                    pen.put_right(&text, STRONG);
                }
            }
            Mode::Overlaid => {
                let seconds = || self.overlaid.iter().filter_map(|(step, _)| step.step_ns);
                let text = format!(
                    " {} steps, aligned at their first operation   {} to {}",
                    self.overlaid.len(),
                    time(seconds().min().unwrap_or(0)),
                    time(seconds().max().unwrap_or(0)),
                );
                pen.put(text, theme.dim());
                let shades: String = shades(theme).iter().collect();
                pen.put_right(&format!("{shades} few to all "), theme.dim());
            }
        }
    }

    /// From the first to the last operation that computes, of the replica of the chosen rank.
    fn window_ns(&self) -> Option<u64> {
        let row = self.state.timeline().row(self.model);
        let replica = self.model.ranks().get(row)?.replica;
        let computes =
            || self.step.spans.iter().filter(|s| s.replica == replica && s.op.is_compute());
        let first = computes().map(|span| span.start_ns).min()?;
        let last = computes().map(Span::end_ns).max()?;
        Some(last.saturating_sub(first))
    }
}
