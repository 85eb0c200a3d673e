//! A chain against its layers under candle's autograd: the same bits of outputs and of every
//! gradient.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use pp_nn::{
    Activation, CausalSelfAttention, Chain, ChainLayer, ChainPass, Documents, Dropout,
    ForwardContext, Gradients, HeadNorm, Kernel, Kernels, Linear, Norm, PackedWeights,
    ParameterStore, ResidueQueue, Rotary, RotaryFrequencies, SideBySide, SwiGlu,
};

const WIDTH: usize = 12;

fn values(shape: &[usize], key: u64) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> =
        (0..n).map(|i| (pp_nn::uniform(key, i as u64) * 2.0 - 1.0) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    // Sums that autograd begins with a zero have no −0.
    values.iter().map(|v| (v + 0.0).to_bits()).collect()
}

/// Output, gradient of the input, and gradients of all parameters.
type Found = (Vec<u32>, Option<Vec<u32>>, BTreeMap<String, Vec<u32>>);

/// `forward` of the same input, backward from the same gradient.
fn found(
    store: &ParameterStore,
    is_batch: bool,
    kernels: Kernels,
    forward: impl Fn(&Tensor, &ForwardContext) -> Tensor,
) -> Found {
    let queue = ResidueQueue::default();
    let context = ForwardContext::training(3, 1)
        .with_kernels(kernels)
        .with_packed_weights(PackedWeights::default())
        .with_residues(queue.clone());
    let x = Var::from_tensor(&values(&[2, 5, WIDTH], 1)).unwrap();
    let x = if is_batch { x.as_tensor().detach() } else { x.as_tensor().clone() };
    let y = forward(&x, &context);
    let gy = values(y.dims(), 2);
    let store_of = (&y * &gy).unwrap().sum_all().unwrap().backward().unwrap();
    let mut gradients = Gradients::new(store.parameters()).unwrap();
    for residue in queue.take() {
        gradients.accumulate(residue).unwrap();
    }
    let of_parameters = gradients
        .finished()
        .unwrap()
        .map(|(parameter, sum)| (parameter.name.clone(), bits(sum)))
        .collect();
    // Nobody asks for the gradient of the batch, though candle computes a part of it.
    let of_input = store_of.get(&x).filter(|_| !is_batch).map(bits);
    assert!(is_batch || of_input.is_some());
    (bits(&y), of_input, of_parameters)
}

/// All kinds of layers: residual paths in a row and inside of each other, dropout that is active
/// and one that is not, a rectifier and GELU, a path that changes nothing, weights without bias.
fn layers(store: &ParameterStore) -> Vec<Chain> {
    let at = |name: &str| store.builder(DType::F32, &Device::Cpu).pp(name);
    let linear = |i, o, name: &str| Linear::new(i, o, at(name)).unwrap();
    let norm = |name: &str| Norm::layer(WIDTH, at(name)).unwrap();
    let dropout = |rate, site| Dropout::new(rate, site).unwrap();
    let attention = Chain::new()
        .then(norm("norm1"))
        .then(linear(WIDTH, 3 * WIDTH, "qkv"))
        .then(CausalSelfAttention::new(3))
        .then(linear(WIDTH, WIDTH, "proj"))
        .then(dropout(0.0, 0));
    let mlp = Chain::new()
        .then(norm("norm2"))
        .then(linear(WIDTH, 300, "up"))
        .then(Activation::Gelu)
        .then(linear(300, WIDTH, "down"))
        .then(dropout(0.3, 1));
    let nested = Chain::new()
        .then(linear(WIDTH, WIDTH, "nested"))
        .residual(Chain::new().then(Activation::Relu))
        .residual(
            Chain::new()
                .then(Activation::Gelu)
                .residual(Chain::new().then(linear(WIDTH, WIDTH, "deeper"))),
        );
    vec![
        Chain::new().residual(attention).residual(mlp),
        Chain::new().then(dropout(0.0, 2)),
        Chain::new().residual(Chain::new().then(dropout(0.0, 2))),
        nested,
        Chain::new().then(linear(WIDTH, 7, "relu")).then(dropout(0.4, 3).after_relu()),
        Chain::new().then(Activation::Relu).then(linear(7, 7, "head")).then(Activation::Gelu),
    ]
}

/// Each layer by itself, under candle's autograd.
fn one_by_one(chains: &[Chain], x: &Tensor, context: &ForwardContext) -> Tensor {
    chains.iter().fold(x.clone(), |x, chain| ChainLayer::forward(chain, &x, context).unwrap())
}

fn as_one(chains: &[Chain], x: &Tensor, context: &ForwardContext) -> Tensor {
    let mut pass = ChainPass::new(x).unwrap();
    for chain in chains {
        pass.run(chain, context).unwrap();
    }
    pass.finish().unwrap()
}

#[test]
fn a_chain_has_the_bits_of_its_layers_under_autograd() {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        let kernels = Kernels::all(kernel);
        for is_batch in [false, true] {
            let store = ParameterStore::seeded(5);
            let chains = layers(&store);
            let want = found(&store, is_batch, kernels, |x, c| one_by_one(&chains, x, c));
            let each = found(&store, is_batch, kernels, |x, c| {
                chains.iter().fold(x.clone(), |x, chain| chain.forward(&x, c).unwrap())
            });
            let got = found(&store, is_batch, kernels, |x, c| as_one(&chains, x, c));
            assert!(want.2.values().all(|gradient| gradient.iter().any(|&bits| bits != 0)));
            for found in [each, got] {
                assert_eq!(found.0, want.0, "{kernel}: output");
                assert_eq!(found.1, want.1, "{kernel}: gradient of the input");
                assert_eq!(found.2, want.2, "{kernel}: gradients of parameters");
            }
        }
    }
}

