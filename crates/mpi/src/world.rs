//! The processes of an MPI job, as the world of a run.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ferrompi::{Communicator, CustomDatatype, PersistentRequest, Tag};
use pp_executor::{LinkError, Port, Progress, Trouble, World};

use crate::activity::Activity;
use crate::hosts::Hosts;
use crate::port::{self, said};
use crate::watch::{NOTE, Seen, fail, pieces};

/// Tags of what process 0 gives to all.
const LENGTH: i32 = 1;
const BYTES: i32 = 2;
/// How often a wait outside the ranks looks.
const LOOK: Duration = Duration::from_micros(200);

pub(crate) struct MpiWorld {
    pub(crate) me: u32,
    pub(crate) hosts: Arc<Hosts>,
    /// Communicators of their own, so that no message is taken for another kind: of the ranks, of
    /// the watching threads, and of what process 0 gives to all.
    pub(crate) ranks: Arc<Communicator>,
    pub(crate) watch: Arc<Communicator>,
    pub(crate) given: Communicator,
    /// One number of 32 bits.
    pub(crate) number: &'static CustomDatatype,
    pub(crate) activity: Arc<Activity>,
    pub(crate) seen: Arc<Seen>,
}

impl MpiWorld {
    /// Starts a request outside the ranks, and waits for it.
    fn complete<T: ferrompi::MpiDatatype>(
        &self,
        mut request: PersistentRequest<T>,
    ) -> Result<PersistentRequest<T>, LinkError> {
        request.start().map_err(|error| said(&error))?;
        loop {
            let tested = request.test().map_err(|error| said(&error));
            match tested.and_then(|done| {
                if done.is_some() { Ok(true) } else { self.check().map(|()| false) }
            }) {
                Ok(true) => return Ok(request),
                Ok(false) => std::thread::sleep(LOOK),
                Err(error) => {
                    // Dropping it would wait for a message that never comes. The process ends soon.
                    std::mem::forget(request);
                    return Err(error);
                }
            }
        }
    }

    fn check(&self) -> Result<(), LinkError> {
        let host = |index: u32| self.hosts.names.get(index as usize).cloned().unwrap_or_default();
        match self.seen.trouble() {
            None => Ok(()),
            Some(Trouble::Told { from, notice }) => {
                let (host, why) = (host(from), Trouble::why(&notice));
                Err(LinkError(format!("process {from} on {host} cannot go on: {why}")))
            }
            Some(Trouble::Lost { index, silent }) => Err(LinkError(format!(
                "process {index} on {} is silent for {:.1} s: it is gone, stopped, or cannot be reached",
                host(index),
                silent.as_secs_f64()
            ))),
        }
    }

    /// Waits until all processes are here.
    pub(crate) fn meet(&self) -> Result<(), LinkError> {
        if self.me > 0 {
            self.send(0, vec![0])?;
        } else {
            for from in 1..self.size() {
                self.receive(from)?;
            }
        }
        self.broadcast((self.me == 0).then(|| vec![0])).map(drop)
    }

    fn send(&self, to: u32, bytes: Vec<u8>) -> Result<(), LinkError> {
        let to = self.hosts.mpi_ranks[to as usize];
        let length = vec![bytes.len() as u64];
        let length = self.given.send_init(length, to, LENGTH).map_err(|e| said(&e))?;
        self.complete(length)?;
        let request = self.given.send_init(bytes, to, BYTES).map_err(|e| said(&e))?;
        self.complete(request).map(drop)
    }

    fn receive(&self, from: u32) -> Result<Vec<u8>, LinkError> {
        let from = self.hosts.mpi_ranks[from as usize];
        let tag = Tag::Value(LENGTH);
        let length = self.given.recv_init(vec![0_u64], from, tag).map_err(|e| said(&e))?;
        let length = self.complete(length)?.into_buffer().map_err(|error| said(&error))?;
        let bytes = vec![0_u8; length.first().copied().unwrap_or(0) as usize];
        let tag = Tag::Value(BYTES);
        let request = self.given.recv_init(bytes, from, tag).map_err(|e| said(&e))?;
        self.complete(request)?.into_buffer().map_err(|error| said(&error))
    }
}

impl World for MpiWorld {
    fn size(&self) -> u32 {
        self.hosts.mpi_ranks.len() as u32
    }

    fn index(&self) -> u32 {
        self.me
    }

    fn hosts(&self) -> &[String] {
        &self.hosts.names
    }

    fn cores(&self) -> u32 {
        self.hosts.n_cores
    }

    fn spins(&self) -> bool {
        self.hosts.has_core[self.me as usize]
    }

    fn open(&self, body: &mut dyn FnMut(Box<dyn Port>)) -> Result<(), LinkError> {
        port::open(&self.ranks, self.number, &self.hosts, self.me, &self.activity, body)
    }

    fn broadcast(&self, bytes: Option<Vec<u8>>) -> Result<Vec<u8>, LinkError> {
        match bytes {
            Some(bytes) => {
                for to in 1..self.size() {
                    self.send(to, bytes.clone())?;
                }
                Ok(bytes)
            }
            None => self.receive(0),
        }
    }

    fn note(&self, bytes: Vec<u8>) -> Result<(), LinkError> {
        for piece in pieces(&bytes) {
            let request = self.watch.send_init(piece, self.hosts.mpi_ranks[0], NOTE);
            self.complete(request.map_err(|error| said(&error))?)?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<(u32, Vec<u8>)> {
        self.seen.notes()
    }

    fn watch(&self, progress: Progress) {
        self.seen.watch(progress);
    }

    fn fail(&self, notice: Vec<u8>) {
        fail(&self.watch, &self.hosts, self.me, &notice);
    }

    fn trouble(&self) -> Option<Trouble> {
        self.seen.trouble()
    }

    fn hurried(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.seen.is_hurried)
    }

    fn abort(&self, code: i32) -> ! {
        self.watch.abort(code)
    }
}
