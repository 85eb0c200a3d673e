//! `pptop report`: what is wrong with a run, why, and what to do.

use std::fmt::Write as _;

use pp_telemetry::Part;
use serde_json::json;

use super::standing::Standing;
use super::which::WhichRun;
use super::{CliError, print, print_json};

/// Flags of `report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: WhichRun,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Exit with 1 if the measured bubble ratio is above RATIO, such as 0.30
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    max_bubble: Option<f64>,
    /// Exit with 1 if the throughput is below N samples a second
    #[arg(long, value_name = "N", value_parser = super::typed::cost)]
    min_samples_per_s: Option<f64>,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "use a share from 0 to 1".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let run = args.which.find()?;
    let standing = Standing::of(&run)?;
    let missed = missed(args, &standing);
    if args.json {
        let advice = standing.found.as_ref().map(|(_, advice)| {
            json!({
                "part": advice.part.map(Part::name),
                "what": advice.what,
                "why": advice.why,
                "next": advice.next,
                "line": advice.verdict(),
                "rank": advice.rank,
            })
        });
        print_json(&json!({
            "run": standing.run,
            "verdict": advice,
            "missed": missed,
            "standing": standing,
        }))?;
    } else {
        print(&text(&standing))?;
    }
    if missed.is_empty() { Ok(()) } else { Err(CliError::Failed(missed.join("; "))) }
}

/// What was not recorded whole.
fn write_incomplete(text: &mut String, standing: &Standing) -> std::fmt::Result {
    let Some(last) = standing.last_incomplete_step else { return Ok(()) };
    let (n_steps, missing) = (standing.incomplete_steps, standing.missing_ops);
    let steps = if n_steps == 1 { "step is" } else { "steps are" };
    writeln!(
        text,
        "{n_steps} {steps} incomplete and excluded from all numbers of ranks; the last is step {last}, which lost {missing} operations"
    )
}

/// The bounds that are missed. What was never measured misses every bound.
fn missed(args: &Args, standing: &Standing) -> Vec<String> {
    let mut missed = Vec::new();
    if let Some(most) = args.max_bubble {
        match standing.bubble_ratio {
            Some(ratio) if ratio <= most => {}
            Some(ratio) => {
                missed.push(format!("bubble ratio {ratio:.4} is above --max-bubble {most}"));
            }
            None => {
                missed.push(format!("no bubble was measured, so --max-bubble {most} is not met"));
            }
        }
    }
    if let Some(least) = args.min_samples_per_s {
        match standing.samples_per_second {
            Some(rate) if rate >= least => {}
            Some(rate) => {
                missed.push(format!("{rate:.1} samples/s are below --min-samples-per-s {least}"));
            }
            None => missed.push(format!(
                "no throughput was measured, so --min-samples-per-s {least} is not met"
            )),
        }
    }
    missed
}

fn text(standing: &Standing) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut text, standing);
    text
}

fn write_text(text: &mut String, standing: &Standing) -> std::fmt::Result {
    if let Some(alarm) = &standing.alarm {
        writeln!(text, "ALARM  {alarm}")?;
        let has_failed = matches!(standing.stands, pp_telemetry::Standing::Failed(_));
        if let Some(reason) = standing.reason.as_ref().filter(|_| has_failed) {
            writeln!(text, "ended  {reason}")?;
        }
    }
    write!(text, "{}", standing.line())?;
    if let Some(before) = &standing.continues {
        writeln!(text, "continues {before}")?;
    }
    if let Some(saved) = &standing.saved {
        writeln!(text, "saved  {saved}")?;
    }
    write_incomplete(text, standing)?;
    let Some((account, advice)) = &standing.found else {
        writeln!(text, "no diagnosis: no step has been recorded in full yet")?;
        write_phases(text, standing)?;
        return write_rest(text, standing);
    };
    writeln!(text)?;
    writeln!(text, "cost   {}", advice.what)?;
    writeln!(text, "cause  {}", advice.why)?;
    writeln!(text, "try    {}", advice.next)?;
    writeln!(text)?;
    let (first, last) = account.steps;
    writeln!(
        text,
        "the compute window of a step, {:.2} ms, mean of {} recorded steps ({first} to {last}):",
        account.window_seconds * 1e3,
        account.n_steps
    )?;
    for part in account.parts {
        let share = part.seconds / account.window_seconds * 100.0;
        write!(text, "  {:<10} {:>10.2} ms {share:>6.1} %", part.part.name(), part.seconds * 1e3)?;
        if part.part == Part::Imbalance
            && let Some((rank, seconds)) = account.slowest_rank()
        {
            write!(text, "   rank {rank}: {:.2} ms", seconds * 1e3)?;
        }
        if part.part == Part::Copy
            && let Some((from, to, delay)) = account.slowest_edge
        {
            write!(text, "   slowest link {from} to {to}: {:.2} ms", delay * 1e3)?;
        }
        writeln!(text)?;
    }
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    writeln!(
        text,
        "bubble  measured {}, simulated from these times {}, theory {}",
        percent(account.bubble_ratio),
        percent(account.simulated_bubble_ratio),
        account.theory().map_or_else(|| "-".to_owned(), percent)
    )?;
    if account.starved_ratio() >= 0.005 {
        writeln!(
            text,
            "        by the wall clock, which counts waiting for a core as computing; with a core for each rank {}",
            percent(account.simulated_net_bubble_ratio)
        )?;
    }
    for rank in &account.ranks {
        if let Some((other, seconds)) =
            rank.waits_for.filter(|(_, s)| *s > 0.02 * account.window_seconds)
        {
            let name = match standing.dp {
                0 | 1 => format!("rank {}", rank.rank),
                _ => format!("rank {} of replica {}", rank.rank, rank.replica),
            };
            writeln!(text, "{name} waits {:.1} ms per step for rank {other}", seconds * 1e3)?;
        }
    }
    write_phases(text, standing)?;
    write_rest(text, standing)
}

/// What took time beside the steps.
fn write_phases(text: &mut String, standing: &Standing) -> std::fmt::Result {
    if let Some(phase) = &standing.phase {
        writeln!(text, "now     {phase}")?;
    }
    for phase in &standing.phases {
        write!(text, "outside the steps: {} took {:.2} s", phase.phase, phase.seconds)?;
        if phase.count > 1 {
            write!(text, ", {} times", phase.count)?;
            if let Some(median) = phase.median_seconds {
                write!(text, ", median {median:.2} s")?;
            }
        }
        if let Some(share) = phase.share_of_run {
            write!(text, ", {:.1} % of the run", share * 100.0)?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// Slow operations that are named at most, the newest.
const SLOW_MAX: usize = 8;

fn write_rest(text: &mut String, standing: &Standing) -> std::fmt::Result {
    let n_left_out = standing.slow.len().saturating_sub(SLOW_MAX);
    for line in standing.slow.iter().skip(n_left_out) {
        writeln!(text, "slow    {line}")?;
    }
    for (count, what) in [
        (standing.slow_ops, "operations were slower than usual"),
        (standing.spikes, "jumps of the loss or of the gradient norm"),
        (standing.lost_events, "events were lost"),
        (standing.bad_lines, "lines of the log are not events"),
        (standing.warnings, "warnings"),
    ] {
        if count > 0 {
            writeln!(text, "also    {count} {what}")?;
        }
    }
    Ok(())
}
