//! The monitor: a live view of one run in the terminal.
//!
//! ```text
//! events.jsonl ──▶ Follower ──▶ State (Model, what is looked at) ──▶ view::draw ──▶ terminal
//!                      keys ──▶ input ──▶ Action ──▶ State ──▶ Effect (detach, stop, leave)
//! ```
//!
//! The run is a process of its own, and the monitor only reads its log. Closing, killing or
//! freezing the monitor never touches the training. `state` does not know the terminal, `view`
//! changes nothing, and neither knows tensors.

mod accountant;
mod app;
mod batch;
mod chain;
mod child;
mod errand;
mod input;
pub mod runs;
mod screen;
mod screenshot;
mod sixteen;
mod state;
mod summary;
mod terminal;
mod tty;
mod view;
mod watched;
mod words;

pub use app::{Launch, compare, run};
pub use child::NEW_MESSAGES;
pub use input::{Action, Keymap, action_names};
pub use screen::{Choice, Target, View};
pub use screenshot::Screenshot;
pub use state::{ChildState, Effect, OtherRun, Playback, State};
pub use view::{Theme, draw, target};
pub use watched::Watch;

/// Slow operations of one rank and cause in one line, as the log has it.
pub fn slow_line(group: &pp_telemetry::SlowGroup) -> String {
    words::slow_group(group)
}

/// Events that were lost, in one line.
pub fn lost_line(lost: &pp_telemetry::Lost) -> String {
    words::lost(lost)
}
