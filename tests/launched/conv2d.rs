//! The convolution kernels, launched as the backend launches them, under the emulator's checks: exact on small integers
//! for every tiling, odd shapes, strides and paddings, ragged channels, and in several orders of threads.

use std::collections::BTreeSet;

use glmc_engine::Result;
use glmc_engine::backend::launched::Launched;
use glmc_engine::backend::launched::conv2d::{Call, Layer};
use glmc_engine::driver::cache::Cache;
use glmc_engine::driver::emulator::{Checks, Emulator, Options};
use glmc_engine::driver::{Arg, DevicePtr, Driver};
use glmc_engine::memory::Memory;
use glmc_engine::ops::conv2d::{Conv2dKernels, Forward, Geometry, InputGrad, WeightGrad};
use glmc_engine::tensor::Grad;
use glmc_engine::tensor::{DType, Precision, Tensor};
use glmc_engine::verify::self_test::CONVOLUTIONS;
use half::bf16;

use crate::common::array::{Array, Random};
use crate::common::{convolution, tolerance};

/// Small integers: every sum in these tests stays exact in f32, every value in bf16.
fn small(count: usize, seed: u64) -> Vec<f64> {
    Random::new(seed).integers(&[count], 2).data
}

/// A driver and the precision of its activations.
struct Device<'a> {
    driver: &'a dyn Driver,
    precision: Precision,
}

impl Device<'_> {
    fn rounded(&self, value: f64) -> f64 {
        if self.precision == Precision::Bf16 { f64::from(bf16::from_f32(value as f32)) } else { value }
    }

    fn upload(&self, values: &[f64], what: &str) -> Result<DevicePtr> {
        let bytes: Vec<u8> = match self.precision {
            Precision::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v as f32).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
        };
        let ptr = self.driver.alloc(bytes.len(), what)?;
        self.driver.upload(ptr, &bytes)?;
        Ok(ptr)
    }

    /// Memory for `count` f32, filled with NaN.
    fn unwritten(&self, count: usize, what: &str) -> Result<DevicePtr> {
        let ptr = self.driver.alloc(count * 4, what)?;
        self.driver.upload(ptr, &vec![0xff; count * 4])?;
        Ok(ptr)
    }

    fn download(&self, ptr: DevicePtr, count: usize, half: bool) -> Result<Vec<f64>> {
        let mut bytes = vec![0; count * if half { 2 } else { 4 }];
        self.driver.download(&mut bytes, ptr)?;
        Ok(if half {
            bytes.chunks_exact(2).map(|b| f64::from(bf16::from_le_bytes([b[0], b[1]]))).collect()
        } else {
            bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        })
    }

    fn launch(&self, call: &Call, args: &[Arg]) -> Result<()> {
        let kernel = self.driver.kernel(&call.spec)?;
        self.driver.launch(kernel, call.launch, args)
    }
}

fn assert_same(what: &str, g: &Geometry, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    if let Some(at) = (0..found.len()).find(|&i| found[i] != expected[i]) {
        panic!("{what} of {g:?}: element {at} is {}, not {}", found[at], expected[at]);
    }
}

