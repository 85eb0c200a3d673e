//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split form of Llama:
//! feature `i` of a head turns together with feature `i + d/2`.

use std::f64::consts::PI;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::context::ForwardContext;
use crate::cpu;
use crate::documents::Documents;
use crate::gradients::in_place;

/// How fast each pair of features turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryFrequencies {
    /// The base: pair `i` of `n` turns by `theta^(−i/n)` radians a position.
    pub theta: f64,
    /// How slow pairs are slowed down further, for contexts longer than those of the training.
    pub scaling: Option<RotaryScaling>,
}

/// The scaling of Llama 3.1 (Grattafiori et al. 2024, arXiv:2407.21783; named `llama3` in
/// configurations). With `L` the original context, a pair of wavelength `w` is slowed down by
/// `factor` if `L/w` is below `low`, kept if it is above `high`, and blended in between.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryScaling {
    /// How much slow pairs are slowed down.
    pub factor: f64,
    /// Turns in the original context below which a pair is slow.
    pub low: f64,
    /// Turns in the original context above which a pair is fast.
    pub high: f64,
    /// Positions of the original context.
    pub original_context: usize,
}

impl RotaryFrequencies {
    /// Radians a position, for each of `d/2` pairs.
    fn of(&self, d: usize) -> Vec<f64> {
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / d as f64);
        (0..d / 2).map(|i| self.scaling.map_or(plain(i), |scaling| scaling.of(plain(i)))).collect()
    }
}

impl RotaryScaling {
    fn of(&self, frequency: f64) -> f64 {
        let turns = self.original_context as f64 * frequency / (2.0 * PI);
        let kept = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / self.factor)
    }
}

/// Turns the first heads of each position by its place in the sample, or in its document where the
/// [`ForwardContext`] has [`Documents`]. It has no parameters.
///
/// Shapes: `b` samples, `t` positions, features of which the first `n` heads × `d` turn and the
/// others stay: queries and keys turn, values do not.
#[derive(Clone, Debug)]
pub struct Rotary {
    heads: usize,
    d: usize,
    /// Cosines and sines of each position and pair, (positions, d/2).
    cosines: Arc<[f32]>,
    sines: Arc<[f32]>,
}

impl Rotary {
    /// For `heads` heads of `d` features, and so many positions.
    ///
    /// # Errors
    /// If `d` is odd, or `theta` or the scaling is not a number that turns anything.
    pub fn new(
        heads: usize,
        d: usize,
        positions: usize,
        frequencies: RotaryFrequencies,
    ) -> Result<Self> {
        if d == 0 || !d.is_multiple_of(2) {
            bail!("rotary embedding turns pairs of features, and heads have {d}");
        }
        let frequencies = frequencies.of(d);
        if let Some(odd) = frequencies.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            bail!("rotary embedding has a frequency of {odd}");
        }
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let angles: Vec<f64> = angles.collect();
        let of = |f: fn(f64) -> f64| angles.iter().map(|angle| f(*angle) as f32).collect();
        Ok(Self { heads, d, cosines: of(f64::cos), sines: of(f64::sin) })
    }

    /// `(b, t, f)` → `(b, t, f)`.
    ///
    /// # Errors
    /// If there are fewer than `n·d` features or more positions than were made, the documents are
    /// those of another micro-batch, or a kernel fails.
    pub fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let places = self.places(x.shape(), context.documents())?;
        if !in_place(x) {
            return self.forward_composed(x, context.documents());
        }
        let turn = Turn { rotary: self.clone(), places, is_back: false };
        x.contiguous()?.apply_op1(turn)
    }

    /// The same from candle's own operations: for devices without our kernels, and for the tests.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_composed(&self, x: &Tensor, documents: Option<&Documents>) -> Result<Tensor> {
        let places = self.places(x.shape(), documents)?;
        let (b, t, features) = x.dims3()?;
        let (n, d) = (self.heads, self.d);
        let heads = x.narrow(2, 0, n * d)?.reshape((b, t, n, d))?;
        let (low, high) = (heads.narrow(3, 0, d / 2)?, heads.narrow(3, d / 2, d / 2)?);
        let of = |table: &[f32]| {
            let rows = places.iter().flat_map(|&p| self.row(table, p).iter().copied());
            Tensor::from_vec(rows.collect::<Vec<_>>(), (b, t, 1, d / 2), x.device())?
                .to_dtype(x.dtype())
        };
        let (cos, sin) = (of(&self.cosines)?, of(&self.sines)?);
        let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        let turned = Tensor::cat(&[turned_low, turned_high], 3)?.reshape((b, t, n * d))?;
        let rest = features - n * d;
        if rest == 0 {
            return Ok(turned);
        }
        Tensor::cat(&[turned, x.narrow(2, n * d, rest)?], 2)
    }

    fn row<'a>(&self, table: &'a [f32], place: u32) -> &'a [f32] {
        let start = place as usize * (self.d / 2);
        &table[start..start + self.d / 2]
    }

    /// The place of each row.
    fn places(&self, shape: &Shape, documents: Option<&Documents>) -> Result<Arc<[u32]>> {
        let (b, t, features) = shape.dims3()?;
        if features < self.heads * self.d {
            bail!("{features} features are less than {} heads of {}", self.heads, self.d);
        }
        let positions = self.cosines.len() / (self.d / 2);
        if t > positions {
            bail!("{t} positions, but rotary embedding was made for {positions}");
        }
        match documents {
            Some(documents) if documents.shape() != (b, t) => {
                bail!(
                    "documents of {:?} positions, but features of {:?}",
                    documents.shape(),
                    (b, t)
                )
            }
            Some(documents) => Ok(documents.places().into()),
            None => Ok((0..b).flat_map(|_| 0..t as u32).collect()),
        }
    }

    /// Turns rows in place, or back.
    fn turn(&self, rows: &mut [f32], places: &[u32], is_back: bool) {
        let features = rows.len() / places.len().max(1);
        let half = self.d / 2;
        for (row, &place) in rows.chunks_exact_mut(features.max(1)).zip(places) {
            let (cosines, sines) = (self.row(&self.cosines, place), self.row(&self.sines, place));
            for head in row[..self.heads * self.d].chunks_exact_mut(self.d) {
                let (low, high) = head.split_at_mut(half);
                let turns = cosines.iter().zip(sines);
                for ((low, high), (&cos, &sin)) in low.iter_mut().zip(high).zip(turns) {
                    let sin = if is_back { -sin } else { sin };
                    (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
                }
            }
        }
    }
}

