//! A training step on the CPU allocates no memory for data after the first: nothing on the backend, and nothing larger
//! than a work queue's block on the host's heap, but for the packing buffers that the gemm crate makes for itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use glmc_engine::backend;
use glmc_engine::glmc::{EpochPlan, PartnerSampler, PlanConfig};
use glmc_engine::nn::{Heads, Model, ModelConfig, ParameterStore};
use glmc_engine::ops::augment_mix::{Augmentation, Mixing};
use glmc_engine::ops::sgd::SgdConfig;
use glmc_engine::tensor::Precision;
use glmc_engine::train::feed::{Feed, Images};
use glmc_engine::train::step::{StepConfig, TrainStep};

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
    let (size, batch, steps) = (16, 8, 12);
    let images = batch * steps;
    let pixels: Vec<u8> = (0..images * size * size * 3).map(|i| (i * 31 % 251) as u8).collect();
    let labels: Vec<i32> = (0..images as i32).map(|i| i % 5).collect();
    let images = Images { pixels: &pixels, labels: &labels, height: size, width: size };
    let backend = backend::open("cpu", Precision::F32, 2).expect("a CPU");
    let backend = backend.as_ref();
    let description = ModelConfig { name: "resnet20".into(), width: 16, classes: 5, heads: Heads::Glmc, hidden: 128 };
    let model = Model::new(&description, backend.stem_channels()).expect("a model");
    let store = ParameterStore::new(backend, model.specs().clone()).expect("memory");
    store.initialise(backend, 1).expect("a start");
    let feed = Feed::new(backend, images, batch, usize::MAX).expect("memory");
    let config = StepConfig {
        batch,
        mixing: Mixing::Glmc,
        augmentation: Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 2, flip: true },
        sgd: SgdConfig { momentum: 0.9, weight_decay: 5e-4 },
        class_weights: vec![1.0; 5],
    };
    let plan = PlanConfig {
        seed: 1,
        epochs: 1,
        batch,
        lr: 0.01,
        warmup_epochs: 0,
        beta: Some(1.0),
        gamma: 1.0,
        supervised: 1.0,
        correct_labels: false,
        height: size,
        width: size,
    };
    let sampler = PartnerSampler::new(&labels, 5, 0.0).expect("a sampler");
    let plan = EpochPlan::draw(&plan, 0, images.len(), &sampler).expect("a plan");
    let step = TrainStep::new(backend, &model, &store, &feed, config).expect("a step");
    step.load(backend, &feed, &plan, 0).expect("a table");
    let on_device = backend.allocated();
    (0..4).for_each(|s| step.run(backend, s).expect("a step"));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (4..steps).for_each(|s| step.run(backend, s).expect("a step"));
    let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(backend.allocated(), on_device, "the backend allocated");
    assert!(made <= PACKINGS * (steps - 4), "{made} allocations of data in {} steps", steps - 4);
}
