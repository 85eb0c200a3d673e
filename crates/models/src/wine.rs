//! Red wines (Cortez et al. 2009): eleven measured properties and a quality from tasting.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Result, Tensor};
use pp_nn::hash;
use pp_train::{DataSet, Samples};

use crate::entropy::entropy;

/// The data set without duplicates, a fifth of it held out, scaled by the training part.
pub(crate) struct Wine {
    seed: u64,
    train: Part,
    held_out: Part,
    n_classes: usize,
}

#[derive(Default)]
struct Part {
    features: Vec<Vec<f32>>,
    classes: Vec<u32>,
}

impl Part {
    fn samples(&self, rows: &[usize]) -> Result<Samples> {
        let width = self.features.first().map_or(0, Vec::len);
        let x: Vec<f32> = rows.iter().flat_map(|&r| self.features[r].iter().copied()).collect();
        let y: Vec<u32> = rows.iter().map(|&r| self.classes[r]).collect();
        Ok((
            vec![Tensor::from_vec(x, (rows.len(), width), &Device::Cpu)?],
            Tensor::from_vec(y, rows.len(), &Device::Cpu)?,
        ))
    }
}

impl Wine {
    /// Reads the embedded table. Equal rows are kept once, before the split: otherwise the model
    /// would be tested on wines that it was trained on.
    pub(crate) fn load(seed: u64) -> Self {
        let table = linfa_datasets::winequality();
        let mut known = BTreeSet::new();
        let mut rows: Vec<(Vec<f64>, usize)> = Vec::new();
        for (record, &quality) in table.records().rows().into_iter().zip(table.targets()) {
            let record = record.to_vec();
            let key: Vec<u64> = record.iter().map(|v| v.to_bits()).collect();
            if known.insert((key, quality)) {
                rows.push((record, quality));
            }
        }
        let qualities: BTreeSet<usize> = rows.iter().map(|(_, quality)| *quality).collect();
        let class: BTreeMap<usize, u32> = qualities.into_iter().zip(0..).collect();
        let order = shuffled(rows.len(), hash(&[seed, 0]));
        let (held_out, train) = order.split_at(rows.len() / 5);

        let width = rows.first().map_or(0, |(record, _)| record.len());
        let scale: Vec<(f64, f64)> = (0..width)
            .map(|f| {
                let n = train.len() as f64;
                let mean = train.iter().map(|&r| rows[r].0[f]).sum::<f64>() / n;
                let variance =
                    train.iter().map(|&r| (rows[r].0[f] - mean).powi(2)).sum::<f64>() / n;
                (mean, variance.sqrt().max(1e-12))
            })
            .collect();
        let part = |chosen: &[usize]| Part {
            features: chosen
                .iter()
                .map(|&r| {
                    rows[r]
                        .0
                        .iter()
                        .zip(&scale)
                        .map(|(v, (mean, dev))| ((v - mean) / dev) as f32)
                        .collect()
                })
                .collect(),
            classes: chosen.iter().map(|&r| class[&rows[r].1]).collect(),
        };
        Self { seed, train: part(train), held_out: part(held_out), n_classes: class.len() }
    }

    pub(crate) fn n_classes(&self) -> usize {
        self.n_classes
    }

    pub(crate) fn n_features(&self) -> usize {
        self.train.features.first().map_or(0, Vec::len)
    }
}

/// The numbers below `n`, in an order that the key decides.
fn shuffled(n: usize, key: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_cached_key(|&i| (hash(&[key, i as u64]), i));
    order
}

impl DataSet for Wine {
    /// Samples pass in a new order in every epoch; a batch may reach into the next one.
    fn batch(&self, step: u64, size: usize) -> Result<Samples> {
        let n = self.train.classes.len();
        let first = (step - 1) as usize * size;
        let mut orders: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let rows: Vec<usize> = (first..first + size)
            .map(|i| {
                let epoch = i / n;
                let order = orders
                    .entry(epoch)
                    .or_insert_with(|| shuffled(n, hash(&[self.seed, 1, epoch as u64])));
                order[i % n]
            })
            .collect();
        self.train.samples(&rows)
    }

    fn validation(&self, rows: usize) -> Result<Vec<Samples>> {
        let all: Vec<usize> = (0..self.held_out.classes.len()).collect();
        all.chunks(rows.max(1)).map(|chunk| self.held_out.samples(chunk)).collect()
    }

    fn blind_loss(&self) -> Option<f64> {
        let count = |class| self.train.classes.iter().filter(|&&c| c == class).count();
        entropy((0..self.n_classes as u32).map(count))
    }

    fn majority_accuracy(&self) -> Option<f64> {
        let count = |part: &Part, class| part.classes.iter().filter(|&&c| c == class).count();
        let majority = (0..self.n_classes as u32).max_by_key(|&class| count(&self.train, class))?;
        Some(count(&self.held_out, majority) as f64 / self.held_out.classes.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wine_is_on_both_sides_and_every_epoch_sees_each_once() {
        let wine = Wine::load(3);
        let bits = |row: &Vec<f32>| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let train: BTreeSet<_> = wine.train.features.iter().map(bits).collect();
        assert!(wine.held_out.features.iter().all(|row| !train.contains(&bits(row))));
        assert_eq!((wine.n_features(), wine.n_classes()), (11, 6));
        let n = wine.train.classes.len();
        assert!(n + wine.held_out.classes.len() < 1599, "the table has duplicates");
        let (_, labels) = wine.batch(1, n).unwrap();
        let mut labels: Vec<u32> = labels.to_vec1().unwrap();
        let mut want = wine.train.classes.clone();
        labels.sort_unstable();
        want.sort_unstable();
        assert_eq!(labels, want);
        let blind = wine.blind_loss().unwrap();
        assert!((0.8..(wine.n_classes as f64).ln()).contains(&blind), "{blind}");
        let majority = wine.majority_accuracy().unwrap();
        assert!((0.3..0.6).contains(&majority), "{majority}");
    }
}
