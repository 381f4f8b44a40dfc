//! Near-duplicates among texts: MinHash signatures of word 3-grams, found by locality-sensitive hashing.
//!
//! The share of the 128 values in which two signatures agree estimates the Jaccard similarity of the two sets of
//! 3-grams, with a standard deviation of sqrt(J (1 - J) / 128): 0.041 at 0.7. Signatures are cut into bands; texts
//! that agree in a whole band are candidates, and candidates are compared on the whole signature. Bands are as long as
//! the threshold permits without missing more than one pair in a thousand at the threshold itself, so what decides is
//! the estimate: at a threshold of 0.7, 98 in 100 pairs from 0.75 to 0.8 are found, all above 0.8, and none below
//! 0.55 (`tests` measure that).
//!
//! One length of n-gram serves all lengths of text, since sets of different n-grams have nothing in common. Three
//! words are long enough that two questions of a kind ("what is the capital of ..") share few, and short enough that
//! one changed word in twenty leaves 0.71. Nothing here is random: the permutations are fixed, and clusters are the
//! components of a graph, whatever the order in which its edges are found.
//!
//! # Source
//! Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman and Ullman, "Mining of Massive
//! Datasets", chapter 3 (bands).

use rayon::prelude::*;

/// Values of a signature.
pub const PERMUTATIONS: usize = 128;
/// Words of a shingle.
const SHINGLE_WORDS: usize = 3;
/// Pairs at the threshold that the bands may miss.
const MISSED_AT_THRESHOLD: f64 = 1e-3;

/// The smallest value of every permutation over a text's shingles.
pub type Signature = [u32; PERMUTATIONS];

/// The factors and summands of the permutations.
const fn permutations() -> [(u64, u64); PERMUTATIONS] {
    let mut all = [(0, 0); PERMUTATIONS];
    let mut i = 0;
    while i < PERMUTATIONS {
        // Multiply-shift hashing wants odd factors.
        all[i] = (mix(2 * i as u64 + 1) | 1, mix(2 * i as u64 + 2));
        i += 1;
    }
    all
}

static PERMUTATION: [(u64, u64); PERMUTATIONS] = permutations();

/// SplitMix64's finalizer: every bit of the result hangs on every bit of the argument.
const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The signature of a text whose words are apart by single spaces and in one case already.
pub fn signature(words: &str) -> Signature {
    let mut least = [u32::MAX; PERMUTATIONS];
    for shingle in shingles(words) {
        for (least, (factor, summand)) in least.iter_mut().zip(&PERMUTATION) {
            let value = (factor.wrapping_mul(shingle).wrapping_add(*summand) >> 32) as u32;
            *least = value.min(*least);
        }
    }
    least
}

/// The hashes of all runs of three words; of all words where there are fewer.
fn shingles(words: &str) -> Vec<u64> {
    let hashes: Vec<u64> = tokens(words).map(hash).collect();
    let run = |words: &[u64]| words.iter().fold(0, |sum, &word| mix(sum ^ word));
    if hashes.len() < SHINGLE_WORDS {
        return vec![run(&hashes)];
    }
    hashes.windows(SHINGLE_WORDS).map(run).collect()
}

/// FNV-1a.
fn hash(word: &str) -> u64 {
    word.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The words; in scripts that put no spaces between them, the characters.
fn tokens(words: &str) -> impl Iterator<Item = &str> {
    words.split(' ').flat_map(|word| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?;
            let end = if is_unspaced(first) {
                first.len_utf8()
            } else {
                rest.find(is_unspaced).unwrap_or(rest.len())
            };
            let (token, after) = rest.split_at(end);
            rest = after;
            Some(token)
        })
    })
}

/// Thai, Lao, Myanmar, Khmer, kana and Han.
fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff
        | 0xf900..=0xfaff | 0x20000..=0x323af)
}

/// The estimated Jaccard similarity.
pub fn similarity(a: &Signature, b: &Signature) -> f64 {
    agreeing(a, b) as f64 / PERMUTATIONS as f64
}

