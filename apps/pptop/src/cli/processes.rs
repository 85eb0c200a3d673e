//! A run whose ranks are processes, which `mpirun` or `srun` has started.

mod map;

use std::env;
use std::time::Duration;

use pp_train::InWorld;

use super::CliError;
use super::help::headings;
use super::stalls::seconds;

pub(crate) use map::map;

/// How long a process may be silent before it counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// How messages between ranks travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Transport {
    /// Ranks are threads of this process
    Threads,
    /// Ranks are processes that mpirun or srun starts
    Mpi,
}

/// The flags of a run in several processes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// How messages between ranks travel [default: mpi below mpirun and srun, else threads]
    #[arg(long, value_enum, help_heading = headings::PIPELINE)]
    transport: Option<Transport>,
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = headings::CHECKPOINTS, help = format!("End the run when a process has been silent for this long (mpi) [default: {}]", LOST_AFTER.as_secs()))]
    lost_after: Option<Duration>,
    /// Print which rank runs on which host and device, and start nothing
    #[arg(long, help_heading = headings::PIPELINE)]
    pub(crate) dry_run: bool,
}

/// Variables that launchers of MPI programs put into the environment of each process.
const LAUNCHERS: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "PMIX_RANK"];

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.trim().parse().ok()
}

/// Whether a launcher of MPI programs has started this process.
fn is_launched() -> bool {
    LAUNCHERS.iter().any(|variable| env::var_os(variable).is_some())
}

/// The number of processes that a launcher meant to start, and the variable that says so. Slurm's
/// number counts only in a process that `srun` has started.
fn meant() -> Option<(&'static str, u64)> {
    let slurm = env::var_os("SLURM_STEP_ID").and_then(|_| number("SLURM_NTASKS"));
    let found = [
        ("WORLD_SIZE", number("WORLD_SIZE")),
        ("SLURM_NTASKS", slurm),
        ("OMPI_COMM_WORLD_SIZE", number("OMPI_COMM_WORLD_SIZE")),
        ("PMI_SIZE", number("PMI_SIZE")),
    ];
    let found = found.into_iter().filter_map(|(name, n)| Some((name, n?)));
    found.max_by_key(|&(_, n)| n)
}

/// Whether this is another process than the first of its job, as far as the launcher tells. Its
/// words would only repeat those of the first.
pub(crate) fn is_repeating() -> bool {
    let ranks = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"];
    ranks.iter().find_map(|variable| number(variable)).is_some_and(|rank| rank > 0)
}

/// Refuses to be one of several processes that know nothing of each other.
fn refuse_strangers(processes: u64) -> Result<(), CliError> {
    let Some((variable, n)) = meant().filter(|&(_, n)| n > processes) else { return Ok(()) };
    let here = match processes {
        1 => "this process is alone".to_owned(),
        n => format!("MPI has {n} processes"),
    };
    Err(CliError::Usage(format!(
        "{variable} says {n} processes, but {here}: each would train for itself; start pptop with mpirun -np {n}, or with srun --mpi=pmix, or unset {variable}"
    )))
}

/// Refuses a command that would run once in each of several processes.
pub(crate) fn refuse_launchers(command: &str) -> Result<(), CliError> {
    match meant().filter(|&(_, n)| n > 1 && is_launched()) {
        None => Ok(()),
        Some((_, n)) => Err(CliError::Usage(format!(
            "{command} runs in one process, and a launcher has started {n}; start it without mpirun or srun"
        ))),
    }
}

