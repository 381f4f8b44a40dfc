//! The `tojson` filter as transformers defines it: `json.dumps` of Python, nothing escaped for HTML.

use super::python::{self, MAX_DEPTH, as_float, float_repr, invalid, is_list, too_deep, type_name};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, State, Value};
use std::fmt::Write;

/// How `json.dumps` lays out its text.
struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
///
/// # Errors
/// What Python cannot serialize either: undefined values, mixed keys under `sort_keys`; and values nested too deep.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    if args.len() > 4 {
        return Err(Error::from(minijinja::ErrorKind::TooManyArguments));
    }
    let argument = |position: usize, name: &str| -> Result<Option<Value>, Error> {
        match args.get(position) {
            Some(value) => Ok(Some(value.clone())),
            None => kwargs.get::<Option<Value>>(name),
        }
    };
    let truth = |value: Option<Value>| value.is_some_and(|v| v.is_true());
    let ensure_ascii = truth(argument(0, "ensure_ascii")?);
    let indent = match argument(1, "indent")? {
        None => None,
        Some(v) if v.is_none() || v.is_undefined() => None,
        Some(v) => Some(indentation(&v)?),
    };
    let separators = argument(2, "separators")?.filter(|v| !v.is_none());
    let sort_keys = truth(argument(3, "sort_keys")?);
    kwargs.assert_all_used()?;
    let (item_separator, key_separator) = match separators {
        Some(pair) => {
            let parts: Vec<Value> = pair.try_iter()?.checked().collect::<Result<_, _>>()?;
            match &parts[..] {
                [item, key] if item.as_str().is_some() && key.as_str().is_some() => {
                    (item.to_string(), key.to_string())
                }
                _ => return Err(invalid("tojson: separators must be a pair of strings")),
            }
        }
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let style = Style { ensure_ascii, indent, item_separator, key_separator, sort_keys };
    let mut writer = Writer { out: String::new(), charged: 0, state, style: &style };
    writer.value(value, 0)?;
    Ok(writer.out)
}

fn indentation(value: &Value) -> Result<String, Error> {
    if let Some(s) = value.as_str() {
        return Ok(s.into());
    }
    match value.kind() {
        ValueKind::Bool => Ok(if value.is_true() { " ".into() } else { String::new() }),
        ValueKind::Number if value.is_integer() => {
            let width = i64::try_from(value.clone()).unwrap_or(i64::MAX);
            match usize::try_from(width.max(0)) {
                Ok(n) if n <= 1000 => Ok(" ".repeat(n)),
                _ => Err(invalid(format!("tojson: indent {width} is more than 1000 spaces"))),
            }
        }
        _ => Err(invalid(format!("tojson: indent must be an integer or a string, not {}", type_name(value)))),
    }
}

struct Writer<'a> {
    out: String,
    /// Bytes of `out` that are already paid for.
    charged: usize,
    state: &'a State<'a, 'a>,
    style: &'a Style,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => {
                let Some(pairs) = value.as_object().and_then(|o| o.try_iter_pairs()) else {
                    return Err(unserializable(value));
                };
                let mut pairs: Vec<(Value, Value)> = pairs.collect();
                if self.style.sort_keys {
                    sort_pairs(&mut pairs)?;
                }
                self.out.push('{');
                let mut first = true;
                for (key, item) in pairs {
                    self.separate(&mut first, depth + 1);
                    self.key(&key)?;
                    self.out.push_str(&self.style.key_separator);
                    self.value(&item, depth + 1)?;
                }
                self.close(first, depth, '}');
            }
            ValueKind::Seq | ValueKind::Iterable if is_list(value) || value.try_iter().is_ok() => {
                self.out.push('[');
                let mut first = true;
                for item in value.try_iter()?.checked() {
                    self.separate(&mut first, depth + 1);
                    self.value(&item?, depth + 1)?;
                }
                self.close(first, depth, ']');
            }
            _ => return Err(unserializable(value)),
        }
        // Shared values can unfold into far more text than the template has created so far: pay as the text grows.
        let grown = self.out.len() - self.charged;
        self.charged = self.out.len();
        self.state.consume_fuel(1 + grown as u64 / 64)
    }

    fn separate(&mut self, first: &mut bool, depth: usize) {
        if !std::mem::replace(first, false) {
            self.out.push_str(&self.style.item_separator);
        }
        self.new_line(depth);
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn number(&mut self, value: &Value) {
        let text = match as_float(value) {
            Some(x) if x.is_nan() => "NaN".into(),
            Some(x) if x.is_infinite() && x > 0.0 => "Infinity".into(),
            Some(x) if x.is_infinite() => "-Infinity".into(),
            Some(x) => float_repr(x),
            None => value.to_string(),
        };
        self.out.push_str(&text);
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.out.push('"');
                match key.kind() {
                    ValueKind::None => self.out.push_str("null"),
                    ValueKind::Bool => self.out.push_str(if key.is_true() { "true" } else { "false" }),
                    _ => self.number(key),
                }
                self.out.push('"');
            }
            _ => {
                return Err(invalid(format!(
                    "tojson: keys must be str, int, float, bool or None, not {}",
                    type_name(key)
                )));
            }
        }
        Ok(())
    }

    fn string(&mut self, s: &str) {
        self.out.push('"');
        for c in s.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.style.ensure_ascii && (c as u32) > 0x7e) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing into a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Python sorts keys of one type only; strings by code point, which is the order of their UTF-8 bytes.
fn sort_pairs(pairs: &mut [(Value, Value)]) -> Result<(), Error> {
    let is_number = |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    if pairs.iter().all(|(k, _)| k.as_str().is_some()) {
        pairs.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
    } else if pairs.len() <= 1 || pairs.iter().all(|(k, _)| is_number(k)) {
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
    } else {
        return Err(invalid("tojson: sort_keys needs keys of one type"));
    }
    Ok(())
}

fn unserializable(value: &Value) -> Error {
    invalid(format!("Object of type {} is not JSON serializable", python::type_name(value)))
}
