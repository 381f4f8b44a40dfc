//! Tile products against f64, against one another, and against `gemm`.

use super::destination::Initial;
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

fn onto<'a>(values: &'a mut [f32], row_stride: usize, initial: Initial<'a>) -> Destination<'a> {
    let destination = Destination::onto(values, row_stride);
    match initial {
        Initial::Zero => destination.starting_from_zero(),
        Initial::Destination => destination,
        Initial::Other { values, row_stride } => destination.starting_from(values, row_stride),
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
    let destination = onto(values, row_stride, initial);
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
    for (rows, inner, columns) in [(1, 1, 1), (32, 32, 32), (45, 70, 33), (300, 900, 130), (16, 520, 17)] {
        let (a, b) = (normal("a", rows * inner), normal("b", inner * columns));
        for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
            let lhs = matrix(&a, rows, inner, a_transposed);
            let rhs = matrix(&b, inner, columns, b_transposed);
            let mut found = vec![f32::NAN; rows * columns];
            add_product(&mut found, columns, lhs, rhs, std::slice::from_ref(&(0..inner)), Initial::Zero);
            let mut single = vec![0.0; rows * columns];
            crate::kernels::gemm::matmul(
                &mut single,
                columns,
                false,
                lhs,
                rhs,
                crate::kernels::gemm::Threads::One,
            );
            let (tiles, fma) = (error(&found, lhs, rhs), error(&single, lhs, rhs));
            assert!(tiles < 2e-7 && tiles < 2.0 * fma + 1e-7, "{rows} {inner} {columns}: {tiles:e}, {fma:e}");
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
    let mut destinations: Vec<Destination> =
        together.iter_mut().enumerate().map(|(i, values)| onto(values, shape(i).1, initial(i))).collect();
    matmul(&mut destinations, &lhs, &rhs, &ranges);
    assert!(separate == together);
    let plain: f32 = (0..inner).map(|k| a[k] * b[k + 1]).sum();
    assert!((together[1][0] - plain - row[0]).abs() < 1e-5);
}
