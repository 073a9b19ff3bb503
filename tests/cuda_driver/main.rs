//! The CUDA driver code on every machine: with the mock (tests/mock_cuda/README.md) in place of NVIDIA's libraries, the
//! program and the driver run as on a GPU, and must compute the emulator's bits, make no mistake and leave nothing behind.

#[path = "../mock_cuda/install.rs"]
mod install;
mod program;
mod self_test;
#[path = "../common/signals.rs"]
mod signals;
mod versions;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use glmc_engine::driver::cache::Cache;
use glmc_engine::driver::cuda::Cuda;
use glmc_engine::driver::{Arg, Driver, KernelSpec, Launch};
use glmc_engine::{Error, Result};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    install::run(trials, install::clean)
}

fn trials() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = vec![
        Trial::test("info lists the device", program::info),
        Trial::test("verify gives the emulator's numbers", program::verify),
        Trial::test("training gives the emulator's bits in f32", || program::training("f32")),
        Trial::test("training gives the emulator's bits in bf16", || program::training("bf16")),
        Trial::test("training with SAM and projections gives the emulator's bits", program::optimizer),
        Trial::test("a run goes on after Ctrl-C and after a kill", program::interrupted),
        Trial::test("bench step gives its JSON", program::bench),
        Trial::test("bench ops times copies in graphs", program::bench_ops),
        Trial::test("a model that is not finite is not saved", program::divergence),
        Trial::test("every fault gets one line", program::faults),
        Trial::test("a new GPU is tested once", self_test::once),
        Trial::test("a wrong kernel is named", self_test::wrong),
        Trial::test("a kernel that hangs is named", self_test::hanging),
        Trial::test("a kernel that faults is named", self_test::faulting),
        Trial::test("a GPU is taken on trust with a warning", self_test::trusted),
        Trial::test("verify without a file tests the GPU", self_test::verify),
        Trial::test("the compiler goes with the driver", versions::compilers_and_drivers),
        Trial::test("a GPU newer than the compiler gets the nearest code", versions::newer_gpus),
        Trial::test("a fault in a run leaves no checkpoint", program::fault_in_a_run),
        Trial::test("copies with page-locked memory wait for their mark", || alone(page_locked)),
        Trial::test("a capture refuses what would break it", || alone(capture)),
        Trial::test("a capture that fails leaves nothing behind", || alone(failed_capture)),
        Trial::test("a graph keeps the host memory that it copies", || alone(graph_holds)),
        Trial::test("page-locked memory goes when its copies are done", || alone(dropped_in_flight)),
        Trial::test("kernels get the shared memory that they ask for", || alone(shared_memory)),
        Trial::test("wrong launches are refused by name", || alone(wrong_launches)),
        Trial::test("memory is counted, and freed once", || alone(memory)),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs a trial on the GPU alone: what another frees would make the work of this one run.
fn alone(trial: fn(&Cuda) -> Result<()>) -> Result<(), Failed> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(trial(&Cuda::new(0, Cache::user())?)?)
}

fn page_locked(cuda: &Cuda) -> Result<()> {
    let (mut up, mut down) = (cuda.alloc_pinned(1024)?, cuda.alloc_pinned(1024)?);
    assert!(up.bytes().iter().all(|byte| *byte == 0), "zeroed");
    let memory = cuda.alloc(1024, "a buffer")?;
    for round in 1..4 {
        up.bytes_mut().fill(round);
        cuda.upload_async(memory, &up, 0, 1024)?;
        let uploaded = cuda.stamp()?;
        cuda.download_async(&mut down, 24, memory, 1000)?;
        let downloaded = cuda.stamp()?;
        assert!(!cuda.reached(&uploaded)?, "the mock never is ready at once");
        while !cuda.reached(&uploaded)? {}
        up.bytes_mut().fill(99);
        cuda.wait(&downloaded)?;
        assert!(cuda.reached(&downloaded)?);
        assert!(down.bytes()[24..].iter().all(|byte| *byte == round), "round {round}");
        assert!(cuda.elapsed(&uploaded, &downloaded)? >= 0.0);
    }
    for (offset, bytes) in [(1000, 25), (usize::MAX, 1)] {
        let error = cuda.upload_async(memory, &up, offset, bytes).expect_err("out of the buffer").to_string();
        assert!(error.contains("of a host buffer of 1024"), "{error}");
    }
    cuda.free(memory)
}

/// Small kernels: one that adds to each element, and one that needs shared memory.
const SOURCE: &str = r#"#include "portable.cuh"
extern "C" __global__ void add(float* x, float value, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += value;
}
extern "C" __global__ void reverse(float* x, u32 n) {
    SHARED_MEMORY(buffer);
    float* held = (float*)buffer;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) held[i] = x[i];
    __syncthreads();
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) x[i] = held[n - 1 - i];
}
"#;

fn kernel(entry: &'static str) -> KernelSpec {
    KernelSpec::from_text("cuda_driver.cu", entry, SOURCE)
}