fn agreeing(a: &Signature, b: &Signature) -> usize {
    a.iter().zip(b).map(|(a, b)| usize::from(a == b)).sum()
}

/// How signatures are cut, for one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bands {
    count: usize,
    /// Values of a band.
    rows: usize,
    /// Values that must agree in the whole signature.
    agreeing: usize,
}

impl Bands {
    fn new(threshold: f64) -> Self {
        let count = |rows: usize| PERMUTATIONS / rows;
        // 1 - s^r is the chance that one band differs.
        let missed = |rows: usize| (1.0 - threshold.powi(rows as i32)).powi(count(rows) as i32);
        let rows = (1..=16).rev().find(|&rows| missed(rows) <= MISSED_AT_THRESHOLD).unwrap_or(1);
        let agreeing = (threshold * PERMUTATIONS as f64).ceil() as usize;
        Self { count: count(rows), rows, agreeing }
    }

    fn key(self, signature: &Signature, band: usize) -> u64 {
        let values = &signature[band * self.rows..][..self.rows];
        values.iter().fold(0, |sum, &value| mix(sum ^ u64::from(value)))
    }

    fn alike(self, a: &Signature, b: &Signature) -> bool {
        agreeing(a, b) >= self.agreeing
    }

    /// Items by their key in one band.
    fn table(self, signatures: &[&Signature], band: usize) -> Vec<(u64, u32)> {
        let keys = signatures.par_iter().enumerate();
        let mut table: Vec<(u64, u32)> =
            keys.map(|(item, signature)| (self.key(signature, band), item as u32)).collect();
        table.par_sort_unstable();
        table
    }
}

/// Joins the items in `clusters` whose similarity reaches the threshold; item i has signature i.
///
/// Time and memory grow with the items, not with their pairs, unless many items share a band and are not alike.
pub fn join_similar(signatures: &[&Signature], threshold: f64, clusters: &mut Clusters) {
    let bands = Bands::new(threshold);
    for band in 0..bands.count {
        let table = bands.table(signatures, band);
        for bucket in table.chunk_by(|a, b| a.0 == b.0).filter(|bucket| bucket.len() > 1) {
            join_bucket(bucket, |a, b| bands.alike(signatures[a], signatures[b]), clusters);
        }
    }
}

/// Joins what is alike in a bucket. Items that are in one cluster already are not compared with each other, so a
/// bucket of n near-duplicates costs n comparisons and not n squared.
fn join_bucket(bucket: &[(u64, u32)], alike: impl Fn(usize, usize) -> bool, clusters: &mut Clusters) {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for item in bucket.iter().map(|&(_, item)| item as usize) {
        let mut home = None;
        let mut at = 0;
        while let Some(group) = groups.get(at) {
            if !clusters.joined(item, group[0]) && !group.iter().any(|&other| alike(item, other)) {
                at += 1;
                continue;
            }
            clusters.join(item, group[0]);
            match home {
                None => {
                    home = Some(at);
                    at += 1;
                }
                // `home` lies before `at`, so that the swap leaves it in its place.
                Some(home) => {
                    let members = groups.swap_remove(at);
                    groups[home].extend(members);
                }
            }
        }
        match home {
            Some(home) => groups[home].push(item),
            None => groups.push(vec![item]),
        }
    }
}

/// Signatures that others are looked up among.
pub struct Index<'a> {
    bands: Bands,
    signatures: Vec<&'a Signature>,
    tables: Vec<Vec<(u64, u32)>>,
}

impl<'a> Index<'a> {
    pub fn new(signatures: Vec<&'a Signature>, threshold: f64) -> Self {
        let bands = Bands::new(threshold);
        let tables = (0..bands.count).map(|band| bands.table(&signatures, band)).collect();
        Self { bands, signatures, tables }
    }

