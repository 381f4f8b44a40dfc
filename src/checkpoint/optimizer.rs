//! AdamW's moments as a safetensors file, by parameter name.

use crate::base::reader::Words;
use crate::kernels::accumulator;
use crate::model::weights::{StoredDtype, TensorSpec, Values, WeightFiles, write_safetensors};
use crate::optim::config::MomentKind;
use crate::optim::{AdamW, Moments, Parameters};
use crate::{Error, Result};
use candle_core::{DType, Tensor, Var};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const FILE: &str = "optimizer.safetensors";
const STEPS: &str = "steps";
/// The word of the configuration; a file without it holds f32.
const KIND: &str = "moments";
/// torch.optim's names for the two moments.
const FIRST: &str = "exp_avg.";
const SECOND: &str = "exp_avg_sq.";
/// Largest magnitudes of the blocks of a moment in eight bits.
const FIRST_SCALES: &str = "exp_avg_absmax.";
const SECOND_SCALES: &str = "exp_avg_sq_absmax.";

/// Values that are restored together. Where all of them are zero nothing is written, so that memory that was never
/// touched before the run was interrupted is not touched after it: a page of f32.
const RESTORED_TOGETHER: usize = 1024;

/// Writes the moments and the number of updates.
pub fn write(folder: &Path, optimizer: &AdamW, parameters: &Parameters) -> Result<()> {
    let mut specs = Vec::new();
    let mut values: HashMap<String, &Var> = HashMap::new();
    for (name, variable) in variables(optimizer, parameters) {
        let dtype = if variable.dtype() == DType::U8 { StoredDtype::U8 } else { StoredDtype::F32 };
        specs.push(TensorSpec { name: name.clone(), shape: variable.dims().to_vec(), dtype });
        values.insert(name, variable);
    }
    let steps = (STEPS.to_owned(), optimizer.steps().to_string());
    let metadata = BTreeMap::from([steps, (KIND.to_owned(), optimizer.kind().word().to_owned())]);
    write_safetensors(&folder.join(FILE), &specs, &metadata, |spec| {
        let flat = values[&spec.name].flatten_all()?;
        Ok(match spec.dtype {
            StoredDtype::U8 => Values::Bytes(Cow::Owned(flat.to_vec1()?)),
            _ => Values::Floats(Cow::Owned(flat.to_vec1()?)),
        })
    })
}

/// Restores what [`write`] wrote after step `step` into an optimizer of the same parameters, whose moments are zero.
///
/// # Errors
/// [`Error::Checkpoint`] if the moments are those of another step or are kept in another way there, [`Error::Model`]
/// naming a missing or misshapen one.
pub fn read(folder: &Path, step: u64, optimizer: &mut AdamW, parameters: &Parameters) -> Result<()> {
    let path = folder.join(FILE);
    let files = WeightFiles::open_file(&path)?;
    let steps = files.metadata().get(STEPS).and_then(|s| s.parse().ok());
    let steps = steps.ok_or_else(|| Error::checkpoint(&path, format!("has no `{STEPS}` in its metadata")))?;
    if steps != step {
        let reason =
            format!("holds the moments after {steps} updates, expected {step}, the checkpoint's step");
        return Err(Error::checkpoint(&path, reason));
    }
    let found = files.metadata().get(KIND).map_or(MomentKind::F32.word(), String::as_str);
    let expected = optimizer.kind().word();
    if found != expected {
        return Err(Error::checkpoint(
            &path,
            format!("holds moments of the kind \"{found}\", expected \"{expected}\" as optim.moments says"),
        ));
    }
    for (name, variable) in variables(optimizer, parameters) {
        let (shape, device) = (variable.shape(), variable.device());
        match (variable.dtype(), device.is_cpu()) {
            (DType::U8, true) => {
                let values = files.read_u8(&name, shape.dims())?;
                accumulator::edit_bytes(variable, |zeros| restore(zeros, &values, |value| value == 0))?;
            }
            (DType::U8, false) => {
                variable.set(&Tensor::from_vec(files.read_u8(&name, shape.dims())?, shape, device)?)?;
            }
            (_, true) => {
                let values = files.read_f32(&name, shape.dims())?;
                accumulator::edit(variable, |zeros| restore(zeros, &values, |value| value.to_bits() == 0))?;
            }
            (_, false) => {
                variable.set(&Tensor::from_vec(files.read_f32(&name, shape.dims())?, shape, device)?)?;
            }
        }
    }
    optimizer.resume_at(steps);
    Ok(())
}

/// Writes `values` over zeros.
fn restore<T: Copy>(zeros: &mut [T], values: &[T], is_zero: impl Fn(T) -> bool) {
    for (zeros, values) in zeros.chunks_mut(RESTORED_TOGETHER).zip(values.chunks(RESTORED_TOGETHER)) {
        if !values.iter().all(|value| is_zero(*value)) {
            zeros.copy_from_slice(values);
        }
    }
}

