//! The mock of NVIDIA's libraries finds what it is there to find: every misuse gets CUDA's error and a line in the report.

mod install;

use std::ffi::{CString, c_void};
use std::process::ExitCode;
use std::ptr;

use cudarc::driver::result;
use cudarc::driver::sys::CUresult::*;
use cudarc::driver::sys::CUstreamCaptureMode::*;
use cudarc::driver::sys::{self, CUresult};
use glmc_engine::driver::cache::Cache;
use glmc_engine::driver::{KernelSpec, nvrtc::Nvrtc};
use libtest_mimic::{Arguments, Failed, Trial};

const SOURCE: &str = "#include \"portable.cuh\"\nextern \"C\" __global__ void __launch_bounds__(1024) add_one(float* x) {\n    \
                      x[threadIdx.x] += 1.0f;\n}\n";

fn main() -> ExitCode {
    install::run(trials, |report| {
        let all = std::env::args_os().len() == 1;
        let told = report["leaks"].as_array().is_some_and(|leaks| leaks.iter().any(|leak| leak == "1 streams"));
        if all && !told { Err("the stream that was never destroyed was not reported".to_string()) } else { Ok(()) }
    })
}

fn trials() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The mock has one state, and the context is current in one thread: libtest-mimic runs a single one in this.
    arguments.test_threads = Some(1);
    let trials = vec![
        Trial::test("calls need an initialised driver and a current context", order),
        Trial::test("stale handles are refused", stale),
        Trial::test("device memory is undefined, and ranges are checked", device_memory),
        Trial::test("page-locked memory must be left alone until the copy is done", page_locked),
        Trial::test("events are not ready at first", events),
        Trial::test("what a capture forbids invalidates it", captures),
        Trial::test("launches over the limits are refused", launches),
        Trial::test("a graph does not keep alive what it uses", graphs),
        Trial::test(OLD_DRIVER, old_driver),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Asserts what a call answers, and that the mock has a line on it if `problem` is not empty.
#[track_caller]
fn answers(got: CUresult, want: CUresult, problem: &str) {
    assert_eq!(got, want);
    if !problem.is_empty() {
        assert!(reported(problem), "{problem:?} is not in the report");
    }
}

/// Whether a line of the report, as it is now, holds `problem`.
fn reported(problem: &str) -> bool {
    // SAFETY: libcuda is the mock, which exports this function without parameters.
    unsafe { sys::culib().get::<unsafe extern "C" fn()>(b"mock_cuda_report").expect("the mock is loaded")() };
    let settings = std::env::var("MOCK_CUDA").expect("set by `install`");
    let path = settings.trim_start_matches("report=").split(',').next().expect("a first part").to_string();
    let report = install::read(path.as_ref()).expect("the report was written");
    report["problems"].as_array().into_iter().flatten().any(|line| line.as_str().is_some_and(|l| l.contains(problem)))
}

/// The primary context, current in this thread, and a stream.
struct Place {
    stream: sys::CUstream,
}

impl Place {
    fn new() -> Place {
        result::init().expect("cuInit");
        let device = result::device::get(0).expect("a GPU");
        // SAFETY: the device is there; the context stays retained until the process ends.
        unsafe {
            let context = result::primary_ctx::retain(device).expect("a context");
            result::ctx::set_current(context).expect("current");
        }
        Place { stream: result::stream::create(result::stream::StreamKind::NonBlocking).expect("a stream") }
    }

    fn synchronize(&self) -> CUresult {
        // SAFETY: a stream or a stale handle, which the mock recognises: here and in all that follows.
        unsafe { sys::cuStreamSynchronize(self.stream) }
    }

    fn begin(&self, mode: sys::CUstreamCaptureMode) {
        // SAFETY: as above.
        answers(unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) }, CUDA_SUCCESS, "");
    }

    fn end(&self) -> (CUresult, sys::CUgraph) {
        let mut graph = ptr::null_mut();
        // SAFETY: the target is valid.
        (unsafe { sys::cuStreamEndCapture(self.stream, &mut graph) }, graph)
    }

    /// A function, its module, and what keeps the image alive.
    fn kernel(&self) -> (sys::CUfunction, sys::CUmodule) {
        let spec = KernelSpec::from_text("add_one.cu", "add_one", SOURCE);
        let cubin = Nvrtc::load().and_then(|nvrtc| nvrtc.compile(&spec, "sm_90a", &Cache::at("/dev/null/none", 0)));
        let cubin = cubin.expect("it compiles");
        let name = CString::new("add_one").expect("no NUL");
        // SAFETY: a whole image, which the driver copies; a module that is alive.
        unsafe {
            let module = result::module::load_data(cubin.image.as_ptr().cast()).expect("a module");
            (result::module::get_function(module, name).expect("a function"), module)
        }
    }

    fn launch(&self, function: sys::CUfunction, threads: u32, shared: u32, argument: u64) -> CUresult {
        let mut argument = argument;
        let mut params = [(&raw mut argument).cast::<c_void>()];
        let (list, none) = (params.as_mut_ptr(), ptr::null_mut());
        // SAFETY: one pointer for the one parameter, to as many bytes as it has.
        unsafe { sys::cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, shared, self.stream, list, none) }
    }
}

