//! Axes: a range with room at its ends, and ticks at round values.

use super::number::scientific;
use crate::base::figures::grouped;

/// An axis from `lo` to `hi`, `lo` below `hi`.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub lo: f64,
    pub hi: f64,
    pub log: bool,
    /// Values within the range, with their labels.
    pub ticks: Vec<(f64, String)>,
}

/// Room beyond the outermost values, as a share of the range.
const ROOM: f64 = 0.05;
/// Values beyond these sizes have no say in where an axis ends: arithmetic on it would not hold them.
const LARGEST: f64 = 1e150;
const SMALLEST_LOG: f64 = -290.0;
/// An axis has about so many ticks.
const TICKS: f64 = 5.0;

impl Axis {
    /// A linear axis around the finite values; `None` if there are none.
    pub fn linear(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (lo, hi) = range(values.into_iter())?;
        let room = match hi - lo {
            // All values are equal, or all but: some range around them.
            width if width <= 1e-9 * hi.abs() => {
                if hi == 0.0 {
                    1.0
                } else {
                    0.1 * hi.abs()
                }
            }
            width => ROOM * width,
        };
        Some(Self::of(lo - room, hi + room))
    }

    /// A linear axis of exactly this range.
    pub fn of(lo: f64, hi: f64) -> Self {
        let step = round_step((hi - lo) / TICKS);
        let first = (lo / step - 1e-9).ceil() as i64;
        let last = (hi / step + 1e-9).floor() as i64;
        let ticks = (first..=last.min(first + 20)).map(|i| i as f64 * step);
        let largest = lo.abs().max(hi.abs());
        let label = |value: f64| label(value, step, largest);
        Self { lo, hi, log: false, ticks: ticks.map(|value| (value, label(value))).collect() }
    }

    /// Steps from 0 to the last one.
    pub fn steps(last: f64) -> Self {
        let mut axis = Self::of(0.0, last.max(1.0));
        axis.ticks.retain(|(value, _)| value.fract() == 0.0);
        for (value, label) in &mut axis.ticks {
            *label = grouped(*value as u64);
        }
        axis
    }

    /// A logarithmic axis around the positive values; `None` if there are none.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let logarithms = values.into_iter().filter(|value| (0.0..LARGEST).contains(value)).map(f64::log10);
        let (lo, hi) = range(logarithms.filter(|logarithm| *logarithm > SMALLEST_LOG))?;
        let room = ((hi - lo) * ROOM).max(0.05);
        let (lo, hi) = (lo - room, hi + room);
        let exponents = lo.ceil() as i32..=hi.floor() as i32;
        let plain = *exponents.start() >= -2 && *exponents.end() <= 3;
        let every = (exponents.clone().count() / 6 + 1) as i32;
        let mut ticks: Vec<(f64, String)> = exponents
            .filter(|exponent| exponent % every == 0)
            .map(|exponent| (10f64.powi(exponent), power_of_ten(exponent, plain)))
            .collect();
        if ticks.len() < 3 {
            // Within two decades or so: the values between, and plain numbers where they are short.
            let factors: &[f64] =
                if hi - lo < 0.7 { &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0] } else { &[1.0, 2.0, 5.0] };
            let decades = lo.floor() as i32..=hi.floor() as i32;
            let values = decades.flat_map(|exponent| factors.iter().map(move |f| f * 10f64.powi(exponent)));
            let inside = values.filter(|value| (lo..=hi).contains(&value.log10()));
            ticks = inside.map(|value| (value, label(value, value, value))).collect();
        }
        Some(Self { lo: 10f64.powf(lo), hi: 10f64.powf(hi), log: true, ticks })
    }

    /// Where a value lies, 0 at `lo` and 1 at `hi`; NaN where it has no place.
    pub fn place(&self, value: f64) -> f64 {
        if self.log {
            let value = if value > 0.0 { value.ln() } else { f64::NAN };
            (value - self.lo.ln()) / (self.hi.ln() - self.lo.ln())
        } else {
            (value - self.lo) / (self.hi - self.lo)
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.abs() < LARGEST).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((lo, hi)) => Some((value.min(lo), value.max(hi))),
    })
}

