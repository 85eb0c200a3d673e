//! Products by the `cblas_sgemm` of a library that the user has: `OpenBLAS`, MKL, AOCL.
//!
//! The library is opened on first use, so the program starts without it. It is told to use one
//! thread for each call, in the whole process.

use std::ffi::{OsStr, c_int};
use std::path::Path;
use std::sync::OnceLock;

use libloading::Library;

use super::view::View;

/// Environment variable that names the library.
const VARIABLE: &str = "PPTOP_BLAS_LIB";
/// Libraries that are tried otherwise.
const NAMES: [&str; 6] = [
    "libopenblas.so.0",
    "libmkl_rt.so.3",
    "libmkl_rt.so.2",
    "libblis-mt.so.4",
    "libblis.so.4",
    "libcblas.so.3",
];
/// Functions of `OpenBLAS` and MKL that set the number of threads of a call.
const SETS_THREADS: [&[u8]; 2] = [b"openblas_set_num_threads", b"MKL_Set_Num_Threads"];
/// That of BLIS, whose integers have 64 bits.
const SETS_THREADS_OF_BLIS: &[u8] = b"bli_thread_set_num_threads";
/// MKL's choice of 32 or 64 bits for the integers of BLAS, and its number for 32.
const SETS_INTEGERS_OF_MKL: &[u8] = b"MKL_Set_Interface_Layer";
const MKL_INTERFACE_LP64: c_int = 0;

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

static BLAS: OnceLock<Result<Blas, String>> = OnceLock::new();

/// The library, or why there is none.
fn blas() -> Result<&'static Blas, &'static str> {
    let find = || match std::env::var_os(VARIABLE) {
        Some(path) => open(&path)
            .map_err(|error| format!("{VARIABLE} names {}: {error}", Path::new(&path).display())),
        None => NAMES.iter().find_map(|name| open(OsStr::new(name)).ok()).ok_or_else(|| {
            format!("none of {} can be opened; {VARIABLE} can name another", NAMES.join(", "))
        }),
    };
    BLAS.get_or_init(find).as_ref().map_err(String::as_str)
}

#[expect(unsafe_code, reason = "a library is opened, and its functions have the types that we say")]
fn open(path: &OsStr) -> Result<Blas, libloading::Error> {
    // SAFETY: opening runs the library's own initialisation; whoever builds with this feature asks
    // for that. `cblas_sgemm` has had this signature since the reference interface, with integers
    // of 32 bits. OpenBLAS with 64 bits calls it `cblas_sgemm64_`, which is not looked for; MKL is
    // told to take 32 before its first call; the packages of BLIS have 32 in BLAS. Whoever names
    // another library in the variable vouches for the same. Tested with Debian's OpenBLAS
    // (`crates/nn/tests/kernels.rs`, `PPTOP_REQUIRE_BLAS`).
    unsafe {
        let library = Library::new(path)?;
        let sgemm = *library.get::<Sgemm>(b"cblas_sgemm")?;
        if let Ok(set) = library.get::<unsafe extern "C" fn(c_int) -> c_int>(SETS_INTEGERS_OF_MKL) {
            set(MKL_INTERFACE_LP64);
        }
        // A rank is one thread; the other cores belong to other ranks.
        for name in SETS_THREADS {
            if let Ok(set) = library.get::<unsafe extern "C" fn(c_int)>(name) {
                set(1);
            }
        }
        if let Ok(set) = library.get::<unsafe extern "C" fn(i64)>(SETS_THREADS_OF_BLIS) {
            set(1);
        }
        Ok(Blas { name: path.to_string_lossy().into_owned(), sgemm, _library: library })
    }
}

/// The library that was found, or why there is none.
pub(super) fn library() -> Result<&'static str, &'static str> {
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

/// `c (+)= scale·a·b` of views inside their slices, if BLAS can take these views. Returns whether
/// it did.
#[expect(unsafe_code, reason = "BLAS takes pointers")]
pub(super) fn product(
    (c, cv): (&mut [f32], View),
    (a, av): (&[f32], View),
    (b, bv): (&[f32], View),
    scale: f32,
    accumulate: bool,
) -> bool {
    let Ok(blas) = blas() else { return false };
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
    // SAFETY: `gemm` showed that each matrix ends inside its slice. `arrangement` gives BLAS the
    // strides that the matrices have, as `int`s; that of a single row or column is not used. `c` is
    // borrowed exclusively, and its rows do not overlap. Tested against three loops
    // (`crates/nn/tests/kernels.rs`) and with any strides (`crates/nn/tests/absurd_views.rs`).
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
