//! Vectors that are written before they are read.
//!
//! A safe vector has to have values, and filling it with zeros is a pass over memory. Without that
//! pass `memset` takes 2 % of the samples of `gpt` instead of 5 % (`perf record`, one rank, Intel
//! Xeon, model 207, 2026-11-29; two profiles of each in turns).
#![expect(unsafe_code, reason = "the compiler cannot see that every element is written")]

use std::mem::MaybeUninit;

/// Room for some numbers.
pub(crate) struct Fresh {
    values: Vec<f32>,
    n: usize,
}

impl Fresh {
    pub(crate) fn new(n: usize) -> Self {
        Self { values: Vec::with_capacity(n), n }
    }

    /// The slots for them, none of which holds a number yet.
    pub(crate) fn slots(&mut self) -> &mut [MaybeUninit<f32>] {
        &mut self.values.spare_capacity_mut()[..self.n]
    }

    /// The numbers, as a vector.
    ///
    /// # Safety
    /// Every slot has been written.
    pub(crate) unsafe fn written(mut self) -> Vec<f32> {
        // SAFETY: the capacity is at least `n`, and the caller vouches for the numbers.
        unsafe { self.values.set_len(self.n) };
        self.values
    }
}

/// Numbers as slots, for code that writes into either.
pub(super) fn as_slots(numbers: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    let slots = std::ptr::from_mut(numbers) as *mut [MaybeUninit<f32>];
    // SAFETY: both have one layout. Only numbers are ever put into slots (`MaybeUninit::write`), so
    // that they stay numbers.
    unsafe { &mut *slots }
}

/// Slots as numbers.
///
/// # Safety
/// Every one of these slots has been written.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call inside a kernel would be code for any processor")]
pub(super) unsafe fn as_numbers(slots: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    let numbers = std::ptr::from_mut(slots) as *mut [f32];
    // SAFETY: both have one layout, and the caller vouches for the numbers.
    unsafe { &mut *numbers }
}
