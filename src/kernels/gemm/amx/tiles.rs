//! The tile unit itself: blocks of 32 x 32 results from packed panels.

use super::destination::Target;
use super::pack::{Line, PACKED};
use super::{BLOCK, TILE};
use std::arch::asm;

/// Tiles 0 to 7 as 16 rows of 64 bytes, on this thread. Nothing but this module uses tiles, so they stay so.
pub(super) fn configure_tiles() {
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
pub(super) fn release_tiles() {
    // SAFETY: nothing but this module uses tiles.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// Computes one block of the result at `row` and `column`, or the part of it that lies inside the target.
///
/// # Safety
/// The tiles must be configured, and the block must be the caller's alone.
pub(super) unsafe fn multiply_into(
    left: &[Line],
    right: &[Line],
    ahead: *const Line,
    row: usize,
    column: usize,
    target: &Target,
    is_first: bool,
) {
    let (rows, columns) = ((target.rows - row).min(BLOCK), (target.columns - column).min(BLOCK));
    // SAFETY: `row` and `column` lie inside the target.
    let values = unsafe { target.values.add(row * target.row_stride + column) };
    let (initial, initial_stride) = match is_first {
        true if target.initial.is_null() => (std::ptr::null(), 0),
        true => (target.initial.wrapping_add(row * target.initial_stride + column), target.initial_stride),
        false => (values.cast_const(), target.row_stride),
    };
    if rows == BLOCK && columns == BLOCK {
        // SAFETY: a whole block lies inside the target, and inside its initial values.
        return unsafe { multiply(left, right, ahead, values, target.row_stride, initial, initial_stride) };
    }
    let mut edge = [0.0f32; BLOCK * BLOCK];
    if !initial.is_null() {
        for i in 0..rows {
            // SAFETY: `rows` and `columns` end with the target.
            let initial = unsafe { std::slice::from_raw_parts(initial.add(i * initial_stride), columns) };
            edge[i * BLOCK..][..columns].copy_from_slice(initial);
        }
    }
    let whole = edge.as_mut_ptr();
    // SAFETY: `edge` is a whole block.
    unsafe { multiply(left, right, ahead, whole, BLOCK, whole, BLOCK) };
    for i in 0..rows {
        // SAFETY: as above; the two do not overlap.
        unsafe { std::ptr::copy(edge[i * BLOCK..].as_ptr(), values.add(i * target.row_stride), columns) };
    }
}

/// The block of 32 x 32 results at `target`, from two packed panels of one length, added to the block at `initial`
/// unless that is null.
///
/// What comes next is fetched meanwhile, 16 lines from `ahead` on and two rows of the block below for every inner
/// block: other cores have packed most of the right operand, and their caches are far.
///
/// # Safety
/// The tiles must be configured; `target` and `initial` must be valid for 32 rows of 32 values, their strides apart.
unsafe fn multiply(
    left: &[Line],
    right: &[Line],
    ahead: *const Line,
    target: *mut f32,
    row_stride: usize,
    initial: *const f32,
    initial_stride: usize,
) {
    debug_assert!(left.len() == right.len() && left.len().is_multiple_of(PACKED) && !left.is_empty());
    // Tiles 0 to 3 hold the results, 4 and 5 rows of the left operand, 6 and 7 columns of the right one. Each step
    // below exchanges one operand, from small products to large.
    // SAFETY: both panels hold `left.len() / PACKED` blocks; the caller vouches for the target.
    unsafe {
        asm!(
            "test {i0}, {i0}",
            "jz 2f",
            "tileloadd tmm0, [{i0} + {i_stride}*1]",
            "tileloadd tmm1, [{i0} + {i_stride}*1 + 64]",
            "tileloadd tmm2, [{i1} + {i_stride}*1]",
            "tileloadd tmm3, [{i1} + {i_stride}*1 + 64]",
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
            "prefetcht1 [{ahead} + 0]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "prefetcht1 [{ahead} + 64]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "prefetcht1 [{ahead} + 128]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{ahead} + 192]",
            // First and second.
            "tileloadd tmm6, [{b} + {stride}*1 + 2048]",
            "tileloadd tmm7, [{b} + {stride}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "prefetcht1 [{ahead} + 256]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "prefetcht1 [{ahead} + 320]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "prefetcht1 [{ahead} + 384]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{ahead} + 448]",
            // Second and second.
            "tileloadd tmm4, [{a} + {stride}*1 + 2048]",
            "tileloadd tmm5, [{a} + {stride}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "prefetcht1 [{ahead} + 512]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "prefetcht1 [{ahead} + 576]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "prefetcht1 [{ahead} + 640]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{ahead} + 704]",
            // Second and first.
            "tileloadd tmm6, [{b} + {stride}*1]",
            "tileloadd tmm7, [{b} + {stride}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "prefetcht1 [{ahead} + 768]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "prefetcht1 [{ahead} + 832]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "prefetcht1 [{ahead} + 896]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{ahead} + 960]",
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
            "add {ahead}, 1024",
            "prefetchw [{cn}]",
            "prefetchw [{cn} + 64]",
            "prefetchw [{cn} + {c_stride}]",
            "prefetchw [{cn} + {c_stride} + 64]",
            "lea {cn}, [{cn} + 2*{c_stride}]",
            "dec {blocks}",
            "jnz 3b",
            "tilestored [{c0} + {c_stride}*1], tmm0",
            "tilestored [{c0} + {c_stride}*1 + 64], tmm1",
            "tilestored [{c1} + {c_stride}*1], tmm2",
            "tilestored [{c1} + {c_stride}*1 + 64], tmm3",
            a = inout(reg) left.as_ptr() => _,
            b = inout(reg) right.as_ptr() => _,
            ahead = inout(reg) ahead => _,
            blocks = inout(reg) left.len() / PACKED => _,
            stride = in(reg) 64usize,
            cn = inout(reg) target.wrapping_add(BLOCK * row_stride) => _,
            i0 = in(reg) initial,
            i1 = in(reg) initial.wrapping_add(TILE * initial_stride),
            i_stride = in(reg) 4 * initial_stride,
            c0 = in(reg) target,
            c1 = in(reg) target.add(TILE * row_stride),
            c_stride = in(reg) 4 * row_stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
