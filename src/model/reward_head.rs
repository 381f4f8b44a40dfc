//! The reward head `r = W_p . h` on the host, with f64 sums: one dot product a sequence costs nothing, and the
//! scores do not inherit the compute dtype.

use rayon::prelude::*;

/// Rewards of hidden states [S, H].
pub fn rewards(hidden: &[f32], head: &[f32]) -> Vec<f64> {
    hidden.par_chunks_exact(head.len()).map(|h| dot(h, head)).collect()
}

/// The part of a gradient that reaches hidden states by their norms.
#[derive(Debug, Clone, Copy)]
pub struct NormGradient<'a> {
    /// The hidden states, [S, H].
    pub hidden: &'a [f32],
    /// dL/d|h|, [S].
    pub d_norms: &'a [f64],
}

/// Gradient of the hidden states [S, H], given dL/dr [S] and, where the loss speaks of norms, dL/d|h|:
/// `dL/dh = dL/dr W_p + dL/d|h| h / |h|`. A zero vector has no direction and gets none of the latter.
pub fn hidden_gradient(head: &[f32], d_rewards: &[f64], norms: Option<NormGradient>) -> Vec<f32> {
    let Some(NormGradient { hidden, d_norms }) = norms else {
        return d_rewards
            .iter()
            .flat_map(|&d| head.iter().map(move |&w| (d * f64::from(w)) as f32))
            .collect();
    };
    let states = hidden.chunks_exact(head.len());
    let slopes = d_rewards.iter().zip(d_norms);
    slopes
        .zip(states)
        .flat_map(|((&d, &d_norm), h)| {
            let norm = dot(h, h).sqrt();
            let along = if norm > 0.0 { d_norm / norm } else { 0.0 };
            head.iter().zip(h).map(move |(&w, &h)| (d * f64::from(w) + along * f64::from(h)) as f32)
        })
        .collect()
}

/// Gradient of the head [H] over the hidden states [S, H] of a whole step.
pub fn head_gradient(hidden: &[f32], width: usize, d_rewards: &[f64]) -> Vec<f32> {
    let mut d_head = vec![0.0f64; width];
    for (h, &d) in hidden.chunks_exact(width).zip(d_rewards) {
        d_head.iter_mut().zip(h).for_each(|(sum, &h)| *sum += d * f64::from(h));
    }
    d_head.into_iter().map(|d| d as f32).collect()
}

/// Dot product with f64 sums.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_match_finite_differences() {
        let hidden = [0.5f32, -1.0, 2.0, 0.25, 1.5, -0.75];
        let (head, d_rewards) = ([0.3f32, -0.2, 0.9], [1.5, -0.5]);
        let loss = |hidden: &[f32], head: &[f32]| -> f64 {
            rewards(hidden, head).iter().zip(d_rewards).map(|(r, d)| r * d).sum()
        };
        let d_hidden = hidden_gradient(&head, &d_rewards, None);
        let d_head = head_gradient(&hidden, 3, &d_rewards);
        for i in 0..hidden.len() {
            let (mut up, mut down) = (hidden, hidden);
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let slope = (loss(&up, &head) - loss(&down, &head)) / f64::from(up[i] - down[i]);
            assert!((slope - f64::from(d_hidden[i])).abs() < 1e-6);
        }
        for i in 0..head.len() {
            let (mut up, mut down) = (head, head);
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let slope = (loss(&hidden, &up) - loss(&hidden, &down)) / f64::from(up[i] - down[i]);
            assert!((slope - f64::from(d_head[i])).abs() < 1e-6);
        }
    }
    #[test]
    fn the_gradient_by_norms_matches_finite_differences() {
        let hidden = [0.5f32, -1.0, 2.0, 0.25, 1.5, -0.75];
        let (head, d_rewards, d_norms) = ([0.3f32, -0.2, 0.9], [1.5, -0.5], [0.7, -2.0]);
        let loss = |hidden: &[f32]| -> f64 {
            let by_rewards: f64 = rewards(hidden, &head).iter().zip(d_rewards).map(|(r, d)| r * d).sum();
            let norms = hidden.chunks_exact(3).map(|h| dot(h, h).sqrt());
            by_rewards + norms.zip(d_norms).map(|(n, d)| n * d).sum::<f64>()
        };
        let norms = NormGradient { hidden: &hidden, d_norms: &d_norms };
        let d_hidden = hidden_gradient(&head, &d_rewards, Some(norms));
        for i in 0..hidden.len() {
            let (mut up, mut down) = (hidden, hidden);
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let slope = (loss(&up) - loss(&down)) / f64::from(up[i] - down[i]);
            assert!((slope - f64::from(d_hidden[i])).abs() < 1e-4, "{i}: {} against {slope}", d_hidden[i]);
        }
        let zero = NormGradient { hidden: &[0.0; 3], d_norms: &[1.0] };
        assert_eq!(hidden_gradient(&head, &[0.0], Some(zero)), [0.0; 3]);
    }
}
