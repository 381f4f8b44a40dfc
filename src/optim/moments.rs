//! Where AdamW's moments are kept, in f32 or as codes.

use super::config::MomentKind;
use super::quantized::BLOCK;
use candle_core::{DType, Result, Tensor, Var};

/// Parameters of fewer values than this keep f32 moments in any case, as bitsandbytes has it: norms, biases and the
/// head take no memory to speak of.
const MIN_QUANTIZED_VALUES: usize = 4096;

/// First and second moment of one parameter.
#[derive(Debug, Clone)]
pub enum Moments {
    /// Of the parameter's shape.
    F32 { first: Var, second: Var },
    /// Codes and scales, as [`super::quantized`] defines them.
    EightBit { first: Quantized, second: Quantized },
}

/// One moment in eight bits.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// u8, of the parameter's shape.
    pub codes: Var,
    /// f32, one for each [`BLOCK`] of the flattened parameter.
    pub scales: Var,
}

impl Moments {
    /// Zeros for a parameter like `like`.
    pub(super) fn zeros(kind: MomentKind, like: &Tensor) -> Result<Self> {
        if kind == MomentKind::F32 || like.elem_count() < MIN_QUANTIZED_VALUES {
            let zeros = || Var::zeros(like.shape(), DType::F32, like.device());
            return Ok(Self::F32 { first: zeros()?, second: zeros()? });
        }
        let zeros = || {
            let codes = Var::zeros(like.shape(), DType::U8, like.device())?;
            let scales = Var::zeros(like.elem_count().div_ceil(BLOCK), DType::F32, like.device())?;
            Result::Ok(Quantized { codes, scales })
        };
        Ok(Self::EightBit { first: zeros()?, second: zeros()? })
    }
}

/// Bytes that both moments of a parameter of `values` values take.
pub fn bytes(kind: MomentKind, values: u64) -> u64 {
    match kind {
        MomentKind::EightBit if values >= MIN_QUANTIZED_VALUES as u64 => {
            2 * (values + 4 * values.div_ceil(BLOCK as u64))
        }
        _ => 2 * 4 * values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn small_parameters_stay_in_f32_and_bytes_are_counted() -> Result<()> {
        for (shape, quantized) in [((1, 4095), false), ((16, 256), true), ((65, 67), true)] {
            let like = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
            let stored = |var: &Var| (var.elem_count() * var.dtype().size_in_bytes()) as u64;
            let (found, stored) = match Moments::zeros(MomentKind::EightBit, &like)? {
                Moments::F32 { first, second } => (false, stored(&first) + stored(&second)),
                Moments::EightBit { first, second } => {
                    let both = [first.codes, first.scales, second.codes, second.scales];
                    (true, both.iter().map(stored).sum())
                }
            };
            assert_eq!(found, quantized, "{shape:?}");
            assert_eq!(stored, bytes(MomentKind::EightBit, like.elem_count() as u64));
            assert!(matches!(Moments::zeros(MomentKind::F32, &like)?, Moments::F32 { .. }));
        }
        Ok(())
    }
}
