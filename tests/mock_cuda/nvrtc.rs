//! NVRTC's part: sources are compiled by the emulator's C++ compiler, so that what does not compile is found where NVRTC
//! would find it; the "cubin" is an [`Image`].
#![allow(non_snake_case)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::fmt::Write;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use glmc_engine::driver::{Driver, sources};

use crate::gpu::emulator;
use crate::image::{Image, NEW_ABI};

/// No NVRTC has this minor version: it keeps the mock's images apart from real ones in the cache of kernels. It goes up when
/// the form of images changes.
const MINOR: c_int = 92;
/// The major version where the file's name says none.
const MAJOR: c_int = 13;
/// Whose code there is: the emulator's kernels are the same for all.
const ARCHITECTURES: [c_int; 8] = [80, 86, 87, 89, 90, 100, 120, 121];

const SUCCESS: c_int = 0;
const INVALID_INPUT: c_int = 3;
const INVALID_PROGRAM: c_int = 4;
const INVALID_OPTION: c_int = 5;
const COMPILATION: c_int = 6;

struct Program {
    name: String,
    text: String,
    headers: Vec<(String, String)>,
    log: String,
    image: Vec<u8>,
}

/// The version in the name of this library's file: a copy of it as `libnvrtc.so.12` is NVRTC 12.
fn major() -> c_int {
    static FOUND: LazyLock<c_int> = LazyLock::new(|| {
        // SAFETY: all of its fields are integers and pointers, for which zeros are values.
        let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: an address in this library, and a valid target; the name lives as long as the library.
        let name = unsafe {
            match libc::dladdr(nvrtcVersion as *const libc::c_void, &mut info) {
                0 => return MAJOR,
                _ => string(info.dli_fname),
            }
        };
        name.rsplit_once("libnvrtc.so.")
            .and_then(|(_, version)| version.split('.').next()?.parse().ok())
            .unwrap_or(MAJOR)
    });
    *FOUND
}

static PROGRAMS: LazyLock<Mutex<BTreeMap<usize, Program>>> = LazyLock::new(Mutex::default);

fn programs() -> MutexGuard<'static, BTreeMap<usize, Program>> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Programs that were not destroyed.
pub fn alive() -> Option<String> {
    Some(programs().len()).filter(|n| *n > 0).map(|n| format!("{n} NVRTC programs"))
}

