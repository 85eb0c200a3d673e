//! A run that is watched: where its events come from, and what is known of its process.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use pp_telemetry::{
    Evidence, Follower, Frame, Model, NotProven, Process as Look, ProvenRun, Replay, Run, log_of,
    status_of_log,
};
use rustix::process::Signal;

use super::chain::Chain;
use super::child::{Trainer, last_line};
use super::state::{ChildState, Playback, State};

/// The longest time to read a long log before the screen is drawn.
const READ_TIME: Duration = Duration::from_millis(40);
/// The interval between checks whether a process that is not a child is alive.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events of a replay between two looks at the time.
const EVENTS_AT_ONCE: usize = 5_000;
/// How far a replay may be behind its clock.
const BEHIND: Duration = Duration::from_millis(500);
/// Silence that a replay does not wait for, in seconds of the run.
const SILENCE: Duration = Duration::from_secs(2);

/// A run to be watched.
#[derive(Debug)]
pub enum Watch {
    /// One that this program has just started.
    Child {
        /// Its directory, with its log.
        run_dir: PathBuf,
        /// The process; its standard error goes to `stderr.log` in the directory.
        child: Child,
    },
    /// One that was found.
    Found(Box<Run>),
    /// One that this process pretends to run.
    Demo(Box<Run>),
    /// One that was recorded, to be played again.
    Replay {
        /// The run.
        run: Box<Run>,
        /// Times as fast.
        speed: f64,
        /// The step to begin at.
        start: Option<u64>,
        /// Whether it begins again at its end.
        is_loop: bool,
    },
}

/// Where events come from.
enum Source {
    Follow(Follower),
    Play { log: PathBuf, replay: Box<Replay>, frames: Vec<Frame>, at: Instant },
}

/// What is known of the process.
enum Process {
    Child(Trainer),
    Found { dir: PathBuf, log: PathBuf, state: ChildState, looked: Option<Instant> },
    None,
}

/// A run that is watched.
pub(crate) struct Watched {
    pub(crate) state: State,
    pub(crate) dir: PathBuf,
    pub(crate) log: PathBuf,
    /// Where files that one asks for go.
    pub(crate) files: PathBuf,
    source: Source,
    process: Process,
    /// When the run last did something.
    heard: Instant,
    /// Whether all of the log was read once: what comes later comes from a run that goes on.
    caught_up: bool,
    chain: Chain,
}

/// What a look at the log has brought.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Read {
    /// Whether there is something new to be drawn.
    pub(crate) changed: bool,
    /// Whether there is more to be read at once.
    pub(crate) more: bool,
}

impl Watched {
    pub(crate) fn new(watch: Watch) -> Self {
        let heard = Instant::now();
        match watch {
            Watch::Child { run_dir, child } => {
                let trainer = Trainer::new(child, &run_dir);
                let log = log_of(&run_dir);
                Self {
                    state: State::new(trainer.state().clone(), true),
                    source: Source::Follow(Follower::new(&log)),
                    process: Process::Child(trainer),
                    files: run_dir.clone(),
                    dir: run_dir,
                    log,
                    heard,
                    caught_up: true,
                    chain: Chain::default(),
                }
            }
            Watch::Demo(run) => Self {
                state: State::new(
                    ChildState { pid: std::process::id(), ..ChildState::default() },
                    false,
                )
                .simulated(),
                source: Source::Follow(Follower::new(&run.log)),
                process: Process::None,
                // Its own folder goes with it.
                files: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
                dir: run.dir,
                log: run.log,
                heard,
                caught_up: true,
                chain: Chain::default(),
            },
            Watch::Found(run) => {
                let state = found(&run.dir, run.status.as_ref());
                // It may have done nothing for long before anybody looked.
                let silent = state.silent_seconds.map(Duration::try_from_secs_f64);
                let silent = silent.and_then(Result::ok).unwrap_or_default();
                let heard = heard.checked_sub(silent).unwrap_or(heard);
                let process = match run.status {
                    // The first line of a file may still be on its way.
                    None if !run.has_ranks() => Process::None,
                    _ => Process::Found {
                        dir: run.dir.clone(),
                        log: run.log.clone(),
                        state: state.clone(),
                        looked: None,
                    },
                };
                Self {
                    state: State::new(state, false),
                    source: Source::Follow(Follower::from_last_mark(&run.log)),
                    process,
                    files: run.dir.clone(),
                    dir: run.dir,
                    log: run.log,
                    heard,
                    caught_up: false,
                    chain: Chain::default(),
                }
            }
            Watch::Replay { run, speed, start, is_loop } => {
                let (frames, whole_seconds) = outline(&run.log);
                let playback = Playback { whole_seconds, ..Playback::new(speed, is_loop) };
                let replay = Box::new(Replay::new(&run.log));
                let source =
                    Source::Play { log: run.log.clone(), replay, frames, at: Instant::now() };
                let state = State::new(ChildState::default(), false).replayed(playback);
                let (dir, log, files) = (run.dir.clone(), run.log, run.dir);
                let (process, chain) = (Process::None, Chain::default());
                let mut watched = Self {
                    state,
                    dir,
                    log,
                    files,
                    source,
                    process,
                    heard,
                    caught_up: false,
                    chain,
                };
                if let Some(step) = start {
                    watched.seek(step);
                }
                watched
            }
        }
    }

