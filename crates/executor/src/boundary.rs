//! Where autograd is cut.
//!
//! What arrives becomes a leaf; the stage runs under candle's autograd; the backward starts from
//! the gradient that arrives and ends at the leaf, whose gradient goes back.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, Var};

/// What crosses a boundary: the output of a stage, or the gradients of its inputs. A gradient is
/// `None` where the stage above did not use a tensor.
pub(crate) type Tensors = Vec<Option<Tensor>>;

/// Makes leaves of the float tensors that arrived; others (masks, numbers) pass as they are.
pub(crate) fn leaves(arrived: &[Tensor]) -> Result<Vec<Tensor>> {
    let leaf = |t: &Tensor| {
        if t.dtype().is_float() { Ok(Var::from_tensor(t)?.into_inner()) } else { Ok(t.clone()) }
    };
    arrived.iter().map(leaf).collect()
}

/// Takes the leaves' gradients; `None` where the stage did not use a tensor, or it is no float.
pub(crate) fn leaf_gradients(leaves: &[Tensor], store: &mut GradStore) -> Vec<Option<Tensor>> {
    // candle computes them with tracked operations on variables: detached, or the stage below would
    // walk this stage's graph as well.
    leaves.iter().map(|leaf| store.remove(leaf).map(|gradient| gradient.detach())).collect()
}

/// The backward of a stage: from the gradients of its outputs to everything below.
///
/// candle starts every backward from a scalar with gradient 1. The scalar here costs nothing: its
/// forward is never computed, and its backward hands out the gradients that arrived.
///
/// `None` if there is nothing to do: no output has a gradient, or nothing below them wants one (a
/// first stage without parameters).
///
/// # Errors
/// If a kernel fails.
pub(crate) fn backward(
    outputs: &[Tensor],
    gradients: &[Option<Tensor>],
) -> Result<Option<GradStore>> {
    let mut root: Option<Tensor> = None;
    for (output, gradient) in outputs.iter().zip(gradients) {
        let Some(gradient) = gradient else { continue };
        if !output.track_op() {
            continue;
        }
        let scalar = if output.device().is_cpu() {
            output.contiguous()?.apply_op2(gradient, Seed)?
        } else {
            (output * gradient)?.sum_all()?
        };
        root = Some(match root {
            Some(root) => (root + scalar)?,
            None => scalar,
        });
    }
    root.map(|root| root.backward()).transpose()
}

/// `⟨output, gradient⟩` as far as the backward can tell.
struct Seed;

impl CustomOp2 for Seed {
    fn name(&self) -> &'static str {
        "vector-Jacobian seed"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(
        &self,
        _: &Tensor,
        gradient: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(gradient.clone()), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_cut_graph_has_the_gradients_of_the_whole() {
        let x = Var::new(&[[1.0f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        let first = |x: &Tensor| (x.sqr().unwrap(), (x * 3.0).unwrap());
        let second = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap();
        let (a, b) = first(x.as_tensor());
        let whole = second(&a, &b).backward().unwrap().remove(x.as_tensor()).unwrap();

        let cut = leaves(&[a.detach(), b.detach()]).unwrap();
        let mut store = second(&cut[0], &cut[1]).backward().unwrap();
        let back = leaf_gradients(&cut, &mut store);
        let mut store = backward(&[a, b], &back).unwrap().unwrap();
        let parts = store.remove(x.as_tensor()).unwrap();
        assert_eq!(whole.to_vec2::<f32>().unwrap(), parts.to_vec2::<f32>().unwrap());
        assert!(backward(&[x.sqr().unwrap()], &[None]).unwrap().is_none());
        let batch = Tensor::ones(2, candle_core::DType::F32, &Device::Cpu).unwrap();
        let gradient = Some(batch.clone());
        assert!(backward(&[batch.sqr().unwrap()], &[gradient]).unwrap().is_none());
    }
}
