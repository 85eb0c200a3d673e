//! Streams, marks, copies and counted memory, as `pp-cuda` has them. Without a GPU there is nothing
//! to test here.

use candle_core::{DType, Tensor};
use pp_cuda::Stream;
use pp_executor::DeviceSpec;
use pp_nn::memory::Meter;

use crate::place;

/// Two streams of the first GPU; `None` if there is none.
fn streams() -> Option<(Stream, Stream)> {
    match place() {
        DeviceSpec::Cuda { ordinal } => {
            Some((Stream::new(ordinal).unwrap(), Stream::new(ordinal).unwrap()))
        }
        DeviceSpec::Cpu { .. } => None,
    }
}

pub(crate) fn a_copy_waits_for_what_it_copies() {
    let Some((first, second)) = streams() else { return };
    let n = 1024;
    for round in 0..200 {
        // Long work before the tensor is there, on one stream; none on the other.
        let mut x = (Tensor::ones((n, n), DType::F32, first.device()).unwrap() / n as f64).unwrap();
        for _ in 0..8 {
            x = x.matmul(&x).unwrap();
        }
        let made = (x + f64::from(round)).unwrap();
        first.mark().and_then(|mark| second.wait(&mark)).unwrap();
        let copy = second.copy_of(&made).unwrap();
        let behind = second.mark().unwrap();
        // Only after the copy may the memory of the original be used again.
        while !behind.is_passed().unwrap() {
            std::hint::spin_loop();
        }
        drop(made);
        let over = Tensor::zeros((n, n), DType::F32, first.device()).unwrap();
        let sum = copy.sum_all().unwrap().to_scalar::<f32>().unwrap();
        let expected = (n * n) as f32 * round as f32 + n as f32;
        assert!((sum - expected).abs() <= 1e-4 * expected, "round {round}: {sum} for {expected}");
        drop(over);
    }
}

pub(crate) fn marks_have_times() {
    let Some((stream, _)) = streams() else { return };
    let before = stream.timed_mark().unwrap();
    let n = 2048;
    let x = Tensor::ones((n, n), DType::F32, stream.device()).unwrap();
    for _ in 0..10 {
        x.matmul(&x).unwrap();
    }
    let between = stream.timed_mark().unwrap();
    for _ in 0..10 {
        x.matmul(&x).unwrap();
    }
    let after = stream.timed_mark().unwrap();
    stream.synchronize().unwrap();
    let (first, whole) = (before.seconds_to(&between).unwrap(), before.seconds_to(&after).unwrap());
    assert!(0.0 < first && first < whole && whole < 10.0, "{first}, {whole}");
    // An order alone has no time.
    assert!(stream.mark().unwrap().seconds_to(&after).is_err());
}

pub(crate) fn memory_is_counted() {
    let place = place();
    if matches!(place, DeviceSpec::Cpu { .. }) {
        return;
    }
    // Whoever makes a device this way has its memory counted, by thread.
    let device = place.make().unwrap();
    assert!(Meter::Device.is_counted());
    let before = Meter::Device.live_bytes();
    let tensor = Tensor::zeros(1 << 20, DType::F32, &device).unwrap();
    assert_eq!(Meter::Device.live_bytes() - before, 4 << 20);
    drop(tensor);
    assert_eq!(Meter::Device.live_bytes(), before);
}