    /// Reads what the log and the process have to say.
    pub(crate) fn read(&mut self) -> Read {
        let was_over = self.state.is_over();
        // The process first: when it is gone, what is read afterwards is all that will ever be
        // there.
        if let Err(error) = self.process.poll() {
            let pid = self.state.child().pid;
            self.state.set_trouble(format!("cannot check process {pid}: {error}"));
        }
        let (n_events, more, n_bad_lines) = match &mut self.source {
            Source::Follow(follower) => follow(&mut self.state, follower),
            Source::Play { log, replay, at, .. } => play(&mut self.state, log, replay, at),
        };
        if self.state.take_progress() && self.caught_up {
            self.heard = Instant::now();
            self.state.set_grows();
        }
        self.caught_up |= !more;
        let child = match self.process.state() {
            Some(child) if !more => child.clone(),
            _ => self.state.child().clone(),
        };
        self.state.observe(child, self.heard.elapsed().as_secs_f64(), n_bad_lines);
        let has_curves = self.chain.show(&mut self.state, &self.dir);
        let changed = n_events > 0 || has_curves || self.state.is_over() != was_over;
        Read { changed, more: more && self.state.trouble().is_none() }
    }

    /// Goes to a step of a replay: on from here, or from the last mark before it.
    pub(crate) fn seek(&mut self, step: u64) {
        let Source::Play { log, replay, frames, at } = &mut self.source else { return };
        if !self.state.model().frames().is_empty() {
            frames.clone_from(&self.state.model().frames().to_vec());
        }
        let is_ahead = step > self.state.model().step();
        let is_near = frames
            .iter()
            .filter(|frame| frame.step > self.state.model().step() && frame.step < step)
            .count()
            == 0;
        if !is_ahead || !is_near {
            **replay = Replay::before(log, frames, step);
            self.state.restart();
        }
        let state = &mut self.state;
        if let Err(error) = replay.play_to_step(step, |event| state.apply(&event)) {
            state.set_trouble(error.to_string());
        }
        *at = Instant::now();
        show_clock(&mut self.state, replay);
    }

    /// Plays a replay from its beginning.
    pub(crate) fn play_again(&mut self) {
        let Source::Play { log, replay, at, .. } = &mut self.source else { return };
        **replay = Replay::new(log);
        self.state.restart();
        *at = Instant::now();
        show_clock(&mut self.state, replay);
    }

    /// Why nothing can be asked of the run or sent to it from here; `None` where it can.
    pub(crate) fn out_of_reach(&self) -> Option<String> {
        match &self.process {
            Process::Child(_) => None,
            Process::Found { dir, .. } => ProvenRun::of(dir).err().map(|why| why.to_string()),
            Process::None => Some(NotProven::NoStatus.to_string()),
        }
    }

    /// Asks a run that was started here to end after its step; whether the signal was sent. A note
    /// says why not.
    pub(crate) fn terminate_child(&mut self) -> bool {
        let sent = match &mut self.process {
            Process::Child(trainer) => trainer.signal(Signal::TERM),
            Process::Found { .. } | Process::None => {
                Err(io::Error::other("it was not started here"))
            }
        };
        self.told(&sent)
    }

    /// Ends the process at once; whether it was. Only a process that is proven to be the run gets
    /// the signal.
    pub(crate) fn kill(&mut self) -> bool {
        let sent = match &mut self.process {
            Process::Child(trainer) => trainer.signal(Signal::KILL),
            Process::Found { dir, .. } => {
                ProvenRun::of(dir).map_err(io::Error::other).and_then(|run| run.kill())
            }
            Process::None => Err(io::Error::other(NotProven::NoStatus)),
        };
        self.told(&sent)
    }

    fn told(&mut self, sent: &io::Result<()>) -> bool {
        if let Err(error) = sent {
            self.state.set_error(format!("nothing was sent: {error}"));
        }
        sent.is_ok()
    }

    /// Whether it was started here.
    pub(crate) fn is_child(&self) -> bool {
        matches!(self.process, Process::Child(_))
    }

    /// Whether anything is known of a process that may be the run.
    pub(crate) fn has_process(&self) -> bool {
        !matches!(self.process, Process::None)
    }
}

fn follow(state: &mut State, follower: &mut Follower) -> (u64, bool, u64) {
    let began = Instant::now();
    let (mut n_events, mut more) = (0, false);
    while state.trouble().is_none() {
        match follower.poll(|event| state.apply(&event)) {
            Ok(poll) => {
                n_events += poll.n_events;
                more = !poll.at_end;
                if poll.at_end || began.elapsed() > READ_TIME {
                    break;
                }
            }
            Err(error) => state.set_trouble(error.to_string()),
        }
    }
    (n_events, more, follower.n_bad_lines())
}

