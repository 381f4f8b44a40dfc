//! The shape of a decoder: what `config.json` says, whatever the family.

/// A pre-norm, rotary, grouped-query decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    pub family: Family,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    /// Not always `hidden_size / num_heads`.
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<Llama3RopeScaling>,
    /// Positions the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Bias of the query, key and value projections (Qwen2 always; Llama with `attention_bias`).
    pub qkv_bias: bool,
    /// Bias of the attention's output projection (Llama with `attention_bias`).
    pub output_bias: bool,
    /// Bias of the three MLP projections (Llama with `mlp_bias`).
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
}

/// The architectures that are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Qwen2,
}

/// `rope_scaling` of type `llama3`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3RopeScaling {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_max_position_embeddings: usize,
}
