//! What a mistyped name was meant to be.

/// The word that `typed` was probably meant to be.
pub fn nearest<'w>(typed: &str, words: &[&'w str]) -> Option<&'w str> {
    // Beyond this nobody mistyped a key, and the distance is quadratic.
    const LONGEST: usize = 40;
    if typed.chars().count() > LONGEST {
        return None;
    }
    words
        .iter()
        .map(|word| (edit_distance(&typed.to_lowercase().replace('-', "_"), &word.replace('-', "_")), *word))
        .filter(|(distance, word)| *distance <= word.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Levenshtein distance in characters.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(edit_distance("kitten", "kitten"), 0);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("ab", "ba"), 2);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        assert_eq!(nearest("bradly-terry", &["bradley-terry", "hinge"]), Some("bradley-terry"));
        assert_eq!(nearest("x", &["bradley-terry", "hinge"]), None);
        assert_eq!(nearest(&"h".repeat(1000), &["hinge"]), None);
    }
}
