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
//! (1.2e-38) count as zero; NaN and infinity give NaN.

use super::Matrix;
use rayon::prelude::*;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

/// Rows and columns of one block of the result: 2 x 2 tiles.
const BLOCK: usize = 32;
const TILE: usize = 16;
/// Inner indices of one tile product. Index `i` and `i + 16` form a pair, the unit's 32-bit element.
const DEPTH: usize = 32;
const PARTS: usize = 3;
/// Lines of [`BLOCK`] rows and [`DEPTH`] inner indices in all parts.
const PACKED: usize = PARTS * BLOCK;
/// Inner blocks between two visits of a result: 98 KiB of either operand.
const CHUNK: usize = 16;
/// Rows of the left operand that a task keeps packed: 576 KiB, well inside a second-level cache.
const TASK_ROWS: usize = 192;
/// Bytes of the right operand that are packed at once.
const PACKED_BYTES: usize = 8 << 20;
/// Smaller layers gain nothing from packing.
const SMALLEST: usize = 128;

/// Whether products with this many inner indices and columns run here; never a question of the number of rows.
pub fn suits(inner: usize, columns: usize) -> bool {
    inner >= SMALLEST && columns >= SMALLEST && available()
}

/// Whether processor and kernel have it and `RMTRAIN_AMX=0` does not forbid it.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let forbidden = std::env::var_os("RMTRAIN_AMX").is_some_and(|value| value == "0");
        !forbidden && is_x86_feature_detected!("avx512f") && has_tiles() && may_use_tiles()
    })
}

/// CPUID leaf 7: AMX-BF16 and AMX-TILE.
fn has_tiles() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
}

/// Asks Linux for the right to use the tile registers, which it grants to a process once and for all.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let answer: i64;
    // SAFETY: the call reads its two arguments and changes nothing but the process's permissions.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// `destination = lhs . rhs`, or `destination += lhs . rhs`, over the given ranges of the inner index, in order; rows
/// of the destination are `row_stride` apart. Uses the whole thread pool.
///
/// A result does not depend on which ranges are given in one call and which in the next.
///
/// # Panics
/// If the shapes do not fit together or reach outside a slice, or if the machine has no tiles.
pub fn matmul(
    destination: &mut [f32],
    row_stride: usize,
    accumulate: bool,
    lhs: Matrix,
    rhs: Matrix,
    inner: &[Range<usize>],
) {
    assert!(available(), "AMX was asked for where it is not");
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions of a matrix product");
    assert!(lhs.is_in_bounds() && rhs.is_in_bounds(), "a matrix reaches outside its slice");
    assert!(lhs.row_stride == 1 || lhs.column_stride == 1, "the left operand is strided both ways");
    assert!(rhs.row_stride == 1 || rhs.column_stride == 1, "the right operand is strided both ways");
    let (rows, columns) = (lhs.rows, rhs.columns);
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * row_stride + columns <= destination.len(), "the destination is too small");
    assert!(columns <= row_stride, "rows of the destination overlap");
    let blocks: Vec<Range<usize>> = inner.iter().flat_map(blocks_of).collect();
    assert!(blocks.iter().all(|block| block.end <= lhs.columns), "an inner range beyond the operands");
    if blocks.is_empty() {
        if !accumulate {
            destination.chunks_mut(row_stride).take(rows).for_each(|row| row[..columns].fill(0.0));
        }
        return;
    }
    let out = Destination { values: destination.as_mut_ptr(), row_stride, rows, columns };
    let panel = blocks.len() * PACKED;
    let panels_at_once = (PACKED_BYTES / (size_of::<Line>() * panel)).max(1);
    let mut packed = PACKED_RIGHT.take();
    for first in (0..columns.div_ceil(BLOCK)).step_by(panels_at_once) {
        let panels = panels_at_once.min(columns.div_ceil(BLOCK) - first);
        packed.resize(panels * panel, ZERO_LINE);
        packed.par_chunks_mut(panel).enumerate().for_each(|(i, packed)| {
            // SAFETY: `available` has found AVX-512.
            unsafe { pack(packed, rhs.transposed(), (first + i) * BLOCK, &blocks, Layout::Pairs) };
        });
        let right = Right { packed: &packed, first };
        tasks(rows, panels).into_par_iter().for_each(|task| {
            // SAFETY: tasks have rows and columns of their own; `available` has found tiles and AVX-512.
            unsafe { run(task, lhs, right, &blocks, out, accumulate) };
        });
    }
    PACKED_RIGHT.set(packed);
}

