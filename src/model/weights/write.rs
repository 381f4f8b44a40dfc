//! The safetensors writer: tensors are asked for one at a time, files appear whole or not at all, and the same
//! tensors give the same bytes (those of the Python library's `save_file`).

use super::header::{LENGTH_BYTES, MAX_HEADER_BYTES, METADATA_KEY};
use super::{INDEX_FILE, SINGLE_FILE, StoredDtype};
use crate::base::{Error, Result, atomic};
use crate::model::config::Dtype;
use half::{bf16, f16};
use serde_json::json;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

/// transformers' default size of one file, in bytes.
pub const DEFAULT_MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// Values encoded between two writes.
const CHUNK_ELEMENTS: usize = 1 << 18;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
    /// Type in the file; f32 values round to nearest, ties to even.
    pub dtype: StoredDtype,
}

/// The values of a tensor, as they are in memory.
#[derive(Debug, Clone)]
pub enum Values<'d> {
    /// For a tensor stored as F32, BF16 or F16.
    Floats(Cow<'d, [f32]>),
    /// For one stored as U8.
    Bytes(Cow<'d, [u8]>),
}

impl From<Dtype> for StoredDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => StoredDtype::F32,
            Dtype::Bf16 => StoredDtype::BF16,
            Dtype::F16 => StoredDtype::F16,
        }
    }
}

impl TensorSpec {
    fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n))
    }

    fn bytes(&self) -> Option<u64> {
        (self.elements()? as u64).checked_mul(width(self.dtype))
    }
}

/// Bytes of one value.
fn width(dtype: StoredDtype) -> u64 {
    dtype.bitsize() as u64 / 8
}

/// Writes one file through a temporary neighbour. `fetch` gives the values of a tensor, one tensor at a time, in
/// the file's order (wider dtypes first, then by name); only one is held in memory.
///
/// # Errors
/// [`Error::Model`] for a duplicate or reserved name, values that do not match the shape, or a value that is not
/// finite in its dtype; what `fetch` returns; [`Error::Io`]. The file is untouched then.
pub fn write_safetensors<'d>(
    path: &Path,
    tensors: &[TensorSpec],
    metadata: &BTreeMap<String, String>,
    mut fetch: impl FnMut(&TensorSpec) -> Result<Values<'d>>,
) -> Result<()> {
    let mut ordered: Vec<&TensorSpec> = tensors.iter().collect();
    ordered.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let header = header_json(&ordered, metadata).map_err(|reason| Error::model(path, reason))?;
    // `atomic::write` speaks I/O errors; ours waits here and wins.
    let mut refused = None;
    let written = atomic::write(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for spec in &ordered {
            let sent = fetch(spec).and_then(|values| {
                check_values(spec, &values).map_err(|reason| Error::model(path, reason))?;
                encode(out, spec.dtype, &values).map_err(Error::io(path))
            });
            if let Err(error) = sent {
                refused = Some(error);
                return Err(std::io::Error::other("the tensor could not be written"));
            }
        }
        Ok(())
    });
    match refused {
        Some(error) => Err(error),
        None => written,
    }
}

/// Writes a model folder's weights: `model.safetensors`, or shards of at most `max_shard_bytes` with their index.
///
/// Tensors keep the order given (as transformers shards them); a tensor larger than a shard gets its own. The
/// index is written last, and files of the other layout are removed, so that a reader never mixes two saves.
/// Returns the files written.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_model<'d>(
    folder: &Path,
    tensors: &[TensorSpec],
    max_shard_bytes: u64,
    mut fetch: impl FnMut(&TensorSpec) -> Result<Cow<'d, [f32]>>,
) -> Result<Vec<PathBuf>> {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut shards: Vec<&[TensorSpec]> = Vec::new();
    let (mut first, mut shard_bytes, mut total_bytes) = (0, 0u64, 0u64);
    for (at, spec) in tensors.iter().enumerate() {
        let bytes = spec.bytes().ok_or_else(|| Error::model(folder, overflow(spec)))?;
        if at > first && shard_bytes.saturating_add(bytes) > max_shard_bytes {
            shards.push(&tensors[first..at]);
            (first, shard_bytes) = (at, 0);
        }
        shard_bytes = shard_bytes.saturating_add(bytes);
        total_bytes = total_bytes.saturating_add(bytes);
    }
    shards.push(&tensors[first..]);
    let mut fetch = |spec: &TensorSpec| fetch(spec).map(Values::Floats);

    let single = folder.join(SINGLE_FILE);
    let index = folder.join(INDEX_FILE);
    if let [all] = shards.as_slice() {
        write_safetensors(&single, all, &metadata, &mut fetch)?;
        remove(&index)?;
        return Ok(vec![single]);
    }
    let mut written = Vec::new();
    let mut weight_map = serde_json::Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        for spec in *shard {
            if weight_map.insert(spec.name.clone(), json!(name)).is_some() {
                return Err(Error::model(folder, format!("tensor {} is written twice", spec.name)));
            }
        }
        let path = folder.join(&name);
        write_safetensors(&path, shard, &metadata, &mut fetch)?;
        written.push(path);
    }
    weight_map.sort_keys();
    let value = json!({"metadata": {"total_size": total_bytes}, "weight_map": weight_map});
    atomic::write(&index, |out| {
        serde_json::to_writer_pretty(&mut *out, &value)?;
        out.write_all(b"\n")
    })?;
    remove(&single)?;
    written.push(index);
    Ok(written)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

fn overflow(spec: &TensorSpec) -> String {
    format!("tensor {}: shape {:?} overflows", spec.name, spec.shape)
}

