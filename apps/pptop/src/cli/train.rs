//! `pptop train`: trains, and shows it.
//!
//! In a terminal the run is a process of its own and this one becomes its monitor; elsewhere, or
//! with `--headless`, the run is this process and writes a line a step.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pp_models::Options;
use pp_telemetry::{EVENTS_FILE, Event, Keep, Line};
use pp_train::{
    Library, Prepared, ResultFile, Resume, Run, RunFolder, RunOptions, SAMPLE, Signals, Stopped,
    causes,
};

use super::checkpoints::{self, CheckpointArgs, ResumeArgs};
use super::endings::Content;
use super::gpus::NvmlArgs;
use super::guards::GuardArgs;
use super::help::headings;
use super::job::{JobArgs, JobWords, Spec, plan_file};
use super::outputs::Files;
use super::processes::{self, Joined, ProcessArgs};
use super::refusal::excerpt;
use super::restarts::{Launched, Supervised};
use super::run_folder;
use super::settings::{Look, ScreenFlags};
use super::sizes::natural;
use super::stalls::StallArgs;
use super::training::{Output, Teller, ended};
use super::{CliError, print};
use pptop::monitor::Watch;

/// What to train, and where the results go.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    // Before the flags that it repeats: clap takes each value out of the matches when it is read.
    #[command(flatten)]
    words: JobWords,
    #[command(flatten)]
    job: JobArgs,
    /// Schedule by name (see below), or a CSV file with a plan
    #[arg(long, value_name = "NAME|FILE.csv", default_value = "1f1b", display_order = 3)]
    schedule: OsString,
    #[command(flatten)]
    processes: ProcessArgs,
    #[command(flatten)]
    checkpoints: CheckpointArgs,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    guards: GuardArgs,
    #[command(flatten)]
    stalls: StallArgs,
    /// Start the run again from its newest checkpoint when it fails or is killed, at most N times
    #[arg(long, value_name = "N", value_parser = natural, help_heading = headings::CHECKPOINTS)]
    restarts: Option<u64>,
    /// Tells a run that a parent with --restarts waits for it, and after what it was restarted.
    #[arg(long, hide = true)]
    supervised: Option<String>,
    /// Train in this process, without a screen
    #[arg(long, help_heading = headings::RECORD)]
    headless: bool,
    /// Print one JSON object per line: hello, step, eval, warn, end (implies --headless)
    #[arg(long, help_heading = headings::RECORD)]
    json: bool,
    /// Folder for the log of the run [default: a new one below the state directory]
    #[arg(long, value_name = "DIR", help_heading = headings::RECORD)]
    run_dir: Option<PathBuf>,
    /// After training, print N bytes of generated text (gpt)
    #[arg(long, value_name = "N", value_parser = sample_bytes, help_heading = headings::RECORD)]
    sample: Option<u32>,
    /// Write the final weights to this file, by name
    #[arg(long, value_name = "FILE.safetensors", help_heading = headings::RECORD)]
    save: Option<PathBuf>,
    /// Write batch, loss, gradients and weights of the first step, to check against other programs
    #[arg(long, value_name = "FILE.safetensors", help_heading = headings::RECORD)]
    dump_step: Option<PathBuf>,
    /// Let --save and --dump-step replace existing files
    #[arg(long, help_heading = headings::RECORD)]
    force: bool,
    #[command(flatten)]
    nvml: NvmlArgs,
    #[command(flatten)]
    screen: ScreenFlags,
}

/// Bytes of a sample: each takes a pass through the model, so that more would take hours.
fn sample_bytes(text: &str) -> Result<u32, String> {
    const MOST: u32 = 1_000_000;
    let refused = || format!("use a whole number from 1 to {MOST}");
    text.parse::<u32>().ok().filter(|bytes| (1..=MOST).contains(bytes)).ok_or_else(refused)
}

/// Runs the command, in one process or as one of those that a launcher has started.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let mut together = false;
    let Some(joined) = args.processes.join()? else {
        return run_here(args, None, &mut together);
    };
    let ended = run_here(args, Some(&joined), &mut together);
    joined.end(ended, together)
}

