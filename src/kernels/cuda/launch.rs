//! Launching kernels: names, grids, and arguments as the CUDA driver takes them.
//!
//! The same launches run on the host in tests, where an emulation of the device executes the same sources on the
//! memory of CPU tensors: what is tested is the kernels together with the grids and arguments they are launched with.

use candle_core::{DType, Device, Result, Tensor};

/// Threads of a block, wherever a kernel has no reason for another number.
pub(super) const BLOCK: u32 = 256;
/// Blocks of a kernel that strides over its values: enough for every multiprocessor of any GPU, several times.
const MAX_STRIDING_BLOCKS: usize = 4096;
/// Values that a thread of a striding kernel takes at once.
const VALUES_PER_THREAD: usize = 8;

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// The values of a contiguous tensor.
    Values(&'a Tensor),
    /// The values of a contiguous tensor from an element on.
    From(&'a Tensor, usize),
    /// A tensor that is not there.
    Null,
    Int(usize),
    Long(usize),
    Seed(u64),
    Float(f32),
}

impl<'a> Arg<'a> {
    pub(super) fn optional(tensor: Option<&'a Tensor>) -> Self {
        tensor.map_or(Self::Null, Self::Values)
    }
}

/// One kernel with its grid.
#[derive(Debug, Clone)]
#[cfg_attr(not(any(test, feature = "cuda")), expect(dead_code, reason = "nothing is launched in this build"))]
pub(super) struct Launch {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
}

impl Launch {
    /// `kernel` over `grid` blocks.
    pub(super) fn new(kernel: impl Into<String>, grid: [usize; 2]) -> Result<Self> {
        let kernel = kernel.into();
        let [x, y] = grid.map(u32::try_from);
        let (Ok(x), Ok(y)) = (x, y) else { candle_core::bail!("{kernel}: a grid of {grid:?} blocks") };
        Ok(Self { kernel, grid: [x, y, 1], block: [BLOCK, 1, 1], shared_bytes: 0 })
    }

    /// `kernel` over `values` values, each block striding over the whole.
    pub(super) fn striding(kernel: impl Into<String>, values: usize) -> Result<Self> {
        Self::new(kernel, [striding_blocks(values), 1])
    }

    pub(super) fn block(self, x: u32, y: u32) -> Self {
        Self { block: [x, y, 1], ..self }
    }

    /// Dynamic shared memory of a block.
    pub(super) fn shared(self, bytes: usize) -> Self {
        Self { shared_bytes: bytes as u32, ..self }
    }

    /// Enqueues it on the device's stream.
    ///
    /// # Errors
    /// A tensor that is not contiguous or lies elsewhere; a failure of the driver.
    pub(super) fn run(&self, device: &Device, args: &[Arg]) -> Result<()> {
        if self.grid.contains(&0) {
            return Ok(());
        }
        let values = args.iter().map(|arg| arg.value(&self.kernel)).collect::<Result<Vec<Value>>>()?;
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => self.enqueue(device, &values),
            #[cfg(test)]
            Device::Cpu => self.emulate(&values),
            _ => candle_core::bail!(
                "{}: this build launches nothing on {device:?}, {} arguments",
                self.kernel,
                values.len()
            ),
        }
    }

    #[cfg(feature = "cuda")]
    fn enqueue(&self, device: &candle_core::CudaDevice, values: &[Value]) -> Result<()> {
        use candle_core::cuda::WrapErr;
        use candle_core::cuda::cudarc::driver::{LaunchConfig, PushKernelArg, sys};

        /// What kernels declare by themselves is less than this.
        const STATIC_BYTES: u32 = 1024;
        /// What a block may use without asking.
        const SHARED_BYTES_BY_DEFAULT: u32 = 48 << 10;
        let (module, ptx) = super::ptx::module_of(&self.kernel)?;
        let function = device.get_or_load_custom_func(&self.kernel, module, ptx)?;
        if self.shared_bytes + STATIC_BYTES > SHARED_BYTES_BY_DEFAULT {
            let limit = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            let limit = device.cuda_stream().context().attribute(limit).w()?;
            if i64::from(self.shared_bytes + STATIC_BYTES) > i64::from(limit) {
                candle_core::bail!(
                    "{}: a model of this width takes {} bytes of shared memory a block, and this GPU has {limit}; a \
                     larger GPU or device = \"cpu\" computes it",
                    self.kernel,
                    self.shared_bytes
                );
            }
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, self.shared_bytes as i32).w()?;
        }
        let mut builder = function.builder();
        for value in values {
            match value {
                Value::Word(word) => builder.arg(word),
                Value::Int(int) => builder.arg(int),
                Value::Float(float) => builder.arg(float),
            };
        }
        let [grid, block] = [self.grid, self.block].map(|[x, y, z]| (x, y, z));
        let config = LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: self.shared_bytes };
        // SAFETY: the arguments are as many and of the sizes that the kernel's signature says, which the emulation checks
        // of the same launches in tests. Memory is freed in the order of the stream, so after this kernel.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    #[cfg(test)]
    fn emulate(&self, values: &[Value]) -> Result<()> {
        let args: Vec<super::emulator::Arg> =
            values.iter().map(|value| (value.pointer(), value.size())).collect();
        super::emulator::launch(&self.kernel, self.grid, self.block, self.shared_bytes, &args)
            .map_err(|message| candle_core::Error::Msg(format!("{}: {message}", self.kernel)))
    }
}

