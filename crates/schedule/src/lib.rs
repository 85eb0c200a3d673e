//! Pipeline schedules as data: generate, validate, lower, simulate, draw, import and export.
//!
//! A pipeline cuts a model into stages, puts them on ranks and streams micro-batches through them. In which order each rank runs
//! its forwards and backwards is the *schedule*, and most of what a pipeline costs in time and memory follows from it. This crate
//! knows schedules and nothing else: it has no tensors, no threads and no clock.
//!
//! The words: p ranks, m micro-batches, v stages on each rank, n = p·v stages; an op such as `2F0` is stage 2, forward,
//! micro-batch 0; B is a full backward, I and W are its two halves.

#![forbid(unsafe_code)]

mod closed_form;
mod costs;
mod csv;
mod error;
mod gpipe;
mod grid;
mod ids;
mod interleaved;
mod lower;
mod lower_bound;
mod naive;
mod one_f_one_b;
mod op;
mod plan;
mod schedule_name;
mod simulate;
mod topology;
mod validate;
mod walk;

pub use closed_form::{ClosedForm, closed_form};
pub use costs::{Comm, Costs, RankShare};
pub use csv::{CSV_BYTES_MAX, export_csv, import_csv};
pub use error::{CellFault, CsvFault, Rule, ScheduleError, Violation};
pub use grid::draw;
pub use ids::{Chunk, MicroBatch, Rank, Replica, Stage};
pub use lower::{Instruction, LoweredPlan, Payload, Transfer, lower, lower_rendezvous};
pub use op::{Op, ParseOpError, Phase};
pub use plan::{Draft, ValidPlan};
pub use schedule_name::{ScheduleName, Sizes};
pub use simulate::{Simulation, TimedOp, simulate};
pub use topology::{Placement, Topology};
