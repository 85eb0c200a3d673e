//! `pptop bubble`: how much of the time is bubble, by formula and by simulation, under all three
//! names, beside the figure that the notebook prints for the same size.

use std::fmt::Write as _;
use std::str::FromStr;

use pp_schedule::{
    ClosedForm, Costs, RankShare, ScheduleError, ScheduleName, Simulation, Sizes, closed_form,
    simulate,
};
use serde::Serialize;

use super::sizes::{OPS_MAX, count, fits_in_memory, schedules_help, work_an_op};
use super::{CliError, note, print, print_json};

/// The notebook's table: (stages, micro-batches).
const NOTEBOOK_SIZES: [(u32, u32); 11] = [
    (4, 4),
    (4, 8),
    (4, 16),
    (4, 32),
    (4, 64),
    (4, 100),
    (8, 16),
    (16, 32),
    (32, 64),
    (8, 32),
    (16, 64),
];

/// The order of the tables: the notebook's own schedule first.
const ORDER: [ScheduleName; 4] = [
    ScheduleName::Gpipe,
    ScheduleName::OneFOneB,
    ScheduleName::InterleavedOneFOneB,
    ScheduleName::Naive,
];

/// Without sizes: the eleven sizes of the notebook.
#[derive(Debug, clap::Args)]
#[command(after_help = schedules_help())]
pub(crate) struct Args {
    /// Schedules, separated by commas, or all [default: gpipe,1f1b,interleaved-1f1b,naive]
    #[arg(long, visible_alias = "schedules", value_name = "S", value_delimiter = ',')]
    schedule: Vec<Which>,
    /// Ranks along the pipeline; a comma-separated list is combined with every number of
    /// micro-batches
    #[arg(long, visible_aliases = ["stages", "ranks"], value_name = "P", value_delimiter = ',', value_parser = count, requires = "micro_batches")]
    pp: Vec<u32>,
    /// Micro-batches of one step
    #[arg(long, value_name = "M", value_delimiter = ',', value_parser = count, requires = "pp")]
    micro_batches: Vec<u32>,
    /// Virtual stages on each rank [default: 2 for schedules with several stages per rank, else 1]
    #[arg(long, value_name = "V", value_delimiter = ',', value_parser = count)]
    virtual_stages: Vec<u32>,
    /// Micro-batches that pass through one chunk before the next chunk runs [default: P if that
    /// fits]
    #[arg(long, value_name = "N", value_parser = count)]
    interleave_group: Option<u32>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// A schedule by name, or every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    One(ScheduleName),
}

impl FromStr for Which {
    type Err = ScheduleError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "all" { Ok(Self::All) } else { name.parse().map(Self::One) }
    }
}

/// One size of one schedule.
#[derive(Debug, Serialize)]
struct Row {
    schedule: ScheduleName,
    pp: u32,
    micro_batches: u32,
    virtual_stages: u32,
    closed_form: Option<ClosedForm>,
    simulated: Simulation,
    /// Of the notebook's own schedules.
    seed_figure: Option<NotebookFigure>,
}

/// What the notebook prints as "bubble", and what that number really is.
#[derive(Debug, Serialize)]
pub(crate) struct NotebookFigure {
    pub(crate) value: f64,
    pub(crate) definition: &'static str,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let mut rows = Vec::new();
    let sizes = sizes(args)?;
    refuse_too_many(&sizes)?;
    for sizes in sizes {
        let (schedule, sizes) = sizes;
        rows.push(row(schedule, &sizes)?);
    }
    if args.json { print_json(&rows) } else { print(&table(&rows)) }
}

/// Every size to compute: schedule by schedule, ranks outermost within one. A size that a schedule
/// does not take is left out, and said beside the table, unless no size is left.
fn sizes(args: &Args) -> Result<Vec<(ScheduleName, Sizes)>, CliError> {
    let mut schedules: Vec<ScheduleName> = Vec::new();
    for which in &args.schedule {
        match which {
            Which::All => schedules.extend(ScheduleName::ALL),
            Which::One(name) => schedules.push(*name),
        }
    }
    // Without schedules by name, a flag applies to the schedules that take it.
    let is_chosen = !schedules.is_empty() && !args.schedule.contains(&Which::All);
    if schedules.is_empty() {
        schedules = ORDER.to_vec();
    }
    let pairs: Vec<(u32, u32)> = if args.pp.is_empty() {
        NOTEBOOK_SIZES.to_vec()
    } else {
        args.pp.iter().flat_map(|&p| args.micro_batches.iter().map(move |&m| (p, m))).collect()
    };
    let mut taken = Vec::new();
    let mut refused = Vec::new();
    for schedule in schedules {
        let takes_virtual_stages = is_chosen || schedule.default_virtual_stages() > 1;
        let virtual_stages = match args.virtual_stages.as_slice() {
            [_, ..] if takes_virtual_stages => args.virtual_stages.clone(),
            _ => vec![schedule.default_virtual_stages()],
        };
        let interleave_group = args
            .interleave_group
            .filter(|_| is_chosen || schedule == ScheduleName::InterleavedOneFOneB);
        let mut first_refused = None;
        for &(n_ranks, n_micro_batches) in &pairs {
            for &n_virtual_stages in &virtual_stages {
                let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group };
                match schedule.check(&sizes) {
                    Ok(_) => {
                        fits_in_memory(schedule, &sizes)?;
                        taken.push((schedule, sizes));
                    }
                    Err(error) => first_refused = first_refused.or(Some(error)),
                }
            }
        }
        refused.extend(first_refused);
    }
    if taken.is_empty() {
        return Err(refused.into_iter().next().map_or_else(
            || CliError::Usage("no size is given; add --pp and --micro-batches".into()),
            CliError::from,
        ));
    }
    for error in refused {
        note(&format!("left out: {error}"));
    }
    Ok(taken)
}

