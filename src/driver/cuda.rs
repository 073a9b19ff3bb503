//! A CUDA GPU, through the driver API: one context, one stream, nothing tracked per buffer.
//!
//! libcuda is loaded at run time; a machine without it gets one sentence and no panic. Only symbols of CUDA 12.0 are
//! used, so that drivers 12.x and 13.x both work.

mod calls;
mod context;
mod handles;
mod marks;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUfunction_attribute as Attribute, CUresult};

use self::calls::{Calls, Code};
use self::context::Context;
pub use self::context::{DeviceInfo, devices};
pub(crate) use self::handles::Event;
use self::handles::{CudaGraph, Loaded, parameter_sizes};
use super::cache::Cache;
use super::nvrtc::Nvrtc;
use super::occupancy::{carveout, limits};
use super::pinned::HostMemory;
use super::spec::PackedArgs;
use super::table::{KernelTable, Slot};
use super::{Arg, DevicePtr, Driver, Kernel, KernelSpec, Launch, Mark, MemoryInfo, Pinned, Properties, Replay};
use crate::{Error, Result};

/// Dynamic shared memory that a kernel may use without being asked.
const SHARED_BY_DEFAULT: u32 = 48 * 1024;

#[derive(Default)]
struct Allocations {
    bytes: HashMap<DevicePtr, usize>,
    used: u64,
    peak: u64,
}

/// A [`Driver`] on a CUDA GPU.
pub struct Cuda {
    properties: Properties,
    context: Arc<Context>,
    nvrtc: &'static Nvrtc,
    cache: Cache,
    /// Shared with captured graphs, which launch kernels of it.
    kernels: Arc<KernelTable<Loaded>>,
    allocations: Mutex<Allocations>,
    dry: AtomicBool,
    /// While a graph is captured: the host memory that it copies from and to.
    capturing: Mutex<Option<Vec<Arc<HostMemory>>>>,
}

impl Cuda {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// Without a driver, a GPU of that number, compute capability 8.0 or libnvrtc; each says what to do.
    pub fn new(ordinal: usize, cache: Cache) -> Result<Cuda> {
        let (context, properties, nvrtc) = Context::open(ordinal)?;
        Ok(Cuda {
            properties,
            context: Arc::new(context),
            nvrtc,
            cache,
            kernels: Arc::default(),
            allocations: Mutex::default(),
            dry: AtomicBool::new(false),
            capturing: Mutex::new(None),
        })
    }

    fn error(&self, doing: &str, code: Code) -> Error {
        self.context.error(doing, code)
    }

    /// The driver's functions.
    fn calls(&self) -> &'static Calls {
        self.context.calls()
    }

    fn is_dry(&self) -> bool {
        self.dry.load(Ordering::Relaxed)
    }

    fn capturing(&self) -> MutexGuard<'_, Option<Vec<Arc<HostMemory>>>> {
        self.capturing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocations(&self) -> MutexGuard<'_, Allocations> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what would break a capture.
    fn not_capturing(&self, action: &str) -> Result<()> {
        match *self.capturing() {
            Some(_) => Err(Error::device(&self.properties.device, format!("{action} while a graph is captured"))),
            None => Ok(()),
        }
    }

    fn slot(&self, kernel: Kernel) -> Result<Arc<Slot<Loaded>>> {
        let foreign = || Error::device(&self.properties.device, "a kernel handle of another driver");
        self.kernels.slot(kernel).ok_or_else(foreign)
    }

    fn load(&self, spec: &KernelSpec) -> Result<Loaded> {
        let cubin = self.nvrtc.compile(spec, &self.properties.arch, &self.cache)?;
        self.context.bind()?;
        let doing = || format!("loading kernel {}", spec.label());
        let entry = CString::new(&*spec.entry)
            .map_err(|_| Error::Config(format!("{}: the entry's name holds a NUL character", spec.file)))?;
        let (calls, mut module) = (self.calls(), ptr::null_mut());
        // SAFETY: the image is a whole ELF file or a PTX text with its NUL, by NVRTC; the driver copies what it keeps.
        unsafe { calls.load_module(&mut module, cubin.image.as_ptr().cast()) }.map_err(|code| {
            let newer = [
                CUresult::CUDA_ERROR_INVALID_IMAGE,
                CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
                CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
            ];
            let hint = match newer.into_iter().any(|known| code.is(known)) {
                true => format!(
                    "; {} may be newer than the driver: update the driver, or install a libnvrtc of its version",
                    self.nvrtc.describe()
                ),
                false => String::new(),
            };
            Error::device(&self.properties.device, format!("{}: {}{hint}", doing(), calls.explain(code)))
        })?;
        let mut loaded = Loaded {
            function: ptr::null_mut(),
            sizes: None,
            shared: AtomicU32::new(SHARED_BY_DEFAULT),
            carved: AtomicU32::new(0),
            registers: 0,
            module,
            context: self.context.clone(),
        };
        // SAFETY: the module was loaded just now; target and name are valid.
        unsafe { calls.function(&mut loaded.function, module, entry.as_ptr()) }
            .map_err(|code| self.error(&doing(), code))?;
        let mut registers = 0;
        // Asking for an attribute loads the code now: a driver that loads lazily must not do so during a capture.
        // SAFETY: the function belongs to the module above; the target is valid.
        unsafe { calls.function_attribute(&mut registers, Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS, loaded.function) }
            .map_err(|code| self.error(&doing(), code))?;
        loaded.registers = registers as u32;
        loaded.sizes = parameter_sizes(calls, loaded.function);
        Ok(loaded)
    }

    /// Keeps host memory alive for the graph that is being captured.
    fn hold(&self, memory: &Arc<HostMemory>) {
        if let Some(list) = &mut *self.capturing() {
            list.push(memory.clone());
        }
    }

    /// Checks a range of a host buffer.
    fn range_of(&self, buffer: &Pinned, offset: usize, bytes: usize) -> Result<()> {
        let length = buffer.bytes().len();
        if offset.checked_add(bytes).is_some_and(|end| end <= length) {
            return Ok(());
        }
        let what = format!("copy of {bytes} bytes at {offset} of a host buffer of {length}");
        Err(Error::device(&self.properties.device, what))
    }
}

