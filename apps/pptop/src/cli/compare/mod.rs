//! `pptop compare`: the same job under several schedules, in turns, and one table.

mod columns;
mod sheet;
mod table;

use std::collections::HashMap;
use std::time::Instant;

use pp_schedule::{Costs, ScheduleName, Simulation, simulate};
use pp_telemetry::{Nonfinite, Recorder, Span, SpanKind, cores};
use pp_train::{Chosen, OnNonfinite, Profiles, Session, StepOutcome, Trainer, causes, limits};
use serde::Serialize;
use serde_json::json;

use super::bubble::notebook_figure;
use super::help::headings;
use super::job::{JobArgs, Spec};
use super::learned::{Goal, Verdict, learned};
use super::refusal::excerpt;
use super::story::{median, quantile};
use super::{CliError, print, print_json};
use sheet::Format;

/// Each row trains its steps in so many turns, so that a machine that slows down slows down all.
const ROUNDS: u64 = 3;

/// What to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Schedules to compare, separated by commas; all takes every schedule that fits the sizes
    /// [default: naive,gpipe,1f1b,interleaved-1f1b]
    #[arg(
        long,
        visible_alias = "schedule",
        value_name = "S",
        value_delimiter = ',',
        display_order = 3
    )]
    schedules: Vec<String>,
    /// Format of the table
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Show all columns: sizes, mean and p95, loss and verdict, every bubble number, memory of each
    /// rank
    #[arg(long)]
    wide: bool,
    /// Print one JSON object with everything
    #[arg(long, conflicts_with_all = ["format", "wide"])]
    json: bool,
}

/// The flags of a comparison that matter first are not all those of a run.
pub(crate) fn grouped(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| match arg.get_id().as_str() {
        "dp" | "device" => arg.help_heading(headings::PIPELINE),
        "lr" => arg.help_heading(headings::OPTIMIZER),
        _ => arg,
    })
}

