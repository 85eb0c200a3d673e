//! Every kernel against candle's own operations: forward and gradient, sizes that fit no vector,
//! one row, and numbers that are none.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{D, DType, Device, Result, Tensor, Var};
use pp_nn::{
    CausalSelfAttention, Documents, Dropout, ForwardContext, HeadNorm, IGNORED, Linear, Norm,
    ParameterStore, Rotary, RotaryFrequencies, SwiGlu, cross_entropy, gelu, linear_cross_entropy,
    relu,
};

/// What may lie between two ways to compute the same, as a part of the largest number of the
/// tensor.
const TOLERANCE: f32 = 1e-5;

/// Widths below, at and above what a vector, a tile and a block of queries hold.
const WIDTHS: [usize; 5] = [1, 7, 16, 33, 130];
const ROWS: [usize; 4] = [1, 3, 8, 67];

fn values(shape: &[usize], key: u64) -> Vec<f32> {
    let n: usize = shape.iter().product();
    (0..n).map(|i| ((pp_nn::uniform(key, i as u64) * 2.0 - 1.0) * 3.0) as f32).collect()
}

/// What stands at one position of the input.
#[derive(Clone, Copy, Debug)]
enum Special {
    Nothing,
    Nan,
    Infinity,
    MinusInfinity,
}

const SPECIALS: [Special; 4] =
    [Special::Nothing, Special::Nan, Special::Infinity, Special::MinusInfinity];

