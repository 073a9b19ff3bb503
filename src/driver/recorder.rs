//! A driver without a device: it only notes which kernels are launched, and how.
//!
//! Running a step over it lists every kernel variant that the step needs, so that they can be compiled and reported for
//! any architecture on any machine. Downloads give zeros, marks are times.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Arg, DevicePtr, Driver, Graph, Kernel, KernelSpec, Launch, Mark, MemoryInfo, Pinned, Properties, Variant};
use crate::{Error, Result};

#[derive(Default)]
struct Notes {
    specs: Vec<KernelSpec>,
    variants: Vec<Variant>,
    seen: HashSet<Variant>,
}

/// A [`Driver`] that computes nothing.
pub struct Recorder {
    properties: Properties,
    notes: Arc<Mutex<Notes>>,
    next: AtomicU64,
    used: AtomicU64,
}

struct Nothing;

impl Graph for Nothing {
    fn replay(&self) -> Result<()> {
        Ok(())
    }

    fn operations(&self) -> usize {
        0
    }
}

/// What a [`Recorder`] has noted, still readable when the driver has been given away.
#[derive(Clone)]
pub struct Recording(Arc<Mutex<Notes>>);

impl Recording {
    /// Every kernel that was launched, once for each way, in the order of first launches.
    pub fn variants(&self) -> Vec<Variant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).variants.clone()
    }
}

/// Looks like the GPU that launch geometry is tuned for: an H100's multiprocessors, and the shared memory a block that
/// every supported GPU has.
impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new("sm_90a", 132, 99 * 1024)
    }
}

impl Recorder {
    /// A recorder that looks like a GPU of architecture `arch` with that many multiprocessors and that much shared memory
    /// a block, where launch geometry depends on them.
    pub fn new(arch: &str, multiprocessors: u32, shared_bytes: u32) -> Recorder {
        let properties = Properties {
            device: "recorder".to_string(),
            product: "no device".to_string(),
            arch: arch.to_string(),
            multiprocessors,
            shared_bytes,
            memory_bytes: 1 << 40,
        };
        Recorder { properties, notes: Arc::default(), next: AtomicU64::new(1 << 20), used: AtomicU64::new(0) }
    }

    /// A view of what is noted.
    pub fn recording(&self) -> Recording {
        Recording(self.notes.clone())
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver for Recorder {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: usize, _: &str) -> Result<DevicePtr> {
        self.used.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(self.next.fetch_add(bytes.next_multiple_of(256).max(256) as u64, Ordering::Relaxed))
    }

    fn free(&self, _: DevicePtr) -> Result<()> {
        Ok(())
    }

    fn upload(&self, _: DevicePtr, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, to: &mut [u8], _: DevicePtr) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn zero(&self, _: DevicePtr, _: usize) -> Result<()> {
        Ok(())
    }

    fn copy(&self, _: DevicePtr, _: DevicePtr, _: usize) -> Result<()> {
        Ok(())
    }

    fn alloc_pinned(&self, bytes: usize) -> Result<Pinned> {
        Ok(Pinned::ordinary(bytes))
    }

    fn upload_async(&self, _: DevicePtr, _: &Pinned, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn download_async(&self, _: &mut Pinned, _: usize, _: DevicePtr, _: usize) -> Result<()> {
        Ok(())
    }

    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel> {
        spec.source()?;
        let mut notes = self.notes();
        let at = notes.specs.iter().position(|known| known == spec).unwrap_or_else(|| {
            notes.specs.push(spec.clone());
            notes.specs.len() - 1
        });
        Ok(Kernel(at))
    }

    fn launch(&self, kernel: Kernel, launch: Launch, _: &[Arg]) -> Result<()> {
        let mut notes = self.notes();
        let Some(spec) = notes.specs.get(kernel.0).cloned() else {
            return Err(Error::device(&self.properties.device, "a kernel handle of another driver"));
        };
        launch.check(&spec.label(), &self.properties.device, self.properties.shared_bytes)?;
        let threads = launch.threads() as u32;
        let variant = Variant { hot: !spec.cold, spec, threads, shared_bytes: launch.shared_bytes };
        if notes.seen.insert(variant.clone()) {
            notes.variants.push(variant);
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn mark(&self) -> Result<Mark> {
        Ok(Mark::now())
    }

    fn reached(&self, _: &Mark) -> Result<bool> {
        Ok(true)
    }

    fn wait(&self, _: &Mark) -> Result<()> {
        Ok(())
    }

    fn elapsed(&self, _: &Mark, _: &Mark) -> Result<f64> {
        Ok(0.0)
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Graph>> {
        body()?;
        Ok(Box::new(Nothing))
    }

    fn prepare(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        body()
    }

    fn memory(&self) -> Result<MemoryInfo> {
        let used = self.used.load(Ordering::Relaxed);
        let total = self.properties.memory_bytes;
        Ok(MemoryInfo { used, peak: used, free: total - used, total })
    }
}
