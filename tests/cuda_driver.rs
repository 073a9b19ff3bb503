//! The CUDA driver code on every machine: with the mock (tests/mock_cuda/README.md) in place of NVIDIA's libraries, the
//! program and the driver run as on a GPU, and must compute the emulator's bits, make no mistake and leave nothing behind.

#[path = "mock_cuda/install.rs"]
mod install;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use glmc_engine::driver::cache::Cache;
use glmc_engine::driver::cuda::Cuda;
use glmc_engine::driver::{Arg, Driver, KernelSpec, Launch};
use glmc_engine::{Error, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

const BIN: &str = env!("CARGO_BIN_EXE_glmc-engine");

fn main() -> ExitCode {
    install::run(trials, install::clean)
}

fn trials() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = vec![
        Trial::test("info lists the device", info),
        Trial::test("verify gives the emulator's numbers", verify),
        Trial::test("training gives the emulator's bits in f32", || training("f32")),
        Trial::test("training gives the emulator's bits in bf16", || training("bf16")),
        Trial::test("a run goes on after Ctrl-C and after a kill", interrupted),
        Trial::test("bench step gives its JSON", bench),
        Trial::test("every fault gets one line", faults),
        Trial::test("a fault in a run leaves no checkpoint", fault_in_a_run),
        Trial::test("copies with page-locked memory wait for their mark", || alone(page_locked)),
        Trial::test("a recording refuses what would break it", || alone(recording)),
        Trial::test("a recording that fails leaves nothing behind", || alone(failed_recording)),
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

/// A temporary folder with a small long-tailed store in it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Result<Place, Failed> {
        let place = Place { folder: TempDir::new()? };
        let store = place.path("data.lt");
        let more = "--classes 4 --per-class 24 --imbalance 8 --size 8 --seed 3";
        ok(Command::new(BIN).args(["prepare", "synthetic", "--out"]).arg(&store).args(more.split(' ')).output()?)?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments of a short run: two epochs of two full batches and a smaller one.
    fn training(&self, device: &str, precision: &str, out: &Path) -> Vec<String> {
        let fixed = "train --model resnet20 --width 2 --epochs 2 --batch 16 --lr 0.05 --seed 1 --threads 2";
        let mut arguments: Vec<String> = fixed.split(' ').map(String::from).collect();
        let paths = [self.path("data.lt"), out.to_path_buf()].map(|path| path.display().to_string());
        let [store, out] = paths;
        let more = ["--device", device, "--precision", precision, "--data", &store, "--out", &out];
        arguments.extend(more.map(String::from));
        arguments
    }
}

/// Runs the program with the mock under `settings`; its output, and the mock's report if it got so far.
fn glmc(folder: &TempDir, settings: &str, arguments: &[String]) -> Result<(Output, Option<Value>), Failed> {
    let report = folder.path().join("report.json");
    fs::remove_file(&report).ok();
    let output = install::command(BIN, &report, settings).args(arguments).output()?;
    Ok((output, install::read(&report)))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(String::from).collect()
}

/// Stdout of a program that succeeded.
fn ok(output: Output) -> Result<String, Failed> {
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// The same when CUDA was used as it wants to be, with what the mock counted.
fn clean((output, report): (Output, Option<Value>)) -> Result<(String, Value), Failed> {
    let stdout = ok(output)?;
    let report = report.ok_or("the mock was not used")?;
    install::clean(&report).map_err(|what| format!("{what}: {report:#}"))?;
    Ok((stdout, report))
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or(0)
}

fn info() -> Result<(), Failed> {
    let folder = TempDir::new()?;
    let (stdout, _) = clean(glmc(&folder, "", &words("info --json"))?)?;
    let info: Value = serde_json::from_str(&stdout)?;
    let devices = info["devices"].as_array().ok_or("no devices")?;
    let cuda = devices.iter().find(|device| device["device"] == "cuda:0").ok_or("no cuda:0")?;
    assert_eq!(cuda["usable"], true, "{cuda}");
    assert!(cuda["description"].as_str().is_some_and(|text| text.contains("compute capability 9.0")), "{cuda}");
    Ok(())
}

fn verify() -> Result<(), Failed> {
    let folder = TempDir::new()?;
    for precision in ["f32", "bf16"] {
        let run = |device: &str| {
            let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/step_w2_c7_b3.safetensors");
            let command = format!("verify {fixture} --device {device} --precision {precision} --json");
            glmc(&folder, "", &words(&command))
        };
        let groups =
            |text: &str| -> Result<Value, Failed> { Ok(serde_json::from_str::<Value>(text)?[0]["groups"].take()) };
        let (cuda, report) = clean(run("cuda")?)?;
        let emulator = ok(run("emulator")?.0)?;
        assert!(groups(&cuda)?.is_array());
        assert_eq!(groups(&cuda)?, groups(&emulator)?, "{precision}");
        assert!(number(&report, "launches") > 100, "{report:#}");
    }
    Ok(())
}

/// The tensors of a checkpoint: everything behind the header, which also names the device.
fn weights(run: &Path, name: &str) -> Result<Vec<u8>, Failed> {
    let bytes = fs::read(run.join(name))?;
    let header = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    Ok(bytes[8 + header..].to_vec())
}

/// Lines of metrics.jsonl without what time it took, and without the memory, of which streamed images take another amount.
fn metrics(run: &Path) -> Result<Vec<Value>, Failed> {
    fn strip(value: &mut Value) {
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, _| !["seconds", "samples_per_second", "peak_bytes"].contains(&key.as_str()));
            object.values_mut().for_each(strip);
        }
    }
    let mut lines = Vec::new();
    for line in fs::read_to_string(run.join("metrics.jsonl"))?.lines() {
        let mut value = serde_json::from_str(line)?;
        strip(&mut value);
        lines.push(value);
    }
    Ok(lines)
}

