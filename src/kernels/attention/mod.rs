//! Causal grouped-query attention over packed rows whose responses share a prompt.
//!
//! Every token of a response attends to its family's prompt and to the response's own tokens up to itself, exactly
//! as if prompt and response stood alone. Scores are never stored beyond one block of queries, so memory is linear
//! in the length.
//!
//! ```python
//! # one sequence: q [T, A, D], k and v [T, K, D]
//! o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
//! ```

pub mod composed;
mod cpu;

use super::host;
use candle_core::{Result, Tensor};

/// A run of consecutive tokens of the packed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub start: usize,
    pub len: usize,
}

/// Sequences that share a prompt: the prompt (possibly empty) and what follows it in each of them.
///
/// The prompt attends to itself causally; response i attends to the prompt and to itself causally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    pub prompt: Segment,
    pub responses: Vec<Segment>,
}

impl Family {
    /// Every segment that asks, with the prompt it sees beside itself.
    fn queries(&self) -> impl Iterator<Item = (Segment, Segment)> {
        let nothing = Segment { start: self.prompt.start, len: 0 };
        std::iter::once((self.prompt, nothing)).chain(self.responses.iter().map(|r| (*r, self.prompt)))
    }
}

/// Head counts and sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub key_value: usize,
    pub dim: usize,
}

impl Heads {
    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Query heads that share one key-value head.
    fn group(&self) -> usize {
        self.query / self.key_value
    }
}

/// What the backward needs beside the inputs.
#[derive(Debug, Clone)]
pub struct Output {
    /// [N, A * D]
    pub values: Tensor,
    /// Log of the softmax denominator of every token and query head, [N, A], f32. Empty off the CPU, where the
    /// composed form computes it again.
    log_sum_exp: Vec<f32>,
}

/// `q` [N, A * D], `k` and `v` [N, K * D], rotated already, to [N, A * D].
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, families: &[Family], heads: Heads) -> Result<Output> {
    check(q, families)?;
    if !host::is_host_f32(q) {
        let values = composed::forward(q, k, v, families, heads)?;
        return Ok(Output { values, log_sum_exp: Vec::new() });
    }
    let (values, log_sum_exp) = host::with(q, |q| {
        host::with(k, |k| host::with(v, |v| cpu::forward(cpu::Inputs { q, k, v }, families, heads)))
    })???;
    Ok(Output { values: host::tensor(values, q.shape())?, log_sum_exp })
}

/// Gradients of `q`, `k` and `v`.
pub fn backward(
    d_output: &Tensor,
    output: &Output,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    families: &[Family],
    heads: Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    if !host::is_host_f32(q) {
        return composed::backward(d_output, q, k, v, families, heads);
    }
    let (dq, dk, dv) = host::with(q, |q| {
        host::with(k, |k| {
            host::with(v, |v| {
                host::with(d_output, |d_output| {
                    host::with(&output.values, |output_values| {
                        let saved =
                            cpu::Saved { d_output, output: output_values, log_sum_exp: &output.log_sum_exp };
                        cpu::backward(cpu::Inputs { q, k, v }, saved, families, heads)
                    })
                })
            })
        })
    })?????;
    Ok((host::tensor(dq, q.shape())?, host::tensor(dk, k.shape())?, host::tensor(dv, v.shape())?))
}

