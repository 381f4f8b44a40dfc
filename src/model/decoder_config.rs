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

/// The reward head's parameter, `[1, hidden]`.
pub const HEAD_WEIGHT: &str = "score.weight";

impl Family {
    /// Every family, for messages and loops over them.
    pub const ALL: [Family; 2] = [Family::Llama, Family::Qwen2];

    /// `config.json: model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
        }
    }

    /// The class-name prefix of `config.json: architectures`.
    pub fn class_prefix(self) -> &'static str {
        match self {
            Family::Llama => "Llama",
            Family::Qwen2 => "Qwen2",
        }
    }
}

impl DecoderConfig {
    /// Every parameter of the reward model with its shape, in Hugging Face's names and module order:
    /// embeddings, layers, final norm, and last the head, [`HEAD_WEIGHT`].
    ///
    /// # Shapes
    /// Projections are `[out, in]`, as `torch.nn.Linear` stores them. `tie_word_embeddings` changes nothing: a
    /// reward model has no LM head.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden_size;
        let query = self.num_heads * self.head_dim;
        let key_value = self.num_kv_heads * self.head_dim;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.num_layers {
            let mut projection = |name: &str, out: usize, input: usize, bias: bool| {
                let prefix = format!("model.layers.{layer}.{name}");
                shapes.push((format!("{prefix}.weight"), vec![out, input]));
                if bias {
                    shapes.push((format!("{prefix}.bias"), vec![out]));
                }
            };
            projection("self_attn.q_proj", query, hidden, self.qkv_bias);
            projection("self_attn.k_proj", key_value, hidden, self.qkv_bias);
            projection("self_attn.v_proj", key_value, hidden, self.qkv_bias);
            projection("self_attn.o_proj", hidden, query, self.output_bias);
            projection("mlp.gate_proj", self.intermediate_size, hidden, self.mlp_bias);
            projection("mlp.up_proj", self.intermediate_size, hidden, self.mlp_bias);
            projection("mlp.down_proj", hidden, self.intermediate_size, self.mlp_bias);
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                shapes.push((format!("model.layers.{layer}.{norm}.weight"), vec![hidden]));
            }
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        shapes.push((HEAD_WEIGHT.to_owned(), vec![1, hidden]));
        shapes
    }

    /// Values in all parameters together, the head included.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_shapes()
            .iter()
            .map(|(_, shape)| shape.iter().map(|n| *n as u64).product::<u64>())
            .sum()
    }

    /// Whether a checkpoint may hold this tensor without the reward model using it: the LM head, and the rotary
    /// tables that old Llama checkpoints carry.
    pub fn is_unused_tensor(name: &str) -> bool {
        name == "lm_head.weight" || name.ends_with(".rotary_emb.inv_freq")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> DecoderConfig {
        DecoderConfig {
            family: Family::Llama,
            hidden_size: 64,
            intermediate_size: 172,
            num_layers: 5,
            num_heads: 8,
            num_kv_heads: 4,
            head_dim: 8,
            vocab_size: 512,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            rope_scaling: None,
            max_position_embeddings: 512,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        }
    }

    #[test]
    fn parameters_are_counted() {
        // 512*64 + 5 * (64*64 + 2*64*32 + 64*64 + 3*64*172 + 2*64) + 64, and 64 for the head.
        assert_eq!(small().parameter_count(), 260_032 + 64);
        assert_eq!(small().parameter_shapes().len(), 1 + 5 * 9 + 2);
    }

    #[test]
    fn biases_follow_the_flags() {
        let biased = DecoderConfig { qkv_bias: true, output_bias: true, mlp_bias: true, ..small() };
        let shapes = biased.parameter_shapes();
        let of = |name: &str| shapes.iter().find(|(n, _)| n == name).map(|(_, s)| s.as_slice());
        assert_eq!(of("model.layers.4.self_attn.k_proj.bias"), Some(&[32][..]));
        assert_eq!(of("model.layers.0.self_attn.o_proj.bias"), Some(&[64][..]));
        assert_eq!(of("model.layers.0.mlp.down_proj.bias"), Some(&[64][..]));
        assert_eq!(shapes.last().unwrap(), &(HEAD_WEIGHT.to_owned(), vec![1, 64]));
        assert_eq!(shapes.len(), 1 + 5 * 16 + 2);
    }
}
