//! SVG as text. Colours and fonts are the page's, by class, so that a figure follows its theme.

use serde::Serialize;
use std::fmt::{self, Display, Write as _};

/// Text as it may stand in an element or attribute.
pub struct Escaped<'t>(pub &'t str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // XML has no place for them, escaped or not.
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A coordinate to a tenth of a unit, which is below a pixel.
pub struct Px(pub f64);

impl Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round();
        let tenths = if tenths == 0.0 { 0.0 } else { tenths };
        if tenths % 10.0 == 0.0 { write!(f, "{}", tenths / 10.0) } else { write!(f, "{:.1}", tenths / 10.0) }
    }
}

/// How a text lies at its point.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A whole picture.
#[derive(Debug, Serialize)]
pub struct Picture {
    /// An `<svg>` element, escaped.
    pub element: String,
    pub size: [f64; 2],
}

/// The inside of a figure under construction.
#[derive(Debug, Default)]
pub struct Svg(String);

impl Svg {
    pub fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let (x1, y1, x2, y2) = (Px(x1), Px(y1), Px(x2), Px(y2));
        let _ = write!(self.0, "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>");
    }

    pub fn rect(&mut self, class: &str, [x, y]: [f64; 2], [width, height]: [f64; 2]) {
        let (x, y, width, height) = (Px(x), Px(y), Px(width), Px(height));
        let _ = write!(
            self.0,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>"
        );
    }

    pub fn circle(&mut self, class: &str, [x, y]: [f64; 2], radius: f64) {
        let _ = write!(
            self.0,
            "<circle class=\"{class}\" cx=\"{}\" cy=\"{}\" r=\"{}\"/>",
            Px(x),
            Px(y),
            Px(radius)
        );
    }

    pub fn text(&mut self, class: &str, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let (x, y, text) = (Px(x), Px(y), Escaped(text));
        let _ = write!(self.0, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\"{anchor}>{text}</text>");
    }

    /// A line through points; one that is nowhere (NaN) breaks it, and one between two breaks is a dot.
    pub fn path(&mut self, class: &str, points: impl IntoIterator<Item = [f64; 2]>) {
        let mut path = String::new();
        let mut broken = true;
        for [x, y] in points {
            if [x, y].iter().all(|c| c.is_finite()) {
                let _ = write!(path, "{}{},{}", if broken { 'M' } else { 'L' }, Px(x), Px(y));
                if broken {
                    // Of no length, it is seen only where nothing follows: line ends are round.
                    path.push_str("h0");
                }
            }
            broken = !(x.is_finite() && y.is_finite());
        }
        if !path.is_empty() {
            let _ = write!(self.0, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }

    /// The area between two lines over the same x, in pieces where either has a gap.
    pub fn area(&mut self, class: &str, points: &[(f64, [f64; 2])]) {
        let mut path = String::new();
        for piece in points
            .split(|(x, ys)| [*x, ys[0], ys[1]].iter().any(|c| !c.is_finite()))
            .filter(|piece| !piece.is_empty())
        {
            let there = piece.iter().map(|(x, [y, _])| (x, y));
            let back = piece.iter().rev().map(|(x, [_, y])| (x, y));
            for (i, (x, y)) in there.chain(back).enumerate() {
                let _ = write!(path, "{}{},{}", if i == 0 { 'M' } else { 'L' }, Px(*x), Px(*y));
            }
            path.push('Z');
        }
        if !path.is_empty() {
            let _ = write!(self.0, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }

    /// What follows until [`Svg::close`] has this title, which a pointer shows.
    pub fn open_titled(&mut self, class: &str, title: &str) {
        let _ = write!(self.0, "<g class=\"{class}\"><title>{}</title>", Escaped(title));
    }

    pub fn close(&mut self) {
        self.0.push_str("</g>");
    }

    /// A picture within this one.
    pub fn place(&mut self, picture: &Picture, [x, y]: [f64; 2]) {
        let _ = write!(self.0, "<g transform=\"translate({} {})\">{}</g>", Px(x), Px(y), picture.element);
    }

    /// What has been drawn, without an element around it.
    pub fn into_inside(self) -> String {
        self.0
    }

    /// The whole element. `label` says in words what is seen; `data` goes to data attributes.
    pub fn finish(self, class: &str, size: [f64; 2], label: &str, data: &[(&str, String)]) -> Picture {
        let ([width, height], label) = (size.map(Px), Escaped(label));
        let mut out = format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             role=\"img\" aria-label=\"{label}\""
        );
        for (name, value) in data {
            let _ = write!(out, " data-{name}=\"{}\"", Escaped(value));
        }
        out.push('>');
        out.push_str(&self.0);
        out.push_str("</svg>");
        Picture { element: out, size }
    }
}

/// At most `longest` characters, with an ellipsis for what is left out of the middle.
pub fn shortened(text: &str, longest: usize) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= longest {
        return text.to_owned();
    }
    let tail = longest / 3;
    let head = longest.saturating_sub(tail + 1);
    characters[..head].iter().chain(&['…']).chain(&characters[characters.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_break_a_line_and_an_area() {
        let mut svg = Svg::default();
        svg.path("p", [[0.0, 1.0], [1.0, 2.04], [2.0, f64::NAN], [3.0, 4.0]]);
        svg.area("a", &[(0.0, [1.0, 2.0]), (1.0, [f64::NAN, 2.0]), (2.0, [3.0, 4.0])]);
        assert_eq!(
            svg.0,
            "<path class=\"p\" d=\"M0,1h0L1,2M3,4h0\"/><path class=\"a\" d=\"M0,1L0,2ZM2,3L2,4Z\"/>"
        );
    }

    #[test]
    fn text_stays_text() {
        let mut svg = Svg::default();
        svg.text("t", [-0.01, 0.25], Anchor::End, "</svg><script>\u{1}'\"&");
        assert_eq!(
            svg.0,
            "<text class=\"t\" x=\"0\" y=\"0.3\" text-anchor=\"end\">&lt;/svg&gt;&lt;script&gt; &#39;&quot;&amp;</text>"
        );
        assert_eq!(shortened("mutual-disjoint", 9), "mutua…int");
        assert_eq!(shortened("äöü", 3), "äöü");
    }
}
