//! Weights on disk: safetensors files, single or sharded, read and written one tensor at a time.
//!
//! Here: the folder as a whole ([`WeightFiles`], [`write_model`]). The header of one file is in `header`, the
//! index of a sharded folder in `index`, the writer in `write`. Which tensors a model has is in
//! [`super::decoder_config`].
//!
//! Files are read at an offset rather than mapped into memory: a file that shrinks while it is read is then an
//! error, not a signal, and no `unsafe` is needed.

mod header;
mod index;
mod write;

pub use safetensors::Dtype as StoredDtype;
pub use write::{DEFAULT_MAX_SHARD_BYTES, TensorSpec, Values, write_model, write_safetensors};

use crate::base::nearest::edit_distance;
use crate::base::{Error, Result, atomic};
use half::{bf16, f16};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The single file of a model folder.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The index of a model folder whose weights are in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Elements that one task decodes: large enough to amortise a read, small enough to spread over cores.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// A tensor as the file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: StoredDtype,
    pub shape: Vec<usize>,
}

/// The tensors of one folder or file, headers checked, data not yet read.
#[derive(Debug)]
pub struct WeightFiles {
    /// The folder, or the one file, that messages name.
    place: PathBuf,
    files: Vec<OpenFile>,
    tensors: BTreeMap<String, Located>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
}

#[derive(Debug)]
struct Located {
    info: TensorInfo,
    file: usize,
    /// Bytes from the start of the file.
    offset: u64,
}

impl WeightFiles {
    /// Opens a model folder: `model.safetensors`, or `model.safetensors.index.json` and the shards that it names.
    ///
    /// Headers are checked in full (sizes, offsets, overlaps, duplicates) before anything large is allocated.
    ///
    /// # Errors
    /// [`Error::Model`] names the file, the tensor, what was found and what was expected.
    pub fn open(folder: &Path) -> Result<WeightFiles> {
        let single = folder.join(SINGLE_FILE);
        if single.exists() {
            return WeightFiles::open_file(&single).map(|mut files| {
                files.place = folder.to_path_buf();
                files
            });
        }
        let index_path = folder.join(INDEX_FILE);
        if index_path.exists() { open_sharded(folder, &index_path) } else { Err(no_weights(folder)) }
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// As [`WeightFiles::open`].
    pub fn open_file(path: &Path) -> Result<WeightFiles> {
        let (file, header) = header::open(path)?;
        let tensors = header.entries.into_iter().map(|entry| locate(entry, 0)).collect();
        Ok(WeightFiles {
            place: path.to_path_buf(),
            files: vec![OpenFile { path: path.to_path_buf(), file }],
            tensors,
            metadata: header.metadata,
        })
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The dtype and shape of a tensor, if it is there.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|t| &t.info)
    }

    /// The `__metadata__` of a single file; empty for a sharded folder.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Reads one tensor as f32, row-major. F16 and BF16 widen exactly; F64 rounds to nearest.
    ///
    /// Peak memory is the result plus a few megabytes a thread; large tensors are decoded in parallel.
    ///
    /// # Errors
    /// [`Error::Model`] for a missing tensor (with near names), another shape than `expected`, a dtype that is not
    /// a float, or a value that is not finite; [`Error::Io`] when the file cannot be read.
    pub fn read_f32(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
        let (tensor, OpenFile { path, file }) = self.find(name, expected)?;
        let Some(decode) = decoder_of(tensor.info.dtype) else {
            return Err(Error::model(
                path,
                format!(
                    "tensor {name}: found dtype {:?}, expected F32, F16, BF16 or F64 (quantized weights are not \
                     supported)",
                    tensor.info.dtype
                ),
            ));
        };
        let mut values = vec![0f32; expected.iter().product()];
        let width = tensor.info.dtype.bitsize() / 8;
        let failure = values
            .par_chunks_mut(CHUNK_ELEMENTS)
            .enumerate()
            .map_init(Vec::new, |bytes, (chunk, out)| {
                bytes.resize(out.len() * width, 0);
                let first = chunk * CHUNK_ELEMENTS;
                read_at(file, bytes, tensor.offset + (first * width) as u64).map_err(Error::io(path))?;
                decode(bytes, out);
                match out.iter().position(|v| !v.is_finite()) {
                    None => Ok(()),
                    Some(at) => Err(Error::model(
                        path,
                        format!(
                            "tensor {name}: element {} of {expected:?} is {}, expected finite weights",
                            first + at,
                            out[at]
                        ),
                    )),
                }
            })
            // The first bad chunk, not whichever thread was fastest: the message is the same on every run.
            .find_first(Result::is_err);
        match failure {
            Some(Err(error)) => Err(error),
            _ => Ok(values),
        }
    }

