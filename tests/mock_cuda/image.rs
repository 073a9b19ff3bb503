//! The mock's compiled form of a kernel: what its NVRTC makes and its driver loads. It starts like an ELF file, or like PTX,
//! so that it looks the part; then comes all that the emulator needs to make the kernel itself.

use glmc_engine::driver::KernelSpec;
use serde::{Deserialize, Serialize};

/// ELF's magic, then the mock's own.
const ELF: &[u8; 8] = b"\x7fELFmock";
/// A comment of PTX.
const PTX: &[u8; 8] = b"//PTXmck";
/// Magic, ELF's ABI version where an ELF file has it, seven bytes that say nothing, the length of the rest.
const HEAD: usize = 24;
/// The first ABI version that drivers before CUDA 13 do not know; NVRTC 13 makes it.
pub const NEW_ABI: u8 = 8;

/// A compiled file.
#[derive(Clone, Serialize, Deserialize)]
pub struct Image {
    /// The file's name under `kernels/`.
    pub file: String,
    /// `sm_90a`, or `compute_80` for PTX.
    pub arch: String,
    /// ELF's ABI version.
    pub abi: u8,
    /// Names and values of `-D`.
    pub defines: Vec<(String, String)>,
    /// The source.
    pub text: String,
}

impl Image {
    /// Whether it is PTX, which a driver compiles.
    pub fn is_ptx(&self) -> bool {
        self.arch.starts_with("compute_")
    }

    /// The bytes, length included: a loader is only told where they start.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = serde_json::to_vec(self).expect("strings, numbers and pairs of strings have a JSON form");
        let magic = if self.is_ptx() { PTX } else { ELF };
        [&magic[..], &[self.abi, 0, 0, 0, 0, 0, 0, 0], &(body.len() as u64).to_le_bytes(), &body].concat()
    }

    /// Reads what `to_bytes` made; `None` when it is something else.
    ///
    /// # Safety
    /// `image` must point to an image of this mock, or to as many bytes as its head has that do not start like one.
    pub unsafe fn read(image: *const u8) -> Option<Image> {
        // SAFETY: the caller's promise: no ELF file is shorter than this.
        let head = unsafe { std::slice::from_raw_parts(image, HEAD) };
        if ![ELF, PTX].iter().any(|magic| head.starts_with(*magic)) {
            return None;
        }
        let length = u64::from_le_bytes(head[16..].try_into().ok()?) as usize;
        // SAFETY: it starts like an image of the mock, so it is one and as long as it says.
        let body = unsafe { std::slice::from_raw_parts(image.add(HEAD), length) };
        serde_json::from_slice(body).ok()
    }

    /// The names of its `extern "C" __global__` functions.
    pub fn entries(&self) -> Vec<String> {
        entries(&self.text)
    }

    /// One of its kernels, as the emulator is asked for it.
    pub fn spec(&self, entry: &str) -> KernelSpec {
        let spec = KernelSpec::from_text(&*self.file, entry, &*self.text);
        self.defines.iter().fold(spec, |spec, (name, value)| spec.define(name.clone(), value))
    }

    /// Whether a GPU of this compute capability runs it. CUDA C++ Programming Guide, "Binary Compatibility": from one
    /// minor revision to the next, never to an older or to another major one; code for `sm_90a` on 9.0 only. "PTX
    /// Compatibility": on anything later.
    pub fn runs_on(&self, (major, minor): (i32, i32)) -> bool {
        if let Some(number) = self.arch.strip_prefix("compute_") {
            return number.parse().is_ok_and(|number: i32| number <= 10 * major + minor);
        }
        let number = self.arch.trim_start_matches("sm_");
        let specific = number.ends_with('a');
        let Ok(number) = number.trim_end_matches('a').parse::<i32>() else { return false };
        if specific { number == 10 * major + minor } else { number / 10 == major && number % 10 <= minor }
    }
}

/// Names of `extern "C" __global__ void [__launch_bounds__(...)] NAME(` in a source.
fn entries(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in text.split("extern \"C\" __global__").skip(1) {
        let mut rest = part.trim_start().strip_prefix("void").unwrap_or(part).trim_start();
        if let Some(bounds) = rest.strip_prefix("__launch_bounds__") {
            let mut depth = 0;
            let end = bounds.find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                c == ')' && depth == 0
            });
            rest = end.map_or("", |end| &bounds[end + 1..]).trim_start();
        }
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !name.is_empty() {
            found.push(name);
        }
    }
    found
}
