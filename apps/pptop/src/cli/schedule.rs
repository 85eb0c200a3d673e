//! `pptop schedule`: a plan by name or from a file is drawn, checked, simulated or exported.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use pp_schedule::{
    Action, Costs, Phase, ScheduleError, ScheduleName, Simulation, ValidPlan, chrome_trace, draw,
    export_csv, short_number, simulate, svg, to_json,
};
use serde::Serialize;
use serde_json::json;

use super::costs::{CostArgs, CostSource};
use super::endings::{Content, known_ending};
use super::output::{Output, Target, write_failed};
use super::outputs::Files;
use super::sizes::{OPS_MAX, PlanArgs, PlanError, refuse_without_memory, schedules_help};
use super::{CliError, print, print_json};

/// What to do with a plan.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw a schedule over time, to scale, with its costs
    Show(ShowArgs),
    /// Check that a schedule is complete, in order and free of deadlock, or name the wrong cell
    Check(CheckArgs),
    /// Simulate a schedule: times, bubbles, peaks, and the gap to the lower bound
    Simulate(SimulateArgs),
    /// Write a schedule as CSV, JSON, text, a picture or a trace
    Export(ExportArgs),
}

/// How a plan is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A drawing to scale, one line per rank
    Text,
    /// One line per rank, of cells such as 0F0,0F1,0B0
    Csv,
    /// Sizes, placement and rows
    Json,
    /// A picture for a page or a paper
    Svg,
    /// A trace that Perfetto and Chrome open
    ChromeTrace,
}

impl Format {
    /// What the ending of a name says; CSV where it says nothing that is written here.
    fn of_ending(path: &Path) -> Self {
        let Some(ending) = known_ending(path) else { return Self::Csv };
        let means = |format: &Self| format.content().endings().contains(&ending.as_str());
        // A trace is JSON as well, and has to be asked for.
        [Self::Text, Self::Json, Self::Svg].into_iter().find(means).unwrap_or(Self::Csv)
    }

    fn content(self) -> Content {
        match self {
            Self::Text => Content::Text,
            Self::Csv => Content::Csv,
            Self::Json | Self::ChromeTrace => Content::Json,
            Self::Svg => Content::Svg,
        }
    }
}

/// Flags of `show`.
#[derive(Debug, clap::Args)]
#[command(after_help = schedules_help())]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    costs: CostArgs,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Flags of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = schedules_help())]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = schedules_help())]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    costs: CostArgs,
    /// Print all numbers as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = schedules_help())]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    costs: CostArgs,
    /// Output format [default: by the extension of FILE, else csv]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// File to write; - is standard output
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Show(args) => show(args),
        Command::Check(args) => check(args),
        Command::Simulate(args) => simulate_plan(args),
        Command::Export(args) => export(args),
    }
}

/// The plan, made for the costs if it follows from them, and these on its placement.
fn plan_and_costs(plan: &PlanArgs, costs: &CostArgs) -> Result<(ValidPlan, Costs), CliError> {
    let source = costs.source()?;
    let plan = plan.plan(&source)?;
    let mut costs = source.of(plan.topology())?;
    if plan.name().parse().is_ok_and(ScheduleName::is_synthesised) && costs.memory_limit.is_none() {
        // The limit that it was made for is part of what it costs.
        costs.memory_limit = Some(costs.default_memory_limit(plan.topology()));
    }
    Ok((plan, costs))
}

fn show(args: &ShowArgs) -> Result<(), CliError> {
    refuse_to_draw(args.plan.n_ops_at_most(), args.format)?;
    let (plan, costs) = plan_and_costs(&args.plan, &args.costs)?;
    let text = written(&plan, &costs, args.format)?;
    if args.format != Format::Text {
        return print(&text);
    }
    let simulation = simulate(&plan, &costs)?;
    print(&format!("{}\n\n{text}\n{}\n{}", sizes_line(&plan), figures(&simulation), legend(&plan)))
}

