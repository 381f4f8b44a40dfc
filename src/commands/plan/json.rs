//! A plan as one JSON object.

use super::{Measured, Plan};
use crate::trainer::memory::Activations;
use serde_json::{Map, Value, json};

/// The object of `--json`.
pub(super) fn object(plan: &Plan) -> Value {
    let (estimate, data) = (&plan.estimate, &plan.data);
    let lengths = &estimate.lengths;
    json!({
        "config": plan.name,
        "rows": data.rows,
        "pairs": estimate.pairs,
        "sequences": data.sequences,
        "dropped": data.dropped,
        "left_out": data.left_out,
        "truncated": data.truncated,
        "sampled_pairs": estimate.sampled_pairs,
        "steps": estimate.steps,
        "pairs_step": plan.config.train.batch_pairs,
        "tokens_plain": estimate.tokens.plain,
        "tokens_packed": estimate.tokens.packed,
        "tokens_padded": estimate.tokens.padded,
        "tokens_run_plain": estimate.run_plain_tokens,
        "tokens_run_packed": estimate.run_packed_tokens,
        "sharing_factor": estimate.sharing_factor(),
        "padding_factor": estimate.padding_factor(),
        "lengths": {
            "prompt": lengths.prompt,
            "chosen": lengths.chosen,
            "rejected": lengths.rejected,
            "packed_pair": lengths.packed_pair,
            "histogram": lengths.histogram,
        },
        "tokens_step_packed": estimate.step_tokens,
        "tokens_step_plain": estimate.step_plain_tokens,
        "flops_step": estimate.step_flops,
        "flops_step_model": estimate.step_model_flops,
        "flops_run": estimate.run_flops,
        "flops_run_model": estimate.run_model_flops,
        "memory": memory(plan),
        "activations": estimate.activations,
        "activations_steps": by_activations(estimate.steps_by_activations.map(|steps| steps as u64)),
        "micro_batch_tokens": plan.config.train.micro_batch_tokens,
        "suggested_micro_batch_tokens": plan.suggestion.micro_batch_tokens,
        "suggestion": {
            "activations": plan.suggestion.activations,
            "fits": plan.suggestion.fits,
            "peak_bytes": plan.suggestion.peak_bytes,
        },
        "device": plan.device,
        "peak_tflops": plan.speed.as_ref().map(|speed| speed.peak / 1e12),
        "efficiency": plan.speed.as_ref().map(|speed| speed.efficiency),
        "seconds_run": plan.seconds(),
        "measured": plan.measured.as_ref().map(measured),
    })
}

fn memory(plan: &Plan) -> Value {
    let (estimate, memory) = (&plan.estimate, &plan.memory);
    let activations = Activations::ALL.map(|way| memory.activation_bytes(way, estimate.largest_step));
    json!({
        "masters": memory.masters,
        "compute_copies": memory.compute_copies,
        "gradients": memory.gradients(estimate.step_rows),
        "moments": memory.moments(estimate.rows),
        "moments_all": memory.all_moments(),
        "workspace": memory.workspace,
        "activations": by_activations(activations),
        "peak_bytes": by_activations(estimate.peak_bytes),
        "run_peak_bytes": plan.corrected_peak(),
        "budget_bytes": memory.budget.bytes,
    })
}

fn measured(measured: &Measured) -> Value {
    json!({
        "seconds": measured.seconds,
        "seconds_per_step": measured.seconds_per_step,
        "tokens_per_second": measured.tokens_per_second,
        "packed_tokens_per_second": measured.packed_tokens_per_second,
        "pairs_per_second": measured.pairs_per_second,
        "tflops": measured.flops_per_second / 1e12,
        "tflops_model": measured.model_flops_per_second / 1e12,
        "mfu": measured.mfu,
        "peak_memory_bytes": measured.peak_bytes,
        "time_factor": measured.time_factor,
        "memory_factor": measured.memory_factor,
    })
}

fn by_activations(values: [u64; 3]) -> Map<String, Value> {
    Activations::ALL.iter().zip(values).map(|(way, value)| (way.name().to_owned(), value.into())).collect()
}