fn alloc(bytes: usize) -> u64 {
    // SAFETY: undefined memory is what is wanted.
    unsafe { result::malloc_sync(bytes) }.expect("memory")
}

/// Page-locked memory of this many bytes, all zero.
fn page_locked_memory(bytes: usize) -> *mut u8 {
    // SAFETY: the block has as many bytes, which nothing else knows.
    unsafe {
        let start = result::malloc_host(bytes, 0).expect("memory").cast::<u8>();
        start.write_bytes(0, bytes);
        start
    }
}

fn order() -> Result<(), Failed> {
    let (mut pointer, mut count) = (0, 0);
    // SAFETY: valid targets.
    unsafe {
        answers(sys::cuDeviceGetCount(&mut count), CUDA_ERROR_NOT_INITIALIZED, "cuDeviceGetCount: before cuInit");
        result::init()?;
        answers(sys::cuDeviceGetCount(&mut count), CUDA_SUCCESS, "");
        answers(sys::cuMemAlloc_v2(&mut pointer, 16), CUDA_ERROR_INVALID_CONTEXT, "cuMemAlloc: no context");
        answers(sys::cuDeviceGet(&mut count, 5), CUDA_ERROR_INVALID_DEVICE, "there is no GPU 5");
    }
    Ok(())
}

fn stale() -> Result<(), Failed> {
    let place = Place::new();
    let (_, module) = place.kernel();
    let memory = alloc(16);
    // SAFETY: all handles are alive when they are first destroyed, and recognised when they are not.
    unsafe {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        answers(sys::cuEventDestroy_v2(event), CUDA_SUCCESS, "");
        answers(sys::cuEventDestroy_v2(event), CUDA_ERROR_INVALID_HANDLE, "cuEventDestroy: no event that is alive");
        answers(sys::cuEventRecord(event, place.stream), CUDA_ERROR_INVALID_HANDLE, "cuEventRecord: no event");
        answers(sys::cuModuleUnload(module), CUDA_SUCCESS, "");
        answers(sys::cuModuleUnload(module), CUDA_ERROR_INVALID_HANDLE, "cuModuleUnload: no module that is alive");
        answers(sys::cuMemFree_v2(memory), CUDA_SUCCESS, "");
        answers(sys::cuMemFree_v2(memory), CUDA_ERROR_INVALID_VALUE, "is no allocation");
        answers(sys::cuStreamDestroy_v2(place.stream), CUDA_SUCCESS, "");
        answers(place.synchronize(), CUDA_ERROR_INVALID_HANDLE, "cuStreamSynchronize: no stream that is alive");
        answers(sys::cuStreamSynchronize(ptr::null_mut()), CUDA_ERROR_INVALID_HANDLE, "");
    }
    Ok(())
}

