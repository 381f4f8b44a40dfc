//! Methods of Python's `str`, `list` and `dict` that a template may call.
//!
//! What changes a value in place (`append`, `update`, `pop` ..) is missing on purpose: transformers renders in an
//! immutable sandbox and refuses it too.

use super::python::{self, invalid, is_line_break, is_space, type_name};
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// minijinja's hook for methods that its own objects do not have.
pub(super) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => string_method(state, value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => map_method(value, method, args),
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Pays for `bytes` of result before they are allocated.
fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64)
}

fn string_method(state: &State, s: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    // Every method below walks the string once or twice.
    charge(state, s.len())?;
    Ok(match method {
        "upper" | "lower" | "casefold" | "capitalize" | "title" | "swapcase" => {
            let () = from_args(args)?;
            Value::from(match method {
                "upper" => s.to_uppercase(),
                "lower" | "casefold" => s.to_lowercase(),
                "capitalize" => capitalize(s),
                "title" => title(s),
                _ => swap_case(s),
            })
        }
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(s, chars, method != "rstrip", method != "lstrip"))
        }
        "split" | "rsplit" => {
            let (separator, limit) = split_arguments(args)?;
            let parts = split(s, separator.as_deref(), limit, method == "rsplit")?;
            charge(state, parts.len().saturating_mul(32))?;
            Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.map_or_else(|| kwargs.get::<Option<bool>>("keepends"), |k| Ok(Some(k)))?;
            kwargs.assert_all_used()?;
            Value::from(
                split_lines(s, keep.unwrap_or(false)).into_iter().map(Value::from).collect::<Vec<_>>(),
            )
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            let at = if method == "partition" { s.find(separator) } else { s.rfind(separator) };
            let (head, middle, tail) = match at {
                Some(i) => (&s[..i], separator, &s[i + separator.len()..]),
                None if method == "partition" => (s, "", ""),
                None => ("", "", s),
            };
            Value::from(Tuple::from(vec![Value::from(head), Value::from(middle), Value::from(tail)]))
        }
        "startswith" | "endswith" => {
            let (affix, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part = substring(s, start, end);
            let matches = |affix: &str| {
                part.is_some_and(|(p, _)| {
                    if method == "startswith" { p.starts_with(affix) } else { p.ends_with(affix) }
                })
            };
            Value::from(match affix.as_str() {
                Some(affix) => matches(affix),
                None if affix.is_tuple() => {
                    let mut found = false;
                    for item in affix.try_iter()?.checked() {
                        let item = item?;
                        match item.as_str() {
                            Some(affix) => found |= matches(affix),
                            None => return Err(wrong_type(method, "a tuple of strings", &item)),
                        }
                    }
                    found
                }
                None => return Err(wrong_type(method, "a string or a tuple of strings", affix)),
            })
        }
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            let rest = if method == "removeprefix" { s.strip_prefix(affix) } else { s.strip_suffix(affix) };
            Value::from(rest.unwrap_or(s))
        }
        "replace" => {
            let (old, new, count, kwargs): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
            let count = count.map_or_else(|| kwargs.get::<Option<i64>>("count"), |c| Ok(Some(c)))?;
            kwargs.assert_all_used()?;
            let limit = count.and_then(|c| usize::try_from(c).ok()).unwrap_or(usize::MAX);
            let matches = s.matches(old).take(limit).count();
            charge(state, matches.saturating_mul(new.len()))?;
            Value::from(s.replacen(old, new, limit))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (needle, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let found = substring(s, start, end).and_then(|(part, skipped)| {
                let at = if method.starts_with('r') { part.rfind(needle) } else { part.find(needle) }?;
                Some(skipped + part[..at].chars().count())
            });
            match found {
                Some(i) => Value::from(i),
                None if method.ends_with("index") => return Err(invalid("substring not found")),
                None => Value::from(-1),
            }
        }
        "count" => {
            let (needle, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(substring(s, start, end).map_or(0, |(part, _)| part.matches(needle).count()))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            if items.is_none() || items.is_undefined() {
                return Err(wrong_type(method, "an iterable", items));
            }
            let mut out = String::new();
            for (i, item) in items.try_iter()?.checked().enumerate() {
                let item = item?;
                let Some(text) = item.as_str() else {
                    return Err(invalid(format!(
                        "join: item {i} must be a string, not {}",
                        type_name(&item)
                    )));
                };
                charge(state, 64 + s.len() + text.len())?;
                if i > 0 {
                    out.push_str(s);
                }
                out.push_str(text);
            }
            Value::from(out)
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            Value::from(justify(state, s, method, width, fill)?)
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let missing = missing_width(s, width);
            charge(state, missing)?;
            let sign = if s.starts_with(['+', '-']) { 1 } else { 0 };
            Value::from(format!("{}{}{}", &s[..sign], "0".repeat(missing), &s[sign..]))
        }
        "expandtabs" => {
            let (size,): (Option<i64>,) = from_args(args)?;
            Value::from(expand_tabs(state, s, size.unwrap_or(8))?)
        }
        "isspace" => predicate(args, !s.is_empty() && s.chars().all(is_space))?,
        "isdigit" | "isnumeric" | "isdecimal" => {
            predicate(args, !s.is_empty() && s.chars().all(char::is_numeric))?
        }
        "isalpha" => predicate(args, !s.is_empty() && s.chars().all(char::is_alphabetic))?,
        "isalnum" => predicate(args, !s.is_empty() && s.chars().all(char::is_alphanumeric))?,
        "isascii" => predicate(args, s.is_ascii())?,
        "islower" => {
            predicate(args, s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase))?
        }
        "isupper" => {
            predicate(args, s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase))?
        }
        "istitle" => predicate(args, s.chars().any(is_cased) && title(s) == s)?,
        "isidentifier" => predicate(
            args,
            s.starts_with(|c: char| c == '_' || c.is_alphabetic())
                && s.chars().all(|c| c == '_' || c.is_alphanumeric()),
        )?,
        "format" => Value::from(formatted(state, FormatStyle::StrFormat, s, args)?),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

/// `str.format` and printf-style formatting.
///
/// Containers are printed here, and paid for: the formatter does neither that nor print them as Python does. Widths
/// past five digits are refused, since it allocates them before they are paid for.
pub(super) fn formatted(
    state: &State,
    style: FormatStyle,
    text: &str,
    args: &[Value],
) -> Result<String, Error> {
    let opening = if style == FormatStyle::Printf { '%' } else { '{' };
    for specification in text.split(opening).skip(1) {
        let mut digits = 0;
        for c in specification.chars().take_while(|c| !c.is_alphabetic() && *c != '}') {
            digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
            if digits > 5 {
                return Err(invalid("format: a width or precision has more than five digits"));
            }
        }
    }
    let args: Vec<Value> = args
        .iter()
        .map(|arg| match arg.kind() {
            ValueKind::Seq | ValueKind::Iterable => python::str(arg, state).map(Value::from),
            ValueKind::Map if !arg.is_kwargs() => python::str(arg, state).map(Value::from),
            _ => Ok(arg.clone()),
        })
        .collect::<Result<_, _>>()?;
    format(style, text, &args)
}

fn map_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(object) = value.as_object() else { return Err(Error::from(ErrorKind::UnknownMethod)) };
    let pairs = || object.try_iter_pairs().into_iter().flatten();
    Ok(match method {
        "keys" => {
            let () = from_args(args)?;
            Value::from(pairs().map(|(key, _)| key).collect::<Vec<_>>())
        }
        "values" => {
            let () = from_args(args)?;
            Value::from(pairs().map(|(_, item)| item).collect::<Vec<_>>())
        }
        "items" => {
            let () = from_args(args)?;
            Value::from(pairs().map(|(key, item)| Value::from(Tuple::from([key, item]))).collect::<Vec<_>>())
        }
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            object.get_value(key).unwrap_or_else(|| default.unwrap_or_else(|| Value::from(())))
        }
        "copy" => {
            let () = from_args(args)?;
            value.clone()
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    Ok(match method {
        "count" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                count += usize::from(item? == *wanted);
            }
            Value::from(count)
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            for (i, item) in value.try_iter()?.checked().enumerate() {
                if item? == *wanted {
                    return Ok(Value::from(i));
                }
            }
            return Err(invalid(format!("{wanted} is not in list")));
        }
        "copy" => {
            let () = from_args(args)?;
            value.clone()
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn predicate(args: &[Value], answer: bool) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(Value::from(answer))
}

fn wrong_type(method: &str, expected: &str, found: &Value) -> Error {
    invalid(format!("{method}: expected {expected}, not {}", type_name(found)))
}

/// `s[start:end]` with the number of characters before it; `None` where Python finds nothing, not even "".
fn substring(s: &str, start: Option<i64>, end: Option<i64>) -> Option<(&str, usize)> {
    if start.is_none() && end.is_none() {
        return Some((s, 0));
    }
    let length = s.chars().count() as i64;
    let clamp = |i: i64| if i < 0 { i.saturating_add(length).max(0) } else { i.min(length) };
    if start.is_some_and(|i| i > length) {
        return None;
    }
    let (start, end) = (clamp(start.unwrap_or(0)), clamp(end.unwrap_or(length)));
    if start > end {
        return None;
    }
    let byte = |i: i64| s.char_indices().nth(i as usize).map_or(s.len(), |(at, _)| at);
    Some((&s[byte(start)..byte(end)], start as usize))
}

/// `strip`, `lstrip` and `rstrip`: of whitespace, or of any of `chars`.
pub(super) fn strip<'s>(s: &'s str, chars: Option<&str>, left: bool, right: bool) -> &'s str {
    let strippable = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
    let s = if left { s.trim_start_matches(strippable) } else { s };
    if right { s.trim_end_matches(strippable) } else { s }
}

fn split_arguments(args: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let (separator, limit, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.map_or_else(|| kwargs.get::<Option<Value>>("sep"), |v| Ok(Some(v)))?;
    let limit = limit.map_or_else(|| kwargs.get::<Option<i64>>("maxsplit"), |v| Ok(Some(v)))?;
    kwargs.assert_all_used()?;
    let separator = match separator {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) => Some(v.as_str().ok_or_else(|| wrong_type("split", "a string or None", &v))?.to_owned()),
    };
    Ok((separator, limit.and_then(|n| usize::try_from(n).ok())))
}

/// `split` and `rsplit`; without a separator at runs of whitespace, dropping empty parts.
fn split<'s>(
    s: &'s str,
    separator: Option<&str>,
    limit: Option<usize>,
    from_right: bool,
) -> Result<Vec<&'s str>, Error> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    match separator {
        Some("") => return Err(invalid("empty separator")),
        Some(separator) if from_right => {
            parts.extend(s.rsplitn(limit.saturating_add(1), separator));
            parts.reverse();
        }
        Some(separator) => parts.extend(s.splitn(limit.saturating_add(1), separator)),
        None if from_right => {
            let mut rest = s.trim_end_matches(is_space);
            while !rest.is_empty() {
                match rest.rfind(is_space).filter(|_| parts.len() < limit) {
                    Some(at) => {
                        let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                        parts.push(&rest[at + width..]);
                        rest = rest[..at].trim_end_matches(is_space);
                    }
                    None => {
                        parts.push(rest);
                        break;
                    }
                }
            }
            parts.reverse();
        }
        None => {
            let mut rest = s.trim_start_matches(is_space);
            while !rest.is_empty() {
                match rest.find(is_space).filter(|_| parts.len() < limit) {
                    Some(at) => {
                        parts.push(&rest[..at]);
                        rest = rest[at..].trim_start_matches(is_space);
                    }
                    None => {
                        parts.push(rest);
                        break;
                    }
                }
            }
        }
    }
    Ok(parts)
}

