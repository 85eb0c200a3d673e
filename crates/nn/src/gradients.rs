//! The sums of gradients over micro-batches, in place.

use std::collections::HashMap;

use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Shape, Tensor, TensorId, bail};

use crate::cpu::{self, Kernels};
use crate::parameters::Parameter;

/// One sum for each parameter. The buffers live as long as this value; the first contribution of
/// a step overwrites, so nothing is ever filled with zeros.
#[derive(Debug)]
pub struct Gradients {
    slots: Vec<Slot>,
    by_id: HashMap<TensorId, usize>,
    kernels: Kernels,
}

#[derive(Debug)]
struct Slot {
    parameter: Parameter,
    sum: Tensor,
    /// Whether `sum` holds anything of this step.
    filled: bool,
    /// Whether others have `sum`, so that nothing may be added any more.
    finished: bool,
    /// `Σ sum²`, where the product that finished the sum has found it.
    squares: Option<f64>,
}

impl Gradients {
    /// Sums for `parameters`, all empty.
    ///
    /// # Errors
    /// If the device has no memory for them.
    pub fn new(parameters: Vec<Parameter>) -> Result<Self> {
        let by_id = parameters.iter().enumerate().map(|(i, p)| (p.var.id(), i)).collect();
        let slots = parameters
            .into_iter()
            .map(|parameter| {
                let sum = parameter.var.zeros_like()?;
                Ok(Slot { parameter, sum, filled: false, finished: false, squares: None })
            })
            .collect::<Result<_>>()?;
        Ok(Self { slots, by_id, kernels: Kernels::default() })
    }

    /// Sets the kernels for matrix products. Without it [`Kernels::for_processor`] decides.
    #[must_use]
    pub fn with_kernels(mut self, kernels: Kernels) -> Self {
        self.kernels = kernels;
        self
    }

    /// Forgets the sums of the last step; costs nothing.
    pub fn clear(&mut self) {
        for slot in &mut self.slots {
            slot.filled = false;
            slot.finished = false;
            slot.squares = None;
        }
    }

    /// The kernels for matrix products.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// The parameters, in the order of [`Self::new`].
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.slots.iter().map(|slot| &slot.parameter)
    }

    fn place(&self, parameter: TensorId) -> Result<usize> {
        match self.by_id.get(&parameter) {
            Some(&place) => Ok(place),
            None => bail!("a residue names a tensor that is not a parameter of this stage"),
        }
    }

    /// The slot of a parameter, to add to it.
    fn slot(&mut self, parameter: TensorId) -> Result<&mut Slot> {
        let place = self.place(parameter)?;
        let slot = &mut self.slots[place];
        if slot.finished {
            bail!("a residue adds to {} without naming it", slot.parameter.name);
        }
        Ok(slot)
    }

    /// The shape of a parameter.
    ///
    /// # Errors
    /// If it belongs to another stage.
    pub fn shape_of(&self, parameter: TensorId) -> Result<&Shape> {
        Ok(self.slots[self.place(parameter)?].sum.shape())
    }

    /// Adds a gradient of the same shape to the sum of a parameter.
    ///
    /// # Errors
    /// If the parameter belongs to another stage, the shape differs, or a kernel fails.
    pub fn add(&mut self, parameter: TensorId, gradient: &Tensor) -> Result<()> {
        let slot = self.slot(parameter)?;
        if gradient.shape() != slot.sum.shape() {
            bail!(
                "gradient of {} has shape {:?}, the parameter {:?}",
                slot.parameter.name,
                gradient.shape(),
                slot.sum.shape()
            );
        }
        let gradient = gradient.contiguous()?;
        slot.add_with(
            |sum, add| sum.inplace_op2(&gradient, &Add { add }).map(|()| None),
            |_| Ok(gradient.clone()),
        )
    }

    /// Adds to the sum of a parameter without a tensor in between, where the sum lies on the CPU as
    /// numbers of 32 bits.
    ///
    /// There `add` gets the sum and whether it holds anything of this step (else it has to be
    /// overwritten); it may return the sum of the squares of what it has written. Elsewhere
    /// `gradient` makes a tensor, of the shape of the sum that it gets.
    ///
    /// # Errors
    /// If the parameter belongs to another stage, or one of the two fails.
    pub fn add_with(
        &mut self,
        parameter: TensorId,
        add: impl FnOnce(&Tensor, bool) -> Result<Option<f64>>,
        gradient: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        self.slot(parameter)?.add_with(add, gradient)
    }

    /// The sum of one parameter, or `None` if nothing was added to it since [`Self::clear`].
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.slots.iter().find(|s| s.parameter.name == name && s.filled).map(|s| &s.sum)
    }

    /// The parameters, with their sums, in the order of [`Self::new`]. A parameter without a
    /// contribution has zeros.
    ///
    /// # Errors
    /// If zeros cannot be written.
    pub fn finished(&mut self) -> Result<impl Iterator<Item = (&Parameter, &Tensor)>> {
        self.fill()?;
        Ok(self.slots.iter().map(|s| (&s.parameter, &s.sum)))
    }

    /// A sum without a contribution is zero.
    fn fill(&mut self) -> Result<()> {
        self.slots.iter_mut().try_for_each(Slot::fill)
    }

    /// The sum of one parameter, by its place in the order of [`Self::new`], when nothing will be
    /// added to it any more: until [`Self::clear`] that is an error. A parameter without a
    /// contribution has zeros.
    ///
    /// # Errors
    /// If there is no such parameter, or zeros cannot be written.
    pub fn finish(&mut self, place: usize) -> Result<&Tensor> {
        let slot = self.at(place)?;
        slot.fill()?;
        slot.finished = true;
        Ok(&slot.sum)
    }

    /// Replaces the sum of one parameter, by its place in the order of [`Self::new`]: by the mean
    /// over replicas, say. On the CPU this also computes what [`Self::square_sums`] needs, while the
    /// sum is in the cache.
    ///
    /// # Errors
    /// If there is no such parameter, the shape differs, or a kernel fails.
    pub fn replace(&mut self, place: usize, sum: Tensor) -> Result<()> {
        let slot = self.at(place)?;
        if slot.sum.shape() != sum.shape() {
            bail!(
                "gradient of {}: {:?} for {:?}",
                slot.parameter.name,
                sum.shape(),
                slot.sum.shape()
            );
        }
        slot.sum = sum;
        slot.filled = true;
        slot.squares = None;
        if in_place(&slot.sum) {
            slot.squares = Some(slot.square_sum()?);
        }
        Ok(())
    }

    fn at(&mut self, place: usize) -> Result<&mut Slot> {
        let n = self.slots.len();
        match self.slots.get_mut(place) {
            Some(slot) => Ok(slot),
            None => bail!("parameter {place} of {n}"),
        }
    }

    /// Names of parameters without a contribution since [`Self::clear`].
    pub fn missing(&self) -> Vec<&str> {
        self.slots.iter().filter(|s| !s.filled).map(|s| s.parameter.name.as_str()).collect()
    }

    /// Bytes of all sums.
    pub fn bytes(&self) -> usize {
        self.slots.iter().map(|s| s.sum.elem_count() * s.sum.dtype().size_in_bytes()).sum()
    }

    /// The sum of squares of each parameter's gradient, in the order of [`Self::new`].
    ///
    /// # Errors
    /// If a kernel fails.
    pub fn square_sums(&mut self) -> Result<Vec<f64>> {
        self.fill()?;
        self.slots.iter().map(Slot::square_sum).collect()
    }

    /// The same as scalars on the device, for a caller that asks for the sums of several stages at
    /// once.
    ///
    /// # Errors
    /// If a kernel fails.
    pub fn square_sums_on_device(&mut self) -> Result<Vec<Tensor>> {
        self.fill()?;
        self.slots.iter().map(Slot::square_sum_on_device).collect()
    }
}

