//! The messages of a rank, on its own thread.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use ferrompi::{Communicator, CustomDatatype, Request, Scope, Source, Tag};
use pp_executor::{LABEL_WORDS, LinkError, Message, Port};

use crate::activity::Activity;
use crate::buffer::{Incoming, Outgoing, Slice, SliceMut};
use crate::head::{HEAD, Head, TABLE, WORDS, read_table, table};
use crate::hosts::Hosts;

/// How long the port of a rank that ends waits for what it has sent.
const LAST_SENDS: Duration = Duration::from_secs(2);

/// What MPI said.
pub(crate) fn said(error: &ferrompi::Error) -> LinkError {
    LinkError(error.to_string())
}

/// The port of one rank. Its requests belong to the thread that opened it.
pub(crate) struct MpiPort {
    scope: &'static Scope<'static, 'static>,
    comm: Arc<Communicator>,
    /// One number of 32 bits.
    number: &'static CustomDatatype,
    hosts: Arc<Hosts>,
    me: u32,
    /// The index of each MPI rank.
    index_of: Arc<[u32]>,
    activity: Arc<Activity>,
    sending: Vec<Sending>,
    receiving: VecDeque<Receiving>,
    ready: VecDeque<Message>,
    /// Room for the next message of each edge from another host, by sender and edge.
    ahead: HashMap<(u32, u32), Ahead>,
    /// Says that the port is still there.
    _alive: Rc<()>,
}

/// A message on its way out: its requests, and the memory that they read.
struct Sending {
    /// Whether it goes to another host.
    is_far: bool,
    requests: Vec<Request<'static>>,
    words: Vec<Box<[u64]>>,
    tensors: Vec<Outgoing>,
}

impl Drop for Sending {
    /// MPI may read memory whose request is not complete, so that memory is never freed.
    fn drop(&mut self) {
        if !self.requests.iter().all(Request::is_completed) {
            std::mem::forget((std::mem::take(&mut self.words), std::mem::take(&mut self.tensors)));
        }
    }
}

/// A message on its way in.
struct Receiving {
    from: u32,
    mpi_rank: i32,
    head: Head,
    /// The table, where the head has no room for it.
    table: Option<(Request<'static>, Box<[u64]>)>,
    bodies: Vec<Body>,
}

/// Room for a message that has not been announced yet.
struct Ahead {
    table: Vec<u64>,
    bodies: Vec<Body>,
}

/// A tensor on its way in.
struct Body {
    request: Request<'static>,
    /// `None` once it is taken.
    incoming: Option<Incoming>,
    /// How many numbers or bytes have arrived, when all have.
    n_received: Option<usize>,
}

impl Body {
    fn into_tensor(mut self) -> Result<Tensor, LinkError> {
        match (self.incoming.take(), self.n_received) {
            (Some(incoming), Some(n)) => incoming.into_tensor(n),
            _ => Err(LinkError("a tensor was taken before it arrived".to_owned())),
        }
    }
}

impl Drop for Body {
    /// MPI may write into memory whose request is not complete, so that memory is never freed.
    fn drop(&mut self) {
        if self.n_received.is_none() {
            std::mem::forget(self.incoming.take());
        }
    }
}

/// Opens a port on this thread for as long as `body` runs.
pub(crate) fn open(
    comm: &Arc<Communicator>,
    number: &'static CustomDatatype,
    hosts: &Arc<Hosts>,
    me: u32,
    activity: &Arc<Activity>,
    body: &mut dyn FnMut(Box<dyn Port>),
) -> Result<(), LinkError> {
    let mut index_of = vec![0; hosts.mpi_ranks.len()];
    for (index, &mpi_rank) in hosts.mpi_ranks.iter().enumerate() {
        index_of[mpi_rank as usize] = index as u32;
    }
    let opened = ferrompi::scope(|scope| {
        let alive = Rc::new(());
        let port = MpiPort {
            scope: erased(scope),
            comm: Arc::clone(comm),
            number,
            hosts: Arc::clone(hosts),
            me,
            index_of: index_of.into(),
            activity: Arc::clone(activity),
            sending: Vec::new(),
            receiving: VecDeque::new(),
            ready: VecDeque::new(),
            ahead: HashMap::new(),
            _alive: Rc::clone(&alive),
        };
        body(Box::new(port));
        if Rc::strong_count(&alive) > 1 {
            // Its requests would outlive the scope that completes them.
            std::process::abort();
        }
        Ok(())
    });
    opened.map_err(|error| said(&error))
}

/// The scope for a port, which cannot name its lifetime: the port is used through `dyn Port`.
#[expect(unsafe_code, reason = "a port behind `dyn Port` has no lifetime")]
fn erased<'s>(scope: &'s Scope<'s, '_>) -> &'static Scope<'static, 'static> {
    // SAFETY: a port cannot leave its thread, and `open` ends the process if one is left when the
    // scope ends. Buffers live longer than their requests: see `MpiPort::drop`.
    unsafe { std::mem::transmute::<&'s Scope<'s, '_>, &'static Scope<'static, 'static>>(scope) }
}

