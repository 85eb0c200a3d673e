//! The functions that cudarc calls, by their C names.
//!
//! Each is a jump to the address in its slot. At first that is a piece of code which finds the
//! function in its library, writes its address into the slot, and jumps there. The code knows
//! nothing of the function's arguments: it keeps all registers in which arguments may be (System V
//! ABI for x86-64, section 3.2.3), and the stack stays as the caller made it.

#![expect(non_snake_case, reason = "the functions have the names that C gives them")]

use std::arch::naked_asm;
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::library::Library;

/// A function of a library.
pub(crate) struct Function {
    pub(crate) library: Library,
    pub(crate) name: &'static CStr,
    /// Where its calls go.
    pub(crate) slot: &'static AtomicPtr<()>,
}

/// Finds a function, and lets all later calls go there at once. Several threads may do so at the
/// same time; all write the same address.
extern "C" fn find(function: &'static Function) -> *const () {
    let address = function.library.function(function.name);
    function.slot.store(address.cast_mut(), Ordering::Release);
    address
}

/// Goes to the function in `r11`, with the arguments as they are.
#[unsafe(naked)]
extern "C" fn first_call() {
    naked_asm!(
        // After these nine the stack pointer is a multiple of 16, as calls want it.
        "push rbp",
        "push rax",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "push r10",
        "sub rsp, 128",
        "movups [rsp], xmm0",
        "movups [rsp + 16], xmm1",
        "movups [rsp + 32], xmm2",
        "movups [rsp + 48], xmm3",
        "movups [rsp + 64], xmm4",
        "movups [rsp + 80], xmm5",
        "movups [rsp + 96], xmm6",
        "movups [rsp + 112], xmm7",
        "mov rdi, r11",
        "call {find}",
        "mov r11, rax",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp + 16]",
        "movups xmm2, [rsp + 32]",
        "movups xmm3, [rsp + 48]",
        "movups xmm4, [rsp + 64]",
        "movups xmm5, [rsp + 80]",
        "movups xmm6, [rsp + 96]",
        "movups xmm7, [rsp + 112]",
        "add rsp, 128",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop rax",
        "pop rbp",
        "jmp r11",
        find = sym find,
    )
}

macro_rules! functions {
    ($($library:ident: $($name:ident)*;)*) => {$($(
        mod $name {
            use super::*;

            static SLOT: AtomicPtr<()> =
                AtomicPtr::new(first as extern "C" fn() as *mut ());
            static FUNCTION: Function = Function {
                library: Library::$library,
                // The name is an identifier, so it has no zero of its own.
                name: match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!("a name with a zero"),
                },
                slot: &SLOT,
            };

            #[unsafe(naked)]
            extern "C" fn first() {
                naked_asm!(
                    "lea r11, [rip + {function}]",
                    "jmp {first_call}",
                    function = sym FUNCTION,
                    first_call = sym first_call,
                )
            }

            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            extern "C" fn $name() {
                naked_asm!("jmp qword ptr [rip + {slot}]", slot = sym SLOT)
            }
        }
    )*)*};
}

functions! {
    Driver:
        cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent
        cuCtxGetLimit cuCtxGetStreamPriorityRange cuCtxSetCacheConfig cuCtxSetCurrent
        cuCtxSetFlags cuCtxSetLimit cuCtxSynchronize cuDestroyExternalMemory cuDeviceGet
        cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool cuDeviceGetMemPool
        cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2 cuDevicePrimaryCtxRelease_v2
        cuDevicePrimaryCtxRetain cuDeviceSetMemPool cuDriverGetVersion cuDeviceTotalMem_v2 cuEventCreate
        cuEventDestroy_v2 cuEventElapsedTime cuEventElapsedTime_v2 cuEventQuery cuEventRecord
        cuEventSynchronize cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncSetAttribute
        cuFuncSetCacheConfig cuGetErrorName cuGetErrorString cuGraphClone cuGraphDestroy
        cuGraphExecDestroy cuGraphInstantiate cuGraphInstantiateWithFlags cuGraphLaunch
        cuGraphUpload cuImportExternalMemory cuInit cuLaunchCooperativeKernel cuLaunchHostFunc
        cuLaunchKernel cuMemAdvise_v2 cuMemAllocFromPoolAsync cuMemAllocManaged cuMemFreeHost
        cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute
        cuMemPoolSetAttribute cuMemPoolTrimTo cuMemPrefetchAsync_v2 cuMemcpyDtoDAsync_v2
        cuMemcpyDtoD_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2
        cuMemcpyHtoD_v2 cuMemcpyPeerAsync cuMemsetD8Async cuMemsetD8_v2 cuModuleGetFunction
        cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData cuModuleUnload
        cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters
        cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags
        cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamAttachMemAsync
        cuStreamBeginCapture_v2 cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2
        cuStreamEndCapture cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent;
    Blas:
        cublasCreate_v2 cublasDasum_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasDgemm_v2
        cublasDgemv_v2 cublasGemmEx cublasGemmGroupedBatchedEx cublasGemmStridedBatchedEx
        cublasGetPointerMode_v2 cublasSasum_v2 cublasSetPointerMode_v2 cublasSetStream_v2
        cublasSgemmStridedBatched cublasSgemm_v2 cublasSgemv_v2;
    BlasLt:
        cublasLtCreate cublasLtDestroy cublasLtLoggerOpenFile cublasLtLoggerSetLevel
        cublasLtMatmul cublasLtMatmulAlgoGetHeuristic cublasLtMatmulDescCreate
        cublasLtMatmulDescDestroy cublasLtMatmulDescSetAttribute cublasLtMatmulPreferenceCreate
        cublasLtMatmulPreferenceDestroy cublasLtMatmulPreferenceSetAttribute
        cublasLtMatrixLayoutCreate cublasLtMatrixLayoutDestroy cublasLtMatrixLayoutSetAttribute;
    Rand:
        curandCreateGenerator curandDestroyGenerator curandGenerate curandGenerateLogNormal
        curandGenerateLogNormalDouble curandGenerateLongLong curandGenerateNormal
        curandGenerateNormalDouble curandGeneratePoisson curandGenerateUniform
        curandGenerateUniformDouble curandSetGeneratorOffset curandSetPseudoRandomGeneratorSeed
        curandSetStream;
    Nvrtc:
        nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize
        nvrtcGetProgramLog nvrtcGetProgramLogSize;
}

/// The driver's own function of that name, as a pointer of the given type.
macro_rules! real {
    ($name:ident as $call:ty) => {{
        static SLOT: std::sync::atomic::AtomicPtr<()> =
            std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());
        let mut address = SLOT.load(std::sync::atomic::Ordering::Acquire).cast_const();
        if address.is_null() {
            const NAME: &std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
                concat!(stringify!($name), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => panic!("a name with a zero"),
            };
            address = crate::library::Library::Driver.function(NAME);
            SLOT.store(address.cast_mut(), std::sync::atomic::Ordering::Release);
        }
        std::mem::transmute::<*const (), $call>(address)
    }};
}
pub(crate) use real;
