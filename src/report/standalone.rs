//! The page's plots as files of their own, for documents.

use super::RunGroup;
use super::figure::{Figure, LegendEntry};
use super::page::sections;
use super::svg::{Anchor, Escaped, Px, Svg, shortened};
use crate::Result;
use crate::base::atomic;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const STYLE: &str =
    concat!(include_str!("theme.css"), include_str!("plot.css"), include_str!("standalone.css"));

/// Around everything.
const MARGIN: f64 = 16.0;
/// Heights of lines of text.
const TITLE_LINE: f64 = 20.0;
const SMALL_LINE: f64 = 17.0;
const LEGEND_LINE: f64 = 19.0;
/// Characters that a line holds.
const TITLE_CHARACTERS: usize = 48;
const SMALL_CHARACTERS: usize = 64;
/// Width of a legend's key, and of a character beside it, with some to spare: fonts differ.
const KEY: f64 = 28.0;
const CHARACTER: f64 = 7.4;
/// Names in a legend are cut to so many characters.
const NAME: usize = 32;

/// Writes every plot to a file in `folder`, named after its title: `hidden-norm-variance.svg`. Returns the files.
///
/// # Errors
/// [`crate::Error::Io`] with the path.
pub fn write(groups: &[RunGroup], folder: &Path) -> Result<Vec<PathBuf>> {
    let mut taken: HashSet<String> = HashSet::new();
    let mut written = Vec::new();
    for figure in sections(groups).iter().flat_map(|section| &section.figures) {
        let mut stem = figure.slug.clone();
        for count in 2.. {
            if taken.insert(stem.clone()) {
                break;
            }
            stem = format!("{}-{count}", figure.slug);
        }
        let path = folder.join(format!("{stem}.svg"));
        atomic::write_bytes(&path, file(figure).as_bytes())?;
        written.push(path);
    }
    Ok(written)
}

/// A whole file: title, unit, legend, plot and note on an opaque ground, in the colours that the reader prefers.
fn file(figure: &Figure) -> String {
    let mut svg = Svg::default();
    let [plot_width, plot_height] = figure.picture.size;
    let width = plot_width + 2.0 * MARGIN;
    let mut y = MARGIN - 4.0;
    for line in wrapped(&figure.title, TITLE_CHARACTERS) {
        y += TITLE_LINE;
        svg.text("title", [MARGIN, y - 4.0], Anchor::Start, &line);
    }
    for line in wrapped(&figure.unit, SMALL_CHARACTERS) {
        y += SMALL_LINE;
        svg.text("small", [MARGIN, y - 4.0], Anchor::Start, &line);
    }
    y = legend(&mut svg, &figure.legend, y + 4.0, width);
    svg.place(&figure.picture, [MARGIN, y + 6.0]);
    y += plot_height + 6.0;
    for line in wrapped(&figure.note, SMALL_CHARACTERS) {
        y += SMALL_LINE;
        svg.text("small", [MARGIN, y], Anchor::Start, &line);
    }
    let (width, height) = (Px(width), Px(y + MARGIN));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n{}\n</svg>\n",
        Escaped(&figure.title),
        svg.into_inside()
    )
}

/// Draws the legend below `y`, in as many lines as it takes; where it ends.
fn legend(svg: &mut Svg, entries: &[LegendEntry], mut y: f64, width: f64) -> f64 {
    let mut x = MARGIN;
    for (i, entry) in entries.iter().enumerate() {
        let text = format!("{} {}", shortened(&entry.name, NAME), entry.value);
        let needed = KEY + 6.0 + text.trim_end().chars().count() as f64 * CHARACTER;
        if i == 0 || x + needed > width - MARGIN {
            (x, y) = (MARGIN, y + LEGEND_LINE);
        }
        key(svg, entry, [x, y - 4.0]);
        svg.text("name", [x + KEY + 6.0, y], Anchor::Start, text.trim_end());
        x += needed + 10.0;
    }
    y
}

/// The same keys as the page has.
fn key(svg: &mut Svg, LegendEntry { class, kind, .. }: &LegendEntry, [x, y]: [f64; 2]) {
    match *kind {
        "bar" => svg.rect(&format!("bar {class}"), [x + 1.0, y - 5.0], [KEY - 2.0, 10.0]),
        "point" => {
            svg.line(&format!("whisker {class}"), [x + 1.0, y], [x + KEY - 1.0, y]);
            svg.circle(&format!("point {class}"), [x + KEY / 2.0, y], 4.0);
        }
        _ => svg.line(&format!("curve {class}"), [x + 1.0, y], [x + KEY - 1.0, y]),
    }
}

/// Lines of at most `longest` characters, broken between words where they can be.
fn wrapped(text: &str, longest: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word = shortened(word, longest);
        match lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= longest) {
            Some(line) => {
                line.push(' ');
                line.push_str(&word);
            }
            None => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("", 7), Vec::<String>::new());
        assert_eq!(wrapped("a äöüäöüäöüäöü b", 6), ["a", "äöü…öü", "b"]);
    }
}
