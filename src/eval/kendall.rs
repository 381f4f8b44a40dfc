//! Kendall's tau-b between two rankings of the same items.

use std::cmp::Ordering;

/// Tau-b of `(x, y)` points: `(C - D) / sqrt((n0 - n1)(n0 - n2))`, where `n0` is the number of pairs of points, `n1`
/// and `n2` those tied in `x` and in `y`, `C` and `D` the concordant and discordant ones.
///
/// The counts are exact integers, found in O(n log n); only the last division is in floating point. `None` where
/// tau-b is undefined: fewer than two points, one side constant, or a NaN.
///
/// # Source
/// Knight, "A computer method for calculating Kendall's tau with ungrouped data", JASA 1966.
pub fn tau_b(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 2 || points.iter().any(|(x, y)| x.is_nan() || y.is_nan()) {
        return None;
    }
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| compare(a.0, b.0).then(compare(a.1, b.1)));

    let all = pairs_of(points.len() as u64);
    let tied_x = tied_pairs(&sorted, |a, b| a.0 == b.0);
    let tied_both = tied_pairs(&sorted, |a, b| a == b);
    let mut ys: Vec<f64> = sorted.iter().map(|p| p.1).collect();
    // Ordered by x and, within ties of x, by y: an inversion of y is exactly one discordant pair.
    let discordant = sort_counting_inversions(&mut ys);
    let tied_y = tied_pairs(&ys, |a, b| a == b);

    let (x_pairs, y_pairs) = (all - tied_x, all - tied_y);
    if x_pairs == 0 || y_pairs == 0 {
        return None;
    }
    let untied = all + tied_both - tied_x - tied_y;
    let difference = untied as i128 - 2 * i128::from(discordant);
    let scale = (u128::from(x_pairs) * u128::from(y_pairs)) as f64;
    Some((difference as f64 / scale.sqrt()).clamp(-1.0, 1.0))
}

/// The order of two numbers that are not NaN; the two zeros are equal.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

