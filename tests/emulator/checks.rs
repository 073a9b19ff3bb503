//! Every check of the emulator catches its planted bug, by the right name, and passes the same kernel without the bug.

use glmc_engine::driver::emulator::{Checks, Emulator, Options};
use glmc_engine::driver::{Arg, DevicePtr, Driver, KernelSpec, Launch};
use glmc_engine::{Error, Result};

const SOURCE: &str = include_str!("../planted/bugs.cu");
/// Elements of x and y; a multiple of nothing.
const N: usize = 250;

fn emulator(checks: Checks) -> Emulator {
    Emulator::new(Options { checks, ..Options::default() }).unwrap()
}

fn bug(entry: &str, planted: bool) -> KernelSpec {
    KernelSpec::from_text("bugs.cu", entry, SOURCE).define("BUG", u32::from(planted))
}

/// `bugs.cu:LINE` of the line that carries `HERE entry`.
fn here(entry: &str) -> String {
    let line = SOURCE.lines().position(|line| line.ends_with(&format!("// HERE {entry}"))).unwrap() + 1;
    format!("bugs.cu:{line}")
}

struct Bench {
    driver: Emulator,
    x: DevicePtr,
    y: DevicePtr,
}

impl Bench {
    fn new(checks: Checks) -> Bench {
        let driver = emulator(checks);
        let values: Vec<f32> = (0..N).map(|i| i as f32).collect();
        let x = driver.alloc(4 * N, "input").unwrap();
        driver.upload(x, bytemuck::cast_slice(&values)).unwrap();
        let y = driver.alloc(4 * N, "output").unwrap();
        Bench { driver, x, y }
    }

    fn run(&self, entry: &str, planted: bool, launch: Launch) -> Result<()> {
        let kernel = self.driver.kernel(&bug(entry, planted))?;
        self.driver.launch(kernel, launch, &[Arg::Ptr(self.x), Arg::Ptr(self.y), Arg::I32(N as i32)])
    }

