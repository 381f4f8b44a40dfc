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

use super::Matrix;
use rayon::prelude::*;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
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
/// Panels of the left operand that a task keeps packed: 576 KiB, well inside a second-level cache.
const TASK_PANELS: usize = 6;
/// Values by which packing reads ahead.
const AHEAD: usize = 2 * BLOCK;
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

/// Where the product of one left and one right operand goes: [rows, columns].
pub struct Destination<'a> {
    values: &'a mut [MaybeUninit<f32>],
    row_stride: usize,
    initial: Initial<'a>,
}

/// What a product is added to.
#[derive(Clone, Copy)]
enum Initial<'a> {
    Zero,
    /// What the destination holds, all of it.
    Destination,
    /// Other values, with their own distance between rows.
    Other {
        values: &'a [f32],
        row_stride: usize,
    },
}

impl<'a> Destination<'a> {
    /// Values to be written, `row_stride` from one row to the next.
    pub fn new(values: &'a mut [MaybeUninit<f32>], row_stride: usize) -> Self {
        Self { values, row_stride, initial: Initial::Zero }
    }

    /// Values to be added to.
    pub fn onto(values: &'a mut [f32], row_stride: usize) -> Self {
        // SAFETY: values are values that may be missing, and products write nothing but values.
        let values = unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) };
        Self { values, row_stride, initial: Initial::Destination }
    }

    /// [`Destination::onto`] for values that have been written but do not say so.
    ///
    /// # Safety
    /// Every value inside the product's rows and columns must have been written.
    pub unsafe fn onto_written(values: &'a mut [MaybeUninit<f32>], row_stride: usize) -> Self {
        Self { values, row_stride, initial: Initial::Destination }
    }

    /// Writes the sum of the product and `values` instead; a `row_stride` of 0 adds one row to every row.
    pub fn starting_from(self, values: &'a [f32], row_stride: usize) -> Self {
        Self { initial: Initial::Other { values, row_stride }, ..self }
    }

    /// Writes the product alone.
    pub fn starting_from_zero(self) -> Self {
        Self { initial: Initial::Zero, ..self }
    }
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

/// One row of a tile: 16 pairs. Tile loads that cross cache lines run at little more than half the speed.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; TILE]);

const ZERO_LINE: Line = Line([0; TILE]);

/// A destination that tasks write disjoint blocks of.
struct Target {
    values: *mut f32,
    row_stride: usize,
    /// What the first chunk of inner indices is added to, and the distance of its rows; null for zero.
    initial: *const f32,
    initial_stride: usize,
    rows: usize,
    columns: usize,
}

// SAFETY: tasks write disjoint blocks of it, and read what no one writes or what they alone write.
unsafe impl Send for Target {}
unsafe impl Sync for Target {}

impl Target {
    fn new(destination: &mut Destination, (rows, columns): (usize, usize)) -> Self {
        let row_stride = destination.row_stride;
        let fits = |length: usize, stride: usize| rows == 0 || (rows - 1) * stride + columns <= length;
        assert!(fits(destination.values.len(), row_stride), "the destination is too small");
        assert!(columns <= row_stride, "rows of the destination overlap");
        let values = destination.values.as_mut_ptr().cast::<f32>();
        let (initial, initial_stride) = match destination.initial {
            Initial::Zero => (std::ptr::null(), 0),
            Initial::Destination => (values.cast_const(), row_stride),
            Initial::Other { values, row_stride } => {
                assert!(fits(values.len(), row_stride), "the initial values are too few");
                (values.as_ptr(), row_stride)
            }
        };
        Self { values, row_stride, initial, initial_stride, rows, columns }
    }

    /// The product of nothing.
    fn fill_with_initial(&self) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                // SAFETY: `new` has checked that both reach this far.
                unsafe {
                    let initial = self.initial.wrapping_add(row * self.initial_stride + column);
                    let value = if self.initial.is_null() { 0.0 } else { *initial };
                    *self.values.add(row * self.row_stride + column) = value;
                }
            }
        }
    }
}

/// Up to [`BLOCK`] rows of a left operand, or columns of a right one.
#[derive(Clone, Copy)]
struct Panel {
    operand: usize,
    start: usize,
}