thread_local! {
    static PACKED_RIGHT: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static PACKED_LEFT: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// One row of a tile: 16 pairs. Tile loads that cross cache lines run at little more than half the speed.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; TILE]);

const ZERO_LINE: Line = Line([0; TILE]);

/// Where results go.
#[derive(Clone, Copy)]
struct Destination {
    values: *mut f32,
    row_stride: usize,
    rows: usize,
    columns: usize,
}

// SAFETY: tasks write disjoint blocks of it.
unsafe impl Send for Destination {}
unsafe impl Sync for Destination {}

/// The packed part of the right operand: panels of [`BLOCK`] columns from panel `first` on.
#[derive(Clone, Copy)]
struct Right<'a> {
    packed: &'a [Line],
    first: usize,
}

/// Rows and panels that one task computes.
struct Task {
    rows: Range<usize>,
    panels: Range<usize>,
}

/// Cuts the result into enough tasks for every thread: by rows first, so that a row is packed once.
fn tasks(rows: usize, panels: usize) -> Vec<Task> {
    let wanted = 4 * rayon::current_num_threads();
    let task_rows = rows.div_ceil(wanted).next_multiple_of(BLOCK).clamp(4 * BLOCK, TASK_ROWS);
    let row_tasks = rows.div_ceil(task_rows);
    let task_panels = panels.div_ceil(wanted.div_ceil(row_tasks)).max(4.min(panels));
    let cuts = |length: usize, step: usize| {
        (0..length).step_by(step).map(move |start| start..(start + step).min(length))
    };
    cuts(rows, task_rows)
        .flat_map(|rows| cuts(panels, task_panels).map(move |panels| Task { rows: rows.clone(), panels }))
        .collect()
}

/// Blocks of at most [`DEPTH`] indices.
fn blocks_of(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = range.end;
    range.clone().step_by(DEPTH).map(move |start| start..(start + DEPTH).min(end))
}

/// # Safety
/// The machine must have tiles and AVX-512, and no one else may access the task's part of `out`.
#[target_feature(enable = "avx512f")]
unsafe fn run(
    task: Task,
    lhs: Matrix,
    right: Right,
    blocks: &[Range<usize>],
    out: Destination,
    accumulate: bool,
) {
    let mut packed = PACKED_LEFT.take();
    let panels = task.rows.len().div_ceil(BLOCK);
    packed.resize(panels * CHUNK.min(blocks.len()) * PACKED, ZERO_LINE);
    configure_tiles();
    for (i, chunk) in blocks.chunks(CHUNK).enumerate() {
        let panel = chunk.len() * PACKED;
        for (row, packed) in (task.rows.clone()).step_by(BLOCK).zip(packed.chunks_mut(panel)) {
            // SAFETY: the caller vouches for AVX-512.
            unsafe { pack(packed, lhs, row, chunk, Layout::Rows) };
        }
        let accumulate = accumulate || i > 0;
        for column_panel in task.panels.clone() {
            let at = (column_panel * blocks.len() + i * CHUNK) * PACKED;
            let right_panel = &right.packed[at..at + panel];
            let column = (right.first + column_panel) * BLOCK;
            for (row, left_panel) in (task.rows.clone()).step_by(BLOCK).zip(packed.chunks(panel)) {
                // SAFETY: the block lies inside this task's part of the destination.
                unsafe { multiply_into(left_panel, right_panel, row, column, out, accumulate) };
            }
        }
    }
    release_tiles();
    PACKED_LEFT.set(packed);
}