/// `str.splitlines`.
pub(super) fn split_lines(s: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = s;
    while let Some(at) = rest.find(is_line_break) {
        let tail = &rest[at..];
        let width = if tail.starts_with("\r\n") { 2 } else { tail.chars().next().map_or(1, char::len_utf8) };
        lines.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &tail[width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// The first character in upper case, the rest in lower case.
pub(super) fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    match chars.next() {
        Some(first) => title_char(first) + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// A letter at the start of a word. Characters with a special title case are ligatures and digraphs: `ß` -> `Ss`.
fn title_char(c: char) -> String {
    match c {
        'Ǆ' | 'ǅ' | 'ǆ' => "ǅ".into(),
        'Ǉ' | 'ǈ' | 'ǉ' => "ǈ".into(),
        'Ǌ' | 'ǋ' | 'ǌ' => "ǋ".into(),
        'Ǳ' | 'ǲ' | 'ǳ' => "ǲ".into(),
        // Georgian letters have no title case of their own.
        'ა'..='ჿ' => c.into(),
        _ => {
            let mut upper = c.to_uppercase();
            let mut out: String = upper.next().into_iter().collect();
            out.extend(upper.flat_map(char::to_lowercase));
            out
        }
    }
}

fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside_word = false;
    for c in s.chars() {
        if inside_word {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&title_char(c));
        }
        inside_word = is_cased(c);
    }
    out
}

fn swap_case(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}

fn missing_width(s: &str, width: i64) -> usize {
    usize::try_from(width).unwrap_or(0).saturating_sub(s.chars().count())
}

/// `center`, `ljust` and `rjust`.
fn justify(state: &State, s: &str, method: &str, width: i64, fill: Option<&str>) -> Result<String, Error> {
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(invalid(format!("{method}: the fill character must be exactly one character")));
    }
    let missing = missing_width(s, width);
    charge(state, missing.saturating_mul(fill.len()))?;
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // CPython puts the odd column to the left where the width is odd.
        _ => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
    };
    Ok(fill.repeat(left) + s + &fill.repeat(missing - left))
}