/// Runs the command. `together` becomes true when all processes of the job end now.
fn run_here(mut args: Args, joined: Option<&Joined>, together: &mut bool) -> Result<(), CliError> {
    let resume = resume(&mut args)?;
    let leads = joined.is_none_or(|joined| joined.world().0.index() == 0);
    // The files of the run are those of process 0, which may have made some of them by now.
    let given = args.run_dir.as_deref().filter(|_| leads).map(run_folder::given).transpose()?;
    if leads {
        refuse_clashes(&args, given.as_deref())?;
    }
    args.stalls.check()?;
    let most_restarts = restarts(&args, joined)?;
    let mut spec = Spec::new(&args.job, &args.schedule)?;
    spec.config.resume = resume;
    spec.config.takes_nonfinite = args.guards.allow_nonfinite;
    if spec.config.takes_nonfinite && spec.config.init.is_none() {
        let message = "--allow-nonfinite applies only to weights that are read from a file; name them with --init or --model DIR, or leave --allow-nonfinite out";
        return Err(CliError::Usage(message.to_owned()));
    }
    spec.config.world = joined.map(Joined::world);
    if args.sample.is_some() {
        spec.refuse_no_samples()?;
    }
    if spec.config.memory_limit.is_some() && spec.config.synthesised().is_none() {
        let message = format!(
            "--memory-limit applies only to zb-auto and auto, not to {}; use --schedule zb-auto or auto, or leave --memory-limit out",
            excerpt(&spec.schedule)
        );
        return Err(CliError::Usage(message));
    }
    let config = args.screen.config()?;
    let look = Look::of(&config);
    let model = spec.model();
    let prepared = spec.prepare()?;
    if args.processes.dry_run {
        *together = true;
        let about = joined.map(|joined| joined.about() + "\n").unwrap_or_default();
        return if leads { print(&(about + &processes::map(&prepared))) } else { Ok(()) };
    }
    if let Some(joined) = joined.filter(|joined| joined.world().0.index() > 0) {
        return follow(prepared, &args, joined, &spec, together);
    }
    if args.run_dir.is_none() {
        tidy_up(config.keep());
    }
    if joined.is_none() && !args.headless && !args.json && super::has_screen() {
        drop(prepared);
        return watch(&args, given, model, look);
    }
    let is_new = given.as_ref().is_none_or(|dir| !dir.exists());
    let (id, dir) = run_dir(given, model)?;
    if let Some(most) = most_restarts {
        drop(prepared);
        let supervised = supervised(args, &spec, (dir, is_new), most, None);
        return supervised.run();
    }
    let output = if args.json { Output::Json } else { Output::Plain };
    let library = args.nvml.library(&config);
    let signals = listen(args.supervised.is_some(), joined)?;
    let mut teller = Teller::new(output, &id, &spec);
    let folder = RunFolder::at(id, dir.clone()).map_err(|e| match &args.run_dir {
        Some(_) => CliError::Usage(format!("--run-dir: {}", causes(&e))),
        None => CliError::Failed(causes(&e)),
    })?;
    let options = run_options(args, output, signals, library, &spec);
    if let (Some(joined), Output::Plain) = (joined, output) {
        print(&format!("{}\n", joined.about()))?;
    }
    let run = Run::start(prepared, folder, options, &mut teller).map_err(|error| {
        let told = spec.told(&error);
        if matches!(told, CliError::Usage(_)) && is_new {
            // A refusal after measuring leaves no folder either. If a file cannot be removed, the
            // log has the reason.
            let _ = pp_telemetry::remove(&dir);
        }
        told
    })?;
    let finished = run.finish();
    // After an error of a rank the others wait for ever.
    *together = !matches!(finished, Err(Stopped::Failed(_)));
    finished.map(drop).map_err(|stopped| ended(&stopped, &spec))
}

/// The signals of the run.
fn listen(is_supervised: bool, joined: Option<&Joined>) -> Result<Signals, CliError> {
    let signals = if is_supervised { Signals::listen_under_parent() } else { Signals::listen() };
    let signals = signals.and_then(|signals| match joined {
        Some(joined) => signals.setting(joined.world().0.hurried()),
        None => Ok(signals),
    });
    signals.map_err(|e| CliError::Failed(format!("cannot listen for signals: {e}")))
}