/// Tiles 0 to 7 as 16 rows of 64 bytes, on this thread.
fn configure_tiles() {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let of_eight = |i: usize| i < 8;
    let configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: std::array::from_fn(|i| if of_eight(i) { 64 } else { 0 }),
        rows: std::array::from_fn(|i| if of_eight(i) { TILE as u8 } else { 0 }),
    };
    // SAFETY: the operand is a valid configuration for palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(readonly, nostack)) };
}

/// Back to no tiles, so that the system need not save them.
fn release_tiles() {
    // SAFETY: nothing but this module uses tiles.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// Computes one block of the result at `row` and `column`, or the part of it that lies inside the destination.
///
/// # Safety
/// The tiles must be configured, and the block must be the caller's alone.
unsafe fn multiply_into(
    left: &[Line],
    right: &[Line],
    row: usize,
    column: usize,
    out: Destination,
    accumulate: bool,
) {
    let (rows, columns) = ((out.rows - row).min(BLOCK), (out.columns - column).min(BLOCK));
    // SAFETY: `row` and `column` lie inside the destination.
    let target = unsafe { out.values.add(row * out.row_stride + column) };
    if rows == BLOCK && columns == BLOCK {
        // SAFETY: a whole block lies inside the destination.
        return unsafe { multiply(left, right, target, out.row_stride, accumulate) };
    }
    let mut edge = [0.0f32; BLOCK * BLOCK];
    for i in 0..rows {
        // SAFETY: `rows` and `columns` end with the destination.
        let target = unsafe { std::slice::from_raw_parts_mut(target.add(i * out.row_stride), columns) };
        edge[i * BLOCK..][..columns].copy_from_slice(target);
    }
    // SAFETY: `edge` is a whole block.
    unsafe { multiply(left, right, edge.as_mut_ptr(), BLOCK, accumulate) };
    for i in 0..rows {
        // SAFETY: as above.
        let target = unsafe { std::slice::from_raw_parts_mut(target.add(i * out.row_stride), columns) };
        target.copy_from_slice(&edge[i * BLOCK..][..columns]);
    }
}

/// The block of 32 x 32 results at `target`, from two packed panels of one length.
///
/// # Safety
/// The tiles must be configured; `target` must be valid for 32 rows of 32 values, `row_stride` apart.
#[inline(never)]
unsafe fn multiply(left: &[Line], right: &[Line], target: *mut f32, row_stride: usize, accumulate: bool) {
    debug_assert!(left.len() == right.len() && left.len() % PACKED == 0 && !left.is_empty());
    // Tiles 0 to 3 hold the results, 4 and 5 rows of the left operand, 6 and 7 columns of the right one. Each step
    // below exchanges one operand, from small products to large.
    // SAFETY: both panels hold `left.len() / PACKED` blocks; the caller vouches for the target.
    unsafe {
        asm!(
            "test {accumulate:e}, {accumulate:e}",
            "jz 2f",
            "tileloadd tmm0, [{c0} + {c_stride}*1]",
            "tileloadd tmm1, [{c0} + {c_stride}*1 + 64]",
            "tileloadd tmm2, [{c1} + {c_stride}*1]",
            "tileloadd tmm3, [{c1} + {c_stride}*1 + 64]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            // First part of the left, third of the right.
            "tileloadd tmm4, [{a} + {stride}*1]",
            "tileloadd tmm6, [{b} + {stride}*1 + 4096]",
            "tileloadd tmm7, [{b} + {stride}*1 + 5120]",
            "tileloadd tmm5, [{a} + {stride}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // First and second.
            "tileloadd tmm6, [{b} + {stride}*1 + 2048]",
            "tileloadd tmm7, [{b} + {stride}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // Second and second.
            "tileloadd tmm4, [{a} + {stride}*1 + 2048]",
            "tileloadd tmm5, [{a} + {stride}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // Second and first.
            "tileloadd tmm6, [{b} + {stride}*1]",
            "tileloadd tmm7, [{b} + {stride}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // Third and first.
            "tileloadd tmm4, [{a} + {stride}*1 + 4096]",
            "tileloadd tmm5, [{a} + {stride}*1 + 5120]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // First and first.
            "tileloadd tmm4, [{a} + {stride}*1]",
            "tileloadd tmm5, [{a} + {stride}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 6144",
            "add {b}, 6144",
            "dec {blocks}",
            "jnz 3b",
            "tilestored [{c0} + {c_stride}*1], tmm0",
            "tilestored [{c0} + {c_stride}*1 + 64], tmm1",
            "tilestored [{c1} + {c_stride}*1], tmm2",
            "tilestored [{c1} + {c_stride}*1 + 64], tmm3",
            a = inout(reg) left.as_ptr() => _,
            b = inout(reg) right.as_ptr() => _,
            blocks = inout(reg) left.len() / PACKED => _,
            stride = in(reg) 64usize,
            c0 = in(reg) target,
            c1 = in(reg) target.add(TILE * row_stride),
            c_stride = in(reg) 4 * row_stride,
            accumulate = in(reg) u32::from(accumulate),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// How a packed tile is laid out: the unit's left operand has a row of pairs for each row of the result, its right
/// operand a row of columns for each pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Rows,
    Pairs,
}

/// Packs [`BLOCK`] rows of `source` from `row` on, at the given columns: `blocks` x part x tile x 16 lines. What
/// lies outside is zero.
///
/// # Safety
/// The machine must have AVX-512; `source` must lie inside its slice and the blocks inside `source`.
#[target_feature(enable = "avx512f")]
#[inline(never)]
unsafe fn pack(packed: &mut [Line], source: Matrix, row: usize, blocks: &[Range<usize>], layout: Layout) {
    let contiguous = if source.column_stride == 1 { Layout::Rows } else { Layout::Pairs };
    for (packed, block) in packed.chunks_exact_mut(PACKED).zip(blocks) {
        for tile in 0..BLOCK / TILE {
            let first = row + tile * TILE;
            let rows = source.rows.saturating_sub(first).min(TILE);
            // SAFETY: the tile's rows and the block's columns lie inside the source.
            let mut parts = unsafe {
                match contiguous {
                    Layout::Rows => split_rows(source, first, rows, block),
                    Layout::Pairs => split_pairs(source, first, rows, block),
                }
            };
            if contiguous != layout {
                for part in &mut parts {
                    transpose(part);
                }
            }
            for (part, rows) in parts.iter().enumerate() {
                let at = (part * BLOCK / TILE + tile) * TILE;
                for (row, out) in rows.iter().zip(&mut packed[at..at + TILE]) {
                    // SAFETY: a line is as long and as aligned as a vector.
                    unsafe { _mm512_store_si512(out.0.as_mut_ptr().cast(), *row) };
                }
            }
        }
    }
}

/// A mask of the first `count` of 16 lanes.
fn lanes(count: usize) -> __mmask16 {
    ((1u32 << count.min(TILE)) - 1) as u16
}

/// Pairs row by row, from a source whose columns are contiguous.
///
/// # Safety
/// The machine must have AVX-512; the rows and columns must lie inside the source.
#[target_feature(enable = "avx512f")]
unsafe fn split_rows(
    source: Matrix,
    first: usize,
    rows: usize,
    columns: &Range<usize>,
) -> [[__m512i; TILE]; PARTS] {
    let mut parts = [[_mm512_setzero_si512(); TILE]; PARTS];
    let (low, high) = (lanes(columns.len()), lanes(columns.len().saturating_sub(TILE)));
    for row in 0..rows {
        // SAFETY: masked lanes are not read, and the others lie inside the source.
        let (a, b) = unsafe {
            let at = source.values.as_ptr().add((first + row) * source.row_stride + columns.start);
            (_mm512_maskz_loadu_ps(low, at), _mm512_maskz_loadu_ps(high, at.wrapping_add(TILE)))
        };
        let split = split(a, b);
        for part in 0..PARTS {
            parts[part][row] = split[part];
        }
    }
    parts
}

/// Pairs pair by pair, from a source whose rows are contiguous.
///
/// # Safety
/// As [`split_rows`].
#[target_feature(enable = "avx512f")]
unsafe fn split_pairs(
    source: Matrix,
    first: usize,
    rows: usize,
    columns: &Range<usize>,
) -> [[__m512i; TILE]; PARTS] {
    let mut parts = [[_mm512_setzero_si512(); TILE]; PARTS];
    let mask = lanes(rows);
    for pair in 0..TILE.min(columns.len()) {
        let load = |column: usize| {
            let mask = if column < columns.end { mask } else { 0 };
            let at = source.values.as_ptr().wrapping_add(column * source.column_stride + first);
            // SAFETY: masked lanes are not read, and the others lie inside the source.
            unsafe { _mm512_maskz_loadu_ps(mask, at) }
        };
        let split = split(load(columns.start + pair), load(columns.start + pair + TILE));
        for part in 0..PARTS {
            parts[part][pair] = split[part];
        }
    }
    parts
}

/// The parts of 16 pairs: the first value's in the low half of each lane, the second's in the high half.
#[target_feature(enable = "avx512f")]
fn split(first: __m512, second: __m512) -> [__m512i; PARTS] {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let half = _mm512_set1_epi32(0x8000);
    // The nearest bf16, as an f32; what is left of a finite value has at most 16 significant bits.
    let nearest = |x: __m512| {
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper))
    };
    let parts = |x: __m512| {
        let x1 = nearest(x);
        let rest = _mm512_sub_ps(x, x1);
        let x2 = nearest(rest);
        // At most 8 bits are left, and NaN stays NaN.
        [x1, x2, _mm512_sub_ps(rest, x2)]
    };
    let (first, second) = (parts(first), parts(second));
    std::array::from_fn(|part| {
        let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(first[part]));
        // (high & upper) | low
        _mm512_ternarylogic_epi32::<0xf8>(low, _mm512_castps_si512(second[part]), upper)
    })
}

