//! The sums of gradients over micro-batches, in place.

use std::cell::Cell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Tensor, TensorId, bail,
};

use crate::cpu::{self, Kernel, Kernels, Product, View};
use crate::embedding::add_rows;
use crate::parameters::Parameter;
use crate::residue::Residue;

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
                Ok(Slot { parameter, sum, filled: false, squares: None })
            })
            .collect::<Result<_>>()?;
        Ok(Self { slots, by_id, kernels: Kernels::default() })
    }

    /// What multiplies matrices. Without it [`Kernels::for_processor`] decides.
    #[must_use]
    pub fn with_kernels(mut self, kernels: Kernels) -> Self {
        self.kernels = kernels;
        self
    }

    /// Forgets the sums of the last step; costs nothing.
    pub fn clear(&mut self) {
        for slot in &mut self.slots {
            slot.filled = false;
            slot.squares = None;
        }
    }

    fn slot(&mut self, id: TensorId) -> Result<&mut Slot> {
        match self.by_id.get(&id) {
            Some(&i) => Ok(&mut self.slots[i]),
            None => bail!("a residue names a tensor that is not a parameter of this stage"),
        }
    }

    /// Adds what `residue` stands for to the sums of its parameters.
    ///
    /// # Errors
    /// If the residue belongs to another stage, or a kernel fails.
    pub fn accumulate(&mut self, residue: Residue) -> Result<()> {
        self.add_residue(residue, false)
    }

    /// The same of the last micro-batch of a step: what [`Self::square_sums`] will want is found on the way, while the sums are in the
    /// cache.
    ///
    /// # Errors
    /// As [`Self::accumulate`].
    pub fn accumulate_last(&mut self, residue: Residue) -> Result<()> {
        self.add_residue(residue, true)
    }

    fn add_residue(&mut self, residue: Residue, last: bool) -> Result<()> {
        match residue {
            Residue::Linear { weight, bias, x, gy } => {
                let (outputs, inputs) = self.slot(weight)?.sum.dims2()?;
                let (x, gy) = (x.reshape(((), inputs))?, gy.reshape(((), outputs))?);
                let kernel = self.kernels.of(Product::WeightGradient, x.dim(0)?);
                self.slot(weight)?.add_product(kernel, &gy, &x, last)?;
                match bias {
                    Some(bias) => self.slot(bias)?.add_columns(&gy),
                    None => Ok(()),
                }
            }
            Residue::Rows { table, ids, gy } => self.slot(table)?.add_rows(&ids, &gy),
            Residue::Norm { weight, bias, x, gy, norm } => {
                let (gw, gb) = norm.weight_gradients(&x, &gy)?;
                self.slot(weight)?.add(&gw)?;
                self.slot(bias)?.add(&gb)
            }
            Residue::Dense { parameter, gradient } => self.slot(parameter)?.add(&gradient),
            Residue::Deferred { run, .. } => {
                run()?.into_iter().try_for_each(|r| self.add_residue(r, last))
            }
        }
    }

    /// Takes from `store`, as residues, the gradients that candle itself computed for these
    /// parameters (layers that are not of this crate).
    pub fn dense_residues(&self, store: &mut GradStore) -> Vec<Residue> {
        self.slots
            .iter()
            .filter_map(|slot| {
                // Detached, or it would keep the graph that candle computed it with.
                let gradient = store.remove(slot.parameter.var.as_tensor())?.detach();
                Some(Residue::Dense { parameter: slot.parameter.var.id(), gradient })
            })
            .collect()
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
        for slot in self.slots.iter_mut().filter(|slot| !slot.filled) {
            slot.sum = slot.sum.zeros_like()?;
            slot.filled = true;
        }
        Ok(())
    }

    /// Replaces each sum, in the order of [`Self::new`]: the mean over replicas, say.
    ///
    /// # Errors
    /// If the number of tensors or a shape differs.
    pub fn replace(&mut self, sums: Vec<Tensor>) -> Result<()> {
        if sums.len() != self.slots.len() {
            bail!("{} gradients for {} parameters", sums.len(), self.slots.len());
        }
        for (slot, sum) in self.slots.iter_mut().zip(sums) {
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
        }
        Ok(())
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
    fn square_sum(&self) -> Result<f64> {
        if let Some(squares) = self.squares {
            return Ok(squares);
        }
        let sum = &self.sum;
        if !in_place(sum) {
            let sum = sum.to_dtype(DType::F32)?.sqr()?.sum_all()?;
            return Ok(f64::from(sum.to_scalar::<f32>()?));
        }
        let columns = sum.dims().last().copied().unwrap_or(1);
        cpu::read(sum, |sum| Ok(cpu::square_sum(sum, columns)))
    }

    /// Adds `gradient` by `op` in place, or through a new tensor where that cannot be.
    fn add_with(
        &mut self,
        add: impl FnOnce(&Tensor, bool) -> Result<()>,
        gradient: impl FnOnce() -> Result<Tensor>,
    ) -> Result<()> {
        if in_place(&self.sum) {
            add(&self.sum, self.filled)?;
        } else {
            let gradient = gradient()?;
            self.sum = if self.filled { (&self.sum + gradient)? } else { gradient };
        }
        self.filled = true;
        self.squares = None;
        Ok(())
    }

    fn add_product(&mut self, kernel: Kernel, gy: &Tensor, x: &Tensor, last: bool) -> Result<()> {
        let squares = Cell::new(None);
        self.add_with(
            |sum, add| {
                let op = AddProduct { kernel, add, squares: last.then_some(&squares) };
                sum.inplace_op3(gy, x, &op)
            },
            || gy.t()?.matmul(x),
        )?;
        self.squares = squares.get();
        Ok(())
    }

    fn add_columns(&mut self, gy: &Tensor) -> Result<()> {
        self.add_with(|sum, add| sum.inplace_op2(gy, &AddColumns { add }), || gy.sum(0))
    }

    fn add_rows(&mut self, ids: &Tensor, gy: &Tensor) -> Result<()> {
        let zeros = self.sum.clone();
        self.add_with(
            |sum, add| sum.inplace_op3(ids, gy, &AddRows { add }),
            || zeros.zeros_like()?.index_add(ids, &gy.reshape((ids.dim(0)?, ()))?, 0),
        )
    }

    fn add(&mut self, gradient: &Tensor) -> Result<()> {
        if gradient.shape() != self.sum.shape() {
            bail!(
                "gradient of {} has shape {:?}, the parameter {:?}",
                self.parameter.name,
                gradient.shape(),
                self.sum.shape()
            );
        }
        let gradient = gradient.contiguous()?;
        self.add_with(|sum, add| sum.inplace_op2(&gradient, &Add { add }), || Ok(gradient.clone()))
    }
}

