//! The driver itself, the GPU's properties, and the primary context.
#![allow(non_snake_case)]

use std::ffi::{c_char, c_int};

use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute, CUuuid};
use glmc_engine::driver::Driver;

use crate::gpu::{Answer, Gpu, emulator, give, initialised, lock};
use crate::report::mock_cuda_report;
use crate::settings::SETTINGS;

/// As the largest supported GPU has it, and the emulator.
pub const SHARED_LIMIT: i32 = 227 * 1024;
/// An H100's. Nothing may depend on it but speed.
const MULTIPROCESSORS: i32 = 132;
/// Of L2: little, so that what is touched to get past it is little too.
const CACHE: i32 = 1 << 20;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuInit(_flags: u32) -> CUresult {
    if SETTINGS.init != CUDA_SUCCESS {
        return SETTINGS.init;
    }
    if let Err(error) = emulator() {
        return error;
    }
    let mut gpu = lock();
    if !gpu.initialised {
        gpu.initialised = true;
        // SAFETY: the function takes nothing, and this library is never unloaded: cudarc keeps it in a static.
        unsafe { libc::atexit(mock_cuda_report) };
    }
    CUDA_SUCCESS
}

/// Works before `cuInit` too.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    give(&mut lock(), "cuDriverGetVersion", version, SETTINGS.driver).err().unwrap_or(CUDA_SUCCESS)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    initialised("cuDeviceGetCount", |gpu| give(gpu, "cuDeviceGetCount", count, SETTINGS.devices))
}

impl Gpu {
    fn device(&mut self, name: &str, ordinal: c_int) -> Answer {
        if (0..SETTINGS.devices).contains(&ordinal) {
            return Ok(());
        }
        Err(self.misuse(name, CUDA_ERROR_INVALID_DEVICE, format!("there is no GPU {ordinal}")))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    initialised("cuDeviceGet", |gpu| {
        gpu.device("cuDeviceGet", ordinal)?;
        give(gpu, "cuDeviceGet", device, ordinal)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, room: c_int, device: CUdevice) -> CUresult {
    initialised("cuDeviceGetName", |gpu| {
        gpu.device("cuDeviceGetName", device)?;
        let text = b"mock GPU over the emulator\0";
        if usize::try_from(room).is_ok_and(|room| room < text.len()) || name.is_null() {
            return Err(gpu.misuse("cuDeviceGetName", CUDA_ERROR_INVALID_VALUE, "no room for the name"));
        }
        // SAFETY: the caller says that there is room for `room` bytes, and the text has at most as many.
        unsafe { name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice) -> CUresult {
    initialised("cuDeviceGetUuid", |gpu| {
        gpu.device("cuDeviceGetUuid", device)?;
        give(gpu, "cuDeviceGetUuid", uuid, CUuuid { bytes: std::array::from_fn(|at| at as c_char) })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> CUresult {
    initialised("cuDeviceTotalMem", |gpu| {
        gpu.device("cuDeviceTotalMem", device)?;
        let total = SETTINGS.memory.unwrap_or(emulator()?.properties().memory_bytes);
        give(gpu, "cuDeviceTotalMem", bytes, total as usize)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: CUdevice_attribute,
    device: CUdevice,
) -> CUresult {
    use CUdevice_attribute::*;
    initialised("cuDeviceGetAttribute", |gpu| {
        gpu.device("cuDeviceGetAttribute", device)?;
        let known = match attribute {
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => SETTINGS.compute.0,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => SETTINGS.compute.1,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => MULTIPROCESSORS,
            CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE => CACHE,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => SHARED_LIMIT,
            other => {
                let what = format!("{other:?}, which the mock does not know");
                return Err(gpu.misuse("cuDeviceGetAttribute", CUDA_ERROR_INVALID_VALUE, what));
            }
        };
        give(gpu, "cuDeviceGetAttribute", value, known)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) -> CUresult {
    initialised("cuDevicePrimaryCtxRetain", |gpu| {
        gpu.device("cuDevicePrimaryCtxRetain", device)?;
        let handle = gpu.retain();
        give(gpu, "cuDevicePrimaryCtxRetain", context, handle as CUcontext)
    })
}

/// "If the primary context is already created, the flags are updated."
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: u32) -> CUresult {
    initialised("cuDevicePrimaryCtxSetFlags", |gpu| {
        gpu.device("cuDevicePrimaryCtxSetFlags", device)?;
        gpu.flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    initialised("cuDevicePrimaryCtxRelease", |gpu| {
        gpu.device("cuDevicePrimaryCtxRelease", device)?;
        gpu.release("cuDevicePrimaryCtxRelease")
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    initialised("cuCtxSetCurrent", |gpu| gpu.set_current("cuCtxSetCurrent", context as usize))
}
