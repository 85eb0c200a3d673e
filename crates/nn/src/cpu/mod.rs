//! The few kernels of the CPU path, on slices. Everything above them is bounds-checked here once.

#[cfg_attr(not(feature = "blas"), path = "no_blas.rs")]
mod blas;
mod elementwise;
mod few_terms;
mod fresh;
mod kernel;
mod math;
mod matrix;
mod packed;
mod product;
mod small;
mod softmax;
mod view;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};
use pulp::{Arch, WithSimd};

/// The elements of a contiguous tensor.
pub(crate) fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!(
            "expected a contiguous tensor, got strides {:?} for shape {:?}",
            layout.stride(),
            layout.shape()
        );
    };
    Ok(&storage.as_slice::<T>()?[start..end])
}

/// The elements of a contiguous `f32` tensor, to be changed.
pub(crate) fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!(
            "expected a contiguous tensor, got strides {:?} for shape {:?}",
            layout.stride(),
            layout.shape()
        );
    };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        other => {
            bail!("expected f32, got {:?}", candle_core::backend::BackendStorage::dtype(other))
        }
    }
}

/// Copies a contiguous `f32` tensor of the CPU into a vector.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

pub(crate) use elementwise::{
    Binary, Unary, add, add_columns, binary, binary_in_place, max_of, square_sum, sum_of,
    sum_of_pairs, unary, unary_in_place,
};
pub(crate) use fresh::Fresh;
pub(crate) use kernel::InstructionSet;
pub use kernel::{Kernel, Kernels, KernelsError, Product, ROWS_OF_CLASSES};
pub(crate) use math::{exp, exp_of_difference, sigmoid};
pub use matrix::gemm;
pub(crate) use matrix::{gemm_and_add, gemm_and_squares, gemm_by_panels, gemm_into_fresh};
pub(crate) use packed::Addends;
pub use packed::Panels;
pub(crate) use small::Small;
pub(crate) use softmax::softmax;
pub use view::View;

/// Lets `with` see the elements of a contiguous `f32` tensor of the CPU, or of a copy where it is
/// not contiguous.
pub(crate) fn read<R>(tensor: &Tensor, with: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => with(slice(storage, layout)?),
        _ => bail!("expected a tensor of the cpu"),
    }
}

/// The same of a tensor that need not be there.
pub(crate) fn read_some<R>(
    tensor: Option<&Tensor>,
    with: impl FnOnce(Option<&[f32]>) -> Result<R>,
) -> Result<R> {
    match tensor {
        Some(tensor) => read(tensor, |values| with(Some(values))),
        None => with(None),
    }
}

/// Runs `work`, compiled for the widest vectors that this processor has (AVX-512, AVX2, or what
/// every processor has).
///
/// Loops become vector code only where they are inlined into it: `work` and what it calls say
/// `#[inline(always)]`.
#[inline]
pub(crate) fn vectorized<W: WithSimd>(work: W) -> W::Output {
    Arch::new().dispatch(work)
}
