//! The memory of tensors, as MPI reads and writes it.
//!
//! A request of the library borrows its buffer for a scope. Here a buffer belongs to the request
//! that uses it and lives until that is complete, which no lifetime can say; so this file says it.
//! Copies in and out of buffers of the library would be safe, and would touch every byte two more
//! times.
#![expect(unsafe_code, reason = "requests outlive the functions that start them")]

use std::mem::{ManuallyDrop, MaybeUninit};

use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor};
use ferrompi::PlainData;
use pp_executor::LinkError;

/// Numbers of a tensor that is being sent.
pub(crate) enum Slice {
    F32(&'static [f32]),
    Bytes(&'static [u8]),
}

/// A tensor on its way out. It keeps the memory for as long as it lives.
pub(crate) struct Outgoing {
    tensor: Tensor,
}

/// A tensor that is being received.
pub(crate) struct Incoming {
    shape: Shape,
    values: Values,
}

enum Values {
    F32(Vec<Slot>),
    F64(Vec<f64>),
    BF16(Vec<half::bf16>),
    F16(Vec<half::f16>),
    U8(Vec<u8>),
    U32(Vec<u32>),
    I64(Vec<i64>),
}

/// Room for a number that has not arrived. Half a round trip of 1 MiB took 154 us when it
/// was filled with zeros first, and 132 us without (Intel Xeon, 2026-11-30).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Slot(MaybeUninit<f32>);

// SAFETY: any bytes are valid for room that need not hold a number.
unsafe impl PlainData for Slot {}

/// Memory that a message is written into.
pub(crate) enum SliceMut {
    F32(&'static mut [Slot]),
    Bytes(&'static mut [u8]),
}

fn wrong(error: &candle_core::Error) -> LinkError {
    LinkError(error.to_string())
}

/// The bytes of numbers.
fn bytes_of<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: the numbers of tensors have no padding, and any byte is a valid `u8`.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of numbers, to be written. Any bytes are valid for the types of [`Values`].
fn bytes_of_mut<T: Copy>(values: &mut [T]) -> &mut [u8] {
    let n = size_of_val(values);
    // SAFETY: as above, and any bytes are valid numbers; the caller passes the types of `Values`.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), n) }
}

impl Outgoing {
    /// A tensor of the host.
    pub(crate) fn new(tensor: &Tensor) -> Result<Self, LinkError> {
        Ok(Self { tensor: tensor.contiguous().map_err(|error| wrong(&error))? })
    }

    /// Its numbers.
    ///
    /// # Safety
    /// The slice may be used only while this lives, and while nobody changes the tensor in place.
    pub(crate) unsafe fn slice(&self) -> Result<Slice, LinkError> {
        let (storage, layout) = self.tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(LinkError("a tensor of a device cannot be sent as it is".to_owned()));
        };
        let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
        let bytes = match storage {
            CpuStorage::F32(values) => {
                let values: *const [f32] = &raw const values[range];
                // SAFETY: the storage belongs to the tensor, which `self` keeps, and no tensor ever
                // moves or frees its storage while a handle of it lives. The rest is the caller's.
                return Ok(Slice::F32(unsafe { &*values }));
            }
            CpuStorage::F64(values) => bytes_of(&values[range]),
            CpuStorage::BF16(values) => bytes_of(&values[range]),
            CpuStorage::F16(values) => bytes_of(&values[range]),
            CpuStorage::U8(values) => &values[range],
            CpuStorage::U32(values) => bytes_of(&values[range]),
            CpuStorage::I64(values) => bytes_of(&values[range]),
            _ => return Err(LinkError("no message has numbers of this type".to_owned())),
        };
        let bytes: *const [u8] = bytes;
        // SAFETY: as above.
        Ok(Slice::Bytes(unsafe { &*bytes }))
    }
}

impl Incoming {
    /// Room for a tensor.
    pub(crate) fn new(dtype: DType, shape: Shape) -> Result<Self, LinkError> {
        let n = shape.elem_count();
        let values = match dtype {
            DType::F32 => Values::F32(vec![Slot(MaybeUninit::uninit()); n]),
            DType::F64 => Values::F64(vec![0.0; n]),
            DType::BF16 => Values::BF16(vec![half::bf16::ZERO; n]),
            DType::F16 => Values::F16(vec![half::f16::ZERO; n]),
            DType::U8 => Values::U8(vec![0; n]),
            DType::U32 => Values::U32(vec![0; n]),
            DType::I64 => Values::I64(vec![0; n]),
            other => return Err(LinkError(format!("no message has {other:?}"))),
        };
        Ok(Self { shape, values })
    }

    /// Its memory.
    ///
    /// # Safety
    /// The slice may be used only while this lives, and once.
    pub(crate) unsafe fn slice(&mut self) -> SliceMut {
        let bytes: *mut [u8] = match &mut self.values {
            Values::F32(values) => {
                let values: *mut [Slot] = values.as_mut_slice();
                // SAFETY: the numbers lie on the heap and stay there while `self` lives. The rest is
                // the caller's.
                return SliceMut::F32(unsafe { &mut *values });
            }
            Values::F64(values) => bytes_of_mut(values),
            Values::BF16(values) => bytes_of_mut(values),
            Values::F16(values) => bytes_of_mut(values),
            Values::U8(values) => values.as_mut_slice(),
            Values::U32(values) => bytes_of_mut(values),
            Values::I64(values) => bytes_of_mut(values),
        };
        // SAFETY: as above.
        SliceMut::Bytes(unsafe { &mut *bytes })
    }

    /// The tensor, when `n_received` numbers or bytes of it have arrived.
    pub(crate) fn into_tensor(self, n_received: usize) -> Result<Tensor, LinkError> {
        let shape = self.shape;
        let made = match self.values {
            Values::F32(values) => {
                if n_received != values.len() {
                    let n = values.len();
                    return Err(LinkError(format!("{n_received} of {n} numbers have arrived")));
                }
                let mut values = ManuallyDrop::new(values);
                let (slots, n, room) = (values.as_mut_ptr(), values.len(), values.capacity());
                // SAFETY: the vector is taken apart once. A slot has the size and the alignment of a
                // number, and MPI has written as many numbers as there are slots.
                let values = unsafe { Vec::from_raw_parts(slots.cast::<f32>(), n, room) };
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            Values::F64(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Values::BF16(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Values::F16(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Values::U8(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Values::U32(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Values::I64(values) => Tensor::from_vec(values, shape, &Device::Cpu),
        };
        made.map_err(|error| wrong(&error))
    }
}
