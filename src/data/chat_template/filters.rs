//! jinja2's filters and tests where minijinja's answer differently or are missing.

use super::methods::{capitalize, strip};
use super::python::{self, invalid, is_space, type_name};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, State, Value};

/// Registers everything of this module.
pub(super) fn register(env: &mut Environment<'static>) {
    env.add_filter("tojson", super::json::tojson);
    env.add_filter("trim", trim);
    env.add_filter("upper", |state: &State, v: &Value| Ok::<_, Error>(python::str(v, state)?.to_uppercase()));
    env.add_filter("lower", |state: &State, v: &Value| Ok::<_, Error>(python::str(v, state)?.to_lowercase()));
    env.add_filter("capitalize", |state: &State, v: &Value| {
        Ok::<_, Error>(capitalize(&python::str(v, state)?))
    });
    env.add_filter("title", |state: &State, v: &Value| Ok::<_, Error>(title(&python::str(v, state)?)));
    env.add_filter("string", |state: &State, v: &Value| python::str(v, state));
    env.add_filter("join", join);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("center", center);
    env.add_filter("wordcount", wordcount);
    env.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    env.add_test("callable", is_callable);
    env.add_test("lower", |state: &State, v: &Value| {
        python::str(v, state)
            .map(|s| s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase))
            .unwrap_or(false)
    });
    env.add_test("upper", |state: &State, v: &Value| {
        python::str(v, state)
            .map(|s| s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase))
            .unwrap_or(false)
    });
}

fn trim(state: &State, value: &Value, chars: Option<Value>) -> Result<String, Error> {
    let text = python::str(value, state)?;
    let chars = match &chars {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) => Some(
            v.as_str().ok_or_else(|| invalid(format!("trim: chars must be str, not {}", type_name(v))))?,
        ),
    };
    Ok(strip(&text, chars, true, true).to_owned())
}

/// jinja2's own `title`: words start after whitespace, hyphens and opening brackets, not after apostrophes.
fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut start = true;
    let separates = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    for c in s.chars() {
        if separates(c) {
            out.push(c);
            start = true;
        } else if start {
            out.extend(c.to_uppercase());
            start = false;
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

fn join(
    state: &State,
    value: &Value,
    separator: Option<Value>,
    attribute: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let separator = separator.map_or_else(|| kwargs.get::<Option<Value>>("d"), |v| Ok(Some(v)))?;
    let attribute = attribute.map_or_else(|| kwargs.get::<Option<Value>>("attribute"), |v| Ok(Some(v)))?;
    kwargs.assert_all_used()?;
    if value.is_none() {
        return Err(invalid("join: 'NoneType' object is not iterable"));
    }
    let separator = separator.as_ref().map(|v| python::str(v, state)).transpose()?.unwrap_or_default();
    let mut out = String::new();
    for (i, item) in value.try_iter()?.checked().enumerate() {
        let mut item = item?;
        if let Some(attribute) = attribute.as_ref().filter(|a| !a.is_none()) {
            item = lookup(&item, attribute)?;
        }
        let before = out.len();
        if i > 0 {
            out.push_str(&separator);
        }
        python::str_into(&mut out, &item, state)?;
        state.consume_fuel(1 + (out.len() - before) as u64 / 64)?;
    }
    Ok(out)
}

/// An attribute as filters take it: a key, an index or a dotted path of them.
fn lookup(value: &Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return value.get_item(path) };
    let mut value = value.clone();
    for part in path.split('.') {
        value = match part.parse::<usize>() {
            Ok(index) => value.get_item_by_index(index)?,
            Err(_) => value.get_attr(part)?,
        };
    }
    Ok(value)
}

/// `int(value, default=0, base=10)`: what does not parse becomes the default.
fn int(value: &Value, default: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = match default {
        Some(v) => v,
        None => kwargs.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0)),
    };
    let base = match base {
        Some(b) => b,
        None => kwargs.get::<Option<u32>>("base")?.unwrap_or(10),
    };
    kwargs.assert_all_used()?;
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number => match python::as_float(value) {
            None => value.clone(),
            Some(x) if x.is_finite() && x.abs() < 1e38 => Value::from(x.trunc() as i128),
            Some(_) => default,
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            parse_int(text, base)
                .or_else(|| parse_float(text).filter(|x| x.abs() < 1e38).map(|x| x.trunc() as i128))
                .map_or(default, Value::from)
        }
        _ => default,
    })
}

/// `int(str, base)` of Python: whitespace around it, a sign, a prefix that fits the base, single underscores.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = strip(text, None, true, true);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, digits) = match (base, digits.get(..2).map(str::to_ascii_lowercase).as_deref()) {
        (0 | 16, Some("0x")) => (16, &digits[2..]),
        (0 | 8, Some("0o")) => (8, &digits[2..]),
        (0 | 2, Some("0b")) => (2, &digits[2..]),
        (0, _) => (10, digits),
        (base, _) => (base, digits),
    };
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-', '_']) || digits.ends_with('_') {
        return None;
    }
    if digits.contains("__") {
        return None;
    }
    let value = i128::from_str_radix(&digits.replace('_', ""), base).ok()?;
    Some(if negative { -value } else { value })
}

/// `float(str)` of Python.
fn parse_float(text: &str) -> Option<f64> {
    let text = strip(text, None, true, true);
    if text.starts_with('_') || text.ends_with('_') || text.contains("__") {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// `float(value, default=0.0)`.
fn float(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = match default {
        Some(v) => v,
        None => kwargs.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0.0)),
    };
    kwargs.assert_all_used()?;
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).map_or(default, Value::from),
        ValueKind::String => parse_float(value.as_str().unwrap_or_default()).map_or(default, Value::from),
        _ => default,
    })
}

fn center(state: &mut State, value: &Value, width: Option<i64>) -> Result<Value, Error> {
    let text = Value::from(python::str(value, state)?);
    super::methods::call_method(state, &text, "center", &[Value::from(width.unwrap_or(80))])
}

/// Runs of word characters, as `\w+` finds them.
fn wordcount(state: &State, value: &Value) -> Result<usize, Error> {
    let text = python::str(value, state)?;
    Ok(text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).count())
}

/// What has a length and can be indexed; in Python that includes strings and dictionaries.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq | ValueKind::String | ValueKind::Map => true,
        ValueKind::Iterable => python::is_list(value),
        ValueKind::Undefined => true,
        _ => false,
    }
}

/// Functions and macros; minijinja knows them as objects that are neither containers nor printable values.
fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}
