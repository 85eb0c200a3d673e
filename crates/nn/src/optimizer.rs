//! SGD, Adam and AdamW, in place.

use std::fmt;
use std::str::FromStr;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use crate::cpu;
use crate::gradients::{Gradients, in_place};

/// β₁, β₂ and ε of Adam, as the paper and PyTorch have them.
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Which rule turns a gradient into a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptimizerKind {
    /// `w −= lr·g`.
    Sgd,
    /// Kingma, Ba 2015, arXiv:1412.6980, algorithm 1.
    Adam,
    /// Loshchilov, Hutter 2019, arXiv:1711.05101: Adam, and `w −= lr·decay·w` beside it.
    AdamW {
        /// The decay; PyTorch's default is 0.01.
        weight_decay: f64,
    },
}

impl FromStr for OptimizerKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "sgd" => Ok(Self::Sgd),
            "adam" => Ok(Self::Adam),
            "adamw" => Ok(Self::AdamW { weight_decay: 0.01 }),
            _ => Err(format!("unknown optimizer '{text}': sgd, adam or adamw")),
        }
    }
}

impl fmt::Display for OptimizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sgd => "sgd",
            Self::Adam => "adam",
            Self::AdamW { .. } => "adamw",
        })
    }
}

/// The state of one stage's optimizer.
#[derive(Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    step: i32,
    /// First and second moments of each parameter, (2, elements); empty for SGD.
    moments: Vec<Tensor>,
}

/// The numbers of one step.
#[derive(Clone, Copy)]
struct Rates {
    lr: f32,
    /// What the gradient is multiplied with first.
    clip: f32,
    /// `lr / (1 − β₁ᵗ)`.
    step_size: f32,
    /// `1 / √(1 − β₂ᵗ)`.
    root: f32,
    /// `1 − lr·decay`.
    keep: f32,
}

impl Optimizer {
    /// An optimizer that has made no step.
    pub fn new(kind: OptimizerKind) -> Self {
        Self { kind, step: 0, moments: Vec::new() }
    }

    /// Bytes of the state.
    pub fn bytes(&self) -> usize {
        self.moments.iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
    }

    /// Changes each parameter of `gradients` by its sum times `clip`, at learning rate `lr`.
    ///
    /// # Errors
    /// If a kernel fails.
    pub fn step(&mut self, gradients: &mut Gradients, lr: f64, clip: f32) -> Result<()> {
        self.step += 1;
        let decay =
            if let OptimizerKind::AdamW { weight_decay } = self.kind { weight_decay } else { 0.0 };
        let rates = Rates {
            lr: lr as f32,
            clip,
            step_size: (lr / (1.0 - BETA1.powi(self.step))) as f32,
            root: (1.0 / (1.0 - BETA2.powi(self.step)).sqrt()) as f32,
            keep: (1.0 - lr * decay) as f32,
        };
        for (i, (parameter, gradient)) in gradients.finished()?.enumerate() {
            let weight = parameter.var.as_tensor();
            if self.kind == OptimizerKind::Sgd {
                if in_place(weight) {
                    weight.inplace_op2(gradient, &SgdOp(rates))?;
                } else {
                    let change = (gradient * f64::from(rates.lr * rates.clip))?;
                    parameter.var.set(&(weight - change)?)?;
                }
                continue;
            }
            if self.moments.len() == i {
                self.moments.push(Tensor::zeros(
                    (2, weight.elem_count()),
                    weight.dtype(),
                    weight.device(),
                )?);
            }
            if in_place(weight) {
                self.moments[i].inplace_op2(gradient, &MomentsOp(rates))?;
                weight.inplace_op2(&self.moments[i], &AdamOp(rates))?;
            } else {
                let g = (gradient.flatten_all()? * f64::from(clip))?;
                let (m, v) = (self.moments[i].get(0)?, self.moments[i].get(1)?);
                let m = ((m * BETA1)? + (&g * (1.0 - BETA1))?)?;
                let v = ((v * BETA2)? + (g.sqr()? * (1.0 - BETA2))?)?;
                let denominator = ((v.sqrt()? * f64::from(rates.root))? + EPSILON)?;
                let change =
                    ((&m / denominator)? * f64::from(rates.step_size))?.reshape(weight.shape())?;
                parameter.var.set(&((weight * f64::from(rates.keep))? - change)?)?;
                self.moments[i] = Tensor::stack(&[m, v], 0)?;
            }
        }
        Ok(())
    }
}

struct SgdOp(Rates);

impl InplaceOp2 for SgdOp {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        wl: &Layout,
        source: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let Rates { lr, clip, .. } = self.0;
        let gradient: &[f32] = cpu::slice(source, layout)?;
        for (w, &g) in cpu::slice_mut(weight, wl)?.iter_mut().zip(gradient) {
            *w -= lr * (clip * g);
        }
        Ok(())
    }
}

/// `m = β₁·m + (1−β₁)·g`, `v = β₂·v + (1−β₂)·g²`.
struct MomentsOp(Rates);

impl InplaceOp2 for MomentsOp {
    fn name(&self) -> &'static str {
        "adam moments"
    }

    fn cpu_fwd(
        &self,
        moments: &mut CpuStorage,
        ml: &Layout,
        source: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (b1, b2, clip) = (BETA1 as f32, BETA2 as f32, self.0.clip);
        let (c1, c2) = ((1.0 - BETA1) as f32, (1.0 - BETA2) as f32);
        let gradient: &[f32] = cpu::slice(source, layout)?;
        let (m, v) = cpu::slice_mut(moments, ml)?.split_at_mut(gradient.len());
        for ((m, v), &g) in m.iter_mut().zip(v).zip(gradient) {
            let g = clip * g;
            *m = b1 * *m + c1 * g;
            *v = b2 * *v + c2 * (g * g);
        }
        Ok(())
    }
}

/// `w = keep·w − step_size · m / (√v·root + ε)`.
struct AdamOp(Rates);

impl InplaceOp2 for AdamOp {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        wl: &Layout,
        source: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let Rates { step_size, root, keep, .. } = self.0;
        let weight = cpu::slice_mut(weight, wl)?;
        let (m, v) = cpu::slice::<f32>(source, layout)?.split_at(weight.len());
        for (w, (m, v)) in weight.iter_mut().zip(m.iter().zip(v)) {
            *w = keep * *w - step_size * m / (v.sqrt() * root + EPSILON as f32);
        }
        Ok(())
    }
}
