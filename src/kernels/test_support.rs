//! What kernel tests share: inputs, comparison, finite differences.

use candle_core::{Device, Result, Shape, Tensor};

/// A smooth, aperiodic test input of values in [-1, 1].
pub(crate) fn wave(shape: impl Into<Shape>, frequency: f32) -> Result<Tensor> {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elem_count()).map(|i| (i as f32 * frequency + 0.1).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Asserts |a - b| <= tolerance * (1 + |b|) everywhere.
#[track_caller]
pub(crate) fn assert_close(a: &Tensor, b: &Tensor, tolerance: f32) {
    assert_eq!(a.shape(), b.shape());
    let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).unwrap();
    for (i, (a, b)) in flat(a).iter().zip(flat(b)).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "value {i}: {a} against {b}");
    }
}

/// d(sum(f(x) * dy))/dx by central differences.
pub(crate) fn finite_difference(
    x: &Tensor,
    dy: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    const STEP: f32 = 1e-2;
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    let loss = |values: Vec<f32>| -> Result<f32> {
        let y = f(&Tensor::from_vec(values, x.shape(), &Device::Cpu)?)?;
        (y * dy)?.sum_all()?.to_scalar()
    };
    let gradient = (0..values.len())
        .map(|i| {
            let (mut up, mut down) = (values.clone(), values.clone());
            up[i] += STEP;
            down[i] -= STEP;
            Ok((loss(up)? - loss(down)?) / (2.0 * STEP))
        })
        .collect::<Result<Vec<f32>>>()?;
    Tensor::from_vec(gradient, x.shape(), &Device::Cpu)
}
