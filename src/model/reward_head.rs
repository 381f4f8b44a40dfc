//! Reward heads `r = W_p . h` on the host, with f64 sums: one dot product a sequence and head costs nothing, and the
//! scores do not inherit the compute dtype.
//!
//! Here: the arithmetic of one head or of the k heads of an ensemble. What a batch was given is in
//! [`super::head_rewards`], the file of an ensemble in [`super::ensemble_file`].

use super::head_rewards::HeadRewards;
use rayon::prelude::*;

/// The heads of a model: one, or the k of an ensemble.
#[derive(Debug, Clone, PartialEq)]
pub struct Heads {
    /// [K, H], row-major.
    weights: Vec<f32>,
    width: usize,
}

/// The part of a gradient that reaches hidden states by their norms.
#[derive(Debug, Clone, Copy)]
pub struct NormGradient<'a> {
    /// The hidden states, [S, H].
    pub hidden: &'a [f32],
    /// dL/d|h|, [S].
    pub d_norms: &'a [f64],
}

impl Heads {
    /// Heads of `width` values each, one after the other.
    pub fn new(weights: Vec<f32>, width: usize) -> Self {
        Self { weights, width }
    }

    /// [K, H], row-major.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    pub fn count(&self) -> usize {
        self.weights.len() / self.width
    }

    /// H
    pub fn width(&self) -> usize {
        self.width
    }

    fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.weights.chunks_exact(self.width)
    }

    /// The mean head, [H]: a head itself, whose rewards are the means of the heads' rewards. Of one head it is that
    /// head, to the bit.
    pub fn mean(&self) -> Vec<f32> {
        let mut sums = vec![-0.0f64; self.width];
        for head in self.iter() {
            sums.iter_mut().zip(head).for_each(|(sum, &w)| *sum += f64::from(w));
        }
        let count = self.count() as f64;
        sums.into_iter().map(|sum| (sum / count) as f32).collect()
    }

    /// Rewards of hidden states [S, H].
    pub fn rewards(&self, hidden: &[f32]) -> HeadRewards {
        let of = |head: &[f32]| hidden.par_chunks_exact(self.width).map(|h| dot(h, head)).collect();
        HeadRewards::new(self.iter().map(of).collect())
    }

    /// Gradient of the hidden states [S, H], given dL/dr of every head, [K][S], and, where the loss speaks of norms,
    /// dL/d|h|: `dL/dh = sum_j dL/dr_j W_j + dL/d|h| h / |h|`. A zero vector has no direction and gets none of the latter.
    pub fn hidden_gradient(&self, d_rewards: &[&[f64]], norms: Option<NormGradient>) -> Vec<f32> {
        let sequences = d_rewards.first().map_or(0, |d| d.len());
        let mut d_hidden = Vec::with_capacity(sequences * self.width);
        let mut sums = vec![0.0f64; self.width];
        for sequence in 0..sequences {
            // Minus zero is what changes nothing when it is added to.
            sums.fill(-0.0);
            for (head, d_rewards) in self.iter().zip(d_rewards) {
                let d = d_rewards[sequence];
                sums.iter_mut().zip(head).for_each(|(sum, &w)| *sum += d * f64::from(w));
            }
            if let Some(NormGradient { hidden, d_norms }) = norms {
                let h = &hidden[sequence * self.width..(sequence + 1) * self.width];
                let norm = dot(h, h).sqrt();
                let along = if norm > 0.0 { d_norms[sequence] / norm } else { 0.0 };
                sums.iter_mut().zip(h).for_each(|(sum, &h)| *sum += along * f64::from(h));
            }
            d_hidden.extend(sums.iter().map(|&sum| sum as f32));
        }
        d_hidden
    }

    /// Gradient of the heads [K, H] over the hidden states [S, H] of a whole step, given dL/dr of every head, [K][S].
    pub fn gradient(&self, hidden: &[f32], d_rewards: &[&[f64]]) -> Vec<f32> {
        let of = |d_rewards: &&[f64]| {
            let mut d_head = vec![0.0f64; self.width];
            for (h, &d) in hidden.chunks_exact(self.width).zip(*d_rewards) {
                d_head.iter_mut().zip(h).for_each(|(sum, &h)| *sum += d * f64::from(h));
            }
            d_head.into_iter().map(|d| d as f32)
        };
        d_rewards.iter().flat_map(of).collect()
    }
}

