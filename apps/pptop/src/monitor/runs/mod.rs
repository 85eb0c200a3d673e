//! The runs that are kept: as a list that one moves in, and as a table in text.
//!
//! As in the monitor, the state knows no file and no terminal, and the view changes nothing; `app`
//! is between them and the rest.

mod app;
mod comparison;
mod row;
mod state;
mod table;
mod view;

pub use app::{Chosen, ListLaunch, choose};
pub use comparison::Comparison;
pub use row::Row;
pub use state::{RunsAction, RunsEffect, RunsState, Sort};
pub use table::{COLUMNS_OF_TEXT, table};
pub use view::draw as draw_runs;
