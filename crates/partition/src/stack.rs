//! A model as a list of recipes for its layers.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Result, Shape};
use candle_nn::VarBuilder;
use pp_nn::parameter_shapes;

use crate::error::PartitionError;
use crate::layer::Layer;

type Build = Arc<dyn Fn(VarBuilder<'static>) -> Result<Box<dyn Layer>> + Send + Sync>;

/// Layers that run one after another, none of them built yet.
#[derive(Clone, Default)]
pub struct LayerStack {
    layers: Vec<(String, Build)>,
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
                let new = of_layer.into_iter().filter(|(name, _)| seen.insert(name.clone()));
                new.map(|(_, shape)| shape.elem_count() as u64).sum()
            })
            .collect())
    }
}
