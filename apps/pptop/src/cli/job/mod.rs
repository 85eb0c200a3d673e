//! A training job on the command line: its flags, their meaning together, and their refusals.

mod args;
mod defaults;
mod fitting;
mod given;
mod options;
mod spec;

pub(crate) use args::JobArgs;
pub(crate) use given::JobWords;
pub(crate) use spec::{Spec, of_data, plan_file};
