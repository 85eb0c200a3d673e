//! The libraries, each opened once.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::sync::OnceLock;

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL};

use crate::search::{candidates, places};

/// One of NVIDIA's libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The driver.
    Driver,
    /// Matrix products.
    Blas,
    /// Matrix products of its own interface. cuBLAS needs it.
    BlasLt,
    /// Random numbers.
    Rand,
    /// The compiler of kernels at run time.
    Nvrtc,
}

/// A library that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// No file of its name is on any path.
    #[error("{name} was not found {places}")]
    Nowhere {
        /// The name of its file.
        name: &'static str,
        /// Where it was looked for.
        places: &'static str,
    },
    /// A file was found, and the system cannot load it.
    #[error("{path} cannot be loaded: {why}")]
    Unusable {
        /// The file.
        path: String,
        /// What the dynamic loader says.
        why: String,
    },
}

/// A library that is open until the process ends, and the path by which it was found.
struct Opened {
    handle: Handle,
    path: String,
}

static OPENED: [OnceLock<Result<Opened, Missing>>; 5] = [const { OnceLock::new() }; 5];

impl Library {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Driver, Self::Blas, Self::BlasLt, Self::Rand, Self::Nvrtc];

    /// The names of its file, the best first. cudarc is built for CUDA 13; its calls are in the
    /// libraries of CUDA 12 as well.
    pub(crate) fn files(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1"],
            Self::Blas => &["libcublas.so.13", "libcublas.so.12"],
            Self::BlasLt => &["libcublasLt.so.13", "libcublasLt.so.12"],
            Self::Rand => &["libcurand.so.10"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
        }
    }

    /// The driver comes with the system alone.
    fn comes_with_python(self) -> bool {
        self != Self::Driver
    }

    /// Opens the library, or finds that it is open already. Returns the path by which it was found:
    /// the name of the file alone if the system's loader found it.
    ///
    /// # Errors
    /// [`Missing`] if no file of its name can be opened. The answer stays the same until the
    /// process ends.
    pub fn open(self) -> Result<&'static str, Missing> {
        self.opened().map(|opened| opened.path.as_str()).map_err(Clone::clone)
    }

    fn opened(self) -> Result<&'static Opened, &'static Missing> {
        OPENED[self as usize].get_or_init(|| self.search()).as_ref()
    }

    fn search(self) -> Result<Opened, Missing> {
        if self == Self::Blas {
            // The loader takes a library that is open already, wherever it lies. So cuBLAS finds
            // this one even if its own search path does not lead to it.
            let _ = Self::BlasLt.opened();
        }
        let scope = if self == Self::BlasLt { RTLD_GLOBAL } else { RTLD_LOCAL };
        let mut found =
            Missing::Nowhere { name: self.files()[0], places: places(self.comes_with_python()) };
        for path in candidates(self.files(), self.comes_with_python()) {
            // SAFETY: opening a library runs its constructors. These are NVIDIA's own files, or
            // those in a folder that the user named for this. `tests/cuda/run.py` opens stand-ins
            // for all five.
            match unsafe { Handle::open(Some(&path), RTLD_LAZY | scope) } {
                Ok(handle) => {
                    return Ok(Opened { handle, path: path.to_string_lossy().into_owned() });
                }
                // The loader says the same of a name that it does not find.
                Err(error) if path.is_absolute() && path.exists() => {
                    let path = path.to_string_lossy().into_owned();
                    found = Missing::Unusable { path, why: error.to_string() };
                }
                Err(_) => {}
            }
        }
        Err(found)
    }

    /// The address of a function, or of one with the same signature that returns an error.
    pub(crate) fn function(self, name: &'static CStr) -> *const () {
        let found = self.opened().ok().and_then(|opened| {
            // SAFETY: the address is not called here, so its type does not matter. The caller
            // passes on a call as it came.
            let symbol = unsafe { opened.handle.get::<*const ()>(name.to_bytes_with_nul()) };
            symbol.ok().map(|symbol| symbol.as_raw_ptr().cast_const().cast::<()>())
        });
        found.unwrap_or_else(|| self.absent(name))
    }

    /// What stands in for a function that is not there.
    fn absent(self, name: &CStr) -> *const () {
        let ends = |end: &str| name.to_bytes().ends_with(end.as_bytes());
        match self {
            Self::Driver if ends("ErrorName") || ends("ErrorString") => {
                absent_text as extern "C" fn(c_int, *mut *const c_char) -> c_int as *const ()
            }
            // CUDA_ERROR_NO_DEVICE
            Self::Driver => status::<100> as extern "C" fn() -> c_int as *const (),
            // CUBLAS_STATUS_NOT_INITIALIZED
            Self::Blas | Self::BlasLt => status::<1> as extern "C" fn() -> c_int as *const (),
            // CURAND_STATUS_INITIALIZATION_FAILED
            Self::Rand => status::<203> as extern "C" fn() -> c_int as *const (),
            // NVRTC_ERROR_INTERNAL_ERROR
            Self::Nvrtc => status::<11> as extern "C" fn() -> c_int as *const (),
        }
    }
}

/// For every function that returns a status. On x86-64 the caller removes the arguments, so it does
/// not matter how many there are.
extern "C" fn status<const STATUS: c_int>() -> c_int {
    STATUS
}

/// For `cuGetErrorName` and `cuGetErrorString`.
extern "C" fn absent_text(_: c_int, text: *mut *const c_char) -> c_int {
    // SAFETY: both functions are given a place for a pointer to a text that stays.
    unsafe { text.write(c"the NVIDIA driver was not found".as_ptr()) };
    0
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "the NVIDIA driver",
            Self::Blas => "cuBLAS",
            Self::BlasLt => "cuBLASLt",
            Self::Rand => "cuRAND",
            Self::Nvrtc => "NVRTC",
        })
    }
}
