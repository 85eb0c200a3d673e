//! A training run from its first event to its last.

mod checkpoint;
mod follow;
mod guard;
mod recording;
mod results;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use pp_devices::Samplers;
use pp_executor::ExecError;
use pp_hybrid::checkpoint::Recent;
use pp_hybrid::{TrainerError, weights_hash};
use pp_telemetry::{
    ControlServer, End, Eval, Event, PhaseEvent, Recorder, Request, Warn, Watchdog,
};

use crate::checkpoints::Checkpoints;
use crate::config::Config;
use crate::crew::{Crew, give_dir};
use crate::data::Samples;
use crate::ending::{Finished, Stopped};
use crate::error::{ResultError, TrainError, causes};
use crate::hello::Opened;
use crate::kernels::Chosen;
use crate::observer::{Notice, Observer, Ready};
use crate::opening::opening;
use crate::options::{RunFolder, RunOptions};
use crate::phases::Phases;
use crate::session::{Prepared, Session};
use crate::stall::{StallWatch, Watched};
use crate::starting::{self, make_ready};
use crate::stopping::{Signals, Starting};

use follow::samplers;
use guard::Guard;

pub use follow::follow;
pub use results::SAMPLE;

/// Held-out samples that are evaluated together.
const EVALUATION_ROWS: usize = 16;

/// A run that has started and is recorded.
pub struct Run<'a> {
    id: String,
    session: Session,
    trainer: Crew,
    recorder: Recorder,
    origin: Instant,
    options: RunOptions,
    observer: &'a mut dyn Observer,
    n_steps: u64,
    phases: Phases,
    watchdog: Watchdog,
    guard: Guard,
    /// The server for requests of monitors; `None` if no socket could be made.
    control: Option<ControlServer>,
    /// The samplers of devices and threads, while the run goes on.
    samplers: Option<Samplers>,
    dir: PathBuf,
    checkpoints: Checkpoints,
    /// The losses of the last steps, for the next checkpoint.
    recent: VecDeque<Recent>,
    /// What is saved of the run, and where.
    saved: Option<String>,
    /// Seconds of training before this run, over all runs that led to its checkpoint.
    seconds_before: f64,
    /// Files that belong beside the weights.
    companions: Vec<(String, Vec<u8>)>,
}