/// One number by formula, by simulation from measured op times, and as measured.
#[derive(Debug, Serialize)]
struct Three {
    closed_form: Option<f64>,
    simulated: Option<f64>,
    measured: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Memory {
    rank: u32,
    live_bytes: u64,
    mean_bytes: u64,
    peak_bytes: u64,
    /// Bytes that an allocator keeps for a device beyond live tensors; a CPU rank has no cache.
    reserved_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Row {
    label: String,
    baseline: bool,
    schedule: String,
    pp: u32,
    dp: u32,
    virtual_stages: u32,
    micro_batches: u32,
    step_seconds_mean: f64,
    step_seconds_median: f64,
    step_seconds_p95: f64,
    samples_per_second: f64,
    speedup: Option<f64>,
    final_loss: Option<f64>,
    /// Which value the final loss is, where JSON has no number for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    nonfinite: Option<Nonfinite>,
    /// Against the row "one device"; of no meaning for another number of micro-batches.
    loss_bits_equal: Option<bool>,
    verdict: Verdict,
    /// The verdict in a word: converged, improved, flat, worse or diverged.
    outcome: &'static str,
    /// From the first loss to the last tenth of them, as a part of the first.
    loss_change: Option<f64>,
    bubble_ratio: Three,
    bubble_overhead: Three,
    span_bubble: Three,
    bubble_notebook: Option<f64>,
    bubble_notebook_definition: Option<&'static str>,
    memory: Vec<Memory>,
}

/// A schedule to compare.
struct Wanted {
    schedule: String,
    /// It is left out where it does not take the job's sizes.
    may_miss: bool,
}

/// A row while it trains.
struct Entry {
    label: String,
    baseline: bool,
    spec: Spec,
    session: Session,
    trainer: Trainer,
    outcomes: Vec<StepOutcome>,
}

/// A row before it trains.
struct Prepared {
    label: String,
    baseline: bool,
    spec: Spec,
    session: Session,
}

/// What the rows are compared with: the row "one device".
struct Base {
    seconds: f64,
    bits: Vec<u32>,
    micro_batches: u64,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    super::processes::refuse_launchers("compare")?;
    let started = Instant::now();
    let is_all = args.schedules.iter().any(|name| name == ALL);
    let mut schedules: Vec<Wanted> = Vec::new();
    if is_all {
        let all = ScheduleName::ALL.into_iter().filter(|name| name.trains());
        schedules.extend(all.map(|name| Wanted { schedule: name.to_string(), may_miss: true }));
    } else if args.schedules.is_empty() {
        let own = ScheduleName::NOTEBOOK.into_iter();
        schedules.extend(own.map(|name| Wanted { schedule: name.to_string(), may_miss: false }));
    }
    for name in args.schedules.iter().filter(|name| *name != ALL) {
        // What was named has to be there.
        schedules.retain(|wanted| wanted.schedule != *name || !wanted.may_miss);
        schedules.push(Wanted { schedule: name.clone(), may_miss: false });
    }
    // All rows are checked before the first one trains.
    let sessions = sessions(args, &schedules)?;
    // They are all held at the same time.
    let (mut parameters, mut ranks) = (0_u128, 0_u32);
    for Prepared { spec, session, .. } in &sessions {
        parameters += session.parameters().map_err(|error| spec.told(&error))?;
        ranks = ranks.saturating_add(session.plan().n_ranks().saturating_mul(spec.config.dp));
    }
    if let Some(Prepared { spec, .. }) = sessions.first() {
        limits::parameters(parameters, 1).map_err(|error| spec.told(&error))?;
        limits::threads(ranks, 1).map_err(|error| spec.told(&error))?;
    }
    let mut entries = Vec::with_capacity(sessions.len());
    for Prepared { label, baseline, spec, mut session } in sessions {
        let trainer = session
            .trainer(Recorder::disabled(), Instant::now())
            .map_err(|error| spec.told(&error))?
            // A loss that is not finite is an outcome to compare.
            .on_nonfinite(OnNonfinite::Continue);
        entries.push(Entry { label, baseline, spec, session, trainer, outcomes: Vec::new() });
    }
    for round in 0..ROUNDS {
        for entry in &mut entries {
            entry.turn(round)?;
        }
        let done = started.elapsed().as_secs_f64();
        note(&format!("round {} of {ROUNDS} done after {done:.1} s", round + 1));
    }
    let Some(base) = entries.iter().find(|e| e.label == ONE_DEVICE) else {
        return Err(CliError::Failed("the base row is missing".to_owned()));
    };
    let base = Base {
        seconds: median(&base.seconds()),
        bits: base.bits(),
        micro_batches: base.all_micro_batches(),
    };
    let rows: Vec<Row> = entries.iter().map(|entry| entry.row(&base)).collect::<Result<_, _>>()?;
    if args.json {
        let config = &entries[0].spec.config;
        let job = json!({
            "model": config.workload.name(),
            "steps": config.steps,
            "batch_size": entries[0].session.batch_size(),
            "seed": config.seed,
            "optimizer": config.optimizer.to_string(),
            "lr": config.rate.peak,
            "clip_norm": config.clip_norm,
            "parameters": entries[0].trainer.stages().iter().map(|s| s.parameters).sum::<u64>(),
        });
        return print_json(&json!({"job": job, "cores": cores(), "rounds": ROUNDS, "rows": rows}));
    }
    print(&table::table(&rows, &entries[0].spec, &entries[0].session, args.format, args.wide))
}

/// The word for every schedule that takes the sizes.
const ALL: &str = "all";

const ONE_DEVICE: &str = "one device";
const WHOLE_BATCH: &str = "naive m=1";

/// The rows, the two base rows last: without them a table of schedules misleads.
fn sessions(args: &Args, schedules: &[Wanted]) -> Result<Vec<Prepared>, CliError> {
    for (flag, given) in
        [("--eval-every", args.job.eval_every.is_some()), ("--spans", args.job.spans.is_some())]
    {
        if given {
            let message = format!(
                "compare neither evaluates nor records, so {flag} has no effect; leave {flag} out"
            );
            return Err(CliError::Usage(message));
        }
    }
    let synthesised =
        |wanted: &Wanted| wanted.schedule.parse().is_ok_and(ScheduleName::is_synthesised);
    if args.job.memory_limit.is_some() && !schedules.iter().any(synthesised) {
        let message = "--memory-limit applies only to zb-auto and auto, and neither is compared; add one of them to --schedules, or leave --memory-limit out";
        return Err(CliError::Usage(message.to_owned()));
    }
    let specs = schedules
        .iter()
        .map(|Wanted { schedule, .. }| {
            let spec = Spec::new(&args.job, schedule)?;
            Ok(match spec.config.named() {
                // A schedule takes only the flags that it knows.
                Some(name) => spec.with_schedule(name),
                None => spec,
            })
        })
        .collect::<Result<Vec<Spec>, CliError>>()?;
    let default_pp = |spec: &Spec| spec.config.default_pp();
    // One number of ranks for all: the largest that every schedule has layers for.
    let pp = args.job.pp.or_else(|| specs.iter().filter_map(default_pp).min());
    let mut found = Vec::new();
    let mut profiles = Profiles::default();
    for (Wanted { schedule, may_miss }, mut spec) in schedules.iter().zip(specs) {
        // A plan from a file brings its own.
        if default_pp(&spec).is_some() {
            spec.config.pp = pp;
        }
        match spec.session(&mut profiles) {
            Ok(session) => {
                found.push(Prepared { label: schedule.clone(), baseline: false, spec, session });
            }
            Err(CliError::Usage(why)) if *may_miss => {
                note(&format!("left out: {}", of_row(schedule, &why)));
            }
            Err(CliError::Usage(why)) => return Err(CliError::Usage(of_row(schedule, &why))),
            Err(other) => return Err(other),
        }
    }
    let Some(first) = found.first() else {
        return Err(CliError::Usage(
            "no schedule to compare; name some with --schedules a,b,…".to_owned(),
        ));
    };
    let (n_ranks, n_micro_batches) =
        (first.session.plan().n_ranks(), first.session.plan().n_micro_batches());
    // A plan from a file is that of its own row.
    let mut base = first.spec.with_schedule(ScheduleName::Naive);
    base.config.batch_size = Some(first.session.batch_size());
    let mut one = base.clone();
    one.config.pp = Some(1);
    one.config.micro_batches = n_micro_batches.saturating_mul(one.config.dp);
    one.config.dp = 1;
    let mut whole = base;
    whole.config.pp = Some(n_ranks);
    whole.config.micro_batches = 1;
    for (label, mut spec) in [(ONE_DEVICE, one), (WHOLE_BATCH, whole)] {
        spec.micro_batches = Some(spec.config.micro_batches);
        if let Some(mut costs) = spec.config.workload.known_costs() {
            // One rank sleeps for all of them, or for all micro-batches at once.
            let factor = if label == ONE_DEVICE {
                let n_ranks = f64::from(n_ranks);
                costs.slow_rank.take().map_or(n_ranks, |(_, factor)| n_ranks - 1.0 + factor)
            } else {
                f64::from(n_micro_batches)
            };
            if let Some(other) = spec.config.workload.with_costs(costs.longer(factor)) {
                spec.config.workload = other;
            }
        }
        if matches!(spec.config.cut, pp_partition::Cut::Explicit(_)) {
            // A cut by hand is for other numbers of stages.
            spec.config.cut = pp_partition::Cut::Uniform;
        }
        let session = spec.session(&mut profiles)?;
        found.push(Prepared { label: label.to_owned(), baseline: true, spec, session });
    }
    // One choice serves all rows.
    if let Some(Err(why)) =
        found.first().and_then(|row| row.session.kernels_chosen()).map(Chosen::keep)
    {
        note(&causes(&why));
    }
    Ok(found)
}

/// Which of the rows it is that cannot be, unless the reason begins with it.
fn of_row(schedule: &str, why: &str) -> String {
    if why.starts_with(schedule) { why.to_owned() } else { format!("{}: {why}", excerpt(schedule)) }
}

fn note(text: &str) {
    super::note(text);
}

impl Entry {
    /// Trains this row's part of the steps that belong to a round.
    fn turn(&mut self, round: u64) -> Result<(), CliError> {
        let steps = self.spec.config.steps;
        let batch = self.session.batch_size() as usize;
        let data = &self.session.job().data;
        let until =
            |round: u64| (u128::from(steps) * u128::from(round) / u128::from(ROUNDS)) as u64;
        for step in until(round) + 1..=until(round + 1) {
            let outcome = self.trainer.step(step, || data.batch(step, batch));
            self.outcomes.push(
                outcome.map_err(|e| CliError::Failed(format!("{}: {}", self.label, causes(&e))))?,
            );
        }
        Ok(())
    }

    /// The first step pays for fresh memory; it does not count, unless it is all there is.
    fn counted(&self) -> &[StepOutcome] {
        if self.outcomes.len() > 1 { &self.outcomes[1..] } else { &self.outcomes }
    }

    fn seconds(&self) -> Vec<f64> {
        self.counted().iter().map(|o| o.seconds).collect()
    }

    /// Micro-batches of the whole batch.
    fn all_micro_batches(&self) -> u64 {
        u64::from(self.session.plan().n_micro_batches()) * u64::from(self.spec.config.dp)
    }

    fn bits(&self) -> Vec<u32> {
        self.outcomes.iter().map(|o| o.loss.to_bits()).collect()
    }

    fn row(&self, base: &Base) -> Result<Row, CliError> {
        let seconds = self.seconds();
        let losses: Vec<f32> = self.outcomes.iter().map(|o| o.loss).collect();
        let last = losses.last().copied().unwrap_or(f32::NAN);
        let learned = learned(&losses, Goal::of(self.session.job(), self.spec.is_seed));
        let measured = |number: fn(&StepOutcome) -> f64| {
            finite(median(&self.counted().iter().map(number).collect::<Vec<_>>()))
        };
        let form = self.session.named().and_then(|(name, sizes)| {
            pp_schedule::closed_form(name, &sizes, &pp_schedule::RankShare::default())
        });
        let simulated = self.simulated()?;
        let three = |formula: Option<f64>, simulated: f64, measured: Option<f64>| Three {
            closed_form: formula,
            simulated: finite(simulated),
            measured,
        };
        let notebook = self.session.named().and_then(|(name, sizes)| notebook_figure(name, &sizes));
        let plan = self.session.plan();
        // With another cut of the batch, or a mean over replicas, sums round otherwise.
        let same_batches = self.all_micro_batches() == base.micro_batches;
        let has_one_copy = self.spec.config.dp == 1 && plan.n_pipes() == 1;
        // A model that sleeps has layers for each stage: another number of stages is another model.
        let same_arithmetic = same_batches && has_one_copy && !self.spec.waits();
        let median_seconds = median(&seconds);
        Ok(Row {
            label: self.label.clone(),
            baseline: self.baseline,
            schedule: plan.name().to_owned(),
            pp: plan.n_ranks(),
            dp: self.spec.config.dp,
            virtual_stages: plan.n_virtual_stages(),
            micro_batches: plan.n_micro_batches(),
            step_seconds_mean: seconds.iter().sum::<f64>() / seconds.len() as f64,
            step_seconds_median: median_seconds,
            step_seconds_p95: quantile(&seconds, 0.95),
            samples_per_second: self.session.batch_size() as f64 / median_seconds,
            speedup: finite(base.seconds / median_seconds)
                .filter(|_| same_batches || self.baseline),
            final_loss: finite(f64::from(last)),
            nonfinite: Nonfinite::of(f64::from(last)),
            loss_bits_equal: same_arithmetic.then(|| self.bits() == base.bits),
            verdict: learned.verdict,
            outcome: learned.word,
            loss_change: learned.change,
            bubble_ratio: three(
                form.as_ref().map(|f| f.bubble_ratio),
                simulated.bubble_ratio,
                measured(|o| o.bubble.bubble_ratio),
            ),
            bubble_overhead: three(
                form.as_ref().map(|f| f.bubble_overhead),
                simulated.bubble_overhead,
                measured(|o| o.bubble.bubble_overhead),
            ),
            span_bubble: three(
                form.as_ref().map(|f| f.span_bubble),
                simulated.span_bubble,
                measured(|o| o.bubble.span_bubble),
            ),
            bubble_notebook: notebook.as_ref().map(|n| n.value),
            bubble_notebook_definition: notebook.as_ref().map(|n| n.definition),
            memory: self.memory(),
        })
    }

    /// The plan, simulated with the medians of this run's own op times.
    fn simulated(&self) -> Result<Simulation, CliError> {
        let n_stages = self.session.plan().n_stages() as usize;
        let mut times: HashMap<(SpanKind, u32), Vec<f64>> = HashMap::new();
        for span in self.counted().iter().flat_map(|o| &o.spans).filter(|s| s.op.is_compute()) {
            times.entry((span.op, span.stage)).or_default().push(seconds(span));
        }
        let of = |kind| -> Vec<f64> {
            let stage = |stage| times.get(&(kind, stage as u32)).map_or(0.0, |t| median(t));
            (0..n_stages).map(stage).collect()
        };
        let (whole, weight_grad) = (of(SpanKind::B), of(SpanKind::W));
        // Where a stage runs some of its backwards whole and some in halves, the halves say it all.
        let input_grad = of(SpanKind::I)
            .into_iter()
            .zip(&whole)
            .map(|(half, &whole)| if half > 0.0 { half } else { whole })
            .collect();
        let mut costs = Costs::uniform(n_stages as u32, 0.0, 0.0, 0.0, 0.0);
        costs.forward = of(SpanKind::F);
        costs.input_grad = input_grad;
        costs.weight_grad = weight_grad;
        simulate(self.session.plan(), &costs).map_err(|e| CliError::Failed(e.to_string()))
    }

    fn memory(&self) -> Vec<Memory> {
        let n = self.counted().len() as u64;
        let ranks = self.session.plan().n_ranks() * self.spec.config.dp;
        (0..ranks as usize)
            .map(|rank| {
                let of = |o: &StepOutcome| o.memory.get(rank).copied().unwrap_or_default();
                Memory {
                    rank: rank as u32,
                    live_bytes: self.outcomes.last().map_or(0, |o| of(o).live_bytes),
                    mean_bytes: self.counted().iter().map(|o| of(o).live_bytes).sum::<u64>()
                        / n.max(1),
                    peak_bytes: self.outcomes.iter().map(|o| of(o).peak_bytes).max().unwrap_or(0),
                    reserved_bytes: None,
                }
            })
            .collect()
    }
}

fn seconds(span: &Span) -> f64 {
    span.dur_ns as f64 / 1e9
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
