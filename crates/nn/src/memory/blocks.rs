//! Large blocks that are kept for the next micro-batch.
//!
//! An allocator gives large blocks back to the system sooner or later, and the system clears each page before it hands it out
//! again. A training step asks for the same sizes again and again, so what is freed is kept, in a list for each class of sizes,
//! and taken from there.
//!
//! Classes lie eight to a doubling, so a block is at most an eighth larger than what was asked for. The lists are shared: what one
//! rank makes and sends, another frees, and a list for each thread would run dry on one side and grow on the other. A block
//! that lay in its list for several whole steps was needed by nobody; [`trim`] gives it back.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smaller blocks are left to the allocator, which is good at them.
const SMALLEST: usize = 1 << SMALLEST_LOG;
const SMALLEST_LOG: u32 = 15;

/// Blocks begin at a cache line, so that a vector of 64 bytes never lies across two; `gemm` wants two lines for what it packs.
const ALIGN: usize = 128;

/// Classes for each doubling of the size.
const STEPS: usize = 8;

/// Up to blocks of 2^47 bytes: more than a process can address.
const CLASSES: usize = (47 - SMALLEST_LOG as usize) * STEPS;

/// Steps for which a block may lie unused: which rank is ahead differs from step to step, and with it how much is alive at once.
const TRIMS: u32 = 32;

/// Blocks of each class that stay although nobody needed them.
const SPARE: usize = 2;

/// What a block in a list holds in its first bytes.
struct Free {
    next: *mut Free,
}

#[derive(Clone, Copy)]
struct List {
    first: *mut Free,
    count: usize,
    /// The fewest there were in this period of [`TRIMS`].
    lowest: usize,
}

struct Lists {
    of_class: [List; CLASSES],
    kept_bytes: usize,
    trims: u32,
}

// SAFETY: the pointers lead to blocks that are nobody's, and are followed under the lock alone.
unsafe impl Send for Lists {}

static LISTS: Mutex<Lists> = Mutex::new(Lists {
    of_class: [List { first: ptr::null_mut(), count: 0, lowest: 0 }; CLASSES],
    kept_bytes: 0,
    trims: 0,
});

/// How many [`KeepBlocks`] there are.
static KEEPERS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Constants without a destructor: reading them never allocates, which an allocator needs.
    /// Whether this thread gives back what was kept.
    static RELEASES: Cell<bool> = const { Cell::new(false) };
    static FRESH: Cell<u64> = const { Cell::new(0) };
}

/// Nothing that runs under this lock allocates or panics.
fn lists() -> MutexGuard<'static, Lists> {
    LISTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lists {
    #[expect(clippy::cast_ptr_alignment, reason = "every block of a class is aligned to ALIGN")]
    fn put(&mut self, class: usize, block: *mut u8) {
        let block = block.cast::<Free>();
        let list = &mut self.of_class[class];
        // SAFETY: the block is larger than a `Free`, aligned for one, and no longer anybody's.
        unsafe { block.write(Free { next: list.first }) };
        list.first = block;
        list.count += 1;
        self.kept_bytes += size_of_class(class);
    }

    fn take(&mut self, class: usize) -> Option<*mut u8> {
        let list = &mut self.of_class[class];
        let block = list.first;
        if block.is_null() {
            return None;
        }
        // SAFETY: blocks in the list are nobody's, and each holds a `Free`.
        list.first = unsafe { block.read() }.next;
        list.count -= 1;
        list.lowest = list.lowest.min(list.count);
        self.kept_bytes -= size_of_class(class);
        Some(block.cast())
    }
}

/// The class of a block; `None` for small ones and strange alignments.
#[inline]
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size();
    if size <= SMALLEST || layout.align() > ALIGN {
        return None;
    }
    let log = (size - 1).ilog2();
    let steps = (size - 1) >> (log - STEPS.ilog2());
    let class = (log - SMALLEST_LOG) as usize * STEPS + (steps - STEPS);
    (class < CLASSES).then_some(class)
}

/// The bytes of each block of a class.
#[inline]
fn size_of_class(class: usize) -> usize {
    let log = SMALLEST_LOG as usize + class / STEPS;
    (STEPS + class % STEPS + 1) << (log - STEPS.ilog2() as usize)
}

/// The layout with which blocks of a class come from the allocator, and go back.
#[inline]
fn layout_of_class(class: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and no class is larger than 2^47 bytes.
    unsafe { Layout::from_size_align_unchecked(size_of_class(class), ALIGN) }
}

/// A block for `layout`: one that was kept, or a fresh one of `inner`.
///
/// # Safety
/// As [`GlobalAlloc::alloc`].
#[inline]
pub(super) unsafe fn alloc(inner: &impl GlobalAlloc, layout: Layout, zeroed: bool) -> *mut u8 {
    let fresh = |layout| {
        // SAFETY: the caller's promises, for a layout that is at least as large.
        unsafe { if zeroed { inner.alloc_zeroed(layout) } else { inner.alloc(layout) } }
    };
    let Some(class) = class_of(layout) else { return fresh(layout) };
    let kept = (KEEPERS.load(Ordering::Relaxed) > 0).then(|| lists().take(class)).flatten();
    let Some(block) = kept else {
        FRESH.with(|count| count.set(count.get() + 1));
        return fresh(layout_of_class(class));
    };
    if zeroed {
        // SAFETY: the block has at least `layout.size()` bytes, and nobody else has it.
        unsafe { block.write_bytes(0, layout.size()) };
    }
    block
}

