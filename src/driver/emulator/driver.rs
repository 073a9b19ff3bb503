//! The emulator behind the [`Driver`] trait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::arena::RED_ZONE;
use super::{Checks, Emulator, EmulatorGraph, Operation, SHARED_LIMIT};
use crate::driver::spec::PackedArgs;
use crate::driver::{
    Arg, DevicePtr, Driver, Kernel, KernelSpec, Launch, MemoryInfo, Outline, Pinned, Properties, Replay,
};
use crate::{Error, Result};

impl Driver for Emulator {
    fn properties(&self) -> &Properties {
        &self.inner.properties
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr> {
        self.inner.stream().arena.alloc(bytes, what)
    }

    fn free(&self, ptr: DevicePtr) -> Result<()> {
        self.inner.stream().arena.free(ptr)
    }

    fn padding(&self) -> usize {
        if self.inner.checks == Checks::Full { RED_ZONE } else { 0 }
    }

    fn outline(&self, ptr: DevicePtr, outline: Option<(&Arc<Outline>, usize)>) -> Result<()> {
        match self.inner.checks {
            Checks::Full => {
                self.inner.submit(Operation::Outline(ptr, outline.map(|(parts, time)| (parts.clone(), time))))
            }
            Checks::Fast => Ok(()),
        }
    }

    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        let stream = self.inner.stream();
        stream.not_capturing("upload from ordinary memory")?;
        let target = stream.arena.check(to, from.len(), "upload")?;
        // SAFETY: the target lies in a live allocation (checked); the stream is held, so no kernel runs.
        unsafe { target.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        let stream = self.inner.stream();
        stream.not_capturing("download to ordinary memory")?;
        let source = stream.arena.check(from, to.len(), "download")?;
        // SAFETY: the source lies in a live allocation (checked); the stream is held, so no kernel runs.
        unsafe { source.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn zero(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.inner.submit(Operation::Zero(ptr, bytes))
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        self.inner.submit(Operation::Copy(to, from, bytes))
    }

    fn upload_async(&self, to: DevicePtr, from: &Pinned, offset: usize, bytes: usize) -> Result<()> {
        from.range(offset, bytes)?;
        self.inner.submit(Operation::Upload(to, from.0.clone(), offset, bytes))
    }

    fn download_async(&self, to: &mut Pinned, offset: usize, from: DevicePtr, bytes: usize) -> Result<()> {
        to.range(offset, bytes)?;
        self.inner.submit(Operation::Download(to.0.clone(), offset, from, bytes))
    }

    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel> {
        let kernel = self.inner.kernels.handle(spec);
        if !self.inner.dry.load(Ordering::Relaxed) {
            self.inner.slot(kernel)?.loaded(|spec| self.inner.load(spec))?;
        }
        Ok(kernel)
    }

    fn launch(&self, kernel: Kernel, launch: Launch, args: &[Arg]) -> Result<()> {
        if self.inner.dry.load(Ordering::Relaxed) {
            return Ok(());
        }
        let slot = self.inner.slot(kernel)?;
        let loaded = slot.loaded(|spec| self.inner.load(spec))?;
        launch.check(&slot.spec.label(), self.name(), SHARED_LIMIT)?;
        let packed = PackedArgs::new(args);
        packed
            .check(&loaded.sizes)
            .map_err(|what| Error::device("emulator", format!("kernel {}: {what}", slot.spec.label())))?;
        self.inner.submit(Operation::Launch(kernel, launch, packed))
    }

    fn synchronize(&self) -> Result<()> {
        let stream = self.inner.stream();
        stream.not_capturing("waiting")?;
        stream.arena.check_canaries()
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Replay>> {
        let mut stream = self.inner.stream();
        if stream.capturing.is_some() {
            return Err(Error::device("emulator", "a capture inside a capture"));
        }
        stream.capturing = Some(Vec::new());
        drop(stream);
        let outcome = body();
        let operations = self.inner.stream().capturing.take().unwrap_or_default();
        outcome?;
        Ok(Box::new(EmulatorGraph { inner: self.inner.clone(), operations }))
    }

    fn prepare(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.inner.dry.store(true, Ordering::Relaxed);
        let outcome = body();
        self.inner.dry.store(false, Ordering::Relaxed);
        outcome?;
        self.inner.kernels.load_all(|spec| self.inner.load(spec))
    }

    fn memory(&self) -> Result<MemoryInfo> {
        Ok(self.inner.stream().arena.memory())
    }
}

impl Replay for EmulatorGraph {
    fn replay(&self) -> Result<()> {
        let mut stream = self.inner.stream();
        self.operations.iter().try_for_each(|operation| self.inner.perform(&mut stream, operation))
    }

    fn operations(&self) -> usize {
        let own = |operation: &&Operation| !matches!(operation, Operation::Outline(..));
        self.operations.iter().filter(own).count()
    }
}
