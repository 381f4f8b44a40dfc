//! Row numbers that kernels read.

use super::cuda::upload;
use candle_core::{Device, Result, Tensor};
use std::ops::Deref;
use std::sync::OnceLock;

/// Row numbers on the host, and from the first time that a kernel asks for them, on its device too: a pack's indices
/// are uploaded once, not once a layer.
#[derive(Debug, Clone, Default)]
pub struct Indices {
    values: Vec<u32>,
    uploaded: OnceLock<Tensor>,
}

impl Indices {
    /// The numbers as a u32 tensor on `device`, which is the same one at every call.
    pub(crate) fn on(&self, device: &Device) -> Result<&Tensor> {
        if let Some(uploaded) = self.uploaded.get() {
            return Ok(uploaded);
        }
        let tensor = upload::numbers(&self.values, self.values.len(), device)?;
        Ok(self.uploaded.get_or_init(|| tensor))
    }
}

impl From<Vec<u32>> for Indices {
    fn from(values: Vec<u32>) -> Self {
        Self { values, uploaded: OnceLock::new() }
    }
}

impl<const K: usize> From<[u32; K]> for Indices {
    fn from(values: [u32; K]) -> Self {
        values.to_vec().into()
    }
}

impl Deref for Indices {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.values
    }
}

impl PartialEq for Indices {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Eq for Indices {}
