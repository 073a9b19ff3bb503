//! A stand-in for NVIDIA's libcuda and libnvrtc: the functions that this project calls, over its emulator. See README.md.
//!
//! One library plays both parts. Where it lies as `libcuda.so` and `libnvrtc.so` on the loader's path, the real CUDA code
//! of the program runs on a machine without a GPU, kernels included, and gives the emulator's numbers. What CUDA leaves
//! undefined the mock makes as bad as it may be; what CUDA forbids it refuses with CUDA's error, and reports.

mod device;
mod event;
mod faults;
mod gpu;
mod graph;
mod image;
mod memory;
mod messages;
mod module;
mod nvrtc;
mod report;
mod settings;
mod stream;
