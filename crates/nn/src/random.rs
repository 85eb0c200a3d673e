//! Random numbers that depend on nothing but their key.
//!
//! A counter-based generator: the number at position `n` of stream `key` is a hash of both, so
//! any rank can produce any part of any stream, in any order, and gets the same bits. The hash is
//! the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
//! generators", section 5).

#![expect(clippy::inline_always, reason = "loops over them become vector code")]

/// The stream's step, an odd constant from the golden ratio, as in the paper.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes 64 bits so that each input bit flips about half of the output bits.
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The number at `position` of stream `key`.
#[inline(always)]
pub(crate) fn at(key: u64, position: u64) -> u64 {
    mix(key.wrapping_add(position.wrapping_add(1).wrapping_mul(STEP)))
}

/// The key of a stream that is named by several numbers, their order included.
pub fn hash(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |key, &part| at(key ^ mix(part.wrapping_add(STEP)), part))
}

/// The key of a stream that is named by a seed and a text.
pub(crate) fn hash_name(seed: u64, name: &str) -> u64 {
    name.bytes().fold(hash(&[seed, name.len() as u64]), |key, byte| at(key, u64::from(byte)))
}

/// A number in `[0, 1)` with 53 random bits: position `position` of stream `key`.
#[inline]
pub fn uniform(key: u64, position: u64) -> f64 {
    (at(key, position) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A standard normal number at `position` of stream `key` (Box and Muller 1958).
pub(crate) fn normal(key: u64, position: u64) -> f64 {
    // 1 − u is in (0, 1], so the logarithm is finite.
    let radius = (-2.0 * (1.0 - uniform(key, 2 * position)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(key, 2 * position + 1)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_uniform_independent_and_repeatable() {
        let n = 100_000u64;
        let mean = (0..n).map(|i| uniform(3, i)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        let (mut sum, mut square) = (0.0, 0.0);
        for i in 0..n {
            let z = normal(hash_name(1, "w"), i);
            sum += z;
            square += z * z;
        }
        assert!((sum / n as f64).abs() < 0.02 && (square / n as f64 - 1.0).abs() < 0.02);
        assert_eq!(at(5, 9), at(5, 9));
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
        assert_ne!(hash_name(0, "a.weight"), hash_name(0, "b.weight"));
    }
}
