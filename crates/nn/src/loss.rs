//! Cross-entropy with its softmax.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};

use crate::cpu;

/// Mean over all rows of `−ln softmax(logits)[target]`, in nats: a scalar.
///
/// Shapes: logits `(…, c)`, targets `(…)`, U32 class numbers.
///
/// # Errors
/// If the shapes do not fit, or a target is not below `c`; both numbers are named.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let classes = logits.dim(D::Minus1)?;
    let logits = logits.reshape(((), classes))?.contiguous()?;
    let targets = targets.to_dtype(DType::U32)?.flatten_all()?.contiguous()?;
    if logits.dim(0)? != targets.dim(0)? {
        bail!("{} rows of logits, but {} targets", logits.dim(0)?, targets.dim(0)?);
    }
    if !logits.device().is_cpu() || logits.dtype() != DType::F32 {
        let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
        let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
        let picked = shifted.broadcast_sub(&log_sum)?.gather(&targets.unsqueeze(1)?, 1)?;
        return picked.mean_all()?.neg();
    }
    logits.apply_op2(&targets, CrossEntropyOp { softmax: Mutex::new(Vec::new()) })
}

struct CrossEntropyOp {
    /// The probabilities of the forward, for the backward.
    softmax: Mutex<Vec<f32>>,
}

impl CustomOp2 for CrossEntropyOp {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        ll: &Layout,
        targets: &CpuStorage,
        tl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, classes) = ll.shape().dims2()?;
        let (logits, targets): (&[f32], &[u32]) =
            (cpu::slice(logits, ll)?, cpu::slice(targets, tl)?);
        if let Some(target) = targets.iter().find(|&&target| target as usize >= classes) {
            bail!("target {target} is not one of {classes} classes");
        }
        let mut softmax = logits.to_vec();
        let mut total = 0.0f64;
        for (row, (max, sum)) in cpu::softmax(&mut softmax, classes).into_iter().enumerate() {
            let picked = logits[row * classes + targets[row] as usize];
            total += f64::from(sum).ln() - f64::from(picked - max);
        }
        *self.softmax.lock().unwrap_or_else(PoisonError::into_inner) = softmax;
        Ok((CpuStorage::F32(vec![(total / rows as f64) as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, classes) = logits.dims2()?;
        let factor = gy.to_scalar::<f32>()? / rows as f32;
        // The forward's buffer becomes the gradient: a graph is walked once.
        let mut g =
            std::mem::take(&mut *self.softmax.lock().unwrap_or_else(PoisonError::into_inner));
        if g.len() != rows * classes {
            bail!("the graph of a cross-entropy was walked twice");
        }
        for (row, target) in g.chunks_exact_mut(classes).zip(targets.to_vec1::<u32>()?) {
            row[target as usize] -= 1.0;
            for v in row {
                *v *= factor;
            }
        }
        Ok((Some(Tensor::from_vec(g, (rows, classes), logits.device())?), None))
    }
}
