//! NVRTC: from a kernel's `.cu` to a cubin (or PTX, for a GPU that it does not know), with or without a GPU.
//!
//! libnvrtc is loaded at run time, by a wrapper as thin as its C interface, so that one binary serves machines with
//! CUDA 12, with CUDA 13 and without either.

mod search;
mod target;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use self::search::named;
pub use self::target::{Target, arch_of};
use super::cache::{Cache, Key};
use super::{KernelSpec, sources};
use crate::{Error, Result};

/// Environment variable that names libnvrtc: the file, or the folder that holds it.
pub const VARIABLE: &str = "GLMC_NVRTC";

type Program = *mut c_void;

/// The functions of libnvrtc that are used, as `nvrtc.h` declares them.
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    supported_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    supported: unsafe extern "C" fn(*mut c_int) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
}

/// A loaded libnvrtc.
pub struct Nvrtc {
    functions: Functions,
    version: (i32, i32),
    path: PathBuf,
    supported: Vec<i32>,
    /// Keep the functions valid.
    _libraries: Vec<Library>,
}

/// What the compiler says about a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers per thread.
    pub registers: u32,
    /// Bytes stored to and loaded from local memory for want of registers.
    pub spill_bytes: u32,
    /// Statically declared shared memory, in bytes.
    pub shared_bytes: u32,
    /// Stack frame, in bytes.
    pub stack_bytes: u32,
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Cubin {
    /// What the driver loads: an ELF image, or a PTX text that ends in NUL.
    pub image: Vec<u8>,
    /// What the kernel needs.
    pub usage: Usage,
}

