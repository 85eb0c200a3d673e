//! Consecutive layers, built on one device.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor};
use pp_nn::{ChainPass, ForwardContext, Parameter, ParameterStore, Ties};

use crate::error::PartitionError;
use crate::layer::Layer;
use crate::stack::LayerStack;

/// A part of a model, with the parameters that belong to it and no others.
pub struct Stage {
    layers: Range<usize>,
    built: Vec<Box<dyn Layer>>,
    parameters: Vec<Parameter>,
    ties: Arc<Ties>,
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
        let builder = store.tied_builder(dtype, device, Arc::clone(stack.ties()));
        let built = layers
            .clone()
            .map(|i| stack.build(i, builder.clone()))
            .collect::<std::result::Result<_, _>>()?;
        let parameters = store.parameters().split_off(before);
        Ok(Self { layers, built, parameters, ties: Arc::clone(stack.ties()) })
    }

    /// The layers' numbers in the whole model.
    pub fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    /// The parameters, in layer order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The first name of a parameter: that of the other place if this is the second place of a tied
    /// one.
    pub fn first_name<'a>(&'a self, parameter: &'a Parameter) -> &'a str {
        self.ties.get(&parameter.name).map_or(&parameter.name, String::as_str)
    }

    /// Whether a parameter is the second place of a tied one, which files and counts leave out.
    pub fn is_second(&self, parameter: &Parameter) -> bool {
        self.ties.contains_key(&parameter.name)
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
                // With the chains that follow it, one operation.
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

#[cfg(test)]
mod tests {
    use pp_nn::{Activation, Chain, Linear, ResidueQueue};

    use super::*;
    use crate::layer::{chain, single};

    /// Two chains, a layer that is not a chain, and a third chain, whose linear layer takes
    /// `inputs`.
    fn stage(inputs: usize) -> Stage {
        let mut stack = LayerStack::default();
        for (name, inputs, outputs) in [("a", 3, 4), ("b", 4, 5)] {
            stack.push(name, move |builder| {
                let linear = Linear::new(inputs, outputs, builder.pp(name))?;
                Ok(chain(Chain::new().then(linear).then(Activation::Relu)))
            });
        }
        stack.push("twice", |_| Ok(single(|x, _| x * 2.0)));
        stack.push("c", move |builder| {
            Ok(chain(Chain::new().then(Linear::new(inputs, 2, builder.pp("c"))?)))
        });
        let store = ParameterStore::seeded(1);
        Stage::build(&stack, 0..4, &store, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn chains_that_are_neighbours_give_what_single_layers_give() {
        let stage = stage(5);
        let x = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
        let forward = |context: &ForwardContext| -> Vec<Vec<f32>> {
            stage.forward(std::slice::from_ref(&x), context).unwrap()[0].to_vec2().unwrap()
        };
        let queue = ResidueQueue::default();
        let training = ForwardContext::training(1, 1).with_residues(queue.clone());
        let y = stage.forward(std::slice::from_ref(&x), &training).unwrap();
        assert_eq!(y[0].to_vec2::<f32>().unwrap(), forward(&ForwardContext::evaluation()));
        y[0].sum_all().unwrap().backward().unwrap();
        assert_eq!(queue.take().len(), 3, "a residue of each linear layer");
    }

    #[test]
    fn an_error_inside_of_a_chain_names_its_layer() {
        let x = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
        let training = ForwardContext::training(1, 1).with_residues(ResidueQueue::default());
        for context in [training, ForwardContext::evaluation()] {
            let error = stage(7).forward(std::slice::from_ref(&x), &context).unwrap_err();
            assert!(error.to_string().contains("layer 3"), "{error}");
            let narrow = Tensor::ones((2, 2), DType::F32, &Device::Cpu).unwrap();
            let error = stage(5).forward(&[narrow], &context).unwrap_err();
            assert!(error.to_string().contains("layer 0"), "{error}");
        }
    }
}
