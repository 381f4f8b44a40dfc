//! `heads.safetensors`: the heads of an ensemble, beside the weights of a one-label model whose `score.weight` is their
//! mean. Whoever does not know the file has a sound reward model. `config.json` counts the heads, so that a folder that has
//! lost the file is not taken for a model of one head; folders from before that key have none.

use super::decoder_config::HEAD_WEIGHT;
use super::reward_head::Heads;
use super::weights::{StoredDtype, TensorSpec, Values, WeightFiles, write_safetensors};
use crate::{Error, Result, hub};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// The file's name in a model folder.
pub const FILE: &str = hub::ENSEMBLE_HEADS;
/// The key of `config.json` that says how many heads the file has.
pub const COUNT_KEY: &str = hub::ENSEMBLE_COUNT_KEY;
/// Its one tensor, [K, H] in f32; and the parameter that is trained in place of `score.weight`.
pub const HEADS_WEIGHT: &str = "heads.weight";
/// Most heads of one model.
pub const MAX_HEADS: usize = 64;

/// Writes the heads as they are, in f32 whatever the rest of the folder is stored in.
///
/// # Errors
/// [`Error::Model`] if a weight is not finite; [`Error::Io`].
pub fn write(folder: &Path, heads: &Heads) -> Result<()> {
    let shape = vec![heads.count(), heads.width()];
    let spec = TensorSpec { name: HEADS_WEIGHT.into(), shape, dtype: StoredDtype::F32 };
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(&folder.join(FILE), &[spec], &metadata, |_| {
        Ok(Values::Floats(Cow::Borrowed(heads.weights())))
    })
}

/// Removes the file of another model that was in this folder before.
pub fn remove(folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path)(error)),
        _ => Ok(()),
    }
}

/// How many heads of `width` values the folder's file says it holds; `None` without such a file. `expected` are those
/// that `config.json` counts.
///
/// # Errors
/// [`Error::Model`] for a file that is none of ours (another tensor, another shape), for another number of heads than
/// `expected`, and for a file that is expected and not there.
pub fn count(folder: &Path, width: usize, expected: Option<usize>) -> Result<Option<usize>> {
    open(folder, width, expected).map(|opened| opened.map(|(_, count)| count))
}

fn open(folder: &Path, width: usize, expected: Option<usize>) -> Result<Option<(WeightFiles, usize)>> {
    let path = folder.join(FILE);
    if !path.exists() {
        let missing = |count: usize| {
            let reason = format!(
                "found no such file, expected the {count} heads that {COUNT_KEY} in config.json counts; \
                 {HEAD_WEIGHT} is only their mean. Copy the file from where the folder comes from, or take {COUNT_KEY} \
                 out of config.json to use the mean as a model of one head"
            );
            Error::model(&path, reason)
        };
        return expected.map_or(Ok(None), |count| Err(missing(count)));
    }
    let files = WeightFiles::open_file(&path)?;
    let count = match files.info(HEADS_WEIGHT).map(|info| info.shape.as_slice()) {
        Some(&[count, found]) if (2..=MAX_HEADS).contains(&count) && found == width => count,
        Some(shape) => {
            return Err(Error::model(
                &path,
                format!(
                    "tensor {HEADS_WEIGHT}: found shape {shape:?}, expected [K, {width}] with K from 2 to {MAX_HEADS}"
                ),
            ));
        }
        None => {
            let found: Vec<&str> = files.names().collect();
            let found = if found.is_empty() { "no tensors".into() } else { found.join(", ") };
            let reason = format!("tensor {HEADS_WEIGHT} [K, {width}]: missing; the file holds {found}");
            return Err(Error::model(&path, reason));
        }
    };
    if let Some(expected) = expected.filter(|expected| *expected != count) {
        let reason = format!(
            "found {count} heads, expected {expected} as {COUNT_KEY} in config.json has it: the two are not of one save"
        );
        return Err(Error::model(&path, reason));
    }
    files.verify(&[(HEADS_WEIGHT.to_owned(), vec![count, width])], |_| false)?;
    Ok(Some((files, count)))
}

/// The folder's heads, whose mean must be the `score.weight` of `weights`; `None` without such a file. `expected` are
/// those that `config.json` counts.
///
/// # Errors
/// [`Error::Model`] as for [`count`], for a weight that is not finite, and for heads with another mean, which names
/// both files; [`Error::Io`].
pub fn read(
    folder: &Path,
    weights: &WeightFiles,
    width: usize,
    expected: Option<usize>,
) -> Result<Option<Heads>> {
    let Some((files, count)) = open(folder, width, expected)? else { return Ok(None) };
    let heads = Heads::new(files.read_f32(HEADS_WEIGHT, &[count, width])?, width);
    let score = weights.read_f32(HEAD_WEIGHT, &[1, width])?;
    let (relative, least) = rounding(weights.info(HEAD_WEIGHT).map_or(StoredDtype::F32, |info| info.dtype));
    for (at, (&found, mean)) in score.iter().zip(heads.mean()).enumerate() {
        let largest =
            heads.weights().iter().skip(at).step_by(width).fold(0.0f32, |most, w| most.max(w.abs()));
        if (found - mean).abs() > relative * largest.max(least) {
            return Err(Error::model(
                folder.join(FILE),
                format!(
                    "the mean of its {count} heads is {mean} at {at}, where {HEAD_WEIGHT} in {} is {found}; expected \
                     {HEAD_WEIGHT} to be the mean: the two are not of one save",
                    folder.display()
                ),
            ));
        }
    }
    Ok(Some(heads))
}