impl Nvrtc {
    /// Loads the library `path`, its builtins first: they lie beside it, where the loader would not look.
    fn open(path: &Path) -> Result<Nvrtc, String> {
        let mut libraries = Vec::new();
        if let Some(folder) = path.parent().filter(|folder| folder.is_absolute()) {
            for builtins in named(folder, "libnvrtc-builtins.so") {
                // SAFETY: NVIDIA's library, whose initialisers have no preconditions.
                if let Ok(library) = unsafe { Library::open(Some(&builtins), RTLD_NOW | RTLD_GLOBAL) } {
                    libraries.push(library);
                }
            }
        }
        let cause = |error: libloading::Error| {
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        };
        // SAFETY: as above.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(cause)?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field's type is the function's declaration in nvrtc.h, unchanged from CUDA 11.2 to 13.
                *unsafe { library.get($name) }.map_err(cause)?
            };
        }
        let functions = Functions {
            version: function!(b"nvrtcVersion"),
            error_string: function!(b"nvrtcGetErrorString"),
            supported_count: function!(b"nvrtcGetNumSupportedArchs"),
            supported: function!(b"nvrtcGetSupportedArchs"),
            create: function!(b"nvrtcCreateProgram"),
            compile: function!(b"nvrtcCompileProgram"),
            log_size: function!(b"nvrtcGetProgramLogSize"),
            log: function!(b"nvrtcGetProgramLog"),
            cubin_size: function!(b"nvrtcGetCUBINSize"),
            cubin: function!(b"nvrtcGetCUBIN"),
            ptx_size: function!(b"nvrtcGetPTXSize"),
            ptx: function!(b"nvrtcGetPTX"),
            destroy: function!(b"nvrtcDestroyProgram"),
        };
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: all targets are valid; `supported` gets exactly as many words as the library says it writes.
        let supported = unsafe {
            (functions.version)(&mut major, &mut minor);
            (functions.supported_count)(&mut count);
            let mut supported = vec![0; usize::try_from(count).unwrap_or(0)];
            (functions.supported)(supported.as_mut_ptr());
            supported
        };
        libraries.push(library);
        Ok(Nvrtc { functions, version: (major, minor), path: path.to_path_buf(), supported, _libraries: libraries })
    }

    /// What to compile for on a device of compute capability `compute`.
    pub fn target(&self, compute: (i32, i32)) -> Target {
        target::nearest(&self.supported, compute)
    }

    /// A target in words: what its kernels are compiled by and for, and what is lost where that is not the GPU's own.
    pub fn describe_target(&self, target: &Target) -> String {
        let (major, minor) = self.version;
        let by = format!("kernels by NVRTC {major}.{minor} for {}", target.arch);
        if target.exact {
            return by;
        }
        format!("{by}, as it does not know this GPU: a newer libnvrtc makes faster ones")
    }

    /// `NVRTC 13.0 (path)`.
    pub fn describe(&self) -> String {
        format!("NVRTC {}.{} ({})", self.version.0, self.version.1, self.path.display())
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Fails where it cannot compile for `arch`.
    pub fn knows(&self, arch: &str) -> Result<()> {
        if !self.supported.is_empty() && !self.supported.contains(&target::number(arch)) {
            let what = format!("{} does not know {arch}; install a newer libnvrtc, or set {VARIABLE}", self.describe());
            return Err(Error::device("nvrtc", what));
        }
        Ok(())
    }

    /// Compiles `spec` for `arch` (`sm_90a`), or finds it in `cache`.
    ///
    /// # Errors
    /// With NVRTC's log, which names file and line, when it does not compile.
    pub fn compile(&self, spec: &KernelSpec, arch: &str, cache: &Cache) -> Result<Cubin> {
        self.knows(arch)?;
        let source = spec.source()?;
        let options: Vec<String> = options(arch).into_iter().chain(spec.define_options()).collect();
        let version = format!("nvrtc {}.{}", self.version.0, self.version.1);
        let mut parts: Vec<&[u8]> = vec![b"cubin", version.as_bytes(), spec.entry.as_bytes()];
        parts.extend([spec.file.as_bytes(), source.as_bytes()]);
        parts.extend(options.iter().map(|option| option.as_bytes()));
        let headers = headers(source);
        parts.extend(headers.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
        let key = Key::new(parts, "cubin");
        if let Some(cubin) = cache.get(&key).as_deref().and_then(Cubin::from_bytes) {
            return Ok(cubin);
        }
        let cubin = self.run(spec, source, &options, arch)?;
        cache.put(&key, &cubin.to_bytes());
        Ok(cubin)
    }

    fn run(&self, spec: &KernelSpec, source: &str, options: &[String], arch: &str) -> Result<Cubin> {
        let c_string =
            |text: &str| CString::new(text).map_err(|_| Error::Config(format!("{}: holds a NUL character", spec.file)));
        let (source, name) = (c_string(source)?, c_string(&format!("kernels/{}", spec.file))?);
        let (names, texts): (Vec<_>, Vec<_>) = headers(spec.source()?).into_iter().unzip();
        let names = names.into_iter().map(c_string).collect::<Result<Vec<_>>>()?;
        let texts = texts.into_iter().map(c_string).collect::<Result<Vec<_>>>()?;
        let options = options.iter().map(|option| c_string(option)).collect::<Result<Vec<_>>>()?;
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (names, texts, option_pointers) = (pointers(&names), pointers(&texts), pointers(&options));
        let mut program = Guard { nvrtc: self, program: ptr::null_mut() };
        // SAFETY: every pointer is a NUL-terminated string, or an array of as many as are counted, that lives until the
        // end of this function; NVRTC copies what it keeps.
        let created = unsafe {
            (self.functions.create)(
                &mut program.program,
                source.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        self.check(created, spec, arch, "")?;
        // SAFETY: the program was created above; the options live until the call returns.
        let compiled =
            unsafe { (self.functions.compile)(program.program, options.len() as c_int, option_pointers.as_ptr()) };
        let log = program.text(self.functions.log_size, self.functions.log);
        let log = String::from_utf8_lossy(&log);
        let log = log.trim_end_matches('\0').trim_end();
        self.check(compiled, spec, arch, log)?;
        let image = match target::is_ptx(arch) {
            true => program.text(self.functions.ptx_size, self.functions.ptx),
            false => program.text(self.functions.cubin_size, self.functions.cubin),
        };
        if image.is_empty() {
            let what = format!("kernel {} for {arch}: {} gave no code", spec.label(), self.describe());
            return Err(Error::device("nvrtc", what));
        }
        Ok(Cubin { image, usage: Usage::from_log(log, &spec.entry) })
    }

    fn check(&self, status: c_int, spec: &KernelSpec, arch: &str, log: &str) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC returns a static string for every status.
        let text = unsafe { CStr::from_ptr((self.functions.error_string)(status)) }.to_string_lossy();
        // What the assembler says about entries that did compile has nothing to do with the problem.
        let log: Vec<&str> = log.lines().filter(|line| !line.starts_with("ptxas info")).collect();
        let what = format!("kernel {} does not compile for {arch} ({text}):\n{}", spec.label(), log.join("\n"));
        Err(Error::device("nvrtc", what.trim_end_matches('\n')))
    }
}

/// Destroys a program at the end of its use.
struct Guard<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Guard<'_> {
    /// Fetches a text or image by its two functions; empty when NVRTC has none.
    fn text(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Vec<u8> {
        let mut bytes = 0usize;
        // SAFETY: the program is alive; the buffer has the size that NVRTC asked for.
        unsafe {
            if size(self.program, &mut bytes) != 0 {
                return Vec::new();
            }
            let mut buffer = vec![0u8; bytes];
            if bytes == 0 || get(self.program, buffer.as_mut_ptr().cast()) != 0 {
                return Vec::new();
            }
            buffer
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: created by this library and not destroyed yet.
            unsafe { (self.nvrtc.functions.destroy)(&mut self.program) };
        }
    }
}

/// The headers that NVRTC gets: all that `text` includes except the emulator's.
fn headers(text: &str) -> Vec<(&'static str, &'static str)> {
    let mut headers = sources::included(text);
    headers.retain(|(name, _)| !name.starts_with("emulator/"));
    headers
}

/// Options other than the knobs. No fast math: divisions, roots and denormals are IEEE's.
pub fn options(arch: &str) -> Vec<String> {
    vec![
        format!("--gpu-architecture={arch}"),
        "--std=c++17".to_string(),
        "-default-device".to_string(),
        "--generate-line-info".to_string(),
        "--ptxas-options=-v".to_string(),
    ]
}

impl Usage {
    /// Reads ptxas's report (`--ptxas-options=-v`) on `entry`.
    fn from_log(log: &str, entry: &str) -> Usage {
        let mut usage = Usage::default();
        let mut ours = false;
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                ours = rest.split('\'').next() == Some(entry);
            } else if ours {
                usage.registers = usage.registers.max(number_before(line, " registers"));
                usage.spill_bytes +=
                    number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
                usage.shared_bytes = usage.shared_bytes.max(number_before(line, " bytes smem"));
                usage.stack_bytes = usage.stack_bytes.max(number_before(line, " bytes stack frame"));
            }
        }
        usage
    }
}

