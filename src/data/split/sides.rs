//! Which prompts are held out: whole clusters of near-duplicates, in an order that the seed decides.

use super::catalog::Catalog;
use super::manifest::NearDuplicatesFound;
use super::minhash::{Clusters, join_similar};
use super::text::hash;
use super::{Heldout, SplitConfig};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// The sides of the usable rows.
pub struct Sides {
    /// One a usable row, in their order.
    pub heldout: Vec<bool>,
    pub near_duplicates: NearDuplicatesFound,
}

/// Chooses the held-out rows among `usable`, indices of the catalog's rows.
///
/// Prompts that are equal in their letters and digits lie on one side, and so do near-duplicates, and what is
/// near-duplicate to those. The clusters come in the order of a hash of the seed and their words, so a prompt's place
/// does not hang on the other rows; a cluster is held out where it fits into what is still to be held out. As long as
/// there are prompts without a near-duplicate, the number asked for is met exactly; else one more cluster, the
/// smallest, goes over where that comes closer.
///
/// # Errors
/// [`Error::Usage`] where that leaves no prompt on one of the sides.
pub fn choose(config: &SplitConfig, catalog: &Catalog, usable: &[usize]) -> Result<Sides> {
    let wanted = wanted(config.heldout_prompts, usable.len())?;
    let clusters = clusters(config, catalog, usable);
    let mut order: Vec<(u128, &Vec<usize>)> =
        clusters.iter().map(|members| (place(catalog, usable, members), members)).collect();
    order.sort_unstable();
    let (mut heldout, mut left) = (vec![false; usable.len()], wanted);
    let mut over: Option<&Vec<usize>> = None;
    for (_, members) in &order {
        if members.len() <= left {
            left -= members.len();
            members.iter().for_each(|&member| heldout[member] = true);
        } else if over.is_none_or(|smallest| members.len() < smallest.len()) {
            over = Some(members);
        }
    }
    if let Some(members) = over.filter(|members| left > 0 && members.len() < 2 * left || left == wanted) {
        members.iter().for_each(|&member| heldout[member] = true);
    }
    if heldout.iter().all(|&side| side) {
        let usable = usable.len();
        return Err(Error::Usage(format!(
            "split: the prompts are too much alike to hold out {wanted} of {usable}: expected prompts that differ in \
             more than a few words (--near-duplicates sets how much)"
        )));
    }
    let several = clusters.iter().map(Vec::len).filter(|&prompts| prompts > 1);
    let near_duplicates = NearDuplicatesFound {
        threshold: config.near_duplicates.threshold(),
        clusters: several.clone().count() as u64,
        prompts: several.clone().sum::<usize>() as u64,
        largest: several.max().unwrap_or(0) as u64,
    };
    Ok(Sides { heldout, near_duplicates })
}

fn wanted(heldout: Heldout, usable: usize) -> Result<usize> {
    let wanted = match heldout {
        Heldout::Count(count) => count,
        // At least one, and never all: both sides must have rows.
        Heldout::Fraction(fraction) => ((usable as f64 * fraction).round() as u64).max(1),
    };
    usize::try_from(wanted).ok().filter(|&wanted| wanted < usable).ok_or_else(|| {
        Error::Usage(format!(
            "split: found {wanted} prompts to hold out, expected fewer than the {usable} usable rows"
        ))
    })
}

/// The usable rows that must lie on one side, as indices into `usable`; every row is in one cluster.
fn clusters(config: &SplitConfig, catalog: &Catalog, usable: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<u128, Vec<usize>> = BTreeMap::new();
    for (member, &row) in usable.iter().enumerate() {
        groups.entry(catalog.rows[row].group).or_default().push(member);
    }
    let groups: Vec<Vec<usize>> = groups.into_values().collect();
    let Some(threshold) = config.near_duplicates.threshold() else { return groups };
    let signatures: Vec<_> = groups.iter().map(|members| &catalog.signatures[usable[members[0]]]).collect();
    let mut joined = Clusters::new(groups.len());
    join_similar(&signatures, threshold, &mut joined);
    let mut clusters: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (group, members) in groups.into_iter().enumerate() {
        clusters.entry(joined.root(group)).or_default().extend(members);
    }
    clusters.into_values().collect()
}

/// A cluster's place in the order.
fn place(catalog: &Catalog, usable: &[usize], members: &[usize]) -> u128 {
    let groups = || members.iter().map(|&member| catalog.rows[usable[member]].group);
    let least = groups().min().unwrap_or_default();
    // The least of several hashes comes early; hashed again it does not, so that large clusters are not preferred.
    if groups().all(|group| group == least) { least } else { hash("cluster", &format!("{least:032x}")) }
}
