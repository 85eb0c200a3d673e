//! Consecutive layers, built on one device.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use pp_nn::{ForwardContext, Parameter, ParameterStore};

use crate::error::PartitionError;
use crate::layer::Layer;
use crate::stack::LayerStack;

/// A part of a model, with the parameters that belong to it and no others.
pub struct Stage {
    layers: Range<usize>,
    built: Vec<Box<dyn Layer>>,
    parameters: Vec<Parameter>,
}

impl Stage {
    /// Builds layers `layers` of `stack`; their values come from `store`.
    ///
    /// # Errors
    /// [`PartitionError::Layer`] if a layer cannot be built.
    pub fn build(
        stack: &LayerStack,
        layers: Range<usize>,
        store: &ParameterStore,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, PartitionError> {
        let before = store.parameters().len();
        let builder = store.builder(dtype, device);
        let built = layers
            .clone()
            .map(|i| stack.build(i, builder.clone()))
            .collect::<std::result::Result<_, _>>()?;
        let parameters = store.parameters().split_off(before);
        Ok(Self { layers, built, parameters })
    }

    /// The layers' numbers in the whole model.
    pub fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    /// The parameters, in layer order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Runs all layers on one micro-batch.
    ///
    /// # Errors
    /// Whatever candle reports, with the layer's number.
    pub fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        let mut tensors = inputs.to_vec();
        for (layer, number) in self.built.iter().zip(self.layers.clone()) {
            tensors = layer
                .forward(&tensors, &context.for_layer(number as u32))
                .map_err(|error| error.context(format!("layer {number}")))?;
        }
        Ok(tensors)
    }
}
