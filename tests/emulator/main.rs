//! The emulator: that it runs kernels as CUDA does, that its checks find what is wrong, and the cache of what it compiles.

mod basics;
mod checks;
mod kernel_cache;