/// # Safety
/// `text` must be a string that ends in NUL.
unsafe fn string(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
/// `texts` must point to `count` strings that end in NUL.
unsafe fn strings(texts: *const *const c_char, count: c_int) -> Vec<String> {
    // SAFETY: the caller's promise.
    (0..count as usize).map(|i| unsafe { string(*texts.add(i)) }).collect()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    // SAFETY: the API asks for valid targets.
    unsafe {
        major.write(self::major());
        minor.write(MINOR);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetErrorString(status: c_int) -> *const c_char {
    let text = match status {
        SUCCESS => c"NVRTC_SUCCESS",
        INVALID_INPUT => c"NVRTC_ERROR_INVALID_INPUT",
        INVALID_PROGRAM => c"NVRTC_ERROR_INVALID_PROGRAM",
        INVALID_OPTION => c"NVRTC_ERROR_INVALID_OPTION",
        COMPILATION => c"NVRTC_ERROR_COMPILATION",
        _ => c"NVRTC_ERROR unknown",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> c_int {
    // SAFETY: the API asks for a valid target.
    unsafe { count.write(ARCHITECTURES.len() as c_int) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetSupportedArchs(list: *mut c_int) -> c_int {
    // SAFETY: the API asks for room for as many as nvrtcGetNumSupportedArchs said.
    unsafe { list.copy_from_nonoverlapping(ARCHITECTURES.as_ptr(), ARCHITECTURES.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut usize,
    source: *const c_char,
    name: *const c_char,
    count: c_int,
    headers: *const *const c_char,
    names: *const *const c_char,
) -> c_int {
    // SAFETY: the API asks for strings that end in NUL, and arrays of `count` of them.
    let (text, name, texts, names) =
        unsafe { (string(source), string(name), strings(headers, count), strings(names, count)) };
    let headers = names.into_iter().zip(texts).collect();
    let mut programs = programs();
    let handle = programs.keys().next_back().map_or(0x10, |last| last + 0x10);
    programs.insert(handle, Program { name, text, headers, log: String::new(), image: Vec::new() });
    // SAFETY: the API asks for a valid target.
    unsafe { program.write(handle) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcDestroyProgram(program: *mut usize) -> c_int {
    // SAFETY: the API asks for a valid pointer to a program.
    let handle = unsafe { program.replace(0) };
    if programs().remove(&handle).is_some() { SUCCESS } else { INVALID_PROGRAM }
}

/// What the options say: the image, still without a source.
fn parse(options: &[String]) -> Result<Image, String> {
    let abi = if major() >= 13 { NEW_ABI } else { NEW_ABI - 1 };
    let mut image = Image { file: String::new(), arch: String::new(), abi, defines: Vec::new(), text: String::new() };
    for option in options {
        if let Some(define) = option.strip_prefix("-D") {
            let (name, value) = define.split_once('=').ok_or(option)?;
            image.defines.push((name.into(), value.into()));
        } else if let Some(arch) = option.strip_prefix("--gpu-architecture=") {
            image.arch = arch.into();
        } else if !["--std=c++17", "-default-device", "--generate-line-info", "--ptxas-options=-v"].contains(&&**option)
        {
            return Err(format!("option {option}, which the mock does not know"));
        }
    }
    Ok(image)
}

/// The emulator takes the headers that this library was built with: others would give other numbers than they should.
fn check_headers(headers: &[(String, String)]) -> Result<(), String> {
    match headers.iter().find(|(name, text)| sources::source(name) != Some(text)) {
        Some((name, _)) => Err(format!("{name} is not the mock's: build the example mock_cuda again")),
        None => Ok(()),
    }
}

fn compile(image: &Image) -> Result<String, String> {
    let entries = image.entries();
    // One entry is enough to look at the whole source.
    if let Some(entry) = entries.first() {
        let emulator = emulator().map_err(|_| "the emulator does not start".to_string())?;
        emulator.kernel(&image.spec(entry)).map_err(|error| error.to_string())?;
    }
    let mut log = String::from("ptxas info    : 0 bytes gmem\n");
    for entry in entries {
        let arch = &image.arch;
        // Registers are made up: nothing but a GPU's compiler knows them.
        let _ = write!(
            log,
            "ptxas info    : Compiling entry function '{entry}' for '{arch}'\n\
             ptxas info    : Function properties for {entry}\n\
             ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
             ptxas info    : Used 1 registers\n"
        );
    }
    Ok(log)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCompileProgram(program: usize, count: c_int, options: *const *const c_char) -> c_int {
    // SAFETY: the API asks for an array of `count` strings that end in NUL.
    let options = unsafe { strings(options, count) };
    let (file, text, headers) = match programs().get(&program) {
        Some(program) => (program.name.clone(), program.text.clone(), program.headers.clone()),
        None => return INVALID_PROGRAM,
    };
    let file = file.strip_prefix("kernels/").unwrap_or(&file).to_string();
    let (status, log, image) = match parse(&options).map(|image| Image { file, text, ..image }) {
        Err(log) => (INVALID_OPTION, log, Vec::new()),
        Ok(image) => match check_headers(&headers).and_then(|()| compile(&image)) {
            Ok(log) => (SUCCESS, log, image.to_bytes()),
            Err(log) => (COMPILATION, log, Vec::new()),
        },
    };
    if let Some(program) = programs().get_mut(&program) {
        (program.log, program.image) = (log, image);
    }
    status
}

/// Answers with a part of a program.
fn part<T>(program: usize, answer: impl FnOnce(&Program) -> T) -> c_int {
    match programs().get(&program) {
        Some(program) => {
            answer(program);
            SUCCESS
        }
        None => INVALID_PROGRAM,
    }
}

/// The size includes the NUL at the end.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLogSize(program: usize, size: *mut usize) -> c_int {
    // SAFETY: the API asks for a valid target.
    part(program, |program| unsafe { size.write(program.log.len() + 1) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLog(program: usize, log: *mut u8) -> c_int {
    // SAFETY: the API asks for room for as many bytes as nvrtcGetProgramLogSize said.
    part(program, |program| unsafe {
        log.copy_from_nonoverlapping(program.log.as_ptr(), program.log.len());
        log.add(program.log.len()).write(0);
    })
}

/// What a program was compiled to, if that is PTX or if it is not.
fn code(program: &Program, ptx: bool) -> &[u8] {
    // SAFETY: an image of the mock, or nothing.
    let is_ptx =
        !program.image.is_empty() && unsafe { Image::read(program.image.as_ptr()) }.is_some_and(|i| i.is_ptx());
    if is_ptx == ptx { &program.image } else { &[] }
}

/// "The size is 0 if the value specified to -arch is a virtual architecture".
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetCUBINSize(program: usize, size: *mut usize) -> c_int {
    // SAFETY: the API asks for a valid target.
    part(program, |program| unsafe { size.write(code(program, false).len()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetCUBIN(program: usize, image: *mut u8) -> c_int {
    // SAFETY: the API asks for room for as many bytes as nvrtcGetCUBINSize said.
    part(program, |program| unsafe {
        let code = code(program, false);
        image.copy_from_nonoverlapping(code.as_ptr(), code.len());
    })
}

/// The mock has the text of PTX only where PTX was asked for.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTXSize(program: usize, size: *mut usize) -> c_int {
    // SAFETY: the API asks for a valid target.
    part(program, |program| unsafe { size.write(code(program, true).len()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTX(program: usize, text: *mut u8) -> c_int {
    // SAFETY: the API asks for room for as many bytes as nvrtcGetPTXSize said.
    part(program, |program| unsafe {
        let code = code(program, true);
        text.copy_from_nonoverlapping(code.as_ptr(), code.len());
    })
}