/// Every kernel of one layer against the definition, exactly; if not `thorough`, the forward with sums and the input
/// gradient added to (compiling takes most of these tests' time).
fn check(driver: &dyn Driver, precision: Precision, g: &Geometry, thorough: bool) -> Result<()> {
    let device = Device { driver, precision };
    let half = precision == Precision::Bf16;
    let layer = Layer::new(g, precision);
    let size = |extents: [usize; 4]| extents.iter().product::<usize>();
    let (x, weight) = (small(size(g.input()), 1), small(size(g.weight()), 2));
    let (dy, old) = (small(size(g.output()), 3), small(size(g.input()), 4));
    let [y, dx, dw] = convolution::naive(g, &x, &weight, &dy);
    let y: Vec<f64> = y.into_iter().map(|v| device.rounded(v)).collect();

    let (px, pw, pdy) = (device.upload(&x, "x")?, device.upload(&weight, "weight")?, device.upload(&dy, "dy")?);
    let images = layer.view_images() as i32;

    let (parts, rows) = (layer.sum_parts(), layer.part_pixels());
    let py = device.unwritten(y.len(), "y")?;
    let ps = device.unwritten(g.views * parts * 2 * g.filters, "sums")?;
    let args = [Arg::Ptr(px), Arg::Ptr(pw), Arg::Ptr(py), Arg::Ptr(ps), Arg::I32(images)];
    for &sums in if thorough { &[true, false][..] } else { &[true] } {
        driver.zero(py, y.len())?;
        device.launch(&layer.forward(sums)?, &args)?;
        assert_same("y", g, &device.download(py, y.len(), half)?, &y);
    }
    let mut expected = Vec::new();
    for view in y.chunks(y.len() / g.views) {
        for part in view.chunks(rows * g.filters) {
            for square in [false, true] {
                for f in 0..g.filters {
                    let values = part.iter().skip(f).step_by(g.filters);
                    expected.push(values.map(|&v| if square { v * v } else { v }).sum());
                }
            }
        }
    }
    assert_same("sums", g, &device.download(ps, expected.len(), false)?, &expected);

    for &accumulate in if thorough { &[false, true][..] } else { &[true] } {
        let pdx = device.upload(&old, "dx")?;
        device.launch(
            &layer.input_grad(accumulate)?,
            &[Arg::Ptr(pdy), Arg::Ptr(pw), Arg::Ptr(pdx), Arg::I32(images * g.views as i32)],
        )?;
        let sum = |(&new, &old): (&f64, &f64)| device.rounded(if accumulate { new + old } else { new });
        let expected: Vec<f64> = dx.iter().zip(&old).map(sum).collect();
        assert_same("dx", g, &device.download(pdx, dx.len(), half)?, &expected);
    }

    let (split, splits) = layer.splits();
    let pp = device.unwritten(splits * dw.len(), "partials")?;
    let pixels = g.batch * g.out_height() * g.out_width();
    device.launch(
        &layer.weight_grad()?,
        &[Arg::Ptr(px), Arg::Ptr(pdy), Arg::Ptr(pp), Arg::I32(pixels as i32), Arg::I32(split as i32)],
    )?;
    let pdw = device.unwritten(dw.len(), "dweight")?;
    device.launch(
        &layer.weight_grad_reduce(),
        &[Arg::Ptr(pp), Arg::Ptr(pdw), Arg::I32(dw.len() as i32), Arg::I32(splits as i32)],
    )?;
    assert_same("dweight", g, &device.download(pdw, dw.len(), false)?, &dw);
    for ptr in [px, pw, pdy, py, ps, pp, pdw] {
        driver.free(ptr)?;
    }
    Ok(())
}

fn emulator() -> Emulator {
    Emulator::new(Options { checks: Checks::Full, cache: Cache::user() }).unwrap()
}

fn geometry(
    [views, images, height, width]: [usize; 4],
    [channels, filters]: [usize; 2],
    [kernel, stride, padding]: [usize; 3],
) -> Geometry {
    Geometry { batch: views * images, height, width, channels, filters, kernel, stride, padding, views, groups: 1 }
}

fn grouped(groups: usize, g: Geometry) -> Geometry {
    Geometry { groups, ..g }
}

