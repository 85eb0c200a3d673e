//! The walk of one rank along its row: receive, compute, send. Training and evaluation differ in
//! what an op does, not in the walk.

use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use pp_schedule::{Instruction, LoweredPlan, Op, Payload, Rank, Transfer, ValidPlan, lower};
use pp_trace::SpanKind;

use crate::boundary::Tensors;
use crate::config::Pace;
use crate::error::RankError;
use crate::journal::{Journal, Place};
use crate::lane::Lane;
use crate::link::{self, Event, Key, Received};
use crate::post::Post;
use crate::progress::{Doing, Reporter};

type Result<T> = std::result::Result<T, RankError>;

/// A plan with its messages. It is made from a valid plan alone, so no other order is ever walked.
pub(crate) struct Route {
    plan: Arc<ValidPlan>,
    lowered: LoweredPlan,
}

impl Route {
    pub(crate) fn new(plan: Arc<ValidPlan>) -> Self {
        let lowered = lower(&plan);
        Self { plan, lowered }
    }

    pub(crate) fn plan(&self) -> &ValidPlan {
        &self.plan
    }
}

/// The work of the ops of a row: a training step or an evaluation.
pub(crate) trait Pass {
    /// Whether the journal takes spans of it.
    const IS_RECORDED: bool;

    /// Runs an op; `input` is what another op made for it. Returns what it makes for another op,
    /// which is dropped where no op takes it. Spans of work beside the op go to `journal`.
    fn compute(&mut self, op: Op, input: Option<Tensors>, journal: &mut Journal)
    -> Result<Tensors>;

    /// Does work that no op waits for, as far as it can be done now: before each instruction, and
    /// while the rank waits.
    fn advance(&mut self, _: &mut Journal) -> Result<()> {
        Ok(())
    }

    /// Whether this rank keeps no handle of what it sends, so that the memory is the receiver's.
    fn gives_away(&self, transfer: Transfer) -> bool;
}

/// What a rank needs to run a row, in training and in evaluation.
pub(crate) struct Walk {
    pub(crate) rank: Rank,
    pace: Option<Pace>,
    pub(crate) post: Post,
    pub(crate) journal: Journal,
    pub(crate) progress: Reporter,
}

impl Walk {
    pub(crate) fn new(
        rank: Rank,
        pace: Option<Pace>,
        post: Post,
        journal: Journal,
        progress: Reporter,
    ) -> Self {
        Self { rank, pace, post, journal, progress }
    }

    /// Walks this rank's row of `route` from its first instruction to its last. What arrives goes
    /// to the device of `lane`. After an error the table of progress still names the op.
    pub(crate) fn along<P: Pass>(
        &mut self,
        route: &Route,
        lane: &Lane,
        pass: &mut P,
    ) -> Result<()> {
        self.journal.set_open(P::IS_RECORDED);
        let row = &route.lowered.rows[self.rank.idx()];
        for (at, instruction) in row.iter().enumerate() {
            self.post.poll()?;
            pass.advance(&mut self.journal)?;
            match *instruction {
                Instruction::Recv(transfer) => {
                    let key = Key::from(transfer);
                    if let Some(op) = reader(&row[at..], key) {
                        self.progress.set(Doing::Awaiting(op));
                    }
                    self.receive(key, lane, pass)?;
                }
                // The halves of an overlapped pair run one after the other here; both results leave
                // at its end.
                Instruction::Compute(action) => {
                    for op in action.ops() {
                        self.progress.set(Doing::Computing(op));
                        self.compute(&route.plan, op, lane, pass)?;
                    }
                }
                Instruction::Send(transfer) => {
                    self.send(transfer, lane, pass.gives_away(transfer))?;
                }
            }
        }
        self.progress.set(Doing::Idle);
        self.journal.set_open(true);
        Ok(())
    }

