//! Lets the linker find what cudarc asks it for. `-lcuda` and its like have to name a file, even
//! though every function is defined in this crate; here they name archives without members.

use std::path::PathBuf;
use std::{env, fs};

/// What cudarc and candle's kernels link.
const LIBRARIES: [&str; 6] = ["cuda", "cublas", "cublasLt", "curand", "nvrtc", "cudart"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for library in LIBRARIES {
        fs::write(out.join(format!("lib{library}.a")), "!<arch>\n").expect("OUT_DIR is writable");
    }
    println!("cargo::rustc-link-search=native={}", out.display());
}