/// Shapes that together meet every branch: batch 1, odd extents, channels and filters that are and are not whole
/// chunks, more than one tile along rows, columns and terms, taps that no pixel has, kernels as large as the image.
fn odd_shapes() -> Vec<Geometry> {
    vec![
        geometry([1, 1, 5, 5], [1, 1], [3, 1, 1]),
        geometry([2, 1, 7, 5], [5, 9], [3, 2, 1]),
        geometry([2, 3, 6, 6], [8, 16], [3, 1, 1]),
        geometry([2, 2, 8, 8], [16, 32], [3, 2, 1]),
        geometry([1, 2, 9, 7], [16, 24], [1, 2, 0]),
        geometry([1, 1, 9, 9], [70, 37], [3, 2, 1]),
        geometry([2, 2, 6, 6], [64, 64], [3, 1, 1]),
        geometry([1, 2, 7, 9], [20, 12], [5, 3, 2]),
        geometry([1, 1, 4, 4], [136, 72], [3, 1, 1]),
        geometry([2, 1, 12, 12], [4, 65], [2, 2, 0]),
        geometry([1, 2, 4, 4], [3, 16], [3, 1, 3]),
        geometry([1, 1, 2, 2], [512, 264], [1, 1, 0]),
        geometry([2, 1, 9, 8], [3, 16], [7, 2, 3]),
    ]
}

/// In groups: vectors inside groups and groups inside vectors, weights in one slice and in several, more than one block
/// of pixels, of channels and of items, groups that no vector fits, kernels for which only one channel at a time fits.
fn grouped_shapes() -> Vec<Geometry> {
    vec![
        grouped(4, geometry([2, 1, 6, 5], [16, 16], [3, 1, 1])),
        grouped(2, geometry([2, 2, 7, 5], [16, 16], [3, 2, 1])),
        grouped(2, geometry([1, 1, 6, 6], [32, 32], [3, 1, 1])),
        grouped(2, geometry([1, 2, 5, 4], [64, 64], [3, 2, 1])),
        grouped(20, geometry([1, 3, 10, 9], [80, 80], [3, 1, 1])),
        grouped(5, geometry([1, 2, 9, 8], [40, 80], [1, 2, 0])),
        grouped(3, geometry([2, 1, 7, 9], [15, 21], [3, 2, 1])),
        grouped(2, geometry([1, 1, 9, 9], [16, 8], [7, 2, 3])),
        grouped(2, geometry([2, 2, 3, 3], [16, 24], [1, 1, 0])),
    ]
}

#[test]
fn groups_are_exact_in_f32() -> Result<()> {
    let driver = emulator();
    grouped_shapes().iter().enumerate().try_for_each(|(at, g)| check(&driver, Precision::F32, g, at == 0))
}

#[test]
fn groups_are_exact_in_bf16() -> Result<()> {
    let driver = emulator();
    grouped_shapes().iter().enumerate().try_for_each(|(at, g)| check(&driver, Precision::Bf16, g, at == 0))
}

fn check_all(precision: Precision) -> Result<()> {
    let driver = emulator();
    odd_shapes().iter().enumerate().try_for_each(|(at, g)| check(&driver, precision, g, at == 0))
}

/// Enough pixels for the tiles that large layers get.
fn large_shapes() -> Vec<Geometry> {
    vec![
        geometry([2, 4, 48, 40], [16, 128], [1, 1, 0]),
        geometry([1, 8, 48, 40], [128, 64], [1, 1, 0]),
        geometry([2, 4, 48, 40], [64, 32], [1, 1, 0]),
        geometry([1, 8, 48, 40], [32, 8], [1, 1, 0]),
    ]
}

#[test]
fn odd_shapes_are_exact_in_f32() -> Result<()> {
    check_all(Precision::F32)
}

#[test]
fn odd_shapes_are_exact_in_bf16() -> Result<()> {
    check_all(Precision::Bf16)
}

#[test]
fn large_shapes_are_exact_in_bf16() -> Result<()> {
    let driver = emulator();
    large_shapes().iter().try_for_each(|g| check(&driver, Precision::Bf16, g, false))
}

/// Kernel and tiling of a call.
fn tiling(call: &Call) -> String {
    let knobs = call.spec.defines.iter().filter(|(name, _)| {
        ["STORAGE_BF16", "STAGES", "VECTOR", "SLICE"].contains(&&**name)
            || name.starts_with("BLOCK")
            || name.starts_with("PART")
    });
    knobs.fold(call.spec.entry.to_string(), |label, (name, value)| format!("{label} {name}={value}"))
}

