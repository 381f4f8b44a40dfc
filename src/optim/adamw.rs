//! AdamW with decoupled weight decay, f32 masters, one fused pass on the CPU. Here: what the kinds of moments share.
//! The passes over f32 moments are in `plain`, those over moments of eight bits in `eight_bit`, and what becomes of both
//! on a GPU in `on_cuda`.
//!
//! ```python
//! # torch.optim.AdamW, step t >= 1
//! p *= 1 - lr * weight_decay
//! m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g * g
//! p -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)
//! ```

pub mod check;
mod eight_bit;
mod on_cuda;
mod plain;

use super::config::MomentKind;
use super::{Config, Gradients, Moments, ParameterId, Parameters};
use crate::kernels::cuda;
use candle_core::Result;
use on_cuda::DeviceState;

/// The optimizer's state: two moments a trained parameter, and the number of steps taken.
#[derive(Debug)]
pub struct AdamW {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    kind: MomentKind,
    steps: u64,
    /// `None` for a frozen parameter.
    moments: Vec<Option<Moments>>,
    /// Of each parameter with row gradients and f32 moments, which rows a gradient ever reached; `None` until that is
    /// known. The moments of the others are zero, so an update leaves them as they are but for their decay: they are
    /// not even read, and what was never written takes no memory.
    reached: Vec<Option<Vec<bool>>>,
    on_device: DeviceState,
}

/// The numbers of one update.
#[derive(Clone, Copy)]
struct Update {
    decay: f32,
    beta1: f32,
    beta2: f32,
    /// `1 - beta`, formed in f64: `1 - 0.999f32` is off by 1e-5.
    complement1: f32,
    complement2: f32,
    step_size: f32,
    inverse_sqrt_correction2: f32,
    eps: f32,
    /// What the gradient is multiplied by (clipping).
    scale: f32,
}

impl AdamW {
    /// Zero moments for what is trained of `parameters`.
    pub fn new(config: &Config, parameters: &Parameters) -> Result<Self> {
        let zeros = |(_, parameter): (ParameterId, &super::Parameter)| {
            let is_trained = !parameter.is_frozen;
            is_trained.then(|| Moments::zeros(config.moments, parameter.master())).transpose()
        };
        Ok(Self {
            betas: config.betas,
            eps: config.eps,
            weight_decay: config.weight_decay,
            kind: config.moments,
            steps: 0,
            moments: parameters.iter().map(zeros).collect::<Result<_>>()?,
            reached: parameters.iter().map(|(_, p)| Some(vec![false; p.master().dims()[0]])).collect(),
            on_device: DeviceState::new(parameters.iter().count()),
        })
    }

    /// Updates every trained parameter once. `scale` multiplies the gradients first.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        learning_rate: f64,
        scale: f64,
    ) -> Result<()> {
        self.steps += 1;
        let t = self.steps as f64;
        let [beta1, beta2] = self.betas;
        let state = self.moments.iter().zip(&mut self.reached);
        for (i, (((_, parameter), (_, gradient)), (moments, reached))) in
            parameters.iter().zip(gradients.iter()).zip(state).enumerate()
        {
            let Some(moments) = moments else { continue };
            let decay = if parameter.decays { self.weight_decay } else { 0.0 };
            let update = Update {
                decay: (1.0 - learning_rate * decay) as f32,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                complement1: (1.0 - beta1) as f32,
                complement2: (1.0 - beta2) as f32,
                step_size: (learning_rate / (1.0 - beta1.powf(t))) as f32,
                inverse_sqrt_correction2: (1.0 / (1.0 - beta2.powf(t)).sqrt()) as f32,
                eps: self.eps as f32,
                scale: scale as f32,
            };
            match moments {
                _ if cuda::takes(parameter.master()) => {
                    self.on_device.update(update, i, parameter, moments, gradient)?;
                }
                Moments::F32 { first, second } => {
                    plain::update(update, parameter.master(), [first, second], reached, gradient)?;
                }
                Moments::EightBit { first, second } => {
                    eight_bit::update(update, parameter.master(), [first, second], gradient)?;
                }
            }
        }
        parameters.refresh()
    }

    /// Updates taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// How moments are kept, small parameters' apart.
    pub fn kind(&self) -> MomentKind {
        self.kind
    }

    /// The moments of every parameter that is not frozen, to save them.
    pub fn moments(&self) -> &[Option<Moments>] {
        &self.moments
    }

    /// Continues after `steps` updates; the moments have been written through [`AdamW::moments`].
    pub fn resume_at(&mut self, steps: u64) {
        self.steps = steps;
        self.reached.fill(None);
        self.on_device.resume();
    }
}

