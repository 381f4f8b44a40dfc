//! Blocked attention on the CPU: scores of one block of queries at a time.
//!
//! Forward tasks are (segment, query head) and write disjoint parts of the output. Backward tasks are (family,
//! key-value head): everything that adds to one key or value is inside one task, in one order.

use super::{Family, Heads, Segment};
use crate::kernels::exp::exp;
use crate::kernels::gemm::{Matrix, Threads, matmul, matmul_to};
use crate::kernels::host::lane_sum;
use rayon::prelude::*;

/// Queries of one block: scores of a block fit in the cache for common lengths.
const BLOCK: usize = 64;

#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub d_output: &'a [f32],
    pub output: &'a [f32],
    pub log_sum_exp: &'a [f32],
}

/// A pointer that tasks share to write disjoint places.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: every task writes its own (rows, head) part and reads nothing of the others'; see the module comment.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `offset` must lie inside the allocation.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.0.add(offset) }
    }
}

/// Rows `rows` of head `head` in a [N, heads * dim] buffer.
fn head_rows(values: &[f32], rows: Segment, head: usize, heads: usize, dim: usize) -> Matrix<'_> {
    if rows.len == 0 {
        return Matrix::strided(&[], 0, dim, heads * dim);
    }
    Matrix::strided(&values[(rows.start * heads + head) * dim..], rows.len, dim, heads * dim)
}

/// The part of `own` that block `block` covers, and the keys of `own` that its last query sees.
fn block_of(own: Segment, block: usize) -> (Segment, Segment) {
    let first = block * BLOCK;
    let len = BLOCK.min(own.len - first);
    (Segment { start: own.start + first, len }, Segment { start: own.start, len: first + len })
}

/// One block of one query head: what it asks and what it sees.
struct Block<'a> {
    inputs: Inputs<'a>,
    heads: Heads,
    head: usize,
    prompt: Segment,
    /// The block's queries.
    queries: Segment,
    /// Keys of the own segment up to the block's last query.
    own_keys: Segment,
}

impl Block<'_> {
    /// Columns `from..from + len` of a [queries, keys] buffer.
    fn columns(values: &[f32], queries: usize, keys: usize, from: usize, len: usize) -> Matrix<'_> {
        Matrix::strided(&values[from..], queries, len, keys)
    }

    fn keys(&self) -> usize {
        self.prompt.len + self.own_keys.len
    }

    fn query(&self) -> Matrix<'_> {
        head_rows(self.inputs.q, self.queries, self.head, self.heads.query, self.heads.dim)
    }

    fn key_value<'b>(&self, values: &'b [f32], rows: Segment) -> Matrix<'b> {
        let head = self.head / self.heads.group();
        head_rows(values, rows, head, self.heads.key_value, self.heads.dim)
    }

    /// How many keys query `i` of the block sees.
    fn visible(&self, i: usize) -> usize {
        self.keys() - (self.queries.len - 1 - i)
    }

    /// `lhs . rows^T` over prompt and own keys, into [queries, keys].
    fn against_keys(&self, out: &mut [f32], lhs: Matrix, rows: &[f32]) {
        let keys = self.keys();
        let prompt = self.key_value(rows, self.prompt).transposed();
        let own = self.key_value(rows, self.own_keys).transposed();
        if self.prompt.len > 0 {
            matmul(out, keys, false, lhs, prompt, Threads::One);
        }
        matmul(&mut out[self.prompt.len..], keys, false, lhs, own, Threads::One);
    }

    /// Softmax weights [queries, keys] into `weights`, given the log of their denominators.
    fn weights_from(&self, weights: &mut [f32], log_sum_exp: impl Fn(usize) -> f32) {
        self.against_keys(weights, self.query(), self.inputs.k);
        let (keys, scale) = (self.keys(), self.heads.scale());
        for (i, row) in weights.chunks_exact_mut(keys).enumerate() {
            let (seen, hidden) = row.split_at_mut(self.visible(i));
            exponentials(seen, scale, log_sum_exp(i));
            hidden.fill(0.0);
        }
    }
}

vectorized! {
/// `softmax(scale * scores)` in place; returns the log of the denominator.
fn softmax(scores: &mut [f32], scale: f32) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = scores.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &score) in lanes.iter_mut().zip(block) {
            // NaN is not greater; it comes back below, from `exp`.
            *lane = if score > *lane { score } else { *lane };
        }
    }
    let largest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max) * scale;
    exponentials(scores, scale, largest);
    let total = lane_sum([scores], |[weight]| weight);
    let inverse = (1.0 / total) as f32;
    scores.iter_mut().for_each(|s| *s *= inverse);
    largest + total.ln() as f32
}
}

vectorized! {
/// `exp(scale * score - shift)` in place.
fn exponentials(scores: &mut [f32], scale: f32, shift: f32) {
    scores.iter_mut().for_each(|s| *s = exp(*s * scale - shift));
}
}

vectorized! {
/// Gradients of scores before their scaling from those of the weights, in place, for one query whose output is `y`.
fn score_gradients(gradients: &mut [f32], weights: &[f32], dy: &[f32], y: &[f32], scale: f32) {
    // sum_j p_j dp_j = dy . y
    let mean = lane_sum([dy, y], |[dy, y]| dy * y) as f32;
    for (gradient, weight) in gradients.iter_mut().zip(weights) {
        *gradient = weight * (*gradient - mean) * scale;
    }
}
}

