//! What jinja2 reads and minijinja does not, rewritten before compilation: `{% generation %}` blocks, line ends and
//! some escapes in strings.

/// The source for minijinja: same lines and columns, `{% generation %}` blocks as `{% with %}` blocks.
///
/// transformers marks the assistant's tokens with them; for the text they are a scope of their own, which is what
/// an empty `with` is. Line ends become `\n`, as jinja2's lexer has them.
pub(super) fn to_minijinja(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find('{') {
        let tag = &rest[start..];
        let length = if tag.starts_with("{#") {
            tag.find("#}").map(|i| i + 2)
        } else if tag.starts_with("{{") {
            tag_length(tag, "}}")
        } else if tag.starts_with("{%") {
            match raw_length(tag) {
                Some(length) => Some(length),
                None => tag_length(tag, "%}"),
            }
        } else {
            Some(1)
        };
        // An unclosed tag is the compiler's to report.
        let Some(length) = length else { break };
        out.push_str(&rest[..start]);
        push_tag(&mut out, &tag[..length]);
        rest = &tag[length..];
    }
    out.push_str(rest);
    out
}

/// Copies a tag, renaming `generation` and `endgeneration` where they are all that stands in it.
fn push_tag(out: &mut String, tag: &str) {
    let name = tag
        .strip_prefix("{%")
        .and_then(|t| t.strip_suffix("%}"))
        .map(|t| t.strip_prefix(['-', '+']).unwrap_or(t))
        .map(|t| t.strip_suffix(['-', '+']).unwrap_or(t).trim());
    match name {
        // Padded, so that columns in messages stay right.
        Some("generation") => out.push_str(&tag.replacen("generation", "with      ", 1)),
        Some("endgeneration") => out.push_str(&tag.replacen("endgeneration", "endwith      ", 1)),
        _ if tag.contains('\\') && !tag.starts_with("{#") && raw_length(tag).is_none() => {
            push_unescaped(out, tag);
        }
        _ => out.push_str(tag),
    }
}

/// Copies a tag with `\a`, `\v` and `\UXXXXXXXX` in its strings replaced by the character.
fn push_unescaped(out: &mut String, tag: &str) {
    let mut rest = tag;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let long = escape
            .strip_prefix("\\U")
            .and_then(|digits| digits.get(..8))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32)
            // A quote or a backslash would end or escape the string that it stands in.
            .filter(|c| !c.is_ascii());
        let (character, length) = match (escape.as_bytes().get(1), long) {
            (Some(b'a'), _) => (Some('\u{7}'), 2),
            (Some(b'v'), _) => (Some('\u{b}'), 2),
            (_, Some(character)) => (Some(character), 10),
            _ => (None, 1 + escape[1..].chars().next().map_or(0, char::len_utf8)),
        };
        match character {
            Some(character) => out.push(character),
            None => out.push_str(&escape[..length]),
        }
        rest = &escape[length..];
    }
    out.push_str(rest);
}

/// Bytes up to the end of a tag, past strings and balanced brackets.
fn tag_length(tag: &str, end: &str) -> Option<usize> {
    let bytes = tag.as_bytes();
    let mut depth = 0usize;
    let mut i = 2;
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'"' | b'\'') => {
                i += 1;
                while i < bytes.len() && bytes[i] != quote {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
            }
            _ if depth == 0 && bytes[i..].starts_with(end.as_bytes()) => return Some(i + end.len()),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    None
}

/// Bytes of a whole `{% raw %} .. {% endraw %}` block, if `tag` starts one.
fn raw_length(tag: &str) -> Option<usize> {
    let opening = basic_tag_length(tag, "raw")?;
    let mut at = opening;
    while let Some(i) = tag[at..].find("{%") {
        at += i;
        if let Some(length) = basic_tag_length(&tag[at..], "endraw") {
            return Some(at + length);
        }
        at += 2;
    }
    Some(tag.len())
}

/// Bytes of `{% name %}` with any whitespace control.
fn basic_tag_length(tag: &str, name: &str) -> Option<usize> {
    let rest = tag.strip_prefix("{%")?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start();
    let rest = rest.strip_prefix(name)?.trim_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(tag.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::to_minijinja;

    #[test]
    fn generation_tags_become_scopes_of_the_same_width() {
        assert_eq!(
            to_minijinja("a{%- generation -%}b{% endgeneration %}c"),
            "a{%- with       -%}b{% endwith       %}c"
        );
    }

    #[test]
    fn text_that_only_looks_like_a_generation_tag_stays() {
        for source in [
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{% endraw %}",
            "{{ '{% generation %}' }}",
            "{{ {'a': {'b': 1}} }}{ {% if generation %}x{% endif %}",
            "{% set x = \"{% generation %}\" %}",
            "{{ 'open",
            "{% raw %} never closed {% generation %}",
            "{",
            "{% '\\",
        ] {
            assert_eq!(to_minijinja(source), source);
        }
    }

    #[test]
    fn escapes_that_minijinja_lacks_become_characters() {
        assert_eq!(to_minijinja(r"{{ '\a\v\\a\n' }}\a"), "{{ '\u{7}\u{b}\\\\a\\n' }}\\a");
        assert_eq!(
            to_minijinja(r"{{ '\U0001F600 \\U0001F600 \U00000041 \Uzz' }}\U0001F600"),
            "{{ '😀 \\\\U0001F600 \\U00000041 \\Uzz' }}\\U0001F600"
        );
    }

    #[test]
    fn line_ends_are_normalised() {
        assert_eq!(to_minijinja("a\r\nb\rc"), "a\nb\nc");
    }
}
