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

use super::{cuda, host};
use candle_core::{Device, Result, Tensor};
use std::ops::Deref;
use std::sync::OnceLock;

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
    pub(super) fn queries(&self) -> impl Iterator<Item = (Segment, Segment)> {
        let nothing = Segment { start: self.prompt.start, len: 0 };
        std::iter::once((self.prompt, nothing)).chain(self.responses.iter().map(|r| (*r, self.prompt)))
    }
}

/// The families of a packed row, and the tiles that they become on a GPU: cut and uploaded once, not once a layer.
#[derive(Debug, Clone, Default)]
pub struct Families {
    families: Vec<Family>,
    tiles: OnceLock<cuda::attention::Tiles>,
}

impl Families {
    pub(crate) fn tiles(&self, device: &Device) -> Result<&cuda::attention::Tiles> {
        if let Some(tiles) = self.tiles.get() {
            return Ok(tiles);
        }
        let tiles = cuda::attention::Tiles::of(&self.families, device)?;
        Ok(self.tiles.get_or_init(|| tiles))
    }
}

impl From<Vec<Family>> for Families {
    fn from(families: Vec<Family>) -> Self {
        Self { families, tiles: OnceLock::new() }
    }
}

impl Deref for Families {
    type Target = [Family];

    fn deref(&self) -> &[Family] {
        &self.families
    }
}

impl PartialEq for Families {
    fn eq(&self, other: &Self) -> bool {
        self.families == other.families
    }
}

impl Eq for Families {}

/// Head counts and sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub key_value: usize,
    pub dim: usize,
}

impl Heads {
    pub(super) fn scale(&self) -> f32 {
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
    log_sum_exp: LogSumExp,
}

/// Log of the softmax denominator of every token and query head, [N, A], f32.
#[derive(Debug, Clone)]
enum LogSumExp {
    Host(Vec<f32>),
    Device(Tensor),
    /// The composed form computes it again.
    Forgotten,
}

/// `q` [N, A * D], `k` and `v` [N, K * D], rotated already, to [N, A * D].
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, families: &Families, heads: Heads) -> Result<Output> {
    check(q, families)?;
    check_widths([q, k, v], heads)?;
    if cuda::takes(q) {
        let (values, log_sum_exp) = cuda::attention::forward([q, k, v], families, heads)?;
        return Ok(Output { values, log_sum_exp: LogSumExp::Device(log_sum_exp) });
    }
    if !host::is_host_f32(q) {
        let values = composed::forward(q, k, v, families, heads)?;
        return Ok(Output { values, log_sum_exp: LogSumExp::Forgotten });
    }
    let (values, log_sum_exp) = host::with(q, |q| {
        host::with(k, |k| host::with(v, |v| cpu::forward(cpu::Inputs { q, k, v }, families, heads)))
    })???;
    Ok(Output { values: host::tensor(values, q.shape())?, log_sum_exp: LogSumExp::Host(log_sum_exp) })
}

/// Gradients of `q`, `k` and `v`.
pub fn backward(
    d_output: &Tensor,
    output: &Output,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    families: &Families,
    heads: Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    host::expect_shape("gradient of attention's output", d_output, q.dims())?;
    let log_sum_exp = match &output.log_sum_exp {
        LogSumExp::Device(log_sum_exp) => {
            return cuda::attention::backward(
                d_output,
                &output.values,
                log_sum_exp,
                [q, k, v],
                families,
                heads,
            );
        }
        LogSumExp::Forgotten => return composed::backward(d_output, q, k, v, families, heads),
        LogSumExp::Host(log_sum_exp) => log_sum_exp,
    };
    let (dq, dk, dv) = host::with(q, |q| {
        host::with(k, |k| {
            host::with(v, |v| {
                host::with(d_output, |d_output| {
                    host::with(&output.values, |output_values| {
                        let saved = cpu::Saved { d_output, output: output_values, log_sum_exp };
                        cpu::backward(cpu::Inputs { q, k, v }, saved, families, heads)
                    })
                })
            })
        })
    })?????;
    Ok((host::tensor(dq, q.shape())?, host::tensor(dk, k.shape())?, host::tensor(dv, v.shape())?))
}

/// Keys and values have as many rows as queries, and heads of one size.
fn check_widths([q, k, v]: [&Tensor; 3], heads: Heads) -> Result<()> {
    let n = q.dim(0)?;
    host::expect_shape("queries", q, &[n, heads.query * heads.dim])?;
    host::expect_shape("keys", k, &[n, heads.key_value * heads.dim])?;
    host::expect_shape("values", v, &[n, heads.key_value * heads.dim])
}

/// The kernels write through pointers, so the families must tile the row.
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
    fn families() -> (usize, Families) {
        let families = vec![
            Family { prompt: segment(0, 70), responses: vec![segment(70, 5), segment(75, 80)] },
            Family {
                prompt: segment(155, 4),
                responses: vec![segment(159, 1), segment(160, 7), segment(167, 2)],
            },
            Family { prompt: segment(169, 0), responses: vec![segment(169, 9)] },
        ];
        (178, families.into())
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
        let families =
            vec![Family { prompt: segment(0, 2), responses: vec![segment(2, 2), segment(4, 1)] }].into();
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
        for family in &*families {
            for response in &family.responses {
                let (p, r) = (family.prompt, *response);
                let alone = |t: &Tensor| {
                    Tensor::cat(&[t.narrow(0, p.start, p.len)?, t.narrow(0, r.start, r.len)?], 0)
                };
                let sequence =
                    vec![Family { prompt: segment(0, 0), responses: vec![segment(0, p.len + r.len)] }];
                let y = forward(&alone(&q)?, &alone(&k)?, &alone(&v)?, &sequence.into(), HEADS)?.values;
                assert_close(&shared.narrow(0, r.start, r.len)?, &y.narrow(0, p.len, r.len)?, 2e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn large_scores_neither_overflow_nor_lose_the_maximum() -> Result<()> {
        let family = vec![Family { prompt: segment(0, 0), responses: vec![segment(0, 3)] }].into();
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
            assert!(forward(&q, &k, &v, &vec![family].into(), HEADS).is_err());
        }
        Ok(())
    }
}