/// Transposes 16 x 16 pairs.
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512i; TILE]) {
    let mut t = *rows;
    for i in 0..8 {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        t[2 * i] = _mm512_unpacklo_epi32(a, b);
        t[2 * i + 1] = _mm512_unpackhi_epi32(a, b);
    }
    let mut u = t;
    for i in 0..4 {
        let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
        u[4 * i] = _mm512_unpacklo_epi64(a, c);
        u[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
        u[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
        u[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for i in 0..4 {
        let [a, b, c, d] = [u[i], u[4 + i], u[8 + i], u[12 + i]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        rows[i] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        rows[8 + i] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        rows[4 + i] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        rows[12 + i] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng;

    fn normal(purpose: &str, count: usize) -> Vec<f32> {
        rng::normals(&mut rng::stream(0, purpose, 0), count)
    }

    /// `rows x columns` out of `values`, transposed in memory or not.
    fn matrix(values: &[f32], rows: usize, columns: usize, is_transposed: bool) -> Matrix<'_> {
        if is_transposed {
            Matrix::new(values, columns, rows).transposed()
        } else {
            Matrix::new(values, rows, columns)
        }
    }

    /// Largest error against f64, in units of |lhs row| |rhs column|.
    fn error(found: &[f32], lhs: Matrix, rhs: Matrix) -> f64 {
        let at = |m: Matrix, i, j| f64::from(m.values[i * m.row_stride + j * m.column_stride]);
        let mut largest = 0.0f64;
        for i in 0..lhs.rows {
            for j in 0..rhs.columns {
                let (mut exact, mut left, mut right) = (0.0, 0.0, 0.0);
                for k in 0..lhs.columns {
                    let (a, b) = (at(lhs, i, k), at(rhs, k, j));
                    exact += a * b;
                    left += a * a;
                    right += b * b;
                }
                let scale = f64::sqrt(left * right);
                largest = largest.max((f64::from(found[i * rhs.columns + j]) - exact).abs() / scale);
            }
        }
        largest
    }

    #[test]
    fn as_exact_as_f32_in_every_orientation_and_at_every_edge() {
        if !available() {
            return eprintln!("skipped: no AMX on this machine");
        }
        for (rows, inner, columns) in [(1, 1, 1), (32, 32, 32), (45, 70, 33), (300, 900, 130), (16, 520, 17)]
        {
            let (a, b) = (normal("a", rows * inner), normal("b", inner * columns));
            for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
                let lhs = matrix(&a, rows, inner, a_transposed);
                let rhs = matrix(&b, inner, columns, b_transposed);
                let mut found = vec![f32::NAN; rows * columns];
                matmul(&mut found, columns, false, lhs, rhs, std::slice::from_ref(&(0..inner)));
                let mut single = vec![0.0; rows * columns];
                super::super::matmul(&mut single, columns, false, lhs, rhs, super::super::Threads::One);
                let (tiles, fma) = (error(&found, lhs, rhs), error(&single, lhs, rhs));
                assert!(
                    tiles < 2e-7 && tiles < 2.0 * fma + 1e-7,
                    "{rows} {inner} {columns}: {tiles:e}, {fma:e}"
                );
            }
        }
    }

    #[test]
    fn neither_neighbours_nor_calls_change_a_result() {
        if !available() {
            return eprintln!("skipped: no AMX on this machine");
        }
        let (rows, inner, columns) = (290, 1100, 200);
        let (a, b) = (normal("a", rows * inner), normal("b", inner * columns));
        let (lhs, rhs) = (Matrix::new(&a, rows, inner), Matrix::new(&b, inner, columns));
        let ranges = [0..7, 7..600, 600..1100];
        let mut whole = vec![0.5; rows * columns];
        matmul(&mut whole, columns, true, lhs, rhs, &ranges);
        let mut parts = vec![0.5; rows * columns];
        for range in &ranges {
            for start in (0..rows).step_by(97) {
                let rows = start..(start + 97).min(rows);
                let lhs = Matrix::new(&a[start * inner..], rows.len(), inner);
                matmul(&mut parts[start * columns..], columns, true, lhs, rhs, std::slice::from_ref(range));
            }
        }
        assert!(whole == parts);
        let mut left = vec![0.5; rows * 40];
        matmul(&mut left, 40, true, lhs, Matrix::strided(&b[60..], inner, 40, columns), &ranges);
        for (whole, left) in whole.chunks_exact(columns).zip(left.chunks_exact(40)) {
            assert!(whole[60..100] == *left);
        }
    }

    #[test]
    fn what_is_not_finite_does_not_become_finite() {
        if !available() {
            return eprintln!("skipped: no AMX on this machine");
        }
        let b = vec![1.0f32; 32 * 32];
        for bad in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xffff_ffff), f32::INFINITY] {
            let mut a = vec![1.0f32; 32 * 32];
            a[32 * 3 + 5] = bad;
            let mut c = vec![0.0; 32 * 32];
            let (lhs, rhs) = (Matrix::new(&a, 32, 32), Matrix::new(&b, 32, 32));
            matmul(&mut c, 32, false, lhs, rhs, std::slice::from_ref(&(0..32)));
            for (row, c) in c.chunks_exact(32).enumerate() {
                assert!(c.iter().all(|c| c.is_finite() == (row != 3)), "{bad}: row {row}");
            }
        }
    }

    #[test]
    fn an_empty_inner_range_is_zero_or_nothing() {
        if !available() {
            return eprintln!("skipped: no AMX on this machine");
        }
        let (a, mut c) = (vec![1.0f32; 8], vec![3.0f32; 6]);
        let (lhs, rhs) = (Matrix::new(&a, 2, 4), Matrix::new(&a, 4, 2));
        matmul(&mut c, 3, true, lhs, rhs, &[]);
        assert_eq!(c, [3.0; 6]);
        matmul(&mut c, 3, false, lhs, rhs, &[]);
        assert_eq!(c, [0.0, 0.0, 3.0, 0.0, 0.0, 3.0]);
    }
}