/// The CPU kernel writes through pointers, so the families must tile the row.
fn check(q: &Tensor, families: &[Family]) -> Result<()> {
    let mut next = 0;
    for segment in families.iter().flat_map(|f| f.queries().map(|(segment, _)| segment)) {
        if segment.start != next {
            candle_core::bail!(
                "attention segments must tile the packed row; one starts at {}",
                segment.start
            );
        }
        next += segment.len;
    }
    if next != q.dim(0)? {
        candle_core::bail!("attention segments cover {next} tokens of {}", q.dim(0)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_close, finite_difference, wave};

    fn segment(start: usize, len: usize) -> Segment {
        Segment { start, len }
    }

    /// A pair with a shared prompt longer than a query block, three responses to another, and a lone sequence.
    fn families() -> (usize, Vec<Family>) {
        let families = vec![
            Family { prompt: segment(0, 70), responses: vec![segment(70, 5), segment(75, 80)] },
            Family {
                prompt: segment(155, 4),
                responses: vec![segment(159, 1), segment(160, 7), segment(167, 2)],
            },
            Family { prompt: segment(169, 0), responses: vec![segment(169, 9)] },
        ];
        (178, families)
    }

    const HEADS: Heads = Heads { query: 6, key_value: 2, dim: 4 };

    fn inputs(n: usize) -> Result<[Tensor; 3]> {
        Ok([(wave((n, 24), 0.37)? * 2.0)?, (wave((n, 8), 0.73)? * 2.0)?, wave((n, 8), 1.19)?])
    }

    #[test]
    fn fused_equals_composed() -> Result<()> {
        let (n, families) = families();
        let [q, k, v] = inputs(n)?;
        let output = forward(&q, &k, &v, &families, HEADS)?;
        assert_close(&output.values, &composed::forward(&q, &k, &v, &families, HEADS)?, 2e-6);
        let dy = wave((n, 24), 0.53)?;
        let fused = backward(&dy, &output, &q, &k, &v, &families, HEADS)?;
        let reference = composed::backward(&dy, &q, &k, &v, &families, HEADS)?;
        assert_close(&fused.0, &reference.0, 1e-5);
        assert_close(&fused.1, &reference.1, 1e-5);
        assert_close(&fused.2, &reference.2, 1e-5);
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences() -> Result<()> {
        let families = vec![Family { prompt: segment(0, 2), responses: vec![segment(2, 2), segment(4, 1)] }];
        let heads = Heads { query: 2, key_value: 1, dim: 4 };
        let (q, k, v, dy) =
            (wave((5, 8), 0.37)?, wave((5, 4), 0.73)?, wave((5, 4), 1.19)?, wave((5, 8), 0.5)?);
        let output = forward(&q, &k, &v, &families, heads)?;
        let (dq, dk, dv) = backward(&dy, &output, &q, &k, &v, &families, heads)?;
        let run = |q: &Tensor, k: &Tensor, v: &Tensor| Ok(forward(q, k, v, &families, heads)?.values);
        assert_close(&dq, &finite_difference(&q, &dy, |q| run(q, &k, &v))?, 2e-3);
        assert_close(&dk, &finite_difference(&k, &dy, |k| run(&q, k, &v))?, 2e-3);
        assert_close(&dv, &finite_difference(&v, &dy, |v| run(&q, &k, v))?, 2e-3);
        Ok(())
    }

    #[test]
    fn a_shared_prompt_gives_what_separate_sequences_give() -> Result<()> {
        let (n, families) = families();
        let [q, k, v] = inputs(n)?;
        let shared = forward(&q, &k, &v, &families, HEADS)?.values;
        for family in &families {
            for response in &family.responses {
                let (p, r) = (family.prompt, *response);
                let alone = |t: &Tensor| {
                    Tensor::cat(&[t.narrow(0, p.start, p.len)?, t.narrow(0, r.start, r.len)?], 0)
                };
                let sequence =
                    vec![Family { prompt: segment(0, 0), responses: vec![segment(0, p.len + r.len)] }];
                let y = forward(&alone(&q)?, &alone(&k)?, &alone(&v)?, &sequence, HEADS)?.values;
                assert_close(&shared.narrow(0, r.start, r.len)?, &y.narrow(0, p.len, r.len)?, 2e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn large_scores_neither_overflow_nor_lose_the_maximum() -> Result<()> {
        let family = [Family { prompt: segment(0, 0), responses: vec![segment(0, 3)] }];
        let heads = Heads { query: 1, key_value: 1, dim: 2 };
        let q = (wave((3, 2), 0.4)? * 1e4)?;
        let y = forward(&q, &q, &wave((3, 2), 0.9)?, &family, heads)?.values;
        assert!(y.flatten_all()?.to_vec1::<f32>()?.iter().all(|v| v.is_finite()));
        Ok(())
    }

    #[test]
    fn segments_that_do_not_tile_the_row_are_refused() -> Result<()> {
        let [q, k, v] = inputs(5)?;
        for family in [
            Family { prompt: segment(0, 2), responses: vec![segment(3, 2)] },
            Family { prompt: segment(0, 2), responses: vec![segment(2, 2)] },
        ] {
            assert!(forward(&q, &k, &v, &[family], HEADS).is_err());
        }
        Ok(())
    }
}
