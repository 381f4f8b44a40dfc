//! What a run's memory goes to, in the words of `fit` before it starts and of its check.

use crate::base::figures::memory as size;
use crate::base::reader::Words;
use crate::trainer::estimate::Estimate;
use crate::trainer::memory::Memory;

/// Weights, gradients and moments, the latter two with so many rows of the embedding.
pub(super) fn parts(memory: &Memory, step_rows: u64, rows: u64) -> String {
    let mut named = vec![format!("{} for f32 master weights", size(memory.masters))];
    if memory.compute_copies > 0 {
        named.push(format!("{} for their copies to compute with", size(memory.compute_copies)));
    }
    named.push(format!("{} for gradients", size(memory.gradients(step_rows))));
    named.push(format!("{} for AdamW's moments ({})", size(memory.moments(rows)), memory.moment_kind.word()));
    named.join(", ")
}

/// The line of `fit`: parts and peak of the largest step that is known.
pub(super) fn line(memory: &Memory, estimate: &Estimate, peak: u64) -> String {
    let rows = u64::MAX;
    format!(
        "memory: about {} at the peak: {}, {} for activations ({})",
        size(peak),
        parts(memory, estimate.step_rows, rows),
        size(memory.activation_bytes(estimate.activations, estimate.largest_step)),
        estimate.activations.name(),
    )
}
