//! The inputs of a rank's ops, and what its ops made for other ranks.

use std::collections::HashMap;
use std::sync::Arc;

use pp_schedule::{Payload, Rank};

use crate::boundary::Tensors;
use crate::error::RankError;
use crate::lane::{Lent, Made};
use crate::link::{self, Address, Key, Mailbox, Received};

type Result<T> = std::result::Result<T, RankError>;

pub(crate) struct Post {
    /// The mailboxes of this replica, by rank.
    addresses: Arc<[Address]>,
    mailbox: Mailbox,
    /// The inputs of later ops: received from the mailbox, or made by another stage of this rank.
    inputs: HashMap<Key, Tensors>,
    /// What ops made for other ranks and is not sent yet.
    outgoing: HashMap<Key, Tensors>,
    /// What was sent and is not copied yet.
    lent: Lent,
}

impl Post {
    pub(crate) fn new(addresses: Arc<[Address]>, mailbox: Mailbox) -> Self {
        Self {
            addresses,
            mailbox,
            inputs: HashMap::new(),
            outgoing: HashMap::new(),
            lent: Lent::default(),
        }
    }

    /// Waits for a message of another rank.
    pub(crate) fn receive(&mut self, key: Key) -> Result<Received> {
        self.mailbox.receive(key).map_err(|_| RankError::Stopped)
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
        self.addresses[to.idx()].send(key, tensors, made, given);
        Ok(bytes)
    }

    /// Lets go of what others have copied.
    pub(crate) fn let_go(&mut self) -> Result<()> {
        Ok(self.lent.let_go()?)
    }

    /// The most messages that waited since the last call.
    pub(crate) fn take_peak(&self) -> u32 {
        self.mailbox.take_peak()
    }
}
