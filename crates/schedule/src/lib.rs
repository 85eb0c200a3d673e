//! Pipeline schedules as data: generate, validate, lower, simulate, draw, import and export.
//!
//! A pipeline cuts a model into stages, puts them on ranks and streams micro-batches through them. In which order each rank runs
//! its forwards and backwards is the *schedule*, and most of what a pipeline costs in time and memory follows from it. This crate
//! knows schedules and nothing else: it has no tensors, no threads and no clock.
//!
//! The words: p ranks, m micro-batches, v stages on each rank, n = p·v stages; an op such as `2F0` is stage 2, forward,
//! micro-batch 0; B is a full backward, I and W are its two halves.
//!
//! # Draw a schedule and see what it costs
//!
//! ```
//! use pp_schedule::{Costs, RankShare, ScheduleName, Sizes, closed_form, draw, simulate};
//!
//! let sizes = Sizes { n_ranks: 2, n_micro_batches: 3, n_virtual_stages: 1, interleave_group: None };
//! let plan = ScheduleName::OneFOneB.generate(&sizes)?;
//! assert_eq!(plan.to_string(), "0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2");
//!
//! let share = RankShare::default(); // F = I = W = 1, and B = I + W
//! let costs = Costs::per_rank_share(plan.topology(), &share);
//! let picture = "\
//! rank 0  F0|F1|......B0---|F2|B1---|...B2---|
//! rank 1  ...F0|B0---|F1|B1---|F2|B2---|......";
//! assert_eq!(draw(&plan, &costs)?, picture);
//!
//! let simulation = simulate(&plan, &costs)?;
//! assert_eq!(simulation.makespan, 12.0);
//! assert_eq!(simulation.bubble_ratio, 0.25);
//! assert_eq!(simulation.peak_activations, [2, 1]);
//! let formula = closed_form(ScheduleName::OneFOneB, &sizes, &share).expect("1f1b has a formula");
//! assert_eq!(formula.bubble_ratio, simulation.bubble_ratio);
//! # Ok::<(), pp_schedule::ScheduleError>(())
//! ```
//!
//! # Check a plan of one's own
//!
//! A plan from elsewhere is a [`Draft`] until [`Draft::validate`] has passed it; whatever runs plans takes a [`ValidPlan`].
//!
//! ```
//! use pp_schedule::import_csv;
//!
//! // Rank 0 waits for the gradient of micro-batch 0 before it lets micro-batch 1 go; rank 1 waits for micro-batch 1 first.
//! let refused = import_csv("mine.csv", b"0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n", None).unwrap_err();
//! assert_eq!(refused.rule(), "deadlock");
//! let grid = "\
//!   cell   0     1     2     3
//! rank 0  0F0  [0B0]  0F1   0B1
//! rank 1  1F0   1F1   1B0   1B1";
//! assert!(refused.to_string().ends_with(grid));
//! ```

#![forbid(unsafe_code)]

mod action;
mod auto;
mod chimera;
mod chrome_trace;
mod closed_form;
mod costs;
mod csv;
mod draft;
mod draw;
mod dual_pipe_v;
mod edges;
mod error;
mod facts;
mod footprint;
mod formula;
mod forward_only;
mod gpipe;
mod grid;
mod hanayo;
mod ids;
mod interleaved;
mod interleaved_zero_bubble;
mod list;
mod looped_bfs;
mod lower;
mod lower_bound;
mod meant;
mod memory;
mod naive;
mod number;
mod one_f_one_b;
mod one_machine;
mod op;
mod ordered;
mod picture;
mod plan;
mod row;
mod schedule_name;
mod search;
mod simulate;
mod sizes;
mod svg;
mod text;
mod topology;
mod v_block;
mod validate;
mod walk;
mod work;
mod zb_auto;
mod zb_v;
mod zero_bubble;

pub use action::{Action, Pair};
pub use chrome_trace::chrome_trace;
pub use closed_form::{ClosedForm, closed_form};
pub use costs::{Costs, PerEdge, RankShare};
pub use csv::{CSV_BYTES_MAX, export_csv, import_csv};
pub use draft::Draft;
pub use draw::draw;
pub use error::{CellFault, CsvFault, Rule, ScheduleError, Violation};
pub use facts::CostsOf;
pub use footprint::{Footprint, StageBytes, footprints};
pub use forward_only::forward_only;
pub use ids::{Chunk, MicroBatch, Pipe, Rank, Replica, Stage};
pub use lower::{
    Instruction, LoweredPlan, Payload, Transfer, lower, lower_rendezvous, mailbox_peaks,
};
pub use meant::{did_you_mean, meant};
pub use number::short_number;
pub use op::{Op, ParseOpError, Phase};
pub use picture::{Shade, axis_marks, escaped_xml, legend_of, legend_of_shades, trace_colour_of};
pub use plan::ValidPlan;
pub use schedule_name::ScheduleName;
pub use simulate::{Simulation, TimedAction, simulate};
pub use sizes::Sizes;
pub use svg::svg;
pub use text::{clean, clean_lines, is_obeyed, to_json, write_json};
pub use topology::{Placement, Topology};
