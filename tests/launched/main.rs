//! The launched backend over the emulator, and its kernels against plain loops and the CPU.
//!
//! `cargo test --release --test launched -- conv2d` runs what has this in its name.

mod accumulate;
mod backend;
#[path = "../common/mod.rs"]
mod common;
mod conv2d;
mod loss_table;
mod optimizer;
mod sweep;
