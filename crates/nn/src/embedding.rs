//! Rows of a table by number.

use candle_core::{
    CpuStorage, CustomOp2, DType, InplaceOp3, Layout, Result, Shape, Tensor, TensorId, bail,
};
use candle_nn::{Init, VarBuilder};

use crate::context::ForwardContext;
use crate::cpu;
use crate::deferred;
use crate::gradients::Gradients;
use crate::residue::{Residue, ResidueQueue, WeightGradient, bytes_of};

/// A table of `v` rows of `d` features. Shapes: ids `(…)` → `(…, d)`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight_vd: Tensor,
}

impl Embedding {
    /// Parameter `weight` (v, d) from `init`.
    ///
    /// # Errors
    /// What the builder returns.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers hand over `builder.pp(name)`, as everywhere in candle"
    )]
    pub fn new(rows: usize, features: usize, init: Init, builder: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight_vd: builder.get_with_hints((rows, features), "weight", init)? })
    }

    /// Looks up `ids`, U32 of any shape.
    ///
    /// # Errors
    /// If an id is not below the number of rows, which is named.
    pub fn forward(&self, ids: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let mut shape = ids.dims().to_vec();
        shape.push(self.weight_vd.dim(1)?);
        let ids = ids.to_dtype(DType::U32)?.flatten_all()?.contiguous()?;
        if !ids.device().is_cpu() || self.weight_vd.dtype() != DType::F32 {
            let y = self.weight_vd.index_select(&ids, 0)?;
            let Some(queue) = context.residues().cloned() else { return y.reshape(shape) };
            let (table, numbers) = (self.weight_vd.id(), ids.clone());
            let y = deferred::with_backward(&y, &ids, &self.weight_vd, move |gy| {
                let (ids, gy) = (numbers.clone(), gy.contiguous()?);
                queue.push(Residue::new(RowsResidue { table, ids, gy }));
                Ok(None)
            });
            return y?.reshape(shape);
        }
        let op = RowsOp { queue: context.residues().cloned() };
        self.weight_vd.apply_op2(&ids, op)?.reshape(shape)
    }
}

struct RowsOp {
    queue: Option<ResidueQueue>,
}

impl CustomOp2 for RowsOp {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        tl: &Layout,
        ids: &CpuStorage,
        il: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, features) = tl.shape().dims2()?;
        let (table, ids): (&[f32], &[u32]) = (cpu::slice(table, tl)?, cpu::slice(ids, il)?);
        let mut y = Vec::with_capacity(ids.len() * features);
        for &id in ids {
            let start = id as usize * features;
            let Some(row) = table.get(start..start + features) else {
                bail!("id {id} is not a row of an embedding of {rows} rows");
            };
            y.extend_from_slice(row);
        }
        Ok((CpuStorage::F32(y), (ids.len(), features).into()))
    }

    fn bwd(
        &self,
        table: &Tensor,
        ids: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if let Some(queue) = &self.queue {
            let (table, ids, gy) = (table.id(), ids.clone(), gy.contiguous()?);
            queue.push(Residue::new(RowsResidue { table, ids, gy }));
            return Ok((None, None));
        }
        let mut sum = vec![0.0; table.elem_count()];
        add_rows(&mut sum, &ids.to_vec1()?, &cpu::to_vec(gy)?);
        Ok((Some(Tensor::from_vec(sum, table.shape(), table.device())?), None))
    }
}

/// The gradient adds each row of `gy` to row `ids[r]`.
struct RowsResidue {
    /// Parameter of shape (v, d).
    table: TensorId,
    /// Row numbers, U32, one for each row of `gy`.
    ids: Tensor,
    /// Gradient of the output, (…, d), contiguous.
    gy: Tensor,
}

impl WeightGradient for RowsResidue {
    fn name(&self) -> &'static str {
        "Rows"
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.ids) + bytes_of(&self.gy)
    }

    fn parameters(&self) -> Vec<TensorId> {
        vec![self.table]
    }

    fn add_to(self: Box<Self>, sums: &mut Gradients, _: bool) -> Result<()> {
        let Self { table, ids, gy } = *self;
        sums.add_with(
            table,
            |sum, add| sum.inplace_op3(&ids, &gy, &AddRows { add }).map(|()| None),
            |sum| sum.zeros_like()?.index_add(&ids, &gy.reshape((ids.dim(0)?, ()))?, 0),
        )
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

/// Adds row r of `gy` to row `ids[r]` of `table`.
fn add_rows(table: &mut [f32], ids: &[u32], gy: &[f32]) {
    if ids.is_empty() {
        return;
    }
    let features = gy.len() / ids.len();
    for (&id, row) in ids.iter().zip(gy.chunks_exact(features)) {
        let start = id as usize * features;
        for (sum, g) in table[start..start + features].iter_mut().zip(row) {
            *sum += g;
        }
    }
}
