//! f32 matrix products on the bf16 tile unit (AMX) of recent x86 servers, at f32 accuracy.
//!
//! Every f32 value is the exact sum of three bf16 values of falling size, `x = x1 + x2 + x3`, because 24 significant
//! bits are three times 8. A product of two values is then nine products of parts, each exact in f32; the three
//! smallest, together below 2^-24 of the whole, are left out. The other six run on tiles of 16 x 16 results that
//! accumulate in f32. The unit is 16 times as fast as AVX-512 in f32, so six products are still more than twice as
//! fast as one.
//!
//! A result is summed over the inner index in one fixed order: it depends on its own row and column alone, not on how
//! many rows or columns are computed beside it, nor on the number of threads. Parts below the smallest normal number
//! (1.2e-38) count as zero; NaN, infinity and what is above 3.39e38 give NaN.

mod destination;
mod machine;
mod pack;
#[cfg(test)]
mod tests;
mod tiles;

pub use destination::Destination;
pub use machine::available;

use super::Matrix;
use destination::Target;
use pack::{Layout, Line, PACKED, Panel, ZERO_LINE, pack, panels_of};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use tiles::{configure_tiles, multiply_into, release_tiles};

/// Rows and columns of one block of the result: 2 x 2 tiles.
const BLOCK: usize = 32;
const TILE: usize = 16;
/// Inner indices of one tile product. Index `i` and `i + 16` form a pair, the unit's 32-bit element.
const DEPTH: usize = 32;
/// Inner blocks between two visits of a result: 98 KiB of either operand.
const CHUNK: usize = 16;
/// Panels of the left operand that a task keeps packed: 576 KiB, well inside a second-level cache.
const TASK_PANELS: usize = 6;
/// Panels that one packing task takes.
const PACK_PANELS: usize = 8;
/// Bytes of the right operand that are packed at once.
const PACKED_BYTES: usize = 32 << 20;
/// Smaller layers gain nothing from packing.
const SMALLEST: usize = 128;

/// Whether products with this many inner indices and columns run here; never a question of the number of rows.
pub fn suits(inner: usize, columns: usize) -> bool {
    inner >= SMALLEST && columns >= SMALLEST && available()
}

/// Every product of a left and a right operand, over the given ranges of the inner index, in order. The destinations
/// stand in the order of the left operands, and for each of these in that of the right ones. Uses the whole thread
/// pool; every operand is packed once.
///
/// A result does not depend on which ranges are given in one call and which in the next, nor on the other operands.
///
/// # Panics
/// If the shapes do not fit together or reach outside a slice, or if the machine has no tiles.
pub fn matmul(destinations: &mut [Destination], lhs: &[Matrix], rhs: &[Matrix], inner: &[Range<usize>]) {
    assert!(available(), "AMX was asked for where it is not");
    assert_eq!(destinations.len(), lhs.len() * rhs.len(), "a destination for every product");
    for operand in lhs.iter().chain(rhs) {
        assert!(operand.is_in_bounds(), "a matrix reaches outside its slice");
        assert!(operand.row_stride == 1 || operand.column_stride == 1, "an operand is strided both ways");
    }
    let blocks: Vec<Range<usize>> = inner.iter().flat_map(blocks_of).collect();
    let end = blocks.iter().map(|block| block.end).max().unwrap_or(0);
    assert!(lhs.iter().all(|lhs| end <= lhs.columns), "an inner range beyond the left operand");
    assert!(rhs.iter().all(|rhs| end <= rhs.rows), "an inner range beyond the right operand");
    let shapes = lhs.iter().flat_map(|lhs| rhs.iter().map(|rhs| (lhs.rows, rhs.columns)));
    let targets: Vec<Target> = destinations
        .iter_mut()
        .zip(shapes)
        .map(|(destination, shape)| Target::new(destination, shape))
        .collect();
    if blocks.is_empty() {
        targets.iter().for_each(Target::fill_with_initial);
        return;
    }
    if targets.iter().all(|target| target.rows == 0 || target.columns == 0) {
        return;
    }
    let left = Left { operands: lhs, panels: panels_of(lhs.iter().map(|lhs| lhs.rows)) };
    let columns = panels_of(rhs.iter().map(|rhs| rhs.columns));
    let panel = blocks.len() * PACKED;
    let panels_at_once = (PACKED_BYTES / (size_of::<Line>() * panel)).max(1);
    let transposed: Vec<Matrix> = rhs.iter().map(|rhs| rhs.transposed()).collect();
    let mut packed = PACKED_RIGHT.take();
    for columns in columns.chunks(panels_at_once) {
        if packed.len() < columns.len() * panel {
            packed.resize(columns.len() * panel, ZERO_LINE);
        }
        let packed = &mut packed[..columns.len() * panel];
        let mut rest = &mut *packed;
        let mut pieces = Vec::new();
        for chunk in blocks.chunks(CHUNK) {
            for panels in columns.chunks(PACK_PANELS) {
                let (piece, after) = rest.split_at_mut(panels.len() * chunk.len() * PACKED);
                rest = after;
                pieces.push((piece, panels, chunk));
            }
        }
        pieces.into_par_iter().for_each(|(piece, panels, chunk)| {
            // SAFETY: `available` has found AVX-512; blocks and panels lie inside the operands.
            unsafe { pack(piece, &transposed, panels, chunk, Layout::Pairs) };
        });
        let right = Right { packed, panels: columns, operands: rhs.len() };
        tasks(left.panels.len(), columns.len()).into_par_iter().for_each(|task| {
            // SAFETY: tasks have rows and columns of their own; `available` has found tiles and AVX-512.
            unsafe { run(&task, &left, &right, &blocks, &targets) };
        });
    }
    PACKED_RIGHT.set(packed);
}

