//! A figure over the seeds of a group.

use super::number::NOTHING;
use super::series::{largest, least, mean};

/// A figure of some runs that differ in their seed only.
#[derive(Debug, Clone, PartialEq)]
pub struct OverSeeds {
    /// The finite ones.
    pub values: Vec<f64>,
    /// So many runs there are, with the figure or without.
    pub runs: usize,
}

impl OverSeeds {
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let all: Vec<Option<f64>> = values.into_iter().collect();
        let values = all.iter().copied().flatten().filter(|value| value.is_finite()).collect();
        Self { values, runs: all.len() }
    }

    pub fn mean(&self) -> Option<f64> {
        (!self.values.is_empty()).then(|| mean(&self.values))
    }

    /// The least and the largest.
    pub fn range(&self) -> Option<[f64; 2]> {
        (!self.values.is_empty()).then(|| [least(&self.values), largest(&self.values)])
    }

    /// `0.712 (0.690–0.734)`: the mean, the least and the largest. The range is left out of a single run's figure and where
    /// it would repeat the mean; where not all runs have the figure, their count is there.
    pub fn written(&self, write: impl Fn(f64) -> String) -> String {
        let (Some(mean), Some(range)) = (self.mean(), self.range()) else { return NOTHING.into() };
        let missing = match self.values.len() {
            some if some < self.runs => format!(", {some} of {} seeds", self.runs),
            _ => String::new(),
        };
        let [mean, lo, hi] = [mean, range[0], range[1]].map(write);
        if mean == lo && mean == hi {
            return mean + &missing;
        }
        // A dash before a minus reads badly.
        let to = if lo.starts_with('-') || hi.starts_with('-') { " to " } else { "–" };
        format!("{mean} ({lo}{to}{hi}){missing}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::number::share;
    use super::*;

    #[test]
    fn a_figure_is_written_with_its_range() {
        let written = |values: &[Option<f64>]| OverSeeds::of(values.iter().copied()).written(share);
        assert_eq!(written(&[Some(0.5), Some(0.75), Some(0.7)]), "0.650 (0.500–0.750)");
        assert_eq!(written(&[Some(-0.1), Some(0.3)]), "0.100 (-0.100 to 0.300)");
        assert_eq!(written(&[Some(0.5), None, Some(0.7)]), "0.600 (0.500–0.700), 2 of 3 seeds");
        assert_eq!(written(&[Some(0.25)]), "0.250");
        assert_eq!(written(&[Some(0.25), Some(0.25)]), "0.250");
        assert_eq!(written(&[None, Some(f64::NAN)]), NOTHING);
        assert_eq!(written(&[]), NOTHING);
    }
}