impl Update {
    /// One value of a parameter and its moments, given its gradient.
    #[inline(always)]
    fn apply(self, p: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let g = g * self.scale;
        *m = self.beta1 * *m + self.complement1 * g;
        *v = self.beta2 * *v + self.complement2 * g * g;
        let denominator = v.sqrt() * self.inverse_sqrt_correction2 + self.eps;
        *p = self.decay * *p - self.step_size * (*m / denominator);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::accumulator::edit;
    use crate::kernels::test_support::{assert_close, wave};
    use candle_core::{DType, Var};

    fn config() -> Config {
        Config { weight_decay: 0.1, ..Config::default() }
    }

    fn parameters() -> Result<Parameters> {
        let mut parameters = Parameters::new(DType::F32);
        parameters.add("table", &wave((5, 3), 0.4)?, true)?;
        parameters.add("bias", &wave(3, 0.9)?, false)?;
        Ok(parameters)
    }

    /// Three steps by the formulae in f64.
    fn reference(p: &[f32], g: impl Fn(usize) -> f64, decay: f64) -> Vec<f64> {
        let (lr, eps, mut m, mut v) = (0.01, 1e-8, vec![0.0; p.len()], vec![0.0; p.len()]);
        let mut p: Vec<f64> = p.iter().map(|&p| f64::from(p)).collect();
        for t in 1..=3 {
            for i in 0..p.len() {
                m[i] = 0.9 * m[i] + 0.1 * g(i);
                v[i] = 0.999 * v[i] + 0.001 * g(i) * g(i);
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                p[i] = p[i] * (1.0 - lr * decay) - lr * mh / (vh.sqrt() + eps);
            }
        }
        p
    }

    #[test]
    fn follows_the_formulae_and_decays_only_what_decays() -> Result<()> {
        let mut parameters = parameters()?;
        let gradients = Gradients::zeros(&parameters, &[])?;
        let before: Vec<Vec<f32>> =
            parameters.iter().map(|(_, p)| p.master().flatten_all()?.to_vec1()).collect::<Result<_>>()?;
        for (id, parameter) in parameters.iter() {
            gradients.sum(id).add(&wave(parameter.master().shape(), 1.7)?)?;
        }
        let mut optimizer = AdamW::new(&config(), &parameters)?;
        for _ in 0..3 {
            optimizer.step(&mut parameters, &gradients, 0.01, 0.5)?;
        }
        for ((id, parameter), (before, decay)) in parameters.iter().zip(before.iter().zip([0.1, 0.0])) {
            let g = gradients.sum(id).tensor()?.flatten_all()?.to_vec1::<f32>()?;
            let expected = reference(before, |i| 0.5 * f64::from(g[i]), decay);
            let found = parameter.master().flatten_all()?.to_vec1::<f32>()?;
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} against {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn fused_equals_composed_and_rows_equal_dense() -> Result<()> {
        let (mut dense, mut sparse, composed) = (parameters()?, parameters()?, parameters()?);
        let table = dense.id("table").unwrap();
        let mut dense_gradients = Gradients::zeros(&dense, &[])?;
        let mut sparse_gradients = Gradients::zeros(&sparse, &[table])?;
        let mut optimizers = (
            AdamW::new(&config(), &dense)?,
            AdamW::new(&config(), &sparse)?,
            AdamW::new(&config(), &composed)?,
        );
        // Step 1 touches rows 1 and 4, step 2 only row 1: row 4 must go on moving on its momentum, also after a
        // resume, before which the optimizer does not know what it has touched.
        for rows in [vec![1u32, 4], vec![1], vec![]] {
            if rows.is_empty() {
                optimizers.1.resume_at(optimizers.1.steps());
            }
            let values = wave((rows.len(), 3), 0.8)?;
            dense_gradients.start_step(&[])?;
            dense_gradients.add_rows(table, &rows, &values)?;
            sparse_gradients.start_step(&rows)?;
            sparse_gradients.add_rows(table, &rows, &values)?;
            optimizers.0.step(&mut dense, &dense_gradients, 0.01, 1.0)?;
            optimizers.1.step(&mut sparse, &sparse_gradients, 0.01, 1.0)?;
            let t = f64::from(u32::try_from(optimizers.0.steps()).unwrap());
            for (((_, p), (_, g)), m) in
                composed.iter().zip(sparse_gradients.iter()).zip(&optimizers.2.moments)
            {
                let update = Update {
                    decay: if p.decays { 1.0 - 0.01 * 0.1 } else { 1.0 },
                    beta1: 0.9,
                    beta2: 0.999,
                    complement1: 0.1,
                    complement2: 0.001,
                    step_size: (0.01 / (1.0 - 0.9f64.powf(t))) as f32,
                    inverse_sqrt_correction2: (1.0 / (1.0 - 0.999f64.powf(t)).sqrt()) as f32,
                    eps: 1e-8,
                    scale: 1.0,
                };
                let Some(Moments::F32 { first, second }) = m else { panic!("f32 moments") };
                plain::update_composed(update, p.master(), [first, second], g)?;
            }
        }
        for ((id, a), (_, b)) in dense.iter().zip(sparse.iter()) {
            assert_close(a.master(), b.master(), 0.0);
            assert_close(composed.get(id).master(), b.master(), 1e-6);
        }
        Ok(())
    }

    #[test]
    fn rows_that_no_gradient_reached_are_not_touched() -> Result<()> {
        for weight_decay in [0.0, 0.1] {
            let mut parameters = parameters()?;
            let table = parameters.id("table").unwrap();
            let mut gradients = Gradients::zeros(&parameters, &[table])?;
            let mut optimizer = AdamW::new(&Config { weight_decay, ..config() }, &parameters)?;
            let values = |var: &Var| var.to_vec2::<f32>();
            let mut step = |optimizer: &mut AdamW| {
                gradients.start_step(&[1])?;
                gradients.add_rows(table, &[1], &wave((1, 3), 0.8)?)?;
                optimizer.step(&mut parameters, &gradients, 0.01, 1.0)?;
                values(parameters.get(table).master())
            };
            step(&mut optimizer)?;
            // Moments that no gradient left behind: who reads them moves the row.
            let Some(Moments::F32 { first, .. }) = &optimizer.moments()[0] else { panic!("f32 moments") };
            let first = first.clone();
            edit(&first, |m| m[9..12].fill(0.5))?;
            let before = step(&mut optimizer)?;
            let after = step(&mut optimizer)?;
            let decay = (1.0 - 0.01 * weight_decay) as f32;
            for row in [0, 2, 3, 4] {
                assert_eq!(after[row], before[row].iter().map(|p| p * decay).collect::<Vec<_>>());
            }
            assert_ne!(after[1], before[1]);
            assert_eq!(values(&first)?[3], [0.5; 3]);
            // A resumed optimizer does not know, and looks.
            optimizer.resume_at(optimizer.steps());
            assert!(step(&mut optimizer)?[3] < after[3].iter().map(|p| p * decay).collect());
        }
        Ok(())
    }

    #[test]
    fn frozen_parameters_stay_and_have_no_moments() -> Result<()> {
        let mut parameters = parameters()?;
        let table = parameters.id("table").unwrap();
        parameters.freeze(table);
        assert_eq!(parameters.trained_count(), 3);
        let gradients = Gradients::zeros(&parameters, &[])?;
        for (id, parameter) in parameters.iter() {
            gradients.sum(id).add(&wave(parameter.master().shape(), 1.7)?)?;
        }
        let before = [0, 1].map(|i| parameters.iter().nth(i).unwrap().1.master().copy().unwrap());
        let mut optimizer = AdamW::new(&config(), &parameters)?;
        optimizer.step(&mut parameters, &gradients, 0.01, 1.0)?;
        assert!(optimizer.moments()[0].is_none() && optimizer.moments()[1].is_some());
        let after: Vec<&Var> = parameters.iter().map(|(_, p)| p.master()).collect();
        assert_close(&before[0], after[0], 0.0);
        assert_ne!(before[1].to_vec1::<f32>()?, after[1].to_vec1::<f32>()?);
        Ok(())
    }
}
