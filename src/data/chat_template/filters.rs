//! jinja2's filters and tests where minijinja's answer differently or are missing.

use super::methods::{capitalize, formatted, split_lines, strip};
use super::python::{self, invalid, is_space, type_name};
use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
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
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("dictsort", dictsort);
    env.add_filter("indent", indent);
    env.add_filter("truncate", truncate);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("format", |state: &State, text: &str, args: Rest<Value>| {
        formatted(state, FormatStyle::Printf, text, &args)
    });
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
    let separator = argument(separator, &kwargs, "d")?;
    let attribute = argument(attribute, &kwargs, "attribute")?;
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

/// An argument by position, else by name.
fn argument(position: Option<Value>, kwargs: &Kwargs, name: &str) -> Result<Option<Value>, Error> {
    match position {
        Some(value) => Ok(Some(value)),
        None => kwargs.get::<Option<Value>>(name),
    }
}

/// `default(value, default_value='', boolean=False)`. The default may be none, which is not the same as none given.
fn default(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = match args.first() {
        Some(other) => other.clone(),
        None if kwargs.has("default_value") => kwargs.get("default_value")?,
        None => Value::from(""),
    };
    let boolean = argument(args.get(1).cloned(), &kwargs, "boolean")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value.clone() })
}

/// MarkupSafe's entities: `&#34;` and `&#39;`, not their names.
fn escape(state: &State, value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = python::str(value, state)?;
    state.consume_fuel(text.len() as u64 / 16)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// `dictsort(value, case_sensitive=False, by='key', reverse=False)`: a list of pairs.
fn dictsort(state: &State, value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let at = |i: usize| args.get(i).cloned();
    let case_sensitive = argument(at(0), &kwargs, "case_sensitive")?.is_some_and(|v| v.is_true());
    let by = argument(at(1), &kwargs, "by")?;
    let reverse = argument(at(2), &kwargs, "reverse")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let by_value = match by.as_ref().map(|v| v.as_str()) {
        None | Some(Some("key")) => false,
        Some(Some("value")) => true,
        Some(_) => return Err(invalid("dictsort: by must be 'key' or 'value'")),
    };
    let Some(pairs) =
        value.as_object().filter(|_| value.kind() == ValueKind::Map).and_then(|o| o.try_iter_pairs())
    else {
        return Err(invalid(format!("dictsort: expected a dict, not {}", type_name(value))));
    };
    let mut keyed: Vec<(Value, Value)> = Vec::new();
    for (key, item) in pairs {
        let mut sort_key = if by_value { item.clone() } else { key.clone() };
        if let Some(text) = sort_key.as_str().filter(|_| !case_sensitive) {
            sort_key = Value::from(text.to_lowercase());
        }
        keyed.push((sort_key, Value::from(Tuple::from([key, item]))));
        state.consume_fuel(8)?;
    }
    let kind = |v: &Value| match v.kind() {
        ValueKind::Bool => ValueKind::Number,
        kind => kind,
    };
    if keyed.windows(2).any(|pair| kind(&pair[0].0) != kind(&pair[1].0)) {
        return Err(invalid("dictsort: the values to sort by are not all of one type"));
    }
    keyed.sort_by(|a, b| if reverse { b.0.cmp(&a.0) } else { a.0.cmp(&b.0) });
    Ok(Value::from(keyed.into_iter().map(|(_, pair)| pair).collect::<Vec<_>>()))
}

/// `indent(s, width=4, first=False, blank=False)`; the width may be the indentation itself.
fn indent(state: &State, value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let at = |i: usize| args.get(i).cloned();
    let width = argument(at(0), &kwargs, "width")?.unwrap_or_else(|| Value::from(4));
    let first = argument(at(1), &kwargs, "first")?.is_some_and(|v| v.is_true());
    let blank = argument(at(2), &kwargs, "blank")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let text = python::str(value, state)?;
    let indentation = match (width.as_str(), width.as_i64()) {
        (Some(s), _) => s.to_owned(),
        (None, Some(n)) if n <= 1000 => " ".repeat(usize::try_from(n).unwrap_or(0)),
        _ => return Err(invalid(format!("indent: expected a string or at most 1000 spaces, found {width}"))),
    };
    let lines = text.split('\n').count();
    state.consume_fuel((lines.saturating_mul(indentation.len() + 1) as u64 + text.len() as u64) / 64)?;
    let mut out = String::with_capacity(text.len() + lines);
    // jinja2 appends a line break and splits into lines as `str.splitlines` does: any kind becomes `\n`.
    let padded = text + "\n";
    for (i, line) in split_lines(&padded, false).into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// `truncate(s, length=255, killwords=False, end='...', leeway=5)`.
fn truncate(state: &State, value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let at = |i: usize| args.get(i).cloned();
    let count = |value: Option<Value>, name: &str, default: usize| match value {
        None => Ok(default),
        Some(v) => {
            v.as_usize().ok_or_else(|| invalid(format!("truncate: {name}: expected an integer, found {v}")))
        }
    };
    let length = count(argument(at(0), &kwargs, "length")?, "length", 255)?;
    let kill_words = argument(at(1), &kwargs, "killwords")?.is_some_and(|v| v.is_true());
    let end = match argument(at(2), &kwargs, "end")? {
        Some(v) => python::str(&v, state)?,
        None => "...".into(),
    };
    let leeway = count(argument(at(3), &kwargs, "leeway")?, "leeway", 5)?;
    kwargs.assert_all_used()?;
    let text = python::str(value, state)?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(invalid(format!("truncate: length {length} is shorter than its end {end:?}")));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let at = text.char_indices().nth(kept).map_or(text.len(), |(at, _)| at);
    let head = &text[..at];
    let head = if kill_words { head } else { head.rsplit_once(' ').map_or(head, |(words, _)| words) };
    Ok(head.to_owned() + &end)
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
    let default = argument(default, &kwargs, "default")?.unwrap_or_else(|| Value::from(0));
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
    let default = argument(default, &kwargs, "default")?.unwrap_or_else(|| Value::from(0.0));
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