/// Takes a block back: into its list while somebody keeps blocks, else to `inner`.
///
/// # Safety
/// As [`GlobalAlloc::dealloc`], of a block that [`alloc`] gave for the same layout.
#[inline]
pub(super) unsafe fn dealloc(inner: &impl GlobalAlloc, pointer: *mut u8, layout: Layout) {
    match class_of(layout) {
        // SAFETY: the caller's promises.
        None => unsafe { inner.dealloc(pointer, layout) },
        Some(class) if KEEPERS.load(Ordering::Relaxed) > 0 && !RELEASES.with(Cell::get) => {
            lists().put(class, pointer);
        }
        // SAFETY: the block was allocated with the layout of its class.
        Some(class) => unsafe { inner.dealloc(pointer, layout_of_class(class)) },
    }
}

/// Whether a block for `old` is one for `new` as well.
#[inline]
pub(super) fn same_block(old: Layout, new: Layout) -> bool {
    matches!((class_of(old), class_of(new)), (Some(a), Some(b)) if a == b)
}

/// Whether both are left to the allocator.
#[inline]
pub(super) fn both_small(old: Layout, new: Layout) -> bool {
    class_of(old).is_none() && class_of(new).is_none()
}

/// As long as such a value lives, large blocks that any thread frees are kept for the next who asks for one of their size.
#[derive(Debug)]
pub struct KeepBlocks(());

impl KeepBlocks {
    /// From now on. Without [`super::CountingAllocator`] it changes nothing.
    #[must_use]
    pub fn new() -> Self {
        KEEPERS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Default for KeepBlocks {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for KeepBlocks {
    fn drop(&mut self) {
        if KEEPERS.fetch_sub(1, Ordering::Relaxed) == 1 {
            release(|_| usize::MAX);
        }
    }
}

/// To be called after each step: each time after 32 steps, most of what none of them needed is given back.
pub fn trim() {
    let due = {
        let mut lists = lists();
        lists.trims = (lists.trims + 1) % TRIMS;
        lists.trims == 0
    };
    if due {
        release(|list| list.lowest.saturating_sub(SPARE));
    }
}

/// Gives back at most so many blocks of each list.
fn release(at_most: impl Fn(&List) -> usize) {
    for class in 0..CLASSES {
        let n = at_most(&lists().of_class[class]);
        for _ in 0..n {
            let Some(block) = lists().take(class) else { break };
            let layout = layout_of_class(class);
            // Through the front door, which counts what it is given: this block was counted when it came here.
            RELEASES.with(|releases| releases.set(true));
            super::note(super::counted(layout.size()));
            // SAFETY: the block came from the global allocator with this layout, and is nobody's.
            unsafe { std::alloc::dealloc(block, layout) };
            RELEASES.with(|releases| releases.set(false));
        }
        let mut lists = lists();
        lists.of_class[class].lowest = lists.of_class[class].count;
    }
}

/// Bytes that are kept for whoever asks next.
pub fn kept_bytes() -> usize {
    lists().kept_bytes
}

/// Large blocks that this thread had to get from the allocator so far. A training loop in its steady state needs none.
pub fn fresh_blocks() -> u64 {
    FRESH.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    #[test]
    fn a_class_holds_what_it_is_asked_for_and_wastes_at_most_an_eighth() {
        let mut last = 0;
        for size in (SMALLEST + 1..4 << 20).step_by(1003).chain([1 << 30, (1 << 30) + 1, 1 << 40]) {
            let class = class_of(Layout::from_size_align(size, 4).unwrap()).unwrap();
            let rounded = layout_of_class(class);
            assert!(rounded.size() >= size && rounded.size() <= size + size / 8 + 1, "{size}");
            assert_eq!(class_of(rounded), Some(class), "{size}");
            assert!(class >= last, "{size}");
            last = class;
        }
        assert!(class_of(Layout::from_size_align(SMALLEST, 4).unwrap()).is_none());
        assert!(class_of(Layout::from_size_align(1 << 20, 4096).unwrap()).is_none());
    }

    #[test]
    fn a_block_comes_back_until_a_step_did_not_need_it() {
        let layout = Layout::from_size_align(100_000, 4).unwrap();
        let other = Layout::from_size_align(99_000, 4).unwrap();
        let fresh = fresh_blocks();
        let keep = KeepBlocks::new();
        // SAFETY: each block is freed once, with the layout that it was asked for.
        unsafe {
            let first = alloc(&System, layout, false);
            first.write_bytes(7, 100_000);
            dealloc(&System, first, layout);
            assert!(kept_bytes() >= 100_000);
            let second = alloc(&System, other, true);
            assert_eq!((first, second as usize % ALIGN), (second, 0));
            assert!((0..99_000).all(|i| *second.add(i) == 0));
            assert_eq!((fresh_blocks() - fresh, kept_bytes()), (1, 0));
            dealloc(&System, second, other);
            let blocks: Vec<_> = (0..5).map(|_| alloc(&System, layout, false)).collect();
            for block in blocks {
                dealloc(&System, block, layout);
            }
            (0..TRIMS).for_each(|_| trim());
            assert!(kept_bytes() > 500_000, "needed in these steps");
            for _ in 0..TRIMS {
                dealloc(&System, alloc(&System, layout, false), layout);
                trim();
            }
            let kept = (SPARE + 1) * 100_000;
            assert!((kept..kept + 100_000).contains(&kept_bytes()), "only one was needed");
        }
        drop(keep);
        assert_eq!(kept_bytes(), 0);
    }
}
