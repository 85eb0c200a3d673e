//! A training job: its flags, what they mean together, and the trainer that they describe.

mod args;
mod defaults;
mod fitting;
mod hello;
pub(crate) mod limits;
mod profiles;
mod session;
mod spec;
mod synthesis;
mod weights;

pub(crate) use args::JobArgs;
pub(crate) use hello::devices_line;
pub(crate) use profiles::Profiles;
pub(crate) use session::{Prepared, Preparing, Session, chain, cores};
pub(crate) use spec::{ModelSpec, Spec};