    /// Reads one tensor of bytes, row-major.
    ///
    /// # Errors
    /// [`Error::Model`] for a missing tensor, another shape than `expected` or another dtype than U8; [`Error::Io`].
    pub fn read_u8(&self, name: &str, expected: &[usize]) -> Result<Vec<u8>> {
        let (tensor, OpenFile { path, file }) = self.find(name, expected)?;
        if tensor.info.dtype != StoredDtype::U8 {
            let found = tensor.info.dtype;
            return Err(Error::model(path, format!("tensor {name}: found dtype {found:?}, expected U8")));
        }
        let mut values = vec![0; expected.iter().product()];
        read_at(file, &mut values, tensor.offset).map_err(Error::io(path))?;
        Ok(values)
    }

    /// A tensor of this shape, and the file that it is in.
    fn find(&self, name: &str, expected: &[usize]) -> Result<(&Located, &OpenFile)> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(Error::model(&self.place, self.describe_missing(name, expected)));
        };
        let file = &self.files[tensor.file];
        if tensor.info.shape != expected {
            return Err(Error::model(&file.path, describe_misshapen(name, &tensor.info.shape, expected)));
        }
        Ok((tensor, file))
    }

    /// Compares the tensors with `expected`; every missing, misshapen and unexpected one is in one message.
    ///
    /// `ignorable` names tensors that may be there and are not used (an LM head, cached rotary tables).
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn verify(&self, expected: &[(String, Vec<usize>)], ignorable: impl Fn(&str) -> bool) -> Result<()> {
        let mut problems = Vec::new();
        for (name, shape) in expected {
            match self.info(name) {
                None => problems.push(self.describe_missing(name, shape)),
                Some(info) if info.shape != *shape => {
                    problems.push(describe_misshapen(name, &info.shape, shape));
                }
                Some(_) => {}
            }
        }
        let known: std::collections::HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        for (name, tensor) in &self.tensors {
            if !known.contains(name.as_str()) && !ignorable(name) {
                problems.push(format!(
                    "tensor {name}: found {:?} {:?}, expected no such tensor",
                    tensor.info.dtype, tensor.info.shape
                ));
            }
        }
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::model(&self.place, one.as_str())),
            many => Err(Error::model(
                &self.place,
                format!("{} tensors do not fit config.json\n  - {}", many.len(), many.join("\n  - ")),
            )),
        }
    }

    fn describe_missing(&self, name: &str, shape: &[usize]) -> String {
        // A name of another size class is no suggestion; this also bounds the work on absurd names.
        let comparable =
            |other: &&str| name.len().abs_diff(other.len()) <= name.len() / 2 && other.len() <= 512;
        let mut near: Vec<(usize, &str)> = self
            .names()
            .filter(comparable)
            .map(|other| (edit_distance(name, other), other))
            .filter(|(distance, _)| *distance <= name.len() / 2)
            .collect();
        near.sort();
        near.truncate(3);
        let near: Vec<&str> = near.into_iter().map(|(_, other)| other).collect();
        match near.as_slice() {
            [] => format!("tensor {name} {shape:?}: missing; the file holds {} tensors", self.tensors.len()),
            near => format!("tensor {name} {shape:?}: missing; near names: {}", near.join(", ")),
        }
    }
}

fn describe_misshapen(name: &str, found: &[usize], expected: &[usize]) -> String {
    format!("tensor {name}: found shape {found:?}, expected {expected:?}")
}

fn locate(entry: header::Entry, file: usize) -> (String, Located) {
    let info = TensorInfo { dtype: entry.dtype, shape: entry.shape };
    (entry.name, Located { info, file, offset: entry.offset })
}

