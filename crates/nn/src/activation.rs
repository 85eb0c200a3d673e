//! Functions of single elements as layers of a chain.

use candle_core::{Result, Tensor};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::context::ForwardContext;
use crate::cpu;
use crate::gelu::{GeluGradient, GeluOp, gelu};
use crate::relu::{ReluGradient, ReluOp, relu};

/// A function of each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// [`relu`].
    Relu,
    /// [`gelu`].
    Gelu,
}

impl ChainLayer for Activation {
    fn forward(&self, x: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        match self {
            Self::Relu => relu(x),
            Self::Gelu => gelu(x),
        }
    }

    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        _: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let activation = *self;
        // The rectifier's backward asks for its output alone, so that it works in place; GELU's
        // asks for the input.
        let (kept, y) = match self {
            Self::Relu => {
                let (mut y, shape) = x.into_vec()?;
                cpu::unary_in_place(&ReluOp, &mut y);
                let y = Buffer::Owned(y, shape).into_tensor()?;
                (y.clone(), Buffer::Shared(y))
            }
            Self::Gelu => {
                let x = x.into_tensor()?;
                let y = cpu::read(&x, |x| Ok(cpu::unary(&GeluOp, x)))?;
                let shape = x.shape().clone();
                (x, Buffer::Owned(y, shape))
            }
        };
        let backward = move |gy: Buffer, wish: InputGradient| {
            if !wish.is_wanted() {
                return Ok(None);
            }
            let (mut g, shape) = gy.into_vec()?;
            cpu::read(&kept, |kept| {
                match activation {
                    Self::Relu => {
                        cpu::binary_in_place(&ReluGradient { scale: 1.0 }, kept, &mut g);
                    }
                    Self::Gelu => cpu::binary_in_place(&GeluGradient, kept, &mut g),
                }
                Ok(())
            })?;
            Buffer::Owned(g, shape).plus_some(wish.other()).map(Some)
        };
        Ok((y.plus_some(onto)?, Box::new(backward)))
    }
}
