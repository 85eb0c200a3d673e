//! cuBLAS, cuBLASLt, cuRAND and NVRTC, as far as training calls them.

use std::ffi::{c_int, c_void};
use std::ptr;

use crate::counts::add;
use crate::driver::succeed;

const SUCCESS: c_int = 0;

/// Functions that make a handle.
macro_rules! make {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(into: *mut *mut c_void) -> c_int {
            add(stringify!($name), 1);
            // SAFETY: the caller passes a place for the handle, which it only passes back.
            unsafe { into.write(ptr::without_provenance_mut(0x5000)) };
            SUCCESS
        }
    )*};
}

make! { cublasCreate_v2 cublasLtCreate curandCreateGenerator }

succeed! {
    cublasDestroy_v2 cublasSetStream_v2 cublasSetWorkspace_v2 cublasSetMathMode
    cublasSetPointerMode_v2 cublasGetPointerMode_v2
    cublasSgemm_v2 cublasSgemmStridedBatched cublasDgemm_v2 cublasDgemmStridedBatched
    cublasGemmEx cublasGemmStridedBatchedEx cublasSgemv_v2
    cublasLtDestroy
    curandDestroyGenerator curandSetStream curandSetPseudoRandomGeneratorSeed
    curandSetGeneratorOffset curandGenerateUniform curandGenerateNormal
}
