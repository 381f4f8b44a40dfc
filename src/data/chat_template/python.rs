//! Python's view of template values: `str()`, `repr()`, whitespace and line breaks.
//!
//! Chat templates are written against jinja2, whose output is that of Python's own conversions. minijinja's differ
//! in floats of extreme size, in quoting, and in which characters are whitespace.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt::Write;

/// Values nest no deeper than this when they are printed; Python's own limit is about 1000 calls.
pub(super) const MAX_DEPTH: usize = 200;

/// What `str.isspace()` holds for: Unicode's White_Space and the four information separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// What `str.splitlines()` breaks at, `\r\n` aside.
pub(super) fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// `repr(float)`: the shortest digits that round-trip, scientific below 1e-4 and from 1e16 on.
pub(super) fn float_repr(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{x:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(e) if x == 0.0 || (-4..16).contains(&e) => {
            let plain = x.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
        Ok(e) => format!("{mantissa}e{}{:02}", if e < 0 { '-' } else { '+' }, e.unsigned_abs()),
        Err(_) => scientific,
    }
}

/// The float behind a number value; `None` for integers.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        f64::try_from(value.clone()).ok()
    } else {
        None
    }
}

/// Appends `str(value)`: strings as they are, everything else as [`repr`] has it, undefined as nothing.
pub(super) fn str_into(out: &mut impl Write, value: &Value, state: &State) -> Result<(), Error> {
    if value.is_undefined() {
        return Ok(());
    }
    match value.as_str() {
        Some(s) => out.write_str(s).map_err(write_failed),
        None => repr_into(out, value, state, 0),
    }
}

/// `str(value)`.
pub(super) fn str(value: &Value, state: &State) -> Result<String, Error> {
    let mut out = String::new();
    str_into(&mut out, value, state)?;
    Ok(out)
}

/// Appends `repr(value)`, paying for every node: shared lists can unfold into far more text than the template made.
fn repr_into(out: &mut impl Write, value: &Value, state: &State, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    state.consume_fuel(1 + value.as_str().map_or(0, |s| s.len()) as u64 / 32)?;
    match value.kind() {
        ValueKind::Undefined => out.write_str("Undefined"),
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match as_float(value) {
            Some(x) => out.write_str(&float_repr(x)),
            None => write!(out, "{value}"),
        },
        ValueKind::String => out.write_str(&string_repr(value.as_str().unwrap_or_default())),
        ValueKind::Seq | ValueKind::Iterable if is_list(value) => {
            let tuple = value.is_tuple();
            out.write_str(if tuple { "(" } else { "[" }).map_err(write_failed)?;
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                if count > 0 {
                    out.write_str(", ").map_err(write_failed)?;
                }
                repr_into(out, &item?, state, depth + 1)?;
                count += 1;
            }
            out.write_str(match (tuple, count) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            })
        }
        ValueKind::Map if value.as_object().is_some_and(|o| o.try_iter_pairs().is_some()) => {
            out.write_str("{").map_err(write_failed)?;
            for (i, (key, item)) in
                value.as_object().and_then(|o| o.try_iter_pairs()).into_iter().flatten().enumerate()
            {
                if i > 0 {
                    out.write_str(", ").map_err(write_failed)?;
                }
                repr_into(out, &key, state, depth + 1)?;
                out.write_str(": ").map_err(write_failed)?;
                repr_into(out, &item, state, depth + 1)?;
            }
            out.write_str("}")
        }
        _ => write!(out, "{value}"),
    }
    .map_err(write_failed)
}

/// Whether a sequence or iterable can be walked without consuming it: lists, tuples, slices, not generators.
pub(super) fn is_list(value: &Value) -> bool {
    value.kind() == ValueKind::Seq || value.len().is_some()
}

/// `repr(str)`: single quotes unless only double ones avoid an escape; what is not printable is escaped.
pub(super) fn string_repr(s: &str) -> String {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(s.len() + 2);
    out.push(quote);
    for c in s.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let code = c as u32;
                // Writing into a string cannot fail.
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
    out
}

/// `str.isprintable()` of one character.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // The standard library escapes exactly what is not printable, combining marks at the start of a string too;
    // behind a letter they are left alone.
    let mut buffer = ['a', c].iter().collect::<String>();
    let length = buffer.len();
    buffer = buffer.escape_debug().to_string();
    buffer.len() == length
}

pub(super) fn write_failed(_: std::fmt::Error) -> Error {
    Error::from(ErrorKind::WriteFailure)
}

pub(super) fn too_deep() -> Error {
    invalid(format!("a value is nested more than {MAX_DEPTH} levels deep"))
}

/// The error of an operation that Python refuses too.
pub(super) fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

/// Python's name for a value's type, for messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Seq if value.is_tuple() => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        ValueKind::Iterable => "iterator",
        _ => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_prints_them() {
        for (x, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.234e300, "1.234e+300"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float_repr(x), expected);
        }
    }

    #[test]
    fn strings_are_quoted_as_python_quotes_them() {
        assert_eq!(string_repr("it's"), "\"it's\"");
        assert_eq!(string_repr("it's \"so\""), "'it\\'s \"so\"'");
        assert_eq!(
            string_repr("a\u{0}\n\u{7f}\u{a0}\u{200b}e\u{301}😀"),
            "'a\\x00\\n\\x7f\\xa0\\u200be\u{301}😀'"
        );
    }

    #[test]
    fn separators_are_whitespace_as_in_python() {
        assert!(is_space('\u{1c}') && is_space('\u{1f}') && is_space('\u{85}') && is_space('\u{3000}'));
        assert!(!is_space('\u{200b}') && !is_space('\u{feff}'));
    }
}