/// The header as the Python library writes it: compact JSON in file order, padded with spaces to 8 bytes.
fn header_json(ordered: &[&TensorSpec], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, String> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA_KEY.into(), json!(metadata));
    }
    let mut offset = 0u64;
    let mut seen = HashSet::new();
    for spec in ordered {
        if spec.name == METADATA_KEY || !seen.insert(&spec.name) {
            return Err(format!("tensor {}: the name is taken", spec.name));
        }
        let end = spec.bytes().and_then(|n| offset.checked_add(n)).ok_or_else(|| overflow(spec))?;
        header.insert(
            spec.name.clone(),
            json!({"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut bytes = serde_json::Value::Object(header).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(LENGTH_BYTES as usize), b' ');
    if bytes.len() as u64 > MAX_HEADER_BYTES {
        return Err(format!("the header takes {} bytes, the format allows {MAX_HEADER_BYTES}", bytes.len()));
    }
    Ok(bytes)
}

fn check_values(spec: &TensorSpec, values: &Values) -> Result<(), String> {
    let (name, dtype) = (&spec.name, spec.dtype);
    let count = match values {
        Values::Floats(values) => values.len(),
        Values::Bytes(values) => values.len(),
    };
    if spec.elements() != Some(count) {
        return Err(format!("tensor {name}: found {count} values, expected shape {:?}", spec.shape));
    }
    let not_finite = match (values, dtype) {
        (Values::Bytes(_), StoredDtype::U8) => None,
        (Values::Floats(values), StoredDtype::F32) => first_outside(values, |v| v.is_finite()),
        (Values::Floats(values), StoredDtype::BF16) => {
            first_outside(values, |v| bf16::from_f32(v).is_finite())
        }
        (Values::Floats(values), StoredDtype::F16) => first_outside(values, |v| f16::from_f32(v).is_finite()),
        _ => return Err(format!("tensor {name}: its values cannot be written as {dtype:?}")),
    };
    match not_finite {
        None => Ok(()),
        Some((at, value)) => {
            Err(format!("tensor {name}: value {at} is {value}, which is not finite in {dtype:?}"))
        }
    }
}

fn first_outside(values: &[f32], fits: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
    values.iter().copied().enumerate().find(|(_, value)| !fits(*value))
}

/// Writes values that have been checked.
fn encode(out: &mut impl Write, dtype: StoredDtype, values: &Values) -> std::io::Result<()> {
    let values = match values {
        Values::Bytes(values) => return out.write_all(values),
        Values::Floats(values) => values,
    };
    let mut bytes = Vec::with_capacity(CHUNK_ELEMENTS.min(values.len()) * width(dtype) as usize);
    for chunk in values.chunks(CHUNK_ELEMENTS) {
        bytes.clear();
        match dtype {
            StoredDtype::BF16 => bytes.extend(chunk.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            StoredDtype::F16 => bytes.extend(chunk.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            _ => bytes.extend(chunk.iter().flat_map(|v| v.to_le_bytes())),
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[usize], dtype: Dtype) -> TensorSpec {
        TensorSpec { name: name.into(), shape: shape.into(), dtype: dtype.into() }
    }

    fn floats(values: &[f32]) -> Values<'_> {
        Values::Floats(Cow::Borrowed(values))
    }

    #[test]
    fn bytes_are_those_of_the_reference_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let tensors =
            [spec("z", &[2], Dtype::F32), spec("a", &[3], Dtype::Bf16), spec("b\"é", &[1, 1], Dtype::F32)];
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        write_safetensors(&path, &tensors, &metadata, |spec| {
            Ok(Values::Floats(Cow::Owned(vec![1.5; spec.shape.iter().product()])))
        })
        .unwrap();
        let f32s: Vec<u8> = [1.5f32, 1.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        let bf16s: Vec<u8> = [bf16::from_f32(1.5); 3].iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = |dtype, shape: &[usize], data| {
            safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data).unwrap()
        };
        let reference = safetensors::serialize(
            [
                ("z", view(StoredDtype::F32, &[2], &f32s)),
                ("a", view(StoredDtype::BF16, &[3], &bf16s)),
                ("b\"é", view(StoredDtype::F32, &[1, 1], &f32s[..4])),
            ],
            Some(metadata.into_iter().collect()),
        )
        .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), reference);
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        let mut out = Vec::new();
        // Halfway between two bf16 values: once the lower is even, once the upper.
        let halfway = [f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000)];
        encode(&mut out, StoredDtype::BF16, &floats(&halfway)).unwrap();
        assert_eq!(out, [0x80, 0x3f, 0x82, 0x3f]);
        out.clear();
        encode(&mut out, StoredDtype::F16, &floats(&[2049.0, 2051.0])).unwrap();
        let back: Vec<f32> = out.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect();
        assert_eq!(back, [2048.0, 2052.0]);
    }

    #[test]
    fn what_cannot_be_written_is_refused_and_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, "old").unwrap();
        let attempt = |tensors: &[TensorSpec], values: &[f32]| {
            write_safetensors(&path, tensors, &BTreeMap::new(), |_| Ok(floats(values)))
                .unwrap_err()
                .to_string()
        };
        let a = spec("a", &[1], Dtype::F16);
        assert!(attempt(&[a.clone(), a.clone()], &[0.0]).contains("the name is taken"));
        assert!(attempt(&[spec("__metadata__", &[1], Dtype::F32)], &[0.0]).contains("the name is taken"));
        assert!(attempt(&[spec("a", &[usize::MAX, 2], Dtype::F32)], &[0.0]).contains("overflows"));
        assert!(attempt(&[spec("a", &[2], Dtype::F32)], &[0.0]).contains("found 1 values"));
        assert!(attempt(std::slice::from_ref(&a), &[70000.0]).contains("not finite in F16"));
        assert!(attempt(&[spec("a", &[1], Dtype::F32)], &[f32::NAN]).contains("value 0 is NaN"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
    }
}
