//! The header of one safetensors file, trusted only after every claim in it was checked against the file's size.
//!
//! Stricter in its messages than the `safetensors` crate (tensor, found, expected) and in one rule: a tensor that
//! is declared twice is refused, where a map would silently keep the last.

use super::StoredDtype;
use crate::base::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of the length field in front of the header.
pub(super) const LENGTH_BYTES: u64 = 8;
/// The format's own limit on the header, in bytes.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The key that is not a tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";

/// One tensor, its bytes known to lie inside the file and to match its dtype and shape.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub dtype: StoredDtype,
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub offset: u64,
}

/// A header whose every claim was checked.
#[derive(Debug)]
pub(super) struct Header {
    pub entries: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
}

/// Opens a file and checks its header. Nothing beyond the header is read.
pub(super) fn open(path: &Path) -> Result<(File, Header)> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::model(path, "found a folder or device, expected a safetensors file"));
    }
    let header = check(&mut file, metadata.len()).map_err(|problem| match problem {
        Problem::Io(source) => Error::Io { path: path.to_path_buf(), source },
        Problem::Format(reason) => Error::model(path, reason),
    })?;
    Ok((file, header))
}

enum Problem {
    Io(std::io::Error),
    Format(String),
}

impl From<String> for Problem {
    fn from(reason: String) -> Problem {
        Problem::Format(reason)
    }
}

fn check(file: &mut impl Read, file_bytes: u64) -> Result<Header, Problem> {
    if file_bytes < LENGTH_BYTES {
        return Err(format!(
            "found {file_bytes} bytes, expected a safetensors file (at least 8); is the download complete?"
        )
        .into());
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(Problem::Io)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "found a header length of {length} bytes, expected at most {MAX_HEADER_BYTES}; this is not a \
             safetensors file"
        )
        .into());
    }
    let data_start = LENGTH_BYTES + length;
    if data_start > file_bytes {
        return Err(format!(
            "truncated: the header alone needs {data_start} bytes, the file has {file_bytes}; download or copy it \
             again"
        )
        .into());
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(Problem::Io)?;
    Ok(parse(&json, data_start, file_bytes - data_start)?)
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Checks the JSON of a header against `data_bytes` of data that begin at `data_start`.
fn parse(json: &[u8], data_start: u64, data_bytes: u64) -> Result<Header, String> {
    let text = std::str::from_utf8(json)
        .map_err(|e| format!("header is not UTF-8 (byte {} of it)", e.valid_up_to()))?;
    let RawHeader { tensors, metadata } =
        serde_json::from_str(text).map_err(|e| format!("header is not a safetensors header: {e}"))?;
    let mut spans = Vec::with_capacity(tensors.len());
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, raw) in tensors {
        let (entry, end) = check_entry(&name, raw, data_start, data_bytes)?;
        spans.push((entry.offset, end, name));
        entries.push(entry);
    }
    spans.sort();
    let mut covered = data_start;
    let mut previous = "the header";
    for (begin, end, name) in &spans {
        if *begin != covered {
            let what = if *begin < covered { "overlaps" } else { "leaves a hole after" };
            return Err(format!(
                "tensor {name}: begins at data byte {}, expected {}: it {what} {previous}",
                begin - data_start,
                covered - data_start
            ));
        }
        covered = *end;
        previous = name;
    }
    if covered - data_start != data_bytes {
        return Err(format!(
            "found {data_bytes} bytes of data, expected {} (the end of {previous})",
            covered - data_start
        ));
    }
    Ok(Header { entries, metadata })
}

