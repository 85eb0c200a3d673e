//! What a counting allocator counts, and that it keeps nothing for itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::sync::Mutex;

use pp_nn::memory::{
    CountingAllocator, is_counted, live_bytes, moved_in, moved_out, peak_bytes, reset_peak,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator<System> = CountingAllocator(System);

/// Of the system, but it knows the blocks that it has given, and takes no others.
#[derive(Default)]
struct Owner {
    given: Mutex<BTreeSet<(usize, usize, usize)>>,
}

impl Owner {
    fn entry(block: *mut u8, layout: Layout) -> (usize, usize, usize) {
        (block as usize, layout.size(), layout.align())
    }

    fn n_given(&self) -> usize {
        self.given.lock().unwrap().len()
    }
}

// SAFETY: all blocks are the system's; the set decides nothing but whether a test fails.
unsafe impl GlobalAlloc for Owner {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises.
        let block = unsafe { System.alloc(layout) };
        self.given.lock().unwrap().insert(Self::entry(block, layout));
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let is_ours = self.given.lock().unwrap().remove(&Self::entry(block, layout));
        assert!(is_ours, "a block that somebody else gave, or with another layout");
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(block, layout) };
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// What `work` adds to the count of this thread.
fn added<T>(work: impl FnOnce() -> T) -> (i64, T) {
    let before = live_bytes();
    let made = work();
    (live_bytes() - before, made)
}

#[test]
fn two_allocators_never_exchange_blocks_and_keep_none() {
    let owners = [Owner::default(), Owner::default()].map(CountingAllocator);
    // From what is not counted to what was kept once, of the sizes of one class and of others, with
    // every alignment.
    let layouts: Vec<Layout> = [1, 1000, 1024, 40_000, 100_000, 99_000, 3 << 20]
        .into_iter()
        .flat_map(|size| [1, 64, 128, 8192].map(|align| layout(size, align)))
        .collect();
    for round in 0..3 {
        let (total, blocks) = added(|| {
            let mut blocks = Vec::with_capacity(0);
            for (owner, &layout) in owners.iter().flat_map(|o| layouts.iter().map(move |l| (o, l)))
            {
                // SAFETY: no layout is empty; each block is written within its size, and freed once
                // below by who gave it.
                unsafe {
                    let block =
                        if round == 1 { owner.alloc_zeroed(layout) } else { owner.alloc(layout) };
                    assert_eq!(block as usize % layout.align(), 0);
                    assert!(round != 1 || (0..layout.size()).all(|i| *block.add(i) == 0));
                    block.write_bytes(7, layout.size());
                    blocks.push((owner, block, layout));
                }
            }
            blocks
        });
        let list = (blocks.capacity() * size_of_val(&blocks[0])) as i64;
        let large = layouts.iter().map(Layout::size).filter(|&size| size >= 1024);
        assert_eq!(total, 2 * large.sum::<usize>() as i64 + list);
        assert_eq!(owners.each_ref().map(|owner| owner.0.n_given()), [layouts.len(); 2]);
        let (total, ()) = added(|| {
            for (owner, block, layout) in blocks {
                // SAFETY: as above.
                unsafe { owner.dealloc(block, layout) };
            }
        });
        assert!(total < 0);
        assert_eq!(owners.each_ref().map(|owner| owner.0.n_given()), [0, 0], "something was kept");
    }
}

#[test]
fn a_block_that_grows_and_shrinks_is_counted_as_large_as_it_is() {
    let allocator = CountingAllocator(Owner::default());
    let mut size = 16;
    let (total, mut block) = added(|| {
        // SAFETY: the layout is not empty.
        unsafe { allocator.alloc(layout(size, 16)) }
    });
    assert_eq!(total, 0, "small blocks are not counted");
    // SAFETY: within the 16 bytes.
    unsafe { block.write_bytes(5, 16) };
    for new in [1023, 1024, 40_000, 41_000, 3 << 20, 70_000, 1024, 1000, 16] {
        let count = |size: usize| if size < 1024 { 0 } else { size as i64 };
        // SAFETY: the block has this layout, and the new size is not 0.
        let (total, grown) = added(|| unsafe { allocator.realloc(block, layout(size, 16), new) });
        assert_eq!(total, count(new) - count(size), "{size} to {new}");
        // SAFETY: 16 bytes were never given up.
        assert!(unsafe { (0..16).all(|i| *grown.add(i) == 5) });
        (block, size) = (grown, new);
    }
    // SAFETY: the last layout, once.
    unsafe { allocator.dealloc(block, layout(size, 16)) };
    assert_eq!(allocator.0.n_given(), 0);
}

#[test]
fn a_block_that_was_refused_is_not_held() {
    struct Poor;
    // SAFETY: it gives nothing.
    unsafe impl GlobalAlloc for Poor {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            std::ptr::null_mut()
        }

        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

        unsafe fn realloc(&self, _: *mut u8, _: Layout, _: usize) -> *mut u8 {
            std::ptr::null_mut()
        }
    }
    let poor = CountingAllocator(Poor);
    let mut byte = 0_u8;
    // SAFETY: what is refused is not touched; the block that stays as it is belongs to nobody who
    // counts.
    let (total, ()) = added(|| unsafe {
        assert!(poor.alloc(layout(1 << 20, 8)).is_null());
        assert!(poor.alloc_zeroed(layout(1 << 20, 8)).is_null());
        assert!(poor.realloc(&raw mut byte, layout(1 << 20, 8), 2 << 20).is_null());
    });
    assert_eq!(total, 0);
}

