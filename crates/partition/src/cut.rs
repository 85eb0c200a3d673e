//! Which layers form which stage.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use candle_core::Shape;
use pp_nn::Ties;

use crate::balance;
use crate::error::PartitionError;
use crate::profile::Profile;
use crate::ranks::Ranks;
use crate::solve;
use crate::stack::LayerStack;

/// How to cut a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The same number of layers everywhere, one more in the first stages if need be.
    Uniform,
    /// Balances the parameters of the ranks.
    Parameters,
    /// Balances the time of the ranks, by a [`Profile`].
    Time,
    /// So many layers in each stage.
    Explicit(Vec<usize>),
}

impl FromStr for Cut {
    type Err = PartitionError;

    fn from_str(text: &str) -> Result<Self, PartitionError> {
        match text {
            "uniform" => Ok(Self::Uniform),
            "parameters" => Ok(Self::Parameters),
            "time" => Ok(Self::Time),
            _ => text
                .split(',')
                .map(|part| part.trim().parse::<usize>())
                .collect::<Result<_, _>>()
                .map(Self::Explicit)
                .map_err(|_| PartitionError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Parameters => f.write_str("parameters"),
            Self::Time => f.write_str("time"),
            Self::Explicit(sizes) => {
                let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                f.write_str(&sizes.join(","))
            }
        }
    }
}

/// The layers of each stage: contiguous, in order, none empty, all layers covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    ends: Vec<usize>,
}

impl Partition {
    /// The number of stages.
    pub fn n_stages(&self) -> usize {
        self.ends.len()
    }

    /// The layers of one stage.
    ///
    /// # Panics
    /// If there is no such stage.
    pub fn layers(&self, stage: usize) -> Range<usize> {
        let start = if stage == 0 { 0 } else { self.ends[stage - 1] };
        start..self.ends[stage]
    }

    /// The number of layers of each stage.
    pub fn sizes(&self) -> Vec<usize> {
        (0..self.n_stages()).map(|stage| self.layers(stage).len()).collect()
    }

    /// The stage that a layer belongs to.
    pub fn stage_of(&self, layer: usize) -> usize {
        self.ends.partition_point(|&end| end <= layer)
    }
}

impl fmt::Display for Partition {
    /// The number of layers of each stage: `3,5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.sizes().iter().map(ToString::to_string).collect();
        f.write_str(&sizes.join(","))
    }
}

impl Cut {
    /// Cuts `stack` into stages for these ranks. A number of stages is one on each rank. Only
    /// [`Cut::Time`] needs a profile.
    ///
    /// [`balance::balanced`] says how stages that share a rank are weighed.
    ///
    /// # Errors
    /// [`PartitionError`]: more stages than layers, an explicit cut that does not fit, tied
    /// weights that the cut would separate.
    pub fn solve(
        &self,
        stack: &LayerStack,
        ranks: impl Into<Ranks>,
        profile: Option<&Profile>,
    ) -> Result<Partition, PartitionError> {
        let ranks = ranks.into();
        let (layers, n_stages) = (stack.len(), ranks.n_stages());
        let ends = match self {
            Self::Uniform => solve::uniform(layers, n_stages)?,
            Self::Parameters => {
                let counts = stack.parameter_counts()?;
                balance::balanced(&counts.iter().map(|&n| n as f64).collect::<Vec<_>>(), &ranks)?
            }
            Self::Time => {
                let profile = profile.ok_or(PartitionError::NotProfiled)?;
                let costs: Vec<f64> = profile
                    .layers
                    .iter()
                    .map(|l| l.forward_seconds + l.backward_seconds())
                    .collect();
                balance::balanced(&costs, &ranks)?
            }
            Self::Explicit(sizes) => solve::explicit(sizes, layers, n_stages)?,
        };
        let partition = Partition { ends };
        let layers = stack.parameters()?;
        refuse_ties(stack.ties(), &layers)?;
        refuse_shared(&layers, &partition)?;
        Ok(partition)
    }
}

