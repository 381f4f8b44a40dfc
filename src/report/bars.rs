//! Figures of sets, a group a set and a bar or a point a run or its seeds, with their intervals.

use super::axis::Axis;
use super::figure::{Figure, LegendEntry, Table};
use super::number::NOTHING;
use super::over_seeds::OverSeeds;
use super::plot::{WIDTH, run_class};
use super::sets::Interval;
use super::svg::{Anchor, Svg, shortened};

const LEFT: f64 = 6.0;
/// Room for a value and its interval at the right.
const RIGHT: f64 = 154.0;
const TOP: f64 = 4.0;
const HEADING: f64 = 22.0;
const ROW: f64 = 19.0;
const GAP: f64 = 10.0;
const BOTTOM: f64 = 22.0;

/// A set.
#[derive(Debug)]
pub struct Group {
    pub name: String,
    pub bars: Vec<Bar>,
}

/// A figure of the set, of a run or of several that differ in their seeds.
#[derive(Debug, Default)]
pub struct Bar {
    pub run: usize,
    /// Of seeds the mean.
    pub value: Option<f64>,
    /// At 95%; of seeds the least and the largest.
    pub interval: Option<Interval>,
    /// Each seed's, where there are several.
    pub seeds: Vec<f64>,
    /// A value of something else to compare with.
    pub mark: Option<f64>,
}

/// What is drawn, and how.
#[derive(Debug, Default)]
pub struct Bars {
    pub title: &'static str,
    /// Without the intervals, which are told by what they are.
    pub unit: &'static str,
    /// The axis; a range around the values where there is none.
    pub range: Option<[f64; 2]>,
    /// Bars begin at 0; otherwise values are points.
    pub from_zero: bool,
    /// A value to compare with.
    pub rule: Option<f64>,
    /// What the marks are, if there are any.
    pub mark: Option<&'static str>,
    pub note: String,
    /// How values are written.
    pub write: Option<fn(f64) -> String>,
}

impl Bar {
    /// One bar of the seeds' bars.
    pub fn over_seeds(mut bars: Vec<Self>) -> Option<Self> {
        if bars.len() < 2 {
            return bars.pop();
        }
        let values = OverSeeds::of(bars.iter().map(|bar| bar.value));
        Some(Self {
            run: 0,
            value: values.mean(),
            interval: values.range(),
            mark: OverSeeds::of(bars.iter().map(|bar| bar.mark)).mean(),
            seeds: values.values,
        })
    }

    fn is_over_seeds(&self) -> bool {
        self.seeds.len() > 1
    }
}

impl Bars {
    /// Draws the groups; `None` where there is no value.
    pub fn figure(&self, groups: &[Group], names: &[&str]) -> Option<Figure> {
        let groups: Vec<&Group> =
            groups.iter().filter(|g| g.bars.iter().any(|bar| bar.value.is_some())).collect();
        let bars = || groups.iter().flat_map(|group| &group.bars);
        let ends = bars().flat_map(|bar| {
            let [lo, hi] = bar.interval.map_or([None, None], |ends| ends.map(Some));
            [bar.value, bar.mark, lo, hi, self.rule].into_iter().flatten()
        });
        let around = Axis::linear(ends)?;
        let x = self.range.map_or(around, |[lo, hi]| Axis::of(lo, hi));
        let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
        let height = TOP + groups.len() as f64 * (HEADING + GAP) + rows as f64 * ROW + BOTTOM;
        let place = |value: f64| LEFT + x.place(value).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
        let bottom = height - BOTTOM - GAP / 2.0;

        let mut svg = Svg::default();
        for (value, label) in &x.ticks {
            let at = place(*value);
            let anchor = if at < LEFT + 12.0 { Anchor::Start } else { Anchor::Middle };
            svg.text("tick", [at.max(LEFT), bottom + 16.0], anchor, label);
        }
        let mut y = TOP;
        for group in &groups {
            svg.text("group", [LEFT, y + 14.0], Anchor::Start, &shortened(&group.name, 44));
            y += HEADING;
            let beneath = y + group.bars.len() as f64 * ROW;
            for (value, _) in &x.ticks {
                svg.line("grid", [place(*value), y - 2.0], [place(*value), beneath]);
            }
            if let Some(rule) = self.rule {
                svg.line("rule", [place(rule), y - 2.0], [place(rule), beneath]);
            }
            for bar in &group.bars {
                self.draw(&mut svg, bar, y, place);
                y += ROW;
            }
            y += GAP;
        }
        let legend = names.iter().enumerate().filter(|(run, _)| bars().any(|bar| bar.run == *run)).map(
            |(run, name)| LegendEntry {
                class: run_class(run),
                kind: if self.from_zero { "bar" } else { "point" },
                name: (*name).into(),
                value: String::new(),
            },
        );
        let spoken = groups.iter().flat_map(|group| {
            group.bars.iter().map(|bar| {
                format!("{}, {}: {}", group.name, names.get(bar.run).unwrap_or(&""), self.written(bar))
            })
        });
        let label = format!("{}. {}", self.title, spoken.collect::<Vec<_>>().join("; "));
        let svg = svg.finish("plot", [WIDTH, height], &label, &[]);
        let marked = bars().any(|bar| bar.mark.is_some());
        let mark = self.mark.filter(|_| marked).map(|mark| format!("◇ {mark} ")).unwrap_or_default();
        let several = bars().any(Bar::is_over_seeds);
        let single = bars().any(|bar| !bar.is_over_seeds() && bar.interval.is_some());
        let spread = match (several, single) {
            (false, false) => "",
            (false, true) => ", 95% interval",
            (true, false) => "; mean over seeds, a dot a seed, least to largest",
            (true, true) => "; mean over seeds, a dot a seed, least to largest; of one seed its 95% interval",
        };
        Some(Figure::new(
            self.title,
            &format!("{}{spread}", self.unit),
            svg,
            legend.collect(),
            format!("{mark}{}", self.note),
            self.table(&groups, names),
        ))
    }

