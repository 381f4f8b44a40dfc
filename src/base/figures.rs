//! Numbers as people read them.

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Memory, in MiB or GiB.
pub fn memory(bytes: u64) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// 1234567 as 1.23M.
pub fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.2}B", n / 1e9),
        n if n >= 1e6 => format!("{:.2}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// Floating-point operations, from MFLOP to EFLOP.
pub fn flops(number: f64) -> String {
    const UNITS: [(f64, &str); 5] =
        [(1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")];
    let (size, unit) = UNITS.into_iter().find(|(size, _)| number >= *size).unwrap_or(UNITS[4]);
    format!("{:.3} {unit}", number / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!([0, 12, 999, 1000, 494_032_768].map(grouped), ["0", "12", "999", "1,000", "494,032,768"]);
        assert_eq!([4 * 494_032_768, 3 << 19].map(memory), ["1.8 GiB", "1.5 MiB"]);
        assert_eq!([999.0, 12_345.0, 1_234_567.0, 2e9].map(short), ["999", "12k", "1.23M", "2.00B"]);
        assert_eq!([1e5, 2.5e12, 3e18].map(flops), ["0.100 MFLOP", "2.500 TFLOP", "3.000 EFLOP"]);
    }
}
