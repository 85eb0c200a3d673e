//! Optimizers, sums and norms on the device, against formulas in double precision.

use candle_core::{DType, Tensor};
use candle_nn::Init;
use pp_nn::{Gradients, Optimizer, OptimizerKind, ParameterStore, Residue};

use crate::place;

const SIZES: [usize; 3] = [1, 33, 1025];

/// The gradient of element `i` in step `step`.
fn gradient(step: usize, i: usize) -> f64 {
    ((i * 37 + step * 11) as f64).sin() * 0.5
}

/// Adam and `AdamW` by their papers, and SGD.
fn expected(kind: OptimizerKind, start: &[f64], lr: f64, clip: f64, steps: usize) -> Vec<f64> {
    let (beta1, beta2, epsilon) = (0.9f64, 0.999f64, 1e-8);
    let of_element = |(i, &start): (usize, &f64)| {
        let (mut w, mut m, mut v) = (start, 0.0, 0.0);
        for step in 1..=steps {
            let g = gradient(step, i) * clip;
            if let OptimizerKind::AdamW { weight_decay } = kind {
                w -= lr * weight_decay * w;
            }
            if kind == OptimizerKind::Sgd {
                w -= lr * g;
                continue;
            }
            m = beta1 * m + (1.0 - beta1) * g;
            v = beta2 * v + (1.0 - beta2) * g * g;
            let n = i32::try_from(step).unwrap();
            let (m, v) = (m / (1.0 - beta1.powi(n)), v / (1.0 - beta2.powi(n)));
            w -= lr * m / (v.sqrt() + epsilon);
        }
        w
    };
    start.iter().enumerate().map(of_element).collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn every_optimizer_follows_its_formula() {
    let device = place().make().unwrap();
    let kinds =
        [OptimizerKind::Sgd, OptimizerKind::Adam, OptimizerKind::AdamW { weight_decay: 0.1 }];
    for kind in kinds {
        for size in SIZES {
            let store = ParameterStore::seeded(1);
            let builder = store.builder(DType::F32, &device);
            let init = Init::Randn { mean: 0.0, stdev: 1.0 };
            builder.get_with_hints(size, "w", init).unwrap();
            let parameters = store.parameters();
            let weight = parameters[0].var.clone();
            let start = values(weight.as_tensor());
            let mut sums = Gradients::new(parameters).unwrap();
            let mut optimizer = Optimizer::new(kind);
            for step in 1..=4 {
                sums.clear();
                // In two halves, as two micro-batches would give them.
                let half: Vec<f32> = (0..size).map(|i| (gradient(step, i) / 2.0) as f32).collect();
                for _ in 0..2 {
                    let half = Tensor::new(half.as_slice(), &device).unwrap();
                    sums.accumulate(Residue::dense(weight.as_tensor().id(), half)).unwrap();
                }
                let squares: f64 = (0..size).map(|i| gradient(step, i).powi(2)).sum();
                let found = sums.square_sums().unwrap()[0];
                assert!((found - squares).abs() < 1e-5 * squares.max(1e-3), "{found}, {squares}");
                let on_device = sums.square_sums_on_device().unwrap();
                let found = values(&on_device[0])[0];
                assert!((found - squares).abs() < 1e-5 * squares.max(1e-3), "{found}, {squares}");
                optimizer.step(&mut sums, 0.01, 0.5).unwrap();
            }
            let expected = expected(kind, &start, 0.01, 0.5, 4);
            for (at, (found, expected)) in
                values(weight.as_tensor()).iter().zip(&expected).enumerate()
            {
                assert!((found - expected).abs() < 2e-6, "{kind} {size} {at}: {found}, {expected}");
            }
        }
    }
}
