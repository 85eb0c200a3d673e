//! A program without a line of `unsafe` may hand `gemm` any numbers: it gets the product, or a
//! panic.
//!
//! The story: sizes were added up without a look at overflow. A matrix of 129 rows that lie 2^57
//! elements apart ended, by that sum, at element 1, and the kernel wrote to addresses that nobody
//! has.

#![forbid(unsafe_code)]
#![expect(clippy::float_cmp, reason = "an element is cleared or left as it was")]

use std::collections::BTreeSet;
use std::panic::catch_unwind;

use pp_nn::{Kernel, View};
use proptest::prelude::*;

/// The product by each kernel that there is here; they agree, or each of them panics.
fn gemm(
    (c, cv): (&mut [f32], View),
    a: (&[f32], View),
    b: (&[f32], View),
    scale: f32,
    accumulate: bool,
) {
    let before = c.to_vec();
    let kernels: Vec<Kernel> = Kernel::ALL.into_iter().filter(|k| k.is_available()).collect();
    let mut found: Vec<std::thread::Result<Vec<f32>>> = Vec::new();
    for &kernel in &kernels {
        found.push(catch_unwind(|| {
            let mut c = before.clone();
            pp_nn::gemm(kernel, (&mut c, cv), a, b, scale, accumulate);
            c
        }));
    }
    for (made, kernel) in found.iter().zip(&kernels) {
        // Small whole numbers: every order of the sums gives the same.
        assert_eq!(made.as_ref().ok(), found[0].as_ref().ok(), "{kernel} and {}", kernels[0]);
    }
    match found.swap_remove(0) {
        Ok(made) => c.copy_from_slice(&made),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The product of 129 rows, one of the three matrices as `change` leaves it.
fn tall(which: usize, change: impl FnOnce(&mut View)) {
    let mut c = [0.0; 129];
    let (a, b) = ([1.0; 129 * 20], [1.0; 20]);
    let mut views = [View::row_major(129, 1), View::row_major(129, 20), View::row_major(20, 1)];
    change(&mut views[which]);
    let [cv, av, bv] = views;
    gemm((&mut c, cv), (&a, av), (&b, bv), 1.0, false);
}

#[test]
#[should_panic(expected = "inside its slice")]
fn rows_whose_distance_wraps_to_0_are_refused_in_the_result() {
    tall(0, |c| c.row_stride = 1 << 57);
}

#[test]
#[should_panic(expected = "inside its slice")]
fn rows_whose_distance_wraps_to_0_are_refused_in_a_factor() {
    tall(1, |a| a.row_stride = 1 << 57);
}

#[test]
#[should_panic(expected = "inside its slice")]
fn an_offset_below_0_is_refused() {
    tall(2, |b| b.offset = 0_usize.wrapping_sub(1));
}

#[test]
#[should_panic(expected = "coincide")]
fn rows_of_the_result_that_are_one_row_are_refused() {
    tall(0, |c| c.row_stride = 0);
}

#[test]
fn factors_without_an_element_may_stand_anywhere() {
    let nowhere = |rows, columns| View {
        offset: usize::MAX,
        row_stride: usize::MAX,
        column_stride: 1 << 62,
        ..View::row_major(rows, columns)
    };
    for (accumulate, want) in [(true, 7.0), (false, 0.0)] {
        // The result is every other element.
        let mut c = [7.0; 12];
        let cv = View { row_stride: 6, column_stride: 2, ..View::row_major(2, 3) };
        gemm((&mut c, cv), (&[], nowhere(2, 0)), (&[], nowhere(0, 3)), 1.0, accumulate);
        assert_eq!(c, [want, 7.0, want, 7.0, want, 7.0, want, 7.0, want, 7.0, want, 7.0]);
    }
    gemm(
        (&mut [], nowhere(0, 4)),
        (&[], nowhere(0, 2)),
        (&[1.0; 8], View::row_major(2, 4)),
        1.0,
        false,
    );
    gemm(
        (&mut [], nowhere(4, 0)),
        (&[1.0; 8], View::row_major(4, 2)),
        (&[], nowhere(2, 0)),
        1.0,
        false,
    );
}

/// A number of rows or columns: a few, or more than a slice holds.
fn size() -> impl Strategy<Value = usize> {
    let absurd = prop::sample::select(vec![
        isize::MAX as usize / 4 + 1,
        isize::MAX as usize,
        1 << 63,
        (1 << 63) + 1,
        usize::MAX - 1,
        usize::MAX,
    ]);
    prop_oneof![12 => 0_usize..6, 2 => 60_usize..70, 1 => absurd]
}

/// A stride or an offset: a few, or one whose products wrap to something small.
fn distance() -> impl Strategy<Value = usize> {
    let powers = (40_u32..64).prop_map(|power| 1_usize << power);
    let absurd = prop::sample::select(vec![
        isize::MAX as usize / 4,
        isize::MAX as usize / 4 + 1,
        isize::MAX as usize,
        0_usize.wrapping_sub(1),
        0_usize.wrapping_sub(2),
        0_usize.wrapping_sub(70),
    ]);
    // What 3, 5 and 69 steps bring back to 0, or to 1.
    let inverse = prop::sample::select(vec![
        0xAAAA_AAAA_AAAA_AAAB_usize,
        0xCCCC_CCCC_CCCC_CCCD_usize,
        usize::MAX / 69 + 1,
        usize::MAX / 3,
        usize::MAX / 5 + 1,
    ]);
    prop_oneof![14 => 0_usize..8, 4 => 60_usize..80, 1 => powers, 1 => absurd, 1 => inverse]
}

fn view(rows: usize, columns: usize) -> impl Strategy<Value = View> {
    let any = (distance(), distance(), distance()).prop_map(
        move |(offset, row_stride, column_stride)| View {
            offset,
            rows,
            columns,
            row_stride,
            column_stride,
        },
    );
    // Where most are absurd, few products are ever made.
    let row_major =
        (0_usize..3).prop_map(move |offset| View { offset, ..View::row_major(rows, columns) });
    let column_major = (0_usize..3)
        .prop_map(move |offset| View { offset, ..View::row_major(columns, rows).transposed() });
    prop_oneof![2 => any, 1 => row_major, 1 => column_major]
}

fn views() -> impl Strategy<Value = [View; 3]> {
    (size(), size(), size()).prop_flat_map(|(m, n, k)| {
        (view(m, n), view(m, k), view(k, n)).prop_map(|(c, a, b)| [c, a, b])
    })
}

/// Where element (r, c) stands, in numbers that do not wrap.
fn position(view: View, r: usize, c: usize) -> u128 {
    let wide = |n: usize| n as u128;
    wide(view.offset) + wide(r) * wide(view.row_stride) + wide(c) * wide(view.column_stride)
}

fn is_inside(view: View, len: usize) -> bool {
    view.rows == 0
        || view.columns == 0
        || (view.rows as u128 * view.columns as u128 <= isize::MAX as u128 / 4
            && position(view, view.rows - 1, view.columns - 1) < len as u128)
}

/// Every position once? Of a matrix inside a small slice.
fn is_distinct(view: View) -> bool {
    let mut seen = BTreeSet::new();
    (0..view.rows).all(|r| (0..view.columns).all(|c| seen.insert(position(view, r, c))))
}

proptest! {
    #[test]
    fn any_numbers_give_the_product_or_a_panic(
        views in views(),
        lengths in [0_usize..6000, 0_usize..6000, 0_usize..6000],
        accumulate: bool,
    ) {
        let value = |i: usize| (i % 7) as f32 - 3.0;
        let [cv, av, bv] = views;
        let before: Vec<f32> = (0..lengths[0]).map(value).collect();
        let a: Vec<f32> = (0..lengths[1]).map(|i| value(i + 2)).collect();
        let b: Vec<f32> = (0..lengths[2]).map(|i| value(i + 5)).collect();
        let product = || {
            let mut c = before.clone();
            gemm((&mut c, cv), (&a, av), (&b, bv), 2.0, accumulate);
            c
        };
        let made = catch_unwind(product);
        let all_inside = views.iter().zip(lengths).all(|(view, len)| is_inside(*view, len));
        let is_empty = cv.rows == 0 || cv.columns == 0;
        if !all_inside {
            prop_assert!(made.is_err(), "{views:?} in {lengths:?}");
            return Ok(());
        }
        if !is_empty && !is_distinct(cv) {
            prop_assert!(made.is_err(), "{cv:?} has one element twice");
            return Ok(());
        }
        let Ok(c) = made else {
            // Rows that lie between each other may be refused as well.
            let (row, column) = ((cv.columns - 1) * cv.column_stride, (cv.rows - 1) * cv.row_stride);
            prop_assert!(cv.row_stride <= row && cv.column_stride <= column, "{views:?} refused");
            return Ok(());
        };
        let mut want = before;
        for r in 0..cv.rows {
            for q in 0..cv.columns {
                let at = usize::try_from(position(cv, r, q)).unwrap();
                let term = |i| a[position(av, r, i) as usize] * b[position(bv, i, q) as usize];
                let sum: f32 = (0..av.columns).map(term).sum();
                want[at] = if accumulate { want[at] } else { 0.0 } + 2.0 * sum;
            }
        }
        // Small whole numbers: every order of the sums gives the same.
        prop_assert_eq!(c, want);
    }
}
