//! Matrix products by cuBLAS: operands in f32 or bf16, sums in f32.

use candle_core::{DType, Result, Tensor};

/// A matrix [rows, columns] in row-major order, or the transpose of one.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub tensor: &'a Tensor,
    pub is_transposed: bool,
}

impl<'a> Operand<'a> {
    pub(crate) fn plain(tensor: &'a Tensor) -> Self {
        Self { tensor, is_transposed: false }
    }

    pub(crate) fn transposed(tensor: &'a Tensor) -> Self {
        Self { tensor, is_transposed: true }
    }

    fn dims(&self) -> Result<(usize, usize)> {
        let (rows, columns) = self.tensor.dims2()?;
        Ok(if self.is_transposed { (columns, rows) } else { (rows, columns) })
    }
}

/// `out = lhs . rhs`, or `out += lhs . rhs`, with `out` [M, N] in f32 or in the operands' dtype.
///
/// # Errors
/// If the shapes or dtypes do not fit together; a failure of cuBLAS.
pub(crate) fn product(out: &Tensor, is_added: bool, lhs: Operand, rhs: Operand) -> Result<()> {
    let ((m, k), (inner, n)) = (lhs.dims()?, rhs.dims()?);
    if k != inner || out.dims2()? != (m, n) {
        candle_core::bail!("a product of [{m}, {k}] and [{inner}, {n}] into {:?}", out.shape());
    }
    let dtype = lhs.tensor.dtype();
    let is_known = matches!(dtype, DType::F32 | DType::BF16) && rhs.tensor.dtype() == dtype;
    if !is_known || !(out.dtype() == dtype || out.dtype() == DType::F32) {
        let found = [lhs.tensor, rhs.tensor, out].map(Tensor::dtype);
        candle_core::bail!("a product of {:?} and {:?} into {:?}", found[0], found[1], found[2]);
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    compute(out, is_added, lhs, rhs, [m, n, k])
}

/// Has cuBLAS sum in f32 throughout: left alone, it may cut a long product and add the parts in bf16.
#[cfg(feature = "cuda")]
pub(super) fn set_up(device: &candle_core::CudaDevice) -> Result<()> {
    use candle_core::cuda::WrapErr;
    use candle_core::cuda::cudarc::cublas::sys;

    let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    // SAFETY: the handle is the device's own and lives as long as it.
    unsafe { sys::cublasSetMathMode(*device.cublas_handle().handle(), mode) }.result().w()
}

#[cfg(feature = "cuda")]
fn compute(out: &Tensor, is_added: bool, lhs: Operand, rhs: Operand, [m, n, k]: [usize; 3]) -> Result<()> {
    use super::launch::address;
    use candle_core::Device;
    use candle_core::cuda::WrapErr;
    use candle_core::cuda::cudarc::cublas::{result, sys};
    use std::ffi::{c_int, c_void};

    let Device::Cuda(device) = out.device() else { return compute_on_host(out, is_added, lhs, rhs) };
    let kind = |t: &Tensor| match t.dtype() {
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        _ => sys::cudaDataType::CUDA_R_32F,
    };
    let turn = |operand: Operand| match operand.is_transposed {
        false => sys::cublasOperation_t::CUBLAS_OP_N,
        true => sys::cublasOperation_t::CUBLAS_OP_T,
    };
    let int = |n: usize| c_int::try_from(n).map_err(|_| candle_core::Error::Msg(format!("a matrix of {n}")));
    let leading = |t: &Tensor| int(t.dims2()?.1);
    let (alpha, beta) = (1f32, if is_added { 1f32 } else { 0f32 });
    // cuBLAS counts by columns: to it our row-major matrices are their transposes, so it forms rhs^T . lhs^T = out^T.
    // SAFETY: shapes and dtypes were checked, addresses are of contiguous tensors on this device, and the handle
    // enqueues on the device's one stream.
    unsafe {
        result::gemm_ex(
            *device.cublas_handle().handle(),
            turn(rhs),
            turn(lhs),
            int(n)?,
            int(m)?,
            int(k)?,
            std::ptr::from_ref(&alpha).cast::<c_void>(),
            address(rhs.tensor)? as *const c_void,
            kind(rhs.tensor),
            leading(rhs.tensor)?,
            address(lhs.tensor)? as *const c_void,
            kind(lhs.tensor),
            leading(lhs.tensor)?,
            std::ptr::from_ref(&beta).cast::<c_void>(),
            address(out)? as *mut c_void,
            kind(out),
            leading(out)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

#[cfg(not(feature = "cuda"))]
fn compute(out: &Tensor, is_added: bool, lhs: Operand, rhs: Operand, _: [usize; 3]) -> Result<()> {
    compute_on_host(out, is_added, lhs, rhs)
}

#[cfg(not(test))]
fn compute_on_host(out: &Tensor, _: bool, _: Operand, _: Operand) -> Result<()> {
    candle_core::bail!("a product for CUDA on {:?}", out.device())
}

/// What cuBLAS computes, for the emulation.
#[cfg(test)]
fn compute_on_host(out: &Tensor, is_added: bool, lhs: Operand, rhs: Operand) -> Result<()> {
    let f32_of = |operand: Operand| {
        let tensor = operand.tensor.to_dtype(DType::F32)?;
        if operand.is_transposed { tensor.t()?.contiguous() } else { Ok(tensor) }
    };
    let mut sum = f32_of(lhs)?.matmul(&f32_of(rhs)?)?;
    if is_added {
        sum = (sum + out.to_dtype(DType::F32)?)?;
    }
    super::launch::overwrite(out, &sum.to_dtype(out.dtype())?)
}
