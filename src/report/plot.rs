//! The frame of a plot over two axes: grid, ticks, and what is drawn inside.

use super::axis::Axis;
use super::svg::{Anchor, Picture, Svg};

/// Of every plot over steps. A column of the page is about as wide, so that text comes out at about its size.
pub const WIDTH: f64 = 420.0;
pub const HEIGHT: f64 = 232.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 36.0;

/// Colours come round after so many runs, dash patterns after so many; together after 40.
const COLOURS: usize = 8;
const DASHES: usize = 5;

/// The classes of a run's marks.
pub fn run_class(run: usize) -> String {
    format!("c{} d{}", run % COLOURS, run % DASHES)
}

/// A plot under construction.
#[derive(Debug)]
pub struct Plot {
    svg: Svg,
    x: Axis,
    y: Axis,
}

impl Plot {
    /// Draws the frame; `x_label` stands below the axis.
    pub fn new(x: Axis, y: Axis, x_label: &str) -> Self {
        let mut plot = Self { svg: Svg::default(), x, y };
        let bottom = HEIGHT - BOTTOM;
        for (value, label) in plot.y.ticks.clone() {
            let y = plot.y(value);
            plot.svg.line("grid", [LEFT, y], [WIDTH - RIGHT, y]);
            plot.svg.text("tick", [LEFT - 7.0, y + 4.0], Anchor::End, &label);
        }
        for (value, label) in plot.x.ticks.clone() {
            let x = plot.x(value);
            plot.svg.line("axis", [x, bottom], [x, bottom + 4.0]);
            // A label at the very end would reach beyond the picture.
            let anchor = if x > WIDTH - RIGHT - 16.0 { Anchor::End } else { Anchor::Middle };
            let x = if matches!(anchor, Anchor::End) { x + 8.0 } else { x };
            plot.svg.text("tick", [x, bottom + 17.0], anchor, &label);
        }
        plot.svg.line("axis", [LEFT, bottom], [WIDTH - RIGHT, bottom]);
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        plot.svg.text("label", [middle, HEIGHT - 4.0], Anchor::Middle, x_label);
        plot
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    /// What lies beyond the axis is drawn at its end.
    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    /// A line; gaps where y is NaN.
    pub fn line(&mut self, class: &str, x: &[f64], y: &[f64]) {
        let points: Vec<[f64; 2]> = x.iter().zip(y).map(|(x, y)| [self.x(*x), self.y(*y)]).collect();
        self.svg.path(class, points);
    }

    /// A dot.
    pub fn dot(&mut self, class: &str, x: f64, y: f64) {
        let at = [self.x(x), self.y(y)];
        if at.iter().all(|c| c.is_finite()) {
            self.svg.circle(class, at, 2.6);
        }
    }

    /// The area between two lines.
    pub fn band(&mut self, class: &str, x: &[f64], low: &[f64], high: &[f64]) {
        let points: Vec<(f64, [f64; 2])> = x
            .iter()
            .zip(low)
            .zip(high)
            .map(|((x, low), high)| (self.x(*x), [self.y(*low), self.y(*high)]))
            .collect();
        self.svg.area(class, &points);
    }

    /// The value to compare with, if it lies in the plot.
    pub fn rule(&mut self, value: f64) {
        if (0.0..=1.0).contains(&self.y.place(value)) {
            let y = self.y(value);
            self.svg.line("rule", [LEFT, y], [WIDTH - RIGHT, y]);
        }
    }

    /// A moment: a thin line with a head, and a title for the pointer.
    pub fn moment(&mut self, class: &str, x: f64, title: &str) {
        if !(0.0..=1.0).contains(&self.x.place(x)) {
            return;
        }
        let x = self.x(x);
        self.svg.open_titled(&format!("moment {class}"), title);
        self.svg.line("stem", [x, TOP], [x, HEIGHT - BOTTOM]);
        self.svg
            .path("head", [[x - 4.5, TOP - 9.0], [x + 4.5, TOP - 9.0], [x, TOP - 1.0], [x - 4.5, TOP - 9.0]]);
        self.svg.close();
    }

    /// The picture. With `readable` the page's script can tell values under the pointer.
    pub fn finish(self, label: &str, readable: bool) -> Picture {
        let scale = if self.y.log { "log" } else { "linear" };
        let data = [
            ("box", format!("{LEFT} {TOP} {} {}", WIDTH - RIGHT, HEIGHT - BOTTOM)),
            ("x", format!("{} {}", self.x.lo, self.x.hi)),
            ("y", format!("{} {} {scale}", self.y.lo, self.y.hi)),
        ];
        self.svg.finish("plot", [WIDTH, HEIGHT], label, if readable { &data } else { &[] })
    }
}
