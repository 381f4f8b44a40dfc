//! The course of training: losses, accuracy, gradients, rate.

use super::RunGroup;
use super::curves::{Field, Style};
use super::figure::Figure;

/// The figures, in order.
pub fn figures(groups: &[RunGroup]) -> Vec<Figure> {
    let field = |title, unit, name| Field { title, unit, name, ..Field::default() };
    let fields = [
        Field {
            rule: Some(std::f64::consts::LN_2),
            note: "The line is ln 2, a coin's loss.",
            ..field("Preference loss", "nats a pair", "loss_bt")
        },
        Field {
            rule: Some(0.5),
            alarm: Some("gap"),
            note: "On the step's own pairs, before the update. The line is chance.",
            ..field("Training accuracy", "share of a step's pairs ranked rightly", "accuracy")
        },
        Field {
            rule: Some(0.5),
            note: "On all of the step's pairs, those included that the head does not learn from.",
            ..field(
                "Accuracy of the worst head",
                "share of a step's pairs ranked rightly",
                "head_accuracy_min",
            )
        },
        Field {
            log: true,
            note: "Before its lambda; logged whatever the objective is.",
            ..field("Sum-to-zero penalty", "mean(r)² over a step's sequences, log axis", "loss_bsr")
        },
        field("Loss", "the sum that is optimized", "loss"),
        Field {
            log: true,
            ..field("Gradient norm", "all parameters, before clipping, log axis", "grad_norm")
        },
        Field { style: Style::Exact, ..field("Learning rate", "of the step", "lr") },
        Field {
            style: Style::Exact,
            ..field("Lambda in force", "weight of sum-to-zero in the step", "lambda")
        },
        Field { log: true, ..field("Time of a step", "seconds, log axis", "seconds") },
    ];
    fields
        .iter()
        .filter(|field| !is_told_already(field, groups))
        .filter_map(|field| field.figure(groups))
        .collect()
}

/// The loss is the preference loss where nothing is added to it; lambda is none where it never changes.
fn is_told_already(field: &Field, groups: &[RunGroup]) -> bool {
    let constant = |column: &[f64]| column.iter().all(|value| *value == column[0]);
    groups.iter().flat_map(|group| &group.runs).all(|run| match field.name {
        "loss" => run.steps.column("loss") == run.steps.column("loss_bt"),
        "lambda" => run.steps.column("lambda").is_none_or(constant),
        _ => false,
    })
}