    /// Waits for a message. Waiting and taking over are spans of their own.
    fn receive(&mut self, key: Key, lane: &Lane, pass: &mut impl Pass) -> Result<()> {
        let kind = match key.payload {
            Payload::Activation => SpanKind::WaitAct,
            Payload::Gradient => SpanKind::WaitGrad,
        };
        let place = Place { kind, stage: key.to_stage, micro_batch: key.micro_batch };
        let wait = self.journal.now(lane)?;
        let mut has_waited = false;
        let Received { tensors, made, at_once } = loop {
            match self.post.receive(key)? {
                Event::Received(received) => break received,
                Event::Sums(at_once) => {
                    has_waited |= !at_once;
                    pass.advance(&mut self.journal)?;
                }
            }
        };
        let at_once = at_once && !has_waited;
        lane.await_made(made.as_ref())?;
        let arrived = self.journal.now(lane)?;
        if !at_once || made.is_some() {
            // Whether a device had to wait, only its own clock knows.
            self.journal.moved(place, wait, arrived.clone(), 0);
        }
        let bytes = link::bytes(&tensors) as u64;
        let tensors = lane.take_over(tensors, made.as_ref())?;
        let end = self.journal.now(lane)?;
        let place = Place { kind: SpanKind::Recv, ..place };
        self.journal.moved(place, arrived, end, bytes);
        self.post.keep(key, tensors);
        Ok(())
    }

    /// Runs an op, and puts what it made where the op that it feeds will find it.
    fn compute(
        &mut self,
        plan: &ValidPlan,
        op: Op,
        lane: &Lane,
        pass: &mut impl Pass,
    ) -> Result<()> {
        let started = self.journal.start(lane)?;
        let begun = Instant::now();
        let input = plan.input_stage(op).map(|_| self.post.take(Key::of(op, op.stage)));
        let made = pass.compute(op, input.transpose()?, &mut self.journal)?;
        if let Some(pace) = &self.pace {
            std::thread::sleep(pace(self.rank, op).saturating_sub(begun.elapsed()));
        }
        if let Some(to_stage) = plan.output_stage(op) {
            let key = Key::of(op, to_stage);
            if plan.rank_of(to_stage, op.micro_batch) == self.rank {
                self.post.keep(key, made);
            } else {
                // Another process gets bytes of the host.
                let is_remote = self.post.world().is_some();
                let to_send =
                    |t: Tensor| if is_remote { lane.on_host(t) } else { lane.sendable(t) };
                let sendable = |t: Option<Tensor>| t.map(to_send).transpose();
                let made = made.into_iter().map(sendable).collect::<candle_core::Result<_>>()?;
                self.post.put_out(key, made);
            }
        }
        self.journal.end(op.into(), started, lane)
    }

    /// Sends what an op made.
    fn send(&mut self, transfer: Transfer, lane: &Lane, given: bool) -> Result<()> {
        let place = Place {
            kind: SpanKind::Send,
            stage: transfer.from_stage,
            micro_batch: transfer.micro_batch,
        };
        if self.post.world().is_none()
            && let Some(made) = lane.made()?
        {
            // Nothing moves before the receiver copies it. The memory stays this rank's.
            let ready = self.journal.at(&made.ready);
            let bytes = self.post.send(transfer.into(), transfer.to, Some(made), false)?;
            self.journal.moved(place, ready.clone(), ready, bytes);
            return Ok(());
        }
        let start = self.journal.now(lane)?;
        let bytes = self.post.send(transfer.into(), transfer.to, None, given)?;
        let end = self.journal.now(lane)?;
        self.journal.moved(place, start, end, bytes);
        Ok(())
    }
}

/// The op that a message is for. A receive stands just before it.
fn reader(row: &[Instruction], key: Key) -> Option<Op> {
    row.iter().find_map(|instruction| match instruction {
        Instruction::Compute(action) => action.ops().find(|&op| Key::of(op, op.stage) == key),
        _ => None,
    })
}
