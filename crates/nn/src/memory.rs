//! How many bytes a thread holds, counted by the allocator.
//!
//! A rank is a thread, so its live tensor bytes are what its thread allocated and did not free.
//! A program that wants the numbers installs [`CountingAllocator`] around its allocator; without
//! it [`is_counted`] is false and nobody pretends to know. Only allocations of 1 KiB and more
//! count: tensors do, the small change of queues and strings does not. A tensor that moves to
//! another thread moves its bytes with [`moved_out`] and [`moved_in`].

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::LocalKey;

use candle_core::Device;

/// Smaller allocations are not counted.
const SMALLEST: usize = 1024;

thread_local! {
    // Constants without a destructor: reading them never allocates, which an allocator needs.
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    // The same of devices with memory of their own, block by block.
    static DEVICE_LIVE: Cell<i64> = const { Cell::new(0) };
    static DEVICE_PEAK: Cell<i64> = const { Cell::new(0) };
}

/// Whether somebody reports blocks of device memory.
static DEVICE_IS_COUNTED: AtomicBool = AtomicBool::new(false);

/// Which of the bytes of a thread are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    /// Those of the host, as [`CountingAllocator`] counts them.
    Host,
    /// Those of devices with memory of their own, as [`note_device`] is told of them.
    Device,
}

impl Meter {
    /// What counts the bytes of tensors on `device`.
    pub fn of(device: &Device) -> Self {
        if device.is_cpu() { Self::Host } else { Self::Device }
    }

    /// Whether anybody counts.
    pub fn is_counted(self) -> bool {
        match self {
            Self::Host => is_counted(),
            Self::Device => DEVICE_IS_COUNTED.load(Ordering::Relaxed),
        }
    }

    /// Bytes that this thread holds now. Negative if it freed more of others' than it allocated.
    pub fn live_bytes(self) -> i64 {
        match self {
            Self::Host => live_bytes(),
            Self::Device => DEVICE_LIVE.with(Cell::get),
        }
    }

    /// The most that this thread held since [`Self::reset_peak`].
    pub fn peak_bytes(self) -> i64 {
        match self {
            Self::Host => peak_bytes(),
            Self::Device => DEVICE_PEAK.with(Cell::get),
        }
    }

    /// Starts a new peak at what is held now.
    pub fn reset_peak(self) {
        match self {
            Self::Host => reset_peak(),
            Self::Device => DEVICE_PEAK.with(|peak| peak.set(self.live_bytes())),
        }
    }
}

/// This thread allocated so many bytes on a device, or released them if the number is negative.
pub fn note_device(bytes: i64) {
    note_in(&DEVICE_LIVE, &DEVICE_PEAK, bytes);
}

/// Says that [`note_device`] is called for every block.
pub fn device_is_counted() {
    DEVICE_IS_COUNTED.store(true, Ordering::Relaxed);
}

#[inline]
fn note_in(live: &'static LocalKey<Cell<i64>>, peak: &'static LocalKey<Cell<i64>>, bytes: i64) {
    // Nothing may panic inside of an allocator, whatever [`moved_in`] was told before.
    let now = live.get().wrapping_add(bytes);
    live.set(now);
    peak.set(peak.get().max(now));
}

/// An allocator that counts what passes through it, for each thread by itself. It keeps nothing: of
/// several each gives back to its inner allocator what came from there, and a thread's count is
/// what it holds of all of them.
#[derive(Debug)]
pub struct CountingAllocator<A>(pub A);

#[inline]
fn note(bytes: i64) {
    note_in(&LIVE, &PEAK, bytes);
}

/// The inner allocator was asked for a block. One that was refused is not held, and after a refused
/// `realloc` the old one still is.
#[inline]
fn note_given(block: *mut u8, bytes: i64) {
    if !block.is_null() {
        note(bytes);
    }
}

#[inline]
fn counted(size: usize) -> i64 {
    if size >= SMALLEST { i64::try_from(size).unwrap_or(i64::MAX) } else { 0 }
}

// SAFETY: every call goes to the inner allocator as it came, and its answer back to the caller:
// blocks, layouts and promises are those of the inner one. The counters are plain thread-local
// cells that neither allocate nor unwind. A counted allocation of 4 KiB and its release take 20 ns
// together (`just bench`, counted_allocation). There is no safe way to see what a thread holds.
#[expect(unsafe_code, reason = "an allocator is `unsafe` to write")]
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises.
        let block = unsafe { self.0.alloc(layout) };
        note_given(block, counted(layout.size()));
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        note_given(block, counted(layout.size()));
        block
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises; the block is the inner allocator's.
        unsafe { self.0.dealloc(pointer, layout) };
        note(-counted(layout.size()));
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promises; the block is the inner allocator's.
        let block = unsafe { self.0.realloc(pointer, layout, new_size) };
        note_given(block, counted(new_size) - counted(layout.size()));
        block
    }
}

/// Bytes that this thread holds now. Negative if it freed more of others' than it allocated.
pub fn live_bytes() -> i64 {
    LIVE.with(Cell::get)
}

/// The most that this thread held since [`reset_peak`].
pub fn peak_bytes() -> i64 {
    PEAK.with(Cell::get)
}

/// Starts a new peak at what is held now.
pub fn reset_peak() {
    PEAK.with(|peak| peak.set(live_bytes()));
}

/// This thread gave `bytes` to another.
pub fn moved_out(bytes: usize) {
    note(-counted(bytes));
}

/// This thread was given `bytes` by another.
pub fn moved_in(bytes: usize) {
    note(counted(bytes));
}

/// Whether the program installed [`CountingAllocator`].
pub fn is_counted() -> bool {
    let before = live_bytes();
    let probe = std::hint::black_box(Vec::<u8>::with_capacity(2 * SMALLEST));
    let after = live_bytes();
    drop(probe);
    after != before
}
