//! A simulated plan as a picture: a row a rank, a box an op, to scale, for a page or a paper.
//!
//! Colours tell the phases apart, shades the stages of a rank (the further from the input, the
//! darker); where a box is wide enough it bears the number of its micro-batch. What is left white
//! is bubble.

use std::fmt::Write as _;

use crate::action::Action;
use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::ids::Pipe;
use crate::number::short_number;
use crate::op::{Op, Phase};
use crate::picture::{Shade, axis_marks, escaped_xml, legend_of, legend_of_shades};
use crate::plan::ValidPlan;
use crate::simulate::{Simulation, TimedAction, simulate};

/// Pixels: a row with its gap, the box in it, the margins, and text.
const ROW: f64 = 26.0;
const BOX: f64 = 22.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 48.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 64.0;
const FONT: f64 = 11.0;
/// About how wide a digit is.
const DIGIT: f64 = 6.4;
/// The widest and the narrowest field of boxes.
const WIDTH_MAX: f64 = 12_000.0;
const WIDTH_MIN: f64 = 560.0;

/// The plan as it runs with these costs.
///
/// # Errors
/// As [`simulate`].
pub fn svg(plan: &ValidPlan, costs: &Costs) -> Result<String, ScheduleError> {
    let simulation = simulate(plan, costs)?;
    let scale = pixels_a_unit(plan, costs, &simulation);
    let width = LEFT + simulation.makespan * scale + RIGHT;
    let height = TOP + f64::from(plan.n_ranks()) * ROW + BOTTOM;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"{FONT}\">\n"
    );
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing into a `String` cannot fail.
        let _ = text.write_fmt(line);
        text.push('\n');
    };
    let title = title(plan, &simulation);
    line(format_args!("<title>{title}</title>"));
    line(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"));
    line(format_args!(
        "<text x=\"{LEFT}\" y=\"22\" font-size=\"13\" font-weight=\"bold\" fill=\"#1a1a1a\">{title}</text>"
    ));
    for (rank, row) in simulation.timeline(plan, costs).enumerate() {
        let y = TOP + rank as f64 * ROW;
        let baseline = y + BOX / 2.0 + FONT * 0.35;
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\" fill=\"#1a1a1a\">rank {rank}</text>",
            LEFT - 8.0
        ));
        for timed in row {
            for part in boxes(timed) {
                let (x, length) = (LEFT + part.start * scale, (part.end - part.start) * scale);
                line(format_args!(
                    "<rect x=\"{x:.2}\" y=\"{:.1}\" width=\"{length:.2}\" height=\"{:.1}\" fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"0.8\"><title>{}, {} to {}</title></rect>",
                    y + part.top * BOX,
                    part.height * BOX,
                    shade(plan, part.op).fill(),
                    timed.action,
                    short_number(timed.start),
                    short_number(timed.end)
                ));
                let label = part.op.micro_batch.to_string();
                let font = if part.height < 1.0 { FONT * 0.8 } else { FONT };
                if label.len() as f64 * DIGIT + 2.0 <= length {
                    line(format_args!(
                        "<text x=\"{:.2}\" y=\"{:.1}\" font-size=\"{font}\" text-anchor=\"middle\" fill=\"{}\">{label}</text>",
                        x + length / 2.0,
                        y + (part.top + part.height / 2.0) * BOX + font * 0.35,
                        shade(plan, part.op).ink()
                    ));
                }
            }
        }
    }
    let bottom = TOP + f64::from(plan.n_ranks()) * ROW;
    for mark in axis_marks(simulation.makespan, scale) {
        let x = LEFT + mark * scale;
        line(format_args!(
            "<line x1=\"{x:.2}\" y1=\"{bottom:.1}\" x2=\"{x:.2}\" y2=\"{:.1}\" stroke=\"#8a8a8a\"/>",
            bottom + 4.0
        ));
        line(format_args!(
            "<text x=\"{x:.2}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#5a5a5a\">{}</text>",
            bottom + 16.0,
            short_number(mark)
        ));
    }
    legend(plan, bottom + 34.0, &mut line);
    text.push_str("</svg>\n");
    Ok(text)
}