/// The options of the run beside its configuration.
fn run_options(
    args: Args,
    output: Output,
    signals: Signals,
    library: Library,
    spec: &Spec,
) -> RunOptions {
    let result = |path: Option<PathBuf>, flag: &str| {
        path.map(|path| ResultFile { path, called: flag.to_owned() })
    };
    let told = spec.clone();
    RunOptions {
        signals: Some(signals.telling(move |end| output.end(end))),
        sample: args.sample,
        save: result(args.save, "--save"),
        dump_step: result(args.dump_step, "--dump-step"),
        force: args.force,
        checkpoints: args.checkpoints.options(),
        on_nonfinite: args.guards.on_nonfinite(),
        on_spike: args.guards.on_spike(),
        stalls: args.stalls.options(output),
        restarted: args.supervised.filter(|text| !text.is_empty()),
        job_words: args.words.texts(),
        library,
        words: Some(Box::new(move |error| match told.told(error) {
            CliError::Usage(text) => (2, text),
            CliError::Failed(text) => (1, text),
            CliError::Code(code) => (i32::from(code), String::new()),
        })),
    }
}

/// Follows the run that process 0 leads.
fn follow(
    prepared: Prepared,
    args: &Args,
    joined: &Joined,
    spec: &Spec,
    together: &mut bool,
) -> Result<(), CliError> {
    let signals = listen(false, Some(joined))?;
    let options = RunOptions {
        signals: Some(signals),
        on_nonfinite: args.guards.on_nonfinite(),
        ..RunOptions::default()
    };
    pp_train::follow(prepared, options).map_err(|stopped| ended(&stopped, spec))?;
    *together = true;
    Ok(())
}

/// What a parent has to know of the run in the folder `dir`, which is new or not.
fn supervised(
    args: Args,
    spec: &Spec,
    (dir, is_new): (PathBuf, bool),
    most: u64,
    launched: Option<[Launched; 2]>,
) -> Supervised {
    Supervised {
        most,
        first: dir,
        is_new,
        is_named: args.run_dir.is_some(),
        model: spec.model().to_owned(),
        steps: spec.config.steps,
        resume: spec.config.resume.as_ref().map(|resume| resume.checkpoint.clone()),
        checkpoints: args.checkpoints.checkpoint_dir,
        dump_step: args.dump_step,
        is_headless: args.headless,
        launched,
    }
}

/// Starts a run in several processes, and starts it again when it fails.
pub(crate) fn supervise(
    mut args: Args,
    most: u64,
    launched: [Launched; 2],
) -> Result<(), CliError> {
    let resume = resume(&mut args)?;
    let given = args.run_dir.as_deref().map(run_folder::given).transpose()?;
    if args.restarts.is_some() {
        let message = "launch has --restarts of its own; move it before the --";
        return Err(CliError::Usage(message.to_owned()));
    }
    if most > 0 && !args.checkpoints.options().is_asked() {
        let message =
            "--restarts needs checkpoints to resume from; add --checkpoint-every N to pptop train";
        return Err(CliError::Usage(message.to_owned()));
    }
    let mut spec = Spec::new(&args.job, &args.schedule)?;
    spec.config.resume = resume;
    let is_new = given.as_ref().is_none_or(|dir| !dir.exists());
    let (_, dir) = run_dir(given, spec.model())?;
    supervised(args, &spec, (dir, is_new), most, Some(launched)).run()
}

/// How often the run may be restarted; `None` for a run without a parent that does so.
fn restarts(args: &Args, joined: Option<&Joined>) -> Result<Option<u64>, CliError> {
    let Some(most) = args.restarts.filter(|&most| most > 0) else { return Ok(None) };
    if joined.is_some() {
        let message = "--restarts cannot start other processes again; use pptop launch --restarts N -- mpirun ... instead";
        return Err(CliError::Usage(message.to_owned()));
    }
    if !args.checkpoints.options().is_asked() {
        let message = "--restarts needs checkpoints to resume from; add --checkpoint-every N";
        return Err(CliError::Usage(message.to_owned()));
    }
    if !args.headless && !args.json && super::has_screen() {
        let message =
            "--restarts has no screen of its own; add --headless, and watch with pptop attach";
        return Err(CliError::Usage(message.to_owned()));
    }
    Ok(Some(most))
}

/// Takes the job of the checkpoint that the run resumes from, changed by the flags of this run.
fn resume(args: &mut Args) -> Result<Option<Resume>, CliError> {
    let Some(name) = &args.resume.resume else { return Ok(None) };
    if args.job.init.is_some() {
        let message = "--resume has weights of its own; leave --init out";
        return Err(CliError::Usage(message.to_owned()));
    }
    let options = [&args.job.shared_options.0, &args.job.own_options.0];
    let takes_other_data = options.into_iter().flat_map(Options::files).next().is_some();
    let (resume, kept) = checkpoints::resumed(name, takes_other_data)?;
    #[cfg_attr(not(feature = "fault-injection"), expect(unused_mut, reason = "a fault for tests"))]
    let (mut job, words) = args.words.onto(kept)?;
    // A fault is no part of the job that checkpoints keep.
    #[cfg(feature = "fault-injection")]
    {
        job.job.inject_fault = args.job.inject_fault;
    }
    (args.job, args.schedule, args.words) = (job.job, job.schedule, words);
    args.checkpoints = job.checkpoints;
    Ok(Some(resume))
}