impl<'a> Run<'a> {
    /// Measures and cuts the model, starts the ranks, and records the hello.
    ///
    /// # Errors
    /// The job cannot be started. The log ends with the reason.
    pub fn start(
        prepared: Prepared,
        folder: RunFolder,
        mut options: RunOptions,
        observer: &'a mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let RunFolder { id, dir, recorder } = folder;
        let (origin, started) = (Instant::now(), SystemTime::now());
        let phases = Phases::new(recorder.clone(), origin);
        let words = options.words.take();
        let ready = {
            let watch = |signals| Starting::watch(signals, &recorder, origin, &phases.now);
            let watched = options.signals.as_ref().map(watch).transpose();
            let starting = watched.map_err(TrainError::Signals)?;
            let sheets = give_dir(&prepared, &dir);
            let ready =
                sheets.and_then(|sheets| make_ready(prepared, &recorder, origin, &phases, sheets));
            let ready = ready.and_then(|ready| {
                let checkpoints = Checkpoints::ready(&options.checkpoints, &dir, &ready)?;
                Ok((ready, checkpoints))
            });
            drop(starting);
            ready
        };
        let (starting::Ready { session, trainer, memory_plan, took }, checkpoints) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                let (code, reason) = match words {
                    Some(words) => words(&error),
                    None => (if error.is_refusal() { 2 } else { 1 }, causes(&error)),
                };
                let wall_seconds = origin.elapsed().as_secs_f64();
                let end = End { code, reason, wall_seconds, ..End::default() };
                observer.notice(&Notice::Event(&Event::End(end.clone())));
                recorder.finish(end);
                return Err(error);
            }
        };
        let control = pp_telemetry::socket_dir()
            .and_then(|dir| ControlServer::listen(&dir, &std::process::id().to_string(), &id));
        let (control, no_control) = match control {
            Ok(control) => (Some(control), None),
            Err(error) => (None, Some(error)),
        };
        let socket = control.as_ref().map(ControlServer::path);
        let steps_before = session.steps_before();
        let resumed = session.config.resume.as_ref().map(|resume| resume.checkpoint.manifest());
        let companions = session.config.workload.companions().map_err(TrainError::Workload)?;
        let seconds_before = resumed.map_or(0.0, |manifest| manifest.elapsed_seconds);
        let trainer = trainer.on_nonfinite(options.on_nonfinite);
        let place = Some(checkpoints.dir()).filter(|_| checkpoints.is_asked());
        let opened = Opened { run: &id, socket, checkpoints: place, memory_plan, started };
        let mut trainer = trainer;
        let offsets = trainer.clock_offsets().map_err(TrainError::from)?;
        let hello = session.hello(&trainer, &recorder, opened, &offsets);
        let trainer = Crew::new(trainer, session.config.world.is_some());
        let mut run = Self {
            id,
            session,
            trainer,
            recorder,
            origin,
            options,
            observer,
            n_steps: steps_before,
            phases,
            watchdog: Watchdog::default(),
            guard: Guard::default(),
            control,
            samplers: None,
            dir,
            checkpoints,
            recent: VecDeque::new(),
            saved: None,
            seconds_before,
            companions,
        };
        run.recall();
        run.emit(Event::Hello(Box::new(hello.clone())));
        run.samplers = Some(samplers(&run.session, &run.options, run.origin, &run.recorder));
        run.warn_at_first(no_control);
        let opening = opening(&run.session, &hello);
        let took: Vec<String> =
            took.iter().map(|(name, seconds)| format!("{name} {seconds:.2} s")).collect();
        let took =
            format!("ready after {:.2} s: {}", origin.elapsed().as_secs_f64(), took.join(", "));
        run.observer.notice(&Notice::Ready(&Ready {
            session: &run.session,
            hello: &hello,
            opening: &opening,
            took: &took,
            dir: &run.dir,
        }));
        if let Some(Err(why)) = run.session.chosen.as_ref().map(Chosen::keep) {
            run.warn(None, causes(&why));
        }
        opening.lines().for_each(|line| run.log(line.to_owned()));
        if let Some(continued) = run.session.continued() {
            continued.lines().for_each(|line| run.log(line.to_owned()));
        }
        run.log(took);
        if let Some(message) = run.options.restarted.take() {
            let elapsed_ns = run.origin.elapsed().as_nanos() as u64;
            run.emit(Event::Warn(Warn { elapsed_ns, step: None, rank: None, message }));
        }
        Ok(run)
    }

    /// Begins to watch for ranks that stall. Without a thread for that the run goes on unwatched.
    fn watch_for_stalls(&mut self) -> Option<StallWatch> {
        let watched = Watched {
            options: self.options.stalls.clone(),
            plan: Arc::new(self.session.plan.clone()),
            progress: self.trainer.progress(),
            recorder: self.recorder.clone(),
            origin: self.origin,
            checkpoints: self.checkpoints.dir().to_owned(),
            runs: self.runs(),
            waiting: self.checkpoints.waiting(),
            socket: self.control.as_ref().map(|control| control.path().to_owned()),
            world: self.session.config.world.clone(),
        };
        StallWatch::begin(watched).unwrap_or_else(|error| {
            self.warn(None, format!("a rank that stalls will not be told: {error}"));
            None
        })
    }

    /// Trains until the run ends, and records its end.
    ///
    /// # Errors
    /// The run ended before its last step, or a result is missing.
    pub fn finish(mut self) -> Result<Finished, Stopped> {
        let stalls = self.watch_for_stalls();
        let result = self.train();
        self.samplers = None;
        if let Err(stopped @ Stopped::Failed(_)) = &result
            && self.checkpoints.is_writing()
        {
            self.checkpoints.hurry();
            // Said before anything is waited for: a disk may hang.
            let why = causes(stopped);
            let message = format!("{why}; waiting for the checkpoint that is being written");
            self.warn(None, message);
        }
        self.name_last_checkpoint();
        drop(stalls);
        let mut end = End {
            code: 0,
            reason: "finished".to_owned(),
            steps: self.n_steps,
            wall_seconds: self.origin.elapsed().as_secs_f64(),
            saved: self.saved.take(),
            ..End::default()
        };
        match &result {
            Ok(finished) => end.weights_hash = Some(finished.weights_hash.clone()),
            Err(stopped) => {
                end.code = stopped.code();
                end.reason = match stopped {
                    Stopped::Failed(error) => causes(error),
                    other => causes(other),
                };
                match stopped {
                    Stopped::Failed(TrainerError::Exec(ExecError::Rank { rank, op, .. })) => {
                        end.rank = Some(rank.0);
                        end.op = op.map(|op| op.to_string());
                    }
                    Stopped::Failed(TrainerError::Exec(ExecError::Lost {
                        rank, doing, ..
                    })) => {
                        end.rank = Some(rank.0);
                        end.op = doing.op().map(|op| op.to_string());
                    }
                    _ => {}
                }
            }
        }
        self.observer.notice(&Notice::Event(&Event::End(end.clone())));
        self.recorder.finish(end);
        // The last lines may fill the disk, and no further step reports that.
        if let Some(message) = self.recorder.take_warning() {
            self.observer.notice(&Notice::Warning(&message));
        }
        result
    }

    /// Trains, and lets the processes go that follow this one.
    fn train(&mut self) -> Result<Finished, Stopped> {
        let result = self.train_steps();
        if matches!(result, Err(Stopped::Failed(_))) {
            // The others wait in a call, and are ended with this process.
            return result;
        }
        match self.trainer.end() {
            Err(error) if result.is_ok() => Err(Stopped::Failed(error)),
            _ => result,
        }
    }

    fn train_steps(&mut self) -> Result<Finished, Stopped> {
        let steps = self.session.config.steps;
        let batch = self.session.batch_size as usize;
        let pieces =
            self.session.job.data.validation(EVALUATION_ROWS).map_err(ResultError::HeldOut)?;
        if self.checkpoints.is_asked() {
            // Before hours of training depend on it.
            let looked = self.look_at_folder()?;
            looked.map_err(|error| Stopped::Checkpoints(Box::new(error)))?;
        }
        let first = self.session.steps_before() + 1;
        for step in first..=steps {
            let is_dumped = step == first && self.options.dump_step.is_some();
            let mut before = Vec::new();
            if is_dumped {
                before = self.trainer.weights().map_err(Stopped::Failed)?;
            }
            let data = &self.session.job.data;
            let outcome = match self.trainer.step(step, || data.batch(step, batch)) {
                Err(TrainerError::NotFinite(found)) => return Err(self.stop_not_finite(found)),
                outcome => outcome.map_err(Stopped::Failed)?,
            };
            if is_dumped {
                let phase = self.phases.begin(PhaseEvent::SAVING, Some(step), 0);
                self.dump(&outcome, before)?;
                phase.end();
            }
            self.n_steps += 1;
            self.trainer.heard().into_iter().for_each(|event| self.recorder.record(event));
            let alarm = self.stepped(&outcome);
            self.look_at(&outcome);
            if let Some(alarm) = alarm.filter(|&alarm| self.ends_at(alarm)) {
                return Err(self.stop_at(step, alarm));
            }
            let due =
                self.session.config.eval_every.is_some_and(|every| step.is_multiple_of(every));
            if !pieces.is_empty() && (due || step == steps) {
                self.evaluate(step, &pieces)?;
            }
            self.settle_checkpoint(false);
            if self.is_checkpoint_due(step, step == steps) {
                self.checkpoint(step)?;
            }
            let elsewhere = self.trainer.take_checkpoint();
            if self.options.signals.as_ref().is_some_and(Signals::take_checkpoint) || elsewhere {
                self.checkpoint(step)?;
            }
            let is_asked = self.requests(step)?;
            let stopped = match self.signal() {
                _ if step == steps => None,
                _ if is_asked => Some(Stopped::Asked { steps: self.n_steps }),
                signal => signal.map(|signal| Stopped::Signal { signal, steps: self.n_steps }),
            };
            if let Some(stopped) = stopped {
                self.save_before_stop(step)?;
                return Err(stopped);
            }
        }
        self.settle_checkpoint(true);
        let weights = self.trainer.weights().map_err(Stopped::Failed)?;
        let hash = weights_hash(&weights).map_err(ResultError::Hash)?;
        if let Some(bytes) = self.options.sample {
            self.sample(&weights, bytes as usize)?;
        }
        // A run that reached its last step writes its weights, even if a signal arrived meanwhile.
        if let Some(file) = self.options.save.clone() {
            let phase = self.phases.begin(PhaseEvent::SAVING, Some(steps), 0);
            self.save(&file, &weights)?;
            phase.end();
        }
        match self.signal() {
            Some(signal) => Err(Stopped::Signal { signal, steps: self.n_steps }),
            None => Ok(Finished { weights_hash: hash, steps: self.n_steps }),
        }
    }

    /// The signal that asks the run to end.
    fn signal(&self) -> Option<i32> {
        let here = self.options.signals.as_ref().and_then(Signals::signal);
        here.or_else(|| self.trainer.signal())
    }

    /// Evaluates the held-out samples. A signal ends the evaluation early, without a result.
    fn evaluate(&mut self, step: u64, pieces: &[Samples]) -> Result<(), Stopped> {
        let total = pieces.len();
        let mut phase = self.phases.begin(PhaseEvent::EVALUATING, Some(step), total);
        let (signals, observer) = (self.options.signals.clone(), &mut *self.observer);
        let goes_on = |done| {
            phase.at(done, total);
            observer.notice(&Notice::Evaluating { done, total });
            signals.as_ref().and_then(Signals::signal).is_none()
        };
        let found = self.trainer.evaluate_while(pieces, goes_on).map_err(Stopped::Failed)?;
        phase.end();
        let Some(found) = found else { return Ok(()) };
        self.emit(Event::Eval(Eval { step, loss: found.loss as f32, accuracy: found.accuracy }));
        self.observer.notice(&Notice::Evaluated { step, found });
        Ok(())
    }

    /// Serves the requests that arrived during the step. Returns whether the run has to end.
    fn requests(&mut self, step: u64) -> Result<bool, Stopped> {
        let requests = self.control.as_ref().map(ControlServer::take).unwrap_or_default();
        let wants_checkpoint =
            |r: &Request| matches!(r, Request::Checkpoint | Request::CheckpointAndStop);
        let wants_stop = |r: &Request| matches!(r, Request::Stop | Request::CheckpointAndStop);
        let mut may_stop = requests.iter().any(wants_stop);
        if requests.iter().any(wants_checkpoint) {
            self.checkpoint(step)?;
            if requests.contains(&Request::CheckpointAndStop) {
                let is_durable = self.settle_checkpoint(true);
                // The request wanted a checkpoint before the end: stopping now would lose the
                // weights.
                may_stop &= is_durable || requests.contains(&Request::Stop);
            }
        }
        Ok(may_stop)
    }
}

/// Trains, and records the run in a new folder from its first event to its last.
///
/// # Errors
/// The configuration is refused, and no folder stays. Or the run ends before its last step.
pub fn train(
    config: Config,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Finished, Stopped> {
    let model = config.workload.name().to_owned();
    let prepared = Prepared::new(config)?;
    let folder = RunFolder::create(&model)?;
    let dir = folder.dir.clone();
    match Run::start(prepared, folder, options, observer) {
        Ok(run) => run.finish(),
        Err(refused) => {
            if refused.is_refusal() {
                // A refusal after measuring leaves no folder either. If a file cannot be removed,
                // the log has the reason.
                let _ = pp_telemetry::remove(&dir);
            }
            Err(refused.into())
        }
    }
}
