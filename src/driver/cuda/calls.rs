//! libcuda, loaded at run time: the functions that are used, and their result codes as the plain integers that they are.
//!
//! cudarc gives the types of the interface and no calls: its functions return an enum that is closed at the codes of
//! CUDA 12.0, which a newer driver's code would break (undefined behaviour), and they panic where a symbol is missing.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUgraph,
    CUgraphExec, CUgraphNode, CUmodule, CUresult, CUstream, CUstreamCaptureMode, CUuuid,
};
use libloading::Library;

/// A driver's answer other than success. Which numbers there are grows with every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub c_int);

/// The names under which the driver is looked for; the second is what toolkits and some containers have.
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

impl Code {
    /// `Err` for every number but 0.
    fn check(code: c_int) -> Result<(), Code> {
        if code == 0 { Ok(()) } else { Err(Code(code)) }
    }

    /// Whether it is one of those that cudarc has a name for.
    pub fn is(self, known: CUresult) -> bool {
        self.0 == known as c_int
    }
}

macro_rules! calls {
    ($($name:ident = $symbol:ident($($arg:ident: $type:ty),*);)*) => {
        /// The functions of libcuda, as `cuda.h` declares them but for the result. Each is unsafe for the reasons of its
        /// section in the driver API's manual.
        pub struct Calls {
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
            /// Since CUDA 12.4; absent in older drivers.
            parameter: Option<unsafe extern "C" fn(CUfunction, usize, *mut usize, *mut usize) -> c_int>,
            _library: Library,
        }

        #[allow(clippy::missing_safety_doc, clippy::too_many_arguments)] // the manual's, as above
        impl Calls {
            fn of(library: Library) -> Result<Calls, String> {
                Ok(Calls {
                    $($name: {
                        // SAFETY: the field's type is the function's declaration, unchanged from CUDA 12.0 to 13.
                        let found = unsafe { library.get(concat!(stringify!($symbol), "\0").as_bytes()) };
                        *found.map_err(|_| stringify!($symbol).to_string())?
                    },)*
                    // SAFETY: as above, from 12.4 on.
                    parameter: unsafe { library.get(b"cuFuncGetParamInfo\0") }.ok().map(|found| *found),
                    _library: library,
                })
            }

            $(pub unsafe fn $name(&self, $($arg: $type),*) -> Result<(), Code> {
                // SAFETY: the caller's promise.
                Code::check(unsafe { (self.$name)($($arg),*) })
            })*
        }
    };
}

calls! {
    init = cuInit(flags: c_uint);
    driver_version = cuDriverGetVersion(version: *mut c_int);
    error_name = cuGetErrorName(code: c_int, text: *mut *const c_char);
    error_string = cuGetErrorString(code: c_int, text: *mut *const c_char);
    device_count = cuDeviceGetCount(count: *mut c_int);
    device = cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    device_name = cuDeviceGetName(name: *mut c_char, room: c_int, device: CUdevice);
    device_uuid = cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice);
    device_memory = cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    device_attribute = cuDeviceGetAttribute(value: *mut c_int, which: CUdevice_attribute, device: CUdevice);
    retain_context = cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    context_flags = cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint);
    release_context = cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    set_context = cuCtxSetCurrent(context: CUcontext);
    alloc = cuMemAlloc_v2(ptr: *mut CUdeviceptr, bytes: usize);
    free = cuMemFree_v2(ptr: CUdeviceptr);
    memory = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    alloc_host = cuMemHostAlloc(ptr: *mut *mut c_void, bytes: usize, flags: c_uint);
    free_host = cuMemFreeHost(ptr: *mut c_void);
    upload = cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    download = cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    copy = cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    fill = cuMemsetD8Async(to: CUdeviceptr, value: u8, bytes: usize, stream: CUstream);
    create_stream = cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    destroy_stream = cuStreamDestroy_v2(stream: CUstream);
    synchronize = cuStreamSynchronize(stream: CUstream);
    capture_status = cuStreamIsCapturing(stream: CUstream, status: *mut c_int);
    begin_capture = cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    end_capture = cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    create_event = cuEventCreate(event: *mut CUevent, flags: c_uint);
    destroy_event = cuEventDestroy_v2(event: CUevent);
    record = cuEventRecord(event: CUevent, stream: CUstream);
    query = cuEventQuery(event: CUevent);
    wait = cuEventSynchronize(event: CUevent);
    elapsed = cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);
    load_module = cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    unload_module = cuModuleUnload(module: CUmodule);
    function = cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, entry: *const c_char);
    function_attribute = cuFuncGetAttribute(value: *mut c_int, which: CUfunction_attribute, function: CUfunction);
    set_function_attribute = cuFuncSetAttribute(function: CUfunction, which: CUfunction_attribute, value: c_int);
    launch = cuLaunchKernel(function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint,
        block_y: c_uint, block_z: c_uint, shared_bytes: c_uint, stream: CUstream, params: *mut *mut c_void,
        extra: *mut *mut c_void);
    graph_nodes = cuGraphGetNodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize);
    instantiate = cuGraphInstantiateWithFlags(made: *mut CUgraphExec, graph: CUgraph, flags: u64);
    destroy_graph = cuGraphDestroy(graph: CUgraph);
    upload_graph = cuGraphUpload(executable: CUgraphExec, stream: CUstream);
    launch_graph = cuGraphLaunch(executable: CUgraphExec, stream: CUstream);
    destroy_executable = cuGraphExecDestroy(executable: CUgraphExec);
}

