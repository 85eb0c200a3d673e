//! What the commands about schedules share: sizes, and a plan by name or from a file.

use std::ffi::OsString;
use std::path::Path;

use pp_schedule::{
    CSV_BYTES_MAX, ScheduleError, ScheduleName, Sizes, ValidPlan, import_csv, simulate,
};
use pp_telemetry::memory_available;

use super::CliError;
use super::costs::CostSource;
use super::refusal::excerpt;
use super::typed::read;

/// The schedules and what they are, for `--help`.
pub(crate) fn schedules_help() -> String {
    list(|_| true)
}

/// Those of the schedules that `is_listed` chooses, for `--help`.
pub(crate) fn list(is_listed: fn(ScheduleName) -> bool) -> String {
    let line = |name: ScheduleName| format!("\n  {:<18} {}", name.as_str(), name.about());
    let lines: String =
        ScheduleName::ALL.into_iter().filter(|&name| is_listed(name)).map(line).collect();
    format!("Schedules:{lines}")
}

/// A count of at least one.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    let refused = || format!("use a whole number from 1 to {}", u32::MAX);
    text.parse::<u32>().ok().filter(|&count| count > 0).ok_or_else(refused)
}

/// A whole number, zero included.
pub(crate) fn natural(text: &str) -> Result<u64, String> {
    text.parse::<u64>().map_err(|_| format!("use a whole number from 0 to {}", u64::MAX))
}

/// A plan: a schedule by name with its sizes, or a CSV file that brings its own.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// Schedule by name (see below), or a CSV file with one line per rank, of cells such as
    /// 0F0,0F1,0B0
    #[arg(value_name = "NAME|FILE")]
    pub(crate) plan: OsString,
    /// Ranks along the pipeline
    #[arg(long, visible_aliases = ["stages", "ranks"], value_name = "P", value_parser = count)]
    pub(crate) pp: Option<u32>,
    /// Micro-batches of one step
    #[arg(long, value_name = "M", value_parser = count)]
    pub(crate) micro_batches: Option<u32>,
    /// Virtual stages on each rank [default: 2 for schedules with several stages per rank, else 1;
    /// auto chooses]
    #[arg(long, value_name = "V", value_parser = count)]
    pub(crate) virtual_stages: Option<u32>,
    /// Micro-batches that pass through one chunk before the next chunk runs [default: P if that
    /// fits]
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) interleave_group: Option<u32>,
}

impl PlanArgs {
    /// How many ops a schedule by name makes at most of these sizes; 0 where that is not known
    /// before.
    pub(crate) fn n_ops_at_most(&self) -> u128 {
        let (Ok(name), Some(n_ranks), Some(n_micro_batches)) =
            (self.named(), self.pp, self.micro_batches)
        else {
            return 0;
        };
        let v = self.virtual_stages.unwrap_or_else(|| name.default_virtual_stages());
        name.n_ops_at_most(n_ranks.saturating_mul(v), n_micro_batches)
    }