    /// The item that is most similar, and how similar, where any reaches the threshold; of equals, the first.
    pub fn nearest(&self, signature: &Signature) -> Option<(usize, f64)> {
        let mut best: Option<(usize, usize)> = None;
        for (band, table) in self.tables.iter().enumerate() {
            let key = self.bands.key(signature, band);
            let start = table.partition_point(|&(other, _)| other < key);
            for &(_, item) in table[start..].iter().take_while(|&&(other, _)| other == key) {
                let item = item as usize;
                let agreeing = agreeing(signature, self.signatures[item]);
                let better = best.is_none_or(|(at, most)| agreeing > most || (agreeing == most && item < at));
                if agreeing >= self.bands.agreeing && better {
                    best = Some((item, agreeing));
                }
            }
        }
        best.map(|(item, _)| (item, similarity(signature, self.signatures[item])))
    }
}

/// Items in clusters, by union-find.
pub struct Clusters {
    parent: Vec<u32>,
}

impl Clusters {
    /// Every item alone.
    pub fn new(items: usize) -> Self {
        Self { parent: (0..items as u32).collect() }
    }

    /// The first item of the cluster.
    pub fn root(&mut self, item: usize) -> usize {
        let mut at = item;
        while self.parent[at] as usize != at {
            // Halving the path keeps the next search short.
            self.parent[at] = self.parent[self.parent[at] as usize];
            at = self.parent[at] as usize;
        }
        at
    }

