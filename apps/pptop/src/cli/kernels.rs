//! The parser of `--kernels`.

use pp_nn::{Kernel, Kernels, KernelsError};
use pp_train::KernelChoice;

use super::refusal::choice;

/// Reads `--kernels`.
pub(crate) fn kernels(text: &str) -> Result<KernelChoice, String> {
    let kernels = match text {
        "auto" => return Ok(KernelChoice::Auto),
        "rule" => return Ok(KernelChoice::Rule),
        text => text.parse::<Kernels>().map_err(|error| {
            let names = || ["auto", "rule"].into_iter().chain(Kernel::ALL.map(Kernel::name));
            match error {
                KernelsError::Kernel(name) if name == text => {
                    choice(text, &names().collect::<Vec<_>>())
                }
                other => other.to_string(),
            }
        })?,
    };
    match kernels.missing() {
        None => Ok(KernelChoice::These(kernels)),
        Some(Kernel::Blas) if cfg!(feature = "blas") => {
            Err("there is no BLAS library; install one, or name it in PPTOP_BLAS_LIB".to_owned())
        }
        Some(kernel) => {
            Err(format!("this processor does not support {kernel}; choose another kernel"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_does_not_have_is_refused_with_a_remedy() {
        assert_eq!(kernels("auto"), Ok(KernelChoice::Auto));
        assert_eq!(kernels("gemm"), Ok(KernelChoice::These(Kernels::all(Kernel::Gemm))));
        let absent = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
        assert!(kernels(absent).unwrap_err().contains("choose another kernel"));
        let slip = kernels("avx51").unwrap_err();
        assert!(slip.contains("avx512") && slip.contains("auto"), "{slip}");
        assert!(kernels("output=avx2").unwrap_err().contains("three for each product"));
    }
}