/// A block of Llama: norms without a mean, queries, keys and values of weights of their own, two
/// heads that share one of keys and values, and a gate.
fn llama_block(store: &ParameterStore) -> Vec<Chain> {
    let at = |name: &str| store.builder(DType::F32, &Device::Cpu).pp(name);
    let linear = |i, o, name: &str| Linear::new(i, o, at(name)).unwrap();
    let beside = |layers| SideBySide::new(layers).unwrap();
    let frequencies = RotaryFrequencies { theta: 100.0, scaling: None };
    let norm = |name: &str| Norm::rms(4, 1e-5, at(name)).unwrap();
    let attention = Chain::new()
        .then(Norm::rms(WIDTH, 1e-5, at("norm1")).unwrap())
        .then(beside(vec![linear(WIDTH, 16, "q"), linear(WIDTH, 8, "k"), linear(WIDTH, 8, "v")]))
        .then(HeadNorm::new(norm("q_norm"), norm("k_norm"), (4, 2, 4)))
        .then(Rotary::new(6, 4, 5, frequencies).unwrap())
        .then(CausalSelfAttention::grouped(4, 2).unwrap())
        .then(linear(16, WIDTH, "o"));
    let mlp = Chain::new()
        .then(Norm::rms(WIDTH, 1e-5, at("norm2")).unwrap())
        .then(beside(vec![linear(WIDTH, 9, "gate"), linear(WIDTH, 9, "up")]))
        .then(SwiGlu)
        .then(linear(9, WIDTH, "down"));
    vec![Chain::new().residual(attention).residual(mlp)]
}

#[test]
fn a_block_of_llama_in_a_chain_has_the_gradients_of_its_layers_under_autograd() {
    let positions = Tensor::new(&[[0u32, 1, 2, 0, 1], [0, 0, 1, 2, 3]], &Device::Cpu).unwrap();
    let documents = Documents::from_positions(&positions).unwrap();
    for is_packed in [false, true] {
        let context = |c: &ForwardContext| {
            if is_packed { c.clone().with_documents(documents.clone()) } else { c.clone() }
        };
        let kernels = Kernels::default();
        let store = ParameterStore::seeded(5);
        let chains = llama_block(&store);
        let want = found(&store, false, kernels, |x, c| one_by_one(&chains, x, &context(c)));
        let got = found(&store, false, kernels, |x, c| as_one(&chains, x, &context(c)));
        assert_eq!(got.0, want.0, "output");
        assert!(want.2.len() == 11 + 7 && want.2.values().all(|g| g.iter().any(|&bits| bits != 0)));
        // Three paths begin at one tensor: candle adds their gradients in another order.
        let near = |got: &[u32], want: &[u32]| {
            let of = |bits: &[u32]| bits.iter().map(|&b| f32::from_bits(b)).collect::<Vec<_>>();
            let (got, want) = (of(got), of(want));
            let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-5 * largest)
        };
        assert!(near(&got.1.unwrap(), &want.1.unwrap()), "gradient of the input");
        for (name, want) in &want.2 {
            assert!(near(&got.2[name], want), "{name}");
        }
    }
}

#[test]
fn the_graph_of_a_chain_is_walked_once() {
    let store = ParameterStore::seeded(5);
    let chains = layers(&store);
    let context = ForwardContext::training(3, 1).with_residues(ResidueQueue::default());
    let x = Var::from_tensor(&values(&[2, 5, WIDTH], 1)).unwrap();
    let y = as_one(&chains, x.as_tensor(), &context).sum_all().unwrap();
    y.backward().unwrap();
    let error = y.backward().unwrap_err().to_string();
    assert!(error.contains("walked twice"), "{error}");
}

#[test]
fn a_chain_without_residues_or_with_other_numbers_leaves_gradients_to_candle() {
    let store = ParameterStore::seeded(5);
    let builder = store.builder(DType::F64, &Device::Cpu);
    let chain = Chain::new().residual(
        Chain::new()
            .then(Norm::layer(WIDTH, builder.pp("norm")).unwrap())
            .then(Linear::new(WIDTH, WIDTH, builder.pp("linear")).unwrap())
            .then(Activation::Gelu),
    );
    let x = Var::from_tensor(&values(&[2, WIDTH], 1).to_dtype(DType::F64).unwrap()).unwrap();
    let y = chain.forward(x.as_tensor(), &ForwardContext::training(1, 1)).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(x.as_tensor()).is_some());
    for parameter in store.parameters() {
        assert!(gradients.get(parameter.var.as_tensor()).is_some(), "{}", parameter.name);
    }
}

#[test]
fn shapes_that_do_not_fit_are_told() {
    let store = ParameterStore::seeded(5);
    let at = |name: &str| store.builder(DType::F32, &Device::Cpu).pp(name);
    let context = ForwardContext::training(1, 1).with_residues(ResidueQueue::default());
    let x = values(&[2, WIDTH], 1);
    let refused = |chain: Chain, what: &str| {
        let error = chain.forward(&x, &context).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(Chain::new().then(Linear::new(5, 4, at("a")).unwrap()), "a linear layer of 5 inputs");
    refused(Chain::new().then(Norm::layer(5, at("b")).unwrap()), "a norm of 5 features");
    let narrower = Chain::new().then(Linear::new(WIDTH, 4, at("c")).unwrap());
    refused(Chain::new().residual(narrower), "cannot be added");
}
