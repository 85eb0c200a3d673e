//! `pptop collect`: the files of a job's ranks as one log.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use pp_telemetry::{EVENTS_FILE, Event, Follower, LogFile, Run, Taken, WholeFile};

use super::endings::Content;
use super::output::{Output, write_failed};
use super::outputs::Files;
use super::refusal::excerpt;
use super::which::find;
use super::{CliError, note, print};

/// How long files that have just been written may still grow before what is there is taken.
const PATIENCE: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which job, and where its log goes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder of per-rank files; if it holds several jobs, a file of the job that is meant
    #[arg(value_name = "FOLDER|FILE")]
    job: OsString,
    /// File to write; - is standard output (default: events.jsonl in the folder)
    #[arg(short, long, value_name = "FILE|-")]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let found = find(&args.job)?;
    let name = excerpt(&found.log.display().to_string());
    if !found.has_ranks() {
        return Err(CliError::Usage(format!(
            "{name} is one log already; name a folder with a file for each rank"
        )));
    }
    let Some(path) = &args.output else {
        return into_folder(&found, args.force);
    };
    let mut files = Files::new(args.force);
    files.input("the job", &found.log);
    files.output("-o", path, Content::Log)?;
    files.check()?;
    let output = Output::to(path, args.force)?;
    let (output, _) = collect(&found, &found.id, output)?;
    output.finish(path)
}

/// The default: the log takes its place beside the files, and stands for them from then on.
fn into_folder(run: &Run, force: bool) -> Result<(), CliError> {
    if run.standing().is_alive() {
        return Err(CliError::Usage(
            "the job is still running; collect it when it has ended, or name a file with -o for what there is now"
                .to_owned(),
        ));
    }
    let path = run.dir.join(EVENTS_FILE);
    let failed = |error: &dyn std::fmt::Display| {
        CliError::Failed(format!("cannot write {}: {error}", excerpt(&path.display().to_string())))
    };
    let file = WholeFile::private(&path).map_err(|error| failed(&error))?;
    let (file, n_steps) = collect(run, &run.id, file)?;
    let path = file
        .finish(if force { Taken::Replaced } else { Taken::Stays })
        .map_err(|error| failed(&error))?;
    print(&format!("{}  {n_steps} steps\n", path.display()))
}

/// Writes the log of a job under this id; gives how many steps it has.
pub(super) fn collect<W: Write>(run: &Run, id: &str, into: W) -> Result<(W, u64), CliError> {
    let mut log = LogFile::new(into);
    let mut follower = Follower::new(&run.log);
    let (mut n_steps, mut has_hello, mut is_over, mut failed) = (0, false, false, None);
    let age = SystemTime::now().duration_since(run.modified).unwrap_or_default();
    let until = Instant::now() + PATIENCE.saturating_sub(age);
    loop {
        let poll = follower
            .poll(|event| {
                n_steps += u64::from(matches!(event, Event::Step(_)));
                has_hello |= matches!(event, Event::Hello(_));
                is_over |= matches!(event, Event::End(_));
                let event = match event {
                    Event::Hello(mut hello) => {
                        id.clone_into(&mut hello.run);
                        Event::Hello(hello)
                    }
                    other => other,
                };
                if failed.is_none() {
                    failed = log.push(&event).err();
                }
            })
            .map_err(|error| CliError::Usage(error.with_remedy()))?;
        if let Some(failed) = failed {
            return Err(write_failed(&failed));
        }
        if poll.at_end {
            if is_over || Instant::now() >= until {
                break;
            }
            sleep(LOOK_EVERY);
        }
    }
    if !has_hello {
        let name = excerpt(&run.log.display().to_string());
        return Err(CliError::Usage(format!("{name} has no whole step yet; wait for one")));
    }
    let (into, n_left_out) = log.finish().map_err(|failed| write_failed(&failed))?;
    if n_left_out > 0 {
        note(&format!("{n_left_out} events were too long for a line and were left out"));
    }
    if follower.n_bad_lines() > 0 {
        let n_bad = follower.n_bad_lines();
        note(&format!("skipped {n_bad} lines that are not events"));
    }
    Ok((into, n_steps))
}