/// How far a mean may be from its stored form, over the largest weight that it is the mean of: the rounding of the
/// type, and that of a sum in f32. The other number is the least weight that has all the digits of the type.
fn rounding(stored: StoredDtype) -> (f32, f32) {
    match stored {
        StoredDtype::BF16 => (1.0 / 128.0, f32::MIN_POSITIVE),
        StoredDtype::F16 => (1.0 / 512.0, 6.2e-5),
        _ => (1e-6, f32::MIN_POSITIVE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Dtype;
    use crate::model::weights::{DEFAULT_MAX_SHARD_BYTES, write_model};

    fn folder(score: &[f32], dtype: Dtype) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let shape = vec![1, score.len()];
        let spec = TensorSpec { name: HEAD_WEIGHT.into(), shape, dtype: dtype.into() };
        write_model(folder.path(), &[spec], DEFAULT_MAX_SHARD_BYTES, |_| Ok(Cow::Borrowed(score))).unwrap();
        folder
    }

    fn read_back(folder: &tempfile::TempDir) -> Result<Option<Heads>> {
        read(folder.path(), &WeightFiles::open(folder.path()).unwrap(), 3, None)
    }

    fn heads() -> Heads {
        Heads::new(vec![0.3, -0.2, 0.9, 0.1, 0.7, -0.9, 0.23, 1e-4, 0.0], 3)
    }

    #[test]
    fn heads_come_back_exactly_whatever_the_mean_is_stored_in() {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let folder = folder(&heads().mean(), dtype);
            assert_eq!(read_back(&folder).unwrap(), None);
            write(folder.path(), &heads()).unwrap();
            assert_eq!(read_back(&folder).unwrap(), Some(heads()));
            assert_eq!(count(folder.path(), 3, None).unwrap(), Some(3));
            remove(folder.path()).unwrap();
            remove(folder.path()).unwrap();
            assert_eq!(count(folder.path(), 3, None).unwrap(), None);
        }
    }

    #[test]
    fn heads_are_those_that_the_configuration_counts() {
        let folder = folder(&heads().mean(), Dtype::F32);
        let weights = WeightFiles::open(folder.path()).unwrap();
        let refused = |expected: usize, needle: &str| {
            let error = count(folder.path(), 3, Some(expected)).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains(needle), "no {needle:?} in {error}");
            let whole = read(folder.path(), &weights, 3, Some(expected)).unwrap_err().to_string();
            assert_eq!(whole, error);
        };
        refused(3, "found no such file, expected the 3 heads that rmtrain_heads in config.json counts");
        write(folder.path(), &heads()).unwrap();
        assert_eq!(count(folder.path(), 3, Some(3)).unwrap(), Some(3));
        assert_eq!(read(folder.path(), &weights, 3, Some(3)).unwrap(), Some(heads()));
        refused(4, "found 3 heads, expected 4 as rmtrain_heads in config.json has it");
    }

    #[test]
    fn heads_of_another_save_are_refused() {
        let mut mean = heads().mean();
        mean[1] += 1e-4;
        let folder = folder(&mean, Dtype::F32);
        write(folder.path(), &heads()).unwrap();
        let error = read_back(&folder).unwrap_err().to_string();
        let place = folder.path().display().to_string();
        for needle in ["heads.safetensors", "at 1", "score.weight", &format!("in {place} is")] {
            assert!(error.contains(needle), "no {needle:?} in {error}");
        }
    }

    #[test]
    fn what_is_not_an_ensemble_is_refused() {
        let tensor = |name: &str, shape: [usize; 2]| TensorSpec {
            name: name.into(),
            shape: shape.to_vec(),
            dtype: StoredDtype::F32,
        };
        let folder = folder(&[0.0; 3], Dtype::F32);
        let refused = |tensors: &[TensorSpec], needle: &str| {
            write_safetensors(&folder.path().join(FILE), tensors, &BTreeMap::new(), |spec| {
                Ok(Values::Floats(Cow::Owned(vec![0.5; spec.shape.iter().product()])))
            })
            .unwrap();
            let error = read_back(&folder).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains(needle), "no {needle:?} in {error}");
            assert_eq!(count(folder.path(), 3, None).unwrap_err().to_string(), error);
        };
        let expected = "expected [K, 3] with K from 2 to 64";
        for shape in [[1, 3], [0, 3], [65, 3], [4, 2]] {
            refused(&[tensor(HEADS_WEIGHT, shape)], &format!("found shape {shape:?}, {expected}"));
        }
        refused(
            &[tensor("heads.weights", [4, 3])],
            "heads.weight [K, 3]: missing; the file holds heads.weights",
        );
        let more = [tensor(HEADS_WEIGHT, [4, 3]), tensor("bias", [4, 1])];
        refused(&more, "tensor bias: found F32 [4, 1], expected no such tensor");
    }
}
