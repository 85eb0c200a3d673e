//! Every layer against finite differences and against candle's own operations, with the weight
//! gradient computed at once and deferred.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Result, Tensor, TensorId, Var};
use candle_nn::Init;
use pp_nn::{
    CausalSelfAttention, Dropout, Embedding, ForwardContext, Gradients, HeadNorm, IGNORED, Linear,
    Norm, Optimizer, OptimizerKind, ParameterStore, Residue, ResidueQueue, Rotary,
    RotaryFrequencies, SideBySide, SwiGlu, WeightGradient, clip_factor, cross_entropy, gelu,
    global_norm, linear_cross_entropy, relu,
};

fn random(shape: &[usize], key: u64) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> =
        (0..n).map(|i| (pp_nn::uniform(key, i as u64) * 2.0 - 1.0) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Σ y·c for a fixed random c: a scalar whose gradient exercises every element of y.
fn probe(y: &Tensor) -> Tensor {
    (y * random(y.dims(), 99)).unwrap().sum_all().unwrap()
}

/// Central differences of `f` at `var`, a few positions, against `gradient`.
fn check_differences(name: &str, var: &Var, gradient: &Tensor, f: &dyn Fn() -> Tensor) {
    let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
    let got: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
    let scale = got.iter().fold(0.0f32, |m, g| m.max(g.abs())).max(1e-2);
    for i in (0..values.len()).step_by((values.len() / 23).max(1)) {
        let at = |delta: f32| {
            let mut moved = values.clone();
            moved[i] += delta;
            var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
            let y = f().to_scalar::<f32>().unwrap();
            var.set(&Tensor::from_vec(values.clone(), var.shape(), &Device::Cpu).unwrap()).unwrap();
            f64::from(y)
        };
        let h = 5e-3f32;
        let want = (at(h) - at(-h)) / f64::from(2.0 * h);
        let error = (f64::from(got[i]) - want).abs();
        assert!(
            error < 1e-2 * f64::from(scale),
            "{name}[{i}]: {} by backward, {want} by differences",
            got[i]
        );
    }
}

/// Checks the gradients of a layer: of its input, of its parameters at once, and deferred.
fn check(
    name: &str,
    store: &ParameterStore,
    x: Option<&Var>,
    forward: &dyn Fn(&ForwardContext) -> Result<Tensor>,
) {
    let plain = ForwardContext::training(3, 1).for_layer(1);
    let loss = || probe(&forward(&plain).unwrap());
    let grads = loss().backward().unwrap();
    if let Some(x) = x {
        check_differences(&format!("{name} input"), x, grads.get(x.as_tensor()).unwrap(), &loss);
    }

    let queue = ResidueQueue::default();
    let deferred = plain.clone().with_residues(queue.clone());
    let mut sums = Gradients::new(store.parameters()).unwrap();
    for _ in 0..2 {
        let mut rest = probe(&forward(&deferred).unwrap()).backward().unwrap();
        if let Some(x) = x {
            let (a, b) = (grads.get(x.as_tensor()).unwrap(), rest.get(x.as_tensor()).unwrap());
            assert_eq!(
                a.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                b.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            );
        }
        assert!(
            sums.dense_residues(&mut rest).is_empty(),
            "{name}: all weight gradients are deferred"
        );
        for residue in queue.take() {
            assert!(residue.bytes() > 0);
            sums.accumulate(residue).unwrap();
        }
    }
    assert_eq!(sums.missing(), Vec::<&str>::new());
    for parameter in store.parameters() {
        let at_once = grads.get(parameter.var.as_tensor()).unwrap();
        check_differences(&parameter.name, &parameter.var, at_once, &loss);
        let twice = (at_once * 2.0).unwrap();
        close(&parameter.name, sums.get(&parameter.name).unwrap(), &twice, 1e-5);
    }
}

fn close(name: &str, a: &Tensor, b: &Tensor, tolerance: f32) {
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let error = norm(&(a - b).unwrap());
    assert!(error <= tolerance * norm(b).max(1e-3), "{name}: off by {error}, of {}", norm(b));
}

fn store() -> (ParameterStore, candle_nn::VarBuilder<'static>) {
    let store = ParameterStore::seeded(11);
    let builder = store.builder(DType::F32, &Device::Cpu);
    (store, builder)
}

#[test]
fn linear() {
    for (rows, inputs, outputs) in [(1, 3, 5), (7, 5, 1), (6, 17, 9)] {
        let (store, builder) = store();
        let layer = Linear::new(inputs, outputs, builder).unwrap();
        let x = Var::from_tensor(&random(&[rows, inputs], 1)).unwrap();
        check("linear", &store, Some(&x), &|c| layer.forward(x.as_tensor(), c));
        let (w, b) = (&store.parameters()[0].var, &store.parameters()[1].var);
        let reference = x.matmul(&w.t().unwrap()).unwrap().broadcast_add(b).unwrap();
        close(
            "linear",
            &layer.forward(x.as_tensor(), &ForwardContext::evaluation()).unwrap(),
            &reference,
            1e-5,
        );
    }
    let (store, builder) = store();
    let init = Init::Randn { mean: 0.0, stdev: 0.5 };
    let layer = Linear::with_init(4, 3, false, init, builder).unwrap();
    let x = Var::from_tensor(&random(&[2, 3, 4], 1)).unwrap();
    check("linear without bias", &store, Some(&x), &|c| layer.forward(x.as_tensor(), c));
    let error = layer.forward(&random(&[2, 5], 1), &ForwardContext::evaluation()).unwrap_err();
    assert!(error.to_string().contains("4 inputs"), "{error}");
}

#[test]
fn layer_norm() {
    for width in [1, 8, 13] {
        let (store, builder) = store();
        let layer = Norm::layer(width, builder).unwrap();
        let x = Var::from_tensor(&random(&[3, 2, width], 4)).unwrap();
        check("layer norm", &store, Some(&x), &|c| layer.forward(x.as_tensor(), c));
        let y = layer.forward(x.as_tensor(), &ForwardContext::evaluation()).unwrap();
        close("layer norm", &y, &layer.forward_composed(x.as_tensor()).unwrap(), 1e-5);
    }
}

#[test]
fn rms_norm() {
    for width in [1, 8, 13] {
        let (store, builder) = store();
        // Rows near zero would turn too fast for differences.
        let layer = Norm::rms(width, 0.05, builder).unwrap();
        let x = Var::from_tensor(&random(&[3, 2, width], 4)).unwrap();
        check("RMS norm", &store, Some(&x), &|c| layer.forward(x.as_tensor(), c));
    }
}

/// What a block of Llama has in its attention and in its MLP.
#[test]
fn grouped_attention_and_gates() {
    let (store, builder) = store();
    let linear = |inputs, outputs, name: &str| {
        let init = Init::Randn { mean: 0.0, stdev: 0.4 };
        Linear::with_init(inputs, outputs, name == "q", init, builder.pp(name)).unwrap()
    };
    let qkv =
        SideBySide::new(vec![linear(6, 16, "q"), linear(6, 8, "k"), linear(6, 8, "v")]).unwrap();
    let frequencies = RotaryFrequencies { theta: 100.0, scaling: None };
    let norm = |name: &str| Norm::rms(4, 0.05, builder.pp(name)).unwrap();
    let norms = HeadNorm::new(norm("q_norm"), norm("k_norm"), (4, 2, 4));
    let rotary = Rotary::new(6, 4, 5, frequencies).unwrap();
    let attention = CausalSelfAttention::grouped(4, 2).unwrap();
    let gate = SideBySide::new(vec![linear(16, 7, "gate"), linear(16, 7, "up")]).unwrap();
    let x = Var::from_tensor(&random(&[2, 5, 6], 6)).unwrap();
    check("grouped attention", &store, Some(&x), &|c| {
        let qkv = norms.forward(&qkv.forward(x.as_tensor(), c)?, c)?;
        let qkv = rotary.forward(&qkv, c)?;
        SwiGlu.forward(&gate.forward(&attention.forward(&qkv, c)?, c)?)
    });
}

#[test]
fn embedding() {
    let (store, builder) = store();
    let layer = Embedding::new(6, 4, Init::Randn { mean: 0.0, stdev: 1.0 }, builder).unwrap();
    let ids = Tensor::new(&[[0u32, 5, 5], [2, 0, 5]], &Device::Cpu).unwrap();
    check("embedding", &store, None, &|c| layer.forward(&ids, c));
    let bad = Tensor::new(&[6u32], &Device::Cpu).unwrap();
    let error = layer.forward(&bad, &ForwardContext::evaluation()).unwrap_err().to_string();
    assert!(error.contains("id 6") && error.contains("6 rows"), "{error}");
}

#[test]
fn activations_and_dropout() {
    let x = Var::from_tensor(&random(&[5, 9], 2)).unwrap();
    let (none, _) = store();
    check("gelu", &none, Some(&x), &|_| gelu(x.as_tensor()));
    close("gelu", &gelu(x.as_tensor()).unwrap(), &x.gelu().unwrap(), 1e-5);
    let dropout = Dropout::new(0.4, 0).unwrap();
    check("relu", &none, Some(&x), &|_| relu(x.as_tensor()));
    check("dropout", &none, Some(&x), &|c| dropout.forward(x.as_tensor(), c));
}

#[test]
fn attention() {
    for (b, t, h, d) in [(2, 5, 2, 3), (1, 1, 1, 4), (1, 9, 3, 8)] {
        let x = Var::from_tensor(&random(&[b, t, 3 * h * d], 6)).unwrap();
        let layer = CausalSelfAttention::new(h);
        let (none, _) = store();
        check("attention", &none, Some(&x), &|c| layer.forward(x.as_tensor(), c));
        let context = ForwardContext::training(1, 1);
        let (fast, plain) = (
            layer.forward(x.as_tensor(), &context).unwrap(),
            layer.forward_composed(x.as_tensor(), None).unwrap(),
        );
        close("attention", &fast, &plain, 1e-5);
        let gradient = |y: Tensor| probe(&y).backward().unwrap().remove(x.as_tensor()).unwrap();
        close("attention gradient", &gradient(fast), &gradient(plain), 1e-5);
    }
    let error = CausalSelfAttention::new(5)
        .forward(&random(&[1, 2, 12], 1), &ForwardContext::evaluation())
        .unwrap_err();
    assert!(error.to_string().contains("5 heads"), "{error}");
}

#[test]
fn cross_entropy_and_its_gradient() {
    let logits = Var::from_tensor(&random(&[2, 4, 7], 8)).unwrap();
    let targets = Tensor::new(&[[0u32, 6, 3, 3], [1, 2, 0, 6]], &Device::Cpu).unwrap();
    let loss = || cross_entropy(logits.as_tensor(), &targets).unwrap();
    let gradient = loss().backward().unwrap().remove(logits.as_tensor()).unwrap();
    check_differences("cross-entropy", &logits, &gradient, &loss);
    let flat = logits.reshape((8, 7)).unwrap();
    let want = candle_nn::loss::cross_entropy(&flat, &targets.flatten_all().unwrap()).unwrap();
    close("cross-entropy", &loss(), &want, 1e-5);
    let bad = Tensor::new(&[7u32, 0, 0, 0, 0, 0, 0, 0], &Device::Cpu).unwrap();
    assert!(cross_entropy(&flat, &bad).unwrap_err().to_string().contains("target 7"));
}

/// More rows than go through at once, of which some do not count.
#[test]
fn the_loss_of_a_head() {
    let (store, builder) = store();
    let init = Init::Randn { mean: 0.0, stdev: 0.5 };
    let head = Linear::with_init(5, 9, false, init, builder).unwrap();
    let x = Var::from_tensor(&random(&[2, 70, 5], 6)).unwrap();
    let target = |i: u32| if i.is_multiple_of(4) { IGNORED } else { i * 5 % 9 };
    let targets = Tensor::from_vec((0..140).map(target).collect(), (2, 70), &Device::Cpu).unwrap();
    check("head", &store, Some(&x), &|c| {
        linear_cross_entropy(x.as_tensor(), head.weight(), &targets, c)
    });
    // Nothing counts.
    let none = Tensor::full(IGNORED, (2, 70), &Device::Cpu).unwrap();
    let context = ForwardContext::training(1, 1);
    let loss = linear_cross_entropy(x.as_tensor(), head.weight(), &none, &context).unwrap();
    assert_eq!(loss.to_scalar::<f32>().unwrap().to_bits(), 0);
    let gradient = loss.backward().unwrap().remove(x.as_tensor()).unwrap();
    let most = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert_eq!(most.to_bits(), 0);
    let error = linear_cross_entropy(&random(&[2, 4], 1), head.weight(), &none, &context);
    assert!(error.unwrap_err().to_string().contains("a head of 5 features"));
}

#[test]
fn optimizers_agree_with_candles() {
    use candle_nn::Optimizer as _;
    for kind in
        [OptimizerKind::Sgd, OptimizerKind::Adam, OptimizerKind::AdamW { weight_decay: 0.1 }]
    {
        let (store, builder) = store();
        let layer = Linear::new(3, 2, builder).unwrap();
        let ours = store.parameters();
        let theirs: Vec<Var> =
            ours.iter().map(|p| Var::from_tensor(&p.var.copy().unwrap()).unwrap()).collect();
        let x = random(&[4, 3], 2);
        let mut optimizer = Optimizer::new(kind);
        let mut sums = Gradients::new(ours.clone()).unwrap();
        let adam =
            |weight_decay| candle_nn::ParamsAdamW { lr: 0.01, weight_decay, ..Default::default() };
        let mut sgd = candle_nn::SGD::new(theirs.clone(), 0.01).unwrap();
        let decay =
            if let OptimizerKind::AdamW { weight_decay } = kind { weight_decay } else { 0.0 };
        let mut adam = candle_nn::AdamW::new(theirs.clone(), adam(decay)).unwrap();
        for _ in 0..5 {
            sums.clear();
            let y = layer.forward(&x, &ForwardContext::training(0, 1)).unwrap();
            let mut grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            for residue in sums.dense_residues(&mut grads) {
                sums.accumulate(residue).unwrap();
            }
            optimizer.step(&mut sums, 0.01, 1.0).unwrap();
            let y = x.matmul(&theirs[0].t().unwrap()).unwrap().broadcast_add(&theirs[1]).unwrap();
            let loss = y.sqr().unwrap().sum_all().unwrap();
            match kind {
                OptimizerKind::Sgd => sgd.backward_step(&loss).unwrap(),
                _ => adam.backward_step(&loss).unwrap(),
            }
        }
        for (a, b) in ours.iter().zip(&theirs) {
            close(&kind.to_string(), a.var.as_tensor(), b.as_tensor(), 1e-5);
        }
    }
}

#[test]
fn clipping_bounds_the_norm_over_all_parameters() {
    let (store, builder) = store();
    Linear::new(3, 2, builder).unwrap();
    let mut sums = Gradients::new(store.parameters()).unwrap();
    sums.replace(0, Tensor::full(3.0f32, (2, 3), &Device::Cpu).unwrap()).unwrap();
    sums.replace(1, Tensor::full(4.0f32, 2, &Device::Cpu).unwrap()).unwrap();
    let norm = global_norm(sums.square_sums().unwrap());
    assert!((norm - (6.0f64 * 9.0 + 2.0 * 16.0).sqrt()).abs() < 1e-9);
    assert!((f64::from(clip_factor(norm, Some(1.0))) * norm - 1.0).abs() < 1e-6);
    assert_eq!((clip_factor(norm, None), clip_factor(0.5, Some(1.0))), (1.0, 1.0));
}

/// Where there is no kernel of ours (here: numbers of 64 bits; on CUDA devices the same), weight
/// gradients wait all the same.
#[test]
fn weight_gradients_wait_without_kernels_too() {
    let store = ParameterStore::seeded(5);
    let builder = store.builder(DType::F64, &Device::Cpu);
    let init = Init::Randn { mean: 0.0, stdev: 1.0 };
    let embedding = Embedding::new(7, 6, init, builder.pp("embedding")).unwrap();
    let norm = Norm::layer(6, builder.pp("norm")).unwrap();
    let rms = Norm::rms(6, 1e-5, builder.pp("rms")).unwrap();
    let linear = Linear::new(6, 5, builder.pp("linear")).unwrap();
    let head = Linear::with_init(5, 4, false, init, builder.pp("head")).unwrap();
    let ids = Tensor::from_vec(vec![1u32, 6, 1, 0], (2, 2), &Device::Cpu).unwrap();
    let loss = |context: &ForwardContext| {
        let x = embedding.forward(&ids, context).unwrap();
        let x = rms.forward(&norm.forward(&x, context).unwrap(), context).unwrap();
        let y = linear.forward(&x, context).unwrap();
        let weights = random(y.dims(), 9).to_dtype(DType::F64).unwrap();
        let squares = (&y * weights).unwrap().sqr().unwrap().sum_all().unwrap();
        let targets = Tensor::new(&[[3u32, IGNORED], [0, 2]], &Device::Cpu).unwrap();
        let loss = linear_cross_entropy(&y, head.weight(), &targets, context).unwrap();
        (squares + loss).unwrap()
    };
    let plain = ForwardContext::training(1, 1);
    let want = loss(&plain).backward().unwrap();

    let queue = ResidueQueue::default();
    let mut rest = loss(&plain.with_residues(queue.clone())).backward().unwrap();
    let mut sums = Gradients::new(store.parameters()).unwrap();
    assert!(sums.dense_residues(&mut rest).is_empty(), "all weight gradients are put off");
    let residues = queue.take();
    assert_eq!(residues.len(), 5);
    for residue in residues {
        sums.accumulate(residue).unwrap();
    }
    assert_eq!(sums.missing(), Vec::<&str>::new());
    for parameter in store.parameters() {
        let want = want.get(parameter.var.as_tensor()).unwrap();
        let got = sums.get(&parameter.name).unwrap();
        let error = (got - want).unwrap().abs().unwrap().max_all().unwrap();
        let error: f64 = error.to_scalar().unwrap();
        assert!(error < 1e-6, "{}: off by {error}", parameter.name);
    }
}

/// Adds to more parameters than it names.
struct Silent(TensorId);

impl WeightGradient for Silent {
    fn name(&self) -> &'static str {
        "Silent"
    }

    fn bytes(&self) -> usize {
        0
    }

    fn parameters(&self) -> Vec<TensorId> {
        Vec::new()
    }

    fn add_to(self: Box<Self>, sums: &mut Gradients, _: bool) -> Result<()> {
        sums.add(self.0, &Tensor::ones((2, 3), DType::F32, &Device::Cpu)?)
    }
}

