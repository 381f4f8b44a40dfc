//! Rotary embeddings in config.json, in the spellings of every transformers release.

use super::fields::Fields;
use super::{MAX_POSITIONS, shown};
use crate::model::Llama3RopeScaling;

/// `rope_theta` with `rope_scaling`, or transformers 5's `rope_parameters` that hold both.
pub(super) fn read(fields: &mut Fields) -> (Option<f64>, Option<Llama3RopeScaling>) {
    let mut theta = fields.positive("rope_theta", Some(10000.0));
    let scaling = read_object(fields, "rope_scaling");
    let parameters = read_object(fields, "rope_parameters");
    if let Some((_, Some(inner))) = parameters {
        if fields.get("rope_theta").is_some() && theta != Some(inner) {
            fields.problem(format!(
                "rope_theta: found {}, but rope_parameters.rope_theta says {inner}",
                theta.unwrap_or_default()
            ));
        }
        theta = Some(inner);
    }
    match (scaling, parameters) {
        (Some((old, _)), Some((new, _))) => {
            if old != new {
                fields.problem("rope_scaling: differs from rope_parameters, expected one of them".to_owned());
            }
            (theta, new)
        }
        (one, other) => (theta, other.or(one).and_then(|(scaling, _)| scaling)),
    }
}

/// The scaling and the `rope_theta` inside one of the two objects; `None` where the object is absent or wrong.
fn read_object(fields: &mut Fields, key: &str) -> Option<(Option<Llama3RopeScaling>, Option<f64>)> {
    let value = fields.get(key)?;
    let Some(object) = value.as_object() else {
        fields.problem(format!("{key}: found {}, expected an object or null", shown(value)));
        return None;
    };
    let mut inner = Fields::new(object);
    let theta = match inner.get("rope_theta") {
        None => None,
        Some(_) => inner.positive("rope_theta", None),
    };
    if let Some(factor) = inner.get("partial_rotary_factor")
        && factor.as_f64() != Some(1.0)
    {
        inner.problem(format!("partial_rotary_factor: found {}, supported: 1.0", shown(factor)));
    }
    let kind = inner.get("rope_type").or_else(|| inner.get("type"));
    let scaling = match kind.map(|kind| (kind, kind.as_str())) {
        None if key == "rope_parameters" => None,
        None => {
            inner.problem("rope_type: missing, supported: \"llama3\" or \"default\"".to_owned());
            None
        }
        Some((_, Some("default"))) => None,
        Some((_, Some("llama3"))) => read_llama3(&mut inner),
        Some((other, _)) => {
            inner.problem(format!("rope_type: found {}, supported: \"llama3\" or \"default\"", shown(other)));
            None
        }
    };
    let problems = inner.into_problems();
    if problems.is_empty() {
        return Some((scaling, theta));
    }
    for problem in problems {
        fields.problem(format!("{key}.{problem}"));
    }
    None
}

fn read_llama3(inner: &mut Fields) -> Option<Llama3RopeScaling> {
    let factor = inner.positive("factor", None);
    let low = inner.positive("low_freq_factor", None);
    let high = inner.positive("high_freq_factor", None);
    let original = inner.size("original_max_position_embeddings", None, MAX_POSITIONS);
    if let Some(small) = factor.filter(|f| *f < 1.0) {
        inner.problem(format!("factor: found {small}, expected at least 1"));
    }
    if let Some((low, high)) = low.zip(high)
        && low >= high
    {
        inner.problem(format!("high_freq_factor: found {high}, expected more than low_freq_factor, {low}"));
    }
    Some(Llama3RopeScaling {
        factor: factor?,
        low_freq_factor: low?,
        high_freq_factor: high?,
        original_max_position_embeddings: original?,
    })
}
