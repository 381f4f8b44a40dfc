//! Parameters in a fixed order with f32 masters, and the gradients that belong to them.

use crate::kernels::{Accumulator, cuda};
use candle_core::{DType, Result, Tensor, Var};
use std::collections::HashMap;

/// One tensor of the model.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The Hugging Face name.
    pub name: String,
    /// Weight decay applies (matrices; never norms and biases).
    pub decays: bool,
    /// Gets no gradient and no update.
    pub is_frozen: bool,
    master: Var,
    /// The master in the compute dtype; the master itself where that is f32.
    compute: Tensor,
}

impl Parameter {
    /// The f32 values that are optimized and saved.
    pub fn master(&self) -> &Var {
        &self.master
    }

    /// What forward and backward read.
    pub fn compute(&self) -> &Tensor {
        &self.compute
    }
}

/// Names a parameter of one [`Parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParameterId(usize);

/// All parameters of a model, in the order in which they were added.
#[derive(Debug)]
pub struct Parameters {
    items: Vec<Parameter>,
    ids: HashMap<String, ParameterId>,
    compute_dtype: DType,
}

impl Parameters {
    pub fn new(compute_dtype: DType) -> Self {
        Self { items: Vec::new(), ids: HashMap::new(), compute_dtype }
    }

    /// Adds a parameter from its f32 values.
    pub fn add(&mut self, name: impl Into<String>, values: &Tensor, decays: bool) -> Result<ParameterId> {
        let name = name.into();
        let master = Var::from_tensor(&values.to_dtype(DType::F32)?)?;
        let compute = master.as_detached_tensor().to_dtype(self.compute_dtype)?;
        let id = ParameterId(self.items.len());
        if self.ids.insert(name.clone(), id).is_some() {
            candle_core::bail!("parameter {name} was added twice");
        }
        self.items.push(Parameter { name, decays, is_frozen: false, master, compute });
        Ok(id)
    }

    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.items[id.0]
    }

    /// Says whether weight decay applies to `id`.
    pub fn set_decays(&mut self, id: ParameterId, decays: bool) {
        self.items[id.0].decays = decays;
    }

    /// From here on the optimizer leaves `id` as it is, and no gradient is asked for.
    pub fn freeze(&mut self, id: ParameterId) {
        self.items[id.0].is_frozen = true;
    }

    /// The compute tensor of `id`.
    pub fn tensor(&self, id: ParameterId) -> &Tensor {
        &self.items[id.0].compute
    }

    pub fn id(&self, name: &str) -> Option<ParameterId> {
        self.ids.get(name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Parameter)> {
        self.items.iter().enumerate().map(|(i, p)| (ParameterId(i), p))
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.items.iter().map(|p| p.master.elem_count()).sum()
    }

    /// How many numbers are trained.
    pub fn trained_count(&self) -> usize {
        self.items.iter().filter(|p| !p.is_frozen).map(|p| p.master.elem_count()).sum()
    }

    /// Brings the compute tensors up to date after the masters changed, but for those that the optimizer wrote itself.
    pub fn refresh(&mut self) -> Result<()> {
        if self.compute_dtype != DType::F32 {
            let is_written = |item: &Parameter| cuda::takes(&item.master) && cuda::takes(&item.compute);
            for item in self.items.iter_mut().filter(|item| !item.is_frozen && !is_written(item)) {
                item.compute = item.master.as_detached_tensor().to_dtype(self.compute_dtype)?;
            }
        }
        Ok(())
    }
}

/// The gradient of one parameter, as sums in f32.
#[derive(Debug)]
pub enum Gradient {
    Dense(Accumulator),
    /// Rows of a table that no token touched have gradient zero and are not stored.
    Rows {
        /// Rows that were touched, ascending.
        rows: Vec<u32>,
        /// Their gradients, [rows, H].
        sum: Accumulator,
    },
}

impl Gradient {
    /// The accumulator of whatever is stored.
    pub fn sum(&self) -> &Accumulator {
        match self {
            Gradient::Dense(sum) | Gradient::Rows { sum, .. } => sum,
        }
    }
}

/// The norm of each parameter's gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct Norms {
    squares: Vec<f64>,
}

impl Norms {
    /// The norm over all gradients together. NaN or infinity if any value is.
    pub fn global(&self) -> f64 {
        self.squares.iter().sum::<f64>().sqrt()
    }

    pub fn of(&self, id: ParameterId) -> f64 {
        self.squares[id.0].sqrt()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, f64)> {
        self.squares.iter().enumerate().map(|(i, &square)| (ParameterId(i), square.sqrt()))
    }
}

/// One gradient a parameter, in the order of [`Parameters`]. That of a frozen one stays zero and takes no memory.
#[derive(Debug)]
pub struct Gradients {
    items: Vec<Gradient>,
}

impl Gradients {
    /// Zeros. The parameters in `sparse` get row gradients, empty until [`Gradients::start_step`].
    pub fn zeros(parameters: &Parameters, sparse: &[ParameterId]) -> Result<Self> {
        let zeros = |(id, parameter): (ParameterId, &Parameter)| {
            let master = parameter.master.as_tensor();
            if sparse.contains(&id) {
                let sum = Accumulator::zeros((0, master.dim(1)?), master);
                return Ok(Gradient::Rows { rows: Vec::new(), sum });
            }
            Ok(Gradient::Dense(Accumulator::zeros(master.shape(), master)))
        };
        Ok(Self { items: parameters.iter().map(zeros).collect::<Result<_>>()? })
    }

    /// Back to zero, with room for the given rows (ascending, distinct) of each sparse parameter.
    pub fn start_step(&mut self, rows: &[u32]) -> Result<()> {
        for item in &mut self.items {
            match item {
                Gradient::Dense(sum) => sum.release(),
                Gradient::Rows { rows: touched, sum } => {
                    *touched = rows.to_vec();
                    *sum = sum.with_rows(rows.len())?;
                }
            }
        }
        Ok(())
    }

    /// Back to zero once they are used up: their memory is free for the next step's activations.
    pub fn release(&mut self) {
        for item in &mut self.items {
            match item {
                Gradient::Dense(sum) | Gradient::Rows { sum, .. } => sum.release(),
            }
        }
    }

    pub fn get(&self, id: ParameterId) -> &Gradient {
        &self.items[id.0]
    }

    /// The dense sum of `id`, or the stored rows of a sparse one.
    pub fn sum(&self, id: ParameterId) -> &Accumulator {
        self.items[id.0].sum()
    }

    /// Adds `values` [N, H] to rows `rows` [N] of a sparse parameter.
    pub fn add_rows(&self, id: ParameterId, rows: &[u32], values: &Tensor) -> Result<()> {
        let Gradient::Rows { rows: touched, sum } = &self.items[id.0] else {
            return self.sum(id).add_rows(rows, values);
        };
        let slot = |row| match touched.binary_search(row) {
            Ok(slot) => Ok(slot as u32),
            Err(_) => candle_core::bail!("row {row} was not announced at the start of the step"),
        };
        sum.add_rows(&rows.iter().map(slot).collect::<Result<Vec<_>>>()?, values)
    }

    /// The norm of every gradient. A GPU is waited for once.
    pub fn norms(&self) -> Result<Norms> {
        let sums: Vec<&Accumulator> = self.items.iter().map(Gradient::sum).collect();
        Ok(Norms { squares: Accumulator::sums_of_squares(&sums)? })
    }

    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Gradient)> {
        self.items.iter().enumerate().map(|(i, g)| (ParameterId(i), g))
    }
}
