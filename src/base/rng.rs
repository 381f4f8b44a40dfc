//! Counter-based randomness: every draw is a function of (seed, purpose, index), never of what was drawn before.
//!
//! That makes sample order, pairing and initial weights independent of thread count, of resuming and of each other.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// A generator for one draw or one short run of draws.
///
/// `purpose` keeps streams apart ("shuffle", "pairing", "init:score.weight"); `index` is the row, epoch or element.
pub fn stream(seed: u64, purpose: &str, index: u64) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(purpose.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
    rng.set_stream(index);
    rng
}

/// Uniform in [0, 1) with 53 bits.
pub fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Uniform in `0..bound`; 0 where `bound` is 0. The bias is below `bound / 2^64`.
pub fn below(rng: &mut impl Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// Puts the items in random order (Fisher-Yates).
pub fn shuffle<T>(rng: &mut impl Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

/// `count` draws from the standard normal distribution (Box-Muller).
pub fn normals(rng: &mut impl Rng, count: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 1 - u lies in (0, 1], whose logarithm is finite.
        let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * uniform(rng)).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_distinct() {
        let draw = |seed, purpose, index| stream(seed, purpose, index).next_u64();
        assert_eq!(draw(1, "shuffle", 3), draw(1, "shuffle", 3));
        let all =
            [draw(1, "shuffle", 3), draw(2, "shuffle", 3), draw(1, "pairing", 3), draw(1, "shuffle", 4)];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn shuffles_are_fair_permutations() {
        let mut first = [0u32; 5];
        for index in 0..5000 {
            let mut items = [0, 1, 2, 3, 4];
            shuffle(&mut stream(0, "test", index), &mut items);
            first[items[0]] += 1;
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3, 4]);
        }
        assert!(first.iter().all(|&n| (900..1100).contains(&n)), "{first:?}");
        assert_eq!(below(&mut stream(0, "test", 0), 0), 0);
    }

    #[test]
    fn normals_have_the_moments_of_a_normal_distribution() {
        let values = normals(&mut stream(0, "test", 0), 100_001);
        assert_eq!(values.len(), 100_001);
        let moment = |k: i32| values.iter().map(|&v| f64::from(v).powi(k)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.15);
    }
}