/// The convolutions of the presets' networks: CIFAR ResNets of 64, 16 and 8 channels in the first stage, two views of
/// `batch` images of 32 x 32, `stem` channels per pixel.
fn preset_layers(stem: usize) -> Vec<Geometry> {
    let layers = |(width, batch): (usize, usize)| {
        let layer =
            |size, channels, filters, stride| geometry([2, batch, size, size], [channels, filters], [3, stride, 1]);
        [
            layer(32, stem, width, 1),
            layer(32, width, width, 1),
            layer(32, width, 2 * width, 2),
            layer(16, 2 * width, 2 * width, 1),
            layer(16, 2 * width, 4 * width, 2),
            layer(8, 4 * width, 4 * width, 1),
        ]
    };
    [(64, 64), (16, 64), (8, 32)].into_iter().flat_map(layers).collect()
}

/// The convolutions in groups of ResNeXt-50 (32 groups of 4 to 32 channels) on images of 224 x 224.
fn resnext_layers() -> Vec<Geometry> {
    let layer = |(size, channels, stride): (usize, usize, usize)| {
        grouped(32, geometry([1, 16, size, size], [channels, channels], [3, stride, 1]))
    };
    let first = [(56, 128, 1), (56, 256, 2), (28, 256, 1), (28, 512, 2), (14, 512, 1), (14, 1024, 2), (7, 1024, 1)];
    first.map(layer).to_vec()
}

/// A tiling that the presets use and no test here does would go to a GPU unproven.
#[test]
fn every_tiling_of_the_presets_is_tested() -> Result<()> {
    for precision in [Precision::F32, Precision::Bf16] {
        let tilings = |layers: &[Geometry]| -> Result<BTreeSet<String>> {
            let mut tilings = BTreeSet::new();
            for g in layers {
                let layer = Layer::new(g, precision);
                let calls = [layer.forward(true)?, layer.input_grad(true)?, layer.weight_grad()?];
                tilings.extend(calls.iter().map(tiling));
            }
            Ok(tilings)
        };
        let large = if precision == Precision::Bf16 { large_shapes() } else { Vec::new() };
        let tested = tilings(&[odd_shapes(), grouped_shapes(), large].concat())?;
        let used = tilings(&[preset_layers(16 / precision.compute().bytes()), resnext_layers()].concat())?;
        // A GPU that is used for the first time proves each of them as well.
        for known in [tested, tilings(&CONVOLUTIONS)?] {
            let missing: Vec<&String> = used.difference(&known).collect();
            assert!(missing.is_empty(), "{missing:#?}");
        }
    }
    Ok(())
}

/// Threads and blocks in several orders: nothing may depend on who comes first.
#[test]
fn results_do_not_depend_on_the_order_of_threads() -> Result<()> {
    let g = geometry([2, 1, 7, 5], [5, 9], [3, 2, 1]);
    for g in [g, grouped(4, geometry([2, 1, 4, 5], [16, 16], [3, 1, 1]))] {
        for precision in [Precision::F32, Precision::Bf16] {
            let driver = emulator();
            driver.check_orders(4, &mut || check(&driver, precision, &g, false).map(|()| Vec::new()))?;
        }
    }
    Ok(())
}

/// A tensor in an allocation of its own, `skip` bytes from its start.
fn tensor(backend: &Launched, shape: [usize; 4], dtype: DType, skip: usize, values: &[f64]) -> Tensor {
    let bytes = values.len() * dtype.bytes();
    let buffer = backend.alloc(bytes + skip, "test").unwrap();
    let tensor = Tensor { offset: skip, ..Tensor::at_start(buffer, &shape, dtype) };
    let content: Vec<u8> = match dtype {
        DType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v as f32).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
    };
    backend.upload(tensor, &content).unwrap();
    tensor
}

