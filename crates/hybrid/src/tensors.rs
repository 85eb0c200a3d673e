//! Tensors in the safetensors format.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use candle_core::{DType, Device, Storage, Tensor};
use safetensors::tensor::{Metadata, TensorInfo, View};

/// Writes tensors in the safetensors format one after another, without a second copy of all of
/// them, and returns the number of bytes. They are those of the library's own function, which
/// writes into a file of its own.
///
/// # Errors
/// Errors of `out`, and a tensor without a format.
pub fn write_tensors(
    out: &mut (impl Write + ?Sized),
    tensors: &[(String, Tensor)],
    about: &BTreeMap<String, String>,
) -> io::Result<u64> {
    const ALIGNMENT: usize = 8;
    // The order of the library: wide types first, so that each is aligned, then by name.
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|(left_name, left), (right_name, right)| {
        View::dtype(&right).cmp(&View::dtype(&left)).then_with(|| left_name.cmp(right_name))
    });
    let mut infos = Vec::with_capacity(sorted.len());
    let mut offset = 0;
    for (name, tensor) in &sorted {
        let end = offset + View::data_len(&tensor);
        let info = TensorInfo {
            dtype: View::dtype(&tensor),
            shape: View::shape(&tensor).to_vec(),
            data_offsets: (offset, end),
        };
        infos.push((name.clone(), info));
        offset = end;
    }
    let about: HashMap<String, String> = about.clone().into_iter().collect();
    let about = Some(about).filter(|about| !about.is_empty());
    let metadata = Metadata::new(about, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, tensor) in sorted {
        let bytes: Cow<'_, [u8]> = View::data(&tensor);
        out.write_all(&bytes)?;
    }
    Ok((size_of::<u64>() + header.len() + offset) as u64)
}

/// The name of the first tensor with a number that is not finite as `f32`. Tensors of `f32` on the
/// CPU are not copied for it.
///
/// # Errors
/// A tensor that cannot be copied, or converted to `f32`.
pub fn first_nonfinite<'a>(
    tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
) -> candle_core::Result<Option<&'a str>> {
    for (name, tensor) in tensors {
        if !is_finite(tensor)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    // A piece is a loop without a branch, which becomes vector code.
    const PIECE: usize = 4096;
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let values = match &*storage {
        Storage::Cpu(storage) => storage.as_slice::<f32>()?,
        _ => candle_core::bail!("expected a tensor of the cpu"),
    };
    let start = layout.start_offset();
    let values = values.get(start..start + layout.shape().elem_count()).unwrap_or_default();
    let is_finite = |piece: &[f32]| piece.iter().fold(true, |all, value| all & value.is_finite());
    Ok(values.chunks(PIECE).all(is_finite))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_library() {
        let tensor =
            |n: u32, dtype| Tensor::arange(0, n, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let tensors = vec![
            ("b.weight".to_owned(), tensor(3, DType::F32)),
            ("targets".to_owned(), tensor(5, DType::I64)),
            ("a".to_owned(), tensor(7, DType::F32).reshape((7, 1)).unwrap()),
            ("loss".to_owned(), Tensor::new(1.5_f32, &Device::Cpu).unwrap()),
            ("bytes".to_owned(), tensor(3, DType::U8)),
        ];
        for about in [BTreeMap::new(), BTreeMap::from([("step".to_owned(), "3".to_owned())])] {
            let mut bytes = Vec::new();
            let n_bytes = write_tensors(&mut bytes, &tensors, &about).unwrap();
            assert_eq!(n_bytes, bytes.len() as u64);
            let about: HashMap<String, String> = about.into_iter().collect();
            let about = Some(about).filter(|about| !about.is_empty());
            assert_eq!(bytes, safetensors::serialize(tensors.clone(), about).unwrap());
        }
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_found_wherever_it_is() {
        let ones =
            |n: usize| ("ones".to_owned(), Tensor::ones(n, DType::F32, &Device::Cpu).unwrap());
        let with = |name: &str, at: usize, value: f32| {
            let mut values = vec![0.5_f32; 10_000];
            values[at] = value;
            (name.to_owned(), Tensor::from_vec(values, (100, 100), &Device::Cpu).unwrap())
        };
        let first = |tensors: &[(String, Tensor)]| {
            let tensors = tensors.iter().map(|(name, tensor)| (name, tensor));
            first_nonfinite(tensors).unwrap().map(ToOwned::to_owned)
        };
        assert_eq!(first(&[]), None);
        assert_eq!(first(&[ones(5), with("a", 0, f32::MAX)]), None);
        for at in [0, 4095, 4096, 9_999] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let found = first(&[ones(5), with("a", at, value), with("b", at, value)]);
                assert_eq!(found.as_deref(), Some("a"), "{value} at {at}");
            }
        }
        // A part of a tensor, and other types.
        let (_, whole) = with("a", 0, f32::NAN);
        let part = |rows| ("part".to_owned(), whole.narrow(0, rows, 3).unwrap());
        assert_eq!(first(&[part(1)]), None);
        assert_eq!(first(&[part(0)]).as_deref(), Some("part"));
        assert_eq!(first(&[("t".to_owned(), part(1).1.t().unwrap())]), None);
        let half = ("half".to_owned(), whole.to_dtype(DType::BF16).unwrap());
        assert_eq!(first(&[half]).as_deref(), Some("half"));
        let double = Tensor::new(1e300_f64, &Device::Cpu).unwrap();
        assert_eq!(first(&[("double".to_owned(), double)]).as_deref(), Some("double"));
    }
}
