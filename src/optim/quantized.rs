//! Eight bits a moment: block-wise dynamic quantization. What the numbers mean is here; where they are kept is in
//! [`super::moments`], and what updates them in [`super::adamw`].
//!
//! Runs of [`BLOCK`] values are divided by their largest magnitude, their scale, and each quotient becomes the code of
//! the nearest of 256 values; a quotient halfway between two takes the lower code. The values of a code spend their
//! bits on small magnitudes: seven decades, in the topmost 64 fractions of each sign (signed) or 128 (unsigned), half
//! as many in each one below it, and zero and one. A block of zeros has the scale zero and codes zero, which stand for
//! zeros whatever the code says: memory that was never written is a moment that was never touched.
//!
//! # Source
//! Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861); the values are those of
//! bitsandbytes up to its rounding in f32, two units in the last place at most (`tests/golden/quantized`).

use std::sync::LazyLock;

/// Consecutive values of a flattened parameter that share a scale.
pub const BLOCK: usize = 256;

/// Code of the first moment, -0.993 to 1.
pub static SIGNED: LazyLock<Code> = LazyLock::new(|| Code::new(true));
/// The signed code that stands for zero; the unsigned one's is 0.
pub const SIGNED_ZERO: u8 = 127;
/// Code of the second moment, 0 to 1.
pub static UNSIGNED: LazyLock<Code> = LazyLock::new(|| Code::new(false));

const POWERS_OF_TEN: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// 256 ascending values, and a table that finds the nearest.
pub struct Code {
    values: [f32; 256],
    /// For each range of magnitudes that agree in all but `low_bits`, of either sign: above [`CODE_SHIFT`] the code of
    /// its lowest values, below it the low bits of the boundary to the next code, which lies in the range or at its end.
    segments: Box<[u32; SEGMENTS]>,
    low_bits: u32,
}

/// Enough for the octaves from [`SMALLEST`] to 1, cut finely enough that none of the parts spans three codes.
const SEGMENTS: usize = 4096;
const SIGN_SEGMENT: usize = SEGMENTS / 2;
const CODE_SHIFT: u32 = 24;
/// Magnitudes below this round to zero in both codes. A power of two.
const SMALLEST: f32 = 1.0 / (1 << 23) as f32;
const MAGNITUDE: u32 = u32::MAX >> 1;

impl Code {
    fn new(is_signed: bool) -> Self {
        let values = values(is_signed);
        // Halfway between neighbours is exact in f64; rounded down, it separates the same f32 values.
        let thresholds: Vec<f32> = values
            .windows(2)
            .map(|pair| round_down((f64::from(pair[0]) + f64::from(pair[1])) / 2.0))
            .collect();
        let search = |value: f32| thresholds.partition_point(|threshold| value > *threshold);
        // The finest steps are 0.9 / 128 (unsigned) and 0.9 / 64 (signed); an octave's share must be below.
        let low_bits = if is_signed { 17 } else { 16 };
        let low = (1 << low_bits) - 1;
        let mut segments = Box::new([0; SEGMENTS]);
        let lowest = SMALLEST.to_bits() >> low_bits;
        for key in lowest..=1.0f32.to_bits() >> low_bits {
            let from = if key == lowest { 0.0 } else { f32::from_bits(key << low_bits) };
            let to = f32::from_bits(((key + 1) << low_bits) - 1).min(1.0);
            // The bits of negative values are flipped, so that larger bits are larger values on both sides.
            let ends = [(0, from, to, 0), (SIGN_SEGMENT, -to, -from, low)];
            for (side, from, to, flip) in ends.into_iter().take(if is_signed { 2 } else { 1 }) {
                let (first, last) = (search(from), search(to));
                assert!(last - first < 2, "a segment spans three codes");
                // Nothing is above all ones. The lowest segment, to which smaller magnitudes go, has no boundary.
                let boundary = if first == last { low } else { (thresholds[first].to_bits() & low) ^ flip };
                segments[side + (key - lowest) as usize] = ((first as u32) << CODE_SHIFT) | boundary;
            }
        }
        Self { values, segments, low_bits }
    }

    /// The 256 values, ascending.
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// The code of the value nearest to `value`, which is in -1 ..= 1 (0 ..= 1 for the unsigned code).
    #[inline(always)]
    pub fn nearest(&self, value: f32) -> u32 {
        let bits = value.to_bits();
        let lowest = SMALLEST.to_bits() >> self.low_bits;
        let key = ((bits & MAGNITUDE) >> self.low_bits).max(lowest) - lowest;
        let side = (bits >> 31) * SIGN_SEGMENT as u32;
        let segment = self.segments[(side + key) as usize % SEGMENTS];
        let flip = (bits as i32 >> 31) as u32;
        let low = (bits ^ flip) & ((1 << self.low_bits) - 1);
        (segment >> CODE_SHIFT) + u32::from(low > segment & ((1 << CODE_SHIFT) - 1))
    }

    /// The values that `codes` stand for, at most [`BLOCK`] of them, into `values`.
    #[inline(always)]
    pub fn dequantize(&self, codes: &[u8], scale: f32, values: &mut [f32]) {
        if scale == 0.0 {
            values.fill(0.0);
            return;
        }
        for (value, code) in values.iter_mut().zip(codes) {
            *value = self.values[usize::from(*code)] * scale;
        }
    }