/// Compresses and removes earlier runs in the background. `pptop runs prune` reports what cannot be
/// done.
fn tidy_up(keep: Keep) {
    let Ok(dir) = pp_telemetry::runs_dir() else { return };
    let tidy = move || pp_telemetry::tidy(&dir, keep, false);
    // Without a thread the runs are tidied up another time.
    let _ = std::thread::Builder::new().name("tidy".to_owned()).spawn(tidy);
}

/// Refuses to write a file that the run reads, or that is not its own.
fn refuse_clashes(args: &Args, run_dir: Option<&Path>) -> Result<(), CliError> {
    let mut files = Files::new(args.force);
    if let Some(dir) = run_dir {
        files.run_dir(dir);
    }
    let options = [&args.job.shared_options.0, &args.job.own_options.0];
    for (option, path) in options.into_iter().flat_map(Options::files) {
        files.input(&format!("--{option}"), path);
    }
    let inputs = [
        ("--init", args.job.init.as_deref()),
        ("--schedule", plan_file(&args.schedule)),
        ("--nvml-lib", args.nvml.file()),
    ];
    for (flag, path) in inputs {
        if let Some(path) = path {
            files.input(flag, path);
        }
    }
    for (flag, path) in [("--save", &args.save), ("--dump-step", &args.dump_step)] {
        let Some(path) = path else { continue };
        if path == Path::new("-") {
            let message = format!("{flag} -: the run's lines go to standard output; name a file");
            return Err(CliError::Usage(message));
        }
        files.result(flag, path, Content::Weights)?;
    }
    files.check()
}

/// The id and the folder of a new run.
fn run_dir(given: Option<PathBuf>, model: &str) -> Result<(String, PathBuf), CliError> {
    match given {
        None => pp_telemetry::new_run_dir(model).map_err(|e| CliError::Failed(causes(&e))),
        Some(dir) => {
            let name = dir
                .file_name()
                .map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
            Ok((name, dir))
        }
    }
}

/// Starts the run as a process of its own, and watches it from its first phase on.
fn watch(args: &Args, given: Option<PathBuf>, model: &str, look: Look) -> Result<(), CliError> {
    let failed =
        |what: &str, e: &dyn std::fmt::Display| CliError::Failed(format!("cannot {what}: {e}"));
    let (_, dir) = run_dir(given, model)?;
    run_folder::make(&dir).map_err(|e| failed("create the folder of the run", &e))?;
    let stderr = run_folder::messages(&dir).map_err(|e| failed("write the run's messages", &e))?;
    let program = std::env::current_exe().map_err(|e| failed("find this program", &e))?;
    let mut command = Command::new(program);
    command.args(own_args()).arg("--headless").arg("--run-dir").arg(&dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    // Out of reach of this terminal's Ctrl-C and of its end: watching never touches training.
    command.process_group(0);
    let child = command.spawn().map_err(|e| failed("start the run", &e))?;
    let ended = look.watch(vec![Watch::Child { run_dir: dir.clone(), child }], false);
    if args.sample.is_some()
        && let Some(text) = sample_of(&dir)
    {
        print(&format!("{text}\n"))?;
    }
    ended
}

/// The sample in the log of the run, if there is one.
fn sample_of(dir: &Path) -> Option<String> {
    let events = std::fs::read(dir.join(EVENTS_FILE)).ok()?;
    let mut logs =
        events.split(|&b| b == b'\n').rev().filter_map(|line| match Event::parse(line) {
            Ok(Line::Event(Event::Log(log))) => Some(log.message),
            _ => None,
        });
    logs.find_map(|message| message.strip_prefix(SAMPLE).map(ToOwned::to_owned))
}

/// The arguments of this process, less those that the run gets anew.
fn own_args() -> Vec<std::ffi::OsString> {
    let mut kept = Vec::new();
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        if text == "--run-dir" {
            args.next();
        } else if !text.starts_with("--run-dir=") {
            kept.push(arg);
        }
    }
    kept
}