/// Blocks of a kernel that strides over so many values.
pub(super) fn striding_blocks(values: usize) -> usize {
    values.div_ceil(BLOCK as usize * VALUES_PER_THREAD).min(MAX_STRIDING_BLOCKS)
}

/// An argument as the driver reads it.
#[cfg_attr(not(any(test, feature = "cuda")), expect(dead_code, reason = "nothing is launched in this build"))]
enum Value {
    Word(u64),
    Int(i32),
    Float(f32),
}

impl Value {
    #[cfg(test)]
    fn pointer(&self) -> *mut std::ffi::c_void {
        match self {
            Value::Word(word) => std::ptr::from_ref(word).cast_mut().cast(),
            Value::Int(int) => std::ptr::from_ref(int).cast_mut().cast(),
            Value::Float(float) => std::ptr::from_ref(float).cast_mut().cast(),
        }
    }

    #[cfg(test)]
    fn size(&self) -> usize {
        match self {
            Value::Word(_) => size_of::<u64>(),
            Value::Int(_) => size_of::<i32>(),
            Value::Float(_) => size_of::<f32>(),
        }
    }
}

impl Arg<'_> {
    fn value(&self, kernel: &str) -> Result<Value> {
        Ok(match *self {
            Arg::Values(tensor) => Value::Word(address(tensor)?),
            Arg::From(tensor, element) => {
                Value::Word(address(tensor)? + (element * tensor.dtype().size_in_bytes()) as u64)
            }
            Arg::Null => Value::Word(0),
            Arg::Int(int) => match i32::try_from(int) {
                Ok(int) => Value::Int(int),
                Err(_) => candle_core::bail!("{kernel}: {int} is more than a kernel counts to"),
            },
            Arg::Long(long) => Value::Word(long as u64),
            Arg::Seed(seed) => Value::Word(seed),
            Arg::Float(float) => Value::Float(float),
        })
    }
}

/// Where the values of a contiguous tensor begin.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        candle_core::bail!("a kernel takes contiguous tensors, found {:?}", layout.stride())
    };
    let base: Result<u64> = match &*storage {
        #[cfg(feature = "cuda")]
        candle_core::Storage::Cuda(storage) => super::memory::address(storage, tensor.dtype()),
        #[cfg(test)]
        candle_core::Storage::Cpu(storage) => host_address(storage),
        _ => Err(candle_core::Error::Msg(format!("a kernel takes no tensors on {:?}", tensor.device()))),
    };
    Ok(base? + (start * tensor.dtype().size_in_bytes()) as u64)
}

#[cfg(test)]
fn host_address(storage: &candle_core::CpuStorage) -> Result<u64> {
    use candle_core::CpuStorage;
    Ok(match storage {
        CpuStorage::U8(values) => values.as_ptr() as u64,
        CpuStorage::U32(values) => values.as_ptr() as u64,
        CpuStorage::BF16(values) => values.as_ptr() as u64,
        CpuStorage::F32(values) => values.as_ptr() as u64,
        CpuStorage::F64(values) => values.as_ptr() as u64,
        _ => candle_core::bail!("the emulation knows no tensors of this kind"),
    })
}

/// `name` for values of `dtype`.
pub(super) fn typed(name: &str, dtype: DType) -> Result<String> {
    match dtype {
        DType::F32 => Ok(format!("{name}_f32")),
        DType::BF16 => Ok(format!("{name}_bf16")),
        _ => candle_core::bail!("{name}: found values of {dtype:?}, expected f32 or bf16"),
    }
}

/// A tensor whose values nobody has written yet: a kernel is about to.
pub(crate) fn unwritten(
    shape: impl Into<candle_core::Shape>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    // SAFETY: every caller launches a kernel that writes all of it before anything reads it.
    let tensor = unsafe { Tensor::empty(shape, dtype, device) }?;
    #[cfg(test)]
    poison(&tensor)?;
    Ok(tensor)
}

/// NaN in every value, so that what a kernel leaves unwritten shows.
#[cfg(test)]
fn poison(tensor: &Tensor) -> Result<()> {
    if tensor.device().is_cpu() {
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        // SAFETY: the tensor was just made: contiguous, of this size, and nobody else's.
        unsafe { std::ptr::write_bytes(address(tensor)? as *mut u8, 0xff, bytes) };
    }
    Ok(())
}

/// Writes `values` over those of `tensor`, for what the emulation computes without a kernel.
#[cfg(test)]
pub(super) fn overwrite(tensor: &Tensor, values: &Tensor) -> Result<()> {
    let values = values.flatten_all()?;
    let bytes = values.elem_count() * values.dtype().size_in_bytes();
    if values.dtype() != tensor.dtype() || values.elem_count() != tensor.elem_count() {
        candle_core::bail!("{values} over {tensor}");
    }
    // SAFETY: both are contiguous and of this size; the emulated device is the only one that uses them.
    unsafe {
        std::ptr::copy_nonoverlapping(address(&values)? as *const u8, address(tensor)? as *mut u8, bytes)
    };
    Ok(())
}