    /// Quantizes `values`, at most [`BLOCK`] of them, and returns their scale.
    #[inline(always)]
    pub fn quantize(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        // Magnitudes order as their bits do, and whole numbers have a maximum in any order of comparison.
        let largest = values.iter().map(|value| value.to_bits() & MAGNITUDE).max();
        let scale = f32::from_bits(largest.unwrap_or(0));
        if scale == 0.0 {
            codes.fill(0);
            return 0.0;
        }
        // Into an array of its own first: codes are bytes, which for all the compiler knows are those of the table, and
        // it could not look up many at once.
        let mut nearest = [0; BLOCK];
        for (nearest, value) in nearest.iter_mut().zip(values) {
            // Divided, not multiplied by a reciprocal: that of a very small scale is infinite.
            *nearest = self.nearest(value / scale);
        }
        for (code, nearest) in codes.iter_mut().zip(nearest) {
            *code = nearest as u8;
        }
        scale
    }
}

/// The values of a code: each decade from 0.1 to 1 times a power of ten is cut into equal parts, whose middles count.
fn values(is_signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for (decade, power) in POWERS_OF_TEN.into_iter().enumerate() {
        let parts = 1u32 << if is_signed { decade } else { decade + 1 };
        for part in 0..parts {
            let middle = 0.1 + 0.9 * f64::from(2 * part + 1) / f64::from(2 * parts);
            values.push((power * middle) as f32);
            if is_signed {
                values.push(-(power * middle) as f32);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    let mut all = [0.0; 256];
    all.copy_from_slice(&values);
    all
}

/// The largest f32 that is not above `value`.
fn round_down(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value { nearest.next_down() } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng;

    #[test]
    fn values_are_those_of_bitsandbytes() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/quantized/expected.json")).unwrap();
        for (name, code) in [("signed", &*SIGNED), ("unsigned", &*UNSIGNED)] {
            let expected = golden[name].as_array().unwrap();
            assert_eq!(expected.len(), 256);
            for (found, expected) in code.values().iter().zip(expected) {
                let expected = expected.as_f64().unwrap() as f32;
                // bitsandbytes rounds more than once: it forms boundaries, middles and their products in f32.
                let apart = found.to_bits().abs_diff(expected.to_bits());
                assert!(apart <= 2, "{name}: {found} against {expected}");
            }
            assert!(code.values().is_sorted_by(|a, b| a < b));
        }
    }

    /// By definition: the nearest of all, the lower of two that are equally near.
    fn nearest_of_all(code: &Code, value: f32) -> u32 {
        let distance = |i: usize| (f64::from(code.values()[i]) - f64::from(value)).abs();
        let best = (0..256).min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap();
        best as u32
    }

    #[test]
    fn the_table_finds_the_nearest_value_and_the_lower_of_two() {
        for (code, is_signed) in [(&*SIGNED, true), (&*UNSIGNED, false)] {
            let mut values: Vec<f32> = vec![0.0, -0.0, 1.0, f32::MIN_POSITIVE, 1e-45, SMALLEST, 0.1, 0.01];
            for pair in code.values().windows(2) {
                let middle = ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
                values.extend([pair[0], middle, middle.next_up(), middle.next_down()]);
            }
            let mut random = rng::stream(1, "quantized", 0);
            values.extend(rng::normals(&mut random, 20_000).iter().map(|v| v / 8.0));
            values.extend(rng::normals(&mut random, 20_000).iter().map(|v| v.powi(9) / 1e3));
            for value in values {
                let value = if is_signed { value } else { value.abs() };
                if value.abs() <= 1.0 {
                    assert_eq!(code.nearest(value), nearest_of_all(code, value), "{value}");
                }
            }
            if is_signed {
                assert_eq!((code.nearest(-1.0), code.nearest(1.0), code.values()[127]), (0, 255, 0.0));
                assert_eq!(code.nearest(0.0), u32::from(SIGNED_ZERO));
            }
        }
    }

    #[test]
    fn blocks_come_back_within_half_a_step_and_the_largest_exactly() {
        let mut random = rng::stream(2, "quantized", 0);
        for size in [BLOCK, 7] {
            let values: Vec<f32> = rng::normals(&mut random, size).iter().map(|v| v.abs() * 3e-5).collect();
            let (mut codes, mut back) = (vec![9; size], vec![9.0; size]);
            for code in [&*SIGNED, &*UNSIGNED] {
                let scale = code.quantize(&values, &mut codes);
                code.dequantize(&codes, scale, &mut back);
                assert_eq!(scale, values.iter().copied().fold(0.0, f32::max));
                for (value, back) in values.iter().zip(&back) {
                    // Half a signed step, 0.9 / 128 of the scale or of the value's own decade.
                    assert!((value - back).abs() <= 0.0071 * scale, "{value} came back as {back}");
                    assert!(*value < scale || value == back);
                }
            }
        }
    }

    #[test]
    fn nothing_stands_for_zeros_and_tiny_scales_divide() {
        let (mut codes, mut back) = ([7u8; 3], [1.0f32; 3]);
        assert_eq!(SIGNED.quantize(&[0.0, -0.0, 0.0], &mut codes), 0.0);
        assert_eq!(codes, [0; 3]);
        SIGNED.dequantize(&codes, 0.0, &mut back);
        assert_eq!(back.map(f32::to_bits), [0; 3]);
        let tiny = f32::from_bits(3);
        assert_eq!(SIGNED.quantize(&[tiny, -tiny, 0.0], &mut codes), tiny);
        assert_eq!(codes, [255, 0, 127]);
    }
}
