//! Values over steps, made fit for a plot of a few hundred pixels.

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

/// The mean of the columns' values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
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
    fn smoothing_is_unbiased_and_passes_over_gaps() {
        let flat = series(vec![2.0, 2.0, f64::NAN, 2.0]).smoothed(10, false);
        assert!(flat.y[2].is_nan() && [0, 1, 3].iter().all(|&i| (flat.y[i] - 2.0).abs() < 1e-12));
        let log = series(vec![1.0, 0.0, 100.0]).smoothed(1_000_000, true);
        assert!(log.y[1].is_nan() && (log.y[2] - 10.0).abs() < 1e-3, "the geometric mean: {:?}", log.y);
        assert_eq!(series(vec![1.0, 5.0]).smoothed(1, false).y, [1.0, 5.0]);
        assert_eq!([5, 150, 5000].map(span_of), [1, 5, 100]);
    }
}