impl MpiPort {
    fn send_words(
        &self,
        words: &[u64],
        to: i32,
        tag: i32,
    ) -> Result<(Request<'static>, Box<[u64]>), LinkError> {
        let words: Box<[u64]> = words.into();
        let request = self.comm.isend(self.scope, outliving(&words), to, tag);
        Ok((request.map_err(|error| said(&error))?, words))
    }

    /// Takes the heads that have arrived, and begins to receive what they announce. Bodies follow
    /// their heads in order, so while a table is awaited no later head is looked at.
    fn take_heads(&mut self) -> Result<(), LinkError> {
        while self.receiving.back().is_none_or(|last| last.table.is_none()) {
            let found = self.comm.improbe::<u64>(Source::Any, Tag::Value(HEAD));
            let Some((message, _)) = found.map_err(|error| said(&error))? else { break };
            let mut words = [0; WORDS];
            let status = message.mrecv(&mut words).map_err(|error| said(&error))?;
            let Source::Rank(mpi_rank) = status.source else {
                return Err(LinkError("a message without a sender".to_owned()));
            };
            let head = Head::from_words(&words);
            let from = self.index_of[mpi_rank as usize];
            let mut receiving = Receiving { from, mpi_rank, head, table: None, bodies: Vec::new() };
            if let Some(table) = receiving.head.table().map(<[u64]>::to_vec) {
                self.post(&mut receiving, &table)?;
            } else {
                let mut words = vec![0; receiving.head.n_words].into_boxed_slice();
                let slice = outliving_mut(&mut words);
                let request = self.comm.irecv(self.scope, slice, mpi_rank, TABLE);
                receiving.table = Some((request.map_err(|error| said(&error))?, words));
            }
            self.receiving.push_back(receiving);
        }
        Ok(())
    }

    /// Begins to receive the tensors of a message, unless that was done ahead.
    fn post(&mut self, receiving: &mut Receiving, table: &[u64]) -> Result<(), LinkError> {
        let Receiving { from, mpi_rank, ref head, .. } = *receiving;
        let ahead = head.edge.and_then(|edge| self.ahead.remove(&(from, edge)));
        receiving.bodies = match ahead {
            Some(ahead) if ahead.table == table => ahead.bodies,
            Some(_) => {
                let why =
                    format!("a message of process {from} has other shapes than those before it");
                return Err(LinkError(why));
            }
            None => self.bodies(mpi_rank, head.tag(), table, head.n_tensors)?,
        };
        Ok(())
    }

