//! Token embedding: a gather of rows forward, a scatter into the touched rows backward.

use super::{Indices, cuda, host};
use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// Rows of `table` [V, H] at `rows`, to [N, H]. Also used to pick the last tokens out of packed activations.
pub fn gather(table: &Tensor, rows: &Indices) -> Result<Tensor> {
    let (height, width) = table.dims2()?;
    if let Some(row) = rows.iter().find(|&&row| row as usize >= height) {
        candle_core::bail!("row {row} of a table with {height} rows");
    }
    if cuda::takes(table) {
        return cuda::rows::gather(table, rows);
    }
    if !host::is_host_f32(table) {
        return table.index_select(rows.on(table.device())?, 0);
    }
    let mut out = vec![0.0f32; rows.len() * width];
    host::with(table, |table| {
        out.par_chunks_mut(width).zip(&**rows).for_each(|(out, &row)| {
            out.copy_from_slice(&table[row as usize * width..][..width]);
        });
    })?;
    host::tensor(out, (rows.len(), width))
}

/// The backward of [`gather`] where every row was taken at most once: `dy` [S, H] into zeros [N, H].
pub fn scatter(dy: &Tensor, rows: &Indices, height: usize) -> Result<Tensor> {
    let width = dy.dim(1)?;
    if let Some(row) = rows.iter().find(|&&row| row as usize >= height) {
        candle_core::bail!("row {row} of a table with {height} rows");
    }
    if cuda::takes(dy) {
        return cuda::rows::scatter(dy, rows, height);
    }
    if !host::is_host_f32(dy) {
        let zeros = Tensor::zeros((height, width), dy.dtype(), dy.device())?;
        return zeros.index_add(rows.on(dy.device())?, dy, 0);
    }
    let mut out = vec![0.0f32; height * width];
    host::with(dy, |dy| {
        for (dy, &row) in dy.chunks_exact(width).zip(&**rows) {
            out[row as usize * width..][..width].copy_from_slice(dy);
        }
    })?;
    host::tensor(out, (height, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn gathers_and_scatters() -> Result<()> {
        let table = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
        let picked = gather(&table, &[2, 0].into())?;
        assert_eq!(picked.to_vec2::<f32>()?, [[5., 6.], [1., 2.]]);
        assert_eq!(scatter(&picked, &[2, 0].into(), 3)?.to_vec2::<f32>()?, [[1., 2.], [0., 0.], [5., 6.]]);
        assert!(
            gather(&table, &[3].into()).unwrap_err().to_string().contains("row 3 of a table with 3 rows")
        );
        Ok(())
    }
}