impl ChainLayer for Rotary {
    fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        Self::forward(self, x, context)
    }

    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let places = self.places(x.shape(), context.documents())?;
        let (mut y, shape) = x.into_vec()?;
        self.turn(&mut y, &places, false);
        let rotary = self.clone();
        let backward = move |gy: Buffer, wish: InputGradient| {
            if !wish.is_wanted() {
                return Ok(None);
            }
            let (mut g, shape) = gy.into_vec()?;
            rotary.turn(&mut g, &places, true);
            Buffer::Owned(g, shape).plus_some(wish.other()).map(Some)
        };
        Ok((Buffer::Owned(y, shape).plus_some(onto)?, Box::new(backward)))
    }
}

/// A turn as an operation of candle's graph. Its gradient turns back.
struct Turn {
    rotary: Rotary,
    places: Arc<[u32]>,
    is_back: bool,
}

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "rotary embedding"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = cpu::slice::<f32>(x, layout)?.to_vec();
        self.rotary.turn(&mut y, &self.places, self.is_back);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let (rotary, places) = (self.rotary.clone(), self.places.clone());
        let back = Self { rotary, places, is_back: !self.is_back };
        Ok(Some(gy.contiguous()?.apply_op1(back)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.1 8B: theta 500,000, factor 8, 1 and 4 turns in 8,192 positions.
    const LLAMA: RotaryFrequencies = RotaryFrequencies {
        theta: 500_000.0,
        scaling: Some(RotaryScaling { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192 }),
    };

    #[test]
    fn fast_pairs_are_kept_slow_ones_slowed_down_and_others_blended() {
        let plain = RotaryFrequencies { scaling: None, ..LLAMA }.of(128);
        let scaled = LLAMA.of(128);
        let ratios: Vec<f64> = scaled.iter().zip(&plain).map(|(s, p)| s / p).collect();
        assert_eq!((ratios[0], ratios[28]), (1.0, 1.0));
        assert_eq!((ratios[35], ratios[63]), (0.125, 0.125));
        // Pair 30 makes 8192 · 500000^(−60/128) / 2π = 2.778 turns.
        let kept = (2.778 - 1.0) / 3.0;
        assert!((ratios[30] - (kept + (1.0 - kept) / 8.0)).abs() < 1e-3, "{}", ratios[30]);
        assert!(ratios.windows(2).all(|two| two[0] >= two[1]));
    }

    #[test]
    fn what_cannot_turn_is_refused() {
        let error = Rotary::new(2, 5, 8, LLAMA).unwrap_err();
        assert!(error.to_string().contains("heads have 5"), "{error}");
        let odd = RotaryFrequencies { theta: 0.0, scaling: None };
        let error = Rotary::new(2, 4, 8, odd).unwrap_err();
        assert!(error.to_string().contains("a frequency of inf"), "{error}");
    }
}