fn panels_of(lengths: impl Iterator<Item = usize>) -> Vec<Panel> {
    let of_one = |(operand, length)| (0..length).step_by(BLOCK).map(move |start| Panel { operand, start });
    lengths.enumerate().flat_map(of_one).collect()
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

/// Tiles 0 to 7 as 16 rows of 64 bytes, on this thread. Nothing but this module uses tiles, so they stay so.
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

/// Computes one block of the result at `row` and `column`, or the part of it that lies inside the target.
///
/// # Safety
/// The tiles must be configured, and the block must be the caller's alone.
unsafe fn multiply_into(
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

/// How a packed tile is laid out: the unit's left operand has a row of pairs for each row of the result, its right
/// operand a row of columns for each pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
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
unsafe fn pack(
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
        let mut parts = [[_mm512_setzero_si512(); TILE]; PARTS];
        #[expect(clippy::needless_range_loop, reason = "a line of every part is filled at once")]
        for line in 0..TILE {
            // SAFETY: the tile's rows and the block's columns lie inside the source.
            let (a, b) = unsafe {
                match contiguous {
                    Layout::Rows => load_row(source, first, rows, block, line),
                    Layout::Pairs => load_pair(source, first, rows, block, line),
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

/// The values of row `first + line`, whose columns are contiguous: those of the first and of the second 16 columns.
///
/// # Safety
/// The machine must have AVX-512; the rows and columns must lie inside the source.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_row(
    source: Matrix,
    first: usize,
    rows: usize,
    columns: &Range<usize>,
    line: usize,
) -> (__m512, __m512) {
    let count = if line < rows { columns.len() } else { 0 };
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

/// The values of a tile's rows, which are contiguous, at columns `line` and `line + 16` of the block.
///
/// # Safety
/// As [`load_row`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_pair(
    source: Matrix,
    first: usize,
    rows: usize,
    columns: &Range<usize>,
    line: usize,
) -> (__m512, __m512) {
    let load = |column: usize| {
        let count = if column < columns.end { rows } else { 0 };
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

    /// One product onto `values`.
    fn add_product(
        values: &mut [f32],
        row_stride: usize,
        lhs: Matrix,
        rhs: Matrix,
        inner: &[Range<usize>],
        initial: Initial,
    ) {
        let destination = Destination { initial, ..Destination::onto(values, row_stride) };
        matmul(&mut [destination], &[lhs], &[rhs], inner);
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
                add_product(&mut found, columns, lhs, rhs, std::slice::from_ref(&(0..inner)), Initial::Zero);
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
        add_product(&mut whole, columns, lhs, rhs, &ranges, Initial::Destination);
        let mut parts = vec![0.5; rows * columns];
        for range in &ranges {
            for start in (0..rows).step_by(97) {
                let rows = start..(start + 97).min(rows);
                let lhs = Matrix::new(&a[start * inner..], rows.len(), inner);
                let range = std::slice::from_ref(range);
                add_product(&mut parts[start * columns..], columns, lhs, rhs, range, Initial::Destination);
            }
        }
        assert!(whole == parts);
        let mut left = vec![0.5; rows * 40];
        let middle = Matrix::strided(&b[60..], inner, 40, columns);
        add_product(&mut left, 40, lhs, middle, &ranges, Initial::Destination);
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
            add_product(&mut c, 32, lhs, rhs, std::slice::from_ref(&(0..32)), Initial::Zero);
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
        add_product(&mut c, 3, lhs, rhs, &[], Initial::Destination);
        assert_eq!(c, [3.0; 6]);
        add_product(&mut c, 3, lhs, rhs, &[], Initial::Zero);
        assert_eq!(c, [0.0, 0.0, 3.0, 0.0, 0.0, 3.0]);
    }

    #[test]
    fn several_operands_give_what_each_pair_gives() {
        if !available() {
            return eprintln!("skipped: no AMX on this machine");
        }
        let inner = 70;
        let (a, b) = (normal("a", 200 * inner), normal("b", 200 * inner));
        let lhs = [Matrix::new(&a, 45, inner), Matrix::new(&a[50 * inner..], 64, inner)];
        let rhs = [33, 1, 40].map(|columns| Matrix::new(&b[columns..], inner, columns));
        let ranges = [0..40, 40..70];
        let row = normal("row", 200);
        let shape = |i: usize| (lhs[i / 3].rows, rhs[i % 3].columns);
        let initial = |i: usize| match i {
            0 => Initial::Zero,
            1 => Initial::Other { values: &row, row_stride: 0 },
            2 => Initial::Other { values: &a, row_stride: 41 },
            _ => Initial::Destination,
        };
        let mut separate: Vec<Vec<f32>> = (0..6).map(|i| vec![0.25; shape(i).0 * shape(i).1]).collect();
        let mut together = separate.clone();
        for (i, values) in separate.iter_mut().enumerate() {
            add_product(values, shape(i).1, lhs[i / 3], rhs[i % 3], &ranges, initial(i));
        }
        let mut destinations: Vec<Destination> = together
            .iter_mut()
            .enumerate()
            .map(|(i, values)| Destination { initial: initial(i), ..Destination::onto(values, shape(i).1) })
            .collect();
        matmul(&mut destinations, &lhs, &rhs, &ranges);
        assert!(separate == together);
        let plain: f32 = (0..inner).map(|k| a[k] * b[k + 1]).sum();
        assert!((together[1][0] - plain - row[0]).abs() < 1e-5);
    }
}