impl Driver for Cuda {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr> {
        self.not_capturing("allocation")?;
        self.context.bind()?;
        let mut ptr = 0;
        // SAFETY: the context is current and the target valid; the memory is undefined, as the trait says.
        unsafe { self.calls().alloc(&mut ptr, bytes.max(1)) }.map_err(|code| {
            if !code.is(CUresult::CUDA_ERROR_OUT_OF_MEMORY) {
                return self.error(&format!("allocating {bytes} bytes for {what}"), code);
            }
            let (free, total) = self.free_and_total().unwrap_or((0, 0));
            let text = format!(
                "out of memory: {bytes} bytes for {what}, with {free} of {total} bytes free; use a smaller batch, or \
                 end other programs on this GPU"
            );
            Error::device(&self.properties.device, text)
        })?;
        let mut allocations = self.allocations();
        allocations.bytes.insert(ptr, bytes);
        allocations.used += bytes as u64;
        allocations.peak = allocations.peak.max(allocations.used);
        Ok(ptr)
    }

    fn free(&self, ptr: DevicePtr) -> Result<()> {
        self.not_capturing("freeing memory")?;
        let Some(bytes) = self.allocations().bytes.remove(&ptr) else {
            return Err(Error::device(&self.properties.device, format!("free of {ptr:#x}, which is no allocation")));
        };
        self.allocations().used -= bytes as u64;
        self.context.bind()?;
        // SAFETY: allocated by `alloc` and taken out of the table, so freed once; the driver waits for work that uses it.
        unsafe { self.calls().free(ptr) }.map_err(|error| self.error("freeing memory", error))
    }

    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.not_capturing("upload from ordinary memory")?;
        if from.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        let failed = |error| self.error("upload", error);
        // SAFETY: `from` lives until the stream is empty, two lines on; a bad `to` is the driver's error.
        unsafe { self.calls().upload(to, from.as_ptr().cast(), from.len(), self.context.stream()) }.map_err(failed)?;
        // SAFETY: the stream is the context's own.
        unsafe { self.calls().synchronize(self.context.stream()) }.map_err(failed)
    }

    fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        self.not_capturing("download to ordinary memory")?;
        if to.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        let failed = |error| self.error("download", error);
        // SAFETY: `to` is borrowed until the stream is empty, two lines on; a bad `from` is the driver's error.
        unsafe { self.calls().download(to.as_mut_ptr().cast(), from, to.len(), self.context.stream()) }
            .map_err(failed)?;
        // SAFETY: the stream is the context's own.
        unsafe { self.calls().synchronize(self.context.stream()) }.map_err(failed)
    }

    fn zero(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        if self.is_dry() || bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: the stream is the context's own; a bad range is the driver's error.
        unsafe { self.calls().fill(ptr, 0, bytes, self.context.stream()) }
            .map_err(|error| self.error("zeroing memory", error))
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        if self.is_dry() || bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: the stream is the context's own; a bad range is the driver's error.
        unsafe { self.calls().copy(to, from, bytes, self.context.stream()) }
            .map_err(|error| self.error("copying within the device", error))
    }

    fn alloc_pinned(&self, bytes: usize) -> Result<Pinned> {
        self.not_capturing("allocation of host memory")?;
        self.context.bind()?;
        let mut start = ptr::null_mut();
        // SAFETY: the context is current and the target valid.
        unsafe { self.calls().alloc_host(&mut start, bytes.max(1), 0) }
            .map_err(|code| self.error(&format!("allocating {bytes} bytes of page-locked host memory"), code))?;
        let start = start.cast::<u8>();
        // SAFETY: the driver gave `bytes` bytes, which nothing else refers to yet.
        unsafe { start.write_bytes(0, bytes) };
        let context = self.context.clone();
        let release = move |start: *mut u8, _| {
            if context.bind().is_ok() {
                // A copy may be in flight, after an error for example, and no manual promises that freeing waits for it.
                context.drain();
                // SAFETY: allocated above, released once, by the last holder; nothing in the stream uses it any more.
                let _ = unsafe { context.calls().free_host(start.cast::<c_void>()) };
            }
        };
        Ok(Pinned(Arc::new(HostMemory { start, bytes, release: Box::new(release) })))
    }

    fn upload_async(&self, to: DevicePtr, from: &Pinned, offset: usize, bytes: usize) -> Result<()> {
        self.range_of(from, offset, bytes)?;
        if self.is_dry() || bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        self.hold(&from.0);
        let source = &from.bytes()[offset..offset + bytes];
        // SAFETY: page-locked memory that is freed only after the driver is done with it; a bad `to` is its error.
        unsafe { self.calls().upload(to, source.as_ptr().cast(), bytes, self.context.stream()) }
            .map_err(|error| self.error("upload", error))
    }

    fn download_async(&self, to: &mut Pinned, offset: usize, from: DevicePtr, bytes: usize) -> Result<()> {
        self.range_of(to, offset, bytes)?;
        if self.is_dry() || bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        self.hold(&to.0);
        let target = &mut to.bytes_mut()[offset..offset + bytes];
        // SAFETY: as for the upload; the caller waits for a mark before it reads.
        unsafe { self.calls().download(target.as_mut_ptr().cast(), from, bytes, self.context.stream()) }
            .map_err(|error| self.error("download", error))
    }

    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel> {
        let kernel = self.kernels.handle(spec);
        if !self.is_dry() {
            self.slot(kernel)?.loaded(|spec| self.load(spec))?;
        }
        Ok(kernel)
    }

    fn launch(&self, kernel: Kernel, launch: Launch, args: &[Arg]) -> Result<()> {
        if self.is_dry() || launch.blocks() == 0 {
            return Ok(());
        }
        self.context.bind()?;
        let slot = self.slot(kernel)?;
        let loaded = slot.loaded(|spec| self.load(spec))?;
        let device = &self.properties.device;
        launch.check(&slot.spec.label(), device, self.properties.shared_bytes)?;
        let packed = PackedArgs::new(args);
        if let Some(sizes) = &loaded.sizes {
            packed
                .check(sizes)
                .map_err(|what| Error::device(device, format!("kernel {}: {what}", slot.spec.label())))?;
        }
        let doing = || format!("launching kernel {}", slot.spec.label());
        if launch.shared_bytes > loaded.shared.load(Ordering::Relaxed) {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded; the value is within the device's limit (checked above).
            unsafe { self.calls().set_function_attribute(loaded.function, attribute, launch.shared_bytes as i32) }
                .map_err(|error| self.error(&doing(), error))?;
            loaded.shared.store(launch.shared_bytes, Ordering::Relaxed);
        }
        if launch.shared_bytes > loaded.carved.load(Ordering::Relaxed) {
            self.carve(loaded, &launch).map_err(|error| self.error(&doing(), error))?;
        }
        let mut pointers: Vec<*mut c_void> = packed.pointers().into_iter().map(<*const c_void>::cast_mut).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: one pointer per parameter, each to a value of its size (checked where the driver tells the sizes); the
        // driver copies the values before it returns. What the kernel does to device memory is the launcher's responsibility.
        unsafe {
            let (stream, pointers, none) = (self.context.stream(), pointers.as_mut_ptr(), ptr::null_mut());
            self.calls().launch(loaded.function, gx, gy, gz, bx, by, bz, launch.shared_bytes, stream, pointers, none)
        }
        .map_err(|error| self.error(&doing(), error))
    }

    fn synchronize(&self) -> Result<()> {
        self.not_capturing("waiting")?;
        self.context.bind()?;
        // SAFETY: the stream is the context's own.
        unsafe { self.calls().synchronize(self.context.stream()) }
            .map_err(|error| self.error("waiting for the GPU", error))
    }

    fn mark(&self) -> Result<Mark> {
        self.record(marks::PLAIN)
    }

    fn stamp(&self) -> Result<Mark> {
        self.record(marks::TIMED)
    }

    fn reached(&self, mark: &Mark) -> Result<bool> {
        let event = self.event(mark)?;
        // SAFETY: the event is alive.
        match unsafe { self.calls().query(event) } {
            Ok(()) => Ok(true),
            Err(code) if code.is(CUresult::CUDA_ERROR_NOT_READY) => Ok(false),
            Err(code) => Err(self.error("asking for a mark", code)),
        }
    }

    fn wait(&self, mark: &Mark) -> Result<()> {
        let event = self.event(mark)?;
        // SAFETY: the event is alive.
        unsafe { self.calls().wait(event) }.map_err(|error| self.error("waiting for the GPU", error))
    }

    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        self.wait(to)?;
        let (from, to) = (self.event(from)?, self.event(to)?);
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive and were set in the one stream, with timing; the target is valid.
        unsafe { self.calls().elapsed(&mut milliseconds, from, to) }
            .map_err(|code| self.error("measuring time", code))?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Replay>> {
        self.not_capturing("a capture")?;
        self.context.bind()?;
        let (calls, device, stream) = (self.calls(), &self.properties.device, self.context.stream());
        let failed = |error| self.error("capturing a graph", error);
        // Relaxed: other threads may allocate meanwhile.
        // SAFETY: the stream is the context's own and is not capturing (checked above).
        unsafe { calls.begin_capture(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED) }
            .map_err(failed)?;
        *self.capturing() = Some(Vec::new());
        let outcome = body();
        let held = self.capturing().take().unwrap_or_default();
        self.context.bind()?;
        let mut graph = ptr::null_mut();
        // SAFETY: the capture began above; it must end whatever `body` said. The target is valid.
        let graph = unsafe { calls.end_capture(stream, &mut graph) }.map(|()| graph);
        if let (Err(_), Ok(graph)) = (&outcome, &graph) {
            // SAFETY: the capture is whole but not wanted; a null graph, should there be one, is the driver's error.
            let _ = unsafe { calls.destroy_graph(*graph) };
        }
        outcome?;
        let graph = graph.map_err(failed)?;
        if graph.is_null() {
            return Err(Error::device(
                device,
                "capturing a graph: it was broken off by a call that cannot be captured",
            ));
        }
        let mut operations = 0;
        // SAFETY: the graph is alive; with no array the driver only counts.
        let counted = unsafe { calls.graph_nodes(graph, ptr::null_mut(), &mut operations) };
        let mut executable = ptr::null_mut();
        // SAFETY: the graph is alive and the target valid; no flags.
        let made = unsafe { calls.instantiate(&mut executable, graph, 0) };
        // SAFETY: the executable does not need the graph any more.
        unsafe { calls.destroy_graph(graph) }.map_err(failed)?;
        made.map_err(failed)?;
        let graph = CudaGraph {
            executable,
            operations,
            context: self.context.clone(),
            _held: held,
            _kernels: self.kernels.clone(),
        };
        counted.map_err(failed)?;
        // Uploading now makes the first replay as fast as the others.
        // SAFETY: executable and stream are alive.
        unsafe { calls.upload_graph(executable, stream) }.map_err(failed)?;
        Ok(Box::new(graph))
    }

    fn prepare(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.dry.store(true, Ordering::Relaxed);
        let outcome = body();
        self.dry.store(false, Ordering::Relaxed);
        outcome?;
        self.kernels.load_all(|spec| self.load(spec))
    }

    fn memory(&self) -> Result<MemoryInfo> {
        self.context.bind()?;
        let (free, total) = self.free_and_total().map_err(|code| self.error("asking for free memory", code))?;
        let allocations = self.allocations();
        let (used, peak) = (allocations.used, allocations.peak);
        Ok(MemoryInfo { used, peak, free: free as u64, total: total as u64 })
    }
}

impl Cuda {
    /// Asks for a share of the multiprocessors' first-level cache as shared memory in which as many blocks fit as registers and
    /// threads allow: left to itself, the driver may choose one that holds a single block.
    fn carve(&self, loaded: &Loaded, launch: &Launch) -> Result<(), Code> {
        if let Some(limits) = limits(&self.properties.arch) {
            let percent = carveout(&limits, launch.threads() as u32, loaded.registers, launch.shared_bytes);
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            // SAFETY: the function is loaded; the value is a percentage, and no more than a wish.
            unsafe { self.calls().set_function_attribute(loaded.function, attribute, percent as i32) }?;
        }
        loaded.carved.store(launch.shared_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Free and total bytes of the device's memory; the context must be current.
    fn free_and_total(&self) -> Result<(usize, usize), Code> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the targets are valid.
        unsafe { self.calls().memory(&mut free, &mut total) }.map(|()| (free, total))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the stream is the context's own. Nothing may still run when the allocations go.
            let _ = unsafe { self.calls().synchronize(self.context.stream()) };
            for ptr in self.allocations().bytes.keys() {
                // SAFETY: allocated by `alloc` and not freed since.
                let _ = unsafe { self.calls().free(*ptr) };
            }
        }
    }
}
