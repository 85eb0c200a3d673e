//! Products of matrices inside slices.

use super::blas;
use std::cell::RefCell;
use std::mem::MaybeUninit;

use super::elementwise::{add, square_sum};
use super::few_terms::FewTerms;
use super::fresh::as_slots;
use super::kernel::{InstructionSet, Kernel};
use super::packed::{self, Addends, Panels, Right, Room, Sums};
use super::product::{Combine, Dots};
use super::vectorized;
use super::view::View;

thread_local! {
    /// Room for the copies of a thread's products: a new one each time would be filled with zeros.
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Up to this many terms, [`FewTerms`] is faster than [`Combine`].
const FEW_TERMS: usize = 16;

/// [`gemm`] into a whole row-major matrix, and `Σ c²` of the result.
pub(crate) fn gemm_and_squares(
    kernel: Kernel,
    (c, cv): (&mut [f32], View),
    a: (&[f32], View),
    b: (&[f32], View),
    accumulate: bool,
) -> f64 {
    let fits = cv.rows > 0 && cv.columns > 0 && b.1.column_stride == 1;
    let is_whole = fits && cv.row_stride == cv.columns;
    if kernel == Kernel::InPlace && is_whole && has_few_terms(a.1) {
        let shapes = (cv.rows, cv.columns, a.1.columns);
        assert_eq!(shapes, (a.1.rows, b.1.columns, b.1.rows), "matrix shapes");
        let is_inside = cv.is_inside(c) && a.1.is_inside(a.0) && b.1.is_inside(b.0);
        assert!(is_inside, "matrix inside its slice");
        let c = (&mut *c, cv);
        return vectorized(FewTerms { c, a, b, scale: 1.0, accumulate, wants_squares: true });
    }
    gemm(kernel, (&mut *c, cv), a, b, 1.0, accumulate);
    square_sum(c, cv.columns)
}

/// Whether a sum of so few terms is better off without packing.
fn has_few_terms(a: View) -> bool {
    (2..=FEW_TERMS).contains(&a.columns)
}

/// `c = scale·a·b`, or `c += scale·a·b` with `accumulate`, by `kernel`. The product is 0 where `a`
/// has no column.
///
/// How sums round depends on the kernel, the shapes and the strides alone; [`Kernel::InPlace`]
/// also asks how long this processor's vectors are. One thread does it.
///
/// [`Kernel::InPlace`] takes rows of `a` with columns of `b`, or rows of `b` and `c`. The kernels
/// on panels take contiguous rows or columns of `c`. [`Kernel::Blas`] wants the same of all three
/// matrices. The `gemm` crate does the rest.
///
/// ```should_panic
/// #![forbid(unsafe_code)]
/// use pp_nn::{Kernel, View, gemm};
/// // Two rows that lie half of all addresses apart: no slice holds them.
/// let far = View { row_stride: usize::MAX / 2 + 1, ..View::row_major(3, 3) };
/// let (a, b) = ((&[1.0; 9][..], View::row_major(3, 3)), (&[1.0; 9][..], View::row_major(3, 3)));
/// gemm(Kernel::Gemm, (&mut [0.0; 9], far), a, b, 1.0, false);
/// ```
///
/// # Panics
/// If the shapes do not fit each other, a matrix reaches outside its slice, elements of `c`
/// overlap, or this processor or this build has no such kernel.
pub fn gemm(
    kernel: Kernel,
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
    let (c, a, b) = ((c, cv), (a, av), (b, bv));
    match kernel {
        Kernel::InPlace => in_place(c, a, b, scale, accumulate),
        Kernel::Gemm => by_gemm_crate(c, a, b, scale, accumulate),
        Kernel::Avx512 | Kernel::Avx2 | Kernel::Neon | Kernel::Blas => {
            assert!(kernel.is_available(), "there is no kernel '{kernel}' here");
            // cᵀ = bᵀ·aᵀ, where the rows of that are contiguous.
            let (c, a, b) = if has_rows(cv) {
                (c, a, b)
            } else if has_rows(cv.transposed()) {
                ((c.0, cv.transposed()), (b.0, bv.transposed()), (a.0, av.transposed()))
            } else {
                return by_gemm_crate(c, a, b, scale, accumulate);
            };
            match InstructionSet::of(kernel) {
                Some(set) => {
                    let sums = Sums { scale, accumulate, addends: Addends::default() };
                    ROOM.with_borrow_mut(|room| {
                        packed::product(set, c, a, Right::Matrix(b.0, b.1), sums, room);
                    });
                }
                None => {
                    if !blas::product((&mut *c.0, c.1), a, b, scale, accumulate) {
                        by_gemm_crate(c, a, b, scale, accumulate);
                    }
                }
            }
        }
    }
}

/// `c = a·b + addends`, where `c` is a whole row-major matrix.
///
/// # Panics
/// As [`gemm`]; and if the addends do not fit.
pub(crate) fn gemm_and_add(
    kernel: Kernel,
    (c, cv): (&mut [f32], View),
    a: (&[f32], View),
    b: (&[f32], View),
    addends: Addends<'_>,
) {
    addends.check(cv);
    if let Some(bias) = addends.bias {
        for row in c.chunks_exact_mut(cv.columns.max(1)) {
            row.copy_from_slice(bias);
        }
    }
    gemm(kernel, (&mut *c, cv), a, b, 1.0, addends.bias.is_some());
    if let Some(onto) = addends.onto {
        add(c, onto);
    }
}

/// `c = a·b + addends` with panels that were made before: the bits of [`gemm_and_add`], whose
/// panels are made on the way.
///
/// # Panics
/// As [`gemm_and_add`].
pub(crate) fn gemm_by_panels(
    panels: &Panels,
    (c, cv): (&mut [f32], View),
    a: (&[f32], View),
    addends: Addends<'_>,
) {
    assert!(cv.is_inside(c), "matrix inside its slice");
    gemm_into_fresh(panels, (as_slots(&mut c[..cv.rows * cv.columns]), cv), a, addends);
}

/// The same into slots, of which every one is written.
///
/// # Panics
/// As [`gemm_by_panels`]; and if there are more slots than elements, or fewer.
pub(crate) fn gemm_into_fresh(
    panels: &Panels,
    (c, cv): (&mut [MaybeUninit<f32>], View),
    (a, av): (&[f32], View),
    addends: Addends<'_>,
) {
    assert_eq!((cv.rows, cv.columns), (av.rows, panels.shape().1), "matrix shapes");
    assert_eq!(av.columns, panels.shape().0, "matrix shapes");
    assert!(c.len() == cv.rows * cv.columns && av.is_inside(a), "matrix inside its slice");
    addends.check(cv);
    if c.is_empty() {
        return;
    }
    if av.columns == 0 {
        // A product without terms is 0.
        for (i, slot) in c.iter_mut().enumerate() {
            let bias = addends.bias.map_or(0.0, |bias| bias[i % cv.columns]);
            slot.write(addends.onto.map_or(bias, |onto| bias + onto[i]));
        }
        return;
    }
    let (c, a) = ((c, cv), (a, av.with_strides_in(a)));
    packed::product_of_panels(panels, c, a, addends);
}

impl Panels {
    /// A copy of `b`; `None` if the kernel does not work on panels, or this processor does not have
    /// it.
    ///
    /// # Panics
    /// If the matrix reaches outside its slice.
    pub fn pack(kernel: Kernel, b: &[f32], view: View) -> Option<Self> {
        assert!(view.is_inside(b), "matrix inside its slice");
        let mut panels = Self::new(InstructionSet::of(kernel)?, view.rows, view.columns);
        panels.fill((b, view));
        Some(panels)
    }

    /// `c = a·b`, where `c` is a whole row-major matrix: the bits of [`gemm()`] with the same
    /// kernel.
    ///
    /// # Panics
    /// If the shapes do not fit, or a matrix reaches outside its slice.
    pub fn multiply(&self, c: (&mut [f32], View), a: (&[f32], View)) {
        gemm_by_panels(self, c, a, Addends::default());
    }
}

impl Addends<'_> {
    /// Panics where they do not fit the result.
    fn check(&self, cv: View) {
        let is_whole = cv.offset == 0 && cv.row_stride == cv.columns && cv.column_stride == 1;
        assert!(is_whole, "a product with addends is a whole matrix");
        assert!(self.bias.is_none_or(|bias| bias.len() == cv.columns), "a bias for each column");
        assert!(self.onto.is_none_or(|onto| onto.len() == cv.rows * cv.columns), "matrix shapes");
    }
}

