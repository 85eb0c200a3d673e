//! Checks everything that a rank does on its device, against the same in double precision on the
//! processor: `gpu-tests [PART OF A NAME]…`.
//!
//! With the feature `cuda` and a GPU the device is the first GPU. Otherwise it is the processor, so
//! that these checks are themselves tested everywhere; `PPTOP_DEVICE=cpu` asks for that. With
//! `PPTOP_REQUIRE_GPU=1` a machine without a GPU is a failure.
//!
//! It is a program and not a test, so that one build makes it together with `pptop`, for machines
//! that have neither cargo nor the sources.
#![expect(clippy::unwrap_used, reason = "a check fails by panicking")]
#![expect(clippy::print_stdout, reason = "the report is read on standard output")]

mod layers;
mod optimizers;
mod pipelines;
#[cfg(feature = "cuda")]
mod streams;

use std::process::ExitCode;
use std::time::Instant;

use pp_executor::DeviceSpec;
use pp_train::cuda_devices;

/// Functions with their names, and a test of each.
macro_rules! checks {
    ($list:ident, $tests:ident: $($module:ident: $($name:ident)*;)*) => {
        const $list: &[(&str, fn())] = &[$($(
            (concat!(stringify!($module), "::", stringify!($name)), $module::$name),
        )*)*];

        #[cfg(test)]
        mod $tests {
            $(mod $module {$(
                #[test]
                fn $name() {
                    crate::$module::$name();
                }
            )*})*
        }
    };
}

checks! {
    CHECKS, tests:
    layers: linear layer_norm rms_norm activations dropout_drops_the_same_elements attention embedding loss
        a_block_of_a_transformer a_block_of_llama;
    optimizers: every_optimizer_follows_its_formula;
    pipelines: every_schedule_has_the_bits_of_one_rank the_numbers_are_nearly_those_of_the_processor
        streams_under_stress;
}
#[cfg(feature = "cuda")]
checks! {
    STREAM_CHECKS, stream_tests:
    streams: a_copy_waits_for_what_it_copies marks_have_times memory_is_counted;
}
#[cfg(not(feature = "cuda"))]
const STREAM_CHECKS: &[(&str, fn())] = &[];

/// Where the checks compute.
fn place() -> DeviceSpec {
    let wants_cpu = std::env::var("PPTOP_DEVICE").is_ok_and(|device| device == "cpu");
    match cuda_devices() {
        Ok(_) if !wants_cpu => DeviceSpec::Cuda { ordinal: 0 },
        found => {
            let is_required = std::env::var("PPTOP_REQUIRE_GPU").is_ok_and(|value| value == "1");
            assert!(!is_required, "a GPU is required: {found:?}");
            DeviceSpec::Cpu { index: 0 }
        }
    }
}

fn main() -> ExitCode {
    if candle_core::utils::get_num_threads() != 1 {
        println!("set RAYON_NUM_THREADS to 1: a rank is one thread");
        return ExitCode::from(2);
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part));
    println!("these checks run on {}", place());
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in CHECKS.iter().chain(STREAM_CHECKS).filter(|(name, _)| is_wanted(name)) {
        let begun = Instant::now();
        let holds = std::panic::catch_unwind(check).is_ok();
        let word = if holds { "ok" } else { "FAILED" };
        println!("{word} {name} in {:.1} s", begun.elapsed().as_secs_f64());
        if holds { passed += 1 } else { failed += 1 }
    }
    println!("gpu-tests: {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
