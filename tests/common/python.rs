//! Python, where a test asks other programs' readers: what it lacks is a reason to ignore the test.

use std::process::{Command, Stdio};

/// What reads tables and arrays.
pub const NUMPY: &str = "numpy, pandas";
/// What reads weights.
pub const TORCH: &str = "torch, torchvision, safetensors";

/// The Python that `GLMC_PYTHON` names, or `python3`.
pub fn python() -> Command {
    let named = std::env::var_os("GLMC_PYTHON").filter(|name| !name.is_empty());
    let mut command = Command::new(named.unwrap_or_else(|| "python3".into()));
    command.stdin(Stdio::null());
    command
}

/// Why these modules are not at hand, if so.
pub fn lacking(modules: &str) -> Option<String> {
    match python().args(["-c", &format!("import {modules}")]).output() {
        Err(error) => Some(format!("{:?} does not start: {error}", python().get_program())),
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).lines().next_back().unwrap_or("").to_owned();
            Some(format!("{:?}: {said}", python().get_program()))
        }
    }
}