    /// Makes room for the message that follows one on its edge, where it comes from another host: it
    /// then moves while the rank computes.
    fn post_next(&mut self, receiving: &Receiving, table: Vec<u64>) -> Result<(), LinkError> {
        let Receiving { from, mpi_rank, ref head, .. } = *receiving;
        let Some(edge) = head.edge.filter(|_| self.is_far(from)) else { return Ok(()) };
        // What is announced already comes first, and has room of its own.
        let is_same = |of: &Receiving| of.from == from && of.head.edge == Some(edge);
        if self.ahead.contains_key(&(from, edge)) || self.receiving.iter().any(is_same) {
            return Ok(());
        }
        let bodies = self.bodies(mpi_rank, head.tag(), &table, head.n_tensors)?;
        self.ahead.insert((from, edge), Ahead { table, bodies });
        Ok(())
    }

    /// Whether a process is on another host.
    fn is_far(&self, index: u32) -> bool {
        self.hosts.names[index as usize] != self.hosts.names[self.me as usize]
    }

    /// Begins to receive tensors of known types and shapes.
    #[expect(unsafe_code, reason = "requests outlive the functions that start them")]
    fn bodies(
        &self,
        from: i32,
        tag: i32,
        table: &[u64],
        n_tensors: usize,
    ) -> Result<Vec<Body>, LinkError> {
        let mut bodies = Vec::with_capacity(n_tensors);
        for (dtype, shape) in read_table(table, n_tensors)? {
            let mut incoming = Incoming::new(dtype, shape)?;
            // SAFETY: `incoming` is kept beside the request until that is complete, and its memory
            // lies on the heap, where it stays when `incoming` moves. This is the only slice of it.
            let request = match unsafe { incoming.slice() } {
                SliceMut::F32(slice) => {
                    self.comm.irecv_custom(self.scope, slice, self.number, from, tag)
                }
                SliceMut::Bytes(slice) => self.comm.irecv(self.scope, slice, from, tag),
            };
            let request = request.map_err(|error| said(&error))?;
            bodies.push(Body { request, incoming: Some(incoming), n_received: None });
        }
        Ok(bodies)
    }

    /// Messages to and from other hosts that are under way. Those between processes of one host need
    /// nobody to keep them moving: their receiver copies them at once.
    fn count_pending(&self) {
        let sending = self.sending.iter().filter(|sending| sending.is_far).count();
        let receiving = self.receiving.iter().filter(|of| self.is_far(of.from)).count();
        self.activity.set_pending(sending + receiving + self.ahead.len());
    }

    /// Looks which messages are complete.
    fn test_receives(&mut self) -> Result<(), LinkError> {
        for at in 0..self.receiving.len() {
            if let Some((request, _)) = &mut self.receiving[at].table
                && is_done(request)?
                && let Some((_, words)) = self.receiving[at].table.take()
            {
                let Some(mut receiving) = self.receiving.remove(at) else { continue };
                self.post(&mut receiving, &words)?;
                self.receiving.insert(at, receiving);
            }
        }
        let mut at = 0;
        while at < self.receiving.len() {
            let receiving = &mut self.receiving[at];
            let mut is_whole = receiving.table.is_none();
            for body in receiving.bodies.iter_mut().filter(|body| body.n_received.is_none()) {
                let status = body.request.test().map_err(|error| said(&error))?;
                body.n_received = status.map(|status| status.count.unwrap_or(0));
                is_whole &= body.n_received.is_some();
            }
            if !is_whole {
                at += 1;
                continue;
            }
            let Some(mut receiving) = self.receiving.remove(at) else { break };
            if let Some(table) = receiving.head.table().map(<[u64]>::to_vec) {
                self.post_next(&receiving, table)?;
            }
            let bodies = std::mem::take(&mut receiving.bodies);
            let Receiving { from, head, .. } = receiving;
            let tensors = bodies.into_iter().map(Body::into_tensor);
            let tensors = tensors.collect::<Result<_, _>>()?;
            self.ready.push_back(Message { from, label: head.label, tensors });
        }
        Ok(())
    }

