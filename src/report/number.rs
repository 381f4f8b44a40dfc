//! Numbers as a report prints them.

use crate::base::figures::grouped;

/// What stands where there is no number.
pub const NOTHING: &str = "–";

/// Three significant digits; an exponent where a plain number would be long.
pub fn figure(value: f64) -> String {
    if !value.is_finite() {
        return NOTHING.into();
    }
    let size = value.abs();
    if size == 0.0 {
        "0".into()
    } else if size < 1e-3 {
        format!("{value:.2e}")
    } else if size < 999.5 {
        let decimals = (2 - size.log10().floor() as i32).clamp(0, 5) as usize;
        format!("{value:.decimals$}")
    } else if size < 1e7 {
        let sign = if value < 0.0 { "-" } else { "" };
        format!("{sign}{}", grouped(size.round() as u64))
    } else {
        format!("{value:.2e}")
    }
}

/// [`figure`], or [`NOTHING`].
pub fn figure_or_nothing(value: Option<f64>) -> String {
    value.map_or_else(|| NOTHING.into(), figure)
}

/// A share or a difference of shares: three decimals.
pub fn share(value: f64) -> String {
    // What rounds to zero has no sign.
    let value = if value.abs() < 5e-4 { 0.0 } else { value };
    if value.is_finite() { format!("{value:.3}") } else { NOTHING.into() }
}

/// `2.5e-5`: as few digits as the value needs, `decimals` at most.
pub fn scientific(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if mantissa.contains('.') => {
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// A count, or a mean of counts.
pub fn count(value: f64) -> String {
    if value.fract() == 0.0 && (0.0..1e15).contains(&value) { grouped(value as u64) } else { figure(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let found = [0.0, 1.23456e-5, 0.0012345, 0.5, 12.345, 999.6, -54_321.0, 1.5e9, f64::NAN].map(figure);
        assert_eq!(
            found,
            ["0", "1.23e-5", "0.00123", "0.500", "12.3", "1,000", "-54,321", "1.50e9", NOTHING]
        );
    }

    #[test]
    fn shares_have_three_decimals_and_no_negative_zero() {
        assert_eq!([0.12345, -0.0004, -0.0006, f64::NAN].map(share), ["0.123", "0.000", "-0.001", NOTHING]);
    }
}
