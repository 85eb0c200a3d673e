//! A training job as it is asked for: its flags, what they mean together, and what is said where
//! they are refused.

mod args;
mod defaults;
mod fitting;
mod options;
mod spec;

pub(crate) use args::JobArgs;
pub(crate) use spec::Spec;
