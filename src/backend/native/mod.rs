//! The native backend: Rust on the CPU.
