//! Products of matrices inside slices.

use super::elementwise::square_sum;
use super::panel::Panel;
use super::product::{Combine, Dots};
use super::vectorized;
use super::view::View;

/// With as many rows of the result as this, `dots` is as fast as a packed product (`just bench`, products).
const DOTS_ROWS: usize = 64;
/// The same for `combine`.
const COMBINE_ROWS: usize = 32;
/// With as many terms as this `panel` is as fast.
const PANEL_TERMS: usize = 16;

/// `c (+)= scale·a·b` of matrices that lie in the cache, rows of `b` and `c` contiguous.
///
/// # Panics
/// If the shapes do not fit each other, rows are not contiguous, or a matrix reaches outside its slice: our own bug.
pub(crate) fn panel(
    c: (&mut [f32], View),
    a: (&[f32], View),
    b: (&[f32], View),
    scale: f32,
    accumulate: bool,
) {
    let shapes = (c.1.rows, c.1.columns, a.1.columns);
    assert_eq!(shapes, (a.1.rows, b.1.columns, b.1.rows), "matrix shapes");
    assert!(c.1.column_stride == 1 && b.1.column_stride == 1, "rows are contiguous");
    assert!(
        c.1.is_inside(c.0) && a.1.is_inside(a.0) && b.1.is_inside(b.0),
        "matrix inside its slice"
    );
    vectorized(Panel { c, a, b, scale, accumulate, wants_squares: false });
}

/// [`gemm`] into a whole row-major matrix, and `Σ c²` of the result.
pub(crate) fn gemm_and_squares(
    (c, cv): (&mut [f32], View),
    a: (&[f32], View),
    b: (&[f32], View),
    accumulate: bool,
) -> f64 {
    let fits = cv.rows > 0 && cv.columns > 0 && b.1.column_stride == 1;
    if fits && cv.row_stride == cv.columns && takes_panel(a.1) {
        let shapes = (cv.rows, cv.columns, a.1.columns);
        assert_eq!(shapes, (a.1.rows, b.1.columns, b.1.rows), "matrix shapes");
        let is_inside = cv.is_inside(c) && a.1.is_inside(a.0) && b.1.is_inside(b.0);
        assert!(is_inside, "matrix inside its slice");
        let c = (&mut *c, cv);
        return vectorized(Panel { c, a, b, scale: 1.0, accumulate, wants_squares: true });
    }
    gemm((&mut *c, cv), a, b, 1.0, accumulate);
    square_sum(c, cv.columns)
}

/// Whether a sum of so few terms is better off without packing.
fn takes_panel(a: View) -> bool {
    (2..=PANEL_TERMS).contains(&a.columns)
}

/// `c = scale·a·b`, or `c += scale·a·b` with `accumulate`. Without a term, where `a` has no column, the product is 0.
///
/// Which kernel is used, and so how sums round, depends on the shapes and the processor alone.
///
/// One thread does it; what is not contiguous in a way that a kernel of ours wants is packed by the `gemm` crate.
///
/// ```should_panic
/// #![forbid(unsafe_code)]
/// use pp_nn::{View, gemm};
/// // Two rows that lie half of all addresses apart: no slice holds them.
/// let far = View { row_stride: usize::MAX / 2 + 1, ..View::row_major(3, 3) };
/// gemm((&mut [0.0; 9], far), (&[1.0; 9], View::row_major(3, 3)), (&[1.0; 9], View::row_major(3, 3)), 1.0, false);
/// ```
///
/// # Panics
/// If the shapes do not fit each other, a matrix reaches outside its slice, whatever numbers say
/// so, or two elements of `c` are one.
pub fn gemm(
    (c, cv): (&mut [f32], View),
    (a, av): (&[f32], View),
    (b, bv): (&[f32], View),
    scale: f32,
    accumulate: bool,
) {
    assert_eq!((cv.rows, cv.columns, av.columns), (av.rows, bv.columns, bv.rows), "matrix shapes");
    assert!(cv.is_inside(c) && av.is_inside(a) && bv.is_inside(b), "matrix inside its slice");
    if cv.rows == 0 || cv.columns == 0 {
        return;
    }
    assert!(cv.is_without_overlap(), "elements of the result coincide");
    if av.columns == 0 {
        // The factors have no element, and so their offsets mean nothing.
        if !accumulate {
            fill_zero(c, cv);
        }
        return;
    }
    let (cv, av, bv) = (cv.with_strides_in(c), av.with_strides_in(a), bv.with_strides_in(b));
    let few = |n: usize, most: usize| (2..=most).contains(&n);
    if av.column_stride == 1 && bv.row_stride == 1 && few(cv.rows, DOTS_ROWS) {
        let (c, a, b) = ((c, cv), (a, av), (b, bv.transposed()));
        return vectorized(Dots { c, a, b, scale, accumulate });
    }
    if cv.column_stride == 1 && bv.column_stride == 1 {
        let (c, a, b) = ((&mut *c, cv), (a, av), (b, bv));
        if takes_panel(av) {
            vectorized(Panel { c, a, b, scale, accumulate, wants_squares: false });
            return;
        }
        if few(cv.rows, COMBINE_ROWS) {
            return vectorized(Combine { c, a, b, scale, accumulate });
        }
    }
    packed((c, cv), (a, av), (b, bv), scale, accumulate);
}

