//! Shares of parameters: who of several copies of a model keeps the optimizer's state of what.
//!
//! This is stage 1 of `ZeRO` (Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1): each copy steps
//! its share of the parameters, and hands the new weights to the others.

use candle_core::{Result, Tensor};

/// Numbers in a block. Every parameter is cut at multiples of it, counted from its own start, so
/// that a number is at the same place of a vector in every share, and is rounded alike.
pub const SHARE_BLOCK: usize = 1024;

/// A part of one parameter, as if that were flat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The place of the parameter.
    pub parameter: usize,
    /// Its first number.
    pub start: usize,
    /// How many numbers it has.
    pub len: usize,
}

impl Piece {
    /// The numbers of the piece, as they lie in the tensor of its parameter. Nothing is copied.
    ///
    /// # Errors
    /// The tensor is smaller, or not contiguous.
    pub fn of(self, tensor: &Tensor) -> Result<Tensor> {
        if !tensor.is_contiguous() {
            candle_core::bail!("a parameter that is not contiguous has no pieces");
        }
        tensor.flatten_all()?.narrow(0, self.start, self.len)
    }
}

/// Cuts parameters of these sizes into `n` shares, whose sizes differ by a block or two. With fewer
/// blocks than shares, some shares are empty.
pub fn shares(sizes: &[usize], n: usize) -> Vec<Vec<Piece>> {
    let n_blocks: usize = sizes.iter().map(|size| size.div_ceil(SHARE_BLOCK)).sum();
    let share_of = |block: usize| block * n / n_blocks;
    let mut shares: Vec<Vec<Piece>> = vec![Vec::new(); n];
    let mut block = 0;
    for (parameter, &size) in sizes.iter().enumerate() {
        for start in (0..size).step_by(SHARE_BLOCK) {
            let len = SHARE_BLOCK.min(size - start);
            let share = &mut shares[share_of(block)];
            match share.last_mut() {
                Some(last) if last.parameter == parameter => last.len += len,
                _ => share.push(Piece { parameter, start, len }),
            }
            block += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_cover_every_number_once_in_order_and_are_nearly_equal(
            sizes in prop::collection::vec(0_usize..20_000, 0..12),
            n in 1_usize..9,
        ) {
            let shares = shares(&sizes, n);
            prop_assert_eq!(shares.len(), n);
            let mut next: Vec<usize> = vec![0; sizes.len()];
            for piece in shares.iter().flatten() {
                prop_assert_eq!(piece.start, next[piece.parameter]);
                prop_assert!(piece.start.is_multiple_of(SHARE_BLOCK) && piece.len > 0);
                next[piece.parameter] += piece.len;
                let is_end = next[piece.parameter] == sizes[piece.parameter];
                prop_assert!(is_end || piece.len.is_multiple_of(SHARE_BLOCK));
            }
            prop_assert_eq!(&next, &sizes);
            let n_blocks = |share: &Vec<Piece>| {
                share.iter().map(|piece| piece.len.div_ceil(SHARE_BLOCK)).sum::<usize>()
            };
            let blocks: Vec<usize> = shares.iter().map(n_blocks).collect();
            let (least, most) = (blocks.iter().min().unwrap(), blocks.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", blocks);
        }
    }
}
