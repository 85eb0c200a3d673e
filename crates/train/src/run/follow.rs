//! A process that follows the run of process 0.

use std::time::{Duration, Instant};

use pp_devices::{Options, Samplers};
use pp_hybrid::Trainer;
use pp_telemetry::{Collected, Recorder};

use super::EVALUATION_ROWS;
use crate::checkpoints::parts::PartWriter;
use crate::crew::{Follower, take_dir};
use crate::ending::Stopped;
use crate::error::{ResultError, TrainError};
use crate::options::RunOptions;
use crate::profiles::Profiles;
use crate::session::{Prepared, Session};

/// Follows the run that process 0 leads, from its start to its end. It is to every other process what
/// [`Run`](super::Run) is to process 0. Records nothing.
///
/// # Errors
/// The rank of this process failed, or that of another one.
pub fn follow(prepared: Prepared, options: RunOptions) -> Result<(), Stopped> {
    let sheets = take_dir(&prepared)?;
    let mut session = prepared.cut(&mut Profiles::default(), |_| {})?;
    let origin = Instant::now();
    let mut trainer = session.trainer_of(Recorder::disabled(), origin, sheets)?;
    let (samplers, collected) = watch_here(&session, &mut trainer, &options, origin)?;
    let pieces = session.job.data.validation(EVALUATION_ROWS).map_err(ResultError::HeldOut)?;
    let Some(world) = session.config.world.clone() else { return Ok(()) };
    #[cfg(feature = "fault-injection")]
    let fault = {
        let n_ranks = session.plan.n_ranks();
        let (index, fault) = (world.0.index(), session.config.fault);
        fault.filter(|fault| {
            fault.rank.0 == index % n_ranks
                && fault.replica.is_none_or(|replica| replica.0 == index / n_ranks)
        })
    };
    let follower = Follower {
        parts: PartWriter::new(
            world,
            #[cfg(feature = "fault-injection")]
            fault,
        ),
        trainer: trainer.on_nonfinite(options.on_nonfinite),
        data: session.job.data.as_ref(),
        batch: session.batch_size as usize,
        n_before: session.steps_before(),
        pieces,
        signals: options.signals,
        collected,
    };
    let ended = follower.follow().map_err(Stopped::Failed);
    drop(samplers);
    ended
}

/// Starts the samplers of this process, with times of process 0.
fn watch_here(
    session: &Session,
    trainer: &mut Trainer,
    options: &RunOptions,
    origin: Instant,
) -> Result<(Samplers, Collected), TrainError> {
    let offsets = trainer.clock_offsets().map_err(TrainError::from)?;
    let index = session.config.world.as_ref().map_or(0, |world| world.0.index() as usize);
    let (offset_ns, _) = offsets.get(index).copied().unwrap_or_default();
    let offset = Duration::from_nanos(offset_ns.unsigned_abs());
    let began = if offset_ns < 0 { origin.checked_add(offset) } else { origin.checked_sub(offset) };
    let (recorder, collected) = Recorder::collecting();
    let samplers = samplers(session, options, began.unwrap_or(origin), &recorder);
    Ok((samplers, collected))
}

/// Starts the samplers of the GPUs, and of the threads of the ranks that compute on the CPU.
pub(super) fn samplers(
    session: &Session,
    options: &RunOptions,
    origin: Instant,
    recorder: &Recorder,
) -> Samplers {
    let mesh = &session.mesh;
    let on_gpus = !mesh.is_on_cpu();
    let mut threads = pp_devices::rank_threads();
    threads.retain(|thread| !on_gpus && thread.rank < mesh.pp() && thread.replica < mesh.dp());
    let library = options.library.clone();
    let options = Options { library, on_gpus, threads, ..Options::default() };
    Samplers::start(options, origin, recorder)
}
