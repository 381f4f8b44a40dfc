//! The head of a multi-objective reward model whose objectives are weighed by a gate that has read the prompt alone.
//!
//! Pure arithmetic on the host, with f64 sums: two hidden states in, one score out. Where the hidden states come from is
//! in `armorm`.
//!
//! # Source
//! Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts" (arXiv
//! 2406.12845), and the tensors of RLHFlow/ArmoRM-Llama3-8B-v0.1.

use super::reward_head::dot;

/// `score = sum_k gate_k (R h_last T)_k`, `gate = scale softmax(MLP(h_header) / temperature)`.
///
/// # Shapes
/// K objectives, H hidden. `R` [K, H], `T` [K, K].
#[derive(Debug, Clone, PartialEq)]
pub struct GatedHead {
    /// `regression_layer.weight`, [K, H].
    pub regression: Vec<f32>,
    /// `reward_transform_matrix`, [K, K]; a row of rewards is multiplied by it from the right.
    pub transform: Vec<f32>,
    /// The gate's layers, H to K, with ReLU between them.
    pub layers: Vec<Dense>,
    /// What the gate's last values are divided by before the softmax; `config.json: gating_temperature`.
    pub temperature: f64,
    /// What the softmax is multiplied by; `gating.logit_scale`.
    pub scale: f64,
}

/// An affine map.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// [out, in].
    pub weight: Vec<f32>,
    /// [out].
    pub bias: Vec<f32>,
}

/// What a multi-objective model says of one response.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Objectives {
    /// The reward of every objective, before the transform, [K].
    pub rewards: Vec<f64>,
    /// The weight of every objective (after the transform), [K].
    pub gate: Vec<f64>,
}

impl GatedHead {
    /// The objectives' rewards [K] of the last token's hidden state [H].
    pub fn rewards(&self, last: &[f32]) -> Vec<f64> {
        self.regression.chunks_exact(last.len()).map(|row| dot(row, last)).collect()
    }

    /// The objectives' weights [K] by the hidden state [H] where the assistant's header starts.
    pub fn gate(&self, header: &[f32]) -> Vec<f64> {
        let mut x: Vec<f64> = header.iter().map(|&h| f64::from(h)).collect();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x);
            if i + 1 < self.layers.len() {
                x.iter_mut().for_each(|v| *v = v.max(0.0));
            }
        }
        x.iter_mut().for_each(|v| *v /= self.temperature);
        softmax(&mut x);
        x.iter_mut().for_each(|v| *v *= self.scale);
        x
    }

    /// The score of one response.
    pub fn score(&self, objectives: &Objectives) -> f64 {
        let Objectives { rewards, gate } = objectives;
        // `gate . (rewards T)`, row by row of T.
        let rows = self.transform.chunks_exact(gate.len().max(1));
        let along_gate = |row: &[f32]| row.iter().zip(gate).map(|(&t, g)| f64::from(t) * g).sum::<f64>();
        rewards.iter().zip(rows).map(|(reward, row)| reward * along_gate(row)).sum()
    }
}

impl Dense {
    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.weight.chunks_exact(x.len()).zip(&self.bias);
        rows.map(|(row, &bias)| {
            f64::from(bias) + row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>()
        })
        .collect()
    }
}

/// In place, shifted by the largest value so that nothing overflows.
fn softmax(x: &mut [f64]) {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    x.iter_mut().for_each(|v| *v = (*v - largest).exp());
    let sum: f64 = x.iter().sum();
    x.iter_mut().for_each(|v| *v /= sum);
}

/// Where the last occurrence of `pattern` starts.
pub fn last_occurrence(ids: &[u32], pattern: &[u32]) -> Option<usize> {
    if pattern.is_empty() {
        return None;
    }
    ids.windows(pattern.len()).rposition(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two objectives, three hidden values, a gate of one hidden layer.
    fn head() -> GatedHead {
        GatedHead {
            regression: vec![1.0, 0.0, -1.0, 0.5, 0.5, 0.5],
            transform: vec![1.0, -0.5, 0.25, 1.0],
            layers: vec![
                Dense { weight: vec![1.0, 0.0, 0.0, 0.0, -1.0, 0.0], bias: vec![0.5, 0.0] },
                Dense { weight: vec![2.0, 1.0, -1.0, 3.0], bias: vec![0.0, 1.0] },
            ],
            temperature: 2.0,
            scale: 1.5,
        }
    }

    fn close(found: &[f64], expected: &[f64]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12)
    }

    #[test]
    fn a_score_worked_out_by_hand() {
        let head = head();
        let rewards = head.rewards(&[2.0, 1.0, -1.0]);
        assert!(close(&rewards, &[3.0, 1.0]), "{rewards:?}");
        // The second hidden unit is -2 before ReLU, so 0; the first is 1.5: logits 3 and -0.5, halved by the temperature.
        let gate = head.gate(&[1.0, 2.0, 7.0]);
        let odds = (1.75f64).exp();
        assert!(close(&gate, &[1.5 * odds / (odds + 1.0), 1.5 / (odds + 1.0)]), "{gate:?}");
        // rewards T = [3 * 1 + 1 * 0.25, 3 * -0.5 + 1 * 1].
        let expected = gate[0] * 3.25 + gate[1] * -0.5;
        let score = head.score(&Objectives { rewards, gate });
        assert!(close(&[score], &[expected]), "{score} against {expected}");
    }

    #[test]
    fn the_temperature_flattens_the_gate_and_large_logits_do_not_overflow() {
        let cold = GatedHead { temperature: 1e-3, ..head() };
        assert!(close(&cold.gate(&[1.0, 2.0, 7.0]), &[1.5, 0.0]));
        let hot = GatedHead { temperature: 1e9, ..head() };
        assert!(hot.gate(&[1.0, 2.0, 7.0]).iter().all(|g| (g - 0.75).abs() < 1e-6));
        assert!(head().gate(&[1e30, -1e30, 0.0]).iter().all(|g| g.is_finite()));
    }

    #[test]
    fn the_pattern_is_found_where_it_starts_for_the_last_time() {
        assert_eq!(last_occurrence(&[1, 2, 1, 2, 3], &[1, 2]), Some(2));
        assert_eq!(last_occurrence(&[1, 1, 1], &[1, 1]), Some(1), "occurrences may overlap");
        assert_eq!(last_occurrence(&[2, 1], &[1, 2]), None);
        assert_eq!(last_occurrence(&[1], &[1, 2]), None);
        assert_eq!(last_occurrence(&[1, 2], &[]), None);
    }

    proptest! {
        #[test]
        fn the_gate_sums_to_its_scale_whatever_the_hidden_state(
            hidden in prop::collection::vec(-1e3f32..1e3, 3), temperature in 0.1f64..100.0,
        ) {
            let gate = GatedHead { temperature, ..head() }.gate(&hidden);
            prop_assert!((gate.iter().sum::<f64>() - 1.5).abs() < 1e-9);
            prop_assert!(gate.iter().all(|&g| g >= 0.0));
        }

        #[test]
        fn found_positions_hold_the_pattern_and_nothing_later_does(
            ids in prop::collection::vec(0u32..2, 0..20), pattern in prop::collection::vec(0u32..2, 1..4),
        ) {
            let found = last_occurrence(&ids, &pattern);
            let all: Vec<usize> =
                (0..ids.len()).filter(|&at| ids[at..].starts_with(&pattern)).collect();
            prop_assert_eq!(found, all.last().copied());
        }
    }
}
