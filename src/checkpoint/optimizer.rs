//! AdamW's moments as a safetensors file, by parameter name.

use crate::kernels::accumulator;
use crate::model::config::Dtype;
use crate::model::weights::{TensorSpec, WeightFiles, write_safetensors};
use crate::optim::{AdamW, Parameters};
use crate::{Error, Result};
use candle_core::{Tensor, Var};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const FILE: &str = "optimizer.safetensors";
const STEPS: &str = "steps";
/// torch.optim's names for the two moments.
const FIRST: &str = "exp_avg.";
const SECOND: &str = "exp_avg_sq.";

/// Writes the moments and the number of updates.
pub fn write(folder: &Path, optimizer: &AdamW, parameters: &Parameters) -> Result<()> {
    let mut specs = Vec::new();
    let mut values: HashMap<String, &Var> = HashMap::new();
    for ((_, parameter), moments) in parameters.iter().zip(optimizer.moments()) {
        for (prefix, moment) in [(FIRST, &moments.first), (SECOND, &moments.second)] {
            let name = format!("{prefix}{}", parameter.name);
            specs.push(TensorSpec { name: name.clone(), shape: moment.dims().to_vec(), dtype: Dtype::F32 });
            values.insert(name, moment);
        }
    }
    let metadata = BTreeMap::from([(STEPS.to_owned(), optimizer.steps().to_string())]);
    write_safetensors(&folder.join(FILE), &specs, &metadata, |spec| {
        Ok(Cow::Owned(values[&spec.name].flatten_all()?.to_vec1::<f32>()?))
    })
}

/// Restores what [`write`] wrote into an optimizer of the same parameters.
///
/// # Errors
/// [`Error::Checkpoint`] or [`Error::Model`] naming the missing or misshapen moment.
pub fn read(folder: &Path, optimizer: &mut AdamW, parameters: &Parameters) -> Result<()> {
    let path = folder.join(FILE);
    let files = WeightFiles::open_file(&path)?;
    let steps = files.metadata().get(STEPS).and_then(|s| s.parse().ok());
    let steps = steps.ok_or_else(|| Error::checkpoint(&path, format!("has no `{STEPS}` in its metadata")))?;
    for ((_, parameter), moments) in parameters.iter().zip(optimizer.moments()) {
        for (prefix, moment) in [(FIRST, &moments.first), (SECOND, &moments.second)] {
            let values = files.read_f32(&format!("{prefix}{}", parameter.name), moment.dims())?;
            if moment.device().is_cpu() {
                accumulator::edit(moment, |old| old.copy_from_slice(&values))?;
            } else {
                moment.set(&Tensor::from_vec(values, moment.shape(), moment.device())?)?;
            }
        }
    }
    optimizer.resume_at(steps);
    Ok(())
}
