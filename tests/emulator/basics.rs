//! The emulator as a driver: kernels give exact results in every order of threads, graphs replay, memory is accounted for.

use glmc_engine::Result;
use glmc_engine::driver::cache::Cache;
use glmc_engine::driver::emulator::{Checks, Emulator, Options};
use glmc_engine::driver::{Arg, DevicePtr, Driver, KernelSpec, Launch};

fn emulator(checks: Checks) -> Emulator {
    Emulator::new(Options { checks, cache: Cache::user() }).unwrap()
}

fn both() -> [Emulator; 2] {
    [emulator(Checks::Full), emulator(Checks::Fast)]
}

fn upload<T: bytemuck::Pod>(driver: &dyn Driver, values: &[T], what: &str) -> DevicePtr {
    let ptr = driver.alloc(size_of_val(values), what).unwrap();
    driver.upload(ptr, bytemuck::cast_slice(values)).unwrap();
    ptr
}

fn download<T: bytemuck::Pod>(driver: &dyn Driver, ptr: DevicePtr, count: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); count];
    driver.download(bytemuck::cast_slice_mut(&mut values), ptr).unwrap();
    values
}

fn primitives(entry: &'static str) -> KernelSpec {
    KernelSpec::from_text("primitives.cu", entry, include_str!("../planted/primitives.cu"))
}

/// Integers -8..8 as bf16 are exact, and so are sums of products of 16 of them.
fn small(n: usize, salt: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 20) % 17) as f32 - 8.0).collect()
}

#[test]
fn tiled_product_is_exact_in_every_order() -> Result<()> {
    // Ragged on purpose: no size is a multiple of the tile.
    let (m, n, k) = (37usize, 45usize, 29usize);
    let (a, b) = (small(m * k, 1), small(k * n, 2));
    let mut expected = vec![0f32; m * n];
    for i in 0..m {
        for j in 0..n {
            expected[i * n + j] = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
        }
    }
    for driver in both() {
        let (pa, pb) = (upload(&driver, &a, "a"), upload(&driver, &b, "b"));
        let pc = driver.alloc(m * n * 4, "c")?;
        let kernel = driver.kernel(&primitives("tiled_product").define("TILE", 16))?;
        let launch = Launch {
            grid: [n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1],
            block: [16, 16, 1],
            ..Launch::linear(1, 1).shared(2 * 16 * 16 * 4)
        };
        let args =
            [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::I32(m as i32), Arg::I32(n as i32), Arg::I32(k as i32)];
        let bytes = driver.check_orders(6, &mut || {
            driver.zero(pc, m * n * 4)?;
            driver.launch(kernel, launch, &args)?;
            let mut out = vec![0u8; m * n * 4];
            driver.download(&mut out, pc)?;
            Ok(out)
        })?;
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes), expected);
    }
    Ok(())
}

#[test]
fn tensor_core_product_through_asynchronous_copies_is_exact() -> Result<()> {
    let k = 80usize;
    let (a, b) = (small(16 * k, 3), small(8 * k, 4));
    let half = |v: &[f32]| v.iter().map(|&x| half::bf16::from_f32(x)).collect::<Vec<_>>();
    let mut expected = vec![0f32; 16 * 8];
    for i in 0..16 {
        for j in 0..8 {
            expected[i * 8 + j] = (0..k).map(|p| a[i * k + p] * b[j * k + p]).sum();
        }
    }
    for driver in both() {
        let (pa, pb) = (upload(&driver, &half(&a), "a"), upload(&driver, &half(&b), "b"));
        let pc = driver.alloc(16 * 8 * 4, "c")?;
        for entry in ["mma_product", "mma_product_trans"] {
            let kernel = driver.kernel(&primitives(entry).define("TILE", 16))?;
            let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::I32(k as i32)];
            driver.launch(kernel, Launch::linear(1, 32).shared(2 * (512 + 256)), &args)?;
            assert_eq!(download::<f32>(&driver, pc, 128), expected, "{entry}");
        }
    }
    Ok(())
}

#[test]
fn warp_functions_follow_cuda() -> Result<()> {
    for driver in both() {
        let out = driver.alloc(32 * 8 * 4, "out")?;
        let kernel = driver.kernel(&primitives("warp_functions").define("TILE", 16))?;
        driver.launch(kernel, Launch::linear(1, 32), &[Arg::Ptr(out)])?;
        let got = download::<i32>(&driver, out, 32 * 8);
        for l in 0..32i32 {
            let row = &got[l as usize * 8..][..8];
            let width8 = l / 8 * 8;
            let expected = [
                (l ^ 5) * 3,
                if l + 7 < 32 { (l + 7) * 3 } else { l * 3 },
                if l >= 3 { (l - 3) * 3 } else { l * 3 },
                (width8 + 2) * 3,
                0x5555_5555,
                1,
                0,
                496,
            ];
            assert_eq!(row, expected, "lane {l}");
        }
    }
    Ok(())
}

