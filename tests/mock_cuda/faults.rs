//! What a broken GPU, driver or compiler may do with one kernel, as `wrong`, `hang`, `fault` and `crash` ask for.

use cudarc::driver::sys::CUresult::{self, CUDA_ERROR_ILLEGAL_ADDRESS};
use glmc_engine::Result;
use glmc_engine::driver::Driver;
use glmc_engine::driver::emulator::Emulator;

use crate::gpu::Gpu;
use crate::settings::SETTINGS;

/// The contents of all device memory, by address.
type Contents = Vec<(u64, Vec<u8>)>;

fn is(setting: &Option<String>, entry: &str) -> bool {
    setting.as_deref() == Some(entry)
}

impl Gpu {
    /// Begins a launch of the kernel `entry`: it may never end, end the process, or be refused with an error.
    pub fn begin(&self, entry: &str) -> Option<CUresult> {
        if is(&SETTINGS.crash, entry) {
            std::process::abort();
        }
        while is(&SETTINGS.hang, entry) {
            std::thread::park();
        }
        is(&SETTINGS.fault, entry).then_some(CUDA_ERROR_ILLEGAL_ADDRESS)
    }

    /// Runs a launch. If the kernel is to be wrong, the last word that it changes gets another exponent.
    pub fn run(&self, entry: &str, emulator: &Emulator, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        if !is(&SETTINGS.wrong, entry) {
            return launch();
        }
        let before = self.contents_of_memory(emulator)?;
        launch()?;
        let after = self.contents_of_memory(emulator)?;
        for ((address, before), (_, after)) in before.iter().zip(&after).rev() {
            let words = before.chunks(4).zip(after.chunks(4));
            let mut changed = words.enumerate().filter(|(_, (before, after))| before != after).map(|(at, _)| 4 * at);
            if let Some(at) = changed.next_back().filter(|at| at + 4 <= after.len()) {
                let mut word = after[at..at + 4].to_vec();
                word[3] ^= 0x40;
                return emulator.upload(address + at as u64, &word);
            }
        }
        Ok(())
    }

    fn contents_of_memory(&self, emulator: &Emulator) -> Result<Contents> {
        let read = |(&address, &bytes): (&u64, &usize)| {
            let mut content = vec![0; bytes];
            emulator.download(&mut content, address).map(|()| (address, content))
        };
        self.device.iter().map(read).collect()
    }
}