fn pairs_of(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

/// Pairs inside the runs of equal neighbours.
fn tied_pairs<T>(sorted: &[T], equal: impl Fn(&T, &T) -> bool) -> u64 {
    sorted.chunk_by(equal).map(|run| pairs_of(run.len() as u64)).sum()
}

/// Sorts `values` by merging and counts the pairs that stood in the wrong order.
fn sort_counting_inversions(values: &mut [f64]) -> u64 {
    let n = values.len();
    let mut buffer = values.to_vec();
    let mut inversions = 0;
    let mut width = 1;
    while width < n {
        for start in (0..n).step_by(2 * width) {
            let middle = (start + width).min(n);
            let end = (start + 2 * width).min(n);
            let (mut left, mut right) = (start, middle);
            for slot in &mut buffer[start..end] {
                if right < end && (left == middle || values[right] < values[left]) {
                    // Everything that is still waiting on the left stood before a smaller value.
                    inversions += (middle - left) as u64;
                    *slot = values[right];
                    right += 1;
                } else {
                    *slot = values[left];
                    left += 1;
                }
            }
        }
        values.copy_from_slice(&buffer);
        width *= 2;
    }
    inversions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        name: String,
        x: Vec<f64>,
        y: Vec<f64>,
        tau: Option<f64>,
    }

    /// scipy.stats.kendalltau; `tests/golden/kendall/generate.py` writes the file.
    #[test]
    fn equals_scipy() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../tests/golden/kendall/expected.json")).unwrap();
        assert!(cases.len() > 50);
        for Case { name, x, y, tau } in cases {
            let points: Vec<_> = x.into_iter().zip(y).collect();
            match (tau_b(&points), tau) {
                (None, None) => {}
                (Some(found), Some(expected)) => {
                    assert!((found - expected).abs() < 1e-14, "{name}: {found} is not {expected}");
                }
                (found, expected) => panic!("{name}: {found:?} is not {expected:?}"),
            }
        }
    }

    /// 2,000 random vectors with ties, from the same script.
    #[test]
    fn equals_scipy_on_random_vectors_with_ties() {
        type Vector = (Vec<f64>, Vec<f64>, Option<f64>);
        let cases: Vec<Vector> =
            serde_json::from_str(include_str!("../../tests/golden/kendall/random.json")).unwrap();
        let undefined = cases.iter().filter(|case| case.2.is_none()).count();
        assert!(cases.len() == 2000 && undefined > 100, "{undefined}");
        let mut greatest = 0.0f64;
        for (x, y, tau) in cases {
            let points: Vec<_> = x.into_iter().zip(y).collect();
            let found = tau_b(&points);
            assert_eq!(found.is_some(), tau.is_some(), "{points:?}");
            if let (Some(found), Some(expected)) = (found, tau) {
                greatest = greatest.max((found - expected).abs());
            }
        }
        println!("2000 vectors, {undefined} undefined, greatest difference {greatest:e}");
        assert!(greatest < 1e-12, "{greatest:e}");
    }

    #[test]
    fn is_exact_at_the_ends_and_undefined_where_it_must_be() {
        let up: Vec<_> = (0..1000).map(|i| (f64::from(i), f64::from(i))).collect();
        let down: Vec<_> = (0..1000).map(|i| (f64::from(i), f64::from(-i))).collect();
        assert_eq!(tau_b(&up), Some(1.0));
        assert_eq!(tau_b(&down), Some(-1.0));
        for points in [vec![], vec![(1.0, 2.0)], vec![(1.0, 2.0), (1.0, 3.0)], vec![(0.0, 2.0), (1.0, 2.0)]] {
            assert_eq!(tau_b(&points), None, "{points:?}");
        }
        assert_eq!(tau_b(&[(f64::NAN, 1.0), (1.0, 2.0)]), None);
        assert_eq!(tau_b(&[(0.0, 1.0), (-0.0, 2.0)]), None, "the two zeros are one value");
        assert_eq!(tau_b(&[(f64::NEG_INFINITY, 0.0), (f64::INFINITY, 1.0)]), Some(1.0));
    }

    fn by_definition(points: &[(f64, f64)]) -> Option<f64> {
        let (mut difference, mut x_pairs, mut y_pairs) = (0i64, 0i64, 0i64);
        for (i, a) in points.iter().enumerate() {
            for b in &points[i + 1..] {
                let (dx, dy) = ((a.0 - b.0).partial_cmp(&0.0)? as i64, (a.1 - b.1).partial_cmp(&0.0)? as i64);
                difference += dx * dy;
                x_pairs += dx.abs();
                y_pairs += dy.abs();
            }
        }
        let scale = (x_pairs as f64 * y_pairs as f64).sqrt();
        (scale > 0.0).then(|| difference as f64 / scale)
    }

    proptest! {
        #[test]
        fn equals_the_definition(points in prop::collection::vec((-4i8..4, -4i8..4), 0..60)) {
            let points: Vec<_> = points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let (found, expected) = (tau_b(&points), by_definition(&points));
            prop_assert_eq!(found.is_some(), expected.is_some());
            if let (Some(found), Some(expected)) = (found, expected) {
                prop_assert!((found - expected).abs() < 1e-14);
            }
        }

        #[test]
        fn changes_sign_with_one_side_and_not_with_the_order(points in prop::collection::vec((-9i8..9, -9i8..9), 2..40)) {
            let points: Vec<_> = points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let negated: Vec<_> = points.iter().map(|(x, y)| (*x, -y)).collect();
            let reversed: Vec<_> = points.iter().rev().copied().collect();
            prop_assert_eq!(tau_b(&negated), tau_b(&points).map(|t| -t));
            prop_assert_eq!(tau_b(&reversed), tau_b(&points));
        }
    }
}
