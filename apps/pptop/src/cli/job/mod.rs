//! A training job: its flags, what they mean together, and the trainer that they describe.

mod args;
mod defaults;
mod fitting;
pub(crate) mod limits;
mod session;
mod spec;
mod synthesis;
mod weights;

pub(crate) use args::JobArgs;
pub(crate) use session::{Prepared, Preparing, Profiles, Session, chain, cores, devices_line};
pub(crate) use spec::{ModelSpec, Spec};
