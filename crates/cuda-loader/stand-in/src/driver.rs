//! The driver. Device memory is memory of the host, so copies really copy; a stream is always done
//! with its work, and an event has the moment at which it was recorded.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use crate::counts::add;

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const INVALID_DEVICE: c_int = 101;

/// What a device of this library has.
const DEVICE_BYTES: usize = 80 << 30;

/// A pointer that is only ever compared and passed back.
fn handle(number: usize) -> *mut c_void {
    ptr::without_provenance_mut(number)
}

fn number(variable: &str, otherwise: c_int) -> c_int {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn n_devices() -> c_int {
    number("PPTOP_CUDA_STAND_IN_DEVICES", 1)
}

/// The sizes of the blocks that are alive, by address.
static BLOCKS: Mutex<Option<HashMap<u64, usize>>> = Mutex::new(None);

fn allocate(bytes: usize) -> Option<u64> {
    let layout = Layout::from_size_align(bytes.max(1), 256).ok()?;
    // SAFETY: the layout has at least one byte.
    let block = unsafe { alloc_zeroed(layout) };
    if block.is_null() {
        return None;
    }
    let address = block.expose_provenance() as u64;
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    blocks.get_or_insert_default().insert(address, bytes);
    Some(address)
}

fn free(address: u64) -> c_int {
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(bytes) = blocks.get_or_insert_default().remove(&address) else {
        return INVALID_VALUE;
    };
    let Ok(layout) = Layout::from_size_align(bytes.max(1), 256) else { return INVALID_VALUE };
    // SAFETY: `allocate` made this block with the same layout, and it was in the table until now.
    unsafe { dealloc(ptr::with_exposed_provenance_mut(address as usize), layout) };
    SUCCESS
}

/// Writes what was asked for.
///
/// # Safety
/// `into` is valid for a write, as cuda.h asks of the caller.
unsafe fn give<T>(into: *mut T, value: T) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { into.write(value) };
    SUCCESS
}

/// Functions that do nothing and succeed.
macro_rules! succeed {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> c_int {
            add(stringify!($name), 1);
            SUCCESS
        }
    )*};
}
pub(crate) use succeed;

succeed! {
    cuInit cuCtxSetCurrent cuCtxSynchronize cuCtxSetFlags cuDevicePrimaryCtxRelease_v2
    cuDeviceSetMemPool cuEventSynchronize cuEventQuery cuFuncSetAttribute cuFuncSetCacheConfig
    cuMemPoolTrimTo cuModuleUnload cuStreamSynchronize cuStreamWaitEvent
}

/// Functions that write one value to their first argument.
macro_rules! answer {
    ($($name:ident($type:ty $(, $other:ty)*) = $value:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(into: *mut $type $(, _: $other)*) -> c_int {
            add(stringify!($name), 1);
            // SAFETY: the caller passes a place for the answer, as cuda.h asks.
            unsafe { give(into, $value) }
        }
    )*};
}

answer! {
    cuDriverGetVersion(c_int) = number("PPTOP_CUDA_STAND_IN_DRIVER", 13000);
    cuDeviceGetCount(c_int) = n_devices();
    cuDevicePrimaryCtxRetain(*mut c_void, c_int) = handle(0x1000);
    cuCtxGetCurrent(*mut c_void) = handle(0x1000);
    cuCtxGetDevice(c_int) = 0;
    cuDeviceTotalMem_v2(usize, c_int) = DEVICE_BYTES;
    cuDeviceGetDefaultMemPool(*mut c_void, c_int) = handle(0x4000);
    cuDeviceGetMemPool(*mut c_void, c_int) = handle(0x4000);
    cuStreamCreate(*mut c_void, c_uint) = new_handle();
    cuStreamCreateWithPriority(*mut c_void, c_uint, c_int) = new_handle();
    cuModuleLoadData(*mut c_void, *const c_void) = handle(0x2000);
}

