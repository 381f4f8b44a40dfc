//! AdamW with decoupled weight decay, f32 masters and moments, one fused pass on the CPU.
//!
//! ```python
//! # torch.optim.AdamW, step t >= 1
//! p *= 1 - lr * weight_decay
//! m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g * g
//! p -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)
//! ```

use super::{Config, Gradient, Gradients, ParameterId, Parameters};
use crate::kernels::accumulator::edit;
use crate::kernels::{Accumulator, host, vectorized};
use candle_core::{DType, Result, Tensor, Var};
use rayon::prelude::*;

const VALUES_PER_TASK: usize = 1 << 14;
/// Rows of a table, at least.
const ROWS_PER_TASK: usize = 32;

/// The optimizer's state: two moments a parameter, and the number of steps taken.
#[derive(Debug)]
pub struct AdamW {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    steps: u64,
    moments: Vec<Moments>,
    /// Of each parameter with row gradients, which rows a gradient ever reached; `None` until that is known. The
    /// moments of the others are zero, so an update leaves them as they are but for their decay: they are not even
    /// read, and what was never written takes no memory.
    reached: Vec<Option<Vec<bool>>>,
}

/// First and second moment of one parameter, f32, of its shape.
#[derive(Debug, Clone)]
pub struct Moments {
    pub first: Var,
    pub second: Var,
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
    /// Zero moments for `parameters`.
    pub fn new(config: &Config, parameters: &Parameters) -> Result<Self> {
        let zeros = |(_, p): (ParameterId, &super::Parameter)| {
            let like = p.master();
            let zeros = || Var::zeros(like.shape(), DType::F32, like.device());
            Ok(Moments { first: zeros()?, second: zeros()? })
        };
        Ok(Self {
            betas: config.betas,
            eps: config.eps,
            weight_decay: config.weight_decay,
            steps: 0,
            moments: parameters.iter().map(zeros).collect::<Result<_>>()?,
            reached: parameters.iter().map(|(_, p)| Some(vec![false; p.master().dims()[0]])).collect(),
        })
    }

    /// Updates every parameter once. `scale` multiplies the gradients first.
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
        for (((_, parameter), (_, gradient)), (moments, reached)) in
            parameters.iter().zip(gradients.iter()).zip(state)
        {
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
            if host::is_host_f32(parameter.master()) {
                match gradient {
                    Gradient::Dense(sum) => {
                        *reached = None;
                        update_dense(update, parameter.master(), moments, sum)?;
                    }
                    Gradient::Rows { rows, sum } => {
                        update_rows(update, parameter.master(), moments, reached, rows, sum)?;
                    }
                }
            } else {
                update_composed(update, parameter.master(), moments, gradient)?;
            }
        }
        parameters.refresh()
    }

    /// Updates taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments of a parameter, to save them.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Continues after `steps` updates; the moments have been written through [`AdamW::moments`].
    pub fn resume_at(&mut self, steps: u64) {
        self.steps = steps;
        self.reached.fill(None);
    }
}

vectorized! {
/// Updates slices of one length: parameter, moments and gradient.
fn update_slice(u: Update, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        let g = g * u.scale;
        *m = u.beta1 * *m + u.complement1 * g;
        *v = u.beta2 * *v + u.complement2 * g * g;
        let denominator = v.sqrt() * u.inverse_sqrt_correction2 + u.eps;
        *p = u.decay * *p - u.step_size * (*m / denominator);
    }
}
}

vectorized! {
/// [`update_slice`] for a gradient of zero.
fn update_without_gradient(u: Update, p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
        *m *= u.beta1;
        *v *= u.beta2;
        let denominator = v.sqrt() * u.inverse_sqrt_correction2 + u.eps;
        *p = u.decay * *p - u.step_size * (*m / denominator);
    }
}
}

vectorized! {
/// [`update_slice`] for a gradient of zero and moments of zero.
fn decay_slice(decay: f32, p: &mut [f32]) {
    p.iter_mut().for_each(|p| *p *= decay);
}
}

