//! A world whose processes are threads of one, for tests.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::{LABEL_WORDS, LinkError, Message, Port, Trouble, World};
use crate::progress::Progress;

/// The worlds of `n` processes that are threads of this one. Each is for one [`Ranks`] on a thread
/// of its own.
///
/// [`Ranks`]: crate::Ranks
pub fn threads_as_processes(n: u32) -> Vec<Arc<dyn World>> {
    let (senders, receivers): (Vec<Sender<Message>>, Vec<Receiver<Message>>) =
        (0..n).map(|_| channel()).unzip();
    let senders: Arc<[Sender<Message>]> = senders.into();
    let shared = Arc::new(Shared::default());
    let hosts: Vec<String> = (0..n).map(|index| format!("host{}", index / 2)).collect();
    let world = |(index, receiver): (usize, Receiver<Message>)| {
        let world = Double {
            index: index as u32,
            hosts: hosts.clone(),
            senders: Arc::clone(&senders),
            receiver: Mutex::new(Some(receiver)),
            shared: Arc::clone(&shared),
            heard: Mutex::new(0),
        };
        Arc::new(world) as Arc<dyn World>
    };
    receivers.into_iter().enumerate().map(world).collect()
}

/// What all processes see.
#[derive(Default)]
struct Shared {
    /// What process 0 has given to all.
    given: Mutex<Vec<Vec<u8>>>,
    changed: Condvar,
    trouble: Mutex<Option<Trouble>>,
    notes: Mutex<Vec<(u32, Vec<u8>)>>,
}

struct Double {
    index: u32,
    hosts: Vec<String>,
    senders: Arc<[Sender<Message>]>,
    receiver: Mutex<Option<Receiver<Message>>>,
    shared: Arc<Shared>,
    /// How much of what process 0 has given this process has taken.
    heard: Mutex<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World for Double {
    fn size(&self) -> u32 {
        self.senders.len() as u32
    }

    fn index(&self) -> u32 {
        self.index
    }

    fn hosts(&self) -> &[String] {
        &self.hosts
    }

    fn cores(&self) -> u32 {
        1
    }

    fn spins(&self) -> bool {
        false
    }

    fn open(&self, body: &mut dyn FnMut(Box<dyn Port>)) -> Result<(), LinkError> {
        let receiver = lock(&self.receiver).take();
        let receiver =
            receiver.ok_or_else(|| LinkError("the links are open already".to_owned()))?;
        let senders = Arc::clone(&self.senders);
        body(Box::new(DoublePort { index: self.index, senders, receiver, late: VecDeque::new() }));
        Ok(())
    }

    fn broadcast(&self, bytes: Option<Vec<u8>>) -> Result<Vec<u8>, LinkError> {
        let mut given = lock(&self.shared.given);
        let mut heard = lock(&self.heard);
        if let Some(bytes) = bytes {
            given.push(bytes);
            self.shared.changed.notify_all();
        }
        while given.len() <= *heard {
            given = self.shared.changed.wait(given).unwrap_or_else(PoisonError::into_inner);
        }
        *heard += 1;
        Ok(given[*heard - 1].clone())
    }

    fn note(&self, bytes: Vec<u8>) -> Result<(), LinkError> {
        lock(&self.shared.notes).push((self.index, bytes));
        Ok(())
    }

    fn notes(&self) -> Vec<(u32, Vec<u8>)> {
        std::mem::take(&mut lock(&self.shared.notes))
    }

    fn watch(&self, _: Progress) {}

    fn fail(&self, notice: Vec<u8>) {
        let mut trouble = lock(&self.shared.trouble);
        trouble.get_or_insert_with(|| Trouble::Told { from: self.index, notice: notice.into() });
    }

    fn trouble(&self) -> Option<Trouble> {
        let trouble = lock(&self.shared.trouble).clone();
        trouble.filter(|t| !matches!(t, Trouble::Told { from, .. } if *from == self.index))
    }

    fn hurried(&self) -> Arc<AtomicBool> {
        Arc::default()
    }

    fn abort(&self, code: i32) -> ! {
        panic!("process {} ends all with code {code}", self.index)
    }
}

struct DoublePort {
    index: u32,
    senders: Arc<[Sender<Message>]>,
    receiver: Receiver<Message>,
    /// Messages that are held back, so that they overtake each other.
    late: VecDeque<Message>,
}

impl Port for DoublePort {
    fn send(
        &mut self,
        to: u32,
        label: [u64; LABEL_WORDS],
        _: Option<u32>,
        tensors: Vec<Tensor>,
    ) -> Result<(), LinkError> {
        // Another process has tensors of its own.
        let copies = tensors.iter().map(|tensor| tensor.contiguous()?.copy());
        let tensors = copies.collect::<candle_core::Result<_>>();
        let tensors = tensors.map_err(|error| LinkError(error.to_string()))?;
        let sent = self.senders[to as usize].send(Message { from: self.index, label, tensors });
        sent.map_err(|_| LinkError(format!("process {to} is gone")))
    }

    /// Every second message comes later than the one behind it.
    fn poll(&mut self) -> Result<Option<Message>, LinkError> {
        self.late.extend(self.receiver.try_iter());
        Ok(if self.late.len() > 1 { self.late.pop_back() } else { self.late.pop_front() })
    }
}