    /// Runs the kernel right and wrong; the wrong one's message must hold every word of `words`, the kernel's name,
    /// and the place.
    fn catches(&self, entry: &str, launch: Launch, words: &[&str]) {
        self.run(entry, false, launch).unwrap_or_else(|error| panic!("without the bug: {error}"));
        let error = self.run(entry, true, launch).expect_err("the planted bug was not caught");
        assert!(matches!(error, Error::Device { .. }));
        let text = error.to_string();
        println!("{text}");
        for word in words.iter().copied().chain([&*format!("kernel {entry}<BUG=1>"), &*here(entry)]) {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        assert!(!text.contains('\n') && !text.contains(" at /"), "{text}");
    }
}

#[test]
fn write_past_the_end() {
    let bench = Bench::new(Checks::Full);
    let words =
        ["block (3,0,0)", "thread (58,0,0)", "write of 4 bytes at 0x", "0 bytes past the end of `output` (1000 bytes)"];
    bench.catches("past_the_end", Launch::linear(4, 64), &words);
}

#[test]
fn read_before_the_start() {
    let bench = Bench::new(Checks::Full);
    let words = ["block (0,0,0)", "thread (0,0,0)", "read of 4 bytes", "4 bytes before the start of `input`"];
    bench.catches("before_the_start", Launch::linear(4, 64), &words);
}

#[test]
fn read_of_a_wild_address() {
    let words = ["thread (0,0,0)", "read of 4 bytes at 0x10", "neither device nor shared memory"];
    Bench::new(Checks::Full).catches("far_away", Launch::linear(4, 64), &words);
}

#[test]
fn read_of_freed_memory() {
    let bench = Bench::new(Checks::Full);
    bench.run("past_the_end", false, Launch::linear(4, 64)).unwrap();
    bench.driver.free(bench.x).unwrap();
    let text = bench.run("past_the_end", false, Launch::linear(4, 64)).unwrap_err().to_string();
    assert!(text.contains("out of bounds: read of 4 bytes") && text.contains("before the start of `output`"), "{text}");
}

#[test]
fn misaligned_vectors() {
    let bench = Bench::new(Checks::Full);
    let words = ["thread (0,0,0)", "misaligned: read of 16 bytes at 0x", "no multiple of 16"];
    bench.catches("misaligned_call", Launch::linear(1, 64), &words);
    bench.catches("misaligned_type", Launch::linear(1, 64), &words);
}

#[test]
fn shared_memory_that_was_not_written() {
    let words = ["thread (4,0,0)", "uninitialised: read of 4 bytes at 0x"];
    Bench::new(Checks::Full).catches("unwritten_shared", Launch::linear(1, 64).shared(256), &words);
}

#[test]
fn shared_memory_of_the_last_block_does_not_count() {
    // The block before wrote every word; this one may not read its leavings.
    let bench = Bench::new(Checks::Full);
    bench.run("unwritten_shared", false, Launch::linear(1, 64).shared(256)).unwrap();
    assert!(bench.run("unwritten_shared", true, Launch::linear(1, 64).shared(256)).is_err());
}

#[test]
fn shared_memory_past_what_was_asked_for() {
    let words = ["thread (63,0,0)", "write of 4 bytes at 0x", "outside the 256 bytes of shared memory"];
    Bench::new(Checks::Full).catches("past_shared", Launch::linear(1, 64).shared(256), &words);
}

#[test]
fn races_in_shared_memory() {
    let bench = Bench::new(Checks::Full);
    let launch = Launch::linear(1, 64).shared(256);
    bench.catches("missing_barrier", launch, &["race: write", "thread (32,0,0)", "at 0x", "thread (31,0,0)"]);
    bench.catches("overwritten_early", launch, &["race: write of 4 bytes", "at 0x", "touches too"]);
    bench.catches("missing_syncwarp", Launch::linear(1, 32).shared(256), &["race: ", "at 0x"]);
}

#[test]
fn asynchronous_copy_without_its_wait() {
    let words = ["asynchronous copy in flight: read of 4 bytes", "thread (0,0,0)"];
    Bench::new(Checks::Full).catches("missing_wait", Launch::linear(1, 62).shared(1024), &words);
}

#[test]
fn barrier_that_some_threads_miss() {
    for checks in [Checks::Full, Checks::Fast] {
        let bench = Bench::new(checks);
        let launch = Launch::linear(2, 64).shared(256);
        let words = ["block (", "thread (0,0,0)", "barrier at", "thread 40 has returned"];
        if checks == Checks::Full {
            // One block: with two, both would write the same output.
            bench.catches("partial_barrier", Launch::linear(1, 64).shared(256), &words);
        } else {
            bench.catches("partial_barrier", launch, &words);
        }
        bench.catches("two_barriers", Launch::linear(1, 64), &["barrier at", "thread 32 waits at __syncthreads at"]);
        bench.catches("partial_shuffle", Launch::linear(1, 64), &["warp-wide function", "thread 20 has returned"]);
    }
}

#[test]
fn arguments_that_do_not_fit() {
    for checks in [Checks::Full, Checks::Fast] {
        let bench = Bench::new(checks);
        let kernel = bench.driver.kernel(&bug("past_the_end", false)).unwrap();
        let launch = Launch::linear(1, 32);
        let pair = [Arg::Ptr(bench.x), Arg::Ptr(bench.y)];
        let text = bench.driver.launch(kernel, launch, &pair).unwrap_err().to_string();
        assert!(text.contains("kernel past_the_end<BUG=0>: launched with 2 arguments, but it takes 3"), "{text}");
        let wide = [Arg::Ptr(bench.x), Arg::Ptr(bench.y), Arg::U64(7)];
        let text = bench.driver.launch(kernel, launch, &wide).unwrap_err().to_string();
        assert!(text.contains("argument 3 has 8 bytes, but the kernel's parameter has 4"), "{text}");
        let right = [Arg::Ptr(bench.x), Arg::Ptr(bench.y), Arg::I32(10)];
        bench.driver.launch(kernel, launch, &right).unwrap();
        let text = bench.driver.launch(kernel, Launch::linear(1, 2048), &right).unwrap_err().to_string();
        assert!(text.contains("1 to 1024"), "{text}");
        let text = bench.driver.launch(kernel, launch.shared(1 << 20), &right).unwrap_err().to_string();
        assert!(text.contains("1048576 bytes of shared memory"), "{text}");
    }
}

#[test]
fn results_that_depend_on_the_order_of_threads() {
    for checks in [Checks::Full, Checks::Fast] {
        let bench = Bench::new(checks);
        let counter = bench.driver.alloc(4, "counter").unwrap();
        let run = |planted: bool| {
            let kernel = bench.driver.kernel(&bug("order_dependent", planted))?;
            bench.driver.check_orders(4, &mut || {
                bench.driver.zero(counter, 4)?;
                bench.driver.launch(kernel, Launch::linear(3, 64), &[Arg::Ptr(counter), Arg::Ptr(bench.y)])?;
                let mut out = vec![0; 192 * 4];
                bench.driver.download(&mut out, bench.y)?;
                Ok(out)
            })
        };
        run(false).unwrap();
        let text = run(true).unwrap_err().to_string();
        assert!(text.contains("results depend on the order in which threads run"), "{text}");
    }
}

#[test]
fn two_blocks_that_write_one_address() {
    let bench = Bench::new(Checks::Full);
    bench.catches(
        "two_blocks_write",
        Launch::linear(4, 64),
        &["two blocks write one address: write of 4 bytes at 0x", "bytes into `output`", "which block ("],
    );
}

#[test]
fn reads_of_what_another_block_writes() {
    let bench = Bench::new(Checks::Full);
    let launch = Launch::linear(4, 64);
    bench.run("read_across_blocks", false, launch).unwrap();
    // Whether the reader comes before the writer is chance with blocks in parallel; one order of blocks shows it surely.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let words = ["read across blocks: read of 4 bytes at 0x", "`input`", "which block (0,0,0) writes"];
        bench.catches("read_across_blocks", launch, &words);
    });
}

