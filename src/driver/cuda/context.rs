//! Finding the driver and a GPU, and what can be wrong with either.

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::calls::{Calls, Code};
use crate::driver::Properties;
use crate::driver::nvrtc::{Nvrtc, Target};
use crate::{Error, Result};

/// The oldest supported generation: Ampere, for bf16 tensor cores and asynchronous copies.
const OLDEST: (i32, i32) = (8, 0);
/// Of a stream that does not wait for the default one (`CU_STREAM_NON_BLOCKING`).
const NON_BLOCKING: u32 = 1;
/// Of a context in which a thread that waits sleeps (`CU_CTX_SCHED_BLOCKING_SYNC`).
const BLOCKING: u32 = 4;
/// Of `cuStreamIsCapturing`: it is not.
const NO_CAPTURE: c_int = 0;

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
    /// Which GPU it is: of two of one product, or of the parts of one, each has its own.
    pub uuid: [u8; 16],
    /// The CUDA version that the driver is for.
    pub driver: (i32, i32),
    /// What compiles its kernels, and for which architecture; or why it cannot be used.
    pub kernels: Result<String, String>,
}

/// The GPUs of this machine.
///
/// # Errors
/// Without a driver, or without a GPU that it sees.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    let driver = initialise()?;
    let count = driver.count().map_err(|code| driver.error("cuda", "listing GPUs", code))?;
    (0..count).map(|ordinal| driver.describe(ordinal).map(|(_, info)| info)).collect()
}

/// The started driver.
#[derive(Clone)]
struct Installed {
    calls: &'static Calls,
    /// The CUDA version that it is for.
    version: (i32, i32),
}

impl Installed {
    fn error(&self, device: impl Into<String>, doing: &str, code: Code) -> Error {
        Error::device(device, format!("{doing}: {}", self.calls.explain(code)))
    }

    fn count(&self) -> Result<c_int, Code> {
        let mut count = 0;
        // SAFETY: the target is valid.
        unsafe { self.calls.device_count(&mut count) }.map(|()| count)
    }

    fn attribute(&self, device: sys::CUdevice, which: Attribute) -> Result<c_int, Code> {
        let mut value = 0;
        // SAFETY: the target is valid; the driver refuses a device that it does not have.
        unsafe { self.calls.device_attribute(&mut value, which, device) }.map(|()| value)
    }

    fn describe(&self, ordinal: c_int) -> Result<(sys::CUdevice, DeviceInfo)> {
        let ask = || -> Result<(sys::CUdevice, DeviceInfo), Code> {
            let mut device = 0;
            // SAFETY: the target is valid; the driver refuses a number that it does not have.
            unsafe { self.calls.device(&mut device, ordinal) }?;
            let compute = (
                self.attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                self.attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            );
            let mut name = [0u8; 256];
            // SAFETY: there is room for as many bytes as are named.
            unsafe { self.calls.device_name(name.as_mut_ptr().cast(), name.len() as c_int, device) }?;
            let mut bytes = 0;
            // SAFETY: the target is valid.
            unsafe { self.calls.device_memory(&mut bytes, device) }?;
            let mut uuid = sys::CUuuid { bytes: [0; 16] };
            // SAFETY: the target is valid.
            unsafe { self.calls.device_uuid(&mut uuid, device) }?;
            let product = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned();
            let multiprocessors = self.attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
            let info = DeviceInfo {
                ordinal: ordinal as usize,
                product,
                compute,
                memory_bytes: bytes as u64,
                multiprocessors,
                uuid: uuid.bytes.map(|byte| byte as u8),
                driver: self.version,
                kernels: self.compiler(compute).map(|(nvrtc, target)| nvrtc.describe_target(&target)),
            };
            Ok((device, info))
        };
        ask().map_err(|code| self.error(format!("cuda:{ordinal}"), "opening the GPU", code))
    }

