//! Multi-layer perceptrons: the notebook's, and one on real data.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use pp_nn::{Chain, Dropout, Linear, hash, uniform};
use pp_partition::{LayerStack, chain};

use crate::data::{DataSet, Samples};
use crate::error::ModelError;
use crate::job::{Classes, Job};
use crate::wine::Wine;

/// One layer to cut: a linear map, then ReLU and dropout unless it is the last.
struct Dense {
    inputs: usize,
    outputs: usize,
    dropout: f64,
}

/// Floating-point operations that training on one sample needs: 6 for each weight.
fn flops(layers: &[Dense]) -> u64 {
    layers.iter().map(|layer| 6 * layer.inputs as u64 * layer.outputs as u64).sum()
}

fn stack(layers: Vec<Dense>) -> std::result::Result<LayerStack, ModelError> {
    let mut stack = LayerStack::default();
    let last = layers.len() - 1;
    for (i, Dense { inputs, outputs, dropout }) in layers.into_iter().enumerate() {
        let dropout = Dropout::new(dropout, 0)?;
        let name = format!("layers.{i}");
        stack.push(name.clone(), move |builder| {
            let linear = Chain::new().then(Linear::new(inputs, outputs, builder.pp(&name))?);
            Ok(chain(if i == last { linear } else { linear.then(dropout.after_relu()) }))
        });
    }
    Ok(stack)
}

/// The notebook's classifier: 8 layers, 11.1 M parameters, random inputs and labels.
///
/// `dropout` replaces the rates of all its four places.
///
/// # Errors
/// If the rate is not in `[0, 1)`.
pub fn seed_mlp(dropout: Option<f64>, seed: u64) -> std::result::Result<Job, ModelError> {
    let dense = |inputs, outputs, rate: f64| {
        let dropout = if rate > 0.0 { dropout.unwrap_or(rate) } else { 0.0 };
        Dense { inputs, outputs, dropout }
    };
    let layers = vec![
        dense(100, 1024, 0.0),
        dense(1024, 1024, 0.3),
        dense(1024, 2048, 0.0),
        dense(2048, 2048, 0.4),
        dense(2048, 1024, 0.0),
        dense(1024, 1024, 0.3),
        dense(1024, 512, 0.2),
        dense(512, 10, 0.0),
    ];
    Ok(Job {
        flops_per_sample: flops(&layers),
        stack: stack(layers)?,
        objective: Arc::new(Classes),
        data: Box::new(Noise { seed }),
    })
}

/// A classifier of wines by quality: 4 layers on 11 measured properties.
///
/// # Errors
/// If the rate is not in `[0, 1)`.
pub fn wine_mlp(dropout: Option<f64>, seed: u64) -> std::result::Result<Job, ModelError> {
    let data = Wine::load(seed);
    let rate = dropout.unwrap_or(0.2);
    let (width, classes) = (64, data.n_classes());
    let layers = vec![
        Dense { inputs: data.n_features(), outputs: width, dropout: rate },
        Dense { inputs: width, outputs: width, dropout: rate },
        Dense { inputs: width, outputs: width, dropout: rate },
        Dense { inputs: width, outputs: classes, dropout: 0.0 },
    ];
    Ok(Job {
        flops_per_sample: flops(&layers),
        stack: stack(layers)?,
        objective: Arc::new(Classes),
        data: Box::new(data),
    })
}

/// Inputs (b, 100) and labels 0..9 that have nothing to do with each other, new in every step.
struct Noise {
    seed: u64,
}

impl DataSet for Noise {
    fn batch(&self, step: u64, size: usize) -> Result<Samples> {
        const FEATURES: usize = 100;
        let key = hash(&[self.seed, step, 0]);
        // The sum of four uniform numbers, scaled to variance 1, is normal enough for noise.
        let x = (0..size * FEATURES)
            .map(|i| {
                let sum: f64 = (0..4).map(|j| uniform(key, 4 * i as u64 + j)).sum();
                ((sum - 2.0) * 3f64.sqrt()) as f32
            })
            .collect();
        let key = hash(&[self.seed, step, 1]);
        let labels = (0..size as u64).map(|i| (uniform(key, i) * 10.0) as u32).collect();
        Ok((
            vec![Tensor::from_vec::<_, f32>(x, (size, FEATURES), &Device::Cpu)?],
            Tensor::from_vec::<_, u32>(labels, size, &Device::Cpu)?,
        ))
    }

    fn blind_loss(&self) -> Option<f64> {
        Some(10_f64.ln())
    }

    fn is_learnable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_six_operations_for_each_weight() {
        let dense = |inputs, outputs| Dense { inputs, outputs, dropout: 0.0 };
        assert_eq!(flops(&[dense(3, 5), dense(5, 2)]), 6 * (15 + 10));
    }
}