#[test]
fn what_another_thread_frees_is_off_that_threads_count() {
    let (here, block) = added(|| vec![1_u8; 100_000]);
    let there = std::thread::spawn(move || added(|| drop(block)).0).join().unwrap();
    assert_eq!((here, there), (100_000, -100_000));
    // Unless both say that it moved.
    let (here, block) = added(|| {
        let block = vec![1_u8; 100_000];
        moved_out(block.len());
        block
    });
    let there = std::thread::spawn(move || {
        added(|| {
            moved_in(block.len());
            drop(block);
        })
        .0
    });
    assert_eq!((here, there.join().unwrap()), (0, 0));
}

#[test]
fn nothing_and_what_is_smaller_than_1_kib_does_not_count() {
    assert!(is_counted());
    let (total, _held) = added(|| {
        let empty: Vec<u8> = Vec::with_capacity(0);
        (empty, Box::new(()), vec![(); 1 << 20], vec![0_u8; 1023], Vec::<[u8; 0]>::with_capacity(9))
    });
    assert_eq!(total, 0);
    let (total, mut held) = added(|| vec![0_u8; 1024]);
    assert_eq!(total, 1024);
    let (total, ()) = added(|| {
        held.clear();
        held.shrink_to_fit();
    });
    assert_eq!(total, -1024);
}

#[test]
fn a_block_may_be_aligned_beyond_a_page() {
    #[repr(align(65536))]
    struct Aligned([u8; 65536]);
    let (total, held) = added(|| vec![Aligned([3; 65536]), Aligned([4; 65536])]);
    assert_eq!((total, held.as_ptr() as usize % 65536), (2 * 65536, 0));
    assert_eq!((held[0].0[65535], held[1].0[0]), (3, 4));
}

#[test]
fn the_peak_is_the_most_since_it_was_reset() {
    reset_peak();
    let before = live_bytes();
    drop(vec![0_u8; 50_000]);
    let held = vec![0_u8; 20_000];
    assert_eq!(peak_bytes() - before, 50_000);
    reset_peak();
    assert_eq!(peak_bytes() - before, 20_000);
    drop(held);
    assert_eq!(peak_bytes() - before, 20_000);
}

#[test]
fn absurd_numbers_move_and_the_allocator_does_not_panic() {
    let before = live_bytes();
    for _ in 0..3 {
        moved_in(usize::MAX);
        moved_in(isize::MAX as usize);
        drop(vec![0_u8; 5000]);
    }
    for _ in 0..3 {
        moved_out(usize::MAX);
        moved_out(isize::MAX as usize);
        drop(vec![0_u8; 5000]);
    }
    assert_eq!(live_bytes(), before);
    reset_peak();
}