/// The number right before `unit` in `line`, 0 without one.
fn number_before(line: &str, unit: &str) -> u32 {
    line.split_once(unit)
        .and_then(|(before, _)| before.rsplit(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

impl Cubin {
    /// The cache's form: four words of usage, then the image.
    fn to_bytes(&self) -> Vec<u8> {
        let Usage { registers, spill_bytes, shared_bytes, stack_bytes } = self.usage;
        let words = [registers, spill_bytes, shared_bytes, stack_bytes];
        words.iter().flat_map(|word| word.to_le_bytes()).chain(self.image.iter().copied()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Cubin> {
        let (head, image) = bytes.split_at_checked(16)?;
        let word = |i: usize| u32::from_le_bytes([head[4 * i], head[4 * i + 1], head[4 * i + 2], head[4 * i + 3]]);
        let usage = Usage { registers: word(0), spill_bytes: word(1), shared_bytes: word(2), stack_bytes: word(3) };
        Some(Cubin { image: image.to_vec(), usage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_assemblers_report() {
        let log = "ptxas info    : 0 bytes gmem\n\
                   ptxas info    : Compiling entry function 'other' for 'sm_80'\n\
                   ptxas         .     96 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads\n\
                   ptxas info    : Used 255 registers, 360 bytes cmem[0]\n\
                   ptxas info    : Compiling entry function 'mine' for 'sm_80'\n\
                   ptxas info    : Function properties for mine\n\
                   ptxas         .     16 bytes stack frame, 12 bytes spill stores, 24 bytes spill loads\n\
                   ptxas info    : Used 35 registers, used 1 barriers, 2048 bytes smem, 380 bytes cmem[0]\n";
        let usage = Usage::from_log(log, "mine");
        assert_eq!(usage, Usage { registers: 35, spill_bytes: 36, shared_bytes: 2048, stack_bytes: 16 });
    }

    #[test]
    fn keeps_usage_with_the_image() {
        let usage = Usage { registers: 1, spill_bytes: 2, shared_bytes: 70_000, stack_bytes: 4 };
        let cubin = Cubin { image: vec![9, 8, 7], usage };
        let back = Cubin::from_bytes(&cubin.to_bytes()).unwrap();
        assert_eq!((back.image, back.usage), (cubin.image, cubin.usage));
        assert!(Cubin::from_bytes(&[0; 15]).is_none());
    }

    #[test]
    fn options_are_exact() {
        assert_eq!(options("sm_90a")[0], "--gpu-architecture=sm_90a");
        assert!(!options("sm_90a").iter().any(|option| option.contains("fast-math")));
    }
}