/// Refuses sizes that together take longer than some seconds.
fn refuse_too_many(sizes: &[(ScheduleName, Sizes)]) -> Result<(), CliError> {
    let work = |(schedule, sizes): &(ScheduleName, Sizes)| {
        let n_stages = sizes.n_ranks.saturating_mul(sizes.n_virtual_stages);
        schedule.n_ops_at_most(n_stages, sizes.n_micro_batches) * work_an_op(*schedule)
    };
    let n_ops: u128 = sizes.iter().map(work).sum();
    if n_ops <= 2 * OPS_MAX {
        return Ok(());
    }
    let n_sizes = sizes.len();
    Err(CliError::Usage(format!(
        "{n_sizes} sizes together cost as much as {n_ops} ops, but one command takes at most {}; use fewer or smaller sizes",
        2 * OPS_MAX
    )))
}

fn row(schedule: ScheduleName, sizes: &Sizes) -> Result<Row, CliError> {
    let share = RankShare::default();
    let plan = schedule.generate(sizes)?;
    let simulated = simulate(&plan, &Costs::per_rank_share(plan.topology(), &share))?;
    Ok(Row {
        schedule,
        pp: sizes.n_ranks,
        micro_batches: sizes.n_micro_batches,
        virtual_stages: sizes.n_virtual_stages,
        closed_form: closed_form(schedule, sizes, &share),
        // Only the figures go out, and there may be many rows.
        simulated: Simulation { starts: Vec::new(), ..simulated },
        seed_figure: notebook_figure(schedule, sizes),
    })
}

/// The notebook's own formulas, to the three digits that it prints; `None` for a schedule that it
/// does not have.
pub(crate) fn notebook_figure(schedule: ScheduleName, sizes: &Sizes) -> Option<NotebookFigure> {
    let (p, m, v) = (
        f64::from(sizes.n_ranks),
        f64::from(sizes.n_micro_batches),
        f64::from(sizes.n_virtual_stages),
    );
    let (value, definition) = match schedule {
        ScheduleName::Gpipe => ((p - 1.0) / (m + p - 1.0), "bubble_ratio"),
        ScheduleName::OneFOneB => ((p - 1.0) / m, "bubble_overhead"),
        ScheduleName::InterleavedOneFOneB => ((p - 1.0) / (m * v), "bubble_overhead"),
        // It calls the bubble of a pipeline without overlap 0, which is none of the three.
        ScheduleName::Naive => (0.0, "none"),
        _ => return None,
    };
    Some(NotebookFigure { value: (value * 1000.0).round() / 1000.0, definition })
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "                               bubble_ratio      bubble_overhead     span_bubble                 peak    peak\n\
         schedule           p    m  v   formula  simul.   formula  simul.   formula  simul.   makespan   activ.  memory  notebook\n",
    );
    for row in rows {
        let simulated = &row.simulated;
        let formula = |number: fn(&ClosedForm) -> f64| {
            row.closed_form
                .as_ref()
                .map_or_else(|| "-".to_owned(), |form| format!("{:.4}", number(form)))
        };
        let peak = simulated.peak_activations.iter().max().copied().unwrap_or(0);
        let memory = simulated.peak_memory.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "{:<16} {:>3} {:>4} {:>2}   {:>7} {:>7.4}   {:>7} {:>7.4}   {:>7} {:>7.4}   {:>8} {:>8} {:>7}  {}",
            row.schedule,
            row.pp,
            row.micro_batches,
            row.virtual_stages,
            formula(|form| form.bubble_ratio),
            simulated.bubble_ratio,
            formula(|form| form.bubble_overhead),
            simulated.bubble_overhead,
            formula(|form| form.span_bubble),
            simulated.span_bubble,
            (simulated.makespan * 1000.0).round() / 1000.0,
            peak,
            (memory * 100.0).round() / 100.0,
            row.seed_figure.as_ref().map_or_else(
                || "-".to_owned(),
                |figure| format!("{:.3} {}", figure.value, figure.definition)
            ),
        );
    }
    text.push_str(
        "\nbubble_ratio     idle / (ranks * makespan): the share of all time\n\
         bubble_overhead  idle / busy: the extra time, relative to the ideal time\n\
         span_bubble      (longest span of a rank - its work) / that span\n\
         makespan         with F = I = W = 1 for all stages of a rank, B = I + W, and messages that take no time\n\
         peak activ.      the most (stage, micro-batch) pairs alive at once on one rank\n\
         peak memory      the most that one rank holds, in activations of one micro-batch on all its stages\n\
         notebook         the figure that the course notebook prints, and which number it really is (none: it\n\
         \u{20}                prints 0 for naive, although p-1 of p ranks are always idle)\n",
    );
    text
}
