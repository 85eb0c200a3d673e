//! What the commands about schedules share: sizes, costs, and a plan by name or from a file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use pp_schedule::{
    CSV_BYTES_MAX, Costs, RankShare, ScheduleError, ScheduleName, Sizes, ValidPlan, import_csv,
};

use super::CliError;
use super::refusal::excerpt;

/// A count of at least one.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    let refused = || format!("accepted: a whole number from 1 to {}", u32::MAX);
    text.parse::<u32>().ok().filter(|&count| count > 0).ok_or_else(refused)
}

/// A time, a latency or a part: any finite number of at least zero.
pub(crate) fn cost(text: &str) -> Result<f64, String> {
    let refused = || "accepted: a finite number of at least 0".to_owned();
    text.parse::<f64>().ok().filter(|cost| cost.is_finite() && *cost >= 0.0).ok_or_else(refused)
}

/// A plan: a schedule by name with its sizes, or a CSV file that brings its own.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// A schedule (naive gpipe 1f1b interleaved-1f1b) or a CSV file, a line a rank, of cells such as 0F0,0F1,0B0
    #[arg(value_name = "NAME|FILE")]
    pub(crate) plan: String,
    /// Ranks along the pipeline
    #[arg(long, visible_aliases = ["stages", "ranks"], value_name = "P", value_parser = count)]
    pub(crate) pp: Option<u32>,
    /// Micro-batches of one step
    #[arg(long, value_name = "M", value_parser = count)]
    pub(crate) micro_batches: Option<u32>,
    /// Stages on each rank [default: 2 for interleaved-1f1b, else 1]
    #[arg(long, value_name = "V", value_parser = count)]
    pub(crate) virtual_stages: Option<u32>,
    /// Micro-batches that pass through one chunk before the next has its turn [default: P where that fits]
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) interleave_group: Option<u32>,
}

impl PlanArgs {
    /// The plan, validated.
    pub(crate) fn plan(&self) -> Result<ValidPlan, CliError> {
        self.load().map_err(|error| match error {
            PlanError::Refused(refused) => self.told(&refused),
            PlanError::Input(failed) => failed,
        })
    }

    /// How the refusal of this plan reads: a file's has its name in front.
    pub(crate) fn told(&self, refused: &ScheduleError) -> CliError {
        let is_file = self.plan.parse::<ScheduleName>().is_err();
        let name = if is_file { format!("{}: ", excerpt(&self.plan)) } else { String::new() };
        CliError::Usage(format!("{name}{refused}"))
    }

    /// The plan, validated, for those who want to know why it was refused.
    pub(crate) fn load(&self) -> Result<ValidPlan, PlanError> {
        match self.plan.parse::<ScheduleName>() {
            Ok(name) => self.generate(name),
            Err(unknown) => {
                let path = Path::new(&self.plan);
                let is_file_name =
                    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
                if !is_file_name && !path.exists() {
                    return Err(PlanError::Input(CliError::Usage(format!(
                        "{unknown}, or a CSV file that exists"
                    ))));
                }
                self.import(path)
            }
        }
    }

    fn generate(&self, name: ScheduleName) -> Result<ValidPlan, PlanError> {
        let needed = |flag: &str, what: &str| {
            CliError::Usage(format!(
                "{name} needs {flag}, the number of {what}; accepted: 1 or more, for example {flag} 8"
            ))
        };
        let sizes = Sizes {
            n_ranks: self.pp.ok_or_else(|| needed("--pp", "ranks"))?,
            n_micro_batches: self
                .micro_batches
                .ok_or_else(|| needed("--micro-batches", "micro-batches"))?,
            n_virtual_stages: self.virtual_stages.unwrap_or(name.default_virtual_stages()),
            interleave_group: self.interleave_group,
        };
        name.check(&sizes)?;
        fits_in_memory(name, &sizes)?;
        Ok(name.generate(&sizes)?)
    }

    fn import(&self, path: &Path) -> Result<ValidPlan, PlanError> {
        if let Some(group) = self.interleave_group {
            let message = format!(
                "{} is a file, which --interleave-group {group} cannot change; accepted: a schedule by name",
                excerpt(&self.plan)
            );
            return Err(PlanError::Input(CliError::Usage(message)));
        }
        let bytes = read(path, CSV_BYTES_MAX)?;
        let plan = import_csv(&self.plan, &bytes, self.micro_batches)?;
        let sizes = [
            ("--pp", self.pp, plan.n_ranks()),
            ("--virtual-stages", self.virtual_stages, plan.n_virtual_stages()),
        ];
        for (flag, given, own) in sizes {
            if let Some(given) = given.filter(|&given| given != own) {
                let message = format!(
                    "{} has {own} where {flag} {given} was given; accepted: {flag} {own}, or none",
                    excerpt(&self.plan)
                );
                return Err(PlanError::Input(CliError::Usage(message)));
            }
        }
        Ok(plan)
    }
}

/// Why there is no plan.
#[derive(Debug)]
pub(crate) enum PlanError {
    /// It could be read, and breaks a rule or has an impossible size.
    Refused(ScheduleError),
    /// It could not be read, or the flags contradict it.
    Input(CliError),
}

impl From<ScheduleError> for PlanError {
    fn from(refused: ScheduleError) -> Self {
        Self::Refused(refused)
    }
}

