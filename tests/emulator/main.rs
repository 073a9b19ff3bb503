//! The emulator: that it runs kernels as CUDA does, that its checks find what is wrong, the cache of what it compiles,
//! and where kernels come from.

mod basics;
mod bench_kernels;
mod bench_trace;
mod checks;
mod first_difference;
mod kernel_cache;
mod kernels_folder;
mod outline;
