//! Values over steps, made fit for a plot of a few hundred pixels.

use crate::base::median::median;

/// So many positions along the x axis are told apart.
pub const COLUMNS: usize = 240;

/// One value a step; NaN is a gap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    pub x: Vec<f64>,
    pub y: Vec<f64>,
}

/// Steps that a moving average of so many values is over: a thirtieth, a hundred at most.
pub fn span_of(values: usize) -> usize {
    (values / 30).clamp(1, 100)
}

impl Series {
    /// `y` is cut or filled up with gaps to the length of `x`.
    pub fn new(x: Vec<f64>, mut y: Vec<f64>) -> Self {
        y.resize(x.len(), f64::NAN);
        Self { x, y }
    }

    /// The exponential moving average over about `span` steps, that of the logarithms with `log`. It starts at the first
    /// value, unbiased, and goes on after a gap.
    pub fn smoothed(&self, span: usize, log: bool) -> Self {
        let keep = 1.0 - 2.0 / (span as f64 + 1.0);
        let (mut sum, mut weight) = (0.0, 0.0);
        let smooth = |y: &f64| {
            let value = if log { y.ln() } else { *y };
            if !value.is_finite() {
                return f64::NAN;
            }
            sum = keep * sum + (1.0 - keep) * value;
            weight = keep * weight + (1.0 - keep);
            let mean = sum / weight;
            if log { mean.exp() } else { mean }
        };
        Self { x: self.x.clone(), y: self.y.iter().map(smooth).collect() }
    }

    /// Fewer points of the same outline: the least and the largest of every column, in their order.
    pub fn outline(&self) -> Self {
        self.by_column(2, |column| {
            let least = column.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
            let largest = column.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
            let (Some(a), Some(b)) = (least, largest) else { return Vec::new() };
            if a.0 < b.0 { vec![a, b] } else { vec![b, a] }
        })
    }

    /// The last value of every column, for what is smooth already.
    pub fn thinned(&self) -> Self {
        self.by_column(1, |column| column.last().copied().into_iter().collect())
    }

    /// One value a column.
    pub fn reduced(&self, reduce: impl Fn(&[f64]) -> f64) -> Self {
        self.by_column(1, |column| {
            let values: Vec<f64> = column.iter().map(|(_, y)| *y).collect();
            column.get(column.len() / 2).map(|(x, _)| (*x, reduce(&values))).into_iter().collect()
        })
    }

    /// Replaces the finite points of each column by what `of` makes of them; a column without any is a gap. Where there
    /// are no more than `points` a column, nothing is changed.
    fn by_column(&self, points: usize, of: impl Fn(&[(f64, f64)]) -> Vec<(f64, f64)>) -> Self {
        let len = self.x.len();
        if len <= points * COLUMNS {
            return self.clone();
        }
        let mut reduced = Self::default();
        for column in 0..COLUMNS {
            let rows = column * len / COLUMNS..(column + 1) * len / COLUMNS;
            let all: Vec<(f64, f64)> =
                self.x[rows.clone()].iter().copied().zip(self.y[rows].iter().copied()).collect();
            let finite: Vec<(f64, f64)> = all.iter().copied().filter(|(_, y)| y.is_finite()).collect();
            let made = if finite.is_empty() {
                all.first().map(|(x, _)| (*x, f64::NAN)).into_iter().collect()
            } else {
                of(&finite)
            };
            for (x, y) in made {
                reduced.x.push(x);
                reduced.y.push(y);
            }
        }
        reduced
    }

    /// The last value that is there.
    pub fn last(&self) -> Option<f64> {
        self.y.iter().rev().copied().find(|y| y.is_finite())
    }
}

