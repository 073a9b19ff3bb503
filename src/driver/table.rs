//! The kernels of a driver, by specification: each is compiled and loaded once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use super::{Kernel, KernelSpec};
use crate::Result;

/// A kernel and, once it is needed, what loading it gave.
pub struct Slot<L> {
    /// What it is.
    pub spec: KernelSpec,
    loaded: OnceLock<L>,
    loading: Mutex<()>,
}

impl<L> Slot<L> {
    /// What `load` made of the specification, now or earlier.
    pub fn loaded(&self, load: impl FnOnce(&KernelSpec) -> Result<L>) -> Result<&L> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if self.loaded.get().is_none() {
            let loaded = load(&self.spec)?;
            return Ok(self.loaded.get_or_init(|| loaded));
        }
        self.loaded(load)
    }
}

struct Inner<L> {
    index: HashMap<KernelSpec, usize>,
    slots: Vec<Arc<Slot<L>>>,
}

/// All kernels that a driver was asked for.
pub struct KernelTable<L>(Mutex<Inner<L>>);

impl<L> Default for KernelTable<L> {
    fn default() -> Self {
        KernelTable(Mutex::new(Inner { index: HashMap::new(), slots: Vec::new() }))
    }
}

impl<L: Send + Sync> KernelTable<L> {
    /// The handle of `spec`, the same each time.
    pub fn handle(&self, spec: &KernelSpec) -> Kernel {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&at) = inner.index.get(spec) {
            return Kernel(at);
        }
        let at = inner.slots.len();
        let slot = Slot { spec: spec.clone(), loaded: OnceLock::new(), loading: Mutex::new(()) };
        inner.slots.push(Arc::new(slot));
        inner.index.insert(spec.clone(), at);
        Kernel(at)
    }

    /// The kernel of a handle that this table gave.
    pub fn slot(&self, kernel: Kernel) -> Option<Arc<Slot<L>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).slots.get(kernel.0).cloned()
    }

    /// Loads, over all cores, whatever is not loaded yet.
    pub fn load_all(&self, load: impl Fn(&KernelSpec) -> Result<L> + Sync) -> Result<()> {
        let waiting: Vec<_> = {
            let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            inner.slots.iter().filter(|slot| slot.loaded.get().is_none()).cloned().collect()
        };
        waiting.par_iter().with_max_len(1).try_for_each(|slot| slot.loaded(&load).map(|_| ()))
    }
}