    /// The file, where it is no name of a schedule.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.named().is_err().then(|| Path::new(&self.plan))
    }

    fn named(&self) -> Result<ScheduleName, ScheduleError> {
        self.plan.to_string_lossy().parse()
    }

    /// As it stands in a message.
    fn shown(&self) -> String {
        excerpt(&self.plan.to_string_lossy())
    }

    /// The plan, validated. A schedule that follows from costs is made for these.
    pub(crate) fn plan(&self, costs: &CostSource) -> Result<ValidPlan, CliError> {
        self.load(costs).map_err(|error| match error {
            PlanError::Refused(refused) => self.told(&refused),
            PlanError::Input(failed) => failed,
        })
    }

    /// How the refusal of this plan reads: a file's has its name in front.
    pub(crate) fn told(&self, refused: &ScheduleError) -> CliError {
        let name = self.file().map_or_else(String::new, |_| format!("{}: ", self.shown()));
        CliError::Usage(format!("{name}{refused}"))
    }

    /// The validated plan. The error keeps the reason of a refusal.
    pub(crate) fn load(&self, costs: &CostSource) -> Result<ValidPlan, PlanError> {
        match self.named() {
            Ok(name) => self.generate(name, costs),
            Err(unknown) => {
                let path = Path::new(&self.plan);
                let is_file_name =
                    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
                if !is_file_name && !path.exists() {
                    return Err(PlanError::Input(CliError::Usage(format!(
                        "{unknown}; or name a CSV file that exists"
                    ))));
                }
                self.import(path)
            }
        }
    }

    fn generate(&self, name: ScheduleName, costs: &CostSource) -> Result<ValidPlan, PlanError> {
        let needed = |flag: &str, what: &str| {
            CliError::Usage(format!(
                "{name} needs {flag}, the number of {what}; add it, for example {flag} 8"
            ))
        };
        let n_ranks = self.pp.ok_or_else(|| needed("--pp", "ranks"))?;
        let n_micro_batches =
            self.micro_batches.ok_or_else(|| needed("--micro-batches", "micro-batches"))?;
        let plan = |n_virtual_stages: u32| {
            let interleave_group = self.interleave_group;
            let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group };
            name.check(&sizes)?;
            fits_in_memory(name, &sizes)?;
            Ok::<_, PlanError>(name.generate_for(&sizes, &|topology| costs.of(topology))?)
        };
        // As many stages as a file of costs has, where the schedule takes that many.
        let takes = |&n_virtual_stages: &u32| {
            let interleave_group = self.interleave_group;
            let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group };
            !matches!(name.check(&sizes), Err(ScheduleError::VirtualStages { .. }))
        };
        let given = self.virtual_stages.or_else(|| costs.virtual_stages(n_ranks).filter(takes));
        match given {
            Some(n_virtual_stages) => plan(n_virtual_stages),
            // Left to choose, it takes the faster of one stage a rank and two.
            None if name == ScheduleName::Auto => {
                let (one, two) = (plan(1)?, plan(2)?);
                let time = |plan: &ValidPlan| {
                    Ok::<_, ScheduleError>(simulate(plan, &costs.of(plan.topology())?)?.makespan)
                };
                // More stages mean more messages: they have to be worth it.
                Ok(if time(&two)? < time(&one)? * (1.0 - 1e-9) { two } else { one })
            }
            None => plan(name.default_virtual_stages()),
        }
    }

    fn import(&self, path: &Path) -> Result<ValidPlan, PlanError> {
        if let Some(group) = self.interleave_group {
            let message = format!(
                "--interleave-group {group} does not apply to {}, a plan in a file; leave it out, or name a schedule",
                self.shown()
            );
            return Err(PlanError::Input(CliError::Usage(message)));
        }
        let bytes = read(path, CSV_BYTES_MAX)?;
        let plan = import_csv(&self.plan.to_string_lossy(), &bytes, self.micro_batches)?;
        let sizes = [
            ("--pp", self.pp, plan.n_ranks()),
            ("--virtual-stages", self.virtual_stages, plan.n_virtual_stages()),
        ];
        for (flag, given, own) in sizes {
            if let Some(given) = given.filter(|&given| given != own) {
                let message = format!(
                    "{flag} {given} contradicts {}, which has {own}; use {flag} {own}, or leave it out",
                    self.shown()
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

/// Checks that a plan of these sizes, with its simulation, fits into the free memory. If the system
/// does not report the free memory, every size passes.
pub(crate) fn fits_in_memory(name: ScheduleName, sizes: &Sizes) -> Result<(), CliError> {
    // A cell in its row, its times, and its part of the tables by stage and micro-batch; a search
    // has another plan beside its best.
    let bytes_an_op: u128 = if name.is_synthesised() { 192 } else { 96 };
    let &Sizes { n_ranks, n_micro_batches, n_virtual_stages, .. } = sizes;
    let n_stages = n_ranks.saturating_mul(n_virtual_stages);
    let n_ops = name.n_ops_at_most(n_stages, n_micro_batches);
    let what = format!("p={n_ranks}, m={n_micro_batches}, v={n_virtual_stages}");
    refuse_without_time(name, n_ops, &what)?;
    refuse_without_memory(n_ops, bytes_an_op, &what)
}

/// Ops of the plans that one command makes at most: some seconds.
pub(crate) const OPS_MAX: u128 = 20_000_000;

/// How many times as long as an op of `1f1b` one of this schedule takes, about: a search tries many
/// plans.
pub(crate) fn work_an_op(name: ScheduleName) -> u128 {
    match name {
        ScheduleName::Auto => 30,
        ScheduleName::ZbAuto => 12,
        ScheduleName::Hanayo => 6,
        ScheduleName::VHalf | ScheduleName::VMin => 2,
        _ => 1,
    }
}

/// Checks that a plan of so many ops is made within some seconds.
fn refuse_without_time(name: ScheduleName, n_ops: u128, what: &str) -> Result<(), CliError> {
    let most = OPS_MAX / work_an_op(name);
    if n_ops <= most {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{what}: {n_ops} ops are too many for one command, which takes at most {most} of {name}; use fewer ranks or micro-batches"
    )))
}

/// Whether so many ops find room in the memory that is free now.
pub(crate) fn refuse_without_memory(
    n_ops: u128,
    bytes_an_op: u128,
    what: &str,
) -> Result<(), CliError> {
    match memory_available().map(u128::from) {
        Some(available) if n_ops * bytes_an_op > available => Err(CliError::Usage(format!(
            "{what}: {n_ops} ops need about {} MiB, but {} MiB are free; use at most {} ops",
            (n_ops * bytes_an_op) >> 20,
            available >> 20,
            available / bytes_an_op
        ))),
        _ => Ok(()),
    }
}