#[test]
fn static_variables_are_read_only() {
    Bench::new(Checks::Full).catches("static_write", Launch::linear(1, 64), &["write of 4 bytes", "static variable"]);
}

#[test]
fn half_words_and_last_block_reductions_pass() -> Result<()> {
    let bench = Bench::new(Checks::Full);
    let driver = &bench.driver;
    // 7 threads per block: blocks and threads share words.
    let kernel = driver.kernel(&bug("half_words", false))?;
    let args = [Arg::Ptr(bench.x), Arg::Ptr(bench.y), Arg::I32(N as i32)];
    driver.launch(kernel, Launch::cover(N, 7).shared(14), &args)?;

    let kernel = driver.kernel(&bug("last_block", false))?;
    let (partial, counter) = (driver.alloc(64 * 4, "partial")?, driver.alloc(4, "counter")?);
    driver.zero(counter, 4)?;
    let args = [Arg::Ptr(bench.x), Arg::Ptr(partial), Arg::Ptr(counter), Arg::Ptr(bench.y), Arg::I32(N as i32)];
    driver.launch(kernel, Launch::cover(N, 32).shared(4), &args)?;
    let mut total = [0f32];
    driver.download(bytemuck::cast_slice_mut(&mut total), bench.y)?;
    assert_eq!(total[0], (N * (N - 1) / 2) as f32);
    Ok(())
}

#[test]
fn strays_right_behind_an_allocation_show_without_instrumentation() {
    let bench = Bench::new(Checks::Fast);
    bench.run("past_the_end", false, Launch::linear(4, 64)).unwrap();
    bench.driver.synchronize().unwrap();
    bench.run("past_the_end", true, Launch::linear(4, 64)).unwrap();
    let text = bench.driver.synchronize().unwrap_err().to_string();
    assert!(text.contains("past the end of `output` (1000 bytes)"), "{text}");
}

#[test]
fn the_first_failure_does_not_spoil_what_follows() {
    let bench = Bench::new(Checks::Full);
    for _ in 0..3 {
        bench.run("partial_barrier", true, Launch::linear(1, 64).shared(256)).unwrap_err();
        bench.run("missing_barrier", true, Launch::linear(1, 64).shared(256)).unwrap_err();
        bench.run("missing_barrier", false, Launch::linear(1, 64).shared(256)).unwrap();
    }
}

#[test]
fn host_copies_stay_inside_allocations() {
    let bench = Bench::new(Checks::Fast);
    let text = bench.driver.upload(bench.x + 4, &[0; 4 * N]).unwrap_err().to_string();
    assert!(text.contains("upload of 1000 bytes") && text.contains("4 bytes into `input` (1000 bytes)"), "{text}");
    let text = bench.driver.download(&mut [0; 8], 64).unwrap_err().to_string();
    assert!(text.contains("not an address of device memory"), "{text}");
    assert!(bench.driver.zero(bench.y, 1001).is_err());
    assert!(bench.driver.copy(bench.y, bench.y + 8, 16).is_err());
}

#[test]
fn compile_errors_name_kernel_and_line() {
    let driver = emulator(Checks::Full);
    let text = "#include \"portable.cuh\"\nextern \"C\" __global__ void broken(int* x) {\n    x[0] = missing;\n}\n";
    let error = driver.kernel(&KernelSpec::from_text("broken.cu", "broken", text)).unwrap_err().to_string();
    assert!(error.contains("kernel broken does not compile") && error.contains("kernels/broken.cu:3:"), "{error}");
    let error = driver.kernel(&KernelSpec::from_text("bugs.cu", "past_the_end", SOURCE)).unwrap_err().to_string();
    assert!(error.contains("BUG (0 or 1) must be defined"), "{error}");
    let error = driver.kernel(&KernelSpec::new("absent")).unwrap_err().to_string();
    assert!(error.contains("no kernel source named absent.cu"), "{error}");
}
