//! Finding the driver and a GPU, and what can be wrong with either.

use std::ffi::c_int;
use std::sync::OnceLock;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use crate::driver::Properties;
use crate::driver::nvrtc::arch_of;
use crate::{Error, Result};

/// The oldest supported generation: Ampere, for bf16 tensor cores and asynchronous copies.
const OLDEST: (i32, i32) = (8, 0);

/// A GPU of this machine.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its number: `cuda:N`.
    pub ordinal: usize,
    /// The product's name.
    pub product: String,
    /// Compute capability.
    pub compute: (i32, i32),
    pub memory_bytes: u64,
    pub multiprocessors: u32,
    /// Why it cannot be used, if so.
    pub problem: Option<String>,
}

/// The GPUs of this machine.
///
/// # Errors
/// Without a driver, or without a GPU that it sees.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    initialise()?;
    let failed = |error| Error::device("cuda", format!("listing GPUs: {}", explain(error)));
    let count = result::device::get_count().map_err(failed)?;
    (0..count).map(|ordinal| describe(ordinal).map(|(_, info)| info)).collect()
}

fn describe(ordinal: c_int) -> Result<(sys::CUdevice, DeviceInfo)> {
    let failed = |error| Error::device(format!("cuda:{ordinal}"), format!("opening the GPU: {}", explain(error)));
    let device = result::device::get(ordinal).map_err(failed)?;
    // SAFETY: the device comes from `get`.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let compute = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).map_err(failed)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR).map_err(failed)?,
    );
    let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_err(failed)? as u32;
    let info = DeviceInfo {
        ordinal: ordinal as usize,
        product: result::device::get_name(device).map_err(failed)?,
        compute,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }.map_err(failed)? as u64,
        multiprocessors,
        problem: too_old(compute),
    };
    Ok((device, info))
}

/// Why a GPU of this compute capability cannot be used, if so.
fn too_old(compute: (i32, i32)) -> Option<String> {
    (compute < OLDEST).then(|| {
        let ((major, minor), (a, b)) = (compute, OLDEST);
        format!("compute capability {major}.{minor} is below {a}.{b}: needs an Ampere GPU (A100, RTX 30) or newer; use --device cpu")
    })
}

/// A GPU's primary context and the one stream in it.
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    name: String,
}

// SAFETY: handles of the driver, which locks internally; `bind` makes the context current in the thread that uses them.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens GPU number `ordinal`.
    pub fn open(ordinal: usize) -> Result<(Context, Properties)> {
        initialise()?;
        let name = format!("cuda:{ordinal}");
        let failed = |error| Error::device(&name, format!("opening the GPU: {}", explain(error)));
        let count = result::device::get_count().map_err(failed)? as usize;
        if ordinal >= count {
            let what = match count {
                0 => {
                    "the driver sees no GPU; use --device cpu, or check CUDA_VISIBLE_DEVICES and nvidia-smi".to_string()
                }
                1 => "this machine has one GPU, cuda:0".to_string(),
                n => format!("this machine has {n} GPUs, cuda:0 to cuda:{}", n - 1),
            };
            return Err(Error::device(&name, what));
        }
        let (device, info) = describe(ordinal as c_int)?;
        if let Some(problem) = info.problem {
            return Err(Error::device(&name, format!("{}: {problem}", info.product)));
        }
        // SAFETY: the device comes from `get`.
        let shared_bytes = unsafe {
            let which = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            result::device::get_attribute(device, which).map_err(failed)? as u32
        };
        // SAFETY: as above; the reference is given back by `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        let mut opened = Context { device, context, stream: std::ptr::null_mut(), name: name.clone() };
        opened.bind()?;
        opened.stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed)?;
        let properties = Properties {
            device: name,
            product: info.product,
            arch: arch_of(info.compute.0, info.compute.1),
            multiprocessors: info.multiprocessors,
            shared_bytes,
            memory_bytes: info.memory_bytes,
        };
        Ok((opened, properties))
    }

    /// Makes the context current in this thread.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|error| Error::device(&self.name, format!("entering the GPU's context: {}", explain(error))))
    }

    /// Waits for what is in the stream, unless it is being captured: then nothing runs, and waiting would break the capture.
    /// The context must be current.
    pub fn drain(&self) {
        // SAFETY: the stream is alive as long as `self`. What went wrong in it comes back from the next call that can tell.
        unsafe {
            let status = result::stream::is_capturing(self.stream);
            if status == Ok(sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) {
                let _ = result::stream::synchronize(self.stream);
            }
        }
    }

    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let bound = self.bind().is_ok();
        // SAFETY: the stream is this context's own and has no other holder; the context was retained once.
        unsafe {
            if bound && !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Loads and initialises the driver, once.
fn initialise() -> Result<()> {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    let ready = READY.get_or_init(|| {
        // SAFETY: only tries to load NVIDIA's library, whose initialisers have no preconditions. cudarc itself would
        // panic where there is none.
        if !unsafe { sys::is_culib_present() } {
            return Err("no NVIDIA driver (libcuda.so.1) on this machine; install one, or use --device cpu".to_string());
        }
        result::init().map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => {
                "the driver sees no GPU; use --device cpu, or check CUDA_VISIBLE_DEVICES and nvidia-smi".to_string()
            }
            sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
                "libcuda.so is the toolkit's stub, not a driver; install the driver, or use --device cpu".to_string()
            }
            _ => format!("the NVIDIA driver does not start: {}", explain(error)),
        })?;
        let mut version: c_int = 0;
        // SAFETY: the target is valid.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(explain)?;
        if version < 12_000 {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(format!(
                "the NVIDIA driver is for CUDA {major}.{minor}; update it to one for CUDA 12 or later"
            ));
        }
        Ok(())
    });
    ready.clone().map_err(|what| Error::device("cuda", what))
}

/// A driver's error in words, with what to do where that is known.
pub fn explain(error: result::DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, result::DriverError>| {
        text.map_or_else(|_| "?".to_string(), |text| text.to_string_lossy().into_owned())
    };
    let known = match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => "; use a smaller batch, or end other programs on this GPU",
        sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS | sys::CUresult::CUDA_ERROR_MISALIGNED_ADDRESS => {
            "; run the same on --device emulator, which names the kernel, thread and line"
        }
        sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "; restart the machine after a driver update",
        _ => "",
    };
    format!("{} ({}){known}", text(error.error_string()), text(error.error_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_gpus_are_refused_with_a_way_out() {
        assert!(too_old((8, 0)).is_none() && too_old((12, 0)).is_none());
        let problem = too_old((7, 5)).unwrap();
        assert!(problem.contains("7.5 is below 8.0") && problem.contains("--device cpu"), "{problem}");
    }

    #[test]
    fn a_machine_without_a_gpu_gets_one_sentence() {
        let Err(error) = Context::open(99) else { panic!("no machine has a hundred GPUs") };
        let text = error.to_string();
        assert!(text.starts_with("cuda") && !text.contains('\n') && text.len() < 200, "{text}");
    }
}
