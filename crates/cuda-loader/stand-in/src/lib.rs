//! Stands in for the NVIDIA driver, cuBLAS, cuBLASLt, cuRAND and NVRTC. It computes nothing: kernels
//! and products leave memory as it was, which is filled with zeros. It copies what it is asked to
//! copy, and it counts every call.
//!
//! A test puts it under the names of all five libraries into a folder, and names that folder in
//! `PPTOP_CUDA_LIB`. These environment variables tell it more:
//!
//! - `PPTOP_CUDA_STAND_IN_COUNTS`: the file that gets the counts when the process ends, one
//!   `name count` a line. Launches are counted by kernel as well (`kernel:NAME`), and copies by
//!   bytes (`bytes:NAME`).
//! - `PPTOP_CUDA_STAND_IN_DRIVER`: the version of the driver's interface, such as 12040.
//! - `PPTOP_CUDA_STAND_IN_DEVICES`: the number of devices.
//! - `PPTOP_CUDA_STAND_IN_CAPABILITY`: the generation of the devices, such as 7.

#![cfg(target_os = "linux")]

mod counts;
mod driver;
mod libraries;
