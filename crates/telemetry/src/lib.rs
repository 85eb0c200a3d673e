#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod control;
mod identity;
pub mod input;
mod limits;
mod log_file;
mod process;
mod processor;
mod standing;
mod whole_file;

mod follower;
mod mark_v1;
mod marks;
mod ranks;
mod reduced;
mod replay;
mod runs;
mod spool;
mod tidy;

mod account;
mod before;
mod export;
mod import;
mod model;
mod op_of;

pub use account::{
    Account, Advice, NoAccount, Part, PartTime, RankTime, WhatIf, account, advice, mean_costs,
    plan_of, what_if,
};
pub use control::{
    ControlError, ControlServer, REQUEST_BYTES_MAX, Request, ask, socket_dir, socket_place,
    understood,
};
pub use export::{
    Export, ExportError, ExportFormat, STEPS_DRAWN_MAX, StepRange, StepRangeError, export,
    standing_metrics,
};
pub use follower::Follower;
pub use identity::{NotProven, ProvenRun};
pub use import::{ImportError, import_chrome_trace, import_kineto};
pub use limits::{Limits, cores, host_memory_bytes, memory_available};
pub use log_file::LogFile;
pub use marks::{Marks, recorder};
pub use model::{
    Activity, Alarm, BUCKETS_MAX, Before, Frame, GpuState, HISTORY_LOOKS, HISTORY_STEPS,
    Incomplete, Level, LogMark, LossBucket, LossHistory, Lost, Mark, MarkError, Message, Metrics,
    Model, PhaseCost, RECENT_STEPS, RECENT_VALUES, RankState, Rate, Reason, RecentSteps, Recorded,
    RecordedStep, SHARE_STEPS, Slow, SlowGroup, Slowest, Spread, StepSeconds, Thread, Totals,
    Trend, Wait, Watchdog,
};
pub use op_of::op_of;
pub use process::{Process, is_suspended};
pub use processor::Processor;
pub use reduced::Reduced;
pub use replay::Replay;
pub use runs::{
    FindError, Run, find_run, is_path, list_runs, log_or_ranks_of, of_path, status_of,
    status_of_log,
};
pub use spool::{SPOOL_BYTES_MAX, Spool, SpoolError};
pub use standing::{Evidence, Standing, StoppedBy};
pub use tidy::{Keep, Tidied, remove, tidy};

// The events that this crate's own interface speaks in, and the files that it finds them in.
pub use pp_trace::{
    CHECKPOINT_FILE, COMPRESSED_FILE, Collected, Continues, Cpu, DeviceMapEntry, Dropped,
    EVENTS_FILE, End, Eval, Event, Gpu, Hello, HostEntry, Index, LINE_BYTES_MAX, LOG_BYTES_MAX,
    Line, LineError, LineSplitter, Log, LogSize, LogWriter, MeasuredBubble, Mem, Nonfinite,
    OWN_FILES, PhaseEvent, PlannedMem, Poll, ReadError, Recorder, SCHEMA, STATUS_FILE, STDERR_FILE,
    Span, SpanKind, SpanPolicy, StageInfo, State, Status, StepEvent, TraceError, Unavailable,
    WHOLE_FIRST_STEPS, Warn, civil_date, host_name, log_of, measure, new_run_dir,
    refuse_shared_dir, runs_dir, state_dir,
};
pub use whole_file::{Identity, NotWritten, Taken, WholeFile};