/// What the cells of a drawing mean: of the kinds that are in it.
fn legend(plan: &ValidPlan) -> String {
    let has = |phase| {
        plan.rows().iter().flatten().flat_map(|cell| cell.ops()).any(|op| op.phase == phase)
    };
    let mut text = String::from(if plan.n_stages() == plan.n_ranks() {
        "F3 is F of micro-batch 3: F forward"
    } else {
        "1F3 is F of stage 1 and micro-batch 3: F forward"
    });
    if has(Phase::Backward) {
        text.push_str(", B backward");
    }
    if has(Phase::InputGrad) {
        text.push_str(", I gradient of the input, W gradient of the weights");
    }
    if plan.rows().iter().flatten().any(|cell| matches!(cell, Action::Overlapped(_))) {
        text.push_str(", F&B overlapped");
    }
    text.push_str("; dots are idle\n");
    text
}

fn export(args: &ExportArgs) -> Result<(), CliError> {
    let format = args.format.unwrap_or_else(|| Format::of_ending(&args.output));
    let mut files = Files::new(args.force);
    if let Some(path) = args.plan.file() {
        files.input("the export", path);
    }
    if let Some(path) = args.costs.file() {
        files.input("--costs", path);
    }
    files.output("-o", &args.output, format.content())?;
    files.check()?;
    refuse_to_draw(args.plan.n_ops_at_most(), format)?;
    let (plan, costs) = plan_and_costs(&args.plan, &args.costs)?;
    let text = written(&plan, &costs, format)?;
    if Target::of(&args.output) == Target::Stdout {
        return print(&text);
    }
    let mut output = Output::to(&args.output, args.force)?;
    output.write_all(text.as_bytes()).map_err(|failed| write_failed(&failed))?;
    output.finish(&args.output)
}

/// Whether so many ops are written in this format within some seconds.
fn refuse_to_draw(n_ops: u128, format: Format) -> Result<(), CliError> {
    let most = match format {
        Format::Text | Format::Csv | Format::Json => OPS_MAX,
        Format::Svg | Format::ChromeTrace => OPS_MAX / 8,
    };
    if n_ops <= most {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "the plan has {n_ops} ops, but this format takes at most {most}; use fewer micro-batches, or --format csv"
    )))
}

fn written(plan: &ValidPlan, costs: &Costs, format: Format) -> Result<String, CliError> {
    // The text of an op, while it grows.
    let bytes_an_op = match format {
        Format::Text | Format::Csv | Format::Json => 64,
        Format::Svg => 400,
        Format::ChromeTrace => 600,
    };
    let n_ops = plan.n_ops() as u128;
    refuse_to_draw(n_ops, format)?;
    refuse_without_memory(n_ops, bytes_an_op, "this picture of the plan")?;
    match format {
        Format::Text => Ok(line(draw(plan, costs)?)),
        Format::Csv => Ok(export_csv(plan)),
        Format::Svg => Ok(svg(plan, costs)?),
        Format::ChromeTrace => Ok(line(chrome_trace(plan, costs)?)),
        Format::Json => {
            let json = to_json(plan)
                .map_err(|failed| CliError::Failed(format!("cannot write JSON: {failed}")))?;
            Ok(line(json))
        }
    }
}

/// With an end of its last line. Such a text may be very long: it is not copied.
fn line(mut text: String) -> String {
    text.push('\n');
    text
}

fn check(args: &CheckArgs) -> Result<(), CliError> {
    match args.plan.load(&CostSource::default()) {
        Ok(plan) if args.json => print_json(&json!({
            "valid": true,
            "schedule": plan.name(),
            "pp": plan.n_ranks(),
            "micro_batches": plan.n_micro_batches(),
            "virtual_stages": plan.n_virtual_stages(),
            "forward_only": plan.is_forward_only(),
            "ops": plan.n_ops(),
            "peak_activations": plan.peak_activations(),
        })),
        Ok(plan) => {
            let kind = if plan.is_forward_only() { "valid, forward only" } else { "valid" };
            print(&format!("{}: {kind}, {} ops\n", sizes_line(&plan), plan.n_ops()))
        }
        Err(PlanError::Refused(refused)) => {
            if args.json {
                print_json(&verdict(&refused))?;
            }
            Err(args.plan.told(&refused))
        }
        Err(PlanError::Input(failed)) => Err(failed),
    }
}

