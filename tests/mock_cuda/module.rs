//! Modules, their kernels, and launches.
#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUmodule, CUstream};
use glmc_engine::driver::{Driver, Kernel, Launch};

use crate::device::SHARED_LIMIT;
use crate::gpu::{Answer, Gpu, emulator, give, in_context};
use crate::image::{Image, NEW_ABI};
use crate::settings::SETTINGS;
use crate::stream::Operation;

/// Dynamic shared memory that a kernel may use without `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES` (programming
/// guide, "Technical Specifications per Compute Capability").
const SHARED_BY_DEFAULT: u32 = 48 * 1024;

/// A loaded image.
pub struct Module(Image);

/// A kernel of a module.
pub struct Function {
    pub entry: String,
    module: usize,
    kernel: Kernel,
    sizes: Vec<usize>,
    shared: u32,
    /// Percent of the first-level cache that were asked for as shared memory.
    carveout: Option<c_int>,
}

impl Gpu {
    fn module(&mut self, name: &str, module: CUmodule) -> Answer<usize> {
        let handle = module as usize;
        if self.modules.contains_key(&handle) {
            return Ok(handle);
        }
        Err(self.misuse(name, CUDA_ERROR_INVALID_HANDLE, "no module that is alive"))
    }

    fn function(&mut self, name: &str, function: CUfunction) -> Answer<usize> {
        let handle = function as usize;
        if self.functions.contains_key(&handle) {
            return Ok(handle);
        }
        Err(self.misuse(name, CUDA_ERROR_INVALID_HANDLE, "no function of a module that is alive"))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> c_int {
    if let Some(code) = SETTINGS.image {
        return code;
    }
    let answer = in_context("cuModuleLoadData", |gpu| {
        gpu.potentially_unsafe("cuModuleLoadData")?;
        // SAFETY: the API asks for a whole image: one of the mock, or an ELF file.
        let Some(image) = (unsafe { Image::read(image.cast()) }) else {
            return Err(gpu.misuse("cuModuleLoadData", CUDA_ERROR_INVALID_IMAGE, "no image of the mock's NVRTC"));
        };
        if !image.runs_on(SETTINGS.compute) {
            let what = format!("an image for {} on a GPU of {:?}", image.arch, SETTINGS.compute);
            return Err(gpu.misuse("cuModuleLoadData", CUDA_ERROR_NO_BINARY_FOR_GPU, what));
        }
        if image.abi >= NEW_ABI && !image.is_ptx() && SETTINGS.driver < 13_000 {
            let what = format!("an image of ELF ABI {} in a driver for CUDA {}", image.abi, SETTINGS.driver / 1000);
            return Err(gpu.misuse("cuModuleLoadData", CUDA_ERROR_INVALID_IMAGE, what));
        }
        let handle = gpu.handle();
        gpu.modules.insert(handle, Module(image));
        give(gpu, "cuModuleLoadData", module, handle as CUmodule)
    });
    answer as c_int
}

/// The manual does not say that it waits for launches, so a program must.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleUnload(module: CUmodule) -> CUresult {
    in_context("cuModuleUnload", |gpu| {
        gpu.potentially_unsafe("cuModuleUnload")?;
        let handle = gpu.module("cuModuleUnload", module)?;
        let own: Vec<usize> = gpu.functions.iter().filter(|(_, f)| f.module == handle).map(|(h, _)| *h).collect();
        if own.iter().any(|function| gpu.streams.values().any(|stream| stream.launches(*function))) {
            gpu.misuse("cuModuleUnload", CUDA_SUCCESS, "unloaded while a launch of it waits");
            gpu.drain_all()?;
        }
        for function in own {
            gpu.functions.remove(&function);
        }
        gpu.modules.remove(&handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut CUfunction,
    module: CUmodule,
    entry: *const c_char,
) -> CUresult {
    let name = "cuModuleGetFunction";
    let mut spec = None;
    let found = in_context(name, |gpu| {
        let handle = gpu.module(name, module)?;
        // SAFETY: the API asks for a string that ends in NUL.
        let entry = unsafe { CStr::from_ptr(entry) }.to_string_lossy();
        let image = &gpu.modules[&handle].0;
        if !image.entries().iter().any(|known| *known == entry) {
            return Err(CUDA_ERROR_NOT_FOUND);
        }
        spec = Some((handle, image.spec(&entry), entry.into_owned()));
        Ok(())
    });
    let Some((module, spec, entry)) = spec else { return found };
    // Compiling takes long: with the state unlocked, so that others can meanwhile.
    let loaded = emulator().and_then(|emulator| {
        let load = || {
            let kernel = emulator.kernel(&spec)?;
            Ok((kernel, emulator.parameter_sizes(kernel)?))
        };
        load().map_err(|error: glmc_engine::Error| {
            eprintln!("MOCK_CUDA: {error}");
            CUDA_ERROR_INVALID_IMAGE
        })
    });
    in_context(name, |gpu| {
        let (kernel, sizes) = loaded?;
        let handle = gpu.handle();
        gpu.functions
            .insert(handle, Function { entry, module, kernel, sizes, shared: SHARED_BY_DEFAULT, carveout: None });
        give(gpu, name, function, handle as CUfunction)
    })
}

/// "CUDA_ERROR_INVALID_VALUE: returned if the value of paramIndex is greater than or equal to the number of parameters".
#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetParamInfo(
    function: CUfunction,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> CUresult {
    in_context("cuFuncGetParamInfo", |gpu| {
        let handle = gpu.function("cuFuncGetParamInfo", function)?;
        let sizes = &gpu.functions[&handle].sizes;
        let Some(&found) = sizes.get(index) else { return Err(CUDA_ERROR_INVALID_VALUE) };
        // Each at a multiple of its own alignment; nothing here is aligned to more than eight.
        let at = sizes[..index].iter().fold(0, |at: usize, size| at.next_multiple_of((*size).clamp(1, 8)) + size);
        let at = at.next_multiple_of(found.clamp(1, 8));
        give(gpu, "cuFuncGetParamInfo", size, found)?;
        give(gpu, "cuFuncGetParamInfo", offset, at)
    })
}

/// The number of registers is made up: nothing but a GPU's compiler knows it.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: CUfunction_attribute,
    function: CUfunction,
) -> CUresult {
    in_context("cuFuncGetAttribute", |gpu| {
        gpu.function("cuFuncGetAttribute", function)?;
        match attribute {
            CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS => give(gpu, "cuFuncGetAttribute", value, 1),
            other => {
                let what = format!("{other:?}, which the mock does not know");
                Err(gpu.misuse("cuFuncGetAttribute", CUDA_ERROR_INVALID_VALUE, what))
            }
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(
    function: CUfunction,
    attribute: CUfunction_attribute,
    value: c_int,
) -> CUresult {
    in_context("cuFuncSetAttribute", |gpu| {
        let handle = gpu.function("cuFuncSetAttribute", function)?;
        let dynamic = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let carveout = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        if attribute == carveout && (-1..=100).contains(&value) {
            gpu.functions.get_mut(&handle).expect("`function` found it").carveout = Some(value);
            return Ok(());
        }
        match u32::try_from(value).ok().filter(|_| attribute == dynamic && value <= SHARED_LIMIT) {
            Some(bytes) => {
                gpu.functions.get_mut(&handle).expect("`function` found it").shared = bytes;
                Ok(())
            }
            None => {
                let what = format!("{attribute:?} = {value}");
                Err(gpu.misuse("cuFuncSetAttribute", CUDA_ERROR_INVALID_VALUE, what))
            }
        }
    })
}

/// "Each parameter is copied from the memory that kernelParams[i] points to", before the call returns.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    in_context("cuLaunchKernel", |gpu| {
        let name = "cuLaunchKernel";
        let handle = gpu.function(name, function)?;
        let stream = gpu.stream(name, stream)?;
        let Function { kernel, sizes, shared, carveout, .. } = &gpu.functions[&handle];
        let (kernel, allowed, uncarved) = (*kernel, *shared, shared_bytes > 0 && carveout.is_none());
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let launch = Launch { grid, block, ..Launch::linear(1, 1).shared(shared_bytes) };
        // Limits: programming guide, "Technical Specifications per Compute Capability".
        let problem = if !(1..=1024).contains(&launch.threads()) || block_z > 64 {
            format!("{:?} threads a block", launch.block)
        } else if launch.blocks() == 0 || grid_x > i32::MAX as u32 || grid_y > 65_535 || grid_z > 65_535 {
            format!("a grid of {:?} blocks", launch.grid)
        } else if shared_bytes > allowed {
            format!("{shared_bytes} bytes of dynamic shared memory; the function's attribute allows {allowed}")
        } else if !extra.is_null() || (params.is_null() && !sizes.is_empty()) {
            "parameters in a form that the mock does not know".to_string()
        } else {
            let value = |(i, &size): (usize, &usize)| {
                // SAFETY: the API asks for a pointer to each of the kernel's parameters, each to as many bytes as it has.
                unsafe { std::slice::from_raw_parts((*params.add(i)).cast::<u8>(), size) }.to_vec()
            };
            let args = sizes.iter().enumerate().map(value).collect();
            gpu.report.uncarved += u64::from(uncarved);
            return gpu.submit(name, stream, Operation::Launch { function: handle, kernel, launch, args });
        };
        Err(gpu.misuse(name, CUDA_ERROR_INVALID_VALUE, problem))
    })
}
