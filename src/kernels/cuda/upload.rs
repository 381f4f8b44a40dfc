//! What the host computes for the device: row numbers, and gradients of rewards.
//!
//! A copy from ordinary memory goes through the driver's own staging buffer, and the host waits for what was enqueued
//! before it. From page-locked memory a copy is enqueued like a kernel, and the host goes on. Page-locked memory is dear to
//! get and to give back (either may wait for the device), so buffers are kept, and used again once their copy is done.

#[cfg(feature = "cuda")]
use candle_core::cuda::{CudaDType, cudarc::driver::DeviceRepr};
use candle_core::{Device, Result, Shape, Tensor, WithDType};

/// What can be copied: numbers of one machine word.
#[cfg(feature = "cuda")]
pub(crate) trait Number: WithDType + CudaDType + DeviceRepr {}
/// What can be copied: numbers of one machine word.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Number: WithDType {}

impl Number for u32 {}
impl Number for f32 {}

/// `values` as a tensor on `device`. A GPU is not waited for.
///
/// # Errors
/// If the values are not as many as `shape` says; a failure of the driver.
pub(crate) fn numbers<T: Number>(values: &[T], shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) if !values.is_empty() => staged::copy(values, shape, device),
        _ => Tensor::from_slice(values, shape, device),
    }
}

#[cfg(feature = "cuda")]
mod staged {
    use super::Number;
    use candle_core::cuda::WrapErr;
    use candle_core::cuda::cudarc::driver::result;
    use candle_core::cuda::cudarc::driver::{
        CudaEvent, CudaStream, DevicePtrMut, HostSlice, PinnedHostSlice,
    };
    use candle_core::op::BackpropOp;
    use candle_core::{CudaDevice, CudaStorage, Result, Shape, Storage, Tensor};
    use std::cell::RefCell;
    use std::sync::Arc;

    /// The least that a buffer holds, in bytes, so that few sizes serve all packs.
    const LEAST: usize = 64 << 10;

    thread_local! {
        /// Buffers of this thread, which is the one that launches its device's kernels.
        static BUFFERS: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
    }

    struct Buffer {
        memory: PinnedHostSlice<u8>,
        /// Reached when the last copy from `memory` is done.
        copied: CudaEvent,
    }

    impl Buffer {
        fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
            let context = stream.context();
            // SAFETY: only what was written before is read (`send`).
            let memory = unsafe { context.alloc_pinned(bytes.next_power_of_two().max(LEAST)) }.w()?;
            Ok(Self { memory, copied: context.new_event(None).w()? })
        }

        fn serves(&self, stream: &Arc<CudaStream>, bytes: usize) -> bool {
            self.memory.len() >= bytes
                && Arc::ptr_eq(self.memory.context(), stream.context())
                && self.copied.is_complete()
        }

        fn send(&mut self, bytes: &[u8], stream: &Arc<CudaStream>, to: u64) -> Result<()> {
            self.memory.as_mut_slice().w()?[..bytes.len()].copy_from_slice(bytes);
            // SAFETY: the slice is used with this stream alone; its guard records the memory's own event, which its
            // release waits for.
            let (from, _in_use) = unsafe { self.memory.stream_synced_slice(stream) };
            // SAFETY: `to` has room for the bytes, and the memory is not written again before `copied`.
            unsafe { result::memcpy_htod_async(to, &from[..bytes.len()], stream.cu_stream()) }.w()?;
            self.copied.record(stream).w()
        }
    }

    pub(super) fn copy<T: Number>(values: &[T], shape: Shape, device: &CudaDevice) -> Result<Tensor> {
        if shape.elem_count() != values.len() {
            candle_core::bail!("found {} values for a tensor of shape {shape:?}", values.len());
        }
        // SAFETY: u32 and f32 have no padding, and any byte is a u8.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), std::mem::size_of_val(values))
        };
        let stream = device.cuda_stream();
        // SAFETY: all of it is written by the copy, which is enqueued before anything that reads it.
        let mut on_device = unsafe { device.alloc::<T>(values.len()) }?;
        BUFFERS.with_borrow_mut(|buffers| {
            let mut buffer = match buffers.iter().position(|buffer| buffer.serves(&stream, bytes.len())) {
                Some(at) => buffers.swap_remove(at),
                None => Buffer::new(&stream, bytes.len())?,
            };
            let (to, _in_use) = on_device.device_ptr_mut(&stream);
            let sent = buffer.send(bytes, &stream, to);
            buffers.push(buffer);
            sent
        })?;
        let storage = CudaStorage::wrap_cuda_slice(on_device, device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }
}