impl ProcessArgs {
    /// Joins the processes of this job, if a launcher has started several.
    ///
    /// # Errors
    /// [`CliError::Usage`] if they cannot be joined, with the remedy.
    pub(crate) fn join(&self) -> Result<Option<Joined>, CliError> {
        match self.transport {
            Some(Transport::Threads) => {
                refuse_strangers(1)?;
                Ok(None)
            }
            None if !is_launched() => {
                refuse_strangers(1)?;
                Ok(None)
            }
            None | Some(Transport::Mpi) => self.join_mpi(),
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn join_mpi(&self) -> Result<Option<Joined>, CliError> {
        let _ = self.lost_after;
        if self.transport.is_none() && meant().is_none_or(|(_, n)| n <= 1) {
            return Ok(None);
        }
        let message = "this pptop was built without MPI; build it with --features mpi, or leave mpirun, srun and --transport mpi out";
        Err(CliError::Usage(message.to_owned()))
    }

    #[cfg(feature = "mpi")]
    fn join_mpi(&self) -> Result<Option<Joined>, CliError> {
        use pp_train::causes;

        let silence = self.lost_after.unwrap_or(LOST_AFTER);
        if silence < Duration::from_secs(1) {
            let message = "--lost-after: processes say every 0.1 s that they are there; use a number of seconds from 1 on";
            return Err(CliError::Usage(message.to_owned()));
        }
        let session = pp_mpi::Session::begin(silence);
        let session = session.map_err(|error| CliError::Failed(causes(&error)))?;
        let joined = Joined { session: Some(session) };
        let size = joined.world().0.size();
        if let Err(refused) = refuse_strangers(u64::from(size)) {
            return joined.end(Err(refused), false).map(|()| None);
        }
        if size == 1 && self.transport.is_none() {
            joined.end(Ok(()), true)?;
            return Ok(None);
        }
        Ok(Some(joined))
    }
}

/// This process among those of its job.
pub(crate) struct Joined {
    #[cfg(feature = "mpi")]
    session: Option<pp_mpi::Session>,
    #[cfg(not(feature = "mpi"))]
    never: std::convert::Infallible,
}

#[cfg(not(feature = "mpi"))]
impl Joined {
    pub(crate) fn world(&self) -> InWorld {
        match self.never {}
    }

    pub(crate) fn about(&self) -> String {
        match self.never {}
    }

    pub(crate) fn end(self, _: Result<(), CliError>, _: bool) -> Result<(), CliError> {
        match self.never {}
    }
}

#[cfg(feature = "mpi")]
impl Joined {
    /// The processes of the job.
    pub(crate) fn world(&self) -> InWorld {
        match &self.session {
            Some(session) => InWorld(session.world()),
            None => unreachable!("the session is taken by `end`, which takes all of it"),
        }
    }

    /// The processes, their hosts and the library, in one line.
    pub(crate) fn about(&self) -> String {
        let InWorld(world) = self.world();
        let mut hosts = world.hosts().to_vec();
        hosts.dedup();
        let library = self.session.as_ref().and_then(|session| session.library().ok());
        let hosts =
            if hosts.len() == 1 { String::new() } else { format!("{} hosts, ", hosts.len()) };
        let library = library.unwrap_or_else(|| "MPI".to_owned());
        format!("transport mpi: {} processes, {hosts}{library}", world.size())
    }

    /// Ends this process's part of the job with the result of its command. `together` says that all
    /// processes end at the same time; otherwise this one ends them all.
    ///
    /// # Errors
    /// That of the command, if all end together.
    pub(crate) fn end(
        mut self,
        ended: Result<(), CliError>,
        together: bool,
    ) -> Result<(), CliError> {
        let InWorld(world) = self.world();
        let Some(session) = self.session.take() else { return ended };
        if together {
            let Err(error) = session.end() else { return ended };
            let lost = format!("the run is over, but its processes cannot end together: {error}");
            let _ = super::exit(Err(CliError::Failed(lost)));
            world.abort(1)
        }
        // Process 0 is told what was wrong. It writes down the end of the run, after a checkpoint that
        // is being written, and then ends all.
        let leads = world.index() == 0;
        if !leads {
            if let (Err(CliError::Usage(why) | CliError::Failed(why)), None) =
                (&ended, world.trouble())
            {
                world.fail(why.clone().into_bytes());
            }
            while !is_lost(world.as_ref()) {
                std::thread::sleep(Duration::from_millis(20));
            }
            // Without process 0 all say the same: the next one says it, and ends all.
            if world.index() > 1 && is_lost(world.as_ref()) {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        let code = match &ended {
            Err(CliError::Usage(_)) => 2,
            Ok(()) | Err(CliError::Failed(_)) => 1,
            Err(CliError::Code(code)) => i32::from(*code),
        };
        let host = world.hosts().get(world.index() as usize).cloned().unwrap_or_default();
        let _ = super::exit(match ended {
            Err(CliError::Usage(text)) if !leads => {
                Err(CliError::Usage(format!("on {host}: {text}")))
            }
            Err(CliError::Failed(text)) if !leads => {
                Err(CliError::Failed(format!("on {host}: {text}")))
            }
            ended => ended,
        });
        // The output of this process is on its way through the launcher.
        std::thread::sleep(Duration::from_millis(100));
        world.abort(code)
    }
}

/// Whether process 0 is gone, so that it can say nothing.
#[cfg(feature = "mpi")]
fn is_lost(world: &dyn pp_train::World) -> bool {
    matches!(world.trouble(), Some(pp_train::Trouble::Lost { index: 0, .. }))
}
