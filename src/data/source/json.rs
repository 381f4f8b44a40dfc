//! One JSON value from bytes, as Python writes them.

use serde_json::Value;

/// The value, with `NaN`, `Infinity` and `-Infinity` outside strings read as null.
///
/// # Errors
/// The parser's reason with the column, in bytes from 1.
pub(super) fn parse(text: &[u8]) -> Result<Value, String> {
    let error = match serde_json::from_slice(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let reason = |error: serde_json::Error| format!("not JSON: {error}");
    match with_nulls(text) {
        Some(text) => serde_json::from_slice(&text).map_err(reason),
        None => Err(reason(error)),
    }
}

/// `text` with its literals of non-finite numbers replaced by null, or `None` where it has none.
fn with_nulls(text: &[u8]) -> Option<Vec<u8>> {
    const LITERALS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut out = Vec::with_capacity(text.len() + 16);
    let (mut at, mut copied, mut in_string) = (0, 0, false);
    while at < text.len() {
        match text[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                if let Some(literal) = LITERALS.iter().find(|literal| text[at..].starts_with(literal)) {
                    out.extend_from_slice(&text[copied..at]);
                    out.extend_from_slice(b"null");
                    at += literal.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    (copied > 0).then(|| {
        out.extend_from_slice(&text[copied..]);
        out
    })
}

/// About the memory of a value, in bytes.
pub(super) fn bytes(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(bytes).sum(),
            Value::Object(fields) => fields.iter().map(|(key, value)| 32 + key.len() + bytes(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn pythons_non_finite_numbers_are_null_outside_strings_only() {
        let text = br#"{"NaN": NaN, "a": [-Infinity, Infinity, -1], "s": "NaN \" NaN, \\", "t": NaN}"#;
        let expected = json!({"NaN": null, "a": [null, null, -1], "s": "NaN \" NaN, \\", "t": null});
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn what_is_not_json_is_said_with_its_column() {
        assert_eq!(parse(b"{\"a\": NaNs}").unwrap_err(), "not JSON: expected `,` or `}` at line 1 column 11");
        assert!(parse(b"{\"a\": 1").unwrap_err().starts_with("not JSON: EOF"));
        assert!(parse(b"{\"a\": \"\xff\"}").unwrap_err().contains("invalid unicode"));
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(parse(&deep).unwrap_err().contains("recursion limit"));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }

        #[test]
        fn json_text_is_read_as_it_is(text in ".*", number in any::<i64>()) {
            let value = json!({ "text": text, "number": number, "list": [text, null] });
            prop_assert_eq!(parse(value.to_string().as_bytes()).unwrap(), value);
        }
    }
}
