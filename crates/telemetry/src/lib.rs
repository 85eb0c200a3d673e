#![doc = include_str!("../README.md")]
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
mod limits;
mod paths;
mod policy;
mod processor;
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
mod op_of;

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
pub use limits::{Limits, cores};
pub use lines::{LINE_BYTES_MAX, LineSplitter};
pub use model::{
    Activity, Alarm, BUCKETS_MAX, GpuState, HISTORY_LOOKS, HISTORY_STEPS, Incomplete, Level,
    LossBucket, LossHistory, Lost, Mark, Message, Metrics, Model, PhaseCost, RECENT_STEPS,
    RECENT_VALUES, RankState, Rate, Reason, RecentSteps, Recorded, RecordedStep, SHARE_STEPS, Slow,
    SlowGroup, Slowest, Spread, StepSeconds, Thread, Totals, Trend, Wait, Watchdog,
};
pub use number::Nonfinite;
pub use op_of::op_of;
pub use paths::{new_run_dir, runs_dir, state_dir};
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
pub use writer::Recorder;
