//! What comes in for the ops of a rank, and what goes out.

use std::collections::HashMap;
use std::sync::Arc;

use pp_schedule::{Payload, Rank};

use crate::error::RankError;
use crate::link::{self, Address, Key, Mailbox, Tensors};

type Result<T> = std::result::Result<T, RankError>;

pub(crate) struct Post {
    /// The mailboxes of this replica, by rank.
    addresses: Arc<[Address]>,
    mailbox: Mailbox,
    /// What ops to come start from: taken over from the mailbox, or made by another stage of this
    /// rank.
    inputs: HashMap<Key, Tensors>,
    /// What was made for other ranks and is not sent yet.
    outgoing: HashMap<Key, Tensors>,
}

impl Post {
    pub(crate) fn new(addresses: Arc<[Address]>, mailbox: Mailbox) -> Self {
        Self { addresses, mailbox, inputs: HashMap::new(), outgoing: HashMap::new() }
    }

    /// Waits for a message of another rank. `true` beside it: it was there already.
    pub(crate) fn receive(&mut self, key: Key) -> Result<(Tensors, bool)> {
        self.mailbox.receive(key).map_err(|_| RankError::Stopped)
    }

    /// Keeps what an op of this rank will start from.
    pub(crate) fn keep(&mut self, key: Key, tensors: Tensors) {
        self.inputs.insert(key, tensors);
    }

    /// What an op starts from.
    pub(crate) fn take(&mut self, key: Key) -> Result<Tensors> {
        let what = match key.payload {
            Payload::Activation => "the input of a forward",
            Payload::Gradient => "the gradient of the outputs",
        };
        self.inputs.remove(&key).ok_or(RankError::Missing(what))
    }

    /// Puts down what an op made for another rank.
    pub(crate) fn put_out(&mut self, key: Key, tensors: Tensors) {
        self.outgoing.insert(key, tensors);
    }

    /// Sends what was put out; how many bytes it has. `given` as in [`Address::send`].
    pub(crate) fn send(&mut self, key: Key, to: Rank, given: bool) -> Result<u64> {
        let tensors = self.outgoing.remove(&key).ok_or(RankError::Missing("a message to send"))?;
        let bytes = link::bytes(&tensors) as u64;
        self.addresses[to.idx()].send(key, tensors, given);
        Ok(bytes)
    }

    /// The most messages that waited since the last call.
    pub(crate) fn take_peak(&self) -> u32 {
        self.mailbox.take_peak()
    }
}
