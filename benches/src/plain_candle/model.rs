//! `seed-mlp` and `gpt` from what candle and candle-nn have, where that has a backward.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{Dropout, Linear, Module as _, VarBuilder, VarMap, linear, linear_no_bias, ops};

/// Sizes of a job.
pub(crate) struct Job {
    pub(crate) batch: usize,
    pub(crate) micro_batches: usize,
    pub(crate) clip_norm: Option<f64>,
    /// Layers to cut.
    pub(crate) layers: usize,
    /// Where both ranks compute.
    pub(crate) device: Device,
    kind: Kind,
}

enum Kind {
    SeedMlp,
    Gpt,
}

const WIDTHS: [usize; 9] = [100, 1024, 1024, 2048, 2048, 1024, 1024, 512, 10];
const RATES: [f32; 8] = [0.0, 0.3, 0.0, 0.4, 0.0, 0.3, 0.2, 0.0];

const BLOCKS: usize = 8;
const WIDTH: usize = 256;
const HEADS: usize = 8;
const CONTEXT: usize = 128;
const VOCABULARY: usize = 256;

impl Job {
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "seed-mlp" => Some(Self {
                batch: 256,
                micro_batches: 32,
                clip_norm: Some(1.0),
                layers: RATES.len(),
                device: Device::Cpu,
                kind: Kind::SeedMlp,
            }),
            "gpt" => Some(Self {
                batch: 16,
                micro_batches: 8,
                clip_norm: None,
                layers: BLOCKS + 2,
                device: Device::Cpu,
                kind: Kind::Gpt,
            }),
            _ => None,
        }
    }

    /// The inputs of a step.
    pub(crate) fn inputs(&self, step: usize) -> Result<Tensor> {
        match self.kind {
            Kind::SeedMlp => Tensor::randn(0f32, 1f32, (self.batch, WIDTHS[0]), &self.device),
            Kind::Gpt => self.numbers(step, &[self.batch, CONTEXT], VOCABULARY),
        }
    }

    /// The targets of a step.
    pub(crate) fn targets(&self, step: usize) -> Result<Tensor> {
        match self.kind {
            Kind::SeedMlp => self.numbers(step, &[self.batch], WIDTHS[RATES.len()]),
            Kind::Gpt => self.numbers(step + 1, &[self.batch, CONTEXT], VOCABULARY),
        }
    }

    fn numbers(&self, step: usize, shape: &[usize], below: usize) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let numbers: Vec<u32> =
            (0..n).map(|i| ((i * 7919 + step * 104_729) % below) as u32).collect();
        Tensor::from_vec(numbers, shape, &self.device)
    }
}

/// Some layers in a row, and what they train.
pub(crate) struct Stage {
    layers: Vec<Layer>,
    pub(crate) variables: Vec<Var>,
}

enum Layer {
    Dense { linear: Linear, relu: bool, rate: f32 },
    Tokens { token: Tensor, position: Tensor },
    Block(Box<Block>),
    Head { norm: Norm, linear: Linear },
}

struct Block {
    norms: [Norm; 2],
    qkv: Linear,
    proj: Linear,
    fc: Linear,
    mlp_proj: Linear,
}

/// candle-nn's own layer norm runs an op without a backward on such tensors: the same from its
/// parts.
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Stage {
    pub(crate) fn new(job: &Job, layers: Range<usize>) -> Result<Self> {
        let map = VarMap::new();
        let builder = VarBuilder::from_varmap(&map, DType::F32, &job.device);
        let layers = layers
            .map(|i| Layer::new(job, i, &builder.pp(i.to_string())))
            .collect::<Result<_>>()?;
        Ok(Self { layers, variables: map.all_vars() })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x))
    }
}

impl Layer {
    fn new(job: &Job, i: usize, builder: &VarBuilder<'_>) -> Result<Self> {
        match job.kind {
            Kind::SeedMlp => Ok(Self::Dense {
                linear: linear(WIDTHS[i], WIDTHS[i + 1], builder.clone())?,
                relu: i + 1 < job.layers,
                rate: RATES[i],
            }),
            Kind::Gpt if i == 0 => Ok(Self::Tokens {
                token: builder.get_with_hints(
                    (VOCABULARY, WIDTH),
                    "token",
                    candle_nn::init::DEFAULT_KAIMING_NORMAL,
                )?,
                position: builder.get_with_hints(
                    (CONTEXT, WIDTH),
                    "position",
                    candle_nn::init::DEFAULT_KAIMING_NORMAL,
                )?,
            }),
            Kind::Gpt if i + 1 == job.layers => Ok(Self::Head {
                norm: Norm::new(&builder.pp("norm"))?,
                linear: linear_no_bias(WIDTH, VOCABULARY, builder.pp("linear"))?,
            }),
            Kind::Gpt => Ok(Self::Block(Box::new(Block {
                norms: [Norm::new(&builder.pp("ln1"))?, Norm::new(&builder.pp("ln2"))?],
                qkv: linear(WIDTH, 3 * WIDTH, builder.pp("qkv"))?,
                proj: linear(WIDTH, WIDTH, builder.pp("proj"))?,
                fc: linear(WIDTH, 4 * WIDTH, builder.pp("fc"))?,
                mlp_proj: linear(4 * WIDTH, WIDTH, builder.pp("mlp_proj"))?,
            }))),
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense { linear, relu, rate } => {
                let mut x = linear.forward(x)?;
                if *relu {
                    x = x.relu()?;
                }
                if *rate > 0.0 { Dropout::new(*rate).forward(&x, true) } else { Ok(x) }
            }
            Self::Tokens { token, position } => {
                let (b, t) = x.dims2()?;
                let tokens = token.index_select(&x.flatten_all()?, 0)?.reshape((b, t, WIDTH))?;
                tokens.broadcast_add(&position.narrow(0, 0, t)?)
            }
            Self::Block(block) => block.forward(x),
            Self::Head { norm, linear } => linear.forward(&norm.forward(x)?),
        }
    }
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, w) = x.dims3()?;
        let d = w / HEADS;
        let qkv = self.qkv.forward(&self.norms[0].forward(x)?)?;
        let part = |i: usize| {
            qkv.narrow(2, i * w, w)?.reshape((b, t, HEADS, d))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))?;
        let mask: Vec<f32> =
            (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (t, t), x.device())?)?;
        let mixed = ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        let mixed = mixed.transpose(1, 2)?.reshape((b, t, w))?;
        let x = (x + self.proj.forward(&mixed)?)?;
        let hidden = self.fc.forward(&self.norms[1].forward(&x)?)?.gelu()?;
        &x + self.mlp_proj.forward(&hidden)?
    }
}

impl Norm {
    fn new(builder: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: builder.get_with_hints(WIDTH, "weight", candle_nn::Init::Const(1.0))?,
            bias: builder.get_with_hints(WIDTH, "bias", candle_nn::Init::Const(0.0))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normal = centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
        normal.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}