fn new_handle() -> *mut c_void {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0x10000);
    handle(NEXT.fetch_add(16, Ordering::Relaxed))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    add("cuDeviceGet", 1);
    if !(0..n_devices()).contains(&ordinal) {
        return INVALID_DEVICE;
    }
    // SAFETY: the caller passes a place for the answer, as cuda.h asks.
    unsafe { give(device, ordinal) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, which: c_int, _: c_int) -> c_int {
    add("cuDeviceGetAttribute", 1);
    // CU_DEVICE_ATTRIBUTE_…, by their numbers in cuda.h.
    let found = match which {
        1 => 1024,         // MAX_THREADS_PER_BLOCK
        8 => 49_152,       // MAX_SHARED_MEMORY_PER_BLOCK
        10 => 32,          // WARP_SIZE
        16 => 132,         // MULTIPROCESSOR_COUNT
        33 => 0x41,        // PCI_BUS_ID
        34 | 50 | 76 => 0, // PCI_DEVICE_ID, PCI_DOMAIN_ID, COMPUTE_CAPABILITY_MINOR
        // COMPUTE_CAPABILITY_MAJOR
        75 => number("PPTOP_CUDA_STAND_IN_CAPABILITY", 9),
        // What is only asked whether it is there: MEMORY_POOLS_SUPPORTED (115) and others.
        _ => 1,
    };
    // SAFETY: the caller passes a place for the answer, as cuda.h asks.
    unsafe { give(value, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _: c_int) -> c_int {
    add("cuDeviceGetName", 1);
    let text = c"stand-in";
    if (length as usize) < text.count_bytes() + 1 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller passes room for `length` bytes, and the text with its zero fits.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), name, text.count_bytes() + 1) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    add("cuDeviceGetUuid_v2", 1);
    // SAFETY: the caller passes room for a UUID.
    unsafe { give(uuid, [device as u8 + 1; 16]) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> c_int {
    // SAFETY: the caller's arguments, as they came.
    unsafe { cuDeviceGetUuid_v2(uuid, device) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    add("cuMemGetInfo_v2", 1);
    // SAFETY: the caller passes two places for the answers.
    unsafe {
        give(free, DEVICE_BYTES);
        give(total, DEVICE_BYTES)
    }
}

/// The attributes of the one memory pool that were set.
static POOL: Mutex<Option<HashMap<c_int, u64>>> = Mutex::new(None);

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolSetAttribute(
    _: *mut c_void,
    attribute: c_int,
    value: *const u64,
) -> c_int {
    add("cuMemPoolSetAttribute", 1);
    // SAFETY: all attributes that this program sets are numbers of 64 bits.
    let value = unsafe { value.read() };
    add(&format!("pool:{attribute}={value}"), 1);
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.get_or_insert_default().insert(attribute, value);
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolGetAttribute(
    _: *mut c_void,
    attribute: c_int,
    value: *mut u64,
) -> c_int {
    add("cuMemPoolGetAttribute", 1);
    let pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let found = pool.as_ref().and_then(|pool| pool.get(&attribute)).copied();
    // SAFETY: all attributes that this program reads are numbers of 64 bits.
    unsafe { give(value, found.unwrap_or(0)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(block: *mut u64, bytes: usize, _: *mut c_void) -> c_int {
    add("cuMemAllocAsync", 1);
    match allocate(bytes) {
        // SAFETY: the caller passes a place for the address.
        Some(address) => unsafe { give(block, address) },
        None => OUT_OF_MEMORY,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(block: *mut u64, bytes: usize) -> c_int {
    add("cuMemAlloc_v2", 1);
    match allocate(bytes) {
        // SAFETY: the caller passes a place for the address.
        Some(address) => unsafe { give(block, address) },
        None => OUT_OF_MEMORY,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(block: u64, _: *mut c_void) -> c_int {
    add("cuMemFreeAsync", 1);
    free(block)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(block: u64) -> c_int {
    add("cuMemFree_v2", 1);
    free(block)
}

/// # Safety
/// Both addresses are valid for `bytes`, as cuda.h asks of the caller.
unsafe fn copy(name: &str, to: u64, from: u64, bytes: usize) -> c_int {
    add(name, 1);
    add(&format!("bytes:{name}"), bytes as u64);
    // SAFETY: the caller's promise. Device memory is memory of this process, whose addresses were
    // exposed when it was allocated, and so were those of the host.
    unsafe {
        ptr::copy(
            ptr::with_exposed_provenance::<u8>(from as usize),
            ptr::with_exposed_provenance_mut(to as usize),
            bytes,
        );
    }
    SUCCESS
}

macro_rules! copies {
    ($($name:ident($to:ty, $from:ty $(, $stream:ty)?);)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(to: $to, from: $from, bytes: usize $(, _: $stream)?) -> c_int {
            // SAFETY: the caller's arguments, as cuda.h asks for them.
            unsafe { copy(stringify!($name), Address::of(to), Address::of(from), bytes) }
        }
    )*};
}

/// An address, of the device or of the host.
trait Address {
    fn of(self) -> u64;
}

impl Address for u64 {
    fn of(self) -> u64 {
        self
    }
}

impl Address for *mut c_void {
    fn of(self) -> u64 {
        self.expose_provenance() as u64
    }
}

impl Address for *const c_void {
    fn of(self) -> u64 {
        self.expose_provenance() as u64
    }
}

copies! {
    cuMemcpyHtoDAsync_v2(u64, *const c_void, *mut c_void);
    cuMemcpyHtoD_v2(u64, *const c_void);
    cuMemcpyDtoHAsync_v2(*mut c_void, u64, *mut c_void);
    cuMemcpyDtoH_v2(*mut c_void, u64);
    cuMemcpyDtoDAsync_v2(u64, u64, *mut c_void);
    cuMemcpyDtoD_v2(u64, u64);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    _: *mut c_void,
    from: u64,
    _: *mut c_void,
    bytes: usize,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the caller's arguments, as cuda.h asks for them.
    unsafe { copy("cuMemcpyPeerAsync", to, from, bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(to: u64, byte: u8, bytes: usize, _: *mut c_void) -> c_int {
    add("cuMemsetD8Async", 1);
    // SAFETY: the address is a block of this library with at least so many bytes.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(to as usize).write_bytes(byte, bytes) };
    SUCCESS
}

/// When each event was recorded last.
static EVENTS: Mutex<Option<HashMap<usize, Instant>>> = Mutex::new(None);

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _: c_uint) -> c_int {
    add("cuEventCreate", 1);
    // SAFETY: the caller passes a place for the event.
    unsafe { give(event, new_handle()) }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> c_int {
    add("cuEventDestroy_v2", 1);
    let mut events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
    events.get_or_insert_default().remove(&event.addr());
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: *mut c_void, _: *mut c_void) -> c_int {
    add("cuEventRecord", 1);
    let mut events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
    events.get_or_insert_default().insert(event.addr(), Instant::now());
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> c_int {
    add("cuEventElapsedTime_v2", 1);
    let events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let at = |event: *mut c_void| events.as_ref().and_then(|all| all.get(&event.addr())).copied();
    let (Some(start), Some(end)) = (at(start), at(end)) else { return INVALID_VALUE };
    let later = end.saturating_duration_since(start).as_secs_f32();
    let earlier = start.saturating_duration_since(end).as_secs_f32();
    // SAFETY: the caller passes a place for the time.
    unsafe { give(milliseconds, (later - earlier) * 1e3) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> c_int {
    // SAFETY: the caller's arguments, as they came.
    unsafe { cuEventElapsedTime_v2(milliseconds, start, end) }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(_: *mut c_void) -> c_int {
    add("cuStreamDestroy_v2", 1);
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(_: *mut c_void, status: *mut c_int) -> c_int {
    add("cuStreamIsCapturing", 1);
    // SAFETY: the caller passes a place for the status, which is none.
    unsafe { give(status, 0) }
}

/// The names of kernels; a function is a handle of 16 times its place, counted from 1.
static KERNELS: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    _: *mut c_void,
    name: *const c_char,
) -> c_int {
    add("cuModuleGetFunction", 1);
    // SAFETY: the caller passes a text that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let kernels = KERNELS.get_or_init(Mutex::default);
    let mut kernels = kernels.lock().unwrap_or_else(PoisonError::into_inner);
    let at = kernels.iter().position(|known| *known == name).unwrap_or_else(|| {
        kernels.push(name);
        kernels.len() - 1
    });
    // SAFETY: the caller passes a place for the function.
    unsafe { give(function, handle((at + 1) * 16)) }
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(function: *mut c_void) -> c_int {
    add("cuLaunchKernel", 1);
    let kernels = KERNELS.get_or_init(Mutex::default);
    let kernels = kernels.lock().unwrap_or_else(PoisonError::into_inner);
    let name = (function.addr() / 16).checked_sub(1).and_then(|at| kernels.get(at)).cloned();
    drop(kernels);
    add(&format!("kernel:{}", name.as_deref().unwrap_or("unknown")), 1);
    SUCCESS
}

/// Both functions that tell of an error give the same text.
macro_rules! texts {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(_: c_int, text: *mut *const c_char) -> c_int {
            // SAFETY: the caller passes a place for a text that stays.
            unsafe { give(text, c"an error of the stand-in".as_ptr()) }
        }
    )*};
}
texts! { cuGetErrorName cuGetErrorString }
