//! The numbers of a tensor, of one owner or shared.

use candle_core::{Device, Result, Shape, Tensor};

use crate::cpu;

/// Numbers of 32 bits on the CPU, in row-major order: what layers of a [`crate::Chain`] hand to
/// each other.
#[derive(Debug)]
pub enum Buffer {
    /// This value alone owns them, so that a layer may work in place.
    Owned(Vec<f32>, Shape),
    /// A contiguous tensor, detached from every graph.
    Shared(Tensor),
}

impl Buffer {
    /// No numbers.
    pub(crate) fn empty() -> Self {
        Self::Owned(Vec::new(), Shape::from(0))
    }

    /// Its shape.
    pub fn shape(&self) -> &Shape {
        match self {
            Self::Owned(_, shape) => shape,
            Self::Shared(tensor) => tensor.shape(),
        }
    }

    /// Lets `with` see the numbers.
    ///
    /// # Errors
    /// If a shared tensor is not what it must be, and those of `with`.
    pub fn read<R>(&self, with: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
        match self {
            Self::Owned(values, _) => with(values),
            Self::Shared(tensor) => cpu::read(tensor, with),
        }
    }

    /// The numbers, to be changed: a copy if others see them.
    ///
    /// # Errors
    /// If a shared tensor is not what it must be.
    pub fn into_vec(self) -> Result<(Vec<f32>, Shape)> {
        match self {
            Self::Owned(values, shape) => Ok((values, shape)),
            Self::Shared(tensor) => {
                Ok((cpu::read(&tensor, |values| Ok(values.to_vec()))?, tensor.shape().clone()))
            }
        }
    }

    /// The same numbers in another shape, which has as many. Those of a shared tensor are copied.
    ///
    /// # Errors
    /// If a shared tensor is not what it must be.
    pub(crate) fn reshaped(self, shape: impl Into<Shape>) -> Result<Self> {
        Ok(Self::Owned(self.into_vec()?.0, shape.into()))
    }

    /// A tensor with these numbers, which are not copied.
    ///
    /// # Errors
    /// If the shape does not fit the numbers.
    pub fn into_tensor(self) -> Result<Tensor> {
        match self {
            Self::Owned(values, shape) => Tensor::from_vec(values, shape, &Device::Cpu),
            Self::Shared(tensor) => Ok(tensor),
        }
    }

    /// The sum with `other`, where there is one.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn plus_some(self, other: Option<&Tensor>) -> Result<Self> {
        match other {
            Some(other) => self.plus(other),
            None => Ok(self),
        }
    }

    /// The sum with `other`, of the same shape.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn plus(self, other: &Tensor) -> Result<Self> {
        if self.shape() != other.shape() {
            candle_core::bail!("{:?} and {:?} cannot be added", self.shape(), other.shape());
        }
        let (mut values, shape) = self.into_vec()?;
        cpu::read(other, |other| {
            cpu::add(&mut values, other);
            Ok(())
        })?;
        Ok(Self::Owned(values, shape))
    }
}
