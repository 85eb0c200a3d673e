//! A model as a list of recipes for its layers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Result, Shape};
use candle_nn::VarBuilder;
use pp_nn::{Ties, parameter_shapes};

use crate::error::PartitionError;
use crate::layer::Layer;

type Build = Arc<dyn Fn(VarBuilder<'static>) -> Result<Box<dyn Layer>> + Send + Sync>;

/// Layers that run one after another, none of them built yet.
#[derive(Clone, Default)]
pub struct LayerStack {
    layers: Vec<(String, Build)>,
    ties: Arc<Ties>,
}

impl fmt::Debug for LayerStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.layers.iter().map(|(name, _)| name)).finish()
    }
}

impl LayerStack {
    /// Appends a layer. `build` gets the builder of the whole model, so a parameter's name does
    /// not depend on where the layer ends up; by custom it calls `builder.pp(name)` first.
    pub fn push<F>(&mut self, name: impl Into<String>, build: F)
    where
        F: Fn(VarBuilder<'static>) -> Result<Box<dyn Layer>> + Send + Sync + 'static,
    {
        self.layers.push((name.into(), Arc::new(build)));
    }

    /// Ties two parameters of one shape, in two layers: they are one parameter that stands in two
    /// places, such as an embedding and a head (Press, Wolf 2017, arXiv:1608.05859).
    ///
    /// Each place has a copy of the value, and sums of gradients of its own. These are added once a
    /// step, that of `second` to that of `first`, so that both copies step alike, and every cut has
    /// the same bits. Files and counts have the parameter once, by the name of `first`.
    ///
    /// A cut refuses a tie that names no parameter, or two of different shapes.
    pub fn tie(&mut self, first: impl Into<String>, second: impl Into<String>) {
        Arc::make_mut(&mut self.ties).insert(second.into(), first.into());
    }

    /// The ties: from the name of the second place to that of the first.
    pub fn ties(&self) -> &Arc<Ties> {
        &self.ties
    }

    /// The number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The name of a layer.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn name(&self, layer: usize) -> &str {
        &self.layers[layer].0
    }

    /// Builds one layer.
    ///
    /// # Errors
    /// [`PartitionError::Layer`] with the layer's name and candle's reason.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn build(
        &self,
        layer: usize,
        builder: VarBuilder<'static>,
    ) -> std::result::Result<Box<dyn Layer>, PartitionError> {
        let (name, build) = &self.layers[layer];
        build(builder).map_err(|source| PartitionError::Layer { layer, name: name.clone(), source })
    }

    /// Names and shapes of each layer's parameters, without building them.
    ///
    /// # Errors
    /// [`PartitionError::Layer`] if a layer cannot be built.
    pub fn parameters(&self) -> std::result::Result<Vec<Vec<(String, Shape)>>, PartitionError> {
        self.layers
            .iter()
            .enumerate()
            .map(|(layer, (name, build))| {
                parameter_shapes(DType::F32, |builder| build(builder))
                    .map_err(|source| PartitionError::Layer { layer, name: name.clone(), source })
            })
            .collect()
    }

    /// The shape of each parameter of the model, by name. One that stands in two places is there once.
    ///
    /// # Errors
    /// As [`Self::parameters`].
    pub fn shapes(&self) -> std::result::Result<BTreeMap<String, Shape>, PartitionError> {
        let all = self.parameters()?.into_iter().flatten();
        Ok(all.filter(|(name, _)| !self.ties.contains_key(name)).collect())
    }

    /// How many numbers each layer trains. A tied parameter counts at its first layer.
    ///
    /// # Errors
    /// As [`Self::parameters`].
    pub fn parameter_counts(&self) -> std::result::Result<Vec<u64>, PartitionError> {
        let mut seen = std::collections::HashSet::new();
        let layers = self.parameters()?;
        Ok(layers
            .into_iter()
            .map(|of_layer| {
                let new = of_layer
                    .into_iter()
                    .filter(|(name, _)| !self.ties.contains_key(name) && seen.insert(name.clone()));
                new.map(|(_, shape)| shape.elem_count() as u64).sum()
            })
            .collect())
    }
}