/// `sum (+)= gyᵀ·x`: sum (o, i), gy (r, o), x (r, i).
struct AddProduct<'a> {
    kernel: Kernel,
    add: bool,
    /// Where the squares of the finished sum go, if anybody wants them.
    squares: Option<&'a Cell<Option<f64>>>,
}

impl InplaceOp3 for AddProduct<'_> {
    fn name(&self) -> &'static str {
        "linear weight gradient"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sl: &Layout,
        gy: &CpuStorage,
        gl: &Layout,
        x: &CpuStorage,
        xl: &Layout,
    ) -> Result<()> {
        let ((rows, outputs), (_, inputs)) = (gl.shape().dims2()?, xl.shape().dims2()?);
        let sum = (cpu::slice_mut(sum, sl)?, View::row_major(outputs, inputs));
        let gy = (cpu::slice(gy, gl)?, View::row_major(rows, outputs).transposed());
        let x = (cpu::slice(x, xl)?, View::row_major(rows, inputs));
        match self.squares {
            Some(squares) => {
                squares.set(Some(cpu::gemm_and_squares(self.kernel, sum, gy, x, self.add)));
            }
            None => cpu::gemm(self.kernel, sum, gy, x, 1.0, self.add),
        }
        Ok(())
    }
}

/// `sum (+)=` the column sums of gy (r, o).
struct AddColumns {
    add: bool,
}

impl InplaceOp2 for AddColumns {
    fn name(&self) -> &'static str {
        "linear bias gradient"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sl: &Layout,
        source: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let sum = cpu::slice_mut(sum, sl)?;
        if !self.add {
            sum.fill(0.0);
        }
        cpu::add_columns(sum, cpu::slice(source, layout)?);
        Ok(())
    }
}

/// `sum[ids[r]] (+)= gy[r]`.
struct AddRows {
    add: bool,
}

impl InplaceOp3 for AddRows {
    fn name(&self) -> &'static str {
        "embedding weight gradient"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sl: &Layout,
        ids: &CpuStorage,
        il: &Layout,
        gy: &CpuStorage,
        gl: &Layout,
    ) -> Result<()> {
        let sum = cpu::slice_mut(sum, sl)?;
        if !self.add {
            sum.fill(0.0);
        }
        add_rows(sum, cpu::slice(ids, il)?, cpu::slice(gy, gl)?);
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
