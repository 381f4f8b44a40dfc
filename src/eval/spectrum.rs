//! The effective rank of hidden states, from their Gram matrix.

use super::{Scored, SequenceScorer};
use crate::Result;
use crate::data::TokenGroup;
use candle_core::{Device, Tensor};
use nalgebra::DMatrix;
use std::cell::RefCell;

/// Rows that are multiplied at once: many enough for a matrix product, few enough to be small beside the matrix.
const BLOCK_ROWS: usize = 1024;

/// Sum of `h h^T` over hidden states [H], in f64: an H x H matrix, however many rows there are.
///
/// N rows cost N H^2 operations, the rank about H^3 more on one core, and three times H x H numbers of memory.
#[derive(Debug, Default)]
pub(super) struct Gram {
    width: usize,
    /// [H, H]; empty before the first row.
    products: Vec<f64>,
    /// Rows that are not in `products` yet, one after the other.
    waiting: Vec<f64>,
}

impl Gram {
    /// Adds a hidden state; all have the same width.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] where the product fails.
    pub fn add(&mut self, hidden: &[f32]) -> Result<()> {
        if self.width == 0 {
            self.width = hidden.len();
            self.products = vec![0.0; self.width * self.width];
        }
        self.waiting.extend(hidden.iter().map(|&v| f64::from(v)));
        if self.waiting.len() >= BLOCK_ROWS * self.width { self.multiply() } else { Ok(()) }
    }

    fn multiply(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let shape = (self.waiting.len() / self.width, self.width);
        let rows = Tensor::from_vec(std::mem::take(&mut self.waiting), shape, &Device::Cpu)?;
        let product = rows.t()?.matmul(&rows)?.flatten_all()?.to_vec1::<f64>()?;
        self.products.iter_mut().zip(product).for_each(|(sum, new)| *sum += new);
        Ok(())
    }

    /// `exp(-sum p ln p)` with `p = s / sum s` over the singular values s of the N x H matrix of all rows, which are
    /// the roots of this matrix's eigenvalues. From 1 (all rows on one line) to H. `None` for no rows, or only zeros.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] where a product fails.
    ///
    /// # Source
    /// Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    pub fn effective_rank(mut self) -> Result<Option<f64>> {
        self.multiply()?;
        if self.width == 0 {
            return Ok(None);
        }
        let eigenvalues = DMatrix::from_vec(self.width, self.width, self.products).symmetric_eigenvalues();
        Ok(entropy_rank(eigenvalues.as_slice()))
    }
}

/// The effective rank from the squares of singular values. What is below the rounding of the largest is no signal.
fn entropy_rank(squares: &[f64]) -> Option<f64> {
    let largest = squares.iter().copied().fold(0.0, f64::max);
    let floor = largest * f64::EPSILON * squares.len() as f64;
    let singular: Vec<f64> = squares.iter().filter(|&&s| s > floor).map(|s| s.sqrt()).collect();
    let sum: f64 = singular.iter().sum();
    let entropy: f64 = singular.iter().map(|s| s / sum).map(|p| -p * p.ln()).sum();
    (!singular.is_empty()).then(|| entropy.exp())
}

/// A scorer whose hidden states are added up as they pass.
pub(super) struct Watched<'a> {
    pub scorer: &'a dyn SequenceScorer,
    pub gram: RefCell<Gram>,
}

impl SequenceScorer for Watched<'_> {
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
        let mut gram = self.gram.borrow_mut();
        let mut added = Ok(());
        let scored = self.scorer.score_hidden(groups, &mut |hidden| {
            if added.is_ok() {
                added = gram.add(hidden);
            }
        })?;
        added.map(|()| scored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::test_support::{golden, normal};

    fn rank(rows: &[Vec<f32>]) -> Option<f64> {
        let mut gram = Gram::default();
        rows.iter().for_each(|row| gram.add(row).unwrap());
        gram.effective_rank().unwrap()
    }

    /// numpy.linalg.svd of the rows themselves.
    #[test]
    fn equals_the_singular_values() {
        for case in &golden().hidden {
            let found = rank(&case.rows).unwrap();
            let expected = case.effective_rank;
            assert!((found - expected).abs() < 1e-7 * expected, "{found} {expected}");
        }
    }

    #[test]
    fn a_line_has_rank_one_and_an_orthogonal_basis_all() {
        let line: Vec<Vec<f32>> = (1..=1100).map(|i| vec![i as f32, -2.0 * i as f32, 0.0]).collect();
        assert!((rank(&line).unwrap() - 1.0).abs() < 1e-9);
        let basis: Vec<Vec<f32>> =
            (0..6).map(|i| (0..6).map(|j| f32::from(u8::from(i == j))).collect()).collect();
        assert!((rank(&basis).unwrap() - 6.0).abs() < 1e-12);
        assert_eq!((rank(&[]), rank(&[vec![0.0; 3]])), (None, None));
    }

    #[test]
    fn blocks_add_up() {
        let mut rng = crate::base::rng::stream(1, "test", 0);
        let rows: Vec<Vec<f32>> =
            (0..2 * BLOCK_ROWS + 7).map(|_| (0..5).map(|_| normal(&mut rng) as f32).collect()).collect();
        let mut gram = Gram::default();
        rows.iter().for_each(|row| gram.add(row).unwrap());
        gram.multiply().unwrap();
        for (i, j) in [(0, 0), (3, 1), (4, 4)] {
            let direct: f64 = rows.iter().map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
            assert!((gram.products[5 * i + j] - direct).abs() < 1e-9 * direct.abs().max(1.0));
        }
    }
}