fn bytes(backend: &Launched, tensor: Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes()];
    backend.download(tensor, &mut bytes).unwrap();
    bytes
}

/// Addresses that are no multiples of 16 take the kernels without vector accesses and give the same.
#[test]
fn unaligned_tensors_give_the_same_results() -> Result<()> {
    let backend = Launched::new(Box::new(emulator()), Precision::Bf16)?;
    let g = geometry([2, 1, 6, 6], [8, 8], [3, 1, 1]);
    unaligned_gives_the_same(&backend, &g);
    unaligned_gives_the_same(&backend, &grouped(2, g));
    Ok(())
}

fn unaligned_gives_the_same(backend: &Launched, g: &Geometry) {
    let size = |extents: [usize; 4]| extents.iter().product::<usize>();
    let results = [0, 2].map(|skip| {
        let put = |shape, salt| tensor(backend, shape, DType::Bf16, skip, &small(size(shape), salt));
        let (x, weight, dy, dx, y) =
            (put(g.input(), 1), put(g.weight(), 2), put(g.output(), 3), put(g.input(), 4), put(g.output(), 5));
        let dweight = tensor(backend, g.weight(), DType::F32, 2 * skip, &small(size(g.weight()), 6));
        backend.conv2d_forward(g, &Forward { x, weight, y, sums: None }).unwrap();
        backend.conv2d_input_grad(g, &InputGrad { dy, weight, dx: Grad { tensor: dx, accumulate: true } }).unwrap();
        backend.conv2d_weight_grad(g, &WeightGrad { x, dy, dweight, scratch: None }).unwrap();
        [y, dx, dweight].map(|tensor| bytes(backend, tensor))
    });
    assert_eq!(results[0], results[1], "{g:?}");
}

