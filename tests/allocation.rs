//! A training step on the CPU allocates nothing after the first: nothing on the backend, and on the host's heap nothing but
//! the blocks of rayon's work queues.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use glmc_engine::config::{PlacementSettings, Sam, Settings};
use glmc_engine::method::METHODS;
use glmc_engine::nn::{BatchNorm, Group};
use glmc_engine::ops::augment_mix::Mixing;
use glmc_engine::ops::augment_photos::{AugmentPhotos, DRAW_WORDS, INDEX_WORDS, PhotoConfig, PhotoDraw};
use glmc_engine::ops::load_step::STEP_WORDS;
use glmc_engine::tensor::{DType, Precision};
use training::Rig;

#[path = "common/training.rs"]
mod training;

/// Bytes of a block of rayon's work queues, of which it takes a new one every 63 jobs, whatever these do.
const QUEUE_BLOCK: usize = 1520;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() != QUEUE_BLOCK {
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

/// The least number of allocations in any of some windows of `LENGTH` steps.
fn made(run: &dyn Fn(usize)) -> Option<usize> {
    (0..FIRST).for_each(run);
    // rayon's queues may grow once more at any time: what a step allocates shows in every window.
    let made = (0..WINDOWS).map(|window| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..LENGTH).for_each(|step| run(FIRST + window * LENGTH + step));
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    made.min()
}

/// Steps before the first window, windows, and steps of each.
const FIRST: usize = 4;
const WINDOWS: usize = 4;
const LENGTH: usize = 4;

#[test]
fn a_step_allocates_nothing_after_the_first() {
    let steps = FIRST + WINDOWS * LENGTH;
    let images = training::images(16, 8 * steps);
    let photographs = training::photographs(16, 8 * steps);
    let projection = toml::from_str("match = \"fc*.weight\"\nmax_norm = 0.1\nevery = \"step\"").expect("a projection");
    let groups = [("*.bias", Some(0.0)), ("fc_cb.*", Some(0.1))].map(|(pattern, weight_decay)| Group {
        pattern: pattern.into(),
        lr_factor: 1.0,
        weight_decay,
        frozen: false,
        batch_norm: BatchNorm::Train,
    });
    // The plain step, and one with all that the optimiser can do.
    let all = Settings {
        sam: Some(Sam { ascent: [1.0, 1.0, 0.0], ..Sam::new(0.05) }),
        nesterov: Some(true),
        project: Some(projection),
        groups: Some(groups.into()),
        ..Settings::default()
    };
    // Steps in parts; photographs, whose draws are sent with every step, and where they are streamed the images as well.
    let parts = Settings { accumulate: Some(2), ..Settings::default() };
    let placement = PlacementSettings { resident_limit: Some(0), ..PlacementSettings::default() };
    let streamed = Settings { placement, ..Settings::default() };
    let on_photographs = [Settings::default(), streamed.clone(), parts.clone().or(streamed)];
    // And every method's: what differs between them is data, and how much of it a step reads.
    let methods = METHODS[1..].iter().map(|&method| Settings { method: Some(method), ..Settings::default() });
    let plain = [Settings::default(), all, parts].into_iter().chain(methods).map(|settings| (&images, settings));
    for (pictures, settings) in plain.chain(on_photographs.map(|settings| (&photographs, settings))) {
        let what = format!("{:?} in {:?} parts", settings.method.map(|method| method.name), settings.accumulate);
        let rig = Rig::with("cpu", Precision::F32, pictures, (16, 8), settings);
        let on_device = rig.backend.allocated();
        assert_eq!(made(&|step| rig.run(step)), Some(0), "allocations in every {LENGTH} steps of {what}");
        assert_eq!(rig.backend.allocated(), on_device, "the backend allocated");
    }
    let op = photographs_op();
    assert_eq!(made(&|_| op()), Some(0), "allocations in every {LENGTH} runs of augment_photos");
}

/// The op that makes a step's photographs, with everything drawn.
fn photographs_op() -> impl Fn() {
    let (batch, size) = (8, 16);
    let backend = glmc_engine::backend::open("cpu", Precision::F32, 2).expect("the CPU");
    let put = |shape: &[usize], dtype: DType, bytes: &[u8]| {
        let tensor = backend.tensor(shape, dtype, "a test").expect("memory");
        backend.upload(tensor, bytes).expect("as many bytes");
        tensor
    };
    let draw = PhotoDraw { contrast: 0.5, hue: 0.1, sigma: 1.0, ..PhotoDraw::of_box([1, 2, 19, 28], size) };
    let samples = put(&[batch], DType::I32, &[0; 32]);
    let photos = AugmentPhotos {
        pixels: put(&[20 * 30 * 3], DType::U8, &[100; 20 * 30 * 3]),
        index: put(&[1, INDEX_WORDS], DType::I32, bytemuck::cast_slice(&[0i32, 0, 20, 30])),
        draws: put(&[batch, DRAW_WORDS], DType::I32, bytemuck::cast_slice(&vec![draw; batch])),
        originals: samples,
        partners: samples,
        scalars: put(&[STEP_WORDS], DType::I32, &[0; 4 * STEP_WORDS]),
        out: put(&[batch, size, size, 3], DType::F32, &vec![0; batch * size * size * 12]),
        scratch: None,
    };
    let config = PhotoConfig { size, stride: batch, mean: [0.5; 3], std: [0.25; 3] };
    move || backend.augment_photos(Mixing::Evaluate, &config, &photos).expect("shapes fit")
}