fn expand_tabs(state: &State, s: &str, size: i64) -> Result<String, Error> {
    let size = usize::try_from(size).unwrap_or(0);
    charge(state, s.matches('\t').count().saturating_mul(size))?;
    let mut out = String::with_capacity(s.len());
    let mut column = 0;
    for c in s.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\t' => {}
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_splits_follow_python() {
        assert_eq!(split(" a  b\u{1c}c ", None, None, false).unwrap(), ["a", "b", "c"]);
        assert_eq!(split(" a  b c ", None, Some(1), false).unwrap(), ["a", "b c "]);
        assert_eq!(split(" a  b c ", None, Some(1), true).unwrap(), [" a  b", "c"]);
        assert_eq!(split("a,b,c", Some(","), Some(1), true).unwrap(), ["a,b", "c"]);
        assert_eq!(split("", Some(","), None, false).unwrap(), [""]);
        assert!(split("a", Some(""), None, false).is_err());
        assert!(split("", None, None, false).unwrap().is_empty());
    }

    #[test]
    fn lines_break_where_python_breaks_them() {
        assert_eq!(split_lines("a\r\nb\u{2028}c\n\nd", false), ["a", "b", "c", "", "d"]);
        assert_eq!(split_lines("a\r\nb\n", true), ["a\r\n", "b\n"]);
    }

    #[test]
    fn title_case_follows_python() {
        assert_eq!(title("they're bill's ßx ǆ"), "They'Re Bill'S Ssx ǅ");
        assert_eq!(capitalize("ÉCOLE Été"), "École été");
    }
}