/// 1, 2, 2.5 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let power = if power.is_finite() && power > 0.0 { power } else { 1.0 };
    [1.0, 2.0, 2.5, 5.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

/// A tick's label, with the decimals that its step needs.
fn label(value: f64, step: f64, largest: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e5).contains(&largest) {
        return scientific(value, 2);
    }
    let power = step.log10().floor() as i32;
    let is_half = (step / 10f64.powi(power) * 10.0).round() % 10.0 != 0.0;
    let decimals = (i32::from(is_half) - power).clamp(0, 8) as usize;
    // 0.00025 is longer than the room beside the axis.
    if decimals > 4 && largest < 1.0 {
        return scientific(value, 2);
    }
    format!("{value:.decimals$}")
}

fn power_of_ten(exponent: i32, plain: bool) -> String {
    if plain {
        return 10f64.powi(exponent).to_string();
    }
    let digits = exponent.to_string();
    let raised = digits.chars().map(|c| match c.to_digit(10) {
        Some(digit) => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize],
        None => '⁻',
    });
    std::iter::once("10".to_owned()).chain(raised.map(String::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(labels(&Axis::linear([0.0, 1.0]).unwrap()), ["0", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(labels(&Axis::linear([-3.0, f64::NAN, 7.0]).unwrap()), ["-2.5", "0", "2.5", "5.0", "7.5"]);
        assert_eq!(labels(&Axis::steps(5000.0)), ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]);
        assert_eq!(labels(&Axis::steps(2.0)), ["0", "1", "2"]);
        assert_eq!(
            labels(&Axis::linear([9.798, 9.8001]).unwrap()),
            ["9.7980", "9.7985", "9.7990", "9.7995", "9.8000"]
        );
        assert_eq!(labels(&Axis::linear([0.0, 2e-5]).unwrap()), ["0", "5e-6", "1e-5", "1.5e-5", "2e-5"]);
        assert_eq!(labels(&Axis::linear([0.0, 1e-3]).unwrap()), ["0", "2.5e-4", "5e-4", "7.5e-4", "1e-3"]);
        let one = Axis::linear([4.0]).unwrap();
        assert!(one.lo < 4.0 && one.hi > 4.0 && one.ticks.len() > 2);
        assert_eq!(Axis::linear([f64::NAN]), None);
    }

    #[test]
    fn a_logarithmic_axis_has_decades_or_what_lies_between_them() {
        assert_eq!(
            labels(&Axis::logarithmic([0.0, 1e-7, 1e-3]).unwrap()),
            ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³"]
        );
        assert_eq!(labels(&Axis::logarithmic([0.9, 11.0]).unwrap()), ["1", "2", "5", "10"]);
        assert_eq!(labels(&Axis::logarithmic([0.1, 100.0]).unwrap()), ["0.1", "1", "10", "100"]);
        assert_eq!(labels(&Axis::logarithmic([1e-3, 1.0]).unwrap()), ["10⁻³", "10⁻²", "10⁻¹", "10⁰"]);
        assert_eq!(labels(&Axis::logarithmic([3.0]).unwrap()), ["3"]);
        assert_eq!(Axis::logarithmic([-1.0, 0.0]), None);
        let axis = Axis::logarithmic([1.0, 100.0]).unwrap();
        assert!((axis.place(10.0) - 0.5).abs() < 1e-9 && axis.place(0.0).is_nan());
    }

    #[test]
    fn extreme_ranges_do_not_run_away() {
        for values in [[f64::MIN_POSITIVE, 1e308], [-1e308, 1e308], [1e300, 1.1e300], [1e-320, 2e-320]] {
            for axis in [Axis::linear(values), Axis::logarithmic(values)].into_iter().flatten() {
                assert!(axis.ticks.len() < 30, "{values:?}");
            }
        }
    }
}