    pub fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b)] = a.min(b) as u32;
    }

    fn joined(&mut self, a: usize, b: usize) -> bool {
        self.root(a) == self.root(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng;
    use std::collections::BTreeSet;

    /// A text of `words` random words out of 5,000.
    fn text(seed: u64, words: usize) -> Vec<String> {
        let rng = &mut rng::stream(seed, "test:minhash", 0);
        (0..words).map(|_| format!("w{}", rng::below(rng, 5000))).collect()
    }

    /// The text with `edits` of its words replaced.
    fn edited(words: &[String], edits: usize, seed: u64) -> Vec<String> {
        let rng = &mut rng::stream(seed, "test:edits", 0);
        let mut words = words.to_vec();
        for edit in 0..edits {
            let at = rng::below(rng, words.len());
            words[at] = format!("new{seed}-{edit}");
        }
        words
    }

    fn jaccard(a: &str, b: &str) -> f64 {
        let [a, b] = [a, b].map(|text| shingles(text).into_iter().collect::<BTreeSet<_>>());
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    #[test]
    fn the_estimate_is_the_exact_similarity_within_its_error() {
        let (mut error, mut square, mut count) = (0.0, 0.0, 0.0);
        for seed in 0..400 {
            let base = text(seed, 20 + seed as usize % 100);
            let other = edited(&base, seed as usize % 12, seed).join(" ");
            let base = base.join(" ");
            let exact = jaccard(&base, &other);
            let found = similarity(&signature(&base), &signature(&other));
            let deviation = (exact * (1.0 - exact) / PERMUTATIONS as f64).sqrt();
            // Five standard deviations: one in 1.7 million by chance.
            assert!((found - exact).abs() <= 5.0 * deviation + 1e-12, "{exact} {found}");
            error += found - exact;
            square += (found - exact) * (found - exact);
            count += 1.0;
        }
        assert!((error / count).abs() < 0.01, "biased by {}", error / count);
        let rms = (square / count).sqrt();
        assert!(rms < 0.045, "{rms}");
    }

    #[test]
    fn recall_and_precision_at_a_threshold_of_seven_tenths() {
        let mut bins = [[0u32; 2]; 3];
        for seed in 0..4000 {
            let base = text(seed, 30 + seed as usize % 90);
            let other = edited(&base, 1 + seed as usize % 10, seed).join(" ");
            let base = base.join(" ");
            let exact = jaccard(&base, &other);
            let bin = match exact {
                ..0.55 => 0,
                0.75..0.8 => 1,
                0.8.. => 2,
                _ => continue,
            };
            let signatures = [signature(&base), signature(&other)];
            let mut clusters = Clusters::new(2);
            join_similar(&signatures.each_ref(), 0.7, &mut clusters);
            bins[bin][0] += 1;
            bins[bin][1] += u32::from(clusters.root(1) == 0);
        }
        let rate = |[all, found]: [u32; 2]| f64::from(found) / f64::from(all);
        assert!(bins.iter().all(|[all, _]| *all > 300), "{bins:?}");
        println!("found below 0.55, from 0.75, from 0.8: {:?}", bins.map(rate));
        assert!(rate(bins[0]) < 0.005, "{bins:?}");
        assert!(rate(bins[1]) > 0.9, "{bins:?}");
        assert!(rate(bins[2]) > 0.99, "{bins:?}");
    }

    #[test]
    fn planted_near_duplicates_are_joined_and_nothing_else() {
        let mut texts: Vec<String> = (0..3000).map(|seed| text(seed, 40).join(" ")).collect();
        // Copies of the first hundred: two of forty words changed gives 0.7 to 0.8, so one.
        texts.extend((0..100).map(|seed| edited(&text(seed, 40), 1, seed).join(" ")));
        let signatures: Vec<Signature> = texts.iter().map(|text| signature(text)).collect();
        let all: Vec<&Signature> = signatures.iter().collect();
        let mut clusters = Clusters::new(texts.len());
        join_similar(&all, 0.7, &mut clusters);
        let joined: Vec<usize> = (0..3000).filter(|&i| clusters.root(i) != i).collect();
        assert!(joined.is_empty(), "{joined:?}");
        let found = (0..100).filter(|&i| clusters.root(3000 + i) == i).count();
        assert!(found >= 99, "{found} of 100");

        let index = Index::new(all[..3000].to_vec(), 0.7);
        let nearest = (0..100).filter(|&i| index.nearest(all[3000 + i]).is_some_and(|(at, _)| at == i));
        assert_eq!(nearest.count(), found, "looked up as they are joined");
        assert_eq!(index.nearest(all[7]), Some((7, 1.0)));
        assert_eq!(index.nearest(&signature(&text(9999, 40).join(" "))), None);
    }

    #[test]
    fn a_bucket_is_joined_as_all_its_pairs_would_be() {
        // Alike where the numbers differ by at most 1: chains that only meet through later items.
        let bucket: Vec<(u64, u32)> = [0, 2, 4, 10, 12, 3, 1, 11, 20].map(|item| (0, item)).to_vec();
        let mut clusters = Clusters::new(21);
        join_bucket(&bucket, |a, b| a.abs_diff(b) <= 1, &mut clusters);
        let roots: Vec<usize> = [0, 1, 2, 3, 4, 10, 11, 12, 20].map(|item| clusters.root(item)).to_vec();
        assert_eq!(roots, [0, 0, 0, 0, 0, 10, 10, 10, 20]);
    }

    #[test]
    fn scripts_without_spaces_are_cut_into_characters() {
        let cut = |text| tokens(text).collect::<Vec<_>>();
        assert_eq!(cut("ab 日本go 1"), ["ab", "日", "本", "go", "1"]);
        let similar = |a: &str, b: &str| similarity(&signature(a), &signature(b));
        assert!(similar("请写一首关于春天的诗歌给我的朋友", "请写一首关于春天的诗歌给我的老师") > 0.6);
        assert!(similar("what is the capital of france", "what is the capital of germany") < 0.7);
        assert!(similar("a b", "a b c") < 0.1 && similar("", "a") < 0.1);
        assert!((similar("a", "a") - 1.0).abs() < 1e-12);
    }

    #[test]
    fn bands_are_short_where_the_threshold_is_low() {
        let rows = |threshold| Bands::new(threshold).rows;
        assert_eq!([0.3, 0.5, 0.7, 0.8, 0.9, 1.0].map(rows), [1, 2, 4, 5, 8, 16]);
        assert_eq!(Bands::new(0.7).agreeing, 90);
    }
}
