//! Packing: f32 operands to panels of bf16 pairs, in three parts.

use super::{BLOCK, TILE};
use crate::kernels::gemm::Matrix;
use std::arch::x86_64::*;
use std::ops::Range;

const PARTS: usize = 3;
/// Lines of [`BLOCK`] rows and [`super::DEPTH`] inner indices in all parts.
pub(super) const PACKED: usize = PARTS * BLOCK;
/// Values by which packing reads ahead.
const AHEAD: usize = 2 * BLOCK;

/// One row of a tile: 16 pairs. Tile loads that cross cache lines run at little more than half the speed.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u32; TILE]);

pub(super) const ZERO_LINE: Line = Line([0; TILE]);

/// Up to [`BLOCK`] rows of a left operand, or columns of a right one.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub(super) operand: usize,
    pub(super) start: usize,
}

pub(super) fn panels_of(lengths: impl Iterator<Item = usize>) -> Vec<Panel> {
    let of_one = |(operand, length)| (0..length).step_by(BLOCK).map(move |start| Panel { operand, start });
    lengths.enumerate().flat_map(of_one).collect()
}

/// How a packed tile is laid out: the unit's left operand has a row of pairs for each row of the result, its right
/// operand a row of columns for each pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Rows,
    Pairs,
}

/// Packs panels of `operands` at the given inner blocks: panel x block x part x tile x 16 lines. What lies outside an
/// operand is zero.
///
/// # Safety
/// The machine must have AVX-512; the operands must lie inside their slices, and panels and blocks inside them.
#[inline(never)]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn pack(
    packed: &mut [Line],
    operands: &[Matrix],
    panels: &[Panel],
    blocks: &[Range<usize>],
    layout: Layout,
) {
    let mut one = |panel: usize, block: usize| {
        let Panel { operand, start } = panels[panel];
        let packed = &mut packed[(panel * blocks.len() + block) * PACKED..][..PACKED];
        // SAFETY: the caller's.
        unsafe { pack_block(packed, operands[operand], start, &blocks[block], layout) };
    };
    // Along the direction in which values follow one another: the other way every line is on a page of its own.
    if operands.iter().all(|operand| operand.column_stride == 1) {
        for panel in 0..panels.len() {
            (0..blocks.len()).for_each(|block| one(panel, block));
        }
    } else {
        for block in 0..blocks.len() {
            (0..panels.len()).for_each(|panel| one(panel, block));
        }
    }
}

/// Packs [`BLOCK`] rows of `source` from `row` on, at the given columns.
///
/// # Safety
/// As [`pack`].
#[target_feature(enable = "avx512f")]
unsafe fn pack_block(packed: &mut [Line], source: Matrix, row: usize, block: &Range<usize>, layout: Layout) {
    let contiguous = if source.column_stride == 1 { Layout::Rows } else { Layout::Pairs };
    for tile in 0..BLOCK / TILE {
        let first = row + tile * TILE;
        let rows = source.rows.saturating_sub(first).min(TILE);
        let piece = Piece { source, first, rows, columns: block };
        let mut parts = [[_mm512_setzero_si512(); TILE]; PARTS];
        #[expect(clippy::needless_range_loop, reason = "a line of every part is filled at once")]
        for line in 0..TILE {
            // SAFETY: the tile's rows and the block's columns lie inside the source.
            let (a, b) = unsafe {
                match contiguous {
                    Layout::Rows => piece.row(line),
                    Layout::Pairs => piece.pair(line),
                }
            };
            let split = split(a, b);
            for part in 0..PARTS {
                parts[part][line] = split[part];
            }
        }
        for (part, lines) in parts.iter_mut().enumerate() {
            if contiguous != layout {
                transpose(lines);
            }
            let at = (part * BLOCK / TILE + tile) * TILE;
            for (line, out) in lines.iter().zip(&mut packed[at..at + TILE]) {
                // SAFETY: a line is as long and as aligned as a vector.
                unsafe { _mm512_store_si512(out.0.as_mut_ptr().cast(), *line) };
            }
        }
    }
}

/// A mask of the first `count` of 16 lanes.
fn lanes(count: usize) -> __mmask16 {
    ((1u32 << count.min(TILE)) - 1) as u16
}

/// Up to [`TILE`] rows of `source` from `first` on, at up to [`super::DEPTH`] columns.
struct Piece<'a> {
    source: Matrix<'a>,
    first: usize,
    rows: usize,
    columns: &'a Range<usize>,
}

impl Piece<'_> {
    /// A row whose columns are contiguous: the values at the first and at the second 16 of them.
    ///
    /// # Safety
    /// The machine must have AVX-512; the rows and columns must lie inside the source.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn row(&self, line: usize) -> (__m512, __m512) {
        let Piece { source, first, rows, columns } = self;
        let count = if line < *rows { columns.len() } else { 0 };
        let at = source.values.as_ptr().wrapping_add((first + line) * source.row_stride + columns.start);
        // The rows of a tile are too many streams for the hardware to follow.
        let ahead = at.wrapping_add(AHEAD).cast::<i8>();
        // SAFETY: masked lanes are not read, and the others lie inside the source; prefetching has no effect.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead);
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64));
            let second = _mm512_maskz_loadu_ps(lanes(count.saturating_sub(TILE)), at.wrapping_add(TILE));
            (_mm512_maskz_loadu_ps(lanes(count), at), second)
        }
    }

    /// All rows, which are contiguous, at columns `line` and `line + 16`.
    ///
    /// # Safety
    /// As [`Piece::row`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn pair(&self, line: usize) -> (__m512, __m512) {
        let Piece { source, first, rows, columns } = self;
        let load = |column: usize| {
            let count = if column < columns.end { *rows } else { 0 };
            let at = source.values.as_ptr().wrapping_add(column * source.column_stride + first);
            let ahead = at.wrapping_add(AHEAD).cast::<i8>();
            // SAFETY: masked lanes are not read, and the others lie inside the source; prefetching has no effect.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(ahead);
                _mm512_maskz_loadu_ps(lanes(count), at)
            }
        };
        let column = columns.start + line;
        (load(column), load(column + TILE))
    }
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