/// Everything that is kept from step to step, by the name that it is stored under.
fn variables<'a>(optimizer: &'a AdamW, parameters: &Parameters) -> Vec<(String, &'a Var)> {
    let mut variables = Vec::new();
    for ((_, parameter), moments) in parameters.iter().zip(optimizer.moments()) {
        let mut add = |prefix, variable| variables.push((format!("{prefix}{}", parameter.name), variable));
        match moments {
            None => {}
            Some(Moments::F32 { first, second }) => {
                add(FIRST, first);
                add(SECOND, second);
            }
            Some(Moments::EightBit { first, second }) => {
                add(FIRST, &first.codes);
                add(FIRST_SCALES, &first.scales);
                add(SECOND, &second.codes);
                add(SECOND_SCALES, &second.scales);
            }
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::wave;
    use crate::optim::{Config, Gradients};

    /// An optimizer after a step, with one parameter that is large enough for eight bits and one that is not.
    fn optimizer(moments: MomentKind) -> (Parameters, AdamW) {
        let mut parameters = Parameters::new(DType::F32);
        for (name, rows) in [("large", 70), ("small", 3)] {
            parameters.add(name, &wave((rows, 67), 0.4).unwrap(), true).unwrap();
        }
        let gradients = Gradients::zeros(&parameters, &[]).unwrap();
        for (id, parameter) in parameters.iter() {
            gradients.sum(id).add(&wave(parameter.master().shape(), 1.7).unwrap()).unwrap();
        }
        let config = Config { moments, ..Config::default() };
        let mut optimizer = AdamW::new(&config, &parameters).unwrap();
        optimizer.step(&mut parameters, &gradients, 0.01, 1.0).unwrap();
        (parameters, optimizer)
    }

    #[test]
    fn both_kinds_come_back_exactly_and_neither_as_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = |optimizer: &AdamW, parameters: &Parameters| {
            let of = |(name, variable): (String, &Var)| {
                let flat = variable.flatten_all().unwrap();
                match variable.dtype() {
                    DType::U8 => (name, flat.to_vec1::<u8>().unwrap()),
                    _ => {
                        let values = flat.to_vec1::<f32>().unwrap();
                        (name, values.into_iter().flat_map(f32::to_le_bytes).collect())
                    }
                }
            };
            variables(optimizer, parameters).into_iter().map(of).collect::<Vec<_>>()
        };
        let kinds = [(MomentKind::F32, MomentKind::EightBit), (MomentKind::EightBit, MomentKind::F32)];
        for ((kind, other), count) in kinds.into_iter().zip([4, 6]) {
            let (parameters, written) = optimizer(kind);
            write(folder.path(), &written, &parameters).unwrap();
            let config = Config { moments: kind, ..Config::default() };
            let mut restored = AdamW::new(&config, &parameters).unwrap();
            read(folder.path(), 1, &mut restored, &parameters).unwrap();
            assert_eq!(restored.steps(), 1);
            let expected = bytes(&written, &parameters);
            assert_eq!(expected.len(), count);
            assert!(bytes(&restored, &parameters) == expected);

            let config = Config { moments: other, ..config };
            let mut wrong = AdamW::new(&config, &parameters).unwrap();
            let error = read(folder.path(), 1, &mut wrong, &parameters).unwrap_err().to_string();
            let (found, expected) = (kind.word(), other.word());
            let text = format!("holds moments of the kind \"{found}\", expected \"{expected}\"");
            assert!(error.contains(&text), "{error}");
        }
    }

    #[test]
    fn moments_of_another_step_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (parameters, mut optimizer) = optimizer(MomentKind::F32);
        write(folder.path(), &optimizer, &parameters).unwrap();
        let error = read(folder.path(), 2, &mut optimizer, &parameters).unwrap_err().to_string();
        assert!(error.contains("holds the moments after 1 updates, expected 2"), "{error}");
    }

    #[test]
    fn memory_is_not_written_where_all_is_zero() {
        let mut memory = vec![7.0f32; 3 * RESTORED_TOGETHER];
        let mut values = vec![0.0f32; 3 * RESTORED_TOGETHER];
        values[RESTORED_TOGETHER] = -0.0;
        restore(&mut memory, &values, |value| value.to_bits() == 0);
        let (first, rest) = memory.split_at(RESTORED_TOGETHER);
        let (second, third) = rest.split_at(RESTORED_TOGETHER);
        assert!(first.iter().chain(third).all(|&value| value == 7.0));
        assert_eq!(second[0].to_bits(), (-0.0f32).to_bits());
        assert!(second[1..].iter().all(|&value| value == 0.0));
    }
}