thread_local! {
    static PACKED_RIGHT: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static PACKED_LEFT: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// The left operands, packed by the tasks.
struct Left<'a> {
    operands: &'a [Matrix<'a>],
    panels: Vec<Panel>,
}

/// The right operands, as far as they are packed: chunk x panel x block of the chunk.
struct Right<'a> {
    packed: &'a [Line],
    panels: &'a [Panel],
    operands: usize,
}

/// Panels of both sides that one task multiplies.
struct Task {
    left: Range<usize>,
    right: Range<usize>,
}

/// Cuts the result into enough tasks for every thread: by left panels first, so that a panel is packed once.
fn tasks(left: usize, right: usize) -> Vec<Task> {
    let wanted = 2 * rayon::current_num_threads();
    let task_left = left.div_ceil(wanted).clamp(4, TASK_PANELS);
    let task_right = right.div_ceil(wanted.div_ceil(left.div_ceil(task_left))).max(4.min(right));
    let cuts = |length: usize, step: usize| {
        (0..length).step_by(step).map(move |start| start..(start + step).min(length))
    };
    cuts(left, task_left)
        .flat_map(|left| cuts(right, task_right).map(move |right| Task { left: left.clone(), right }))
        .collect()
}

/// Blocks of at most [`DEPTH`] indices.
fn blocks_of(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = range.end;
    range.clone().step_by(DEPTH).map(move |start| start..(start + DEPTH).min(end))
}

/// # Safety
/// The machine must have tiles and AVX-512, and no one else may access the task's part of the targets.
#[target_feature(enable = "avx512f")]
unsafe fn run(task: &Task, left: &Left, right: &Right, blocks: &[Range<usize>], targets: &[Target]) {
    let mut packed = PACKED_LEFT.take();
    let rows = &left.panels[task.left.clone()];
    if packed.len() < rows.len() * CHUNK * PACKED {
        packed.resize(rows.len() * CHUNK * PACKED, ZERO_LINE);
    }
    configure_tiles();
    for (i, chunk) in blocks.chunks(CHUNK).enumerate() {
        let panel = chunk.len() * PACKED;
        // SAFETY: the caller vouches for AVX-512; blocks and panels lie inside the operands.
        unsafe { pack(&mut packed, left.operands, rows, chunk, Layout::Rows) };
        for column_panel in task.right.clone() {
            let column = right.panels[column_panel];
            let at = (i * CHUNK * right.panels.len() + column_panel * chunk.len()) * PACKED;
            let right_panel = &right.packed[at..at + panel];
            for (i_row, (row, left_panel)) in rows.iter().zip(packed.chunks(panel)).enumerate() {
                let ahead = right_panel.as_ptr().wrapping_add(panel + i_row * chunk.len() * TILE);
                let target = &targets[row.operand * right.operands + column.operand];
                // SAFETY: the block lies inside this task's part of the target.
                unsafe {
                    multiply_into(left_panel, right_panel, ahead, row.start, column.start, target, i == 0)
                };
            }
        }
    }
    release_tiles();
    PACKED_LEFT.set(packed);
}
