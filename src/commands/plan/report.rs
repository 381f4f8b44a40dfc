//! A plan as text.

use super::Plan;
use crate::base::figures::{flops, grouped, memory as size};
use crate::trainer::estimate::PADDED_BATCH_PAIRS;
use crate::trainer::lengths::{Histogram, Spread};
use crate::trainer::memory::Activations;
use crate::trainer::progress::human;
use std::fmt::Write as _;

/// Characters of the longest bar of a histogram.
const BAR: u64 = 40;

/// The report.
pub(super) fn text(plan: &Plan) -> String {
    let mut out = format!("plan of {}\n", plan.name);
    let mut section = |title: &str, rows: Vec<(String, String)>| {
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "\n{title}");
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:<width$}  {value}");
        }
    };
    section("data", data(plan));
    section("lengths, in tokens", lengths(plan));
    section("sequences by length", histogram(&plan.estimate.lengths.histogram));
    section("computation", computation(plan));
    section("memory", memory(plan));
    section("time", time(plan));
    if plan.measured.is_some() {
        section("measured", measured(plan));
    }
    let _ = write!(out, "\n{}", suggestion(plan));
    out
}

fn row(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn data(plan: &Plan) -> Vec<(String, String)> {
    let (data, estimate) = (&plan.data, &plan.estimate);
    let dropped: Vec<String> =
        data.dropped.iter().map(|(reason, &n)| format!("{} {reason}", grouped(n))).collect();
    let dropped = if dropped.is_empty() { String::new() } else { format!(" ({})", dropped.join(", ")) };
    let tokens = &estimate.tokens;
    let noun = data.noun();
    vec![
        row(noun, format!("{} from {} rows", grouped(data.pairs), grouped(data.rows))),
        row("dropped", format!("{}{dropped}", grouped(data.dropped_total()))),
        row("truncated", grouped(data.truncated)),
        row(
            "tokenized",
            format!(
                "{} of {} {noun}, in the run's order",
                grouped(estimate.sampled_pairs),
                grouped(data.pairs)
            ),
        ),
        row("tokens, plain", format!("{} an epoch, the prompt in each sequence", grouped(tokens.plain))),
        row(
            "tokens, packed",
            format!(
                "{} an epoch, the prompt once: {:.2} times fewer",
                grouped(tokens.packed),
                estimate.sharing_factor()
            ),
        ),
        row(
            "tokens, padded",
            format!(
                "{} an epoch, were {} {noun} padded to their longest: {:.2} times the packed ones",
                grouped(tokens.padded),
                PADDED_BATCH_PAIRS.min(plan.config.train.batch_pairs),
                estimate.padding_factor()
            ),
        ),
    ]
}

fn lengths(plan: &Plan) -> Vec<(String, String)> {
    let lengths = &plan.estimate.lengths;
    let [best, others, packed] = match plan.data.noun() {
        "pairs" => ["chosen", "rejected", "pair, packed"],
        _ => ["best", "others", "list, packed"],
    };
    let line = |name: &str, spread: &Spread| {
        let Spread { median, p95, max } = spread;
        row(name, format!("{:>9} {:>9} {:>9}", grouped(*median), grouped(*p95), grouped(*max)))
    };
    vec![
        row("", format!("{:>9} {:>9} {:>9}", "median", "95%", "longest")),
        line("prompt (shared)", &lengths.prompt),
        line(best, &lengths.chosen),
        line(others, &lengths.rejected),
        line(packed, &lengths.packed_pair),
    ]
}

fn histogram(histogram: &Histogram) -> Vec<(String, String)> {
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1);
    let buckets = histogram.counts.iter().enumerate().map(|(i, &count)| {
        let start = i as u64 * histogram.width;
        let bar = "#".repeat((count * BAR).div_ceil(most) as usize);
        let range = format!("{:>7} .. {:>7}", grouped(start), grouped(start + histogram.width - 1));
        (range, format!("{:>9}  {bar}", grouped(count)).trim_end().to_owned())
    });
    buckets.collect()
}

fn computation(plan: &Plan) -> Vec<(String, String)> {
    let estimate = &plan.estimate;
    let spread = |spread: &Spread| format!("{} (largest {})", grouped(spread.median), grouped(spread.max));
    let held: Vec<String> = Activations::ALL
        .into_iter()
        .zip(estimate.steps_by_activations)
        .filter(|(_, steps)| *steps > 0)
        .map(|(way, _)| way.name().to_owned())
        .collect();
    vec![
        row(
            "steps",
            format!(
                "{} of {} {}",
                grouped(estimate.steps),
                grouped(plan.config.train.batch_pairs as u64),
                plan.data.noun()
            ),
        ),
        row("tokens of a step", format!("{} packed", spread(&estimate.step_tokens))),
        row("", format!("{} plain", spread(&estimate.step_plain_tokens))),
        row(
            "tokens of the run",
            format!(
                "{} packed, {} plain",
                grouped(estimate.run_packed_tokens.round() as u64),
                grouped(estimate.run_plain_tokens.round() as u64)
            ),
        ),
        row(
            "operations, a step",
            format!(
                "{} on average; the model alone {}, the rest computes again ({})",
                flops(estimate.step_flops),
                flops(estimate.step_model_flops),
                held.join(", ")
            ),
        ),
        row(
            "operations, the run",
            format!("{}; the model alone {}", flops(estimate.run_flops), flops(estimate.run_model_flops)),
        ),
    ]
}

