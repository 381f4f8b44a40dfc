//! Gold scores as the data sets write them.

use super::text::kind;
use serde_json::{Map, Value};

/// The score field that UltraFeedback aggregates its ratings into; the one with stand-ins.
const OVERALL: &str = "overall_score";
/// The name that asks for the mean of the ratings, whatever else there is.
pub const MEAN_RATING: &str = "mean-rating";
/// The older aggregate, of rows that have no ratings.
const FINE_GRAINED: &str = "fine-grained_score";

/// A gold score: a finite number, also as a string. Null, NaN and `N/A` are no score.
///
/// # Errors
/// Any other type or text.
pub(super) fn score(value: &Value, place: &str) -> Result<Option<f64>, String> {
    let number = match value {
        Value::Null => None,
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.trim() {
            "" | "N/A" | "n/a" | "NA" | "None" | "none" | "null" => None,
            text => Some(
                text.parse::<f64>()
                    .map_err(|_| format!("{place}: found {}, expected a number", kind(value)))?,
            ),
        },
        other => return Err(format!("{place}: found {}, expected a number", kind(other))),
    };
    Ok(number.filter(|score| score.is_finite()))
}

/// Where the completions of one row have their gold scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale<'a> {
    Field(&'a str),
    /// The mean of `annotations.*.Rating`.
    Ratings,
}

impl<'a> Scale<'a> {
    /// The one scale that all completions of a row are compared on: ratings and overall scores have different ranges,
    /// so a completion that lacks the row's scale is unscored rather than scored on another.
    pub(super) fn of(completions: &[Value], score_field: &'a str) -> Self {
        if score_field == MEAN_RATING {
            return Scale::Ratings;
        }
        if score_field != OVERALL || completions.iter().any(|c| c.get(score_field).is_some()) {
            return Scale::Field(score_field);
        }
        let rated = |completion: &Value| {
            let rating = |aspect: &Value| score(aspect.get("Rating")?, "").ok().flatten();
            let aspects = completion.get("annotations").and_then(Value::as_object);
            aspects.is_some_and(|aspects| aspects.values().any(|aspect| rating(aspect).is_some()))
        };
        if completions.iter().any(rated) { Scale::Ratings } else { Scale::Field(FINE_GRAINED) }
    }

    /// The gold score of one completion, see [`super::Example::from_json`].
    pub(super) fn score(self, completion: &Map<String, Value>, place: &str) -> Result<Option<f64>, String> {
        match self {
            Scale::Field(field) => {
                completion.get(field).map_or(Ok(None), |value| score(value, &format!("{place}.{field}")))
            }
            Scale::Ratings => mean_rating(completion.get("annotations"), place),
        }
    }
}

/// The mean of `annotations.*.Rating` over the aspects that have one.
fn mean_rating(annotations: Option<&Value>, place: &str) -> Result<Option<f64>, String> {
    let Some(Value::Object(aspects)) = annotations else { return Ok(None) };
    let (mut sum, mut count) = (0.0, 0u32);
    for (aspect, annotation) in aspects {
        if let Some(rating) = annotation.get("Rating")
            && let Some(rating) = score(rating, &format!("{place}.annotations.{aspect}.Rating"))?
        {
            sum += rating;
            count += 1;
        }
    }
    Ok((count > 0).then(|| sum / f64::from(count)))
}

/// The gold score of one side of a pair (`side` is `chosen` or `rejected`), in the row or in its `metadata`.
///
/// A pair is ordered without it, so what is no number is passed over.
pub(super) fn side_score(row: &Map<String, Value>, side: &str) -> Option<f64> {
    let names = [
        format!("score_{side}"),
        format!("{side}_score"),
        format!("{side}-score"),
        format!("{side}-rating"),
        format!("{side}_rating"),
    ];
    [Some(row), row.get("metadata").and_then(Value::as_object)]
        .into_iter()
        .flatten()
        .find_map(|fields| names.iter().find_map(|name| score(fields.get(name)?, name).ok().flatten()))
}

/// The model that wrote one side of a pair.
pub(super) fn side_model(row: &Map<String, Value>, side: &str) -> Option<String> {
    [format!("{side}-model"), format!("{side}_model"), format!("model_{side}")]
        .iter()
        .find_map(|name| row.get(name)?.as_str().map(str::to_owned))
}