impl Calls {
    /// Loads the driver, once.
    pub fn load() -> Result<&'static Calls, String> {
        static LOADED: OnceLock<Result<Calls, String>> = OnceLock::new();
        let load = || {
            // SAFETY: NVIDIA's library, whose initialisers have no preconditions.
            let library = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
            let library =
                library.ok_or("no NVIDIA driver (libcuda.so.1) on this machine; install one, or use --device cpu")?;
            Calls::of(library).map_err(|symbol| {
                format!("the NVIDIA driver lacks {symbol}; update it to one for CUDA 12 or later, or use --device cpu")
            })
        };
        LOADED.get_or_init(load).as_ref().map_err(String::clone)
    }

    /// The size of parameter `index` of a kernel; `None` where the driver is older than 12.4 and does not tell.
    ///
    /// # Safety
    /// The function must be one of a module that is loaded.
    pub unsafe fn parameter_size(&self, function: CUfunction, index: usize) -> Option<Result<usize, Code>> {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: both targets are valid; the function is alive.
        let code = unsafe { (self.parameter?)(function, index, &mut offset, &mut size) };
        Some(Code::check(code).map(|()| size))
    }

    /// A code in words: the driver's text and the code's name, or its number where the driver knows neither.
    pub fn explain(&self, code: Code) -> String {
        let text = |ask: &dyn Fn(*mut *const c_char) -> Result<(), Code>| {
            let mut text = std::ptr::null();
            let known = ask(&mut text).is_ok() && !text.is_null();
            // SAFETY: a static string of the driver's; it gives none for a code that it does not know.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        // SAFETY: the target is valid.
        let string = text(&|target| unsafe { self.error_string(code.0, target) });
        // SAFETY: as above.
        let name = text(&|target| unsafe { self.error_name(code.0, target) });
        let words = match (string, name) {
            (Some(words), Some(name)) => format!("{words} ({name})"),
            (Some(words), None) => format!("{words} (code {})", code.0),
            (None, Some(name)) => name,
            (None, None) => format!("code {} of the driver, which has no name for it", code.0),
        };
        words + hint(code)
    }
}

/// What to do about an error, where that is known.
fn hint(code: Code) -> &'static str {
    let is = |known| code.is(known);
    if is(CUresult::CUDA_ERROR_OUT_OF_MEMORY) {
        "; use a smaller batch, or end other programs on this GPU"
    } else if is(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS) || is(CUresult::CUDA_ERROR_MISALIGNED_ADDRESS) {
        "; run the same on --device emulator, which names the kernel, thread and line"
    } else if is(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH) {
        "; restart the machine after a driver update"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_plain_numbers() {
        assert_eq!(Code::check(0), Ok(()));
        // None of them is in the enum of CUDA 12.0.
        for number in [225, 227, 402, 721, 913, 919, -1] {
            let code = Code::check(number).unwrap_err();
            assert!(code.0 == number && !code.is(CUresult::CUDA_ERROR_UNKNOWN) && hint(code).is_empty());
        }
        assert!(Code(2).is(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    }
}