fn play(state: &mut State, log: &Path, replay: &mut Replay, at: &mut Instant) -> (u64, bool, u64) {
    let elapsed = std::mem::replace(at, Instant::now()).elapsed();
    let Some(playback) = state.playback().cloned() else { return (0, false, 0) };
    let n_bad_lines = replay.n_bad_lines();
    if playback.is_paused || state.trouble().is_some() {
        return (0, false, n_bad_lines);
    }
    if replay.is_over() && playback.is_loop {
        *replay = Replay::new(log);
        state.restart();
    }
    // A float beyond the range of the integer becomes its largest value; a speed is above 0.
    #[expect(clippy::cast_sign_loss, reason = "a time and a speed are not negative")]
    let mut by_ns = (elapsed.as_nanos() as f64 * playback.speed) as u64;
    let began = Instant::now();
    let (mut n_events, mut more) = (0, true);
    while more && began.elapsed() <= READ_TIME {
        match replay.advance(by_ns, EVENTS_AT_ONCE, |event| state.apply(&event)) {
            Ok(n_played) => {
                n_events += n_played as u64;
                more = n_played == EVENTS_AT_ONCE;
            }
            Err(error) => {
                state.set_trouble(error.to_string());
                more = false;
            }
        }
        by_ns = 0;
    }
    // What cannot be played so fast is played as fast as it goes, and a change of the speed is soon
    // seen.
    if more {
        #[expect(clippy::cast_sign_loss, reason = "a speed is not negative")]
        replay.hold_clock((BEHIND.as_nanos() as f64 * playback.speed) as u64);
    }
    replay.skip_silence(u64::try_from(SILENCE.as_nanos()).unwrap_or(u64::MAX));
    show_clock(state, replay);
    (n_events, more, n_bad_lines)
}

fn show_clock(state: &mut State, replay: &Replay) {
    let (clock_ns, is_at_end) = (replay.clock_ns(), replay.is_over());
    if let Some(playback) = state.playback_mut() {
        let seconds = clock_ns as f64 * 1e-9;
        let whole = playback.whole_seconds;
        playback.seconds = if whole > 0.0 { seconds.min(whole) } else { seconds };
        playback.is_at_end = is_at_end;
    }
}

/// The marks of a log and how long its run took, read from its end.
fn outline(log: &Path) -> (Vec<Frame>, f64) {
    let mut model = Model::new();
    let mut follower = Follower::from_last_mark(log);
    // What cannot be read here is told when it is played.
    while follower.poll(|event| model.apply(&event)).is_ok_and(|poll| !poll.at_end) {}
    let seconds = model
        .end()
        .map(|end| end.wall_seconds)
        .or_else(|| model.steps().last().map(|step| step.elapsed_seconds));
    (model.frames().to_vec(), seconds.filter(|s| s.is_finite()).unwrap_or(0.0))
}

/// What is known of the process of a run that was found.
pub(super) fn found(dir: &Path, status: Option<&pp_telemetry::Status>) -> ChildState {
    let Some(status) = status else { return ChildState::default() };
    let evidence = Evidence::of(status);
    let is_gone = evidence.code.is_none() && evidence.process == Look::Gone;
    let is_bad = is_gone || status.code.is_some_and(|code| code != 0);
    ChildState {
        pid: status.pid,
        is_foreign: !status.program.is_empty(),
        is_gone,
        is_suspended: evidence.process == Look::Suspended,
        code: evidence.code,
        reason: status.reason.clone(),
        host: (evidence.process == Look::Elsewhere).then(|| status.host.clone()),
        silent_seconds: evidence.silent_seconds,
        not_recorded: status.recording_failed.as_ref().map(|why| {
            let (step, steps) = (status.step, status.steps);
            format!("recording has stopped ({why}); the run is at step {step} of {steps}")
        }),
        last_error: if is_bad { last_line(&dir.join(pp_telemetry::STDERR_FILE)) } else { None },
    }
}

impl Process {
    fn state(&self) -> Option<&ChildState> {
        match self {
            Self::Child(trainer) => Some(trainer.state()),
            Self::Found { state, .. } => Some(state),
            Self::None => None,
        }
    }

    /// Looks whether the process has ended.
    fn poll(&mut self) -> io::Result<()> {
        match self {
            Self::Child(trainer) => trainer.poll(),
            Self::Found { dir, log, state, looked } => {
                if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                    *looked = Some(Instant::now());
                    // A summary that is being replaced, or is gone, says nothing new.
                    if let Some(status) = status_of_log(dir, log) {
                        *state = found(dir, Some(&status));
                    }
                }
                Ok(())
            }
            Self::None => Ok(()),
        }
    }
}
