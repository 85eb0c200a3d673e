//! A training run from its first event to its last.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use candle_core::{DType, Device, Tensor};
use pp_devices::{Library, Options, Samplers};
use pp_executor::ExecError;
use pp_hybrid::{StepOutcome, Trainer, TrainerError, weights_hash};
use pp_models::{Samples, sample_while};
use pp_nn::{OptimizerKind, ParameterStore};
use pp_partition::Stage;
use pp_schedule::clean_lines;
use pp_telemetry::{
    CHECKPOINT_FILE, ControlServer, End, Eval, Event, Hello, Log, Mem, PhaseEvent, Recorder,
    Request, StepEvent, Warn, Watchdog,
};

use pptop::whole_file::{Identity, Taken, WholeFile};
use signal_hook::consts::SIGTERM;

use super::CliError;
use super::job::{ModelSpec, Prepared, Session, chain, devices_line};
use super::phases::Phases;
use super::results::{self, Named, Wanted};
use super::starting::{Ready, make_ready, never_began};
use super::stopping::{self, Starting, Stop};
use super::story::Story;

/// How the log's line with a sample begins.
pub(crate) const SAMPLE: &str = "sample: ";

/// Held-out samples that are evaluated together.
const EVALUATION_ROWS: usize = 16;

/// A phase that lasts longer says how far it is, once in such a time.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// How the run talks on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Plain,
    Json,
}

/// What to do beside training.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    pub(crate) sample: Option<u32>,
    pub(crate) save: Option<PathBuf>,
    pub(crate) dump_step: Option<PathBuf>,
    /// Existing files may be replaced by these.
    pub(crate) force: bool,
    /// Whom to ask about GPUs.
    pub(crate) library: Library,
}

/// A run that has started.
pub(crate) struct Run {
    session: Session,
    trainer: Trainer,
    recorder: Recorder,
    origin: Instant,
    output: Output,
    flags: Flags,
    story: Story,
    stop: Stop,
    phases: Phases,
    watchdog: Watchdog,
    /// Where a monitor may ask for something; `None` where no socket could be made.
    control: Option<ControlServer>,
    /// What looks at devices and threads while the run goes on.
    samplers: Option<Samplers>,
    dir: PathBuf,
    /// The file of the last checkpoint: no other is replaced by the next one.
    checkpoint: Option<Identity>,
    /// Standard output went away; the run goes on without it.
    silent: bool,
}

/// Why a run ended before its last step.
enum Early {
    /// A signal asked for it.
    Signal(i32),
    /// Somebody asked for it over the socket.
    Asked,
    Failed(TrainerError),
    /// A result could not be written.
    Result(String),
}

impl Run {
    /// Records from now on: measures and cuts the model, starts the ranks, and says hello.
    ///
    /// # Errors
    /// The job cannot be started; the log says so as well.
    pub(crate) fn start(
        prepared: Prepared,
        id: &str,
        dir: &Path,
        (recorder, stop): (Recorder, Stop),
        output: Output,
        flags: Flags,
    ) -> Result<Self, CliError> {
        let (origin, started) = (Instant::now(), SystemTime::now());
        let phases = Phases::new(recorder.clone(), origin);
        let starting = Starting::watch(&stop, &recorder, origin, output, &phases.now)
            .map_err(|e| CliError::Failed(format!("cannot listen for signals: {e}")))?;
        let ready = match make_ready(prepared, &recorder, origin, &phases) {
            Ok(ready) => ready,
            Err(error) => {
                drop(starting);
                never_began(&error, &recorder, origin, output);
                return Err(error);
            }
        };
        drop(starting);
        let Ready { session, trainer, memory_plan, took } = ready;
        let control = pp_telemetry::socket_dir()
            .and_then(|dir| ControlServer::listen(&dir, &std::process::id().to_string(), id));
        let (control, no_control) = match control {
            Ok(control) => (Some(control), None),
            Err(error) => (None, Some(error)),
        };
        let socket = control.as_ref().map(ControlServer::path);
        let hello = session.hello(&trainer, &recorder, id, socket, memory_plan, started);
        let story = Story::new(&session, &hello);
        let dir = dir.to_owned();
        let mut run = Self {
            session,
            trainer,
            recorder,
            origin,
            output,
            flags,
            story,
            stop,
            phases,
            watchdog: Watchdog::default(),
            control,
            samplers: None,
            dir: dir.clone(),
            checkpoint: None,
            silent: false,
        };
        run.emit(Event::Hello(Box::new(hello.clone())));
        run.samplers = Some(run.watch(&hello));
        if let Some(error) = no_control {
            run.warn(None, format!("this run takes no requests, only signals: {error}"));
        }
        run.plain(&format!("{}\n{}", run.story.opening(), devices_line(&hello)));
        if let Some(chosen) = run.session.chosen.clone() {
            run.plain(&format!("kernels {} ({})", chosen.kernels.summary(), chosen.how));
            if let Err(why) = chosen.keep() {
                run.warn(None, why);
            }
        }
        run.plain(&format!("run {id} in {}", dir.display()));
        let took: Vec<String> =
            took.iter().map(|(name, seconds)| format!("{name} {seconds:.2} s")).collect();
        let took =
            format!("ready after {:.2} s: {}", origin.elapsed().as_secs_f64(), took.join(", "));
        run.plain(&took);
        let opening = run.story.opening().to_owned();
        opening.lines().for_each(|line| run.log(line.to_owned()));
        run.log(took);
        Ok(run)
    }