#[test]
fn bf16_rounds_as_the_half_crate() -> Result<()> {
    let mut values: Vec<f32> = (0..4096u32).map(|i| f32::from_bits(i.wrapping_mul(1_048_583) ^ 0x3f80_0000)).collect();
    values.retain(|v| !v.is_nan());
    values.extend([
        0.0,
        -0.0,
        f32::INFINITY,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::from_bits(0x3f80_8000),
        f32::from_bits(0x3f81_8000),
    ]);
    for driver in both() {
        let from = upload(&driver, &values, "values");
        let to = driver.alloc(values.len() * 2, "rounded")?;
        let kernel = driver.kernel(&primitives("round_bf16").define("TILE", 16))?;
        let args = [Arg::Ptr(from), Arg::Ptr(to), Arg::U32(values.len() as u32)];
        driver.launch(kernel, Launch::cover(values.len(), 64), &args)?;
        let got = download::<u16>(&driver, to, values.len());
        for (value, bits) in values.iter().zip(got) {
            assert_eq!(bits, half::bf16::from_f32(*value).to_bits(), "{value:e}");
        }
    }
    Ok(())
}

#[test]
fn graphs_record_and_replay() -> Result<()> {
    for driver in both() {
        let data = upload(&driver, &[1u32; 100], "data");
        let mut pinned = driver.alloc_pinned(400)?;
        let spec = primitives("add_one").define("TILE", 16);
        driver.prepare(&mut || {
            let kernel = driver.kernel(&spec)?;
            driver.launch(kernel, Launch::cover(100, 32), &[Arg::Ptr(data), Arg::U32(100)])
        })?;
        assert_eq!(download::<u32>(&driver, data, 100), [1; 100], "a dry run launches nothing");
        let graph = driver.capture(&mut || {
            let kernel = driver.kernel(&spec)?;
            driver.launch(kernel, Launch::cover(100, 32), &[Arg::Ptr(data), Arg::U32(100)])?;
            driver.launch(kernel, Launch::cover(100, 32), &[Arg::Ptr(data), Arg::U32(100)])?;
            driver.download_async(&mut pinned, 0, data, 400)
        })?;
        assert_eq!(graph.operations(), 3);
        assert_eq!(download::<u32>(&driver, data, 100), [1; 100], "a capture launches nothing");
        graph.replay()?;
        graph.replay()?;
        driver.synchronize()?;
        assert_eq!(bytemuck::cast_slice::<u8, u32>(pinned.bytes()), [5; 100]);
        let refused = driver.capture(&mut || driver.upload(data, &[0; 4])).err().unwrap().to_string();
        assert!(refused.contains("while a graph is captured"), "{refused}");
        driver.upload(data, &[0; 4])?;
    }
    Ok(())
}

#[test]
fn memory_is_reused_and_accounted_for() -> Result<()> {
    let driver = emulator(Checks::Full);
    let a = driver.alloc(1000, "a")?;
    let b = driver.alloc(5000, "b")?;
    let c = driver.alloc(0, "empty")?;
    assert!(a % 256 == 0 && b % 256 == 0 && c % 256 == 0);
    assert_eq!(driver.memory()?.used, 6000);
    driver.free(a)?;
    driver.free(b)?;
    assert_eq!(driver.memory()?.used, 0);
    assert_eq!(driver.memory()?.peak, 6000);
    assert_eq!(driver.alloc(5500, "d")?, a, "the hole of both is one");
    let error = driver.free(b).unwrap_err().to_string();
    assert!(error.contains("no allocation"), "{error}");
    let error = driver.alloc(usize::MAX / 4, "everything").unwrap_err().to_string();
    assert!(error.contains("out of memory") && error.contains("everything"), "{error}");
    Ok(())
}

#[test]
fn the_ceilings_of_arithmetic_work_on_data() {
    const BLOCK: u32 = 64;
    const EACH: usize = 8;
    let driver = Emulator::new(Options { checks: Checks::Full, cache: Cache::user() }).unwrap();
    let count = 2 * BLOCK as usize * EACH;
    let values = driver.alloc(4 * count, "values").unwrap();
    // How many of the values an odd round leaves different: each thread of the one has operands for half of its values.
    for (name, knob, each, distinct) in
        [("ceilings_mma", "TILES", EACH / 4, 9 * count / 10), ("ceilings_fma", "CHAINS", EACH, 100)]
    {
        let kernel = driver.kernel(&KernelSpec::new(name).define("BLOCK", BLOCK).define(knob, each)).unwrap();
        let after = |rounds: u32| {
            driver.zero(values, 4 * count).unwrap();
            let args = [Arg::Ptr(values), Arg::F32(1.0), Arg::U32(rounds)];
            driver.launch(kernel, Launch::linear(2, BLOCK), &args).unwrap();
            let mut bytes = vec![0; 4 * count];
            driver.download(&mut bytes, values).unwrap();
            bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)
        };
        // Half of a pair of rounds shows the operands: random, with sums that f32 holds exactly.
        let mut odd = after(1);
        assert!(odd.iter().all(|v| v.fract() == 0.0 && v.abs() < 2f32.powi(21)), "{name}: {odd:?}");
        odd.sort_by(f32::total_cmp);
        odd.dedup();
        assert!(odd.len() > distinct, "{name}: {} of {count} values differ", odd.len());
        assert_eq!(after(6), vec![6.0; count], "{name}");
    }
}
