//! Checkpoints: everything that the next step depends on, in a folder that is whole or not taken.
//!
//! ```text
//! DIR/step-00000120/
//!   model-00001-of-00002.safetensors       weights, one file per stage
//!   model.safetensors.index.json           the file of each weight, in Hugging Face's format
//!   optimizer-00001-of-00002.safetensors   moments of the optimizer, one file per stage
//!   manifest.json                          written last: sizes and SHA-256 of all files
//! ```
//!
//! A checkpoint is written into a folder with a hidden name, synced, and renamed. No file points to
//! the newest one: it is found by looking, and counts only if every byte is as the manifest says.
//! The stages may be written by several processes, each into the same hidden folder; one of them
//! writes the manifest when all are there. Tensors have the names and whole shapes of the model's
//! parameters, so a run with any other layout can take them.

mod disk;
mod error;
mod folder;
mod manifest;
mod read;
mod write;

pub use disk::{Disk, DiskFile, HostDisk};
pub use error::CheckpointError;
pub use folder::{CheckpointFolder, Draft, Found, Newest, Written, is_busy, list, newest};
pub use manifest::{Continued, FileRecord, Manifest, Recent};
pub use read::{Checkpoint, Restored};
pub use write::{About, INDEX, Part, StageFacts, write_part};

/// The version of the format. A reader refuses a larger one.
pub const SCHEMA: u32 = 1;
/// The file that is written last. A folder is a checkpoint if it has one.
pub const MANIFEST: &str = "manifest.json";
