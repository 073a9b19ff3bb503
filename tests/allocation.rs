//! A training step on the CPU allocates no memory for data after the first: nothing on the backend, and nothing larger
//! than a work queue's block on the host's heap, but for the packing buffers that the gemm crate makes for itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use glmc_engine::tensor::Precision;
use training::Rig;

#[path = "common/training.rs"]
mod training;

/// rayon's queues grow by blocks of 1.5 KiB, whatever the work; buffers of data are larger than that.
const QUEUE_BLOCK: usize = 2048;

/// Products of the four heads in a step, forward and two gradients each: gemm packs its operands anew for each.
const PACKINGS: usize = 12;

/// The system's allocator, counting allocations that could hold data.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > QUEUE_BLOCK {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_step_allocates_no_data_after_the_first() {
    let steps = 12;
    let images = training::images(16, 8 * steps);
    let rig = Rig::new("cpu", Precision::F32, &images, 16, 8);
    let on_device = rig.backend.allocated();
    (0..4).for_each(|step| rig.run(step));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (4..steps).for_each(|step| rig.run(step));
    let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(rig.backend.allocated(), on_device, "the backend allocated");
    assert!(made <= PACKINGS * (steps - 4), "{made} allocations of data in {} steps", steps - 4);
}
