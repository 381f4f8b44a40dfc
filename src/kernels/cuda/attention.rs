//! Attention in tiles of 64 queries by 64 keys: on tensor cores for bf16 and heads of 64 or 128, else in f32.
//!
//! Scores live in registers and shared memory only. The backward is two kernels, one that owns queries and one that
//! owns keys: it computes the scores twice, and in return needs no atomics, so gradients repeat themselves.

use super::launch::{Arg, Launch, typed, unwritten};
use super::upload;
use crate::kernels::attention::{Families, Family, Heads, Segment};
use candle_core::{DType, Device, Result, Tensor};

/// Queries, and keys, of one tile.
const TILE: usize = 64;

/// The tiles of a packed row, on the device.
#[derive(Debug, Clone)]
pub(crate) struct Tiles {
    /// Rows of `{query, queries, own, prompt, prompts}`: queries that see all of the prompt and their own segment up to
    /// themselves.
    queries: Tensor,
    /// Rows of `{key, keys, query_end}`: keys that every later row before the end sees.
    keys: Tensor,
}

impl Tiles {
    pub(crate) fn of(families: &[Family], device: &Device) -> Result<Self> {
        let (mut queries, mut keys) = (query_tiles(families), key_tiles(families));
        // The longest first, so that none is left alone at the end. Stable, so the order is a function of the pack.
        queries
            .sort_by_key(|&[query, count, own, _, prompts]| std::cmp::Reverse(prompts + query + count - own));
        keys.sort_by_key(|&[key, _, end]| std::cmp::Reverse(end - key));
        Ok(Self { queries: table(&queries, device)?, keys: table(&keys, device)? })
    }
}

fn table<const K: usize>(rows: &[[usize; K]], device: &Device) -> Result<Tensor> {
    let values: Vec<u32> = rows.iter().flatten().map(|&value| value as u32).collect();
    upload::numbers(&values, (rows.len(), K), device)
}

/// Runs of at most [`TILE`] rows.
fn cut(segment: Segment) -> impl Iterator<Item = (usize, usize)> {
    let end = segment.start + segment.len;
    (segment.start..end).step_by(TILE).map(move |start| (start, TILE.min(end - start)))
}

fn query_tiles(families: &[Family]) -> Vec<[usize; 5]> {
    let segments = families.iter().flat_map(Family::queries);
    segments
        .flat_map(|(own, prompt)| {
            cut(own).map(move |(start, len)| [start, len, own.start, prompt.start, prompt.len])
        })
        .collect()
}

fn key_tiles(families: &[Family]) -> Vec<[usize; 3]> {
    let end = |segment: &Segment| segment.start + segment.len;
    let mut tiles = Vec::new();
    for family in families {
        let family_end = family.responses.last().map_or(end(&family.prompt), end);
        tiles.extend(cut(family.prompt).map(|(start, len)| [start, len, family_end]));
        for response in &family.responses {
            tiles.extend(cut(*response).map(|(start, len)| [start, len, end(response)]));
        }
    }
    tiles
}

/// Threads of every attention kernel but for the one of the deltas.
const THREADS: u32 = 128;
/// The largest head that a kernel holds in shared memory.
const MAX_DIM: usize = 256;

/// The three kernels that work on tiles.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    BackwardQuery,
    BackwardKey,
}

impl Pass {
    fn name(self) -> &'static str {
        match self {
            Pass::Forward => "attention_forward",
            Pass::BackwardQuery => "attention_backward_query",
            Pass::BackwardKey => "attention_backward_key",
        }
    }

    /// The kernel for these tensors over a grid. Shared memory as `attention.cu` says.
    fn launch(self, q: &Tensor, heads: Heads, grid: [usize; 2]) -> Result<Launch> {
        let Heads { dim, .. } = heads;
        let (name, shared) = if q.dtype() == DType::BF16 && matches!(dim, 64 | 128) {
            let lengths = if self == Pass::BackwardKey { 512 } else { 0 };
            (format!("{}_bf16_d{dim}", self.name()), 512 * dim + lengths)
        } else if dim <= MAX_DIM {
            let rows = if self == Pass::Forward { 96 } else { 128 };
            let pitch = dim.next_multiple_of(4) + 4;
            (format!("{}_any", typed(self.name(), q.dtype())?), size_of::<f32>() * (rows * pitch + 1024))
        } else {
            candle_core::bail!("attention on CUDA takes heads of up to {MAX_DIM}, found {dim}")
        };
        Ok(Launch::new(name, grid)?.block(THREADS, 1).shared(shared))
    }
}

/// What every kernel is told of the heads.
fn shape(heads: Heads) -> [Arg<'static>; 4] {
    let Heads { query, key_value, dim } = heads;
    [Arg::Int(query), Arg::Int(key_value), Arg::Int(dim), Arg::Float(heads.scale())]
}

/// Attention's output [N, A * D], and the log of the softmax denominators [N, A], f32.
pub(crate) fn forward(
    [q, k, v]: [&Tensor; 3],
    families: &Families,
    heads: Heads,
) -> Result<(Tensor, Tensor)> {
    let device = q.device();
    let tiles = &families.tiles(device)?.queries;
    let out = unwritten(q.shape(), q.dtype(), device)?;
    let log_sum_exp = unwritten((q.dim(0)?, heads.query), DType::F32, device)?;
    let mut args = [&out, &log_sum_exp, q, k, v, tiles].map(Arg::Values).to_vec();
    args.extend(shape(heads));
    Pass::Forward.launch(q, heads, [tiles.dim(0)?, heads.query])?.run(device, &args)?;
    Ok((out, log_sum_exp))
}

/// Gradients of queries, keys and values.
pub(crate) fn backward(
    d_out: &Tensor,
    out: &Tensor,
    log_sum_exp: &Tensor,
    [q, k, v]: [&Tensor; 3],
    families: &Families,
    heads: Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    let device = q.device();
    let tiles = families.tiles(device)?;
    let rows = q.dim(0)?;
    let delta = unwritten((rows, heads.query), DType::F32, device)?;
    let mut args = [&delta, d_out, out].map(Arg::Values).to_vec();
    args.extend([rows, heads.query, heads.dim].map(Arg::Int));
    Launch::new(typed("attention_delta", q.dtype())?, [rows, 1])?.run(device, &args)?;

    let gradient = |of: &Tensor| unwritten(of.shape(), of.dtype(), device);
    let (dq, dk, dv) = (gradient(q)?, gradient(k)?, gradient(v)?);
    let inputs = [q, k, v, d_out, log_sum_exp, &delta];
    let mut args = vec![Arg::Values(&dq)];
    args.extend(inputs.map(Arg::Values));
    args.push(Arg::Values(&tiles.queries));
    args.extend(shape(heads));
    Pass::BackwardQuery.launch(q, heads, [tiles.queries.dim(0)?, heads.query])?.run(device, &args)?;

    let mut args = [&dk, &dv].map(Arg::Values).to_vec();
    args.extend(inputs.map(Arg::Values));
    args.push(Arg::Values(&tiles.keys));
    args.extend(shape(heads));
    Pass::BackwardKey.launch(q, heads, [tiles.keys.dim(0)?, heads.key_value])?.run(device, &args)?;
    Ok((dq, dk, dv))
}
