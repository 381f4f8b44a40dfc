//! Writes a configuration as TOML, key by key, in an order and layout of our own.

use super::reader::Words;
use std::fmt::Write as _;

/// A TOML document under construction.
#[derive(Debug, Default)]
pub struct TomlWriter(String);

impl TomlWriter {
    /// Starts a table: `[name]`, or `[[name]]` if written so.
    pub fn header(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(header);
        self.0.push('\n');
    }

    /// `key = literal`.
    pub fn entry(&mut self, name: &str, literal: impl Literal) {
        self.0.push_str(&key(name));
        self.0.push_str(" = ");
        literal.write(&mut self.0);
        self.0.push('\n');
    }

    /// The document.
    pub fn finish(self) -> String {
        self.0
    }
}

/// A key as TOML wants it: bare where it may be.
pub fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        let mut quoted = String::new();
        name.write(&mut quoted);
        quoted
    }
}

/// What can stand to the right of `=`.
pub trait Literal {
    /// Appends the value; reading it back gives the same value.
    fn write(&self, out: &mut String);
}

impl Literal for str {
    fn write(&self, out: &mut String) {
        out.push('"');
        for character in self.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                c if c.is_control() => {
                    let _ = write!(out, "\\u{:04X}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

impl Literal for String {
    fn write(&self, out: &mut String) {
        self.as_str().write(out);
    }
}

impl Literal for bool {
    fn write(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
}

impl Literal for u64 {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
}

impl Literal for usize {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
}

impl Literal for f64 {
    fn write(&self, out: &mut String) {
        // Debug prints the shortest text that reads back as the same number, and always a dot or an exponent.
        let _ = write!(out, "{self:?}");
    }
}

impl<T: Literal> Literal for [T] {
    fn write(&self, out: &mut String) {
        out.push('[');
        for (i, item) in self.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            item.write(out);
        }
        out.push(']');
    }
}

impl<T: Literal + ?Sized> Literal for &T {
    fn write(&self, out: &mut String) {
        (**self).write(out);
    }
}

/// An enum's word.
pub struct Word<T: Words>(pub T);

impl<T: Words> Literal for Word<T> {
    fn write(&self, out: &mut String) {
        self.0.word().write(out);
    }
}

/// A value, or the word that stands for its absence.
pub struct OrWord<'w, T>(pub Option<T>, pub &'w str);

impl<T: Literal> Literal for OrWord<'_, T> {
    fn write(&self, out: &mut String) {
        match &self.0 {
            Some(value) => value.write(out),
            None => self.1.write(out),
        }
    }
}

impl Literal for serde_json::Value {
    /// TOML has no null: the entries of a list or table that hold one are left out.
    fn write(&self, out: &mut String) {
        use serde_json::Value as Json;
        match self {
            Json::Null => "".write(out),
            Json::Bool(value) => value.write(out),
            Json::Number(number) => match number.as_f64() {
                Some(float) if number.is_f64() => float.write(out),
                _ => {
                    let _ = write!(out, "{number}");
                }
            },
            Json::String(text) => text.write(out),
            Json::Array(items) => {
                let present: Vec<&Json> = items.iter().filter(|item| !item.is_null()).collect();
                present.as_slice().write(out);
            }
            Json::Object(map) => {
                out.push('{');
                let present = map.iter().filter(|(_, value)| !value.is_null());
                for (i, (name, value)) in present.enumerate() {
                    out.push_str(if i > 0 { ", " } else { " " });
                    out.push_str(&key(name));
                    out.push_str(" = ");
                    value.write(out);
                }
                out.push_str(" }");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_read_back_whatever_they_hold() {
        for text in ["", "a\"b\\c", "tab\t, line\n, bell\u{7}, del\u{7f}, \u{85}", "héllo 🦀", "'''"] {
            let mut out = TomlWriter::default();
            out.entry("a b", text);
            let written = out.finish();
            let read: toml::Table = written.parse().unwrap_or_else(|e| panic!("{written}: {e}"));
            assert_eq!(read["a b"].as_str(), Some(text));
        }
    }

    #[test]
    fn floats_stay_floats() {
        for number in [3e-6, 1.0, 1e300, -0.0, f64::MIN_POSITIVE, 1e16] {
            let mut out = TomlWriter::default();
            out.entry("x", number);
            let written = out.finish();
            let read: toml::Table = written.parse().unwrap_or_else(|e| panic!("{written}: {e}"));
            assert_eq!(read["x"].as_float().map(f64::to_bits), Some(number.to_bits()), "{written}");
        }
    }
}
