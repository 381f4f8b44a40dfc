//! The update of a parameter on a GPU: one kernel, whatever the moments, which writes the bf16 compute copy along.

use super::Update;
use crate::kernels::cuda::optimizer::{Quantized, Rows, Scalars, State, update as update_f32, update_8bit};
use crate::kernels::cuda::upload;
use crate::optim::quantized::{SIGNED, UNSIGNED};
use crate::optim::{Gradient, Moments, Parameter};
use candle_core::{DType, Result, Tensor};

/// What the kernels keep on the device beside the moments.
#[derive(Debug, Default)]
pub(super) struct DeviceState {
    /// Of each parameter with row gradients and f32 moments, which rows a gradient ever reached, u8.
    reached: Vec<Option<Tensor>>,
    /// The values of the signed and of the unsigned code.
    codes: Option<[Tensor; 2]>,
    /// The moments are not known to have started at zero: every row may have some.
    is_resumed: bool,
}

impl DeviceState {
    pub(super) fn new(parameters: usize) -> Self {
        Self { reached: vec![None; parameters], ..Self::default() }
    }

    pub(super) fn resume(&mut self) {
        self.reached.fill(None);
        self.is_resumed = true;
    }

    /// Updates parameter number `i`. Its compute copy is up to date afterwards where that is f32 or bf16.
    pub(super) fn update(
        &mut self,
        u: Update,
        i: usize,
        parameter: &Parameter,
        moments: &Moments,
        gradient: &Gradient,
    ) -> Result<()> {
        let compute = parameter.compute();
        let state = State {
            master: parameter.master(),
            compute: (compute.dtype() == DType::BF16).then_some(compute),
            gradient: gradient.sum().tensor()?,
        };
        let slots = match gradient {
            Gradient::Dense(_) => None,
            Gradient::Rows { rows, .. } => Some(slots(rows, state.master)?),
        };
        match moments {
            Moments::F32 { first, second } => {
                let rows = match &slots {
                    None => None,
                    Some(slots) => Some(Rows { slots, reached: self.reached(i, state.master)? }),
                };
                update_f32(state, [first, second], rows, u.scalars())
            }
            Moments::EightBit { first, second } => {
                let maps = self.codes(state.master)?;
                let moments = Quantized {
                    codes: [&first.codes, &second.codes],
                    scales: [&first.scales, &second.scales],
                    maps: [&maps[0], &maps[1]],
                };
                update_8bit(state, moments, slots.as_ref(), u.scalars())
            }
        }
    }

    fn reached(&mut self, i: usize, master: &Tensor) -> Result<&Tensor> {
        let reached = match self.reached[i].take() {
            Some(reached) => reached,
            None => {
                let rows = vec![u8::from(self.is_resumed); master.dim(0)?];
                Tensor::new(rows, master.device())?
            }
        };
        Ok(self.reached[i].insert(reached))
    }

    fn codes(&mut self, master: &Tensor) -> Result<&[Tensor; 2]> {
        let codes = match self.codes.take() {
            Some(codes) => codes,
            None => {
                let [signed, unsigned] =
                    [&SIGNED, &UNSIGNED].map(|code| Tensor::new(code.values().as_slice(), master.device()));
                [signed?, unsigned?]
            }
        };
        Ok(self.codes.insert(codes))
    }
}

impl Update {
    /// In the order of the kernels' arguments.
    fn scalars(self) -> Scalars {
        [
            self.decay,
            self.beta1,
            self.beta2,
            self.complement1,
            self.complement2,
            self.step_size,
            self.inverse_sqrt_correction2,
            self.eps,
            self.scale,
        ]
    }
}

/// For each row of a table the row of its gradient, or `u32::MAX`.
fn slots(rows: &[u32], table: &Tensor) -> Result<Tensor> {
    let mut slots = vec![u32::MAX; table.dim(0)?];
    for (slot, &row) in rows.iter().enumerate() {
        slots[row as usize] = slot as u32;
    }
    upload::numbers(&slots, slots.len(), table.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::accumulator::edit;
    use crate::kernels::cuda;
    use crate::kernels::test_support::wave;
    use crate::optim::config::MomentKind;
    use crate::optim::{AdamW, Config, Gradients, Parameters};
    use candle_core::Device;

    /// A block whose gradients differ by six orders of magnitude, once, then none: where squares have the code zero.
    #[test]
    fn small_values_of_a_quantized_block_go_on_as_on_the_host() -> Result<()> {
        let run = || -> Result<Vec<f32>> {
            let mut parameters = Parameters::new(DType::F32);
            let matrix =
                parameters.add("matrix", &Tensor::zeros((16, 256), DType::F32, &Device::Cpu)?, false)?;
            let mut gradients = Gradients::zeros(&parameters, &[])?;
            let config = Config { moments: MomentKind::EightBit, ..Config::default() };
            let mut optimizer = AdamW::new(&config, &parameters)?;
            let values: Vec<f32> = (0..16 * 256).map(|i| 10f32.powf(-((i % 256) as f32) / 42.0)).collect();
            gradients.sum(matrix).add(&Tensor::from_vec(values, (16, 256), &Device::Cpu)?)?;
            for _ in 0..3 {
                optimizer.step(&mut parameters, &gradients, 0.01, 1.0)?;
                gradients.start_step(&[])?;
            }
            parameters.get(matrix).master().flatten_all()?.to_vec1()
        };
        let Some(found) = cuda::emulated(run) else { return Ok(()) };
        let (found, expected) = (found?, run()?);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-6, "{found} against {expected}");
            assert!(expected.abs() <= 0.03, "three rates at most, moved by {expected}");
        }
        Ok(())
    }

    #[test]
    fn rows_that_no_gradient_reached_are_not_read() -> Result<()> {
        let outcome = cuda::emulated(|| -> Result<[Vec<Vec<f32>>; 2]> {
            let mut parameters = Parameters::new(DType::F32);
            let table = parameters.add("table", &wave((5, 3), 0.4)?, true)?;
            let mut gradients = Gradients::zeros(&parameters, &[table])?;
            let mut optimizer = AdamW::new(&Config::default(), &parameters)?;
            let Some(Moments::F32 { first, .. }) = optimizer.moments()[0].clone() else {
                panic!("f32 moments")
            };
            // Moments that no gradient left behind: who reads them moves the row.
            edit(&first, |m| m[9..12].fill(0.5))?;
            gradients.start_step(&[1])?;
            gradients.add_rows(table, &[1], &wave((1, 3), 0.8)?)?;
            optimizer.step(&mut parameters, &gradients, 0.01, 1.0)?;
            let once = parameters.get(table).master().to_vec2()?;
            optimizer.resume_at(optimizer.steps());
            optimizer.step(&mut parameters, &gradients, 0.01, 1.0)?;
            Ok([once, parameters.get(table).master().to_vec2()?])
        });
        let Some(outcome) = outcome else { return Ok(()) };
        let ([once, twice], before) = (outcome?, wave((5, 3), 0.4)?.to_vec2::<f32>()?);
        assert!(once[3] == before[3] && once[1] != before[1]);
        // A resumed optimizer does not know what was reached, and looks.
        assert_ne!(twice[3], before[3]);
        Ok(())
    }
}
