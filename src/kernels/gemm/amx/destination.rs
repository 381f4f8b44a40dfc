//! Where products go, and what they are added to.

use std::mem::MaybeUninit;

/// Where the product of one left and one right operand goes: [rows, columns].
pub struct Destination<'a> {
    values: &'a mut [MaybeUninit<f32>],
    row_stride: usize,
    initial: Initial<'a>,
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Initial<'a> {
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

/// A destination that tasks write disjoint blocks of.
pub(super) struct Target {
    pub(super) values: *mut f32,
    pub(super) row_stride: usize,
    /// What the first chunk of inner indices is added to, and the distance of its rows; null for zero.
    pub(super) initial: *const f32,
    pub(super) initial_stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

// SAFETY: tasks write disjoint blocks of it, and read what no one writes or what they alone write.
unsafe impl Send for Target {}
unsafe impl Sync for Target {}

impl Target {
    pub(super) fn new(destination: &mut Destination, (rows, columns): (usize, usize)) -> Self {
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
    pub(super) fn fill_with_initial(&self) {
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
