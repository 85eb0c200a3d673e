//! The time in which a process takes part in an MPI job.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use ferrompi::{CustomDatatype, Mpi, ThreadLevel};
use pp_executor::{LinkError, World};

use crate::activity::Activity;
use crate::hosts::{self, Hosts};
use crate::watch::{Seen, Watch};
use crate::world::MpiWorld;

/// Why a process cannot take part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MpiError {
    /// MPI refused a call.
    #[error("MPI: {0}")]
    Mpi(#[from] ferrompi::Error),
    /// The library was not built for several threads.
    #[error(
        "this MPI library lets only one thread make calls ({0:?}); use one that supports MPI_THREAD_MULTIPLE"
    )]
    Threads(ThreadLevel),
    /// The system has no thread left.
    #[error("the thread that watches the other processes could not be started")]
    Spawn(#[source] std::io::Error),
    /// Another process is gone, or failed.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A process in an MPI job, from its first call to its last. It stays on the thread that began it.
pub struct Session {
    world: Arc<MpiWorld>,
    watch: Option<JoinHandle<()>>,
    /// Dropping it waits for all other processes.
    mpi: Option<Mpi>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.world.index(), self.world.size())
    }
}

impl Session {
    /// Joins the MPI job that this process was started in. A process that is silent for longer than
    /// `silence` counts as lost.
    ///
    /// A session that is dropped before [`Session::end`] ends all processes.
    ///
    /// # Errors
    /// MPI cannot be used.
    pub fn begin(silence: Duration) -> Result<Self, MpiError> {
        let mpi = Mpi::init_thread(ThreadLevel::Multiple)?;
        if mpi.thread_level() != ThreadLevel::Multiple {
            return Err(MpiError::Threads(mpi.thread_level()));
        }
        match Self::join(&mpi, silence) {
            Ok((world, watch)) => Ok(Self { world, watch: Some(watch), mpi: Some(mpi) }),
            Err(error) => {
                // Dropping it would wait for the others, and they for this process. It ends soon, and
                // the launcher then ends all.
                std::mem::forget(mpi);
                Err(error)
            }
        }
    }

    fn join(mpi: &Mpi, silence: Duration) -> Result<(Arc<MpiWorld>, JoinHandle<()>), MpiError> {
        let all = mpi.world();
        let own = hosts::tell(&all.processor_name()?);
        let mut told = vec![0; own.len() * all.size() as usize];
        all.allgather(&own, &mut told)?;
        let hosts = Arc::new(Hosts::new(told.as_chunks().0));
        let mpi_rank = all.rank();
        let me = hosts.mpi_ranks.iter().position(|&rank| rank == mpi_rank).unwrap_or_default();
        let world = Arc::new(MpiWorld {
            me: me as u32,
            hosts,
            ranks: Arc::new(all.duplicate()?),
            watch: Arc::new(all.duplicate()?),
            given: all.duplicate()?,
            // Requests use it until the process ends.
            number: Box::leak(Box::new(CustomDatatype::contiguous::<f32>(1)?)),
            activity: Arc::new(Activity::default()),
            seen: Arc::new(Seen::default()),
        });
        let watch = Watch {
            ranks: Arc::clone(&world.ranks),
            watchers: Arc::clone(&world.watch),
            hosts: Arc::clone(&world.hosts),
            me: world.me,
            activity: Arc::clone(&world.activity),
            seen: Arc::clone(&world.seen),
            silence,
        };
        let watch = std::thread::Builder::new().name("mpi".to_owned()).spawn(|| watch.run());
        Ok((world, watch.map_err(MpiError::Spawn)?))
    }

    /// The processes of the job.
    pub fn world(&self) -> Arc<dyn World> {
        Arc::clone(&self.world) as Arc<dyn World>
    }

    /// A communicator of its own for the caller, to measure MPI alone. All processes call this at the
    /// same time.
    ///
    /// # Errors
    /// MPI refuses it.
    pub fn communicator(&self) -> Result<ferrompi::Communicator, MpiError> {
        let mpi = self.mpi.as_ref().ok_or(ferrompi::Error::Finalized)?;
        Ok(mpi.world().duplicate()?)
    }

    /// The MPI library, in one line.
    ///
    /// # Errors
    /// MPI does not tell.
    pub fn library(&self) -> Result<String, MpiError> {
        let version = Mpi::library_version()?;
        let first = version.split(['\n', ',']).next().unwrap_or_default();
        Ok(first.trim_end_matches('\0').to_owned())
    }

    /// Ends this process's part, together with all others.
    ///
    /// # Errors
    /// Another process does not come to the end. Call [`World::abort`] then.
    pub fn end(mut self) -> Result<(), MpiError> {
        if let Err(error) = self.world.meet() {
            // Not dropped: that would wait for processes that never come.
            std::mem::forget(self);
            return Err(error.into());
        }
        self.world.seen.is_over.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            // It has no panic to tell.
            let _ = watch.join();
        }
        drop(self.mpi.take());
        Ok(())
    }
}

impl Drop for Session {
    /// A process that leaves early, by an error or a panic, ends all: otherwise it would wait for
    /// them, and they for it, for ever.
    fn drop(&mut self) {
        if self.mpi.is_some() {
            self.world.abort(EARLY);
        }
    }
}

/// The exit code of a process that leaves early: that of a panic.
const EARLY: i32 = 101;