#[test]
fn wrong_tensors_are_refused_in_one_line() -> Result<()> {
    let g = geometry([1, 4, 64, 64], [8, 8], [3, 1, 1]);
    let backend = Launched::new(Box::new(emulator()), Precision::Bf16)?;
    let put = |shape: [usize; 4], dtype| tensor(&backend, shape, dtype, 0, &vec![0.0; shape.iter().product()]);
    let (x, y) = (put(g.input(), DType::Bf16), put(g.output(), DType::Bf16));
    let (weight, dweight) = (put(g.weight(), DType::Bf16), put(g.weight(), DType::F32));
    let error = backend.conv2d_forward(&g, &Forward { x, weight: dweight, y, sums: None }).unwrap_err().to_string();
    assert!(error.starts_with("conv2d: the weight is F32"), "{error}");
    assert!(backend.conv2d_backward_scratch(&g) > 0);
    let error =
        backend.conv2d_weight_grad(&g, &WeightGrad { x, dy: y, dweight, scratch: None }).unwrap_err().to_string();
    assert!(error.starts_with("conv2d: the weight gradient needs"), "{error}");
    let huge = Geometry { batch: 1 << 20, ..g };
    let error = Layer::new(&huge, Precision::Bf16).forward(false).unwrap_err().to_string();
    assert!(error.ends_with("take a smaller batch, of at most 65535 images"), "{error}");
    // What is named fits, and one image more does not.
    for g in [geometry([2, 9000, 224, 224], [64, 64], [3, 1, 1]), geometry([2, 9000, 56, 56], [64, 256], [1, 1, 0])] {
        for g in [g, grouped(8, g)] {
            let error = Layer::new(&g, Precision::Bf16).input_grad(false).unwrap_err().to_string();
            let most: usize = error.split("at most ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert!(error.ends_with("images in each of 2 views") && !error.contains('\n'), "{error}");
            let of = |images: usize| Layer::new(&Geometry { batch: 2 * images, ..g }, Precision::Bf16).forward(true);
            assert!(of(most).is_ok() && of(most + 1).is_err(), "{error}");
        }
    }
    let huge = geometry([1, 1, 1 << 16, 1 << 15], [8, 8], [3, 1, 1]);
    let error = Layer::new(&huge, Precision::Bf16).forward(false).unwrap_err().to_string();
    assert!(error.ends_with("no batch fits: take smaller images"), "{error}");
    let error = Layer::new(&grouped(2, geometry([1, 1, 50, 50], [8, 8], [41, 1, 0])), Precision::F32).forward(true);
    assert!(error.unwrap_err().to_string().contains("41x41 taps in groups"));
    let huge = Geometry { batch: 1 << 20, height: 64, width: 64, ..g };
    let error = backend.conv2d_forward(&huge, &Forward { x, weight, y, sums: None }).unwrap_err().to_string();
    assert!(error.starts_with("conv2d: x is"), "{error}");
    Ok(())
}

/// Tensor cores cut off, always towards zero, what a processor rounds (`GLMC_CUT` in `kernels/emulator/warp.h`). A weight gradient of
/// CIFAR's first stage adds up 131,072 pixels; with activations and gradients of one sign nothing that is cut off cancels.
#[test]
fn long_sums_are_within_the_limit_on_tensor_cores() -> Result<()> {
    let driver = Emulator::new(Options { checks: Checks::Fast, cache: Cache::user() })?;
    let device = Device { driver: &driver, precision: Precision::Bf16 };
    let g = geometry([2, 64, 32, 32], [8, 16], [1, 1, 0]);
    let layer = Layer::new(&g, Precision::Bf16);
    let pixels = g.batch * g.height * g.width;
    let positive = |count: usize, seed: u64| -> Vec<f64> {
        Random::new(seed).values(count).into_iter().map(|v| device.rounded(v.abs() + 0.25)).collect()
    };
    let (x, dy) = (positive(pixels * g.channels, 1), positive(pixels * g.filters, 2));
    let mut expected = vec![0.0; g.filters * g.channels];
    for (x, dy) in x.chunks(g.channels).zip(dy.chunks(g.filters)) {
        for (row, dy) in expected.chunks_mut(g.channels).zip(dy) {
            row.iter_mut().zip(x).for_each(|(sum, x)| *sum += dy * x);
        }
    }
    let (px, pdy) = (device.upload(&x, "x")?, device.upload(&dy, "dy")?);
    let (split, splits) = layer.splits();
    let sums = |cut: bool| -> Result<Vec<f64>> {
        let mut call = layer.weight_grad()?;
        if cut {
            call.spec = call.spec.define("GLMC_CUT", 1);
        }
        let partials = device.unwritten(splits * expected.len(), "partials")?;
        let args = [Arg::Ptr(px), Arg::Ptr(pdy), Arg::Ptr(partials), Arg::I32(pixels as i32), Arg::I32(split as i32)];
        device.launch(&call, &args)?;
        let dweight = device.unwritten(expected.len(), "dweight")?;
        let args = [Arg::Ptr(partials), Arg::Ptr(dweight), Arg::I32(expected.len() as i32), Arg::I32(splits as i32)];
        device.launch(&layer.weight_grad_reduce(), &args)?;
        device.download(dweight, expected.len(), false)
    };
    let (rounded, cut) = (sums(false)?, sums(true)?);
    let shape = g.weight();
    let array = |values: &[f64]| Array::new(&shape, values.to_vec());
    for (name, values) in [("rounded", &rounded), ("cut off", &cut)] {
        tolerance::close("conv2d", "dweight", name, Precision::Bf16, &array(values), &array(&expected)).unwrap();
    }
    // At most a unit of the sum so far is lost with every eight pixels of a split, always in one direction.
    let worst = 2f64.powi(-23) * (split / 8 + splits) as f64;
    for ((cut, rounded), expected) in cut.iter().zip(&rounded).zip(&expected) {
        let lost = (expected - cut) / expected;
        assert!(0.0 < lost && lost < worst, "{lost} of at most {worst}");
        assert!(cut < rounded, "{cut} {rounded} {expected}");
    }
    Ok(())
}
