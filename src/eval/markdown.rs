//! How much markdown a response has.

/// Markdown elements of a text: headers (lines of one to six `#` and a blank), bullets (lines of `-`, `*`, `+` or a
/// number with `.` or `)`, and a blank), bold spans (`**` or `__` twice within a line) and code fences (blocks opened
/// by three backticks or tildes). What stands inside a fence is code and does not count.
pub(super) fn elements(text: &str) -> usize {
    let (mut count, mut fence) = (0, None);
    for line in text.lines() {
        let line = line.trim_start();
        let opener = ["```", "~~~"].into_iter().find(|mark| line.starts_with(mark));
        match (fence, opener) {
            (None, Some(mark)) => {
                fence = Some(mark);
                count += 1;
            }
            (Some(open), Some(mark)) if open == mark => fence = None,
            (Some(_), _) => {}
            (None, None) => {
                count += usize::from(is_header(line) || is_bullet(line));
                count += (line.matches("**").count() / 2) + (line.matches("__").count() / 2);
            }
        }
    }
    count
}

fn is_header(line: &str) -> bool {
    let rest = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - rest.len())) && starts_blank(rest)
}

fn is_bullet(line: &str) -> bool {
    if let Some(rest) = line.strip_prefix(['-', '*', '+']) {
        return starts_blank(rest);
    }
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    rest.len() < line.len() && rest.strip_prefix(['.', ')']).is_some_and(starts_blank)
}

fn starts_blank(rest: &str) -> bool {
    rest.starts_with([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::elements;

    #[test]
    fn elements_are_counted_once_each() {
        for (text, expected) in [
            ("", 0),
            ("plain text, 3. of it, a - b * c # d", 0),
            ("# Title\n## Part\n####### seven\n#hash", 2),
            ("- one\n  * two\n+ three\n1. four\n22) five\n-6\n1.5", 5),
            ("a **bold** word and __another__, then ** alone", 2),
            ("* **both** a bullet and bold", 2),
            ("```rust\n# not a header\n- nor a bullet **\n```\nafter\n~~~\n```\n~~~", 2),
            ("```\nnever closed\n# code", 1),
            ("é **日本** ", 1),
        ] {
            assert_eq!(elements(text), expected, "{text:?}");
        }
    }
}
