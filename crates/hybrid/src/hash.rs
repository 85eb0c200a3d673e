//! SHA-256 in hex.

use std::fmt::Write as _;

use candle_core::{Result, Tensor};
use sha2::{Digest, Sha256};

/// SHA-256, in hex, over name, shape (each dimension as a little-endian u64) and little-endian
/// values of every parameter, in the order given: layer order.
///
/// # Errors
/// If a tensor is not `f32`.
pub fn weights_hash(weights: &[(String, Tensor)]) -> Result<String> {
    let mut hash = Sha256::new();
    for (name, tensor) in weights {
        hash.update(name.as_bytes());
        for &dimension in tensor.dims() {
            hash.update((dimension as u64).to_le_bytes());
        }
        for value in tensor.flatten_all()?.to_vec1::<f32>()? {
            hash.update(value.to_le_bytes());
        }
    }
    Ok(hex(hash))
}

/// SHA-256, in hex, over some pieces of bytes, one after another.
pub fn sha256_hex<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    pieces.into_iter().for_each(|piece| hash.update(piece));
    hex(hash)
}

/// A finished hash in hex.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
