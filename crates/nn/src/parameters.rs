//! Parameters that a rank owns: created by name, from a seed, one layer at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::random;

/// One trained tensor.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Full name, in PyTorch's manner: `layers.0.weight`.
    pub name: String,
    /// The trained value.
    pub var: Var,
}

/// Initial values of parameters, by name: from memory, or from a file that is read one tensor at a
/// time.
pub trait Values: Send + Sync + std::fmt::Debug {
    /// The value of a parameter, on the CPU; `None` if there is none of this name.
    ///
    /// # Errors
    /// If it cannot be read.
    fn value(&self, name: &str) -> Result<Option<Tensor>>;
}

impl Values for BTreeMap<String, Tensor> {
    fn value(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.get(name).cloned())
    }
}

/// Parameters that are one and stand in two places: from the name of the second place to that of the
/// first.
pub type Ties = BTreeMap<String, String>;

/// Makes parameters when layers ask for them, and remembers them in the order of asking.
///
/// The value of a parameter depends on the seed and its name alone, so every cut of a model into
/// stages starts from the same weights. A name that is asked for twice is one parameter (tied
/// weights inside a stage).
#[derive(Clone, Debug)]
pub struct ParameterStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    source: Source,
    made: Mutex<Made>,
}

/// Parameters in the order of asking, and the place of each by its name.
#[derive(Debug, Default)]
struct Made {
    parameters: Vec<Parameter>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
enum Source {
    Seed(u64),
    Zeros,
    /// Values by name; a name that is absent is an error. Shared: there is a store for each stage.
    Given(Arc<dyn Values>),
}

impl ParameterStore {
    /// A store whose initial values come from `seed` and each parameter's name.
    pub fn seeded(seed: u64) -> Self {
        Self::from_source(Source::Seed(seed))
    }

    /// A store whose values are all zero: to see how much a model takes, without the time that
    /// initial values take.
    pub fn zeroed() -> Self {
        Self::from_source(Source::Zeros)
    }

    /// A store whose initial values are given by name (`--init`). It holds them for as long as it
    /// lives.
    pub fn given(values: Arc<dyn Values>) -> Self {
        Self::from_source(Source::Given(values))
    }

    fn from_source(source: Source) -> Self {
        Self { inner: Arc::new(Inner { source, made: Mutex::default() }) }
    }

    /// A builder for layers; what they ask for becomes a trained parameter of this store.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        self.tied_builder(dtype, device, Arc::default())
    }

    /// The same for a model with ties: a parameter whose name is a key of `ties` begins with the
    /// value of the parameter that the key leads to.
    pub fn tied_builder(
        &self,
        dtype: DType,
        device: &Device,
        ties: Arc<Ties>,
    ) -> VarBuilder<'static> {
        let backend = Backend { inner: Arc::clone(&self.inner), ties };
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// The parameters made so far, in the order in which layers asked for them.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.inner.made.lock().unwrap_or_else(PoisonError::into_inner).parameters.clone()
    }
}

struct Backend {
    inner: Arc<Inner>,
    ties: Arc<Ties>,
}

impl Backend {
    /// The name of the parameter whose value this one begins with.
    fn named<'a>(&'a self, name: &'a str) -> &'a str {
        self.ties.get(name).map_or(name, String::as_str)
    }
}

impl SimpleBackend for Backend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut made = self.inner.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&at) = made.by_name.get(name) {
            let parameter = &made.parameters[at];
            if parameter.var.shape() != &shape {
                bail!(
                    "parameter {name} has shape {:?}, asked for as {shape:?}",
                    parameter.var.shape()
                );
            }
            return Ok(parameter.var.as_tensor().clone());
        }
        let known_as = self.named(name);
        let value = match &self.inner.source {
            Source::Seed(seed) => {
                initial_value(*seed, known_as, &shape, init, device)?.to_dtype(dtype)?
            }
            Source::Zeros => Tensor::zeros(&shape, dtype, device)?,
            Source::Given(values) => {
                let Some(value) = values.value(known_as)? else {
                    bail!("parameter {known_as} of shape {shape:?} is absent from the file");
                };
                if value.shape() != &shape {
                    bail!(
                        "parameter {name} has shape {:?} in the file, {shape:?} in the model",
                        value.shape()
                    );
                }
                value.to_device(device)?.to_dtype(dtype)?
            }
        };
        // Detached: of a tensor that is a variable, a variable would share the storage, and
        // training would change whoever it came from.
        let var = Var::from_tensor(&value.detach())?;
        let tensor = var.as_tensor().clone();
        let at = made.parameters.len();
        made.by_name.insert(name.to_owned(), at);
        made.parameters.push(Parameter { name: name.to_owned(), var });
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("parameter {name} was asked for without a shape; a trained parameter needs one")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        match &self.inner.source {
            Source::Seed(_) | Source::Zeros => true,
            Source::Given(values) => matches!(values.value(self.named(name)), Ok(Some(_))),
        }
    }
}

