//! Consecutive layers, built on one device.

use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Tensor};
use pp_nn::{ChainPass, ForwardContext, Parameter, ParameterStore};

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
        let mut layers = self.built.iter().zip(self.layers.clone()).peekable();
        while let Some((layer, number)) = layers.next() {
            let of = |number: usize| context.for_layer(number as u32);
            let at = |number: usize| move |error: Error| error.context(format!("layer {number}"));
            tensors = match (layer.as_chain(), &tensors[..]) {
                (Some(chain), [x]) if ChainPass::is_for(x, context) => {
                    let mut pass = ChainPass::new(x)?;
                    pass.run(chain, &of(number)).map_err(at(number))?;
                    while let Some((layer, number)) =
                        layers.next_if(|(layer, _)| layer.as_chain().is_some())
                    {
                        if let Some(chain) = layer.as_chain() {
                            pass.run(chain, &of(number)).map_err(at(number))?;
                        }
                    }
                    vec![pass.finish()?]
                }
                _ => layer.forward(&tensors, &of(number)).map_err(at(number))?,
            };
        }
        Ok(tensors)
    }
}