#[test]
fn nothing_is_added_to_a_sum_that_others_have() {
    let (store, builder) = store();
    let linear = Linear::new(3, 2, builder).unwrap();
    let mut sums = Gradients::new(store.parameters()).unwrap();
    let queue = ResidueQueue::default();
    let context = ForwardContext::training(0, 1).with_residues(queue.clone());
    let x = Var::from_tensor(&random(&[4, 3], 1)).unwrap();
    linear.forward(&x, &context).unwrap().sum_all().unwrap().backward().unwrap();
    let residues = queue.take();
    let ids: Vec<TensorId> = store.parameters().iter().map(|p| p.var.id()).collect();
    let named: Vec<TensorId> = residues.iter().flat_map(Residue::parameters).collect();
    assert_eq!(named, ids, "a layer names what it adds to");
    for residue in residues {
        sums.accumulate(residue).unwrap();
    }
    assert_eq!(sums.finish(0).unwrap().dims(), [2, 3]);
    let refused = sums.accumulate(Residue::new(Silent(ids[0]))).unwrap_err().to_string();
    assert!(refused.contains("without naming it"), "{refused}");
    assert!(sums.finish(2).unwrap_err().to_string().contains("parameter 2 of 2"));
    sums.clear();
    sums.accumulate(Residue::new(Silent(ids[0]))).unwrap();
}
