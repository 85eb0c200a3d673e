//! A training run from its first event to its last.

mod results;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use pp_devices::{Options, Samplers};
use pp_executor::ExecError;
use pp_hybrid::{StepOutcome, Trainer, TrainerError, weights_hash};
use pp_telemetry::{
    ControlServer, End, Eval, Event, Hello, Identity, Log, Mem, PhaseEvent, Recorder, Request,
    StepEvent, Warn, Watchdog,
};

use crate::config::Config;
use crate::data::Samples;
use crate::ending::{Finished, Stopped};
use crate::error::{TrainError, causes};
use crate::kernels::Chosen;
use crate::observer::{Notice, Observer, Ready};
use crate::opening::opening;
use crate::options::{RunFolder, RunOptions};
use crate::phases::Phases;
use crate::session::{Prepared, Session};
use crate::starting::{self, make_ready};
use crate::stopping::{Signals, Starting};

pub use results::SAMPLE;

/// Held-out samples that are evaluated together.
const EVALUATION_ROWS: usize = 16;

/// A run that has started and is recorded.
pub struct Run<'a> {
    session: Session,
    trainer: Trainer,
    recorder: Recorder,
    origin: Instant,
    options: RunOptions,
    observer: &'a mut dyn Observer,
    n_steps: u64,
    phases: Phases,
    watchdog: Watchdog,
    /// The server for requests of monitors; `None` if no socket could be made.
    control: Option<ControlServer>,
    /// The samplers of devices and threads, while the run goes on.
    samplers: Option<Samplers>,
    dir: PathBuf,
    /// The file of the last checkpoint. The next checkpoint replaces no other file.
    checkpoint: Option<Identity>,
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
            let ready = make_ready(prepared, &recorder, origin, &phases);
            drop(starting);
            ready
        };
        let starting::Ready { session, trainer, memory_plan, took } = match ready {
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
        let hello = session.hello(&trainer, &recorder, &id, socket, memory_plan, started);
        let mut run = Self {
            session,
            trainer,
            recorder,
            origin,
            options,
            observer,
            n_steps: 0,
            phases,
            watchdog: Watchdog::default(),
            control,
            samplers: None,
            dir,
            checkpoint: None,
        };
        run.emit(Event::Hello(Box::new(hello.clone())));
        run.samplers = Some(run.watch(&hello));
        if let Some(error) = no_control {
            run.warn(None, format!("this run takes no requests, only signals: {error}"));
        }
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
            run.warn(None, why);
        }
        opening.lines().for_each(|line| run.log(line.to_owned()));
        run.log(took);
        Ok(run)
    }

    /// Starts the samplers of the GPUs, and of the threads of the ranks that compute on the CPU.
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
        let library = self.options.library.clone();
        let options = Options { library, on_gpus, threads, ..Options::default() };
        Samplers::start(options, self.origin, &self.recorder)
    }

    /// Trains until the run ends, and records its end.
    ///
    /// # Errors
    /// The run ended before its last step, or a result is missing.
    pub fn finish(mut self) -> Result<Finished, Stopped> {
        let result = self.train();
        self.samplers = None;
        let mut end = End {
            code: 0,
            reason: "finished".to_owned(),
            steps: self.n_steps,
            wall_seconds: self.origin.elapsed().as_secs_f64(),
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
                if let Stopped::Failed(TrainerError::Exec(ExecError::Rank { rank, op, .. })) =
                    stopped
                {
                    end.rank = Some(rank.0);
                    end.op = op.map(|op| op.to_string());
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

    fn train(&mut self) -> Result<Finished, Stopped> {
        let steps = self.session.config.steps;
        let batch = self.session.batch_size as usize;
        let pieces = self
            .session
            .job
            .data
            .validation(EVALUATION_ROWS)
            .map_err(|e| Stopped::Result(e.to_string()))?;
        for step in 1..=steps {
            let before = match (step, &self.options.dump_step) {
                (1, Some(_)) => self.trainer.weights().map_err(Stopped::Failed)?,
                _ => Vec::new(),
            };
            let data = &self.session.job.data;
            let outcome =
                self.trainer.step(step, || data.batch(step, batch)).map_err(Stopped::Failed)?;
            if step == 1 && self.options.dump_step.is_some() {
                let phase = self.phases.begin(PhaseEvent::SAVING, Some(step), 0);
                self.dump(&outcome, before)?;
                phase.end();
            }
            self.stepped(&outcome);
            let due =
                self.session.config.eval_every.is_some_and(|every| step.is_multiple_of(every));
            if !pieces.is_empty() && (due || step == steps) {
                self.evaluate(step, &pieces)?;
            }
            if self.requests(step) && step < steps {
                return Err(Stopped::Asked { steps: self.n_steps });
            }
            if step < steps
                && let Some(signal) = self.signal()
            {
                return Err(Stopped::Signal { signal, steps: self.n_steps });
            }
        }
        let weights = self.trainer.weights().map_err(Stopped::Failed)?;
        let hash = weights_hash(&weights).map_err(|e| Stopped::Result(e.to_string()))?;
        if let Some(bytes) = self.options.sample {
            self.sample(&weights, bytes as usize)
                .map_err(|e| Stopped::Result(format!("no sample: {e}")))?;
        }
        // A run that reached its last step writes its weights, even if a signal arrived meanwhile.
        if let Some(file) = self.options.save.clone() {
            let phase = self.phases.begin(PhaseEvent::SAVING, Some(steps), 0);
            self.write(&file, &weights, &HashMap::new()).map_err(Stopped::Result)?;
            phase.end();
        }
        match self.signal() {
            Some(signal) => Err(Stopped::Signal { signal, steps: self.n_steps }),
            None => Ok(Finished { weights_hash: hash, steps: self.n_steps }),
        }
    }

    /// The signal that asks the run to end.
    fn signal(&self) -> Option<i32> {
        self.options.signals.as_ref().and_then(Signals::signal)
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
    fn requests(&mut self, step: u64) -> bool {
        let requests = self.control.as_ref().map(ControlServer::take).unwrap_or_default();
        let wants_checkpoint =
            |r: &Request| matches!(r, Request::Checkpoint | Request::CheckpointAndStop);
        let mut may_stop = true;
        if requests.iter().any(wants_checkpoint) {
            match self.checkpoint(step) {
                Ok(message) => self.log_at(Some(step), message),
                Err(why) => {
                    // The request wanted a checkpoint before the end: stopping now would lose the
                    // weights.
                    may_stop = requests.contains(&Request::Stop);
                    self.warn(Some(step), why);
                }
            }
        }
        may_stop && requests.iter().any(|r| matches!(r, Request::Stop | Request::CheckpointAndStop))
    }

    /// Records a step, and notifies the observer.
    fn stepped(&mut self, outcome: &StepOutcome) {
        let samples = self.session.batch_size;
        let tokens = samples * self.session.job.data.tokens_per_sample();
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
        self.n_steps += 1;
        self.emit(Event::Step(event));
        self.observer.notice(&Notice::Stepped(outcome));
        let (loss, grad_norm) = (f64::from(outcome.loss), outcome.grad_norm);
        if let Some(alarm) = self.watchdog.step(outcome.step, loss, grad_norm) {
            let (elapsed_ns, message) =
                (self.origin.elapsed().as_nanos() as u64, alarm.to_string());
            self.observer.notice(&Notice::Alarm(&message));
            let step = Some(outcome.step);
            self.emit(Event::Warn(Warn { elapsed_ns, step, rank: None, message }));
        }
        if let Some(message) = self.recorder.take_warning() {
            self.warn(Some(outcome.step), format!("{message}; the run goes on"));
        }
    }

    /// Records a warning, and notifies the observer.
    fn warn(&mut self, step: Option<u64>, message: String) {
        let elapsed_ns = self.origin.elapsed().as_nanos() as u64;
        self.observer.notice(&Notice::Warning(&message));
        self.emit(Event::Warn(Warn { elapsed_ns, step, rank: None, message }));
    }

    /// Records a line of text, which the observer does not get.
    fn log(&self, message: String) {
        self.log_at(None, message);
    }

    fn log_at(&self, step: Option<u64>, message: String) {
        let elapsed_ns = self.origin.elapsed().as_nanos() as u64;
        self.recorder.record(Event::Log(Log { elapsed_ns, step, message }));
    }

    /// Records an event, and notifies the observer.
    fn emit(&mut self, event: Event) {
        self.observer.notice(&Notice::Event(&event));
        self.recorder.record(event);
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
