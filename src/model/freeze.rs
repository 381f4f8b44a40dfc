//! What of a model is not trained.

/// `model.freeze_embeddings` and `model.freeze_layers`.
///
/// A frozen parameter keeps its loaded value to the bit; it has no gradient, no moments and no part in the gradient
/// norm. Layers below everything that is trained run as in scoring. A frozen layer above embeddings that are trained
/// passes on the gradient of its input and forms none of its own weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freeze {
    pub embeddings: bool,
    /// The first so many decoder layers, norms and biases included.
    pub layers: usize,
}

impl Freeze {
    /// Whether the parameter of this Hugging Face name is frozen.
    pub fn covers(self, name: &str) -> bool {
        if name == "model.embed_tokens.weight" {
            return self.embeddings;
        }
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
        layer.is_some_and(|layer: usize| layer < self.layers)
    }

    /// How many of the first layers need no backward: nothing at or below them is trained.
    pub fn layers_without_backward(self) -> usize {
        if self.embeddings { self.layers } else { 0 }
    }

    /// What is wrong with it for a model of so many layers.
    pub fn problem(self, num_layers: usize) -> Option<String> {
        (self.layers > num_layers).then(|| {
            format!(
                "model.freeze_layers: found {}, expected at most {num_layers}, the model's num_hidden_layers",
                self.layers
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_frozen_by_name() {
        let freeze = Freeze { embeddings: false, layers: 2 };
        for name in ["model.layers.0.input_layernorm.weight", "model.layers.1.self_attn.q_proj.bias"] {
            assert!(freeze.covers(name) && !Freeze::default().covers(name), "{name}");
        }
        let trained = ["model.layers.2.mlp.up_proj.weight", "model.layers.10.mlp.up_proj.weight"];
        for name in
            trained.into_iter().chain(["model.embed_tokens.weight", "model.norm.weight", "score.weight"])
        {
            assert!(!freeze.covers(name), "{name}");
        }
        let both = Freeze { embeddings: true, ..freeze };
        assert!(both.covers("model.embed_tokens.weight"));
        assert_eq!((freeze.layers_without_backward(), both.layers_without_backward()), (0, 2));
        assert!(both.problem(2).is_none());
        assert!(both.problem(1).unwrap().contains("found 2, expected at most 1"));
    }
}
