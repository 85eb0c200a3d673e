//! The event log of a run of pipeline-parallel training, for whoever writes or reads one: event types, a recorder
//! that never makes the run wait, a follower of a growing log, and the measured bubble of a step.
//!
//! ```text
//! rank threads ─▶ Recorder ─▶ events.jsonl ─▶ Follower ─▶ events
//! ```
//!
//! A program of any kind that records its steps with this crate can be watched with `pptop attach`. There are no
//! tensors here, no schedules and no screen; what all events of a run amount to is for `pp-telemetry`. Every line of
//! the log is specified in `docs/log-format.md`.
//!
//! ```
//! use pp_trace::{Event, Line, Log};
//!
//! let event = Event::Log(Log { elapsed_ns: 5, step: None, message: "model built".to_owned() });
//! let line = event.to_json()?;
//! assert_eq!(line, r#"{"ev":"log","elapsed_ns":5,"message":"model built"}"#);
//! assert_eq!(Event::parse(line.as_bytes())?, Line::Event(event));
//! // A kind that a later version adds is no error.
//! assert_eq!(Event::parse(br#"{"ev":"later","what":0.9}"#)?, Line::Unknown);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod bounds;
mod device;
mod event;
mod hello;
mod index;
mod number;
mod phase;
mod span;
mod step;

mod bubble;
mod lines;
mod text;

mod course;
mod error;
mod files;
mod log_writer;
pub mod machine;
mod marks;
mod paths;
mod policy;
mod status;
mod writer;

mod reader;
mod source;

pub use bubble::{MeasuredBubble, measure};
pub use device::{Cpu, Gpu, Unavailable};
pub use error::TraceError;
pub use event::{Dropped, End, Event, Line, LineError, Log, Mem, SCHEMA, Warn};
pub use files::{
    CHECKPOINT_FILE, COMPRESSED_DRAFT, COMPRESSED_FILE, EVENTS_FILE, OWN_FILES, STATUS_DRAFT,
    STATUS_FILE, STDERR_FILE, refuse_shared_dir,
};
pub use hello::{DeviceMapEntry, Hello, PlannedMem, StageInfo};
pub use index::{INDEX_HEAD, Index};
pub use lines::{LINE_BYTES_MAX, LineSplitter};
pub use log_writer::LogWriter;
pub use machine::host_name;
pub use marks::{MarkMaker, MarkReader};
pub use number::{Nonfinite, any_float, any_float_option};
pub use paths::{civil_date, new_run_dir, runs_dir, state_dir};
pub use phase::PhaseEvent;
pub use policy::{LOG_BYTES_MAX, LogSize, SpanPolicy, WHOLE_FIRST_STEPS};
pub use reader::{Follower, Poll, ReadError};
pub use source::{log_of, open_regular, path_of_open_file};
pub use span::{Span, SpanKind};
pub use status::{State, Status};
pub use step::{Eval, StepEvent};
pub use text::write_json;
pub use writer::Recorder;
