//! Multi-layer perceptrons: the notebook's, and one on real data.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use pp_nn::{
    Chain, Dropout, LearningRate, LearningRateCurve, Linear, OptimizerKind, hash, uniform,
};
use pp_partition::{Cut, LayerStack, chain};
use pp_train::{BoxError, Classes, DataSet, Defaults, Job, Samples, Topology, Workload};

use crate::error::ModelError;
use crate::model::{Group, Kind, Model, ModelOption, Preset};
use crate::wine::Wine;

/// The option for the dropout rate, which several models have.
pub(crate) const DROPOUT: ModelOption = ModelOption {
    name: "dropout",
    value_name: "RATE",
    help: "Dropout rate, in every place where the model has one",
    kind: Kind::Rate,
    group: Group::Model,
};

/// The dropout rates of the notebook.
const SEED_RATES: [f64; 4] = [0.3, 0.4, 0.3, 0.2];
/// The default dropout rate of the classifier of wines.
const WINE_RATE: f64 = 0.2;
/// Classes that labels of noise are drawn from.
const SEED_CLASSES: usize = 10;
const SEED_FEATURES: usize = 100;

/// The notebook's classifier as a model with a name.
pub static SEED_MLP: Model = Model {
    name: "seed-mlp",
    about: "The notebook's classifier of noise: 8 layers, 11.1 M parameters",
    defaults: Defaults {
        steps: 50,
        batch_size: Some(256),
        micro_batches: 32,
        rate: LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 },
        optimizer: OptimizerKind::Adam,
        clip_norm: None,
        eval_every: None,
        cut: Cut::Time,
    },
    options: &[DROPOUT],
    own_defaults: || {
        let rates = SEED_RATES.map(|rate| rate.to_string().trim_start_matches('0').to_owned());
        format!("dropout {} in its four places", rates.join(" "))
    },
    make: |options| Ok(Arc::new(SeedMlp { dropout: options.rate("dropout") })),
};

/// The notebook's experiment.
pub static SEED_PRESET: Preset =
    Preset { model: &SEED_MLP, lr_step: 20, lr_gamma: 0.5, clip_norm: 1.0, log_every: 10 };

/// The classifier of wines as a model with a name.
pub static WINE_MLP: Model = Model {
    name: "wine-mlp",
    about: "A classifier of real wines: 4 layers",
    defaults: Defaults {
        steps: 600,
        batch_size: Some(64),
        micro_batches: 8,
        rate: LearningRate { peak: 3e-3, curve: LearningRateCurve::Cosine, warmup: 20 },
        optimizer: OptimizerKind::Adam,
        clip_norm: None,
        eval_every: Some(100),
        cut: Cut::Time,
    },
    options: &[DROPOUT],
    own_defaults: || format!("--dropout {WINE_RATE}"),
    make: |options| Ok(Arc::new(WineMlp { dropout: options.rate("dropout") })),
};

/// The notebook's classifier.
#[derive(Clone, Copy, Debug, Default)]
pub struct SeedMlp {
    /// The dropout rate of all four places; `None` takes the notebook's four rates.
    pub dropout: Option<f64>,
}

impl Workload for SeedMlp {
    fn name(&self) -> &str {
        SEED_MLP.name
    }

    fn defaults(&self) -> Defaults {
        SEED_MLP.defaults.clone()
    }

    fn layers(&self) -> Option<usize> {
        Some(8)
    }

    fn job(&self, seed: u64, _: &Topology) -> std::result::Result<Job, BoxError> {
        Ok(seed_mlp(self.dropout, seed)?)
    }

    fn bytes_per_sample(&self) -> u64 {
        4 * (SEED_FEATURES as u64 + 1)
    }

    /// Samples are random: more of them cost time and show nothing new.
    fn samples_max(&self) -> Option<u64> {
        Some(65_536)
    }
}

/// The classifier of wines.
#[derive(Clone, Copy, Debug, Default)]
pub struct WineMlp {
    /// The dropout rate; `None` takes the default.
    pub dropout: Option<f64>,
}

impl Workload for WineMlp {
    fn name(&self) -> &str {
        WINE_MLP.name
    }

    fn defaults(&self) -> Defaults {
        WINE_MLP.defaults.clone()
    }

    fn layers(&self) -> Option<usize> {
        Some(4)
    }

    fn job(&self, seed: u64, _: &Topology) -> std::result::Result<Job, BoxError> {
        Ok(wine_mlp(self.dropout, seed)?)
    }

    fn bytes_per_sample(&self) -> u64 {
        // Eleven properties and a class.
        4 * (11 + 1)
    }
}

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
    let [first, second, third, fourth] = SEED_RATES;
    let layers = vec![
        dense(SEED_FEATURES, 1024, 0.0),
        dense(1024, 1024, first),
        dense(1024, 2048, 0.0),
        dense(2048, 2048, second),
        dense(2048, 1024, 0.0),
        dense(1024, 1024, third),
        dense(1024, 512, fourth),
        dense(512, SEED_CLASSES, 0.0),
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
    let rate = dropout.unwrap_or(WINE_RATE);
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
        let key = hash(&[self.seed, step, 0]);
        // The sum of four uniform numbers, scaled to variance 1, is normal enough for noise.
        let x = (0..size * SEED_FEATURES)
            .map(|i| {
                let sum: f64 = (0..4).map(|j| uniform(key, 4 * i as u64 + j)).sum();
                ((sum - 2.0) * 3f64.sqrt()) as f32
            })
            .collect();
        let key = hash(&[self.seed, step, 1]);
        let labels =
            (0..size as u64).map(|i| (uniform(key, i) * SEED_CLASSES as f64) as u32).collect();
        Ok((
            vec![Tensor::from_vec::<_, f32>(x, (size, SEED_FEATURES), &Device::Cpu)?],
            Tensor::from_vec::<_, u32>(labels, size, &Device::Cpu)?,
        ))
    }

    fn blind_loss(&self) -> Option<f64> {
        Some((SEED_CLASSES as f64).ln())
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

    #[test]
    fn what_is_said_of_them_before_is_what_they_are() {
        let seed = seed_mlp(None, 1).unwrap();
        assert_eq!(SeedMlp::default().layers(), Some(seed.stack.len()));
        let wine = wine_mlp(None, 1).unwrap();
        assert_eq!(WineMlp::default().layers(), Some(wine.stack.len()));
        for (workload, job) in
            [(&SeedMlp::default() as &dyn Workload, seed), (&WineMlp::default(), wine)]
        {
            let (inputs, targets) = job.data.batch(1, 8).unwrap();
            let n = inputs.iter().chain([&targets]).map(Tensor::elem_count).sum::<usize>();
            assert_eq!(workload.bytes_per_sample(), (4 * n / 8) as u64, "{}", workload.name());
        }
    }
}
