//! `model.safetensors.index.json`: which file of a sharded folder holds which tensor.

use super::header::UniquePairs;
use crate::base::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// An index of a million tensors is smaller than this; anything larger is not an index.
const MAX_INDEX_BYTES: u64 = 256 << 20;

#[derive(Deserialize)]
struct RawIndex {
    weight_map: UniquePairs,
}

/// Tensor names by shard, both sorted. Every shard is a plain file name below the index's own folder.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() || metadata.len() > MAX_INDEX_BYTES {
        return Err(Error::model(
            path,
            format!("found {} bytes or a folder, expected an index of shards", metadata.len()),
        ));
    }
    parse(&std::fs::read(path).map_err(Error::io(path))?).map_err(|reason| Error::model(path, reason))
}

fn parse(json: &[u8]) -> Result<BTreeMap<String, Vec<String>>, String> {
    let index: RawIndex = serde_json::from_slice(json).map_err(|e| format!("not an index of shards: {e}"))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map.0 {
        if !is_plain_file_name(&shard) {
            return Err(format!(
                "weight_map.{tensor}: found {shard:?}, expected the name of a .safetensors file in this folder"
            ));
        }
        shards.entry(shard).or_default().push(tensor);
    }
    if shards.is_empty() {
        return Err("weight_map is empty, expected the file of every tensor".into());
    }
    for tensors in shards.values_mut() {
        tensors.sort();
    }
    Ok(shards)
}

/// A name that stays inside its folder on every system.
fn is_plain_file_name(name: &str) -> bool {
    name.len() > ".safetensors".len()
        && name.len() <= 255
        && name.ends_with(".safetensors")
        && !name.starts_with('.')
        && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tensors_are_grouped_by_shard() {
        let json = br#"{"metadata":{"total_size":8},"weight_map":{"b":"2.safetensors","c":"1.safetensors",
            "a":"2.safetensors"}}"#;
        let shards = parse(json).unwrap();
        assert_eq!(shards["2.safetensors"], ["a", "b"]);
        assert_eq!(shards["1.safetensors"], ["c"]);
    }

    #[test]
    fn shards_outside_the_folder_are_refused() {
        for shard in [
            "../a.safetensors",
            "/etc/a.safetensors",
            "x/../../a.safetensors",
            "..\\\\a.safetensors",
            "C:a.safetensors",
            "..",
            "",
            ".safetensors",
            "pytorch_model.bin",
        ] {
            let json = format!(r#"{{"weight_map":{{"w":"{shard}"}}}}"#);
            let reason = parse(json.as_bytes()).unwrap_err();
            assert!(reason.contains("weight_map.w: found"), "{shard}: {reason}");
        }
    }

    #[test]
    fn malformed_indexes_are_refused() {
        for (json, says) in [
            ("", "EOF"),
            ("{}", "weight_map"),
            ("[]", "not an index"),
            (r#"{"weight_map":[]}"#, "not an index"),
            (r#"{"weight_map":{}}"#, "empty"),
            (r#"{"weight_map":{"a":1}}"#, "not an index"),
            (r#"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#, "a is declared twice"),
        ] {
            let reason = parse(json.as_bytes()).unwrap_err();
            assert!(reason.contains(says), "{json}: {reason}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(json in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&json);
        }
    }
}