fn same_run(run: &Path, expected: &Path) -> Result<(), Failed> {
    let (got, wanted) = (metrics(run)?, metrics(expected)?);
    assert!(got == wanted, "{}: {got:#?}, expected {wanted:#?}", run.display());
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(weights(run, name)? == weights(expected, name)?, "{} differs in {}", name, run.display());
    }
    Ok(())
}

/// Late and early work, resident and streamed images: all the same bits.
fn training(precision: &str) -> Result<(), Failed> {
    let place = Place::new()?;
    let expected = place.path("emulator");
    ok(glmc(&place.folder, "", &place.training("emulator", precision, &expected))?.0)?;
    for (name, settings, more) in [
        ("late", "timing=late", ""),
        ("early", "timing=early", ""),
        ("streamed", "timing=late", "--resident-limit 0"),
        ("streamed-early", "timing=early", "--resident-limit 0"),
    ] {
        let run = place.path(name);
        let mut arguments = place.training("cuda", precision, &run);
        arguments.extend(more.split_whitespace().map(String::from));
        let (_, report) = clean(glmc(&place.folder, settings, &arguments)?)?;
        same_run(&run, &expected)?;
        // Graphs for full batches, the last one of an epoch, and evaluation; a replay for each step and each evaluation.
        let nodes: Vec<u64> =
            report["graph_nodes"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        assert!(nodes.len() >= 3 && nodes.iter().all(|n| *n > 20), "{report:#}");
        assert!(number(&report, "replays") >= 2 * 3 + 2, "{report:#}");
    }
    Ok(())
}

/// Starts a run on the mock, does `stop` to it after its first epoch, and returns how it ended.
fn stopped(
    place: &Place,
    run: &Path,
    stop: fn(&mut std::process::Child) -> std::io::Result<()>,
) -> Result<Output, Failed> {
    let mut command = install::command(BIN, &place.path("stopped.json"), "");
    let mut arguments = place.training("cuda", "f32", run);
    let epochs = arguments.iter().position(|word| word == "--epochs").ok_or("no epochs")? + 1;
    arguments[epochs] = "6".to_string();
    let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let start = Instant::now();
    while !fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.contains('\n')) {
        if child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(120) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    stop(&mut child)?;
    Ok(child.wait_with_output()?)
}

fn interrupted() -> Result<(), Failed> {
    let place = Place::new()?;
    let whole = place.path("whole");
    let mut arguments = place.training("emulator", "f32", &whole);
    let epochs = arguments.iter().position(|word| word == "--epochs").ok_or("no epochs")? + 1;
    arguments[epochs] = "6".to_string();
    ok(glmc(&place.folder, "", &arguments)?.0)?;
    let interrupt = |child: &mut std::process::Child| {
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().map(|_| ())
    };
    for (name, stop, status) in [
        ("interrupted", interrupt as fn(&mut std::process::Child) -> _, Some(130)),
        ("killed", std::process::Child::kill, None),
    ] {
        let run = place.path(name);
        let output = stopped(&place, &run, stop)?;
        assert_eq!(output.status.code(), status, "{name}: {}", String::from_utf8_lossy(&output.stderr));
        if status.is_some() {
            let report = install::read(&place.path("stopped.json")).ok_or("no report")?;
            install::clean(&report).map_err(|what| format!("{name}: {what}: {report:#}"))?;
        }
        clean(glmc(&place.folder, "", &["train".into(), "--resume".into(), run.display().to_string()])?)?;
        same_run(&run, &whole)?;
    }
    Ok(())
}

fn bench() -> Result<(), Failed> {
    let folder = TempDir::new()?;
    let command = "bench step --model resnet20 --width 2 --batch 4 --device cuda --seconds 0.1 --json";
    let (stdout, report) = clean(glmc(&folder, "", &words(command))?)?;
    let bench: Value = serde_json::from_str(&stdout)?;
    assert_eq!((&bench["device"], &bench["precision"]), (&"cuda:0".into(), &"bf16".into()), "{bench}");
    assert!(bench["samples_per_second"].as_f64().is_some_and(|n| n > 0.0), "{bench}");
    assert!(number(&report, "replays") > 0, "{report:#}");
    Ok(())
}

/// Asserts exit status 1 and one line, which it returns.
fn one_line(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(lines.len() == 1 && stderr.trim_end().ends_with(lines[0]) && !stderr.contains("panicked"), "{stderr}");
    lines[0].to_string()
}

fn faults() -> Result<(), Failed> {
    let place = Place::new()?;
    for (settings, parts) in [
        ("init=no-device", ["error: cuda: the driver sees no GPU", "--device cpu"]),
        ("init=stub", ["the toolkit's stub, not a driver", "install the driver"]),
        ("init=mismatch", ["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart the machine"]),
        ("init=unknown", ["the NVIDIA driver does not start", "CUDA_ERROR_UNKNOWN"]),
        ("devices=0", ["error: cuda:0: the driver sees no GPU", "CUDA_VISIBLE_DEVICES"]),
        ("compute=7.5", ["compute capability 7.5 is below 8.0", "Ampere"]),
        ("driver=11.8", ["the NVIDIA driver is for CUDA 11.8", "CUDA 12 or later"]),
        ("memory=300000", ["out of memory: ", " of 300000 bytes free; use a smaller batch"]),
        ("image=invalid", ["CUDA_ERROR_INVALID_IMAGE", "update the driver"]),
        ("illegal-address=1", ["CUDA_ERROR_ILLEGAL_ADDRESS", "run the same on --device emulator"]),
    ] {
        let run = place.path("run");
        let (output, report) = glmc(&place.folder, settings, &place.training("cuda", "f32", &run))?;
        let line = one_line(&output);
        assert!(parts.iter().all(|part| line.contains(part)), "{settings}: {line}");
        // Even then everything is given back; where cuInit fails there is nothing to report.
        if let Some(report) = report {
            install::clean(&report).map_err(|what| format!("{settings}: {what}: {report:#}"))?;
        }
        let files = fs::read_dir(&run).into_iter().flatten().count();
        assert!(files == 0 || settings == "illegal-address=1", "{settings} leaves {files} files");
        fs::remove_dir_all(&run).ok();
    }
    Ok(())
}

fn fault_in_a_run() -> Result<(), Failed> {
    let place = Place::new()?;
    let run = place.path("run");
    // Somewhere in the second epoch: the first one's checkpoint stands, and nothing else does.
    let (output, report) = glmc(&place.folder, "illegal-address=900", &place.training("cuda", "f32", &run))?;
    let line = one_line(&output);
    assert!(line.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{line}");
    let report = report.ok_or("no report")?;
    install::clean(&report).map_err(|what| format!("{what}: {report:#}"))?;
    assert_eq!(number(&report, "launches"), 900, "nothing runs after an error");
    let mut names: Vec<_> =
        fs::read_dir(&run)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    assert_eq!(names, ["best.safetensors", "config.toml", "last.safetensors", "metrics.jsonl", "run.json"]);
    let expected = place.path("emulator");
    ok(glmc(&place.folder, "", &place.training("emulator", "f32", &expected))?.0)?;
    clean(glmc(&place.folder, "", &["train".into(), "--resume".into(), run.display().to_string()])?)?;
    same_run(&run, &expected)
}

fn page_locked(cuda: &Cuda) -> Result<()> {
    let (mut up, mut down) = (cuda.alloc_pinned(1024)?, cuda.alloc_pinned(1024)?);
    assert!(up.bytes().iter().all(|byte| *byte == 0), "zeroed");
    let memory = cuda.alloc(1024, "a buffer")?;
    for round in 1..4 {
        up.bytes_mut().fill(round);
        cuda.upload_async(memory, &up, 0, 1024)?;
        let uploaded = cuda.mark()?;
        cuda.download_async(&mut down, 24, memory, 1000)?;
        let downloaded = cuda.mark()?;
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

fn recording(cuda: &Cuda) -> Result<()> {
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
            let error = error.unwrap_or_else(|| panic!("call {n} was recorded")).to_string();
            assert!(error.contains("while a graph is recorded"), "{error}");
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

fn failed_recording(cuda: &Cuda) -> Result<()> {
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
    // One that nothing uses may go while a graph is recorded, and breaks nothing.
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
        (launch(Launch::linear(1, 2000), &args), "2000, 1, 1] threads a block"),
        (launch(Launch::linear(1, 32).shared(1 << 20), &args), "1048576 bytes of shared memory a block"),
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
    cuda.alloc(100, "what nobody frees")?;
    Ok(())
}
