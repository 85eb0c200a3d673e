//! A small model of the Llama family on samples of which very different numbers of tokens count.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use pp_models::{DataSet, Job, LlamaConfig, Samples, llama};
use pp_nn::{IGNORED, hash, uniform};

/// Positions of a sample.
const CONTEXT: usize = 12;
const VOCABULARY: usize = 37;

/// Six blocks, three heads that share one of keys and values. Embedding and head are one parameter,
/// or samples are packed, or both.
pub(crate) fn small_llama(is_tied: bool, is_packed: bool) -> Job {
    let config = LlamaConfig {
        vocabulary: VOCABULARY,
        layers: 6,
        width: 24,
        ffn: 40,
        heads: 3,
        key_value_heads: 1,
        head_width: 8,
        context: CONTEXT,
        is_tied,
        ..LlamaConfig::default()
    };
    let job = llama(config, None, 1).unwrap();
    Job { data: Box::new(Uneven { is_packed }), objective: Arc::clone(&job.objective), ..job }
}

/// Of every third sample nothing counts, of the others between one token and all.
struct Uneven {
    is_packed: bool,
}

impl Uneven {
    fn sample(key: u64) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
        let token = |i: usize| (uniform(key, i as u64) * VOCABULARY as f64) as u32;
        let ids = (0..CONTEXT).map(token).collect();
        let counted = match key % 3 {
            0 => 0,
            1 => 1 + (key / 3 % 3) as usize,
            _ => CONTEXT,
        };
        let target = |i: usize| if i < counted { token(i + 1) } else { IGNORED };
        // Documents of 5 tokens, and what is left.
        let positions = (0..CONTEXT as u32).map(|i| i % 5).collect();
        (ids, (0..CONTEXT).map(target).collect(), positions)
    }
}

impl DataSet for Uneven {
    fn batch(&self, step: u64, size: usize) -> Result<Samples> {
        let (mut ids, mut targets, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for sample in 0..size as u64 {
            let (of_ids, of_targets, of_positions) = Self::sample(hash(&[step, sample]));
            ids.extend(of_ids);
            targets.extend(of_targets);
            positions.extend(of_positions);
        }
        let tensor = |values| Tensor::from_vec(values, (size, CONTEXT), &Device::Cpu);
        let mut inputs = vec![tensor(ids)?];
        if self.is_packed {
            inputs.push(tensor(positions)?);
        }
        Ok((inputs, tensor(targets)?))
    }
}