    fn test_sends(&mut self) -> Result<(), LinkError> {
        let mut at = 0;
        while at < self.sending.len() {
            let mut is_sent = true;
            for request in &mut self.sending[at].requests {
                is_sent &= is_done(request)?;
            }
            if is_sent {
                self.sending.remove(at);
            } else {
                at += 1;
            }
        }
        Ok(())
    }
}

/// Whether a request is complete; asked again it says the same.
fn is_done(request: &mut Request<'static>) -> Result<bool, LinkError> {
    if request.is_completed() {
        return Ok(true);
    }
    Ok(request.test().map_err(|error| said(&error))?.is_some())
}

/// Words that a request reads while their box is kept beside it.
#[expect(unsafe_code, reason = "requests outlive the functions that start them")]
fn outliving(words: &[u64]) -> &'static [u64] {
    let words: *const [u64] = words;
    // SAFETY: all callers keep the box beside the request until that is complete, and a box does not
    // move what is in it.
    unsafe { &*words }
}

/// Words that a request writes while their box is kept beside it.
#[expect(unsafe_code, reason = "requests outlive the functions that start them")]
fn outliving_mut(words: &mut [u64]) -> &'static mut [u64] {
    let words: *mut [u64] = words;
    // SAFETY: as above, and nobody looks at the words before the request is complete.
    unsafe { &mut *words }
}

impl Port for MpiPort {
    #[expect(unsafe_code, reason = "requests outlive the functions that start them")]
    fn send(
        &mut self,
        to: u32,
        label: [u64; LABEL_WORDS],
        edge: Option<u32>,
        tensors: Vec<Tensor>,
    ) -> Result<(), LinkError> {
        let is_far = self.is_far(to);
        let to = self.hosts.mpi_ranks[to as usize];
        let table = table(&tensors)?;
        let head = Head::new(label, edge, tensors.len(), &table);
        let (request, words) = self.send_words(&head.to_words(), to, HEAD)?;
        let mut sending =
            Sending { is_far, requests: vec![request], words: vec![words], tensors: Vec::new() };
        if head.table().is_none() {
            let (request, words) = self.send_words(&table, to, TABLE)?;
            sending.requests.push(request);
            sending.words.push(words);
        }
        for tensor in &tensors {
            let outgoing = Outgoing::new(tensor)?;
            // SAFETY: `outgoing` is kept beside the request until that is complete, and the rule of
            // `Port::send` says that nobody changes the tensor before.
            let request = match unsafe { outgoing.slice()? } {
                Slice::F32(slice) => self.comm.isend(self.scope, slice, to, head.tag()),
                Slice::Bytes(slice) => self.comm.isend(self.scope, slice, to, head.tag()),
            };
            sending.requests.push(request.map_err(|error| said(&error))?);
            sending.tensors.push(outgoing);
        }
        self.sending.push(sending);
        self.count_pending();
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Message>, LinkError> {
        self.activity.polled();
        if let Some(message) = self.ready.pop_front() {
            return Ok(Some(message));
        }
        self.test_sends()?;
        self.take_heads()?;
        self.test_receives()?;
        self.count_pending();
        Ok(self.ready.pop_front())
    }
}

impl Drop for MpiPort {
    /// What is still on its way keeps its memory for ever: MPI may read and write it until the
    /// process ends, which is soon.
    fn drop(&mut self) {
        let begun = Instant::now();
        while !self.sending.is_empty() && begun.elapsed() < LAST_SENDS {
            if self.test_sends().is_err() {
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        // Nobody sends these any more.
        for body in self.ahead.values_mut().flat_map(|ahead| &mut ahead.bodies) {
            let _ = body.request.cancel();
            while begun.elapsed() < LAST_SENDS && matches!(body.request.test(), Ok(None)) {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        std::mem::forget(std::mem::take(&mut self.ahead));
        std::mem::forget(std::mem::take(&mut self.sending));
        std::mem::forget(std::mem::take(&mut self.receiving));
    }
}