/// Why a plan is not valid, for scripts.
#[derive(Serialize)]
struct Verdict {
    valid: bool,
    rule: &'static str,
    rank: Option<u32>,
    cell: Option<usize>,
    op: Option<String>,
    message: String,
}

fn verdict(refused: &ScheduleError) -> Verdict {
    let place = refused.place();
    Verdict {
        valid: false,
        rule: refused.rule(),
        rank: place.map(|(rank, _)| rank.0),
        cell: place.map(|(_, cell)| cell),
        op: refused.culprit(),
        message: refused.headline(),
    }
}

/// What `simulate --json` writes.
#[derive(Serialize)]
struct Report<'a> {
    schedule: &'a str,
    pp: u32,
    micro_batches: u32,
    virtual_stages: u32,
    costs: &'a Costs,
    gap: f64,
    simulated: &'a Simulation,
}

fn simulate_plan(args: &SimulateArgs) -> Result<(), CliError> {
    let (plan, costs) = plan_and_costs(&args.plan, &args.costs)?;
    let simulation = simulate(&plan, &costs)?;
    if args.json {
        return print_json(&Report {
            schedule: plan.name(),
            pp: plan.n_ranks(),
            micro_batches: plan.n_micro_batches(),
            virtual_stages: plan.n_virtual_stages(),
            costs: &costs,
            gap: gap(&simulation),
            simulated: &simulation,
        });
    }
    let mut text = format!(
        "{}\n{}\nrank       busy       idle       span  peak activations  peak memory\n",
        sizes_line(&plan),
        figures(&simulation)
    );
    for rank in 0..plan.n_ranks() as usize {
        let Simulation { busy, idle, span, peak_activations, peak_memory, .. } = &simulation;
        let _ = writeln!(
            text,
            "{rank:>4} {:>10} {:>10} {:>10}  {:>16} {:>12}",
            short_number(busy[rank]),
            short_number(idle[rank]),
            short_number(span[rank]),
            peak_activations[rank],
            short_number(peak_memory[rank])
        );
    }
    print(&text)
}

/// How much longer the plan takes than its lower bound, as a part of that.
fn gap(simulation: &Simulation) -> f64 {
    simulation.makespan / simulation.lower_bound - 1.0
}

fn sizes_line(plan: &ValidPlan) -> String {
    let (p, m, v) = (plan.n_ranks(), plan.n_micro_batches(), plan.n_virtual_stages());
    format!(
        "{}: {p} ranks, {m} micro-batches, {v} virtual stage{} a rank",
        plan.name(),
        if v == 1 { "" } else { "s" }
    )
}

fn figures(simulation: &Simulation) -> String {
    let mut text = format!(
        "makespan {}   bubble_ratio {:.4}   bubble_overhead {:.4}   span_bubble {:.4}\n\
         lower bound {} ({}), gap {:.2} %\n\
         peak activations {}\n",
        short_number(simulation.makespan),
        simulation.bubble_ratio,
        simulation.bubble_overhead,
        simulation.span_bubble,
        short_number(simulation.lower_bound),
        simulation.lower_bound_reason,
        100.0 * gap(simulation),
        each_rank(&simulation.peak_activations, ToString::to_string),
    );
    if let (Some(limits), Some(fits)) = (&simulation.memory_limit, simulation.fits_memory) {
        let _ = writeln!(
            text,
            "memory limit {}: {}, peaks {}",
            each_rank(limits, |&limit| short_number(limit)),
            if fits { "kept" } else { "exceeded" },
            each_rank(&simulation.peak_memory, |&peak| short_number(peak)),
        );
    }
    text
}

/// What every rank has: once if all have the same, and no more than a line holds.
fn each_rank<T: PartialEq>(values: &[T], text: impl Fn(&T) -> String) -> String {
    const MOST: usize = 16;
    match values {
        [first, others @ ..] if !others.is_empty() && others.iter().all(|other| other == first) => {
            format!("{} on each rank", text(first))
        }
        [.., last] if values.len() > MOST => {
            let first: Vec<String> = values[..MOST - 1].iter().map(&text).collect();
            format!("{} … {}", first.join(" "), text(last))
        }
        _ => values.iter().map(text).collect::<Vec<_>>().join(" "),
    }
}