/// The product by the `gemm` crate. Of views that [`gemm`] has checked.
#[expect(unsafe_code, reason = "the crate has no safe product, and takes no slices")]
fn packed(
    (c, cv): (&mut [f32], View),
    (a, av): (&[f32], View),
    (b, bv): (&[f32], View),
    scale: f32,
    accumulate: bool,
) {
    // A stride is at most as long as its slice, and no slice has more than isize::MAX bytes.
    let strides = |view: View| (view.column_stride as isize, view.row_stride as isize);
    let ((c_columns, c_rows), (a_columns, a_rows)) = (strides(cv), strides(av));
    let (b_columns, b_rows) = strides(bv);
    let (c, a, b) = (&mut c[cv.offset..], &a[av.offset..], &b[bv.offset..]);
    // SAFETY: `gemm` showed with checked sums that each of the three matrices has an element and
    // ends inside its slice, so that every element that is read or written, at offset +
    // r·row_stride + c·column_stride, lies in it; that no two elements of `c` coincide; and `c` is
    // borrowed exclusively. Why not candle's safe matmul: it cannot add into an existing matrix nor
    // read strided heads in place; forward and backward of a layer of 256 x 1024 at 256 rows take
    // 4.0 ms with it, 5.7 ms as candle does it (`just bench`, ops).
    unsafe {
        gemm::gemm(
            cv.rows,
            cv.columns,
            av.columns,
            c.as_mut_ptr(),
            c_columns,
            c_rows,
            accumulate,
            a.as_ptr(),
            a_columns,
            a_rows,
            b.as_ptr(),
            b_columns,
            b_rows,
            1.0f32,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Sets every element of a matrix inside its slice to 0.
fn fill_zero(c: &mut [f32], view: View) {
    for row in 0..view.rows {
        for column in 0..view.columns {
            c[view.offset + row * view.row_stride + column * view.column_stride] = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that looks random, the same each time.
    fn value(i: usize) -> f32 {
        ((i * 2_654_435_761 % 1_000_003) as f32 / 500_001.5) - 1.0
    }

    #[test]
    fn every_kernel_agrees_with_three_loops() {
        // Few rows, few terms and many of both; tiles and vectors that come out even, and rests of each.
        let sizes = [
            (1, 1, 1),
            (1, 40, 33),
            (2, 3, 5),
            (4, 4, 16),
            (5, 7, 33),
            (8, 130, 70),
            (33, 9, 17),
            (9, 1300, 8),
            (64, 35, 130),
            (70, 66, 65),
        ];
        for (m, n, k) in sizes {
            for (a_transposed, b_transposed) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                for accumulate in [false, true] {
                    // Each row of a factor is followed by some numbers that are not its own.
                    let view = |rows: usize, columns: usize, transposed: bool| {
                        let (r, c) = if transposed { (columns, rows) } else { (rows, columns) };
                        let view = View { row_stride: c + 3, ..View::row_major(r, c) };
                        if transposed { view.transposed() } else { view }
                    };
                    let (av, bv) = (view(m, k, a_transposed), view(k, n, b_transposed));
                    let cv = View { offset: 2, row_stride: n + 1, ..View::row_major(m, n) };
                    let a: Vec<f32> = (0..av.end().unwrap()).map(value).collect();
                    let b: Vec<f32> = (0..bv.end().unwrap()).map(|i| value(i + 77)).collect();
                    let before: Vec<f32> = (0..=cv.end().unwrap()).map(|i| value(i + 5)).collect();
                    let mut c = before.clone();
                    gemm((&mut c, cv), (&a, av), (&b, bv), 2.0, accumulate);
                    let at = |v: View, r: usize, q: usize| {
                        v.offset + r * v.row_stride + q * v.column_stride
                    };
                    let mut want: Vec<f64> = before.iter().map(|&v| f64::from(v)).collect();
                    for r in 0..m {
                        for q in 0..n {
                            let sum: f64 = (0..k)
                                .map(|i| f64::from(a[at(av, r, i)]) * f64::from(b[at(bv, i, q)]))
                                .sum();
                            let start = if accumulate { want[at(cv, r, q)] } else { 0.0 };
                            want[at(cv, r, q)] = start + 2.0 * sum;
                        }
                    }
                    for (i, (&got, want)) in c.iter().zip(&want).enumerate() {
                        assert!(
                            (f64::from(got) - want).abs() < 1e-5 * (1.0 + want.abs()),
                            "{m} x {n} x {k}, transposed {a_transposed} {b_transposed}, at {i}: {got}, not {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_reaches_its_own_row_and_column_alone() {
        for (m, n, k) in [(8, 33, 70), (8, 130, 8), (40, 40, 40)] {
            for transposed in [false, true] {
                let mut a: Vec<f32> = (0..m * k).map(value).collect();
                let mut b: Vec<f32> = (0..k * n).map(|i| value(i + 77)).collect();
                a[k] = f32::NAN;
                let last = if transposed { (n - 1) * k } else { n - 1 };
                b[last] = f32::INFINITY;
                let bv = if transposed {
                    View::row_major(n, k).transposed()
                } else {
                    View::row_major(k, n)
                };
                let mut c = vec![0.0; m * n];
                let cv = View::row_major(m, n);
                gemm((&mut c, cv), (&a, View::row_major(m, k)), (&b, bv), 1.0, false);
                for (i, v) in c.iter().enumerate() {
                    match (i / n, i % n) {
                        (1, _) => assert!(v.is_nan()),
                        (row, column) if column == n - 1 => {
                            assert!(
                                v.is_infinite() && v.signum() == a[row * k].signum(),
                                "row {row}: {v}"
                            );
                        }
                        _ => assert!(v.is_finite(), "{m} x {n} x {k} at {i}"),
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "inside its slice")]
    fn a_matrix_outside_its_slice_is_caught() {
        let (a, b) = ([0.0; 4], [0.0; 4]);
        gemm(
            (&mut [0.0; 3], View::row_major(2, 2)),
            (&a, View::row_major(2, 2)),
            (&b, View::row_major(2, 2)),
            1.0,
            false,
        );
    }
}