fn device_memory() -> Result<(), Failed> {
    let place = Place::new();
    let memory = alloc(100);
    let mut bytes = [0u8; 100];
    // SAFETY: the buffers are as long as the copies, or the mock refuses them before it looks.
    unsafe {
        let copy = |bytes: &mut [u8], from| {
            sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), from, bytes.len(), place.stream)
        };
        answers(copy(&mut bytes, memory), CUDA_SUCCESS, "");
        assert_eq!(bytes, [0xff; 100], "new memory is not zero");
        answers(copy(&mut bytes, memory + 1), CUDA_ERROR_INVALID_VALUE, "cuMemcpyDtoHAsync: 100 bytes at");
        let fill = sys::cuMemsetD8Async(memory, 0, 101, place.stream);
        answers(fill, CUDA_ERROR_INVALID_VALUE, "cuMemsetD8Async: 101 bytes at");
        result::free_sync(memory)?;
        result::stream::destroy(place.stream)?;
    }
    Ok(())
}

fn page_locked() -> Result<(), Failed> {
    let place = Place::new();
    let memory = alloc(64);
    let (up, target) = (page_locked_memory(64), page_locked_memory(64));
    // SAFETY: all ranges are whole blocks; the blocks are used no more once they are freed.
    unsafe {
        let upload = || sys::cuMemcpyHtoDAsync_v2(memory, up.cast(), 64, place.stream);
        let download = || sys::cuMemcpyDtoHAsync_v2(target.cast(), memory, 64, place.stream);
        up.write_bytes(1, 64);
        answers(upload(), CUDA_SUCCESS, "");
        answers(download(), CUDA_SUCCESS, "");
        assert_eq!(target.read(), 0xff, "nothing has run, and the target is undefined");
        answers(place.synchronize(), CUDA_SUCCESS, "");
        assert_eq!(target.read(), 1);
        assert!(!reported("was written to before"), "all has been right so far");
        answers(upload(), CUDA_SUCCESS, "");
        up.write(2);
        answers(place.synchronize(), CUDA_SUCCESS, "cuMemcpyHtoDAsync: the source was written to before the copy ran");
        answers(download(), CUDA_SUCCESS, "");
        target.write(3);
        answers(place.synchronize(), CUDA_SUCCESS, "cuMemcpyDtoHAsync: the target was written to before the copy ran");
        let past = sys::cuMemcpyHtoDAsync_v2(memory, up.add(1).cast(), 64, place.stream);
        answers(past, CUDA_ERROR_INVALID_VALUE, "runs over the end of page-locked memory");
        answers(download(), CUDA_SUCCESS, "");
        let freed = sys::cuMemFreeHost(target.cast());
        answers(freed, CUDA_SUCCESS, "cuMemFreeHost: freed while a copy with it waits");
        answers(sys::cuMemFreeHost(target.cast()), CUDA_ERROR_INVALID_VALUE, "is no page-locked memory");
        answers(sys::cuMemFreeHost(up.cast()), CUDA_SUCCESS, "");
        result::free_sync(memory)?;
        result::stream::destroy(place.stream)?;
    }
    Ok(())
}

fn events() -> Result<(), Failed> {
    let place = Place::new();
    // SAFETY: all handles are alive.
    unsafe {
        let events = [0; 2].map(|_| result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).expect("an event"));
        let mut time = 0.0;
        answers(sys::cuEventQuery(events[0]), CUDA_SUCCESS, "");
        let elapsed = sys::cuEventElapsedTime(&mut time, events[0], events[1]);
        answers(elapsed, CUDA_ERROR_INVALID_HANDLE, "cuEventElapsedTime: an event without a time");
        for event in events {
            answers(sys::cuEventRecord(event, place.stream), CUDA_SUCCESS, "");
        }
        let elapsed = sys::cuEventElapsedTime(&mut time, events[0], events[1]);
        answers(elapsed, CUDA_ERROR_NOT_READY, "cuEventElapsedTime: an event that was not waited for");
        answers(sys::cuEventQuery(events[1]), CUDA_ERROR_NOT_READY, "");
        answers(sys::cuEventQuery(events[1]), CUDA_SUCCESS, "");
        answers(sys::cuEventElapsedTime(&mut time, events[0], events[1]), CUDA_SUCCESS, "");
        assert!(time >= 0.0);
        for event in events {
            result::event::destroy(event)?;
        }
        result::stream::destroy(place.stream)?;
    }
    Ok(())
}