fn open_sharded(folder: &Path, index_path: &Path) -> Result<WeightFiles> {
    let index = index::read(index_path)?;
    let mut files = Vec::new();
    let mut tensors = BTreeMap::new();
    let mut problems = Vec::new();
    for (shard, wanted) in index {
        let path = folder.join(&shard);
        if !path.exists() {
            return Err(Error::model(
                index_path,
                format!("weight_map names {shard}, which is not in the folder; is the download complete?"),
            ));
        }
        let (file, header) = header::open(&path)?;
        let mut entries: BTreeMap<String, header::Entry> =
            header.entries.into_iter().map(|e| (e.name.clone(), e)).collect();
        for name in wanted {
            match entries.remove(&name) {
                Some(entry) => {
                    let (name, located) = locate(entry, files.len());
                    tensors.insert(name, located);
                }
                None => problems.push(format!("{name} is not in {shard}")),
            }
        }
        files.push(OpenFile { path, file });
    }
    if !problems.is_empty() {
        return Err(Error::model(
            index_path,
            format!("weight_map points to the wrong file: {}", problems.join(", ")),
        ));
    }
    Ok(WeightFiles { place: folder.to_path_buf(), files, tensors, metadata: BTreeMap::new() })
}

/// SHA-256, in hexadecimal, over `config.json` and every safetensors file of a model folder.
///
/// # Errors
/// [`Error::Io`].
pub fn fingerprint(folder: &Path) -> Result<String> {
    let mut names = vec![super::config_json::FILE_NAME.to_owned()];
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    names.sort();
    let hashes: Vec<String> =
        names.par_iter().map(|name| atomic::sha256(&folder.join(name))).collect::<Result<_>>()?;
    let lines: String = names.iter().zip(hashes).map(|(name, hash)| format!("{hash}  {name}\n")).collect();
    Ok(atomic::sha256_of(lines.as_bytes()))
}

/// What to say about a folder without safetensors files.
fn no_weights(folder: &Path) -> Error {
    if !folder.is_dir() {
        return Error::model(folder, "found no such folder, expected one with model.safetensors");
    }
    let pickled = std::fs::read_dir(folder).ok().and_then(|entries| {
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).find(|name| {
            [".bin", ".pth", ".pt", ".gguf", ".h5", ".msgpack"].iter().any(|end| name.ends_with(end))
        })
    });
    let reason = match pickled {
        Some(found) => format!(
            "found {found}, expected {SINGLE_FILE} or {INDEX_FILE}; only safetensors are read (transformers \
             converts with save_pretrained)"
        ),
        None => format!("found no weights, expected {SINGLE_FILE} or {INDEX_FILE}"),
    };
    Error::model(folder, reason)
}

type Decode = fn(&[u8], &mut [f32]);

/// How a dtype becomes f32; `None` for those that are not plain floats.
fn decoder_of(dtype: StoredDtype) -> Option<Decode> {
    fn decode<const W: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn([u8; W]) -> f32) {
        for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<W>().0) {
            *value = one(*raw);
        }
    }
    match dtype {
        StoredDtype::F32 => Some(|bytes, out| decode(bytes, out, f32::from_le_bytes)),
        StoredDtype::F16 => Some(|bytes, out| decode(bytes, out, |b| f16::from_le_bytes(b).to_f32())),
        StoredDtype::BF16 => Some(|bytes, out| decode(bytes, out, |b| bf16::from_le_bytes(b).to_f32())),
        StoredDtype::F64 => Some(|bytes, out| decode(bytes, out, |b| f64::from_le_bytes(b) as f32)),
        _ => None,
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16_widens_exactly() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0f32; 1 << 16];
        decoder_of(StoredDtype::F16).unwrap()(&bytes, &mut out);
        for (bits, value) in out.iter().enumerate() {
            let exact = f16::from_bits(bits as u16);
            assert!(exact.is_nan() && value.is_nan() || f16::from_f32(*value).to_bits() == exact.to_bits());
        }
        decoder_of(StoredDtype::BF16).unwrap()(&bytes, &mut out);
        for (bits, value) in out.iter().enumerate() {
            assert!(value.is_nan() || value.to_bits() == (bits as u32) << 16);
        }
        assert!(decoder_of(StoredDtype::I64).is_none());
    }
}
