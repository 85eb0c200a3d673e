//! A model as a stack of layers on candle: profile it, and cut it into pipeline stages.
//!
//! A [`LayerStack`] is a recipe: each layer can be built alone, so that a rank holds only its own
//! parameters. [`profile`] measures what each layer costs, [`Cut::solve`] turns the costs into
//! contiguous, non-empty parts, and [`Stage`] is such a part, built on its device.
//!
//! ```
//! use candle_core::{DType, Device};
//! use pp_nn::{Linear, ParameterStore, relu};
//! use pp_partition::{Cut, LayerStack, Stage, single};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut stack = LayerStack::default();
//! for (i, width) in [(0, 64), (1, 8), (2, 8), (3, 8)] {
//!     let name = format!("layers.{i}");
//!     stack.push(name.clone(), move |builder| {
//!         let linear = Linear::new(width, 8, builder.pp(&name))?;
//!         Ok(single(move |x, context| relu(&linear.forward(x, context)?)))
//!     });
//! }
//! let partition = Cut::Parameters.solve(&stack, 2, None)?;
//! assert_eq!(partition.sizes(), [1, 3]);
//!
//! let store = ParameterStore::seeded(1);
//! let last = Stage::build(&stack, partition.layers(1), &store, DType::F32, &Device::Cpu)?;
//! assert_eq!(last.parameters().len(), 6);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod cut;
mod error;
mod layer;
mod profile;
pub mod solve;
mod stack;
mod stage;

pub use cut::{Cut, Partition};
pub use error::PartitionError;
pub use layer::{Layer, Objective, chain, single};
pub use profile::{LayerProfile, Profile, ProfileConfig, profile, profile_with};
pub use stack::LayerStack;
pub use stage::Stage;
