//! A from-scratch training engine for GLMC (Global and Local Mixture Consistency cumulative learning, CVPR 2023,
//! arXiv 2305.08661), a one-stage method for long-tailed image recognition.
//!
//! A reader's way in, from the outside to the inside:
//! [`cli`] parses flags into a validated [`config`], [`train`] runs the loop, [`method`] holds the methods, [`nn`] the
//! networks, [`ops`] the operations that the [`tape`] records and plans, [`backend`] their implementations, [`driver`] what
//! runs the kernels.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic; see console

pub mod backend;
pub mod bench;
pub mod cli;
pub mod config;
pub mod console;
pub mod data;
pub mod driver;
pub mod error;
pub mod export;
pub mod files;
pub mod memory;
pub mod method;
pub mod nn;
pub mod ops;
pub mod report;
pub mod rng;
pub mod stop;
pub mod tape;
pub mod tensor;
pub mod train;
pub mod verify;
pub mod version;

pub use error::{Error, Result};