fn capture(cuda: &Cuda) -> Result<()> {
    let memory = cuda.alloc(256, "a buffer")?;
    cuda.upload(memory, &[0; 256])?;
    let add = cuda.kernel(&kernel("add"))?;
    let graph = cuda.capture(&mut || {
        let refused = [
            cuda.alloc(16, "more").err(),
            cuda.free(memory).err(),
            cuda.alloc_pinned(16).err(),
            cuda.upload(memory, &[0; 16]).err(),
            cuda.download(&mut [0; 16], memory).err(),
            cuda.synchronize().err(),
            cuda.mark().err(),
            cuda.capture(&mut || Ok(())).err(),
        ];
        for (n, error) in refused.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("call {n} was captured")).to_string();
            assert!(error.contains("while a graph is captured"), "{error}");
        }
        cuda.zero(memory, 128)?;
        cuda.copy(memory + 128, memory, 64)?;
        cuda.launch(add, Launch::linear(1, 64), &[Arg::Ptr(memory), Arg::F32(1.5), Arg::U32(64)])
    })?;
    assert_eq!(graph.operations(), 3, "what is refused breaks nothing");
    for _ in 0..2 {
        graph.replay()?;
    }
    let mut got = [0f32; 64];
    cuda.download(bytemuck::cast_slice_mut(&mut got), memory)?;
    // Two replays: the first half starts at zero each time, the last quarter is never cleared.
    assert!(got[..48].iter().all(|v| *v == 1.5) && got[48..].iter().all(|v| *v == 3.0), "{got:?}");
    cuda.free(memory)
}

fn failed_capture(cuda: &Cuda) -> Result<()> {
    let memory = cuda.alloc(256, "a buffer")?;
    let outcome = cuda.capture(&mut || {
        cuda.zero(memory, 256)?;
        Err(Error::device("cuda:0", "what went wrong"))
    });
    assert!(outcome.err().is_some_and(|error| error.to_string().contains("what went wrong")));
    // The stream works as before.
    cuda.zero(memory, 256)?;
    cuda.synchronize()?;
    assert_eq!(cuda.capture(&mut || cuda.zero(memory, 256))?.operations(), 1);
    cuda.free(memory)
}

fn graph_holds(cuda: &Cuda) -> Result<()> {
    let mut host = cuda.alloc_pinned(64)?;
    let memory = cuda.alloc(64, "a buffer")?;
    host.bytes_mut().fill(7);
    let graph = cuda.capture(&mut || cuda.upload_async(memory, &host, 0, 64))?;
    drop(host);
    graph.replay()?;
    let mut got = [0; 64];
    cuda.download(&mut got, memory)?;
    assert_eq!(got, [7; 64]);
    // Freed before the graph, whose last replay may still be under way.
    graph.replay()?;
    cuda.free(memory)
}

fn dropped_in_flight(cuda: &Cuda) -> Result<()> {
    let mut host = cuda.alloc_pinned(64)?;
    let memory = cuda.alloc(64, "a buffer")?;
    host.bytes_mut().fill(5);
    cuda.upload_async(memory, &host, 0, 64)?;
    drop(host);
    let mut got = [0; 64];
    cuda.download(&mut got, memory)?;
    assert_eq!(got, [5; 64]);
    // One that nothing uses may go while a graph is captured, and breaks nothing.
    let mut unused = Some(cuda.alloc_pinned(64)?);
    let graph = cuda.capture(&mut || {
        drop(unused.take());
        cuda.zero(memory, 64)
    })?;
    assert_eq!(graph.operations(), 1);
    cuda.free(memory)
}

fn shared_memory(cuda: &Cuda) -> Result<()> {
    let count = 25_000u32;
    let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
    let memory = cuda.alloc(4 * values.len(), "a buffer")?;
    cuda.upload(memory, bytemuck::cast_slice(&values))?;
    let reverse = cuda.kernel(&kernel("reverse"))?;
    let args = [Arg::Ptr(memory), Arg::U32(count)];
    cuda.launch(reverse, Launch::linear(1, 256).shared(4 * count), &args)?;
    let mut got = vec![0f32; values.len()];
    cuda.download(bytemuck::cast_slice_mut(&mut got), memory)?;
    assert!(got.iter().eq(values.iter().rev()));
    cuda.free(memory)
}

fn wrong_launches(cuda: &Cuda) -> Result<()> {
    let add = cuda.kernel(&kernel("add"))?;
    let launch = |launch: Launch, args: &[Arg]| cuda.launch(add, launch, args).expect_err("refused").to_string();
    let args = [Arg::Ptr(0), Arg::F32(1.0), Arg::U32(0)];
    for (error, part) in [
        (launch(Launch::linear(1, 32), &args[..2]), "kernel add: launched with 2 arguments, but it takes 3"),
        (launch(Launch::linear(1, 32), &[Arg::Ptr(0), Arg::U64(1), Arg::U32(0)]), "argument 2 has 8 bytes"),
        (launch(Launch::linear(1, 2000), &args), "2000, 1, 1] threads per block"),
        (launch(Launch::linear(1, 32).shared(1 << 20), &args), "1048576 bytes of shared memory per block"),
    ] {
        assert!(error.starts_with("cuda:0: ") && error.contains(part), "{error}");
    }
    let missing = cuda.kernel(&kernel("subtract")).expect_err("there is none").to_string();
    assert!(missing.contains("subtract"), "{missing}");
    let broken = KernelSpec::from_text("broken.cu", "broken", "extern \"C\" __global__ void broken(int* x) { x = y; }");
    let broken = cuda.kernel(&broken).expect_err("it does not compile").to_string();
    assert!(broken.contains("kernel broken does not compile for sm_90a (NVRTC_ERROR_COMPILATION)"), "{broken}");
    Ok(())
}

fn memory(cuda: &Cuda) -> Result<()> {
    let before = cuda.memory()?;
    let memory = cuda.alloc(1 << 20, "a buffer")?;
    let during = cuda.memory()?;
    assert_eq!((before.used, during.used, during.peak), (0, 1 << 20, 1 << 20));
    assert!(during.free < during.total);
    cuda.free(memory)?;
    assert_eq!((cuda.memory()?.used, cuda.memory()?.peak), (0, 1 << 20));
    let again = cuda.free(memory).expect_err("it is gone").to_string();
    assert!(again.contains("which is no allocation"), "{again}");
    // Dropped with the driver.
    cuda.alloc(100, "what is never freed")?;
    Ok(())
}