    /// What compiles kernels for a GPU of this compute capability so that this driver loads them, and for which target.
    fn compiler(&self, compute: (i32, i32)) -> Result<(&'static Nvrtc, Target), String> {
        if let Some(problem) = too_old(compute) {
            return Err(problem);
        }
        let nvrtc = Nvrtc::load_for(self.version, compute)?;
        Ok((nvrtc, nvrtc.target(compute)))
    }
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
    calls: &'static Calls,
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
    /// Opens GPU number `ordinal`; also gives what compiles its kernels.
    pub fn open(ordinal: usize) -> Result<(Context, Properties, &'static Nvrtc)> {
        let driver = initialise()?;
        let name = format!("cuda:{ordinal}");
        let failed = |code| driver.error(&name, "opening the GPU", code);
        let count = driver.count().map_err(failed)? as usize;
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
        let (device, info) = driver.describe(ordinal as c_int)?;
        let unusable = |problem| Error::device(&name, format!("{}: {problem}", info.product));
        let (nvrtc, target) = driver.compiler(info.compute).map_err(unusable)?;
        let which = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared_bytes = driver.attribute(device, which).map_err(failed)? as u32;
        let which = Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        let cache_bytes = driver.attribute(device, which).map_err(failed)? as u64;
        // By default a waiting thread polls, and takes a core from those that prepare images.
        // SAFETY: the device is the driver's; of a context that is in use already, only how threads wait changes.
        unsafe { driver.calls.context_flags(device, BLOCKING) }.map_err(failed)?;
        let mut context = ptr::null_mut();
        // SAFETY: the target is valid and the device the driver's; the reference is given back by `drop`.
        unsafe { driver.calls.retain_context(&mut context, device) }.map_err(failed)?;
        let mut opened = Context { calls: driver.calls, device, context, stream: ptr::null_mut(), name: name.clone() };
        opened.bind()?;
        // SAFETY: the target is valid and the context current; `drop` destroys the stream.
        unsafe { driver.calls.create_stream(&mut opened.stream, NON_BLOCKING) }.map_err(failed)?;
        let properties = Properties {
            device: name,
            product: info.product,
            arch: target.arch,
            multiprocessors: info.multiprocessors,
            shared_bytes,
            memory_bytes: info.memory_bytes,
            cache_bytes,
        };
        Ok((opened, properties, nvrtc))
    }

    /// Makes the context current in this thread.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { self.calls.set_context(self.context) }.map_err(|code| self.error("entering the GPU's context", code))
    }

    /// Waits for what is in the stream, unless it is being captured: then nothing runs, and waiting would break the capture.
    /// The context must be current.
    pub fn drain(&self) {
        let mut status = NO_CAPTURE;
        // SAFETY: the stream is alive as long as `self`. What went wrong in it comes back from the next call that can tell.
        unsafe {
            if self.calls.capture_status(self.stream, &mut status).is_ok() && status == NO_CAPTURE {
                let _ = self.calls.synchronize(self.stream);
            }
        }
    }

    /// The driver's functions.
    pub fn calls(&self) -> &'static Calls {
        self.calls
    }

    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// What went wrong while doing something on this GPU.
    pub fn error(&self, doing: &str, code: Code) -> Error {
        Error::device(&self.name, format!("{doing}: {}", self.calls.explain(code)))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let bound = self.bind().is_ok();
        // SAFETY: the stream is this context's own and has no other holder; the context was retained once.
        unsafe {
            if bound && !self.stream.is_null() {
                let _ = self.calls.destroy_stream(self.stream);
            }
            let _ = self.calls.release_context(self.device);
        }
    }
}

/// Loads and initialises the driver, once.
fn initialise() -> Result<Installed> {
    static READY: OnceLock<Result<Installed, String>> = OnceLock::new();
    let start = || {
        let calls = Calls::load()?;
        // SAFETY: no flags are defined.
        unsafe { calls.init(0) }.map_err(|code| {
            if code.is(CUresult::CUDA_ERROR_NO_DEVICE) {
                "the driver sees no GPU; use --device cpu, or check CUDA_VISIBLE_DEVICES and nvidia-smi".to_string()
            } else if code.is(CUresult::CUDA_ERROR_STUB_LIBRARY) {
                "libcuda.so is the toolkit's stub, not a driver; install the driver, or use --device cpu".to_string()
            } else {
                format!("the NVIDIA driver does not start: {}", calls.explain(code))
            }
        })?;
        let mut number: c_int = 0;
        // SAFETY: the target is valid.
        unsafe { calls.driver_version(&mut number) }.map_err(|code| calls.explain(code))?;
        let version = (number / 1000, number % 1000 / 10);
        if version.0 < 12 {
            return Err(format!(
                "the NVIDIA driver is for CUDA {}.{}; update it to one for CUDA 12 or later",
                version.0, version.1
            ));
        }
        Ok(Installed { calls, version })
    };
    READY.get_or_init(start).clone().map_err(|what| Error::device("cuda", what))
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
