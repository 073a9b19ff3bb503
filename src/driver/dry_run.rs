//! A driver without a device, which lists the kernels that are launched.
//!
//! What it does not do: it computes nothing, compiles nothing, keeps no bytes (downloads give zeros), frees nothing and knows
//! no stream (times are the host's). Work that depends on a result takes another way here than on a device.
//!
//! What remains: a step run over it lists every kernel variant that the step needs, so that they can be compiled and
//! reported for any architecture on any machine, and every launch, so that their times can be predicted; and it plans memory
//! as the device would. A replay lists what was captured once more.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Arg, DevicePtr, Driver, Kernel, KernelSpec, Launch, MemoryInfo, Properties, Replay, Variant};
use crate::{Error, Result};

#[derive(Default)]
struct Notes {
    specs: Vec<KernelSpec>,
    variants: Vec<Variant>,
    seen: HashSet<Variant>,
    /// Since [`Listing::take`].
    launches: Vec<Noted>,
    /// What else went into the stream inside of a capture.
    others: usize,
    /// Operations of the last replay.
    replayed: usize,
    /// While kernels are only looked for.
    aside: bool,
}

/// One launch.
#[derive(Clone, Debug)]
pub struct Noted {
    /// The kernel with its knobs.
    pub spec: KernelSpec,
    /// How it was launched.
    pub launch: Launch,
}

/// A [`Driver`] that computes nothing.
pub struct DryRun {
    properties: Properties,
    notes: Arc<Mutex<Notes>>,
    next: AtomicU64,
    used: AtomicU64,
    padding: usize,
}

/// What was captured: a replay lists its launches once more.
struct Captured {
    notes: Arc<Mutex<Notes>>,
    launches: Vec<Noted>,
    others: usize,
}

impl Replay for Captured {
    fn replay(&self) -> Result<()> {
        let mut notes = lock(&self.notes);
        notes.launches.extend_from_slice(&self.launches);
        notes.replayed = self.operations();
        Ok(())
    }

    fn operations(&self) -> usize {
        self.launches.len() + self.others
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a [`DryRun`] has listed, still readable when the driver has been given away.
#[derive(Clone)]
pub struct Listing(Arc<Mutex<Notes>>);

impl Listing {
    /// Every kernel that was launched, once for each way, in the order of first launches.
    pub fn variants(&self) -> Vec<Variant> {
        lock(&self.0).variants.clone()
    }

    /// Operations of what was replayed last: launches and copies, the nodes of a graph.
    pub fn nodes(&self) -> usize {
        lock(&self.0).replayed
    }

    /// The launches since the last call, in their order.
    pub fn take(&self) -> Vec<Noted> {
        std::mem::take(&mut lock(&self.0).launches)
    }
}

/// Looks like the GPU that launch geometry is tuned for: an H100's multiprocessors, and the shared memory per block that
/// every supported GPU has.
impl Default for DryRun {
    fn default() -> DryRun {
        DryRun::new("sm_90a", 132, 99 * 1024)
    }
}

impl DryRun {
    /// Looks like a GPU of architecture `arch` with that many multiprocessors and that much shared memory per block, where
    /// launch geometry depends on them.
    pub fn new(arch: &str, multiprocessors: u32, shared_bytes: u32) -> DryRun {
        let properties = Properties {
            device: "dry run".to_string(),
            product: "no device".to_string(),
            arch: arch.to_string(),
            multiprocessors,
            shared_bytes,
            memory_bytes: 1 << 40,
            cache_bytes: 0,
        };
        DryRun { properties, notes: Arc::default(), next: AtomicU64::new(1 << 20), used: AtomicU64::new(0), padding: 0 }
    }

    /// Plans as a driver with this [`Driver::padding`].
    pub fn padded(self, padding: usize) -> DryRun {
        DryRun { padding, ..self }
    }

    /// A view of what is listed.
    pub fn listing(&self) -> Listing {
        Listing(self.notes.clone())
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }
}

impl Driver for DryRun {
    fn padding(&self) -> usize {
        self.padding
    }

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
        self.notes().others += 1;
        Ok(())
    }

    fn copy(&self, _: DevicePtr, _: DevicePtr, _: usize) -> Result<()> {
        self.notes().others += 1;
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
        let variant =
            Variant { spec: spec.clone(), threads: launch.threads() as u32, shared_bytes: launch.shared_bytes };
        if notes.seen.insert(variant.clone()) {
            notes.variants.push(variant);
        }
        if !notes.aside && launch.blocks() > 0 {
            notes.launches.push(Noted { spec, launch });
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Replay>> {
        let (before, others) = {
            let mut notes = self.notes();
            (std::mem::take(&mut notes.launches), std::mem::take(&mut notes.others))
        };
        let outcome = body();
        let mut notes = self.notes();
        let launches = std::mem::replace(&mut notes.launches, before);
        let others = std::mem::replace(&mut notes.others, others);
        outcome?;
        Ok(Box::new(Captured { notes: self.notes.clone(), launches, others }))
    }

    fn prepare(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.notes().aside = true;
        let outcome = body();
        self.notes().aside = false;
        outcome
    }

    fn memory(&self) -> Result<MemoryInfo> {
        let used = self.used.load(Ordering::Relaxed);
        let total = self.properties.memory_bytes;
        Ok(MemoryInfo { used, peak: used, free: total - used, total })
    }
}