/// The norm over the whole model, from the square sums of its parameters in layer order.
pub fn global_norm(square_sums: impl IntoIterator<Item = f64>) -> f64 {
    square_sums.into_iter().sum::<f64>().sqrt()
}

/// What every gradient is multiplied with so that the norm is at most `max_norm`
/// (Pascanu et al. 2013, arXiv:1211.5063, algorithm 1; PyTorch's 1e-6 in the denominator).
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f32 {
    max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0)) as f32
}

/// Whether our kernels can work on this tensor where it lies.
pub(crate) fn in_place(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

impl Slot {
    fn fill(&mut self) -> Result<()> {
        if !self.filled {
            self.sum = self.sum.zeros_like()?;
            self.filled = true;
        }
        Ok(())
    }

    fn square_sum_on_device(&self) -> Result<Tensor> {
        self.sum.to_dtype(DType::F32)?.sqr()?.sum_all()
    }

    fn square_sum(&self) -> Result<f64> {
        if let Some(squares) = self.squares {
            return Ok(squares);
        }
        let sum = &self.sum;
        if !in_place(sum) {
            return Ok(f64::from(self.square_sum_on_device()?.to_scalar::<f32>()?));
        }
        let columns = sum.dims().last().copied().unwrap_or(1);
        cpu::read(sum, |sum| Ok(cpu::square_sum(sum, columns)))
    }

    fn add_with(
        &mut self,
        add: impl FnOnce(&Tensor, bool) -> Result<Option<f64>>,
        gradient: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        self.squares = if in_place(&self.sum) {
            add(&self.sum, self.filled)?
        } else {
            let gradient = gradient(&self.sum)?;
            self.sum = if self.filled { (&self.sum + gradient)? } else { gradient };
            None
        };
        self.filled = true;
        Ok(())
    }
}

/// `sum (+)= gradient`.
struct Add {
    add: bool,
}

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "gradient sum"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sl: &Layout,
        source: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (sum, gradient) = (cpu::slice_mut(sum, sl)?, cpu::slice::<f32>(source, layout)?);
        if self.add {
            cpu::add(sum, gradient);
        } else {
            sum.copy_from_slice(gradient);
        }
        Ok(())
    }
}
