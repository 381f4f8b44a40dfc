//! What the heads of a model give the sequences of a step or a batch: one reward a head and sequence.

/// Rewards by every head, [K][S].
#[derive(Debug, Clone, PartialEq)]
pub struct HeadRewards(Vec<Vec<f64>>);

/// How the heads of an ensemble differ about one sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disagreement {
    /// The lowest reward that any head gives.
    pub min: f64,
    /// Population standard deviation of the rewards over the heads.
    pub spread: f64,
}

impl HeadRewards {
    /// From the rewards of each head, as many for one as for the other.
    pub fn new(by_head: Vec<Vec<f64>>) -> Self {
        Self(by_head)
    }

    /// The rewards of each head, [K][S].
    pub fn by_head(&self) -> &[Vec<f64>] {
        &self.0
    }

    /// The mean over the heads, [S]: the model's reward. With one head it is that head's, to the bit.
    pub fn mean(&self) -> Vec<f64> {
        let Some((first, others)) = self.0.split_first() else { return Vec::new() };
        let mut sums = first.clone();
        for rewards in others {
            sums.iter_mut().zip(rewards).for_each(|(sum, reward)| *sum += reward);
        }
        let count = self.0.len() as f64;
        sums.iter().map(|sum| sum / count).collect()
    }

    /// How the heads differ about each sequence, [S]; `None` for each where there is one head.
    pub fn disagreements(&self) -> Vec<Option<Disagreement>> {
        let means = self.mean();
        if self.0.len() < 2 {
            return vec![None; means.len()];
        }
        let count = self.0.len() as f64;
        let of = |(sequence, mean): (usize, &f64)| {
            let rewards = || self.0.iter().map(|head| head[sequence]);
            let squares: f64 = rewards().map(|reward| (reward - mean) * (reward - mean)).sum();
            Some(Disagreement {
                min: rewards().fold(f64::INFINITY, f64::min),
                spread: (squares / count).sqrt(),
            })
        };
        means.iter().enumerate().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_minimum_and_spread_are_those_over_the_heads() {
        let rewards = HeadRewards::new(vec![vec![1.0, -2.0], vec![4.0, -2.0], vec![1.0, -2.0]]);
        assert_eq!(rewards.mean(), [2.0, -2.0]);
        // numpy.std([1, 4, 1]) = sqrt(2)
        let first = Disagreement { min: 1.0, spread: 2.0f64.sqrt() };
        let second = Disagreement { min: -2.0, spread: 0.0 };
        assert_eq!(rewards.disagreements(), [Some(first), Some(second)]);
    }

    #[test]
    fn one_head_agrees_with_itself() {
        let rewards = HeadRewards::new(vec![vec![0.1, -0.0]]);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&rewards.mean()), bits(&[0.1, -0.0]));
        assert_eq!(rewards.disagreements(), [None, None]);
        assert!(HeadRewards::new(Vec::new()).disagreements().is_empty());
    }
}
