//! The one GPU: everything that was handed out and is alive, and what every call checks first.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::sys::CUresult::{self, *};
use glmc_engine::driver::cache::Cache;
use glmc_engine::driver::emulator::{Checks, Emulator, Options};

use crate::event::Event;
use crate::graph::Executable;
use crate::memory::HostBlock;
use crate::module::{Function, Module};
use crate::report::Report;
use crate::settings::SETTINGS;
use crate::stream::{Nodes, Stream};

/// What a call comes to.
pub type Answer<T = ()> = Result<T, CUresult>;

/// The primary context.
pub struct Context {
    pub handle: usize,
    retained: u32,
    /// The error that broke it. Programming guide, "Error Checking": such an error leaves the process in an inconsistent
    /// state, and any further work returns the same error.
    pub broken: Option<CUresult>,
}

/// The state of the mock. Handles are numbers that are never given out twice, so that a stale one is recognised.
#[derive(Default)]
pub struct Gpu {
    pub initialised: bool,
    pub context: Option<Context>,
    pub streams: BTreeMap<usize, Stream>,
    pub events: BTreeMap<usize, Event>,
    pub modules: BTreeMap<usize, Module>,
    pub functions: BTreeMap<usize, Function>,
    pub graphs: BTreeMap<usize, Nodes>,
    pub executables: BTreeMap<usize, Executable>,
    /// Device memory: address and bytes.
    pub device: BTreeMap<u64, usize>,
    /// Page-locked host memory by address.
    pub host: BTreeMap<usize, HostBlock>,
    pub report: Report,
    /// Flags of the primary context.
    pub flags: u32,
    handles: usize,
}

static GPU: LazyLock<Mutex<Gpu>> = LazyLock::new(Mutex::default);

thread_local! {
    /// The context that is current in this thread; 0 for none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The state, for one call.
pub fn lock() -> MutexGuard<'static, Gpu> {
    GPU.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What computes. One a process, as NVRTC's part compiles with it too.
pub fn emulator() -> Answer<&'static Emulator> {
    static EMULATOR: OnceLock<Option<Emulator>> = OnceLock::new();
    let emulator = EMULATOR.get_or_init(|| {
        let checks = if SETTINGS.checked { Checks::Full } else { Checks::Fast };
        Emulator::new(Options { checks, cache: Cache::user() })
            .inspect_err(|error| eprintln!("MOCK_CUDA: the emulator does not start: {error}"))
            .ok()
    });
    emulator.as_ref().ok_or(CUDA_ERROR_NOT_SUPPORTED)
}

/// A call that needs `cuInit` and no more.
pub fn initialised(name: &str, work: impl FnOnce(&mut Gpu) -> Answer) -> CUresult {
    let mut gpu = lock();
    let outcome = match gpu.initialised {
        true => work(&mut gpu),
        false => Err(gpu.misuse(name, CUDA_ERROR_NOT_INITIALIZED, "before cuInit")),
    };
    outcome.err().unwrap_or(CUDA_SUCCESS)
}

/// A call that needs a current context which is not broken.
pub fn in_context(name: &str, work: impl FnOnce(&mut Gpu) -> Answer) -> CUresult {
    initialised(name, |gpu| {
        let current = CURRENT.get();
        match &gpu.context {
            Some(Context { broken: Some(error), handle, .. }) if *handle == current => Err(*error),
            Some(Context { handle, .. }) if *handle == current => work(gpu),
            _ => Err(gpu.misuse(name, CUDA_ERROR_INVALID_CONTEXT, "no context is current in this thread")),
        }
    })
}

/// Writes a result to where a caller of the API wants it, which the API asks to be valid or null.
pub fn give<T>(gpu: &mut Gpu, name: &str, to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(gpu.misuse(name, CUDA_ERROR_INVALID_VALUE, "null where a result is to go"));
    }
    // SAFETY: not null, so by the API's contract valid for a write of this type.
    unsafe { to.write(value) };
    Ok(())
}

impl Gpu {
    /// A handle that was never given out before.
    pub fn handle(&mut self) -> usize {
        self.handles += 16;
        0x1000 + self.handles
    }

    /// Notes a mistake of the caller, and returns the error to answer it with.
    pub fn misuse(&mut self, name: &str, error: CUresult, what: impl AsRef<str>) -> CUresult {
        self.report.problems.push(format!("{name}: {}", what.as_ref()));
        error
    }

    /// Breaks the context: nothing that is still to run will.
    pub fn break_context(&mut self, error: CUresult) -> CUresult {
        if let Some(context) = &mut self.context {
            context.broken = Some(error);
        }
        for stream in self.streams.values_mut() {
            stream.forget();
        }
        error
    }

    /// Retains the primary context, made by its first user.
    pub fn retain(&mut self) -> usize {
        let handle = self.handle();
        let context = self.context.get_or_insert(Context { handle, retained: 0, broken: None });
        context.retained += 1;
        context.handle
    }

    /// Releases it. The last user's release destroys it with all that is in it.
    pub fn release(&mut self, name: &str) -> Answer {
        let Some(context) = &mut self.context else {
            return Err(self.misuse(name, CUDA_ERROR_INVALID_CONTEXT, "the primary context is not retained"));
        };
        context.retained -= 1;
        if context.retained > 0 {
            return Ok(());
        }
        let lost = self.contents();
        self.report.leaks.extend(lost);
        self.context = None;
        // Device memory goes back to the emulator, whose memory outlives contexts. It cannot fail but for canaries.
        for ptr in std::mem::take(&mut self.device).into_keys() {
            self.give_back(ptr);
        }
        *self = Gpu {
            initialised: true,
            report: std::mem::take(&mut self.report),
            handles: self.handles,
            ..Gpu::default()
        };
        Ok(())
    }

    /// Notes a wait, which keeps a core busy unless it `sleeps`.
    pub fn waits(&mut self, sleeps: bool) {
        self.report.polling_waits += u64::from(!sleeps);
    }

    /// Makes a context current in this thread; 0 for none.
    pub fn set_current(&mut self, name: &str, handle: usize) -> Answer {
        if handle != 0 && self.context.as_ref().is_none_or(|context| context.handle != handle) {
            return Err(self.misuse(name, CUDA_ERROR_INVALID_CONTEXT, "the context was destroyed"));
        }
        CURRENT.set(handle);
        Ok(())
    }

    /// What the context holds. Nobody can give back what is in a broken one.
    fn contents(&self) -> Vec<String> {
        if self.context.as_ref().is_some_and(|context| context.broken.is_some()) {
            return Vec::new();
        }
        let counts = [
            ("streams", self.streams.len()),
            ("events", self.events.len()),
            ("modules", self.modules.len()),
            ("graphs", self.graphs.len()),
            ("executable graphs", self.executables.len()),
            ("device allocations", self.device.len()),
            ("page-locked allocations", self.host.len()),
        ];
        counts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect()
    }

    /// What is alive, the context included.
    pub fn alive(&self) -> Vec<String> {
        let context = self.context.as_ref().map(|context| format!("primary context, retained {}", context.retained));
        self.contents().into_iter().chain(context).collect()
    }
}
