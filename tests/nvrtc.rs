//! NVRTC without a GPU: every primitive compiles for every architecture. Where libnvrtc is absent, the trials are listed
//! as ignored, with the reason.

use std::process::{Command, ExitCode};

use glmc_engine::driver::KernelSpec;
use glmc_engine::driver::cache::Cache;
use glmc_engine::driver::nvrtc::Nvrtc;
use libtest_mimic::{Arguments, Failed, Trial};

const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120"];
const PRIMITIVES: &str = include_str!("planted/primitives.cu");

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let reason = Nvrtc::load().err().map(|error| error.to_string());
    if let Some(reason) = &reason {
        eprintln!("ignored without libnvrtc: {reason}");
    }
    let mut trials: Vec<Trial> = ARCHITECTURES
        .iter()
        .map(|arch| Trial::test(format!("primitives compile for {arch}"), move || primitives(arch)))
        .collect();
    trials.push(Trial::test("cubins come back from the cache", from_cache));
    trials.push(Trial::test("a GPU that is not known gets PTX", ptx));
    trials.push(Trial::test("a version of NVRTC goes with an ELF ABI", abi));
    trials.push(Trial::test("errors name kernel, file and line", errors));
    trials.push(Trial::test("an unknown architecture is refused", unknown));
    trials.push(Trial::test("the kernels command reports every field", kernels_command));
    trials.push(Trial::test("the kernels command refuses what it does not know", kernels_refusals));
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(reason.is_some())).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn nowhere() -> Cache {
    Cache::at("/dev/null/no-folder", 0)
}

fn primitive(entry: &'static str) -> KernelSpec {
    KernelSpec::from_text("primitives.cu", entry, PRIMITIVES).define("TILE", 16)
}

fn primitives(arch: &str) -> Result<(), Failed> {
    let nvrtc = Nvrtc::load()?;
    for entry in ["tiled_product", "mma_product", "mma_product_trans", "warp_functions", "round_bf16"] {
        let cubin = nvrtc.compile(&primitive(entry), arch, &nowhere())?;
        assert_eq!(&cubin.image[..4], b"\x7fELF", "{entry}");
        assert!((1..=255).contains(&cubin.usage.registers), "{entry}: {:?}", cubin.usage);
        assert_eq!(cubin.usage.spill_bytes, 0, "{entry}");
    }
    Ok(())
}

fn from_cache() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let cache = Cache::at(folder.path(), 1 << 20);
    let nvrtc = Nvrtc::load()?;
    let first = nvrtc.compile(&primitive("add_one"), "sm_80", &cache)?;
    let entry = std::fs::read_dir(folder.path())?.next().ok_or("nothing was cached")??.path();
    let again = nvrtc.compile(&primitive("add_one"), "sm_80", &cache)?;
    assert_eq!((first.usage, &first.image), (again.usage, &again.image));
    std::fs::write(&entry, b"damaged")?;
    let repaired = nvrtc.compile(&primitive("add_one"), "sm_80", &cache)?;
    assert_eq!(first.usage, repaired.usage);
    nvrtc.compile(&primitive("add_one"), "sm_86", &cache)?;
    nvrtc.compile(&primitive("add_one").define("OTHER", 1), "sm_80", &cache)?;
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 3);
    Ok(())
}

fn ptx() -> Result<(), Failed> {
    let nvrtc = Nvrtc::load()?;
    assert_eq!(nvrtc.target((8, 0)).arch, "sm_80");
    let target = nvrtc.target((99, 0));
    assert!(!target.exact && nvrtc.describe_target(&target).contains("does not know this GPU"), "{target:?}");
    for entry in ["tiled_product", "mma_product", "warp_functions"] {
        let cubin = nvrtc.compile(&primitive(entry), &target.arch, &nowhere())?;
        let text = std::ffi::CStr::from_bytes_with_nul(&cubin.image)?.to_str()?;
        assert!(text.contains(".target sm_80") && text.contains(entry), "{text}");
    }
    Ok(())
}

/// What the choice of a library by the driver's version rests on: drivers for CUDA 12 know no ABI after 7.
fn abi() -> Result<(), Failed> {
    let nvrtc = Nvrtc::load()?;
    let cubin = nvrtc.compile(&primitive("add_one"), "sm_80", &nowhere())?;
    assert_eq!(cubin.image[8] >= 8, nvrtc.version().0 >= 13, "{}: ABI {}", nvrtc.describe(), cubin.image[8]);
    Ok(())
}

fn errors() -> Result<(), Failed> {
    let nvrtc = Nvrtc::load()?;
    let text = "#include \"portable.cuh\"\nextern \"C\" __global__ void broken(int* x) {\n    x[0] = missing;\n}\n";
    let spec = KernelSpec::from_text("broken.cu", "broken", text).define("TILE", 3);
    let error = nvrtc.compile(&spec, "sm_80", &nowhere()).err().ok_or("it compiled")?.to_string();
    assert!(error.contains("kernel broken<TILE=3> does not compile for sm_80"), "{error}");
    assert!(error.contains("kernels/broken.cu(3)") && error.contains("missing"), "{error}");
    let spec = KernelSpec::from_text("primitives.cu", "add_one", PRIMITIVES);
    let error = nvrtc.compile(&spec, "sm_80", &nowhere()).err().ok_or("it compiled")?.to_string();
    assert!(error.contains("TILE (rows of a square tile) must be defined"), "{error}");
    Ok(())
}

fn unknown() -> Result<(), Failed> {
    let error = Nvrtc::load()?.compile(&primitive("add_one"), "sm_30", &nowhere()).err().ok_or("it compiled")?;
    assert!(error.to_string().contains("does not know sm_30"), "{error}");
    Ok(())
}

fn kernels(arguments: &[&str]) -> Result<std::process::Output, Failed> {
    Ok(Command::new(env!("CARGO_BIN_EXE_glmc-engine")).arg("kernels").args(arguments).output()?)
}

fn kernels_command() -> Result<(), Failed> {
    let output = kernels(&["--arch", "sm_80,sm_90a", "--only", "load_step", "--json"])?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert!(output.status.success(), "{err}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&out)?;
    let architectures: Vec<&str> = rows.iter().filter_map(|row| row["arch"].as_str()).collect();
    assert!(architectures.contains(&"sm_80") && architectures.contains(&"sm_90a"), "{architectures:?}");
    for row in &rows {
        assert_eq!(row["kernel"], "load_step");
        for field in ["registers", "spill_bytes", "shared_bytes", "cubin_bytes"] {
            assert!(row[field].is_u64(), "{field} in {row}");
        }
        let occupancy = row["occupancy"].as_f64().ok_or("occupancy is no number")?;
        assert!(occupancy > 0.0 && occupancy <= 1.0, "{row}");
    }
    let output = kernels(&["--arch", "sm_80", "--only", "load_step"])?;
    let table = String::from_utf8(output.stdout)?;
    assert!(table.starts_with("kernel ") && table.contains("sm_80"), "{table}");
    Ok(())
}

fn kernels_refusals() -> Result<(), Failed> {
    for (arguments, wanted) in [
        (["--arch", "sm_30"], "--arch sm_30: not a supported architecture; known are sm_80, "),
        (["--only", "no_such_kernel"], "--only no_such_kernel: no kernel's name contains that"),
    ] {
        let output = kernels(&arguments)?;
        let err = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(wanted) && output.stdout.is_empty(), "{err}");
    }
    Ok(())
}