/// Dot product with f64 sums.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: [f32; 6] = [0.5, -1.0, 2.0, 0.25, 1.5, -0.75];

    /// One head and three, with dL/dr of two sequences.
    fn cases() -> [(Heads, Vec<Vec<f64>>); 2] {
        let one = vec![0.3f32, -0.2, 0.9];
        let three = [one.as_slice(), &[-0.7, 0.1, 0.4], &[0.2, 0.8, -0.5]].concat();
        let d_rewards = vec![vec![1.5, -0.5], vec![0.25, 2.0], vec![0.0, -1.0]];
        [(Heads::new(one, 3), d_rewards[..1].to_vec()), (Heads::new(three, 3), d_rewards)]
    }

    fn slices(rows: &[Vec<f64>]) -> Vec<&[f64]> {
        rows.iter().map(Vec::as_slice).collect()
    }

    /// The part of a loss that is linear in rewards.
    fn by_rewards(heads: &Heads, hidden: &[f32], d_rewards: &[Vec<f64>]) -> f64 {
        let rewards = heads.rewards(hidden);
        rewards.by_head().iter().flatten().zip(d_rewards.iter().flatten()).map(|(r, d)| r * d).sum()
    }

    /// The slope of a function at every coordinate, by central differences.
    fn slopes(at: &[f32], function: impl Fn(&[f32]) -> f64) -> Vec<f64> {
        let slope = |i: usize| {
            let (mut up, mut down) = (at.to_vec(), at.to_vec());
            up[i] += 1e-2;
            down[i] -= 1e-2;
            (function(&up) - function(&down)) / f64::from(up[i] - down[i])
        };
        (0..at.len()).map(slope).collect()
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < tolerance, "{i}: {found} against {expected}");
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        for (heads, d_rewards) in cases() {
            let expected = slopes(&HIDDEN, |hidden| by_rewards(&heads, hidden, &d_rewards));
            assert_close(&heads.hidden_gradient(&slices(&d_rewards), None), &expected, 1e-6);
            let with = |weights: &[f32]| by_rewards(&Heads::new(weights.to_vec(), 3), &HIDDEN, &d_rewards);
            let expected = slopes(heads.weights(), with);
            assert_close(&heads.gradient(&HIDDEN, &slices(&d_rewards)), &expected, 1e-6);
        }
    }

    #[test]
    fn the_gradient_by_norms_matches_finite_differences() {
        let d_norms = [0.7, -2.0];
        for (heads, d_rewards) in cases() {
            let loss = |hidden: &[f32]| -> f64 {
                let norms = hidden.chunks_exact(3).map(|h| dot(h, h).sqrt());
                by_rewards(&heads, hidden, &d_rewards) + norms.zip(d_norms).map(|(n, d)| n * d).sum::<f64>()
            };
            let norms = NormGradient { hidden: &HIDDEN, d_norms: &d_norms };
            let found = heads.hidden_gradient(&slices(&d_rewards), Some(norms));
            assert_close(&found, &slopes(&HIDDEN, loss), 1e-4);
            let zero = NormGradient { hidden: &[0.0; 3], d_norms: &[1.0] };
            let nothing = vec![&[0.0][..]; heads.count()];
            assert_eq!(heads.hidden_gradient(&nothing, Some(zero)), [0.0; 3]);
        }
    }

    #[test]
    fn the_mean_head_gives_the_mean_reward() {
        for (heads, _) in cases() {
            let mean = Heads::new(heads.mean(), 3);
            let (found, expected) = (mean.rewards(&HIDDEN).mean(), heads.rewards(&HIDDEN).mean());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} against {expected}");
            }
        }
        let [(one, _), _] = cases();
        assert_eq!(one.mean(), one.weights());
    }
}