fn initial_value(
    seed: u64,
    name: &str,
    shape: &Shape,
    init: Init,
    device: &Device,
) -> Result<Tensor> {
    let key = random::hash_name(seed, name);
    let n = shape.elem_count() as u64;
    let uniform = |lo: f64, up: f64| {
        (0..n).map(|i| (lo + (up - lo) * random::uniform(key, i)) as f32).collect()
    };
    let normal = |mean: f64, deviation: f64| {
        (0..n).map(|i| (mean + deviation * random::normal(key, i)) as f32).collect()
    };
    let values: Vec<f32> = match init {
        Init::Const(value) => vec![value as f32; n as usize],
        Init::Randn { mean, stdev } => normal(mean, stdev),
        Init::Uniform { lo, up } => uniform(lo, up),
        Init::Kaiming { dist, fan, non_linearity } => {
            let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => {
                    uniform(-3f64.sqrt() * deviation, 3f64.sqrt() * deviation)
                }
                NormalOrUniform::Normal => normal(0.0, deviation),
            }
        }
    };
    Tensor::from_vec(values, shape, device)
}

/// Names and shapes of the parameters that `build` asks for, at no cost in memory: every tensor
/// that it gets is one zero, seen through strides of 0.
///
/// # Errors
/// Whatever `build` returns.
pub fn parameter_shapes<T>(
    dtype: DType,
    build: impl FnOnce(VarBuilder<'static>) -> Result<T>,
) -> Result<Vec<(String, Shape)>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let builder =
        VarBuilder::from_backend(Box::new(Recorder(Arc::clone(&seen))), dtype, Device::Cpu);
    build(builder)?;
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut seen.shapes))
}

/// Names and shapes in the order of asking.
#[derive(Default)]
struct Seen {
    shapes: Vec<(String, Shape)>,
    names: HashSet<String>,
}

struct Recorder(Arc<Mutex<Seen>>);

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.names.insert(name.to_owned()) {
            seen.shapes.push((name.to_owned(), shape.clone()));
        }
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("parameter {name} was asked for without a shape; a trained parameter needs one")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(store: &ParameterStore, name: &str) -> Vec<f32> {
        let builder = store.builder(DType::F32, &Device::Cpu);
        let init = Init::Randn { mean: 0.0, stdev: 1.0 };
        builder
            .get_with_hints((3, 2), name, init)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    #[test]
    fn a_value_depends_on_seed_and_name_alone() {
        let (a, b) = (ParameterStore::seeded(1), ParameterStore::seeded(1));
        weight(&b, "other");
        assert_eq!(weight(&a, "w"), weight(&b, "w"));
        assert_ne!(weight(&a, "w"), weight(&b, "other"));
        assert_ne!(weight(&a, "w"), weight(&ParameterStore::seeded(2), "w"));
        weight(&a, "w");
        assert_eq!(a.parameters().len(), 1, "a name asked for twice is one parameter");
    }

    #[test]
    fn a_tied_parameter_begins_with_the_value_of_the_other() {
        let store = ParameterStore::seeded(1);
        let ties = Arc::new(BTreeMap::from([("head".to_owned(), "table".to_owned())]));
        let builder = store.tied_builder(DType::F32, &Device::Cpu, ties);
        let init = Init::Randn { mean: 0.0, stdev: 1.0 };
        let values = |name: &str| -> Vec<f32> {
            builder.get_with_hints(6, name, init).unwrap().to_vec1().unwrap()
        };
        assert_eq!(values("head"), values("table"));
        assert_ne!(values("head"), values("other"));
        assert_eq!(store.parameters().len(), 3, "each place has its own");
    }

    #[test]
    fn given_values_are_checked_by_name_and_shape() {
        let value = Tensor::ones((2, 2), DType::F32, &Device::Cpu).unwrap();
        let store = ParameterStore::given(Arc::new(BTreeMap::from([("w".to_owned(), value)])));
        let builder = store.builder(DType::F32, &Device::Cpu);
        assert!(builder.get((2, 2), "w").is_ok());
        assert!(builder.get((3, 2), "w").unwrap_err().to_string().contains("shape"));
        assert!(builder.get((2, 2), "v").unwrap_err().to_string().contains("parameter v"));
    }

    #[test]
    fn shapes_are_read_without_memory() {
        let shapes =
            parameter_shapes(DType::F32, |vb| vb.pp("huge").get((1 << 20, 1 << 20), "weight"))
                .unwrap();
        assert_eq!(shapes, [("huge.weight".to_owned(), Shape::from((1 << 20, 1 << 20)))]);
    }
}