/// A tie makes two parameters one: both are there, and have one shape.
fn refuse_ties(ties: &Ties, layers: &[Vec<(String, Shape)>]) -> Result<(), PartitionError> {
    let shape = |wanted: &String| {
        layers.iter().flatten().find(|(name, _)| name == wanted).map(|(_, shape)| shape)
    };
    for (second, first) in ties {
        let why = match (shape(first), shape(second)) {
            (None, _) => format!("no layer has {first}; name a parameter of a layer"),
            (_, None) => format!("no layer has {second}; name a parameter of a layer"),
            (Some(one), Some(other)) if one != other => format!(
                "their shapes are {:?} and {:?}; use two parameters of one shape",
                one.dims(),
                other.dims()
            ),
            _ if ties.contains_key(first) => {
                format!("{first} is tied itself; tie both to the same parameter")
            }
            _ => continue,
        };
        return Err(PartitionError::Tie { first: first.clone(), second: second.clone(), why });
    }
    Ok(())
}

/// A parameter of one name that two stages use would need its gradients summed across them.
fn refuse_shared(
    layers: &[Vec<(String, Shape)>],
    partition: &Partition,
) -> Result<(), PartitionError> {
    let mut owner = std::collections::HashMap::new();
    for (second, of_layer) in layers.iter().enumerate() {
        for (name, _) in of_layer {
            let first = *owner.entry(name).or_insert(second);
            let (first_stage, second_stage) =
                (partition.stage_of(first), partition.stage_of(second));
            if first_stage != second_stage {
                return Err(PartitionError::Tied {
                    name: name.clone(),
                    first,
                    second,
                    first_stage,
                    second_stage,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::single;

    fn stack(names: &[&'static str]) -> LayerStack {
        let mut stack = LayerStack::default();
        for (i, &name) in names.iter().enumerate() {
            stack.push(format!("layers.{i}"), move |builder| {
                let weight = builder.get((2, 2), name)?;
                Ok(single(move |x, _| x.matmul(&weight)))
            });
        }
        stack
    }

    #[test]
    fn ties_of_what_is_not_there_or_differs_are_refused() {
        let refused = |ties: &[(&str, &str)], why: &str| {
            let mut stack = stack(&["a", "b", "c"]);
            stack.push("wide", |builder| {
                builder.get((2, 3), "wide")?;
                Ok(single(|x, _| Ok(x.clone())))
            });
            for (first, second) in ties {
                stack.tie(*first, *second);
            }
            let error = Cut::Uniform.solve(&stack, 2, None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(&[("a", "d")], "d cannot be tied to a: no layer has d");
        refused(&[("d", "a")], "no layer has d");
        refused(&[("a", "wide")], "their shapes are [2, 2] and [2, 3]");
        refused(&[("a", "b"), ("b", "c")], "b is tied itself");
        refused(&[("a", "a")], "a is tied itself");
        let mut tied = stack(&["a", "b", "c"]);
        tied.tie("a", "c");
        Cut::Uniform.solve(&tied, 2, None).unwrap();
    }

    #[test]
    fn every_kind_of_cut_covers_the_model_once() {
        let stack = stack(&["a", "b", "c", "d", "e"]);
        for (text, sizes) in
            [("uniform", vec![2, 2, 1]), ("parameters", vec![1, 2, 2]), ("1,1,3", vec![1, 1, 3])]
        {
            let cut: Cut = text.parse().unwrap();
            assert_eq!(cut.to_string(), text);
            let partition = cut.solve(&stack, 3, None).unwrap();
            assert_eq!(partition.sizes(), sizes, "{text}");
            let stages: Vec<_> = (0..5).map(|layer| partition.stage_of(layer)).collect();
            assert!(
                stages.iter().enumerate().all(|(layer, &s)| partition.layers(s).contains(&layer))
            );
        }
    }

    #[test]
    fn what_cannot_be_cut_is_refused_with_both_numbers() {
        let stack = stack(&["a", "b", "a"]);
        let message = |text: &str, stages| {
            text.parse::<Cut>()
                .and_then(|cut| cut.solve(&stack, stages, None))
                .unwrap_err()
                .to_string()
        };
        assert!(message("uniform", 4).contains("4 stages need 4 layers, but the model has 3"));
        assert!(message("uniform", 0).contains("0 stages"));
        assert!(message("2,0,1", 3).contains("stage 1"));
        assert!(message("1,2", 3).contains("2 parts, but the schedule has 3 stages"));
        assert!(message("1,1", 2).contains("sums to 2, but the model has 3"));
        assert!(message("thirds", 3).contains("unknown partition 'thirds'"));
        assert!(message("time", 3).contains("profile"));
        assert!(message("1,2", 2).contains("parameter a is shared by layers 0 and 2"));
        assert!(
            Cut::Explicit(vec![3]).solve(&stack, 1, None).is_ok(),
            "tied weights inside one stage are fine"
        );
    }
}