fn captures() -> Result<(), Failed> {
    let place = Place::new();
    let memory = alloc(64);
    let ordinary = [0u8; 64];
    // SAFETY: handles are alive, buffers as long as the copies.
    unsafe {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        let fill = || sys::cuMemsetD8Async(memory, 0, 64, place.stream);
        place.begin(CU_STREAM_CAPTURE_MODE_RELAXED);
        answers(fill(), CUDA_SUCCESS, "");
        let again = sys::cuStreamBeginCapture_v2(place.stream, CU_STREAM_CAPTURE_MODE_RELAXED);
        answers(again, CUDA_ERROR_ILLEGAL_STATE, "cuStreamBeginCapture: the stream is captured already");
        answers(sys::cuEventRecord(event, place.stream), CUDA_SUCCESS, "");
        let query = sys::cuEventQuery(event);
        answers(query, CUDA_ERROR_CAPTURED_EVENT, "cuEventQuery: the event was recorded in a captured stream");
        // Relaxed: others may allocate.
        answers(sys::cuMemFree_v2(alloc(16)), CUDA_SUCCESS, "");
        answers(place.synchronize(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamSynchronize: not permitted while");
        answers(fill(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuMemsetD8Async: the capture is invalid");
        assert_eq!(place.end(), (CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, ptr::null_mut()));
        assert_eq!(place.end().0, CUDA_ERROR_ILLEGAL_STATE);

        place.begin(CU_STREAM_CAPTURE_MODE_RELAXED);
        let copy = sys::cuMemcpyHtoDAsync_v2(memory, ordinary.as_ptr().cast(), 64, place.stream);
        answers(copy, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuMemcpyHtoDAsync: not permitted while");
        assert_eq!(place.end().0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        place.begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
        let mut pointer = 0;
        let allocation = sys::cuMemAlloc_v2(&mut pointer, 16);
        answers(allocation, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuMemAlloc: may wait on its own account");
        assert_eq!(place.end().0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        answers(place.synchronize(), CUDA_SUCCESS, "");
        result::event::destroy(event)?;
        result::free_sync(memory)?;
        result::stream::destroy(place.stream)?;
    }
    Ok(())
}

fn launches() -> Result<(), Failed> {
    let place = Place::new();
    let (function, module) = place.kernel();
    let memory = alloc(4096);
    answers(place.launch(function, 1025, 0, memory), CUDA_ERROR_INVALID_VALUE, "cuLaunchKernel: [1025, 1, 1] threads");
    answers(
        place.launch(function, 32, 50_000, memory),
        CUDA_ERROR_INVALID_VALUE,
        "50000 bytes of dynamic shared memory",
    );
    // SAFETY: handles are alive.
    unsafe {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let much = sys::cuFuncSetAttribute(function, attribute, 300_000);
        answers(much, CUDA_ERROR_INVALID_VALUE, "cuFuncSetAttribute");
        answers(sys::cuFuncSetAttribute(function, attribute, 50_000), CUDA_SUCCESS, "");
        answers(place.launch(function, 32, 50_000, memory), CUDA_SUCCESS, "");
        let mut missing = ptr::null_mut();
        let name = c"no_such_kernel".as_ptr();
        let found = sys::cuModuleGetFunction(&mut missing, module, name);
        answers(found, CUDA_ERROR_NOT_FOUND, "");
        let noise = [7u8; 64];
        let load = sys::cuModuleLoadData(&mut missing.cast(), noise.as_ptr().cast());
        answers(load, CUDA_ERROR_INVALID_IMAGE, "no image of the mock's NVRTC");
        let early = sys::cuModuleUnload(module);
        answers(early, CUDA_SUCCESS, "cuModuleUnload: unloaded while a launch of it waits");
        answers(place.launch(function, 32, 0, memory), CUDA_ERROR_INVALID_HANDLE, "no function of a module");
        result::free_sync(memory)?;
        result::stream::destroy(place.stream)?;
    }
    Ok(())
}

/// Leaves its stream alive: the leak that `main` expects.
fn graphs() -> Result<(), Failed> {
    let place = Place::new();
    let (function, module) = place.kernel();
    let (memory, host) = (alloc(4096), page_locked_memory(64));
    // SAFETY: handles are alive, or recognised as stale.
    unsafe {
        let record = |work: &dyn Fn()| {
            place.begin(CU_STREAM_CAPTURE_MODE_RELAXED);
            work();
            let (ended, graph) = place.end();
            answers(ended, CUDA_SUCCESS, "");
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags_enum(0)).expect("a graph");
            result::graph::destroy(graph).expect("the executable does not need it");
            executable
        };
        let copy = record(&|| {
            let copy = sys::cuMemcpyHtoDAsync_v2(memory, host.cast(), 64, place.stream);
            answers(copy, CUDA_SUCCESS, "");
        });
        let launch = record(&|| answers(place.launch(function, 16, 0, memory), CUDA_SUCCESS, ""));
        answers(sys::cuGraphLaunch(copy, place.stream), CUDA_SUCCESS, "");
        answers(sys::cuGraphLaunch(launch, place.stream), CUDA_SUCCESS, "");
        answers(place.synchronize(), CUDA_SUCCESS, "");
        let mut sums = [0f32; 16];
        result::memcpy_dtoh_async(&mut sums, memory, place.stream)?;
        assert_eq!(sums, [1.0; 16]);
        result::free_host(host.cast())?;
        result::module::unload(module)?;
        let stale = "a node copies with host memory that was freed";
        answers(sys::cuGraphLaunch(copy, place.stream), CUDA_ERROR_INVALID_VALUE, stale);
        let stale = "a node launches a kernel that was unloaded";
        answers(sys::cuGraphLaunch(launch, place.stream), CUDA_ERROR_INVALID_HANDLE, stale);
        for executable in [copy, launch] {
            result::graph::exec_destroy(executable)?;
        }
        answers(sys::cuGraphLaunch(copy, place.stream), CUDA_ERROR_INVALID_HANDLE, "no executable graph that is alive");
        result::free_sync(memory)?;
    }
    Ok(())
}

const OLD_DRIVER: &str = "a driver for CUDA 12 refuses what NVRTC 13 makes";

/// In a process of its own, as the version is the driver's for good.
fn old_driver() -> Result<(), Failed> {
    let settings = std::env::var("MOCK_CUDA")?;
    if !settings.contains("driver=12.4") {
        let program = std::env::current_exe()?;
        let program = program.to_str().ok_or("the program's path is not UTF-8")?;
        let folder = tempfile::tempdir()?;
        let report = folder.path().join("report.json");
        let mut command = install::command(program, &report, "driver=12.4");
        let output = command.args([OLD_DRIVER, "--exact"]).output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return Ok(());
    }
    let place = Place::new();
    let spec = KernelSpec::from_text("add_one.cu", "add_one", SOURCE);
    let load = |arch: &str| -> Result<CUresult, Failed> {
        let cubin = Nvrtc::load()?.compile(&spec, arch, &Cache::at("/dev/null/none", 0))?;
        let mut module = ptr::null_mut();
        // SAFETY: a whole image, and a valid target.
        Ok(unsafe { sys::cuModuleLoadData(&mut module, cubin.image.as_ptr().cast()) })
    };
    answers(load("sm_90a")?, CUDA_ERROR_INVALID_IMAGE, "an image of ELF ABI 8 in a driver for CUDA 12");
    // PTX has no ABI, and runs on later GPUs; a cubin of another minor version only on those after it.
    answers(load("compute_80")?, CUDA_SUCCESS, "");
    // SAFETY: the stream is alive.
    unsafe { result::stream::destroy(place.stream)? };
    Ok(())
}
