//! Everything that a rank does on its device, against the same in double precision on the
//! processor.
//!
//! With the feature `cuda` and a GPU the device is the first GPU. Otherwise it is the processor, so
//! that these tests are themselves tested everywhere; `PPTOP_DEVICE=cpu` asks for that. With
//! `PPTOP_REQUIRE_GPU=1` a machine without a GPU is a failure.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod layers;
mod optimizers;
mod pipelines;
#[cfg(feature = "cuda")]
mod streams;

use pp_executor::DeviceSpec;
use pp_train::cuda_devices;

/// Where the tests compute.
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

#[test]
fn the_device_is_named() {
    let place = place();
    #[expect(clippy::print_stderr, reason = "the report of a run on a GPU has to say so")]
    {
        eprintln!("these tests run on {place}");
    }
    assert!(place.make().is_ok());
}