/// Whether each row is contiguous.
fn has_rows(view: View) -> bool {
    view.column_stride == 1 || view.columns == 1
}

/// Both factors are read where they lie. Of views that [`gemm`] has checked.
fn in_place(
    (c, cv): (&mut [f32], View),
    (a, av): (&[f32], View),
    (b, bv): (&[f32], View),
    scale: f32,
    accumulate: bool,
) {
    if av.column_stride == 1 && bv.row_stride == 1 {
        let (c, a, b) = ((c, cv), (a, av), (b, bv.transposed()));
        return vectorized(Dots { c, a, b, scale, accumulate });
    }
    if cv.column_stride == 1 && bv.column_stride == 1 {
        let (c, a, b) = ((c, cv), (a, av), (b, bv));
        if has_few_terms(av) {
            vectorized(FewTerms { c, a, b, scale, accumulate, wants_squares: false });
            return;
        }
        return vectorized(Combine { c, a, b, scale, accumulate });
    }
    by_gemm_crate((c, cv), (a, av), (b, bv), scale, accumulate);
}

/// The product by the `gemm` crate. Of views that [`gemm`] has checked.
#[expect(unsafe_code, reason = "the crate has no safe product, and takes no slices")]
fn by_gemm_crate(
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
    fn panels_round_alike_by_any_vectors_and_made_before_or_on_the_way() {
        for (m, n, k) in [(1, 1, 1), (5, 33, 70), (27, 48, 300), (13, 32, 256), (40, 31, 513)] {
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..k * n).map(|i| value(i + 77)).collect();
            let (av, cv) = (View::row_major(m, k), View::row_major(m, n));
            let mut found: Vec<Vec<u32>> = Vec::new();
            for bv in [View::row_major(k, n), View::row_major(n, k).transposed()] {
                for kernel in Kernel::ALL {
                    if !kernel.takes_panels() || !kernel.is_available() {
                        continue;
                    }
                    for accumulate in [false, true] {
                        let mut c: Vec<f32> = (0..m * n).map(|i| value(i + 5)).collect();
                        gemm(kernel, (&mut c, cv), (&a, av), (&b, bv), 0.5, accumulate);
                        let bits = |c: &[f32]| c.iter().map(|c| c.to_bits()).collect::<Vec<_>>();
                        if !accumulate {
                            found.push(bits(&c));
                        }
                        // Columns of the left factor that are contiguous are copied first.
                        let mut turned = vec![0.0; k * m];
                        for (i, &a) in a.iter().enumerate() {
                            turned[i % k * m + i / k] = a;
                        }
                        let mut by_tiles: Vec<f32> = (0..m * n).map(|i| value(i + 5)).collect();
                        let turned = (&turned[..], View::row_major(k, m).transposed());
                        gemm(kernel, (&mut by_tiles, cv), turned, (&b, bv), 0.5, accumulate);
                        assert_eq!(bits(&c), bits(&by_tiles), "{kernel}, {m} x {n} x {k}, tiles");
                    }
                }
                // Another arrangement of b has other numbers.
                assert!(found.windows(2).all(|two| two[0] == two[1]), "{m} x {n} x {k}");
                found.clear();
            }
        }
    }

    #[test]
    fn addends_round_alike_with_panels_from_before_and_with_steps_of_their_own() {
        for (m, n, k) in [(1, 1, 1), (5, 33, 70), (27, 48, 300), (13, 32, 512), (4, 31, 0)] {
            let matrix = |n: usize, key| (0..n).map(|i| value(i + key)).collect::<Vec<f32>>();
            let (a, b) = (matrix(m * k, 0), matrix(k * n, 77));
            let (bias, onto) = (matrix(n, 3), matrix(m * n, 9));
            let (av, cv) = (View::row_major(m, k), View::row_major(m, n));
            let b = (&b[..], View::row_major(k, n));
            for which in 0..4 {
                let addends = Addends {
                    bias: (which & 1 > 0).then_some(&bias[..]),
                    onto: (which & 2 > 0).then_some(&onto[..]),
                };
                for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
                    // By steps: the bias, the product on top of it, the matrix.
                    let mut want = if which & 1 > 0 { bias.repeat(m) } else { vec![7.0; m * n] };
                    gemm(kernel, (&mut want, cv), (&a, av), b, 1.0, which & 1 > 0);
                    if which & 2 > 0 {
                        want.iter_mut().zip(&onto).for_each(|(c, onto)| *c += onto);
                    }
                    let what = format!("{kernel}, {m} x {n} x {k}, addends {which}");
                    let as_bits = |c: &[f32]| c.iter().map(|c| c.to_bits()).collect::<Vec<_>>();
                    let mut got = vec![7.0; m * n];
                    gemm_and_add(kernel, (&mut got, cv), (&a, av), b, addends);
                    assert_eq!(as_bits(&got), as_bits(&want), "{what}");
                    let Some(set) = InstructionSet::of(kernel) else { continue };
                    let mut panels = Panels::new(set, k, n);
                    panels.fill(b);
                    let mut got = vec![7.0; m * n];
                    gemm_by_panels(&panels, (&mut got, cv), (&a, av), addends);
                    assert_eq!(as_bits(&got), as_bits(&want), "{what}, from before");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "inside its slice")]
    fn a_matrix_outside_its_slice_is_caught() {
        let (a, b) = ([0.0; 4], [0.0; 4]);
        gemm(
            Kernel::Gemm,
            (&mut [0.0; 3], View::row_major(2, 2)),
            (&a, View::row_major(2, 2)),
            (&b, View::row_major(2, 2)),
            1.0,
            false,
        );
    }
}