fn input(shape: &[usize], key: u64, special: Special) -> Var {
    let mut values = values(shape, key);
    let at = values.len() / 2;
    match special {
        Special::Nothing => {}
        Special::Nan => values[at] = f32::NAN,
        Special::Infinity => values[at] = f32::INFINITY,
        Special::MinusInfinity => values[at] = f32::NEG_INFINITY,
    }
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Finite where the reference is, and near it; else the same infinity, or NaN as well.
fn agree(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let (got, want) = (flat(got), flat(want));
    let largest = want.iter().filter(|v| v.is_finite()).fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(&want).enumerate() {
        let same = if w.is_finite() {
            (g - w).abs() <= TOLERANCE * largest
        } else {
            (g.is_nan() && w.is_nan()) || g.to_bits() == w.to_bits()
        };
        assert!(same, "{what}: element {i} is {g}, by the reference {w}");
    }
}

/// Both forwards, and the gradients of `Σ y·c` for some fixed c.
fn check(
    what: &str,
    x: &Var,
    kernel: impl Fn(&Tensor) -> Result<Tensor>,
    reference: impl Fn(&Tensor) -> Result<Tensor>,
) {
    let (y, want) = (kernel(x.as_tensor()).unwrap(), reference(x.as_tensor()).unwrap());
    agree(&format!("{what}, forward"), &y, &want);
    let c = Tensor::from_vec(values(y.dims(), 99), y.dims(), &Device::Cpu).unwrap();
    let gradient = |y: &Tensor| {
        let store = (y * &c).unwrap().sum_all().unwrap().backward().unwrap();
        store.get(x.as_tensor()).unwrap().clone()
    };
    agree(&format!("{what}, gradient"), &gradient(&y), &gradient(&want));
}

fn each_shape(mut f: impl FnMut(usize, usize, Special)) {
    for rows in ROWS {
        for width in WIDTHS {
            for special in SPECIALS {
                f(rows, width, special);
            }
        }
    }
}

#[test]
fn linear() {
    each_shape(|rows, inputs, special| {
        for outputs in [1, 10, 33] {
            let store = ParameterStore::seeded(3);
            let layer =
                Linear::new(inputs, outputs, store.builder(DType::F32, &Device::Cpu)).unwrap();
            let parameters = store.parameters();
            let (weight, bias) = (parameters[0].var.as_tensor(), parameters[1].var.as_tensor());
            let context = ForwardContext::training(1, 1);
            let what = format!("{rows} rows, {inputs} to {outputs}, {special:?}");
            let x = input(&[rows, inputs], 5, special);
            check(
                &what,
                &x,
                |x| layer.forward(x, &context),
                |x| x.matmul(&weight.t()?)?.broadcast_add(bias),
            );
        }
    });
}

#[test]
fn activations() {
    each_shape(|rows, width, special| {
        let x = input(&[rows, width], 6, special);
        let what = format!("{rows} rows of {width}, {special:?}");
        // candle's own turns NaN into 0; PyTorch's and this one keep it.
        let kept = |x: &Tensor| x.le(0f32)?.where_cond(&x.zeros_like()?, x);
        check(&format!("relu, {what}"), &x, relu, kept);
        let dropout = Dropout::new(0.4, 2).unwrap();
        let context = ForwardContext::training(1, 1);
        // The mask on its own, from ones: what it drops is dropped, whatever stood there.
        let ones = Tensor::ones((rows, width), DType::F32, &Device::Cpu).unwrap();
        let mask = dropout.forward(&ones, &context).unwrap();
        let dropped = |x: &Tensor| {
            let zeros = mask.zeros_like()?;
            mask.gt(&zeros)?.where_cond(&(x * &mask)?, &zeros)
        };
        check(&format!("dropout, {what}"), &x, |x| dropout.forward(x, &context), dropped);
        check(
            &format!("relu with dropout, {what}"),
            &x,
            |x| dropout.after_relu().forward(x, &context),
            |x| dropped(&kept(x)?),
        );
        // Of infinities GELU's own formula makes 0·∞ in both directions: the gradient is compared
        // for numbers.
        if !matches!(special, Special::Infinity | Special::MinusInfinity) {
            check(&format!("gelu, {what}"), &x, gelu, Tensor::gelu);
        }
        agree(&format!("gelu, {what}"), &gelu(&x).unwrap(), &x.gelu().unwrap());
    });
}

#[test]
fn layer_norm() {
    each_shape(|rows, width, special| {
        let store = ParameterStore::seeded(3);
        let layer = Norm::layer(width, store.builder(DType::F32, &Device::Cpu)).unwrap();
        for (i, parameter) in store.parameters().iter().enumerate() {
            let values = Tensor::from_vec(values(&[width], i as u64), width, &Device::Cpu).unwrap();
            parameter.var.set(&values).unwrap();
        }
        // A single feature has no deviation: x̂ is 0/√ε, and rounding decides its gradient.
        if width == 1 {
            return;
        }
        let context = ForwardContext::training(1, 1);
        check(
            &format!("{rows} rows of {width}, {special:?}"),
            &input(&[rows, width], 7, special),
            |x| layer.forward(x, &context),
            |x| layer.forward_composed(x),
        );
    });
}

#[test]
fn rms_norm() {
    each_shape(|rows, width, special| {
        let store = ParameterStore::seeded(4);
        // Without it, the gradient of a row of one feature is nothing but rounding.
        let layer = Norm::rms(width, 0.01, store.builder(DType::F32, &Device::Cpu)).unwrap();
        let weight = Tensor::from_vec(values(&[width], 12), width, &Device::Cpu).unwrap();
        store.parameters()[0].var.set(&weight).unwrap();
        let context = ForwardContext::training(1, 1);
        check(
            &format!("{rows} rows of {width}, {special:?}"),
            &input(&[rows, width], 7, special),
            |x| layer.forward(x, &context),
            |x| layer.forward_composed(x),
        );
    });
}

#[test]
fn gated_linear_units() {
    each_shape(|rows, width, special| {
        check(
            &format!("{rows} rows of {width}, {special:?}"),
            &input(&[rows, 2 * width], 9, special),
            |x| SwiGlu.forward(x),
            |x| SwiGlu.forward_composed(x),
        );
    });
    let odd = input(&[2, 3], 9, Special::Nothing);
    assert!(SwiGlu.forward(odd.as_tensor()).unwrap_err().to_string().contains("does not halve"));
}

/// Positions (b, t) of documents of these lengths, one sample after another.
fn documents(b: usize, t: usize, lengths: &[usize]) -> Documents {
    let mut places = Vec::new();
    let mut lengths = lengths.iter().cycle();
    while places.len() < b * t {
        let room = t - places.len() % t;
        let length = room.min(*lengths.next().unwrap());
        places.extend(0..length as u32);
    }
    Documents::from_positions(&Tensor::from_vec(places, (b, t), &Device::Cpu).unwrap()).unwrap()
}

#[test]
fn rotary_embeddings() {
    let frequencies = RotaryFrequencies { theta: 100.0, scaling: None };
    for (b, t, heads, d, rest) in [(1, 1, 1, 2, 0), (2, 7, 3, 6, 5), (1, 40, 2, 16, 16)] {
        let rotary = Rotary::new(heads, d, 40, frequencies).unwrap();
        for documents in [None, Some(documents(b, t, &[3, 1, 20]))] {
            let plain = ForwardContext::training(1, 1);
            let context = match &documents {
                Some(documents) => plain.with_documents(documents.clone()),
                None => plain,
            };
            for special in SPECIALS {
                check(
                    &format!("{b} x {t}, {heads} heads of {d} and {rest}, {special:?}"),
                    &input(&[b, t, heads * d + rest], 10, special),
                    |x| rotary.forward(x, &context),
                    |x| rotary.forward_composed(x, documents.as_ref()),
                );
            }
        }
    }
    let rotary = Rotary::new(1, 2, 4, frequencies).unwrap();
    let long = input(&[1, 5, 2], 10, Special::Nothing);
    let error = rotary.forward(long.as_tensor(), &ForwardContext::evaluation()).unwrap_err();
    assert!(error.to_string().contains("5 positions"), "{error}");
}

/// Heads that share keys and values, and samples packed from documents: against candle's own
/// operations, and against each document by itself.
#[test]
fn grouped_and_packed_attention() {
    for (b, t, heads, pairs, d) in [(1, 1, 2, 1, 1), (2, 7, 6, 3, 5), (1, 70, 9, 3, 8)] {
        let attention = CausalSelfAttention::grouped(heads, pairs).unwrap();
        let shape = [b, t, (heads + 2 * pairs) * d];
        let x = input(&shape, 8, Special::Nothing);
        for documents in [None, Some(documents(b, t, &[3, 1, 40, 2]))] {
            let plain = ForwardContext::training(1, 1);
            let context = match &documents {
                Some(documents) => plain.with_documents(documents.clone()),
                None => plain,
            };
            let what = format!("{b} x {t}, {heads} heads over {pairs} of {d}, {documents:?}");
            check(
                &what,
                &x,
                |x| attention.forward(x, &context),
                |x| attention.forward_composed(x, documents.as_ref()),
            );
            if documents.is_none() {
                continue;
            }
            let whole = attention.forward(x.as_tensor(), &context).unwrap();
            let first = 3.min(t);
            let beginning = |t: &Tensor| t.narrow(0, 0, 1)?.narrow(1, 0, first)?.contiguous();
            let alone = beginning(x.as_tensor()).unwrap();
            let alone = attention.forward(&alone, &ForwardContext::training(1, 1)).unwrap();
            let within = beginning(&whole).unwrap();
            assert_eq!(flat(&within), flat(&alone), "{what}: the bits of a document by itself");
        }
    }
    let error = CausalSelfAttention::grouped(9, 2).unwrap_err().to_string();
    assert!(error.contains("9 heads cannot share 2"), "{error}");
    let context = ForwardContext::training(1, 1).with_documents(documents(1, 4, &[2]));
    let x = input(&[1, 5, 6], 8, Special::Nothing);
    let error = CausalSelfAttention::new(1).forward(x.as_tensor(), &context).unwrap_err();
    assert!(error.to_string().contains("documents of (1, 4)"), "{error}");
}

#[test]
fn head_norms() {
    let (heads, pairs, d) = (4, 2, 6);
    let store = ParameterStore::seeded(4);
    let builder = store.builder(DType::F32, &Device::Cpu);
    let norm = |name: &str| Norm::rms(d, 0.01, builder.pp(name)).unwrap();
    let layer = HeadNorm::new(norm("q"), norm("k"), (heads, pairs, d));
    for (at, parameter) in store.parameters().iter().enumerate() {
        let weight = Tensor::from_vec(values(&[d], 12 + at as u64), d, &Device::Cpu).unwrap();
        parameter.var.set(&weight).unwrap();
    }
    let (q, k) = (norm("q"), norm("k"));
    for special in SPECIALS {
        check(
            &format!("{special:?}"),
            &input(&[2, 5, (heads + 2 * pairs) * d], 7, special),
            |x| layer.forward(x, &ForwardContext::training(1, 1)),
            |x| {
                let one = |i: usize| {
                    let head = x.narrow(2, i * d, d)?;
                    match i {
                        0..4 => q.forward_composed(&head),
                        4..6 => k.forward_composed(&head),
                        _ => Ok(head),
                    }
                };
                Tensor::cat(&(0..8).map(one).collect::<Result<Vec<_>>>()?, 2)
            },
        );
    }
}

/// The loss of a head whose outputs never exist as a whole, against that of the outputs.
#[test]
fn the_loss_of_a_head_whose_outputs_never_exist() {
    for (rows, d, classes) in [(1, 1, 1), (3, 7, 33), (64, 16, 5), (65, 33, 130), (200, 8, 300)] {
        let store = ParameterStore::seeded(4);
        let builder = store.builder(DType::F32, &Device::Cpu);
        let head = Linear::new(d, classes, builder).unwrap();
        let context = ForwardContext::training(1, 1);
        for special in SPECIALS {
            let is_ignored = |r: usize| r % 3 == 1;
            let target = |r: usize| if is_ignored(r) { IGNORED } else { (r * 5 % classes) as u32 };
            let targets: Vec<u32> = (0..rows).map(target).collect();
            let targets = Tensor::from_vec(targets, rows, &Device::Cpu).unwrap();
            let counted: Vec<u32> = (0..rows as u32).filter(|r| !is_ignored(*r as usize)).collect();
            let n = counted.len() as f64;
            let counted = Tensor::new(counted, &Device::Cpu).unwrap();
            let what = format!("{rows} rows of {d} to {classes}, {special:?}");
            // What is no number stands in a row that counts, and then in one that does not.
            for shift in [0, 1] {
                let x = input(&[rows + shift, d], 9, special);
                check(
                    &what,
                    &x,
                    |x| {
                        let x = x.narrow(0, shift, rows)?;
                        linear_cross_entropy(&x, head.weight(), &targets, &context)
                    },
                    |x| {
                        let x = x.narrow(0, shift, rows)?.index_select(&counted, 0)?;
                        let targets = targets.index_select(&counted, 0)?;
                        cross_entropy(&x.matmul(&head.weight().t()?)?, &targets)? * n
                    },
                );
            }
        }
        let wrong = Tensor::full(classes as u32, rows, &Device::Cpu).unwrap();
        let x = input(&[rows, d], 9, Special::Nothing);
        let error = linear_cross_entropy(&x, head.weight(), &wrong, &context).unwrap_err();
        assert!(error.to_string().contains("is not one of"), "{error}");
    }
}

#[test]
fn attention() {
    for (b, t, heads, d) in
        [(1, 1, 1, 1), (2, 7, 3, 5), (1, 33, 2, 16), (2, 67, 1, 33), (1, 130, 2, 8)]
    {
        let attention = CausalSelfAttention::new(heads);
        let context = ForwardContext::training(1, 1);
        let shape = [b, t, 3 * heads * d];
        let what = format!("{b} x {t}, {heads} heads of {d}");
        check(
            &what,
            &input(&shape, 8, Special::Nothing),
            |x| attention.forward(x, &context),
            |x| attention.forward_composed(x, None),
        );
        for special in [Special::Nan, Special::Infinity, Special::MinusInfinity] {
            // The reference multiplies what it masks by 0, so NaN reaches every position there;
            // here it reaches those of its block and later ones. Where both have numbers, they
            // agree, and what is no number doesn't vanish.
            let x = input(&shape, 8, special);
            let got = flat(&attention.forward(x.as_tensor(), &context).unwrap());
            let want = flat(&attention.forward_composed(x.as_tensor(), None).unwrap());
            let mut lost = false;
            for (g, w) in got.iter().zip(&want) {
                assert!(!w.is_finite() || (g - w).abs() <= TOLERANCE * 3.0, "{what}: {g}, {w}");
                lost |= !w.is_finite();
            }
            assert_eq!(lost, got.iter().any(|g| !g.is_finite()), "{what}, {special:?}");
        }
    }
}

#[test]
fn cross_entropies() {
    each_shape(|rows, classes, special| {
        let targets: Vec<u32> = (0..rows).map(|r| (r * 5 % classes) as u32).collect();
        let targets = Tensor::from_vec(targets, rows, &Device::Cpu).unwrap();
        check(
            &format!("{rows} rows of {classes}, {special:?}"),
            &input(&[rows, classes], 9, special),
            |x| cross_entropy(x, &targets),
            |x| {
                let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
                let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
                let picked = shifted.broadcast_sub(&log_sum)?.gather(&targets.unsqueeze(1)?, 1)?;
                picked.mean_all()?.neg()
            },
        );
    });
}