/// The entry with its absolute offset, and its absolute end.
fn check_entry(name: &str, raw: RawEntry, data_start: u64, data_bytes: u64) -> Result<(Entry, u64), String> {
    let fail = |reason: String| Err(format!("tensor {name}: {reason}"));
    let dtype = match StoredDtype::deserialize(
        serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&raw.dtype),
    ) {
        Ok(dtype) => dtype,
        Err(_) => {
            return fail(format!(
                "found dtype {:?}, expected one of the format's (F32, F16, BF16, F64, ..)",
                truncated(&raw.dtype)
            ));
        }
    };
    let (begin, end) = raw.data_offsets;
    if begin > end {
        return fail(format!("found data_offsets [{begin}, {end}], expected begin <= end"));
    }
    if end > data_bytes {
        return fail(format!(
            "ends at data byte {end}, but the file has only {data_bytes}: it is truncated or its header lies; \
             download or copy it again"
        ));
    }
    let Some(bits) = raw
        .shape
        .iter()
        .try_fold(1u64, |product, n| product.checked_mul(*n))
        .and_then(|elements| elements.checked_mul(dtype.bitsize() as u64))
    else {
        return fail(format!("shape {} overflows", truncated(&format!("{:?}", raw.shape))));
    };
    if bits % 8 != 0 || bits / 8 != end - begin {
        return fail(format!(
            "found {} bytes, expected {} for {dtype:?} {}",
            end - begin,
            bits.div_ceil(8),
            truncated(&format!("{:?}", raw.shape))
        ));
    }
    let mut shape = Vec::with_capacity(raw.shape.len());
    for n in &raw.shape {
        match usize::try_from(*n) {
            Ok(n) => shape.push(n),
            Err(_) => return fail(format!("dimension {n} does not fit this machine")),
        }
    }
    let entry = Entry { name: name.to_owned(), dtype, shape, offset: data_start + begin };
    Ok((entry, data_start + end))
}

/// Hostile text in a message, kept short.
fn truncated(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => text.to_owned(),
        Some((cut, _)) => format!("{}..", &text[..cut]),
    }
}

struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHeader, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { tensors: Vec::new(), metadata: BTreeMap::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA_KEY {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((name.clone(), map.next_value()?));
                    }
                    if !seen.insert(name) {
                        let name = header.tensors.last().map_or(METADATA_KEY, |(name, _)| name);
                        return Err(A::Error::custom(format!("{} is declared twice", truncated(name))));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Pairs of a JSON object, a repeated key being an error; for files where the last would silently win.
pub(super) struct UniquePairs(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for UniquePairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UniquePairs, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = UniquePairs;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object of tensor names and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniquePairs, A::Error> {
                let mut pairs = Vec::new();
                let mut seen = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(format!("{} is declared twice", truncated(&key))));
                    }
                    pairs.push((key, map.next_value()?));
                }
                Ok(UniquePairs(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(json: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn check_bytes(bytes: &[u8]) -> Result<Header, String> {
        check(&mut &bytes[..], bytes.len() as u64).map_err(|problem| match problem {
            Problem::Io(error) => error.to_string(),
            Problem::Format(reason) => reason,
        })
    }

    fn refused(json: &str, data: &[u8], says: &str) {
        let bytes = file(json, data);
        let reason = check_bytes(&bytes).expect_err(json);
        assert!(reason.contains(says), "{json}: {reason:?} does not say {says:?}");
        assert!(safetensors::SafeTensors::deserialize(&bytes).is_err(), "{json}: the reference accepts it");
    }

    const TWO: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]},
        "a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;

    #[test]
    fn a_valid_header_is_read() {
        let header = check_bytes(&file(TWO, &[0; 12])).unwrap();
        assert_eq!(header.metadata["format"], "pt");
        assert_eq!(header.entries.len(), 2);
        assert_eq!(header.entries[0].offset, 8 + TWO.len() as u64 + 8);
        assert_eq!(header.entries[1].shape, [1, 2]);
    }

    #[test]
    fn scalars_and_empty_tensors_are_read() {
        let json = r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
            "e":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]}}"#;
        assert_eq!(check_bytes(&file(json, &[0; 4])).unwrap().entries.len(), 2);
        assert!(check_bytes(&file("{}", &[])).unwrap().entries.is_empty());
    }

    #[test]
    fn header_length_lies_are_refused_before_allocation() {
        for (length, says) in [
            (u64::MAX, "at most 100000000"),
            (MAX_HEADER_BYTES + 1, "at most 100000000"),
            (MAX_HEADER_BYTES, "truncated"),
            (3, "truncated"),
        ] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend(b"{}");
            let reason = check_bytes(&bytes).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
        assert!(check_bytes(&[0; 8]).unwrap_err().contains("not a safetensors header"));
        assert!(check_bytes(&[]).unwrap_err().contains("found 0 bytes"));
    }

    #[test]
    fn overlaps_and_holes_are_refused() {
        let pair = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},
                "b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
            )
        };
        refused(&pair("[0,8]", "[0,8]"), &[0; 16], "overlaps a");
        refused(&pair("[0,8]", "[4,12]"), &[0; 12], "overlaps a");
        refused(&pair("[0,8]", "[12,20]"), &[0; 20], "hole after a");
        refused(&pair("[4,12]", "[12,20]"), &[0; 20], "hole after the header");
        refused(&pair("[0,8]", "[8,16]"), &[0; 20], "expected 16 (the end of b)");
    }

    #[test]
    fn wrong_offsets_shapes_and_dtypes_are_refused() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        refused(&one("F32", "[2]", "[8,0]"), &[0; 8], "begin <= end");
        refused(&one("F32", "[2]", "[0,8]"), &[0; 4], "truncated");
        refused(&one("F32", "[3]", "[0,8]"), &[0; 8], "found 8 bytes, expected 12");
        refused(&one("F32", "[18446744073709551615,2]", "[0,8]"), &[0; 8], "overflows");
        refused(&one("F32", "[4294967296,4294967296]", "[0,0]"), &[], "overflows");
        refused(&one("F32", "[9223372036854775808]", "[0,0]"), &[], "overflows");
        refused(&one("F4", "[1]", "[0,1]"), &[0; 1], "found 1 bytes");
        refused(&one("F33", "[2]", "[0,8]"), &[0; 8], "dtype \"F33\"");
        refused(&one("F32", "[-1]", "[0,8]"), &[0; 8], "not a safetensors header");
        refused(&one("F32", "[1.5]", "[0,8]"), &[0; 8], "not a safetensors header");
        refused(&one("F32", "[2]", "[0]"), &[0; 8], "not a safetensors header");
        refused(&one("F32", "[2]", "[0,99999999999999999999]"), &[0; 8], "not a safetensors header");
    }

    #[test]
    fn duplicate_tensors_are_refused() {
        let one = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let reason = check_bytes(&file(&format!("{{{one},{one}}}"), &[0; 4])).unwrap_err();
        assert!(reason.contains("a is declared twice"), "{reason}");
        let reason = check_bytes(&file(r#"{"__metadata__":{},"__metadata__":{}}"#, &[])).unwrap_err();
        assert!(reason.contains("declared twice"), "{reason}");
    }

    #[test]
    fn hostile_json_is_refused() {
        refused("", &[], "not a safetensors header");
        refused("[]", &[], "not a safetensors header");
        refused("{} x", &[], "not a safetensors header");
        refused(r#"{"__metadata__":{"a":1}}"#, &[], "not a safetensors header");
        refused(&"[".repeat(100_000), &[], "not a safetensors header");
        refused(&r#"{"a":"#.repeat(100_000), &[], "not a safetensors header");
        let mut bytes = file("{\"a\":1}", &[]);
        bytes[10] = 0xff;
        assert!(check_bytes(&bytes).unwrap_err().contains("not UTF-8 (byte 2 of it)"));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_refused() {
        let whole = file(TWO, &[0; 12]);
        for cut in 0..whole.len() {
            assert!(check_bytes(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check_bytes(&bytes);
        }

        #[test]
        fn arbitrary_headers_never_panic(json in ".{0,200}") {
            let _ = check_bytes(&file(&json, &[]));
        }

        // What we accept, the reference accepts; what it accepts and we do not is a duplicate name only.
        #[test]
        fn agrees_with_the_reference_on_damaged_headers(at in 0usize..190, byte in any::<u8>()) {
            let mut bytes = file(TWO, &[0; 12]);
            let at = at % bytes.len();
            bytes[at] = byte;
            let reference = safetensors::SafeTensors::deserialize(&bytes);
            match check_bytes(&bytes) {
                Ok(header) => prop_assert_eq!(reference.unwrap().len(), header.entries.len()),
                Err(reason) => prop_assert!(reference.is_err() || reason.contains("declared twice"), "{}", reason),
            }
        }
    }
}