impl From<CliError> for PlanError {
    fn from(failed: CliError) -> Self {
        Self::Input(failed)
    }
}

const COSTS_HELP: &str = "Costs of every stage as JSON: {\"forward\":[n],\"input_grad\":[n],\"weight_grad\":[n],\
    \"comm\":x or [[p×p]],\"activation\":[n],\"residue\":[n]}, the last three optional";

/// What ops and messages cost: per rank share, or per stage from a file.
#[derive(Debug, clap::Args)]
pub(crate) struct CostArgs {
    /// Time of F over everything that a rank holds [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    forward: Option<f64>,
    /// Time of I, the gradient of the input [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    input_grad: Option<f64>,
    /// Time of W, the gradient of the weights; B = I + W [default: 1]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    weight_grad: Option<f64>,
    /// Latency of a message between two ranks [default: 0]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    comm: Option<f64>,
    /// The part of an activation that stays between I and W [default: 1]
    #[arg(long, value_name = "PART", value_parser = cost)]
    weight_grad_residue: Option<f64>,
    /// Time of an overlapped pair of F and B [default: F + I + W]
    #[arg(long, value_name = "TIME", value_parser = cost)]
    overlap_cost: Option<f64>,
    /// The most that a rank may hold, in activations of its whole share
    #[arg(long, value_name = "L", value_parser = cost)]
    memory_limit: Option<f64>,
    /// A file of costs.
    #[arg(long, value_name = "FILE", help = COSTS_HELP, conflicts_with_all = ["forward", "input_grad", "weight_grad", "comm", "weight_grad_residue", "overlap_cost", "memory_limit"])]
    costs: Option<PathBuf>,
}

impl CostArgs {
    /// The costs of each stage of a plan.
    pub(crate) fn load(&self, plan: &ValidPlan) -> Result<Costs, CliError> {
        const COSTS_BYTES_MAX: usize = 1 << 28;
        let Some(path) = &self.costs else {
            let unit = RankShare::default();
            let share = RankShare {
                forward: self.forward.unwrap_or(unit.forward),
                input_grad: self.input_grad.unwrap_or(unit.input_grad),
                weight_grad: self.weight_grad.unwrap_or(unit.weight_grad),
                overlapped: self.overlap_cost,
                comm: self.comm.unwrap_or(unit.comm),
                residue: self.weight_grad_residue.unwrap_or(unit.residue),
                memory_limit: self.memory_limit,
            };
            return Ok(Costs::per_rank_share(plan.topology(), &share));
        };
        let name = excerpt(&path.display().to_string());
        let bytes = read(path, COSTS_BYTES_MAX)?;
        let text = String::from_utf8(bytes).map_err(|refused| {
            let offset = refused.utf8_error().valid_up_to();
            CliError::Usage(format!("{name}: byte {offset} is no text; accepted: JSON with forward, input_grad and weight_grad"))
        })?;
        Costs::from_json(&text, plan.topology()).map_err(|refused| {
            let refused = refused.to_string();
            let known = if refused.contains("accepted") {
                ""
            } else {
                "; accepted: JSON with forward, input_grad and weight_grad"
            };
            CliError::Usage(format!("{name}: {refused}{known}"))
        })
    }
}

/// A whole file, unless it is longer than `bytes_max`.
fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, CliError> {
    let refused = |why: &dyn std::fmt::Display| {
        CliError::Usage(format!(
            "cannot read {}: {why}; accepted: a file that can be read",
            excerpt(&path.display().to_string())
        ))
    };
    let file = std::fs::File::open(path).map_err(|failed| refused(&failed))?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(|failed| refused(&failed))?;
    if bytes.len() > bytes_max {
        return Err(refused(&format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Whether a plan of these sizes, with its simulation, fits into the memory that is free now. Where the system does not say how
/// much that is, every size passes.
pub(crate) fn fits_in_memory(name: ScheduleName, sizes: &Sizes) -> Result<(), CliError> {
    /// A cell in its row, its times, and its part of the tables by stage and micro-batch.
    const BYTES_AN_OP: u128 = 96;
    let &Sizes { n_ranks, n_micro_batches, n_virtual_stages, .. } = sizes;
    let n_stages = n_ranks.saturating_mul(n_virtual_stages);
    let n_ops = name.n_ops_at_most(n_stages, n_micro_batches);
    match memory_available().map(u128::from) {
        Some(available) if n_ops * BYTES_AN_OP > available => Err(CliError::Usage(format!(
            "p={n_ranks}, m={n_micro_batches}, v={n_virtual_stages} make {n_ops} ops, which need about {} MiB; {} MiB are free; accepted: at most {} ops",
            (n_ops * BYTES_AN_OP) >> 20,
            available >> 20,
            available / BYTES_AN_OP
        ))),
        _ => Ok(()),
    }
}

pub(crate) fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.saturating_mul(1024);
    // A container may have less than the machine.
    let number = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    // What it holds of files is given back when it is wanted.
    let files = || {
        let text = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").ok()?;
        text.lines().find_map(|line| line.strip_prefix("file "))?.trim().parse::<u64>().ok()
    };
    let used = || number("current").unwrap_or(0).saturating_sub(files().unwrap_or(0));
    let left = number("max").map(|most| most.saturating_sub(used()));
    Some(left.map_or(free, |left| free.min(left)))
}
