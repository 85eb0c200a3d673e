//! A plan as a picture in text: ranks down, time across.

use crate::action::Action;
use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::grid::label;
use crate::ids::{Pipe, Rank};
use crate::plan::ValidPlan;
use crate::simulate::{TimedAction, simulate};

/// The widest picture: past it ops shrink below their labels.
const COLUMNS_MAX: f64 = 4096.0;

/// The plan over time, to scale: a line a rank, every op as long as it takes, dots where the rank
/// waits.
///
/// An op reads `F3---|`: what it is, dashes for as long as it lasts, and a bar at its end. Where
/// ranks hold several stages, or hold them in another order, the stage stands in front: `5F3--|`.
/// An op that is too short for its label shows its letter alone.
///
/// # Errors
/// As [`simulate`].
pub fn draw(plan: &ValidPlan, costs: &Costs) -> Result<String, ScheduleError> {
    let simulation = simulate(plan, costs)?;
    let topology = plan.topology();
    let one_stage_a_rank = topology.n_pipes() == 1
        && topology.stages().all(|stage| topology.rank_of(Pipe(0), stage) == Rank(stage.0));
    let label = |action: Action| label(action, one_stage_a_rank);
    let all = || simulation.timeline(plan, costs).flatten();
    let label_width = all().map(|timed| label(timed.action).len()).max().unwrap_or(1);
    let shortest = all()
        .map(|timed| timed.end - timed.start)
        .filter(|&length| length > 0.0)
        .fold(f64::INFINITY, f64::min);
    let columns_a_unit =
        ((label_width + 1) as f64 / shortest).min(COLUMNS_MAX / simulation.makespan);
    let column = |time: f64| column(time, columns_a_unit);
    let rank_width = (plan.n_ranks() - 1).to_string().len();
    let width = column(simulation.makespan);
    let line = |(rank, row): (usize, &mut dyn Iterator<Item = TimedAction>)| {
        let mut line = format!("rank {rank:>rank_width$}  ");
        let mut at = 0;
        for timed in row {
            let (start, end) = (column(timed.start), column(timed.end));
            line.extend(std::iter::repeat_n('.', start.saturating_sub(at)));
            line.push_str(&cell(
                &label(timed.action),
                timed.action.first().phase.letter(),
                end.saturating_sub(start.max(at)),
            ));
            at = at.max(end);
        }
        line.extend(std::iter::repeat_n('.', width.saturating_sub(at)));
        line
    };
    let rows = simulation.timeline(plan, costs).enumerate();
    Ok(rows.map(|(rank, mut row)| line((rank, &mut row))).collect::<Vec<_>>().join("\n"))
}

/// One op, `width` columns wide.
fn cell(label: &str, letter: char, width: usize) -> String {
    match width {
        0 => String::new(),
        1 => letter.to_string(),
        _ if label.len() < width => format!("{label:-<0$}|", width - 1),
        _ => format!("{letter:-<0$}|", width - 1),
    }
}

#[expect(clippy::cast_sign_loss, reason = "no op starts before time 0")]
fn column(time: f64, columns_a_unit: f64) -> usize {
    (time * columns_a_unit).round() as usize
}