/// [N, A * D] values and [N, A] log-sum-exp.
pub(super) fn forward(inputs: Inputs, families: &[Family], heads: Heads) -> (Vec<f32>, Vec<f32>) {
    let tokens = inputs.q.len() / (heads.query * heads.dim);
    let mut output = vec![0.0f32; inputs.q.len()];
    let mut log_sum_exp = vec![0.0f32; tokens * heads.query];
    let (out, lse) = (Shared(output.as_mut_ptr()), Shared(log_sum_exp.as_mut_ptr()));
    let tasks: Vec<(Segment, Segment, usize)> = families
        .iter()
        .flat_map(Family::queries)
        .flat_map(|(own, prompt)| (0..heads.query).map(move |head| (own, prompt, head)))
        .collect();
    tasks.into_par_iter().for_each_init(Vec::new, |scores: &mut Vec<f32>, (own, prompt, head)| {
        for block in 0..own.len.div_ceil(BLOCK) {
            let (queries, own_keys) = block_of(own, block);
            let block = Block { inputs, heads, head, prompt, queries, own_keys };
            forward_block(&block, scores, out, lse);
        }
    });
    (output, log_sum_exp)
}

fn forward_block(block: &Block, scores: &mut Vec<f32>, out: Shared, lse: Shared) {
    let Block { inputs, heads, head, prompt, queries, own_keys } = *block;
    let keys = block.keys();
    scores.resize(queries.len * keys, 0.0);
    block.against_keys(scores, block.query(), inputs.k);
    let scale = heads.scale();
    for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
        let (seen, hidden) = row.split_at_mut(block.visible(i));
        let log_sum_exp = softmax(seen, scale);
        hidden.fill(0.0);
        // SAFETY: only this task touches this token and head.
        unsafe { *lse.at((queries.start + i) * heads.query + head) = log_sum_exp };
    }
    let width = heads.query * heads.dim;
    let weights = |from, len| Block::columns(scores, queries.len, keys, from, len);
    // SAFETY: rows `queries` of head `head` are this task's alone.
    unsafe {
        let out = out.at((queries.start * heads.query + head) * heads.dim);
        let own = block.key_value(inputs.v, own_keys);
        matmul_to(out, width, false, weights(prompt.len, own_keys.len), own, Threads::One);
        if prompt.len > 0 {
            let shared = block.key_value(inputs.v, prompt);
            matmul_to(out, width, true, weights(0, prompt.len), shared, Threads::One);
        }
    }
}

/// Gradients of q, k and v.
pub(super) fn backward(
    inputs: Inputs,
    saved: Saved,
    families: &[Family],
    heads: Heads,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut dq = vec![0.0f32; inputs.q.len()];
    let mut dk = vec![0.0f32; inputs.k.len()];
    let mut dv = vec![0.0f32; inputs.v.len()];
    let gradients =
        Gradients { q: Shared(dq.as_mut_ptr()), k: Shared(dk.as_mut_ptr()), v: Shared(dv.as_mut_ptr()) };
    let tasks: Vec<(&Family, usize)> =
        families.iter().flat_map(|f| (0..heads.key_value).map(move |head| (f, head))).collect();
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (family, kv_head)| {
        for (own, prompt) in family.queries() {
            for head in kv_head * heads.group()..(kv_head + 1) * heads.group() {
                for block in 0..own.len.div_ceil(BLOCK) {
                    let (queries, own_keys) = block_of(own, block);
                    let block = Block { inputs, heads, head, prompt, queries, own_keys };
                    backward_block(&block, saved, scratch, gradients);
                }
            }
        }
    });
    (dq, dk, dv)
}

#[derive(Clone, Copy)]
struct Gradients {
    q: Shared,
    k: Shared,
    v: Shared,
}

#[derive(Default)]
struct Scratch {
    weights: Vec<f32>,
    d_scores: Vec<f32>,
}

fn backward_block(block: &Block, saved: Saved, scratch: &mut Scratch, gradients: Gradients) {
    let Block { inputs, heads, head, prompt, queries, own_keys } = *block;
    let keys = block.keys();
    let Scratch { weights, d_scores } = scratch;
    weights.resize(queries.len * keys, 0.0);
    d_scores.resize(queries.len * keys, 0.0);
    block.weights_from(weights, |i| saved.log_sum_exp[(queries.start + i) * heads.query + head]);

    let d_output = head_rows(saved.d_output, queries, head, heads.query, heads.dim);
    block.against_keys(d_scores, d_output, inputs.v);
    for i in 0..queries.len {
        let at = ((queries.start + i) * heads.query + head) * heads.dim;
        let (dy, y) = (&saved.d_output[at..at + heads.dim], &saved.output[at..at + heads.dim]);
        let row = i * keys..(i + 1) * keys;
        score_gradients(&mut d_scores[row.clone()], &weights[row], dy, y, heads.scale());
    }

    let kv_width = heads.key_value * heads.dim;
    let kv_head = head / heads.group();
    let width = heads.query * heads.dim;
    // SAFETY: query rows of this head belong to this block alone; key-value rows of this family and key-value head
    // belong to this task alone.
    unsafe {
        let dq = gradients.q.at((queries.start * heads.query + head) * heads.dim);
        let own = (prompt.len, own_keys);
        let shared = (0, prompt);
        for (from, rows) in [own, shared] {
            if rows.len == 0 {
                continue;
            }
            let columns = |values| Block::columns(values, queries.len, keys, from, rows.len);
            let (ds, p) = (columns(d_scores), columns(weights));
            let at = (rows.start * heads.key_value + kv_head) * heads.dim;
            // The own keys come first and start dq; the prompt's add to it.
            matmul_to(
                dq,
                width,
                from == 0 && prompt.len > 0,
                ds,
                block.key_value(inputs.k, rows),
                Threads::One,
            );
            matmul_to(gradients.k.at(at), kv_width, true, ds.transposed(), block.query(), Threads::One);
            matmul_to(gradients.v.at(at), kv_width, true, p.transposed(), d_output, Threads::One);
        }
    }
}