    /// Begins to look at the GPUs and at the threads of the ranks that compute on the CPU.
    fn watch(&self, hello: &Hello) -> Samplers {
        let is_on_cpu = |device: &str| device.starts_with("cpu");
        let mut threads = pp_devices::rank_threads();
        threads.retain(|thread| {
            let mut map = hello.device_map.iter();
            map.any(|at| {
                (at.replica, at.rank) == (thread.replica, thread.rank) && is_on_cpu(&at.device)
            })
        });
        let on_gpus = hello.device_map.iter().any(|at| !is_on_cpu(&at.device));
        let library = self.flags.library.clone();
        let options = Options { library, on_gpus, threads, ..Options::default() };
        Samplers::start(options, self.origin, &self.recorder)
    }

    /// Trains to the end, or as far as it goes, and says how it ended.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        let result = self.train();
        self.samplers = None;
        let mut end = End {
            code: 0,
            reason: "finished".to_owned(),
            steps: self.story.steps(),
            wall_seconds: self.origin.elapsed().as_secs_f64(),
            ..End::default()
        };
        let result = match result {
            Ok(hash) => {
                end.weights_hash = Some(hash);
                Ok(())
            }
            Err(Early::Signal(signal)) => {
                end.code = 128 + signal;
                let name = stopping::name(signal);
                end.reason = format!("stopped by {name} after step {}", end.steps);
                Err(CliError::Code(end.code as u8))
            }
            Err(Early::Asked) => {
                // As if it had been asked by a signal.
                end.code = 128 + SIGTERM;
                end.reason = format!("stopped by request after step {}", end.steps);
                Err(CliError::Code(end.code as u8))
            }
            Err(Early::Failed(error)) => {
                end.code = 1;
                end.reason = chain(&error);
                if let TrainerError::Exec(ExecError::Rank { rank, op, .. }) = &error {
                    end.rank = Some(rank.0);
                    end.op = op.map(|op| op.to_string());
                }
                Err(CliError::Failed(format!("training failed: {}", end.reason)))
            }
            Err(Early::Result(reason)) => {
                end.code = 1;
                end.reason.clone_from(&reason);
                Err(CliError::Failed(reason))
            }
        };
        if self.output == Output::Json {
            if let Ok(json) = Event::End(end.clone()).to_json() {
                self.line(&json);
            }
        } else if end.steps > 0 {
            let summary = self.story.closing();
            self.plain(&summary);
        }
        self.recorder.finish(end);
        // The last lines may fill the disk; no step reports that.
        if let Some(message) = self.recorder.take_warning() {
            let _ = writeln!(std::io::stderr(), "pptop: {}", clean_lines(&message));
        }
        result
    }

    fn train(&mut self) -> Result<String, Early> {
        let steps = self.session.spec.steps;
        let batch = self.session.batch_size as usize;
        let pieces = self
            .session
            .job
            .data
            .validation(EVALUATION_ROWS)
            .map_err(|e| Early::Result(e.to_string()))?;
        for step in 1..=steps {
            let before = match (step, &self.flags.dump_step) {
                (1, Some(_)) => self.trainer.weights().map_err(Early::Failed)?,
                _ => Vec::new(),
            };
            let data = &self.session.job.data;
            let outcome =
                self.trainer.step(step, || data.batch(step, batch)).map_err(Early::Failed)?;
            if step == 1 && self.flags.dump_step.is_some() {
                let phase = self.phases.begin(PhaseEvent::SAVING, Some(step), 0);
                self.dump(&outcome, before)?;
                phase.end();
            }
            self.stepped(&outcome);
            let due = self.session.spec.eval_every.is_some_and(|every| step.is_multiple_of(every));
            if !pieces.is_empty() && (due || step == steps) {
                self.evaluate(step, &pieces)?;
            }
            if self.requests(step) && step < steps {
                return Err(Early::Asked);
            }
            if step < steps
                && let Some(signal) = self.stop.signal()
            {
                return Err(Early::Signal(signal));
            }
        }
        let weights = self.trainer.weights().map_err(Early::Failed)?;
        let hash = weights_hash(&weights).map_err(|e| Early::Result(e.to_string()))?;
        if let Some(bytes) = self.flags.sample {
            self.sample(&weights, bytes as usize)
                .map_err(|e| Early::Result(format!("no sample: {e}")))?;
        }
        // What was trained to the end is written, whatever else was asked for meanwhile.
        if let Some(path) = self.flags.save.clone() {
            let phase = self.phases.begin(PhaseEvent::SAVING, Some(steps), 0);
            self.write("--save", &path, &weights, &HashMap::new()).map_err(Early::Result)?;
            phase.end();
        }
        match self.stop.signal() {
            Some(signal) => Err(Early::Signal(signal)),
            None => Ok(hash),
        }
    }

    /// Looks at the held-out samples; a signal ends that early, and then nothing is said of it.
    fn evaluate(&mut self, step: u64, pieces: &[Samples]) -> Result<(), Early> {
        let mut phase = self.phases.begin(PhaseEvent::EVALUATING, Some(step), pieces.len());
        let (stopping, output) = (self.stop.clone(), self.output);
        let mut said = Instant::now();
        let goes_on = |done| {
            phase.at(done, pieces.len());
            if output == Output::Plain && said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                // A reader that has gone away is noticed with the next step.
                let _ = super::print(&format!("evaluating {done}/{}\n", pieces.len()));
            }
            stopping.signal().is_none()
        };
        let found = self.trainer.evaluate_while(pieces, goes_on).map_err(Early::Failed)?;
        phase.end();
        let Some(found) = found else { return Ok(()) };
        self.story.evaluated(step, &found);
        self.emit(Event::Eval(Eval { step, loss: found.loss as f32, accuracy: found.accuracy }));
        let accuracy =
            found.accuracy.map_or_else(String::new, |a| format!("  accuracy {:.1} %", 100.0 * a));
        self.plain(&format!("step {step}: validation loss {:.4}{accuracy}", found.loss));
        Ok(())
    }

    /// Does what was asked for during the step; tells whether the run has to end.
    fn requests(&mut self, step: u64) -> bool {
        let requests = self.control.as_ref().map(ControlServer::take).unwrap_or_default();
        let wants_checkpoint =
            |r: &Request| matches!(r, Request::Checkpoint | Request::CheckpointAndStop);
        let mut may_stop = true;
        if requests.iter().any(wants_checkpoint) {
            match self.checkpoint(step) {
                Ok(message) => self.log_at(Some(step), message),
                Err(why) => {
                    // Who wanted the weights does not want to lose them.
                    may_stop = requests.contains(&Request::Stop);
                    self.warn(Some(step), why);
                }
            }
        }
        may_stop && requests.iter().any(|r| matches!(r, Request::Stop | Request::CheckpointAndStop))
    }

    /// Writes the weights into the folder of the run, in the place of those written before.
    fn checkpoint(&mut self, step: u64) -> Result<String, String> {
        let phase = self.phases.begin(PhaseEvent::CHECKPOINT, Some(step), 0);
        let path = self.dir.join(CHECKPOINT_FILE);
        let failed = |why: String| format!("no checkpoint of step {step}: {why}");
        let weights = self.trainer.weights().map_err(|e| failed(chain(&e)))?;
        let about = HashMap::from([("step".to_owned(), step.to_string())]);
        let taken = self.checkpoint.map_or(Taken::Stays, Taken::ReplacedIf);
        let written = WholeFile::private(&path)
            .and_then(|file| results::write(file, taken, &weights, &about))
            .map_err(|no| failed(no.to_string()))?;
        self.note(&written.path);
        if written.path == path {
            self.checkpoint = written.identity;
        } else {
            let (path, other) = (path.display(), written.path.display());
            let message =
                format!("{path} is not of this run and stays; the checkpoint is in {other}");
            self.warn(Some(step), message);
        }
        let path = written.path;
        let bytes = std::fs::metadata(&path).map_or(0, |about| about.len());
        Ok(format!(
            "checkpoint of step {step} in {}: {:.1} MB in {:.2} s",
            path.display(),
            bytes as f64 / 1e6,
            phase.end()
        ))
    }

    /// Tells everybody about a step.
    fn stepped(&mut self, outcome: &StepOutcome) {
        let samples = self.session.batch_size;
        let is_gpt = self.session.spec.is_gpt();
        let tokens = if is_gpt { samples * self.session.job.data.tokens_per_sample() } else { 0 };
        let event = StepEvent {
            step: outcome.step,
            loss: outcome.loss,
            loss_bits: StepEvent::bits_of(outcome.loss),
            lr: outcome.lr,
            grad_norm: outcome.grad_norm,
            seconds: outcome.seconds,
            elapsed_seconds: self.origin.elapsed().as_secs_f64(),
            samples,
            tokens,
            bubble_ratio: outcome.bubble.bubble_ratio,
            idle_of_step: outcome.bubble.idle_of_step,
            starved_ratio: outcome.bubble.starved_ratio,
            window_seconds: outcome.bubble.window_seconds,
            dropped: self.recorder.dropped(),
        };
        let n_ranks = self.session.plan.n_ranks();
        for (index, memory) in outcome.memory.iter().enumerate() {
            self.recorder.record(Event::Mem(Mem {
                step: outcome.step,
                replica: index as u32 / n_ranks,
                rank: index as u32 % n_ranks,
                live_bytes: memory.live_bytes,
                peak_bytes: memory.peak_bytes,
                parameter_bytes: memory.parameter_bytes,
                gradient_bytes: memory.gradient_bytes,
                optimizer_bytes: memory.optimizer_bytes,
                packed_bytes: memory.packed_bytes,
                stash_bytes: memory.stash_bytes,
                temporary_bytes: memory.temporary_bytes,
            }));
        }
        self.story.stepped(outcome);
        self.emit(Event::Step(event));
        let log_every = self.session.spec.log_every;
        if outcome.step == 1 || outcome.step.is_multiple_of(log_every) {
            let line = self.story.step_line(outcome);
            self.plain(&line);
        }
        let (loss, grad_norm) = (f64::from(outcome.loss), outcome.grad_norm);
        if let Some(alarm) = self.watchdog.step(outcome.step, loss, grad_norm) {
            let (elapsed_ns, message) =
                (self.origin.elapsed().as_nanos() as u64, alarm.to_string());
            // With --json it is a line of the run like others, and nothing is wrong with the
            // program.
            if self.output == Output::Plain {
                let _ = writeln!(std::io::stderr(), "pptop: {message}");
            }
            let step = Some(outcome.step);
            self.emit(Event::Warn(Warn { elapsed_ns, step, rank: None, message }));
        }
        if let Some(message) = self.recorder.take_warning() {
            self.warn(Some(outcome.step), format!("{message}; the run goes on"));
        }
    }

    /// Something may be wrong: for the log, and for standard error.
    fn warn(&mut self, step: Option<u64>, message: String) {
        let elapsed_ns = self.origin.elapsed().as_nanos() as u64;
        let _ = writeln!(std::io::stderr(), "pptop: {}", clean_lines(&message));
        self.emit(Event::Warn(Warn { elapsed_ns, step, rank: None, message }));
    }

    /// Continues a text with the trained weights.
    fn sample(&mut self, weights: &[(String, Tensor)], bytes: usize) -> candle_core::Result<()> {
        let ModelSpec::Gpt { config, .. } = &self.session.spec.model else { return Ok(()) };
        let stack = &self.session.job.stack;
        let store = ParameterStore::given(weights.iter().cloned().collect::<BTreeMap<_, _>>());
        let model = Stage::build(stack, 0..stack.len(), &store, DType::F32, &Device::Cpu)
            .map_err(|e| candle_core::Error::Msg(chain(&e)))?;
        let (seed, step) = (self.session.spec.seed, self.session.spec.steps);
        let mut phase = self.phases.begin(PhaseEvent::SAMPLING, Some(step), bytes);
        let goes_on = |done| {
            phase.at(done, bytes);
            self.stop.signal().is_none()
        };
        let text = sample_while(&model, config.context, b"", bytes, seed, goes_on)?;
        phase.end();
        // A model may say anything, also what a terminal would obey.
        let text = clean_lines(&String::from_utf8_lossy(&text)).into_owned();
        self.log(format!("{SAMPLE}{text}"));
        match self.output {
            Output::Plain => self.plain(&text),
            // Standard output holds the run's lines alone.
            Output::Json => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
        Ok(())
    }

    /// Writes step 1 for other programs to check.
    fn dump(&mut self, outcome: &StepOutcome, before: Vec<(String, Tensor)>) -> Result<(), Early> {
        let Some(path) = self.flags.dump_step.clone() else { return Ok(()) };
        let wrong = |e: candle_core::Error| Early::Result(e.to_string());
        let batch = self.session.batch_size as usize;
        let (inputs, targets) = self.session.job.data.batch(1, batch).map_err(wrong)?;
        let mut tensors = vec![
            ("targets".to_owned(), targets.to_dtype(DType::I64).map_err(wrong)?),
            ("loss".to_owned(), Tensor::new(outcome.loss, &Device::Cpu).map_err(wrong)?),
        ];
        for (i, input) in inputs.into_iter().enumerate() {
            tensors.push((if i == 0 { "inputs".to_owned() } else { format!("inputs.{i}") }, input));
        }
        let prefixed = |prefix: &'static str, list: Vec<(String, Tensor)>| {
            list.into_iter().map(move |(name, tensor)| (format!("{prefix}.{name}"), tensor))
        };
        tensors.extend(prefixed("before", before));
        tensors.extend(prefixed("grad", self.trainer.gradients().map_err(Early::Failed)?));
        tensors.extend(prefixed("after", self.trainer.weights().map_err(Early::Failed)?));
        let spec = &self.session.spec;
        let mut about = HashMap::from([
            ("model".to_owned(), spec.name.as_str().to_owned()),
            ("optimizer".to_owned(), spec.optimizer.to_string()),
            ("lr".to_owned(), outcome.lr.to_string()),
            (
                "clip_norm".to_owned(),
                spec.clip_norm.map_or_else(|| "none".to_owned(), |n| n.to_string()),
            ),
        ]);
        if let OptimizerKind::AdamW { weight_decay } = spec.optimizer {
            about.insert("weight_decay".to_owned(), weight_decay.to_string());
        }
        if let ModelSpec::Gpt { config, .. } = &spec.model {
            about.insert("heads".to_owned(), config.heads.to_string());
        }
        self.write("--dump-step", &path, &tensors, &about).map_err(Early::Result)
    }

    /// Writes a result that somebody named, and says where it is if that is elsewhere.
    fn write(
        &mut self,
        flag: &str,
        path: &Path,
        tensors: &Named,
        about: &HashMap<String, String>,
    ) -> Result<(), String> {
        let wanted = Wanted { flag, path, force: self.flags.force, run_dir: &self.dir };
        let written = wanted.write(tensors, about)?;
        self.note(&written.path);
        if let Some(why) = written.why_elsewhere {
            self.warn(None, why);
        }
        Ok(())
    }

    /// Notes a file with weights, if it is in the folder of the run.
    fn note(&self, path: &Path) {
        let is_here =
            path.parent().and_then(|dir| dir.canonicalize().ok()) == self.dir.canonicalize().ok();
        if let Some(name) = path.file_name().and_then(OsStr::to_str).filter(|_| is_here) {
            self.recorder.note_file(name);
        }
    }

    /// A line for the log alone.
    fn log(&self, message: String) {
        self.log_at(None, message);
    }

    fn log_at(&self, step: Option<u64>, message: String) {
        let elapsed_ns = self.origin.elapsed().as_nanos() as u64;
        self.recorder.record(Event::Log(Log { elapsed_ns, step, message }));
    }

    /// An event for the log, and for standard output with `--json`.
    fn emit(&mut self, event: Event) {
        if self.output == Output::Json {
            match event.to_json() {
                Ok(json) => self.line(&json),
                Err(error) => self.line(&format!("{{\"ev\":\"warn\",\"message\":\"{error}\"}}")),
            }
        }
        self.recorder.record(event);
    }

    fn plain(&mut self, text: &str) {
        if self.output == Output::Plain {
            self.line(text);
        }
    }

    fn line(&mut self, text: &str) {
        if self.silent {
            return;
        }
        let text = super::for_terminal(text, std::io::stdout().is_terminal());
        let mut stdout = std::io::stdout().lock();
        let Err(failed) = writeln!(stdout, "{}", clean_lines(&text)).and_then(|()| stdout.flush())
        else {
            return;
        };
        self.silent = true;
        // A reader that has gone away has seen enough. Anything else loses lines that somebody wanted.
        if failed.kind() != std::io::ErrorKind::BrokenPipe {
            let message = "the run goes on, and its log with it";
            let _ = writeln!(
                std::io::stderr(),
                "pptop: cannot write to standard output: {failed}; {message}"
            );
        }
    }
}