fn update_dense(u: Update, parameter: &Var, moments: &Moments, sum: &Accumulator) -> Result<()> {
    with_state(parameter, moments, |p, m, v| {
        host::with(sum.tensor()?, |g| {
            let chunks = p.par_chunks_mut(VALUES_PER_TASK).zip(m.par_chunks_mut(VALUES_PER_TASK));
            let chunks = chunks.zip(v.par_chunks_mut(VALUES_PER_TASK)).zip(g.par_chunks(VALUES_PER_TASK));
            chunks.for_each(|(((p, m), v), g)| update_slice(u, p, m, v, g));
        })
    })
}

/// Dense AdamW, where only `rows` have a gradient.
fn update_rows(
    u: Update,
    parameter: &Var,
    moments: &Moments,
    reached: &mut Option<Vec<bool>>,
    rows: &[u32],
    sum: &Accumulator,
) -> Result<()> {
    let width = sum.tensor()?.dim(1)?;
    with_state(parameter, moments, |p, m, v| {
        let is_moving = |(m, v): (&[f32], &[f32])| m.iter().chain(v).any(|&moment| moment != 0.0);
        let reached = reached.get_or_insert_with(|| {
            m.par_chunks(width).zip(v.par_chunks(width)).map(is_moving).collect::<Vec<bool>>()
        });
        for &row in rows {
            reached[row as usize] = true;
        }
        host::with(sum.tensor()?, |g| {
            let rows_of = |values| <[f32]>::par_chunks_mut(values, width);
            let table = rows_of(p).zip(rows_of(m)).zip(rows_of(v)).zip(&*reached).enumerate();
            table.with_min_len(ROWS_PER_TASK).for_each(|(row, (((p, m), v), &reached))| {
                match rows.binary_search(&(row as u32)) {
                    Ok(slot) => update_slice(u, p, m, v, &g[slot * width..][..width]),
                    // It still moves on its old moments.
                    Err(_) if reached => update_without_gradient(u, p, m, v),
                    Err(_) if u.decay != 1.0 => decay_slice(u.decay, p),
                    Err(_) => {}
                }
            });
        })
    })
}

/// Lends the values of a parameter and its moments, all three mutable.
fn with_state(
    parameter: &Var,
    moments: &Moments,
    f: impl FnOnce(&mut [f32], &mut [f32], &mut [f32]) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    edit(parameter, |p| {
        outcome = (|| {
            let mut outcome = Ok(());
            edit(&moments.first, |m| {
                outcome = (|| {
                    let mut outcome = Ok(());
                    edit(&moments.second, |v| outcome = f(p, m, v))?;
                    outcome
                })();
            })?;
            outcome
        })();
    })?;
    outcome
}

fn update_composed(u: Update, parameter: &Var, moments: &Moments, gradient: &Gradient) -> Result<()> {
    let dense;
    let g: &Tensor = match gradient {
        Gradient::Dense(sum) => sum.tensor()?,
        Gradient::Rows { rows, sum } => {
            let rows = Tensor::new(rows.as_slice(), parameter.device())?;
            dense = parameter.zeros_like()?.index_add(&rows, sum.tensor()?, 0)?;
            &dense
        }
    };
    let [decay, beta1, beta2, complement1, complement2] =
        [u.decay, u.beta1, u.beta2, u.complement1, u.complement2].map(f64::from);
    let [step_size, correction, eps, scale] =
        [u.step_size, u.inverse_sqrt_correction2, u.eps, u.scale].map(f64::from);
    let g = (g * scale)?;
    let m = ((moments.first.as_tensor() * beta1)? + (&g * complement1)?)?;
    let v = ((moments.second.as_tensor() * beta2)? + (g.sqr()? * complement2)?)?;
    let denominator = ((v.sqrt()? * correction)? + eps)?;
    let p = ((parameter.as_tensor() * decay)? - ((&m / denominator)? * step_size)?)?;
    moments.first.set(&m)?;
    moments.second.set(&v)?;
    parameter.set(&p)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_close, wave};

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
                update_composed(update, p.master(), m, g)?;
            }
        }
        for ((id, a), (_, b)) in dense.iter().zip(sparse.iter()) {
            assert_close(a.master(), b.master(), 0.0);
            assert_close(composed.get(id).master(), b.master(), 1e-6);
        }
        Ok(())
    }
}
