//! The functions that give out device memory. They pass calls on like the others, and count.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::calls::real;

/// The function that gets the bytes of each block. A released block counts as a negative number.
static COUNTED: OnceLock<fn(i64)> = OnceLock::new();

/// The size of each block that is alive, by its address on the device.
static SIZES: Mutex<Option<HashMap<u64, usize>>> = Mutex::new(None);

/// Calls `counted` with the bytes of each block of device memory: a positive number when it was
/// allocated, a negative one when it was released. It is called on the thread that did so.
///
/// Only the first call of this function counts. What was allocated before is never reported.
pub fn count_memory(counted: fn(i64)) {
    COUNTED.get_or_init(|| counted);
}

fn allocated(address: u64, bytes: usize) {
    if let Some(counted) = COUNTED.get() {
        let mut sizes = SIZES.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.get_or_insert_default().insert(address, bytes);
        drop(sizes);
        counted(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

fn released(address: u64) {
    if let Some(counted) = COUNTED.get() {
        let mut sizes = SIZES.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = sizes.as_mut().and_then(|sizes| sizes.remove(&address));
        drop(sizes);
        if let Some(bytes) = bytes {
            counted(-i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

/// `cuMemAllocAsync` of the driver: a block in the order of a stream.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(block: *mut u64, bytes: usize, stream: *mut c_void) -> c_int {
    type Call = unsafe extern "C" fn(*mut u64, usize, *mut c_void) -> c_int;
    // SAFETY: this is the function's signature in cuda.h, and the arguments are the caller's.
    let status = unsafe { real!(cuMemAllocAsync as Call)(block, bytes, stream) };
    if status == 0 {
        // SAFETY: the driver has written the address where the caller wanted it.
        allocated(unsafe { *block }, bytes);
    }
    status
}

/// `cuMemFreeAsync` of the driver.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeAsync(block: u64, stream: *mut c_void) -> c_int {
    type Call = unsafe extern "C" fn(u64, *mut c_void) -> c_int;
    // Before the call: afterwards another thread may get the same address.
    released(block);
    // SAFETY: this is the function's signature in cuda.h, and the arguments are the caller's.
    unsafe { real!(cuMemFreeAsync as Call)(block, stream) }
}

/// `cuMemAlloc_v2` of the driver, for devices without memory pools.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(block: *mut u64, bytes: usize) -> c_int {
    type Call = unsafe extern "C" fn(*mut u64, usize) -> c_int;
    // SAFETY: this is the function's signature in cuda.h, and the arguments are the caller's.
    let status = unsafe { real!(cuMemAlloc_v2 as Call)(block, bytes) };
    if status == 0 {
        // SAFETY: the driver has written the address where the caller wanted it.
        allocated(unsafe { *block }, bytes);
    }
    status
}

/// `cuMemFree_v2` of the driver.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFree_v2(block: u64) -> c_int {
    type Call = unsafe extern "C" fn(u64) -> c_int;
    released(block);
    // SAFETY: this is the function's signature in cuda.h, and the arguments are the caller's.
    unsafe { real!(cuMemFree_v2 as Call)(block) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static LIVE: Cell<i64> = const { Cell::new(0) };
    }

    #[test]
    fn a_block_counts_from_its_allocation_to_its_release() {
        count_memory(|bytes| LIVE.with(|live| live.set(live.get() + bytes)));
        let live = || LIVE.with(Cell::get);
        allocated(16, 1000);
        allocated(32, 500);
        assert_eq!(live(), 1500);
        released(16);
        // An address that nobody gave out, and one that was released already.
        released(48);
        released(16);
        assert_eq!(live(), 500);
        // Another thread released what this one allocated.
        std::thread::spawn(|| {
            released(32);
            assert_eq!(LIVE.with(Cell::get), -500);
        })
        .join()
        .unwrap();
        // Without a driver nothing was allocated, so nothing counts.
        let mut block = 0;
        // SAFETY: `block` is a place for an address; no driver is there to look at the stream.
        let status = unsafe { cuMemAllocAsync(&raw mut block, 64, std::ptr::null_mut()) };
        if status != 0 {
            assert_eq!((status, block, live()), (100, 0, 500));
        }
    }
}
