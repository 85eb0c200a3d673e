//! The inputs of a rank's ops, and what its ops made for other ranks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use pp_schedule::{Payload, Rank};

use crate::boundary::Tensors;
use crate::error::RankError;
use crate::lane::{Lent, Made};
use crate::link::{self, Address, Event, Key, Mailbox};
use crate::world::SharedLinks;

type Result<T> = std::result::Result<T, RankError>;

/// The ways to the other ranks of the replica.
pub(crate) enum Neighbours {
    /// They are threads of this process.
    Threads {
        /// The mailboxes of all ranks, replica by replica.
        addresses: Arc<[Address]>,
        /// The index of the first rank of this replica.
        first: usize,
        /// That of this rank.
        mailbox: Rc<RefCell<Mailbox>>,
    },
    /// They are other processes.
    World(SharedLinks),
}

pub(crate) struct Post {
    links: Neighbours,
    /// The inputs of later ops: received from the mailbox, or made by another stage of this rank.
    inputs: HashMap<Key, Tensors>,
    /// What ops made for other ranks and is not sent yet.
    outgoing: HashMap<Key, Tensors>,
    /// What was sent and is not copied yet.
    lent: Lent,
}

impl Post {
    pub(crate) fn new(links: Neighbours) -> Self {
        Self { links, inputs: HashMap::new(), outgoing: HashMap::new(), lent: Lent::default() }
    }

    /// Waits for a message of another rank, or until there are sums of another copy.
    pub(crate) fn receive(&mut self, key: Key) -> Result<Event> {
        match &mut self.links {
            Neighbours::Threads { mailbox, .. } => {
                mailbox.borrow_mut().receive(key).map_err(|_| RankError::Stopped)
            }
            Neighbours::World(links) => links.borrow_mut().receive_boundary(key),
        }
    }

    /// Moves messages on. Threads have nothing to do for it.
    pub(crate) fn poll(&mut self) -> Result<()> {
        match &mut self.links {
            Neighbours::Threads { .. } => Ok(()),
            Neighbours::World(links) => links.borrow_mut().poll(),
        }
    }

    /// The links to other processes, if that is where the other ranks are.
    pub(crate) fn world(&self) -> Option<&SharedLinks> {
        match &self.links {
            Neighbours::Threads { .. } => None,
            Neighbours::World(links) => Some(links),
        }
    }

    /// Keeps the input of a later op of this rank.
    pub(crate) fn keep(&mut self, key: Key, tensors: Tensors) {
        self.inputs.insert(key, tensors);
    }

    /// Takes the input of an op.
    pub(crate) fn take(&mut self, key: Key) -> Result<Tensors> {
        let what = match key.payload {
            Payload::Activation => "the input of a forward",
            Payload::Gradient => "the gradient of the outputs",
        };
        self.inputs.remove(&key).ok_or(RankError::Missing(what))
    }

    /// Keeps what an op made for another rank until it is sent.
    pub(crate) fn put_out(&mut self, key: Key, tensors: Tensors) {
        self.outgoing.insert(key, tensors);
    }

    /// Sends what was put out, and returns its bytes. `given` as in [`Address::send`]; `made` tells
    /// of the queue in which it is made.
    pub(crate) fn send(
        &mut self,
        key: Key,
        to: Rank,
        made: Option<Made>,
        given: bool,
    ) -> Result<u64> {
        let tensors = self.outgoing.remove(&key).ok_or(RankError::Missing("a message to send"))?;
        let bytes = link::bytes(&tensors) as u64;
        self.lent.keep(&tensors, made.as_ref())?;
        match &mut self.links {
            Neighbours::Threads { addresses, first, .. } => {
                addresses[*first + to.idx()].send(key, tensors, made, given);
            }
            Neighbours::World(links) => links.borrow_mut().send_boundary(to.0, key, tensors)?,
        }
        Ok(bytes)
    }

    /// Lets go of what others have copied.
    pub(crate) fn let_go(&mut self) -> Result<()> {
        Ok(self.lent.let_go()?)
    }

    /// The most messages that waited since the last call.
    pub(crate) fn take_peak(&self) -> u32 {
        match &self.links {
            Neighbours::Threads { mailbox, .. } => mailbox.borrow().take_peak(),
            Neighbours::World(links) => links.borrow_mut().take_peak(),
        }
    }
}
