//! A driver that says which kernel it is about to launch and waits for each: whatever goes wrong then has a name. For
//! checks; a step takes many times as long.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Arg, DevicePtr, Driver, Kernel, KernelSpec, Launch, Mark, MemoryInfo, Outline, Pinned, Properties, Replay,
};
use crate::{Error, Result};

/// What is about to happen.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Kernels are compiled, which may take long.
    Compiling,
    /// The kernel of that name is launched.
    Launching(&'a str),
}

/// What was launched.
pub struct Launches {
    tell: Box<dyn Fn(Event<'_>) + Send + Sync>,
    /// Kernels since [`Launches::take`].
    recent: Mutex<Vec<String>>,
    all: Mutex<BTreeSet<String>>,
    failed: AtomicBool,
}

impl Launches {
    /// None so far; `tell` hears of everything beforehand.
    pub fn new(tell: impl Fn(Event<'_>) + Send + Sync + 'static) -> Arc<Launches> {
        let (recent, all) = (Mutex::default(), Mutex::default());
        Arc::new(Launches { tell: Box::new(tell), recent, all, failed: AtomicBool::new(false) })
    }

    fn begin(&self, kernel: &str) {
        (self.tell)(Event::Launching(kernel));
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(kernel.to_string());
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).push(kernel.to_string());
    }

    /// The kernels launched since the last call, in order.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.recent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many kernels were launched, each form of one counted once.
    pub fn kernels(&self) -> usize {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether a kernel failed: the error of its launch is about it, and not about memory or files.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// A [`Driver`] that waits for each kernel.
pub struct Watched {
    inner: Box<dyn Driver>,
    launches: Arc<Launches>,
    labels: Mutex<HashMap<Kernel, String>>,
    specs: Mutex<HashSet<KernelSpec>>,
    /// While nothing runs: in a capture, or when kernels are only looked for.
    aside: AtomicBool,
}

impl Watched {
    /// `inner`, whose launches are noted in `launches`.
    pub fn new(inner: Box<dyn Driver>, launches: Arc<Launches>) -> Watched {
        Watched { inner, launches, labels: Mutex::default(), specs: Mutex::default(), aside: AtomicBool::new(false) }
    }

    /// Runs `work`, waits for it, and gives its error the kernel's name.
    fn watch(&self, kernel: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.launches.begin(kernel);
        work().and_then(|()| self.inner.synchronize()).map_err(|error| {
            self.launches.failed.store(true, Ordering::Relaxed);
            match error {
                Error::Device { device, what } if !what.contains(kernel) => {
                    Error::Device { device, what: format!("kernel {kernel}: {what}") }
                }
                other => other,
            }
        })
    }

    fn aside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.aside.store(true, Ordering::Relaxed);
        let outcome = work();
        self.aside.store(false, Ordering::Relaxed);
        outcome
    }
}

/// A graph whose replays are watched as a whole.
struct WatchedGraph {
    graph: Box<dyn Replay>,
    launches: Arc<Launches>,
}

impl Replay for WatchedGraph {
    fn replay(&self) -> Result<()> {
        self.launches.begin(&format!("graph of {} operations", self.graph.operations()));
        self.graph.replay()
    }

    fn operations(&self) -> usize {
        self.graph.operations()
    }
}

impl Driver for Watched {
    fn properties(&self) -> &Properties {
        self.inner.properties()
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr> {
        self.inner.alloc(bytes, what)
    }

    fn free(&self, ptr: DevicePtr) -> Result<()> {
        self.inner.free(ptr)
    }

    fn padding(&self) -> usize {
        self.inner.padding()
    }

    fn outline(&self, ptr: DevicePtr, outline: Option<(&Arc<Outline>, usize)>) -> Result<()> {
        self.inner.outline(ptr, outline)
    }

    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.inner.upload(to, from)
    }

    fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        self.inner.download(to, from)
    }

    fn zero(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.inner.zero(ptr, bytes)
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        self.inner.copy(to, from, bytes)
    }

    fn alloc_pinned(&self, bytes: usize) -> Result<Pinned> {
        self.inner.alloc_pinned(bytes)
    }

    fn upload_async(&self, to: DevicePtr, from: &Pinned, offset: usize, bytes: usize) -> Result<()> {
        self.inner.upload_async(to, from, offset, bytes)
    }

    fn download_async(&self, to: &mut Pinned, offset: usize, from: DevicePtr, bytes: usize) -> Result<()> {
        self.inner.download_async(to, offset, from, bytes)
    }

    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel> {
        let new = self.specs.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.clone());
        if new && !self.aside.load(Ordering::Relaxed) {
            (self.launches.tell)(Event::Compiling);
        }
        let kernel = self.inner.kernel(spec)?;
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).entry(kernel).or_insert_with(|| spec.label());
        Ok(kernel)
    }

    fn launch(&self, kernel: Kernel, launch: Launch, args: &[Arg]) -> Result<()> {
        if self.aside.load(Ordering::Relaxed) {
            return self.inner.launch(kernel, launch, args);
        }
        let label = self.labels.lock().unwrap_or_else(PoisonError::into_inner).get(&kernel).cloned();
        self.watch(&label.unwrap_or_default(), || self.inner.launch(kernel, launch, args))
    }

    fn synchronize(&self) -> Result<()> {
        self.inner.synchronize()
    }

    fn mark(&self) -> Result<Mark> {
        self.inner.mark()
    }

    fn stamp(&self) -> Result<Mark> {
        self.inner.stamp()
    }

    fn reached(&self, mark: &Mark) -> Result<bool> {
        self.inner.reached(mark)
    }

    fn wait(&self, mark: &Mark) -> Result<()> {
        self.inner.wait(mark)
    }

    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        self.inner.elapsed(from, to)
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Replay>> {
        let graph = self.aside(|| self.inner.capture(body))?;
        Ok(Box::new(WatchedGraph { graph, launches: self.launches.clone() }))
    }

    fn prepare(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        (self.launches.tell)(Event::Compiling);
        self.aside(|| self.inner.prepare(body))
    }

    fn memory(&self) -> Result<MemoryInfo> {
        self.inner.memory()
    }
}