    fn draw(&self, svg: &mut Svg, bar: &Bar, y: f64, place: impl Fn(f64) -> f64) {
        let class = run_class(bar.run);
        let middle = y + ROW / 2.0 - 1.0;
        let Some(value) = bar.value else {
            svg.text("value", [WIDTH - 4.0, middle + 4.0], Anchor::End, NOTHING);
            return;
        };
        if self.from_zero {
            let (from, to) = (place(value.min(0.0)), place(value.max(0.0)));
            svg.rect(&format!("bar {class}"), [from, y], [to - from, ROW - 4.0]);
        }
        if let Some([lo, hi]) = bar.interval {
            let (lo, hi) = (place(lo), place(hi));
            let whisker = if self.from_zero { "whisker".into() } else { format!("whisker {class}") };
            svg.line(&whisker, [lo, middle], [hi, middle]);
            svg.line(&whisker, [lo, middle - 3.5], [lo, middle + 3.5]);
            svg.line(&whisker, [hi, middle - 3.5], [hi, middle + 3.5]);
        }
        if !self.from_zero {
            svg.circle(&format!("point {class}"), [place(value), middle], 4.0);
        }
        if bar.is_over_seeds() {
            for seed in &bar.seeds {
                svg.circle(&format!("seed {class}"), [place(*seed), middle], 2.4);
            }
        }
        if let Some(mark) = bar.mark {
            let x = place(mark);
            let corners = [
                [x, middle - 4.5],
                [x + 4.5, middle],
                [x, middle + 4.5],
                [x - 4.5, middle],
                [x, middle - 4.5],
            ];
            svg.path("mark", corners);
        }
        svg.text("value", [WIDTH - 4.0, middle + 4.0], Anchor::End, &self.written(bar));
    }

    fn number(&self, value: f64) -> String {
        self.write.map_or_else(|| super::number::figure(value), |write| write(value))
    }

    /// `0.712 [0.690, 0.734]`, of seeds `0.712 (0.690–0.734)`.
    fn written(&self, bar: &Bar) -> String {
        if bar.is_over_seeds() {
            return OverSeeds::of(bar.seeds.iter().copied().map(Some)).written(|value| self.number(value));
        }
        let Some(value) = bar.value else { return NOTHING.into() };
        let interval = bar.interval.map(|[lo, hi]| format!(" [{}, {}]", self.number(lo), self.number(hi)));
        format!("{}{}", self.number(value), interval.unwrap_or_default())
    }

    fn table(&self, groups: &[&Group], names: &[&str]) -> Table {
        let several = groups.iter().flat_map(|group| &group.bars).any(Bar::is_over_seeds);
        let head: &[&str] = if several {
            &["set", "group", "seeds", "mean", "from", "to"]
        } else {
            &["set", "run", "value", "95% from", "to"]
        };
        let head = head.iter().copied().chain(self.mark);
        let row = |group: &Group, bar: &Bar| {
            let name = names.get(bar.run).copied().unwrap_or_default().to_owned();
            let cell = |value: Option<f64>| value.map_or_else(|| NOTHING.into(), |value| self.number(value));
            let [lo, hi] = bar.interval.map_or([None, None], |ends| ends.map(Some));
            let mark = self.mark.map(|_| cell(bar.mark));
            let seeds = several.then(|| bar.seeds.len().max(1).to_string());
            let figures = [cell(bar.value), cell(lo), cell(hi)];
            [group.name.clone(), name].into_iter().chain(seeds).chain(figures).chain(mark).collect()
        };
        Table {
            head: head.map(|text| text.trim_end_matches('.').to_owned()).collect(),
            rows: groups.iter().flat_map(|group| group.bars.iter().map(|bar| row(group, bar))).collect(),
        }
    }
}
