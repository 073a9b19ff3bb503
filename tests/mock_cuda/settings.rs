//! What the mock is told, in the environment variable `MOCK_CUDA`: `name=value` pairs, separated by commas.

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::LazyLock;

use cudarc::driver::sys::CUresult;

/// How the mock behaves.
pub struct Settings {
    /// `report=FILE`: where the report goes at the end of the process.
    pub report: Option<PathBuf>,
    /// `timing=early`: work runs at once. Otherwise (`late`) no sooner than it is waited for.
    pub early: bool,
    /// `checks=full`: the emulator looks at every memory access.
    pub checked: bool,
    /// `init=no-device` and others: what `cuInit` answers.
    pub init: CUresult,
    /// `devices=0`: a driver that starts but sees no GPU.
    pub devices: i32,
    /// `compute=7.5`: the GPU's compute capability.
    pub compute: (i32, i32),
    /// `driver=11.8`: the CUDA version that the driver is for.
    pub driver: i32,
    /// `memory=BYTES`: the GPU's memory; as much as the machine has where it is not said.
    pub memory: Option<u64>,
    /// `illegal-address=N`: the Nth launch of the process (counted from 1) touches an illegal address.
    pub illegal_address: Option<u64>,
    /// `wrong=KERNEL`: each launch of that kernel leaves one wrong number.
    pub wrong: Option<String>,
    /// `hang=KERNEL`: that kernel never ends.
    pub hang: Option<String>,
    /// `fault=KERNEL`: that kernel touches an illegal address.
    pub fault: Option<String>,
    /// `crash=KERNEL`: the driver aborts the process in that kernel.
    pub crash: Option<String>,
    /// `image=N`: what `cuModuleLoadData` answers; a number, since drivers have codes that the mock's types lack.
    pub image: Option<c_int>,
}

/// The settings of this process.
pub static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let text = std::env::var("MOCK_CUDA").unwrap_or_default();
    parse(&text).unwrap_or_else(|pair| {
        // Going on would test something else than was asked for.
        eprintln!("MOCK_CUDA: `{pair}` is not understood");
        std::process::abort();
    })
});

fn parse(text: &str) -> Result<Settings, String> {
    let mut settings = Settings {
        report: None,
        early: false,
        checked: false,
        init: CUresult::CUDA_SUCCESS,
        devices: 1,
        compute: (9, 0),
        driver: 13_000,
        memory: None,
        illegal_address: None,
        wrong: None,
        hang: None,
        fault: None,
        crash: None,
        image: None,
    };
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        apply(&mut settings, pair).ok_or(pair)?;
    }
    Ok(settings)
}

fn apply(settings: &mut Settings, pair: &str) -> Option<()> {
    let version = |text: &str| -> Option<(i32, i32)> {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    match pair.split_once('=')? {
        ("report", file) => settings.report = Some(file.into()),
        ("timing", "late") => settings.early = false,
        ("timing", "early") => settings.early = true,
        ("checks", "full") => settings.checked = true,
        ("init", "no-device") => settings.init = CUresult::CUDA_ERROR_NO_DEVICE,
        ("init", "stub") => settings.init = CUresult::CUDA_ERROR_STUB_LIBRARY,
        ("init", "mismatch") => settings.init = CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
        ("init", "unknown") => settings.init = CUresult::CUDA_ERROR_UNKNOWN,
        ("devices", "0") => settings.devices = 0,
        ("compute", text) => settings.compute = version(text)?,
        ("driver", text) => settings.driver = version(text).map(|(major, minor)| major * 1000 + minor * 10)?,
        ("memory", bytes) => settings.memory = Some(bytes.parse().ok()?),
        ("illegal-address", n) => settings.illegal_address = Some(n.parse().ok()?),
        ("wrong", kernel) => settings.wrong = Some(kernel.into()),
        ("hang", kernel) => settings.hang = Some(kernel.into()),
        ("fault", kernel) => settings.fault = Some(kernel.into()),
        ("crash", kernel) => settings.crash = Some(kernel.into()),
        ("image", code) => settings.image = Some(code.parse().ok()?),
        _ => return None,
    }
    Some(())
}