/// At every step that any of several series has, what `of` makes of the values there; one alone stays as it is.
pub fn across(all: &[Series], of: impl Fn(&[f64]) -> f64) -> Series {
    if let [one] = all {
        return one.clone();
    }
    let mut points: Vec<(f64, f64)> =
        all.iter().flat_map(|series| series.x.iter().copied().zip(series.y.iter().copied())).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut made = Series::default();
    for at in points.chunk_by(|a, b| a.0 == b.0) {
        let finite: Vec<f64> = at.iter().map(|(_, y)| *y).filter(|y| y.is_finite()).collect();
        made.x.extend(at.first().map(|(x, _)| *x));
        made.y.push(if finite.is_empty() { f64::NAN } else { of(&finite) });
    }
    made
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The median of finite values.
pub fn middle(values: &[f64]) -> f64 {
    median(values.iter().copied()).unwrap_or(f64::NAN)
}

pub fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(y: Vec<f64>) -> Series {
        Series::new((0..y.len()).map(|x| x as f64).collect(), y)
    }

    #[test]
    fn few_points_stay_as_they_are() {
        let few = series(vec![1.0, f64::NAN, 3.0]);
        assert!(few.outline().y[1].is_nan() && few.outline().y[2] == 3.0);
        assert_eq!(few.thinned().x, few.x);
    }

    #[test]
    fn an_outline_keeps_the_extremes_and_the_gaps() {
        let mut y: Vec<f64> = (0..50_000).map(|i| f64::from(i % 7)).collect();
        y[12_345] = 100.0;
        y[40_001] = -100.0;
        y[20_000..22_000].fill(f64::NAN);
        let outline = series(y).outline();
        assert!(outline.x.len() <= 2 * COLUMNS);
        assert!(outline.x.is_sorted());
        let points: Vec<(f64, f64)> = outline.x.iter().copied().zip(outline.y.iter().copied()).collect();
        assert!(points.contains(&(12_345.0, 100.0)) && points.contains(&(40_001.0, -100.0)));
        let gaps: Vec<f64> = points.iter().filter(|(_, y)| y.is_nan()).map(|(x, _)| *x).collect();
        assert!(!gaps.is_empty() && gaps.iter().all(|x| (20_000.0..22_000.0).contains(x)), "{gaps:?}");
    }

    #[test]
    fn series_meet_at_their_steps() {
        let one = Series::new(vec![1.0, 2.0, 3.0], vec![1.0, 5.0, f64::NAN]);
        let two = Series::new(vec![2.0, 3.0, 4.0], vec![7.0, f64::NAN, 9.0]);
        let three = Series::new(vec![2.0], vec![30.0]);
        let all = [one.clone(), two, three];
        let found = |of: fn(&[f64]) -> f64| {
            let Series { x, y } = across(&all, of);
            assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
            assert!(y[2].is_nan());
            [y[0], y[1], y[3]]
        };
        assert_eq!(found(middle), [1.0, 7.0, 9.0]);
        assert_eq!(found(mean), [1.0, 14.0, 9.0]);
        assert_eq!((found(least), found(largest)), ([1.0, 5.0, 9.0], [1.0, 30.0, 9.0]));
        assert_eq!(across(&all[..1], |_| 0.0).y[..2], one.y[..2], "one alone is as it was");
    }

    #[test]
    fn smoothing_is_unbiased_and_passes_over_gaps() {
        let flat = series(vec![2.0, 2.0, f64::NAN, 2.0]).smoothed(10, false);
        assert!(flat.y[2].is_nan() && [0, 1, 3].iter().all(|&i| (flat.y[i] - 2.0).abs() < 1e-12));
        let log = series(vec![1.0, 0.0, 100.0]).smoothed(1_000_000, true);
        assert!(log.y[1].is_nan() && (log.y[2] - 10.0).abs() < 1e-3, "the geometric mean: {:?}", log.y);
        assert_eq!(series(vec![1.0, 5.0]).smoothed(1, false).y, [1.0, 5.0]);
        assert_eq!([5, 150, 5000].map(span_of), [1, 5, 100]);
    }
}
