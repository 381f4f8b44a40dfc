//! The device's memory: a stream-ordered pool that keeps what it has, and what of it is used.

/// Bytes of the device and of this process on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Free for this process: of the device, and of its own pool.
    pub free: u64,
    pub total: u64,
    /// The most that was in use at once since [`reset_peak`].
    pub peak: u64,
}

#[cfg(feature = "cuda")]
mod pool {
    use super::DeviceMemory;
    use candle_core::cuda::cudarc::driver::{result, sys};
    use candle_core::cuda::{CudaStorageSlice, WrapErr};
    use candle_core::{CudaDevice, CudaStorage, DType, Result};
    use std::ffi::c_void;

    fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
        let stream = device.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().w()?;
        // SAFETY: the device handle is the context's own and outlives the call.
        unsafe { result::device::get_default_mem_pool(context.cu_device()) }.w()
    }

    fn read(pool: sys::CUmemoryPool, attribute: sys::CUmemPool_attribute) -> Result<u64> {
        let mut value = 0u64;
        // SAFETY: these attributes are 64 bits wide.
        unsafe {
            result::mem_pool::get_attribute(pool, attribute, std::ptr::from_mut(&mut value).cast::<c_void>())
        }
        .w()?;
        Ok(value)
    }

    fn write(pool: sys::CUmemoryPool, attribute: sys::CUmemPool_attribute, mut value: u64) -> Result<()> {
        // SAFETY: these attributes are 64 bits wide.
        unsafe {
            result::mem_pool::set_attribute(pool, attribute, std::ptr::from_mut(&mut value).cast::<c_void>())
        }
        .w()
    }

    /// Keeps freed memory in the pool instead of giving it back to the system at every synchronization, and drops the
    /// events that would order several streams: there is one.
    pub(crate) fn set_up(device: &CudaDevice) -> Result<()> {
        // SAFETY: everything is enqueued on the device's one stream, from the thread that opened it.
        unsafe { device.disable_event_tracking() };
        write(pool(device)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)
    }

    pub(crate) fn read_memory(device: &CudaDevice) -> Result<DeviceMemory> {
        let (free, total) = device.cuda_stream().context().mem_get_info().w()?;
        let pool = pool(device)?;
        let used = read(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        let reserved = read(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let peak = read(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
        Ok(DeviceMemory { free: free as u64 + reserved.saturating_sub(used), total: total as u64, peak })
    }

    pub(crate) fn name(device: &CudaDevice) -> Result<String> {
        device.cuda_stream().context().name().w()
    }

    pub(crate) fn reset_peak(device: &CudaDevice) -> Result<()> {
        write(pool(device)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)
    }

    /// Where a storage begins.
    pub(crate) fn address(storage: &CudaStorage, dtype: DType) -> Result<u64> {
        use candle_core::cuda::cudarc::driver::DevicePtr;
        let stream = storage.device.cuda_stream();
        Ok(match &storage.slice {
            CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
            _ => candle_core::bail!("no kernel takes values of {dtype:?}"),
        })
    }
}

#[cfg(feature = "cuda")]
pub(super) use pool::{address, set_up};

use candle_core::{Device, Result};

/// What a device has and uses. `None` for the CPU, which is asked through [`crate::base::memory`].
///
/// # Errors
/// If the driver refuses.
pub fn of(device: &Device) -> Result<Option<DeviceMemory>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => pool::read_memory(device).map(Some),
        _ => Ok(None),
    }
}

/// What the device calls itself. `None` for the CPU.
///
/// # Errors
/// If the driver refuses.
pub fn name(device: &Device) -> Result<Option<String>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => pool::name(device).map(Some),
        _ => Ok(None),
    }
}

/// Begins to look for the peak anew.
///
/// # Errors
/// If the driver refuses.
pub fn reset_peak(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => pool::reset_peak(device),
        _ => Ok(()),
    }
}
