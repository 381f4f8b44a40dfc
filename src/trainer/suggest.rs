//! The best `train.micro_batch_tokens`: the fastest step that fits.

use super::estimate::{Inputs, StepCost};
use super::memory::Activations;

/// Rows of a product beyond which it is no faster, on a GPU and on the CPU.
const SATURATED_ON_GPU: usize = 16384;
const SATURATED_ON_CPU: usize = 4096;
/// Fewer rows than this slow a product down; they are for models that fit with nothing else.
const EFFICIENT: usize = 1024;
const SMALLEST: usize = 128;

/// What to put into the configuration, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    pub micro_batch_tokens: usize,
    /// How most steps are held then.
    pub activations: Activations,
    /// Whether every step stays within the budget.
    pub fits: bool,
    /// The peak, of the largest step.
    pub peak_bytes: u64,
}

/// Of the powers of two up to where products are no faster, the one with the fewest operations; of equals the
/// largest. Below [`EFFICIENT`] only where nothing else fits.
pub fn suggest(inputs: &Inputs, on_cpu: bool) -> Suggestion {
    let saturated = if on_cpu { SATURATED_ON_CPU } else { SATURATED_ON_GPU };
    let most =
        inputs.sample.steps().map(|(lists, _)| lists.iter().map(|list| list.packed()).sum::<u64>()).max();
    let most = usize::try_from(most.unwrap_or(0)).unwrap_or(usize::MAX);
    // A step of fewer tokens is one micro-batch anyway.
    let largest = saturated.min(most.checked_next_power_of_two().unwrap_or(saturated)).max(SMALLEST);
    let sizes = std::iter::successors(Some(largest), |size| Some(size / 2).filter(|&size| size >= SMALLEST));
    let mut best: Option<(Suggestion, Rank)> = None;
    for size in sizes {
        if size < EFFICIENT && best.as_ref().is_some_and(|(best, _)| best.fits) {
            break;
        }
        let steps = inputs.step_costs(size);
        let suggestion = judge(inputs, size, &steps);
        let operations = steps.iter().map(|step| u128::from(step.computed())).sum();
        let rank = match suggestion.fits {
            true => Rank::Fits { operations },
            false => Rank::TooLarge { bytes: suggestion.peak_bytes },
        };
        if best.as_ref().is_none_or(|(_, other)| rank < *other) {
            best = Some((suggestion, rank));
        }
    }
    best.map_or_else(|| judge(inputs, largest, &[]), |(best, _)| best)
}

/// The less the better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Fits { operations: u128 },
    TooLarge { bytes: u64 },
}

fn judge(inputs: &Inputs, micro_batch_tokens: usize, steps: &[StepCost]) -> Suggestion {
    let memory = &inputs.memory;
    let held = |way: &Activations| steps.iter().filter(|step| step.activations == *way).count();
    let peak = |step: &StepCost| memory.peak_bytes(step.activations, step.size, inputs.sample.rows());
    Suggestion {
        micro_batch_tokens,
        activations: Activations::ALL.into_iter().max_by_key(held).unwrap_or(Activations::Recompute),
        fits: steps.iter().all(|step| memory.fits(step.activations, step.size)),
        peak_bytes: steps.iter().map(peak).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::super::estimate::tests::{decoder, memory, sample};
    use super::*;

    fn with_budget(bytes: u64) -> Suggestion {
        let (config, sample) = (Config::default(), sample(2));
        suggest(&Inputs::new(&decoder(), &config, memory(bytes), 4, 2, &sample), true)
    }

    #[test]
    fn plenty_of_memory_takes_a_whole_step_at_once_and_keeps_it() {
        let suggestion = with_budget(1 << 40);
        assert_eq!((suggestion.micro_batch_tokens, suggestion.activations), (128, Activations::Keep));
        assert!(suggestion.fits);
    }

    #[test]
    fn too_little_memory_is_said() {
        let suggestion = with_budget(1);
        assert!(!suggestion.fits);
        assert_eq!(suggestion.activations, Activations::RewardsFirst);
    }
}
