#![doc = include_str!("../README.md")]
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

mod poll;
mod rank_file;
mod reader;
mod source;
mod tail;

pub use bubble::{MeasuredBubble, measure};
pub use device::{Cpu, Gpu, Unavailable};
pub use error::TraceError;
pub use event::{Dropped, End, Event, Line, LineError, Log, Mem, SCHEMA, Warn};
pub use files::{
    CHECKPOINT_FILE, COMPRESSED_DRAFT, COMPRESSED_FILE, EVENTS_FILE, OWN_FILES, STATUS_DRAFT,
    STATUS_FILE, STDERR_FILE, refuse_shared_dir,
};
pub use hello::{Continues, DeviceMapEntry, Hello, HostEntry, PlannedMem, StageInfo};
pub use index::{INDEX_HEAD, Index};
pub use lines::{LINE_BYTES_MAX, LineSplitter};
pub use log_writer::LogWriter;
pub use machine::host_name;
pub use marks::{MarkMaker, MarkReader};
pub use number::{Nonfinite, any_float, any_float_option};
pub use paths::{civil_date, new_run_dir, runs_dir, state_dir};
pub use phase::PhaseEvent;
pub use policy::{LOG_BYTES_MAX, LogSize, SpanPolicy, WHOLE_FIRST_STEPS};
pub use poll::{Poll, ReadError};
pub use rank_file::{RankEnd, RankFile, RankFollower, RankHead, RankLine, RankStage, RankStep};
pub use reader::Follower;
pub use source::{log_of, open_regular, path_of_open_file};
pub use span::{Span, SpanKind};
pub use status::{State, Status};
pub use step::{Eval, StepEvent};
pub use text::write_json;
pub use writer::{Collected, Recorder};