fn title(plan: &ValidPlan, simulation: &Simulation) -> String {
    let v = plan.n_virtual_stages();
    let chunks = if v > 1 { format!(", v={v}") } else { String::new() };
    format!(
        "{}: p={}, m={}{chunks}, makespan {}, bubble ratio {:.1} %",
        escaped_xml(plan.name()),
        plan.n_ranks(),
        plan.n_micro_batches(),
        short_number(simulation.makespan),
        100.0 * simulation.bubble_ratio
    )
}

/// What stands for an op: all the height of its row, or half of it in an overlapped pair.
struct Part {
    op: Op,
    start: f64,
    end: f64,
    /// In heights of a box.
    top: f64,
    height: f64,
}

fn boxes(timed: TimedAction) -> Vec<Part> {
    let TimedAction { action, start, end } = timed;
    match action {
        Action::One(op) => vec![Part { op, start, end, top: 0.0, height: 1.0 }],
        Action::Overlapped(pair) => vec![
            Part { op: pair.forward(), start, end, top: 0.0, height: 0.5 },
            Part { op: pair.backward(), start, end, top: 0.5, height: 0.5 },
        ],
    }
}

/// So many that the shortest op has room for its label, within the bounds of a picture.
fn pixels_a_unit(plan: &ValidPlan, costs: &Costs, simulation: &Simulation) -> f64 {
    let lengths = simulation.timeline(plan, costs).flatten().map(|timed| timed.end - timed.start);
    let shortest = lengths.filter(|&length| length > 0.0).fold(f64::INFINITY, f64::min);
    let label = (plan.n_micro_batches() - 1).to_string().len() as f64 * DIGIT + 4.0;
    let least = WIDTH_MIN / simulation.makespan;
    (label / shortest).max(least).min((WIDTH_MAX / simulation.makespan).max(least))
}

/// The colour of an op: from light for the first stage of a rank to dark for its last.
fn shade(plan: &ValidPlan, op: Op) -> Shade {
    let pipe = plan.pipe_of(op.micro_batch);
    let chunk = f64::from(plan.topology().chunk_of(pipe, op.stage).0);
    let n = f64::from(plan.n_virtual_stages().max(2) - 1);
    Shade { phase: op.phase, depth: chunk / n, is_second_copy: pipe != Pipe(0) }
}

fn legend(plan: &ValidPlan, y: f64, line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    // Of each phase the lightest shade there is.
    let mut seen = Phase::ALL.map(|phase| (phase, None::<Op>));
    let mut has_pair = false;
    for action in plan.rows().iter().flatten() {
        has_pair |= matches!(action, Action::Overlapped(_));
        for op in action.ops() {
            let lightest = seen.iter_mut().find(|(phase, _)| *phase == op.phase);
            if let Some((_, lightest)) = lightest
                && lightest.is_none_or(|other| shade(plan, op).light() > shade(plan, other).light())
            {
                *lightest = Some(op);
            }
        }
    }
    let mut x = LEFT;
    for (phase, op) in seen {
        let Some(op) = op else { continue };
        line(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"14\" height=\"14\" fill=\"{}\"/>",
            shade(plan, op).fill()
        ));
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#1a1a1a\">{}</text>",
            x + 19.0,
            y + 11.0,
            legend_of(phase)
        ));
        x += 34.0 + legend_of(phase).len() as f64 * DIGIT;
    }
    let mut notes = legend_of_shades(plan.n_virtual_stages() > 1, plan.n_pipes() > 1);
    if has_pair {
        notes.push("two in one box: F overlaps B");
    }
    if !notes.is_empty() {
        line(format_args!(
            "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#5a5a5a\">{}</text>",
            y + 27.0,
            notes.join("; ")
        ));
    }
}
