//! The event log of a run of pipeline-parallel training: event types, a recorder that never makes the run wait, a
//! reader that follows a growing log, the measured bubble, and the fold of all events into what a screen shows.
//!
//! ```text
//! rank threads ─▶ Recorder ─▶ events.jsonl ─▶ Follower ─▶ Model::apply ─▶ a screen, a report, a test
//! ```
//!
//! The log is the one truth: a live view, a later look and a report all read the same file, so nothing that is shown
//! can differ from what was recorded. There are no tensors here and no terminal.
//!
//! ```
//! use pp_telemetry::{Event, Line, Log};
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
mod index;
mod number;
mod phase;
mod span;
mod standing;
mod status;
mod step;

mod control;
mod drain;
mod error;
mod files;
mod identity;
pub mod input;
mod limits;
mod paths;
mod policy;
mod processor;
mod whole_file;
mod writer;

mod lines;
mod reader;
mod replay;
mod runs;
mod source;
mod spool;
mod tidy;

mod account;
mod bubble;
mod export;
mod model;

pub use account::{
    Account, Advice, NoAccount, Part, PartTime, RankTime, WhatIf, account, advice, mean_costs,
    plan_of, what_if,
};
pub use bubble::{MeasuredBubble, measure};
pub use control::{
    ControlError, ControlServer, REQUEST_BYTES_MAX, Request, ask, socket_dir, socket_place,
    understood,
};
pub use device::{Cpu, Gpu, Unavailable};
pub use error::TelemetryError;
pub use event::{
    DeviceMapEntry, Dropped, End, Event, Hello, Line, LineError, Log, Mem, PlannedMem, SCHEMA,
    StageInfo, Warn,
};
pub use export::{
    Export, ExportError, ExportFormat, STEPS_DRAWN_MAX, StepRange, StepRangeError, export,
    standing_metrics,
};
pub use files::{
    CHECKPOINT_FILE, COMPRESSED_FILE, EVENTS_FILE, OWN_FILES, STATUS_FILE, STDERR_FILE,
    refuse_shared_dir,
};
pub use identity::{NotProven, ProvenRun};
pub use index::{Frame, Index};
pub use limits::{Limits, cores, memory_available};
pub use lines::{LINE_BYTES_MAX, LineSplitter};
pub use model::{
    Activity, Alarm, BUCKETS_MAX, GpuState, HISTORY_LOOKS, HISTORY_STEPS, Incomplete, Level,
    LossBucket, LossHistory, Lost, Mark, Message, Metrics, Model, PhaseCost, RECENT_STEPS,
    RECENT_VALUES, RankState, Rate, Reason, RecentSteps, Recorded, RecordedStep, SHARE_STEPS, Slow,
    SlowGroup, Slowest, Spread, StepSeconds, Thread, Totals, Trend, Wait, Watchdog,
};
pub use number::Nonfinite;
pub use paths::{civil_date, new_run_dir, runs_dir, state_dir};
pub use phase::PhaseEvent;
pub use policy::{LOG_BYTES_MAX, LogSize, SpanPolicy, WHOLE_FIRST_STEPS};
pub use processor::Processor;
pub use reader::{Follower, Poll, ReadError};
pub use replay::Replay;
pub use runs::{FindError, Run, find_run, is_path, list_runs, of_path, status_of};
pub use source::log_of;
pub use span::{Span, SpanKind};
pub use spool::{SPOOL_BYTES_MAX, Spool, SpoolError};
pub use standing::{Evidence, Process, Standing, StoppedBy};
pub use status::{State, Status, host_memory_bytes, host_name, is_suspended};
pub use step::{Eval, StepEvent};
pub use tidy::{Keep, Tidied, remove, tidy};
pub use whole_file::{Identity, NotWritten, Taken, WholeFile};
pub use writer::Recorder;
