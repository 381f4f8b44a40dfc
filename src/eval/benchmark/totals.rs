//! How the groups of a benchmark become one figure: RewardBench's weighted sections, and the plainer ways of the others.

use super::{Manifest, Total};

/// What is averaged: a group of which there are rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    /// Position in the manifest's groups, where it was declared.
    pub declared: Option<usize>,
    /// Rows that have a value. Without any the group has no figure, and no weight in whatever total.
    pub values: usize,
}

impl Present {
    /// Its weight in its section.
    fn count(self, manifest: &Manifest) -> f64 {
        let count = self.declared.and_then(|at| manifest.groups[at].count).unwrap_or(self.values as f64);
        if self.values > 0 { count } else { 0.0 }
    }

    fn section(self, manifest: &Manifest) -> Option<usize> {
        self.declared.and_then(|at| manifest.groups[at].section)
    }
}

/// The weight of every group in section `section`, summing to 1; `None` for a section without values.
///
/// RewardBench weighs a section's subsets by its own counts, in which the 447 rows of math-prm count as the 984 of
/// code; subsets without rows are left out.
///
/// # Source
/// RewardBench (arXiv 2403.13787), section 4.2; `calculate_scores_per_section` in `rewardbench/utils.py`.
pub(super) fn section_weights(manifest: &Manifest, groups: &[Present], section: usize) -> Option<Vec<f64>> {
    let counts = |group: &Present| match group.section(manifest) == Some(section) {
        true => group.count(manifest),
        false => 0.0,
    };
    normalized(groups.iter().map(counts).collect())
}

/// The weight of every group in the total, summing to 1; `None` where there is no total.
///
/// RewardBench's score is the mean of its sections, the prior test sets at half weight, over the sections that have
/// rows.
///
/// # Source
/// RewardBench, `analysis/get_benchmark_results.py`; RM-Bench and RewardBench 2: the plain mean of domains or subsets.
pub(super) fn total_weights(manifest: &Manifest, groups: &[Present]) -> Option<Vec<f64>> {
    match manifest.total {
        Total::None => None,
        Total::Groups => {
            normalized(groups.iter().map(|group| f64::from(u8::from(group.values > 0))).collect())
        }
        Total::Rows => row_weights(groups),
        Total::Sections => {
            let mut total = vec![0.0; groups.len()];
            for (at, section) in manifest.sections.iter().enumerate() {
                for (sum, weight) in
                    total.iter_mut().zip(section_weights(manifest, groups, at).into_iter().flatten())
                {
                    *sum += section.weight * weight;
                }
            }
            normalized(total)
        }
    }
}

/// Weights under which the mean of groups is the mean of rows.
pub(super) fn row_weights(groups: &[Present]) -> Option<Vec<f64>> {
    normalized(groups.iter().map(|group| group.values as f64).collect())
}

fn normalized(weights: Vec<f64>) -> Option<Vec<f64>> {
    let sum: f64 = weights.iter().sum();
    (sum > 0.0).then(|| weights.iter().map(|weight| weight / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(manifest: &Manifest, names: &[(&str, usize)]) -> Vec<Present> {
        let of = |&(name, values)| Present {
            declared: manifest.groups.iter().position(|g| g.name == name),
            values,
        };
        names.iter().map(of).collect()
    }

    #[test]
    fn math_counts_as_all_of_the_code_and_prior_sets_half() {
        let bench = Manifest::of("reward-bench").unwrap();
        let groups = present(&bench, &[("math-prm", 447), ("hep-go", 164), ("shp", 9), ("summarize", 1)]);
        let reasoning = section_weights(&bench, &groups, 3).unwrap();
        assert_eq!(reasoning, [984.0 / 1148.0, 164.0 / 1148.0, 0.0, 0.0]);
        assert_eq!(section_weights(&bench, &groups, 4).unwrap(), [0.0, 0.0, 0.5, 0.5], "not by their rows");
        assert_eq!(section_weights(&bench, &groups, 0), None);
        let total = total_weights(&bench, &groups).unwrap();
        let expected = [984.0 / 1148.0 / 1.5, 164.0 / 1148.0 / 1.5, 0.25 / 1.5, 0.25 / 1.5];
        assert!(total.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{total:?}");
    }

    #[test]
    fn plain_means_are_of_groups_or_of_rows() {
        let mut bench = Manifest::of("judge-bench").unwrap();
        let groups = present(&bench, &[("math", 30), ("coding", 10)]);
        assert_eq!(total_weights(&bench, &groups).unwrap(), [0.75, 0.25]);
        bench.total = Total::Groups;
        assert_eq!(total_weights(&bench, &groups).unwrap(), [0.5, 0.5]);
        bench.total = Total::None;
        assert_eq!(total_weights(&bench, &groups), None);
    }

    #[test]
    fn a_group_without_values_has_no_weight_in_whatever_total() {
        let mut bench = Manifest::of("judge-bench").unwrap();
        for total in [Total::Groups, Total::Rows] {
            bench.total = total;
            let groups = present(&bench, &[("math", 30), ("coding", 0)]);
            assert_eq!(total_weights(&bench, &groups).unwrap(), [1.0, 0.0], "{total:?}");
            assert_eq!(total_weights(&bench, &present(&bench, &[("math", 0)])), None, "{total:?}");
        }
        let bench = Manifest::of("reward-bench").unwrap();
        let groups = present(&bench, &[("math-prm", 0), ("hep-go", 164), ("shp", 0)]);
        assert_eq!(total_weights(&bench, &groups).unwrap(), [0.0, 1.0, 0.0], "its own counts, too");
        assert_eq!(section_weights(&bench, &groups, 4), None);
    }
}
