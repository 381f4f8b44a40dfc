//! Matrix products on slices: the `gemm` crate, and tiles where the machine has them.

#[cfg(target_arch = "x86_64")]
pub mod amx;

use gemm::Parallelism;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A dense row-major matrix.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// `rows x columns` with `row_stride` values from one row to the next.
    pub fn strided(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transpose, without moving a value.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn is_in_bounds(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.values.len()
    }
}

/// Whether a product may use the whole thread pool or runs inside one of its tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    Pool,
    One,
}

/// `destination = lhs . rhs`, or `destination += lhs . rhs`; rows of the destination are `row_stride` apart.
///
/// # Panics
/// If the shapes do not fit together or reach outside a slice.
pub fn matmul(
    destination: &mut [f32],
    row_stride: usize,
    accumulate: bool,
    lhs: Matrix,
    rhs: Matrix,
    threads: Threads,
) {
    assert!(
        lhs.rows == 0 || rhs.columns == 0 || (lhs.rows - 1) * row_stride + rhs.columns <= destination.len()
    );
    // SAFETY: the destination covers `lhs.rows` rows of `rhs.columns` values, checked above, and is borrowed mutably.
    unsafe { matmul_to(destination.as_mut_ptr(), row_stride, accumulate, lhs, rhs, threads) }
}

/// [`matmul`] into memory that several tasks write disjoint parts of.
///
/// # Safety
/// `destination` must be valid for `lhs.rows` rows of `rhs.columns` values, `row_stride` apart, and no one else may
/// access those values meanwhile.
pub unsafe fn matmul_to(
    destination: *mut f32,
    row_stride: usize,
    accumulate: bool,
    lhs: Matrix,
    rhs: Matrix,
    threads: Threads,
) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions of a matrix product");
    assert!(lhs.is_in_bounds() && rhs.is_in_bounds(), "a matrix reaches outside its slice");
    if lhs.rows == 0 || rhs.columns == 0 {
        return;
    }
    // SAFETY: both operands lie inside their slices (checked above); the caller vouches for the destination.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.columns,
            lhs.columns,
            destination,
            1,
            row_stride as isize,
            accumulate,
            lhs.values.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.values.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            match threads {
                Threads::Pool => Parallelism::Rayon(0),
                Threads::One => Parallelism::None,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(lhs: Matrix, rhs: Matrix) -> Vec<f32> {
        let at = |m: Matrix, i, j| m.values[i * m.row_stride + j * m.column_stride];
        (0..lhs.rows * rhs.columns)
            .map(|ij| {
                let (i, j) = (ij / rhs.columns, ij % rhs.columns);
                (0..lhs.columns).map(|k| at(lhs, i, k) * at(rhs, k, j)).sum()
            })
            .collect()
    }

    #[test]
    fn every_orientation_and_accumulation_matches_the_naive_product() {
        let a: Vec<f32> = (0..7 * 5).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..5 * 9).map(|i| (i as f32 * 0.21).cos()).collect();
        let cases = [
            (Matrix::new(&a, 7, 5), Matrix::new(&b, 5, 9)),
            (Matrix::new(&a, 7, 5), Matrix::new(&b, 9, 5).transposed()),
            (Matrix::new(&a, 5, 7).transposed(), Matrix::new(&b, 5, 9)),
            (Matrix::strided(&a, 4, 3, 5), Matrix::strided(&b, 3, 4, 9)),
        ];
        for (lhs, rhs) in cases {
            for threads in [Threads::Pool, Threads::One] {
                let expected = naive(lhs, rhs);
                let mut out = vec![1.0; expected.len()];
                matmul(&mut out, rhs.columns, false, lhs, rhs, threads);
                matmul(&mut out, rhs.columns, true, lhs, rhs, threads);
                for (o, e) in out.iter().zip(&expected) {
                    assert!((o - 2.0 * e).abs() < 1e-5, "{o} against {e}");
                }
            }
        }
    }
}
