//! The sizes of a model of the Llama family.

use pp_nn::{RotaryFrequencies, RotaryScaling};

use crate::error::ModelError;

/// The largest number that a size may have. With it, no product of three sizes overflows.
pub(super) const SIZE_MAX: u64 = 1 << 20;
/// The most blocks.
const LAYERS_MAX: usize = 4096;
/// The most bytes of the tables of rotary embedding.
const TABLE_BYTES_MAX: usize = 1 << 30;

/// Which of the family a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, `SmolLM2` (Touvron et al. 2023, arXiv:2307.09288).
    Llama,
    /// Qwen 2 and 2.5: queries, keys and values have a bias (Yang et al. 2024, arXiv:2407.10671).
    Qwen2,
    /// Qwen 3: queries and keys are normalised, head by head (Yang et al. 2025, arXiv:2505.09388).
    Qwen3,
}

impl Family {
    /// What `model_type` and `architectures` call it.
    pub(super) const NAMES: [(Self, &'static str, &'static str); 3] = [
        (Self::Llama, "llama", "LlamaForCausalLM"),
        (Self::Qwen2, "qwen2", "Qwen2ForCausalLM"),
        (Self::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    ];
}

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Which of the family it is.
    pub family: Family,
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// Transformer blocks; embedding and head come on top.
    pub layers: usize,
    /// Features of a token.
    pub width: usize,
    /// Features inside of an MLP.
    pub ffn: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, which divide those of queries.
    pub key_value_heads: usize,
    /// Features of a head, an even number.
    pub head_width: usize,
    /// The longest context, in tokens.
    pub context: usize,
    /// What the norms add to the mean square.
    pub epsilon: f64,
    /// How fast positions turn.
    pub rotary: RotaryFrequencies,
    /// Whether queries, keys and values have a bias. What follows attention has one as well, but for
    /// Qwen 2.
    pub has_bias: bool,
    /// Whether embedding and head are one parameter.
    pub is_tied: bool,
}

impl Default for LlamaConfig {
    /// A small model over bytes.
    fn default() -> Self {
        Self {
            family: Family::Llama,
            vocabulary: 256,
            layers: 6,
            width: 128,
            ffn: 384,
            heads: 4,
            key_value_heads: 2,
            head_width: 32,
            context: 64,
            epsilon: 1e-5,
            rotary: RotaryFrequencies { theta: 10_000.0, scaling: None },
            has_bias: false,
            is_tied: false,
        }
    }
}

impl LlamaConfig {
    /// Refuses sizes that do not fit each other.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the sizes.
    pub fn check(&self) -> Result<(), ModelError> {
        let Self { heads, key_value_heads, head_width, .. } = *self;
        let sizes = [
            ("vocabulary", self.vocabulary),
            ("layers", self.layers),
            ("width", self.width),
            ("ffn", self.ffn),
            ("heads", heads),
            ("key and value heads", key_value_heads),
            ("features of a head", head_width),
            ("context", self.context),
        ];
        if let Some((name, size)) =
            sizes.iter().find(|(_, size)| *size == 0 || *size as u64 > SIZE_MAX)
        {
            let most = SIZE_MAX;
            return Err(refused(format!("{name}: {size} is not between 1 and {most}")));
        }
        if self.layers > LAYERS_MAX {
            return Err(refused(format!("{} layers are more than {LAYERS_MAX}", self.layers)));
        }
        let table = self.context * head_width * size_of::<f32>();
        if table > TABLE_BYTES_MAX {
            return Err(refused(format!(
                "the angles of {} positions would take {} MiB; use a smaller max_position_embeddings",
                self.context,
                table >> 20
            )));
        }
        if !heads.is_multiple_of(key_value_heads) {
            return Err(refused(format!(
                "{heads} heads of queries do not divide over {key_value_heads} of keys and values"
            )));
        }
        if !head_width.is_multiple_of(2) {
            return Err(refused(format!(
                "a head has {head_width} features, and rotary embedding turns pairs"
            )));
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(refused(format!("rms_norm_eps is {}", self.epsilon)));
        }
        let RotaryFrequencies { theta, scaling } = self.rotary;
        let is_scaled = scaling.is_none_or(|RotaryScaling { factor, low, high, .. }| {
            factor >= 1.0 && factor.is_finite() && low > 0.0 && high > low && high.is_finite()
        });
        if !(theta.is_finite() && theta > 1.0 && is_scaled) {
            return Err(refused(format!("rotary embedding by {:?}", self.rotary)));
        }
        Ok(())
    }

    /// Whether the layer that follows attention has a bias.
    pub(crate) fn has_output_bias(&self) -> bool {
        self.has_bias && self.family != Family::Qwen2
    }

    /// The number of parameters, from the sizes alone.
    pub fn parameters(&self) -> u128 {
        let [vocabulary, layers, width, ffn, heads, pairs, head_width] = [
            self.vocabulary,
            self.layers,
            self.width,
            self.ffn,
            self.heads,
            self.key_value_heads,
            self.head_width,
        ]
        .map(|n| n as u128);
        let (queries, pairs) = (heads * head_width, 2 * pairs * head_width);
        let after = if self.has_output_bias() { width } else { 0 };
        let bias = if self.has_bias { queries + pairs + after } else { 0 };
        let head_norms = if self.family == Family::Qwen3 { 2 * head_width } else { 0 };
        let attention = width * (2 * queries + pairs) + bias + head_norms;
        let block = attention + 3 * width * ffn + 2 * width;
        let tables = if self.is_tied { 1 } else { 2 };
        tables * vocabulary * width + layers * block + width
    }

    /// Floating-point operations that training on one token of a sample of `tokens` needs: 6 for
    /// each weight that is multiplied, and 12 for each pair of tokens, feature and block, of which
    /// causality would need half (Chowdhery et al. 2022 count so).
    pub fn flops_per_sample(&self, tokens: usize) -> u64 {
        let table = (self.vocabulary * self.width) as u128;
        let tables = if self.is_tied { table } else { 2 * table };
        let multiplied = self.parameters() - tables + table;
        let features = (self.heads * self.head_width) as u128;
        let pairs = 12 * (self.layers * tokens) as u128 * features;
        u64::try_from((6 * multiplied + pairs) * tokens as u128).unwrap_or(u64::MAX)
    }
}

pub(super) fn refused(why: impl Into<String>) -> ModelError {
    ModelError::Config(why.into())
}
