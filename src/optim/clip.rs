//! Clipping by the global gradient norm.

/// The factor that brings a gradient of norm `norm` down to `max_norm`, as `torch.nn.utils.clip_grad_norm_` has it.
///
/// The optimizer multiplies by it while it reads the gradient, so that clipping is no pass of its own.
pub fn factor(norm: f64, max_norm: Option<f64>) -> f64 {
    max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_larger_norms_are_scaled() {
        assert_eq!(factor(0.5, Some(1.0)), 1.0);
        assert_eq!(factor(5.0, None), 1.0);
        assert!((factor(4.0, Some(1.0)) - 0.25).abs() < 1e-6);
        assert_eq!(factor(0.0, Some(1.0)), 1.0);
    }
}
