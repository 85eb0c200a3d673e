//! The manifest of a checkpoint: what it is, and what each of its files has to be.
//!
//! ```text
//! {"manifest":{…},"sha256":"…"}
//! ```
//!
//! The hash is that of the text of `manifest`. No other byte is allowed, so a manifest with any
//! byte changed is refused.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::SCHEMA;
use super::error::CheckpointError;
use crate::hash::sha256_hex;

/// The most bytes of a manifest.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// What a checkpoint is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub schema: u32,
    /// The place among the checkpoints of its folder, from 1: the newest has the largest number.
    pub sequence: u64,
    /// The last step that is in it.
    pub step: u64,
    /// Steps that the optimizer has made: fewer than `step` if some were skipped.
    pub optimizer_steps: u64,
    /// The optimizer: `sgd`, `adam` or `adamw`.
    pub optimizer: String,
    /// The id of the run that wrote it.
    pub run: String,
    /// The checkpoints that led to that run, each the last one that a run went on from, the oldest
    /// first.
    #[serde(default)]
    pub continues: Vec<Continued>,
    /// The losses of the last steps, the oldest first. Those that were not finite are left out.
    #[serde(default)]
    pub recent: Vec<Recent>,
    /// When it was written, in milliseconds since 1970.
    pub written_unix_ms: u64,
    /// Seconds of training up to `step`, over all runs that led to it.
    pub elapsed_seconds: f64,
    /// Trained numbers.
    pub parameters: u64,
    /// The job, in the words of the program that trains it.
    pub job: serde_json::Value,
    /// Every other file of the folder.
    pub files: Vec<FileRecord>,
}

/// A checkpoint that a later run went on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continued {
    /// The id of the run that wrote it.
    pub run: String,
    /// Its last step.
    pub step: u64,
}

/// The loss of one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    /// The step.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
    /// The norm of its gradient.
    pub grad_norm: f64,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    #[serde(borrow)]
    manifest: &'a RawValue,
    sha256: String,
}

/// The one part of a manifest that keeps its meaning in every version.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

impl Manifest {
    /// The bytes of the file.
    pub(crate) fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let text = serde_json::to_string(self)?;
        Ok(sealed(&text, &sha256_hex([text.as_bytes()])).into_bytes())
    }

    /// Reads the bytes of the file at `path`.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, CheckpointError> {
        let broken = |why: String| CheckpointError::broken(path, why);
        let wrong = |error: serde_json::Error| broken(format!("it is no manifest: {error}"));
        let found: Sealed<'_> = serde_json::from_slice(bytes).map_err(wrong)?;
        let text = found.manifest.get();
        let hash = sha256_hex([text.as_bytes()]);
        if sealed(text, &hash).as_bytes() != bytes {
            let why = if found.sha256 == hash { "a byte is too many" } else { "its hash differs" };
            return Err(broken(why.to_owned()));
        }
        let Version { schema } = serde_json::from_str(text).map_err(wrong)?;
        if schema > SCHEMA {
            return Err(CheckpointError::Newer { path: path.to_owned(), schema });
        }
        serde_json::from_str(text).map_err(wrong)
    }
}

fn sealed(text: &str, hash: &str) -> String {
    format!(r#"{{"manifest":{text},"sha256":"{hash}"}}"#)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn manifest() -> Manifest {
        Manifest {
            schema: SCHEMA,
            sequence: 3,
            step: 120,
            optimizer_steps: 119,
            optimizer: "adam".to_owned(),
            run: "gpt-20261129-181500".to_owned(),
            continues: vec![Continued { run: "before".to_owned(), step: 60 }],
            recent: vec![Recent { step: 120, loss: 0.1 + 0.2, grad_norm: 1.0 / 3.0 }],
            written_unix_ms: 1_796_000_000_000,
            elapsed_seconds: 0.1 + 0.2,
            parameters: 7,
            job: serde_json::json!({"model": "gpt", "peak": 1e-3 / 3.0}),
            files: vec![FileRecord { name: "a".to_owned(), bytes: 5, sha256: "00".repeat(32) }],
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let bytes = manifest().to_bytes().unwrap();
        assert_eq!(Manifest::from_bytes(&bytes, Path::new("m")).unwrap(), manifest());
    }

    #[test]
    fn any_changed_added_or_missing_byte_is_refused() {
        let bytes = manifest().to_bytes().unwrap();
        let path = Path::new("m");
        for i in 0..bytes.len() {
            for change in [1_u8, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[i] ^= change;
                assert!(Manifest::from_bytes(&changed, path).is_err(), "byte {i} ^ {change}");
            }
            assert!(Manifest::from_bytes(&bytes[..i], path).is_err(), "{i} bytes");
            for more in [b' ', b'0', b'\n'] {
                let mut longer = bytes.clone();
                longer.insert(i, more);
                assert!(Manifest::from_bytes(&longer, path).is_err(), "{more} at {i}");
            }
        }
        for end in [" ", "\n", "}"] {
            let longer = [&bytes[..], end.as_bytes()].concat();
            assert!(Manifest::from_bytes(&longer, path).is_err(), "{end:?}");
        }
    }

    #[test]
    fn a_later_schema_is_named_whatever_else_it_holds() {
        let text = r#"{"schema":2,"shards":[]}"#;
        let bytes = sealed(text, &sha256_hex([text.as_bytes()]));
        let error = Manifest::from_bytes(bytes.as_bytes(), Path::new("m")).unwrap_err();
        assert_eq!(error.to_string(), "m: schema 2; this version reads up to 1");
    }
}
