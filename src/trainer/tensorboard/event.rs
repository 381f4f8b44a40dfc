//! The event of a line of `metrics.jsonl`: a step, and a summary of values by tag.

use super::protobuf::Message;
use crate::diagnostics::quantiles::LEVELS;
use serde_json::{Map, Value};

/// The key and the eight bytes of an event's first field, its wall time.
const WALL_TIME_BYTES: usize = 9;

/// An event but for its wall time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body(Message);

impl Body {
    /// The whole event, at a time in seconds since 1970.
    pub fn at(&self, wall_time: f64) -> Vec<u8> {
        [Message::default().double(1, wall_time).encoded(), self.0.encoded()].concat()
    }

    /// Whether an event that [`Body::at`] made is of this body.
    pub fn is_of(&self, event: &[u8]) -> bool {
        event.get(WALL_TIME_BYTES..) == Some(self.0.encoded())
    }
}

/// What the first event of a file says.
pub fn version() -> Body {
    Body(Message::default().bytes(3, b"brain.Event:2"))
}

/// The event of a line. Fields become `train/FIELD`, `eval/SPLIT/FIELD` and `alarm/RULE`; what is no number has none.
pub fn of_line(line: &Value) -> Body {
    let empty = Map::new();
    let fields = line.as_object().unwrap_or(&empty);
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let mut summary = Message::default();
    match text("kind") {
        Some("step") => {
            summary = scalars(summary, "train", fields);
            if let Some(histogram) = hidden_norms(fields) {
                let value = Message::default().bytes(1, b"train/hidden_norm").message(5, &histogram);
                summary = summary.message(1, &value);
            }
        }
        Some("eval") => {
            summary = scalars(summary, &format!("eval/{}", text("split").unwrap_or_default()), fields);
        }
        Some("alarm") => {
            let split = text("split").map(|split| format!("/{split}")).unwrap_or_default();
            let tag = format!("alarm/{}{split}", text("rule").unwrap_or_default());
            if let Some(value) = fields.get("value").and_then(Value::as_f64) {
                summary = scalar(summary, &tag, value);
            }
        }
        _ => {}
    }
    let step = fields.get("step").and_then(Value::as_u64).unwrap_or(0);
    Body(Message::default().varint(2, step).message(5, &summary))
}

/// Adds the numbers of an object, those in objects inside it too.
fn scalars(mut summary: Message, prefix: &str, fields: &Map<String, Value>) -> Message {
    for (name, value) in fields.iter().filter(|(name, _)| *name != "step") {
        let tag = format!("{prefix}/{name}");
        summary = match value {
            Value::Object(inner) => scalars(summary, &tag, inner),
            value => match value.as_f64() {
                Some(number) => scalar(summary, &tag, number),
                None => summary,
            },
        };
    }
    summary
}

fn scalar(summary: Message, tag: &str, value: f64) -> Message {
    // TensorBoard's scalars are floats.
    summary.message(1, &Message::default().bytes(1, tag.as_bytes()).float(2, value as f32))
}

/// The histogram of a step's hidden norms, from its quantiles: between two of them lies the difference of their levels.
fn hidden_norms(fields: &Map<String, Value>) -> Option<Message> {
    let number = |key: &str| fields.get(key).and_then(Value::as_f64);
    let quantiles: Vec<f64> =
        fields.get("hidden_norm_quantiles")?.as_array()?.iter().filter_map(Value::as_f64).collect();
    // Lines of earlier versions were of pairs alone and do not count their sequences.
    let sequences = match number("sequences") {
        Some(sequences) => sequences,
        None => 2.0 * number("pairs")?,
    };
    let (mean, variance) = (number("hidden_norm_mean")?, number("hidden_norm_var")?);
    let (&[min, .., max], true) = (quantiles.as_slice(), quantiles.len() == LEVELS.len()) else {
        return None;
    };
    // Buckets end at a limit and begin at the one before it, which has to be smaller.
    let mut buckets: Vec<(f64, f64)> = vec![(min, 0.0)];
    for (limit, share) in
        quantiles.iter().zip(LEVELS).skip(1).zip(LEVELS).map(|((q, high), low)| (*q, high - low))
    {
        match buckets.last_mut() {
            Some(last) if last.0 >= limit => last.1 += share * sequences,
            _ => buckets.push((limit, share * sequences)),
        }
    }
    Some(
        Message::default()
            .double(1, min)
            .double(2, max)
            .double(3, sequences)
            .double(4, mean * sequences)
            .double(5, (variance + mean * mean) * sequences)
            .packed_doubles(6, buckets.iter().map(|(limit, _)| *limit))
            .packed_doubles(7, buckets.iter().map(|(_, count)| *count)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_histogram_is_of_sequences_and_of_two_a_pair_where_none_are_counted() {
        let histogram = |counts: Value| {
            let mut fields = counts.as_object().cloned().unwrap();
            fields.insert("hidden_norm_quantiles".into(), json!([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]));
            fields.extend([("hidden_norm_mean".into(), json!(4.0)), ("hidden_norm_var".into(), json!(1.0))]);
            hidden_norms(&fields).unwrap()
        };
        // A list of three has three pairs.
        assert_eq!(histogram(json!({"pairs": 9, "sequences": 8})), histogram(json!({"pairs": 4})));
        assert_ne!(histogram(json!({"pairs": 4, "sequences": 9})), histogram(json!({"pairs": 4})));
    }
}
