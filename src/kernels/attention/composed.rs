//! Attention out of candle operations, one response at a time: the reference, and what scores in f16.

use super::{Family, Heads, Segment};
use candle_core::{D, DType, Result, Tensor};

/// Token ranges of the keys that a segment sees, as one tensor [A, T, D] in f32 with key-value heads repeated.
fn keys(t: &Tensor, prompt: Segment, own: Segment, heads: Heads) -> Result<Tensor> {
    let rows = Tensor::cat(&[t.narrow(0, prompt.start, prompt.len)?, t.narrow(0, own.start, own.len)?], 0)?;
    let len = prompt.len + own.len;
    rows.to_dtype(DType::F32)?
        .reshape((len, heads.key_value, 1, heads.dim))?
        .broadcast_as((len, heads.key_value, heads.group(), heads.dim))?
        .reshape((len, heads.query, heads.dim))?
        .transpose(0, 1)?
        .contiguous()
}

fn queries(t: &Tensor, own: Segment, heads: Heads) -> Result<Tensor> {
    t.narrow(0, own.start, own.len)?
        .to_dtype(DType::F32)?
        .reshape((own.len, heads.query, heads.dim))?
        .transpose(0, 1)?
        .contiguous()
}

/// Softmax of the masked scores, [A, own, prompt + own].
fn probabilities(q: &Tensor, k: &Tensor, prompt: usize, heads: Heads) -> Result<Tensor> {
    let (own, all) = (q.dim(1)?, k.dim(1)?);
    let mask: Vec<f32> = (0..own)
        .flat_map(|i| (0..all).map(move |j| if j <= prompt + i { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    let mask = Tensor::from_vec(mask, (own, all), q.device())?;
    let scores = (q.matmul(&k.t()?)? * f64::from(heads.scale()))?.broadcast_add(&mask)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}

/// Segments that hold tokens, in the order of the row, each with its prompt.
fn occupied(families: &[Family]) -> impl Iterator<Item = (Segment, Segment)> {
    families.iter().flat_map(Family::queries).filter(|(own, _)| own.len > 0)
}

pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, families: &[Family], heads: Heads) -> Result<Tensor> {
    let mut rows = Vec::new();
    for (own, prompt) in occupied(families) {
        let p = probabilities(&queries(q, own, heads)?, &keys(k, prompt, own, heads)?, prompt.len, heads)?;
        let y = p.matmul(&keys(v, prompt, own, heads)?)?.transpose(0, 1)?;
        rows.push(y.reshape((own.len, heads.query * heads.dim))?);
    }
    Tensor::cat(&rows, 0)?.to_dtype(q.dtype())
}

pub fn backward(
    dy: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    families: &[Family],
    heads: Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    let width = heads.key_value * heads.dim;
    let mut dq_rows = Vec::new();
    let mut dk = Tensor::zeros((k.dim(0)?, width), DType::F32, k.device())?;
    let mut dv = dk.clone();
    for (own, prompt) in occupied(families) {
        let (q, dy) = (queries(q, own, heads)?, queries(dy, own, heads)?);
        let (k, v) = (keys(k, prompt, own, heads)?, keys(v, prompt, own, heads)?);
        let p = probabilities(&q, &k, prompt.len, heads)?;
        let dp = dy.matmul(&v.t()?)?;
        let mean = (&dp * &p)?.sum_keepdim(D::Minus1)?;
        let ds = (dp.broadcast_sub(&mean)? * &p)?.affine(f64::from(heads.scale()), 0.0)?;
        let dq = ds.matmul(&k)?.transpose(0, 1)?;
        dq_rows.push(dq.reshape((own.len, heads.query * heads.dim))?);
        dk = scatter_keys(&dk, &ds.t()?.matmul(&q)?, prompt, own, heads)?;
        dv = scatter_keys(&dv, &p.t()?.matmul(&dy)?, prompt, own, heads)?;
    }
    let dtype = q.dtype();
    Ok((Tensor::cat(&dq_rows, 0)?.to_dtype(dtype)?, dk.to_dtype(dtype)?, dv.to_dtype(dtype)?))
}

/// Adds the gradients [A, prompt + own, D] of repeated heads to the rows [N, K * D] that they came from.
fn scatter_keys(sum: &Tensor, d: &Tensor, prompt: Segment, own: Segment, heads: Heads) -> Result<Tensor> {
    let len = prompt.len + own.len;
    let d = d
        .reshape((heads.key_value, heads.group(), len, heads.dim))?
        .sum(1)?
        .transpose(0, 1)?
        .reshape((len, heads.key_value * heads.dim))?;
    let rows: Vec<u32> = (prompt.start..prompt.start + prompt.len)
        .chain(own.start..own.start + own.len)
        .map(|row| row as u32)
        .collect();
    sum.index_add(&Tensor::new(rows, sum.device())?, &d, 0)
}
