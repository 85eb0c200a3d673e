//! Products by the `cblas_sgemm` of a library that the user has: `OpenBLAS`, MKL, AOCL.
//!
//! It is opened when it is first wanted, so that a program that was built with it starts without.

use std::ffi::{OsStr, c_int};
use std::sync::OnceLock;

use libloading::Library;

use super::view::View;

/// Where a name of the environment says which library to open.
const VARIABLE: &str = "PPTOP_BLAS_LIB";
/// Who is looked for without that name.
const NAMES: [&str; 6] = [
    "libopenblas.so.0",
    "libmkl_rt.so.3",
    "libmkl_rt.so.2",
    "libblis-mt.so.4",
    "libblis.so.4",
    "libcblas.so.3",
];
/// What sets the number of threads that a call may use.
const SETS_THREADS: [&[u8]; 3] =
    [b"openblas_set_num_threads", b"MKL_Set_Num_Threads", b"bli_thread_set_num_threads"];

/// From the reference interface (netlib, cblas.h).
const ROW_MAJOR: c_int = 101;
const PLAIN: c_int = 111;
const TRANSPOSED: c_int = 112;

type Sgemm = unsafe extern "C" fn(
    order: c_int,
    a_transposed: c_int,
    b_transposed: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    a_stride: c_int,
    b: *const f32,
    b_stride: c_int,
    beta: f32,
    c: *mut f32,
    c_stride: c_int,
);

struct Blas {
    name: String,
    sgemm: Sgemm,
    /// The function lives as long as this.
    _library: Library,
}

static BLAS: OnceLock<Option<Blas>> = OnceLock::new();

fn blas() -> Option<&'static Blas> {
    let named = || match std::env::var_os(VARIABLE) {
        Some(path) => open(&path),
        None => NAMES.iter().find_map(|name| open(OsStr::new(name))),
    };
    BLAS.get_or_init(named).as_ref()
}

#[expect(unsafe_code, reason = "a library is opened, and its functions have the types that we say")]
fn open(path: &OsStr) -> Option<Blas> {
    // SAFETY: opening runs the library's own initialisation, which is what the user of this feature asks
    // for. `cblas_sgemm` has had this one signature since the reference interface, the integers being 32 bits
    // wide in every library of `NAMES`; one with 64 bits has another name (`cblas_sgemm64_`), which is not
    // looked for. A function that sets the number of threads takes one `int` by value in all three libraries
    // (BLIS: a 64-bit integer, whose upper half is zero in a register that an `int` was put into). Tested
    // with Debian's OpenBLAS (`crates/nn/tests/kernels.rs`, `PPTOP_REQUIRE_BLAS`).
    unsafe {
        let library = Library::new(path).ok()?;
        let sgemm = *library.get::<Sgemm>(b"cblas_sgemm").ok()?;
        for name in SETS_THREADS {
            if let Ok(set) = library.get::<unsafe extern "C" fn(c_int)>(name) {
                // A rank is one thread; what is beside it belongs to other ranks.
                set(1);
            }
        }
        Some(Blas { name: path.to_string_lossy().into_owned(), sgemm, _library: library })
    }
}

pub(super) fn is_available() -> bool {
    blas().is_some()
}

/// The library that was found.
pub(super) fn name() -> Option<&'static str> {
    blas().map(|blas| blas.name.as_str())
}

/// How a matrix lies for BLAS: whether it is transposed, and how far its rows are apart.
fn arrangement(view: View) -> Option<(c_int, c_int)> {
    let stride = |stride: usize, length: usize| {
        // No shorter than a row, as BLAS wants it even of a single row.
        c_int::try_from(stride.max(length).max(1)).ok()
    };
    if view.column_stride == 1 && (view.rows == 1 || view.row_stride >= view.columns) {
        return Some((PLAIN, stride(view.row_stride, view.columns)?));
    }
    let is_transposed =
        view.row_stride == 1 && (view.columns == 1 || view.column_stride >= view.rows);
    is_transposed.then_some((TRANSPOSED, stride(view.column_stride, view.rows)?))
}

/// `c (+)= scale·a·b`, of views that lie inside their slices, where BLAS takes matrices that lie so. Returns whether it did.
#[expect(unsafe_code, reason = "BLAS takes pointers")]
pub(super) fn product(
    (c, cv): (&mut [f32], View),
    (a, av): (&[f32], View),
    (b, bv): (&[f32], View),
    scale: f32,
    accumulate: bool,
) -> bool {
    let Some(blas) = blas() else { return false };
    let size = |n: usize| c_int::try_from(n).ok();
    let (Some(m), Some(n), Some(k)) = (size(cv.rows), size(cv.columns), size(av.columns)) else {
        return false;
    };
    let (Some((PLAIN, c_stride)), Some((a_form, a_stride)), Some((b_form, b_stride))) =
        (arrangement(cv), arrangement(av), arrangement(bv))
    else {
        return false;
    };
    let beta = if accumulate { 1.0 } else { 0.0 };
    let (c, a, b) = (&mut c[cv.offset..], &a[av.offset..], &b[bv.offset..]);
    // SAFETY: `gemm` showed that each matrix ends inside its slice, and `arrangement` that its strides are those that
    // BLAS is told, in numbers that an `int` holds; of a single row or column the stride is not taken. `c` is borrowed
    // exclusively, and its rows do not overlap. Tested against three loops (`crates/nn/tests/kernels.rs`) and with any
    // strides (`crates/nn/tests/absurd_views.rs`).
    unsafe {
        (blas.sgemm)(
            ROW_MAJOR,
            a_form,
            b_form,
            m,
            n,
            k,
            scale,
            a.as_ptr(),
            a_stride,
            b.as_ptr(),
            b_stride,
            beta,
            c.as_mut_ptr(),
            c_stride,
        );
    }
    true
}
