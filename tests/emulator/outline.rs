//! Tensors that share an allocation have red zones and lives of their own where every access is checked.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use glmc_engine::driver::emulator::{Checks, Emulator, Options};
use glmc_engine::driver::{Arg, Driver, KernelSpec, Launch, Outline, Part};
use tempfile::TempDir;

use crate::kernels_folder::{copy, glmc, one_line, stdout};

const COPY: &str = "#include \"portable.cuh\"
extern \"C\" __global__ void copy(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}
";

#[test]
fn kernels_touch_what_is_alive_and_nothing_else() {
    let driver = Emulator::new(Options::default()).unwrap();
    let part = |name: &str, offset, bytes, alive| Part { name: name.into(), offset, bytes, alive };
    // 256 bytes: not even the last granule of x has room to spare.
    let parts = vec![part("x", 0, 256, [0, 1]), part("y", 4352, 1000, [0, 2]), part("z", 16384, 400, [2, 2])];
    let outline = Arc::new(Outline { parts });
    let arena = driver.alloc(1 << 15, "arena").unwrap();
    driver.zero(arena, 1 << 15).unwrap();
    let kernel = driver.kernel(&KernelSpec::from_text("copy.cu", "copy", COPY)).unwrap();
    let run = |time: Option<usize>, from: u64, to: u64, n: i32| {
        driver.outline(arena, time.map(|time| (&outline, time))).unwrap();
        let args = [Arg::Ptr(arena + from), Arg::Ptr(arena + to), Arg::I32(n)];
        driver.launch(kernel, Launch::cover(n as usize, 32), &args).map_err(|error| error.to_string())
    };
    run(Some(0), 0, 4352, 64).unwrap();
    for (time, from, to, n, wanted) in [
        (0, 0, 4352, 65, "read of 4 bytes at 0x", "0 bytes past the end of `x` (256 bytes) in `arena`"),
        (0, 4352, 0, 65, "write of 4 bytes at 0x", "0 bytes past the end of `x` (256 bytes) in `arena`"),
        (1, 4348, 0, 1, "read of 4 bytes at 0x", "4 bytes before the start of `y` (1000 bytes) in `arena`"),
        (
            2,
            4352,
            0,
            1,
            "write of 4 bytes at 0x",
            "4352 bytes before the start of `y` (1000 bytes), where `x` (256 bytes) lies at other times in `arena`",
        ),
        (3, 4352, 0, 1, "read of 4 bytes at 0x", "where no tensor is alive in `arena`"),
    ]
    .map(|(time, from, to, n, access, place)| (time, from, to, n, [access, place]))
    {
        let error = run(Some(time), from, to, n).expect_err("an access that no plan allows");
        assert!(error.contains("kernel copy, block (") && error.contains("copy.cu:4"), "{error}");
        assert!(wanted.iter().all(|part| error.contains(part)), "{error}");
    }
    // All of it again, as the optimiser needs it.
    run(None, 64, 8192, 64).unwrap();

    // Captured with the work, at no cost in operations.
    let graph = driver
        .capture(&mut || {
            run(Some(0), 0, 4352, 64).and_then(|()| run(Some(2), 4352, 16384, 100)).expect("captured");
            driver.outline(arena, Some((&outline, 1)))?;
            driver.launch(kernel, Launch::cover(8, 32), &[Arg::Ptr(arena), Arg::Ptr(arena + 16384), Arg::I32(8)])
        })
        .unwrap();
    assert_eq!(graph.operations(), 3);
    let error = graph.replay().expect_err("z is not alive at 1").to_string();
    assert!(error.contains("where `z` (400 bytes) lies at other times in `arena`"), "{error}");

    let misplaced = Arc::new(Outline { parts: vec![part("far", 1 << 15, 4, [0, 0])] });
    assert!(driver.outline(arena, Some((&misplaced, 0))).is_err());
    assert!(driver.outline(arena + 256, None).is_err(), "no allocation begins here");
}

/// What is alive, and where, changes no result and costs the devices that do not look nothing.
#[test]
fn only_the_checked_emulator_pads() {
    let fast = Emulator::new(Options { checks: Checks::Fast, ..Options::default() }).unwrap();
    assert_eq!(fast.padding(), 0);
    assert!(Emulator::new(Options::default()).unwrap().padding() >= 256);
    let bytes = |device: &str| {
        let bench = "bench step --model resnet20 --width 2 --batch 4 --size 8 --seconds 0 --json --device ";
        let json = stdout(&glmc(&format!("{bench}{device}"), None, &[]));
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["peak_bytes"].as_u64().unwrap()
    };
    assert!(bytes("emulator:checked") > bytes("emulator"));
}

#[test]
fn a_step_whose_kernel_writes_one_float_past_a_tensor_names_it() {
    let place = TempDir::new().unwrap();
    let folder = place.path().join("kernels");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), &folder);
    let step = "bench step --model resnet20 --width 2 --batch 4 --size 8 --seconds 0 --device emulator:checked";
    stdout(&glmc(step, Some(&folder), &[]));

    let file = folder.join("global_avg_pool_forward.cu");
    let text = fs::read_to_string(&file).unwrap();
    let end = text.trim_end().strip_suffix('}').unwrap();
    // Eight rows of eight floats: what lies right behind them would be the next tensor.
    let bug = "    if (blockIdx.z + 1 == gridDim.z && place.row == 0 && place.channel == 0) y[gridDim.z * channels] = 1.0f;\n}\n";
    fs::write(&file, format!("{end}{bug}")).unwrap();
    let line = end.lines().count() + 1;
    for precision in ["f32", "bf16"] {
        let error = one_line(&glmc(&format!("{step} --precision {precision}"), Some(&folder), &[]));
        let place = format!("global_avg_pool_forward.cu:{line}");
        for wanted in [
            "kernel global_avg_pool_forward<",
            "block (0,0,7), thread (0,0,0): out of bounds: write of 4 bytes at 0x",
            "0 bytes past the end of `output of global_avg_pool ",
            " (256 bytes) in `activations`, at ",
            &place,
        ] {
            assert!(error.contains(wanted), "`{wanted}` is not in: {error}");
        }
    }
}