fn memory(plan: &Plan) -> Vec<(String, String)> {
    let (memory, estimate) = (&plan.memory, &plan.estimate);
    let further_heads = plan.config.model.heads.saturating_sub(1) * plan.decoder.hidden_size;
    let parameters = plan.decoder.parameter_count() + further_heads as u64;
    let mut rows = vec![
        row("parameters", format!("{} in {} layers", grouped(parameters), plan.decoder.num_layers)),
        row("masters, f32", size(memory.masters)),
        row("compute copies", size(memory.compute_copies)),
        row("gradients", size(memory.gradients(estimate.step_rows))),
        row(
            "moments",
            format!(
                "{} with the {} of {} tokens that were seen, {} with all",
                size(memory.moments(estimate.rows)),
                grouped(estimate.rows),
                grouped(plan.decoder.vocab_size as u64),
                size(memory.all_moments())
            ),
        ),
        row("workspace", size(memory.workspace)),
    ];
    for (way, peak) in Activations::ALL.into_iter().zip(estimate.peak_bytes) {
        let activations = memory.activation_bytes(way, estimate.largest_step);
        let largest_step =
            format!("{} for activations, {} in all at the peak", size(activations), size(peak));
        rows.push(row(way.name(), largest_step));
    }
    let budget = memory.budget.bytes.map_or_else(|| "not known".into(), size);
    let held: Vec<String> = Activations::ALL
        .into_iter()
        .zip(estimate.steps_by_activations)
        .filter(|(_, steps)| *steps > 0)
        .map(|(way, steps)| format!("{} in {} of the sampled steps", way.name(), grouped(steps as u64)))
        .collect();
    rows.push(row("budget", format!("{budget}; on top of tokenizer and program")));
    rows.push(row("activations", held.join(", ")));
    rows
}

fn time(plan: &Plan) -> Vec<(String, String)> {
    let mut rows = vec![row("device", plan.device.clone())];
    match &plan.speed {
        Some(speed) => {
            let seconds = speed.seconds(plan.estimate.run_flops);
            rows.push(row("peak", format!("{}/s", flops(speed.peak))));
            rows.push(row(
                "the run",
                format!(
                    "about {} if steps reach {:.0}% of the peak, an assumption (--measure replaces it)",
                    human(seconds),
                    speed.efficiency * 100.0
                ),
            ));
        }
        None => rows.push(row("the run", "not known: give --peak-tflops, or --measure")),
    }
    rows
}

fn measured(plan: &Plan) -> Vec<(String, String)> {
    let Some(measured) = &plan.measured else { return Vec::new() };
    let seconds: Vec<String> = measured.seconds.iter().map(|seconds| format!("{seconds:.3}")).collect();
    let factor = |factor: Option<f64>| factor.map_or_else(|| "not known".into(), |f| format!("{f:.2}"));
    let mfu = measured.mfu.map_or_else(|| "not known".into(), |mfu| format!("{:.1}%", mfu * 100.0));
    let peak = measured.peak_bytes.map_or_else(|| "not known".into(), size);
    let mut rows = vec![
        row("seconds a step", format!("{:.3} (of {})", measured.seconds_per_step, seconds.join(", "))),
        row(
            "a second",
            format!(
                "{:.2} {}, {:.0} plain tokens, {:.0} packed tokens",
                measured.pairs_per_second,
                plan.data.noun(),
                measured.tokens_per_second,
                measured.packed_tokens_per_second
            ),
        ),
        row(
            "speed",
            format!("{}/s computed, what is computed again included", flops(measured.flops_per_second)),
        ),
        row("MFU", format!("{mfu} of the peak, the model's operations alone")),
        row("peak memory", format!("{peak} on top of tokenizer and program")),
        row(
            "correction",
            format!(
                "times {} in time, {} in memory",
                factor(measured.time_factor),
                factor(measured.memory_factor)
            ),
        ),
    ];
    if let Some(seconds) = plan.seconds() {
        rows.push(row("the run", format!("about {}, evaluations and saves aside", human(seconds))));
    }
    rows.push(row("its peak memory", format!("about {}", size(plan.corrected_peak()))));
    rows
}

fn suggestion(plan: &Plan) -> String {
    let suggestion = &plan.suggestion;
    let tokens = suggestion.micro_batch_tokens;
    let peak = size(suggestion.peak_bytes);
    let budget = plan.memory.budget.bytes.map_or_else(|| "an unknown budget".into(), size);
    let way = suggestion.activations.name();
    let why = match suggestion.fits {
        true => format!(
            "{way} at a peak of {peak} fits into {budget}; more tokens at once make no step faster, or do not fit"
        ),
        false => format!("no choice fits into {budget}; the least is {peak} ({way})"),
    };
    format!("best micro-batch: --set train.micro_batch_tokens={tokens}\n  {why}\n")
}
