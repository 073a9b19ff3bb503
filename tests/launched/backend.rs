//! The launched backend as a whole, over the emulator: memory and its errors, random numbers, graphs, and that neither
//! repetition nor the order of threads changes a bit.

use glmc_engine::Result;
use glmc_engine::backend::launched::Launched;
use glmc_engine::driver::emulator::{Emulator, Options};
use glmc_engine::driver::{Arg, Driver, KernelSpec, Launch};
use glmc_engine::memory::Memory;
use glmc_engine::ops::augment_mix::{AugmentMix, AugmentMixKernels, Augmentation, Mixing};
use glmc_engine::ops::batch_norm_apply::{self, BatchNormApplyKernels, Shortcut};
use glmc_engine::ops::batch_norm_statistics::{self, BatchNormStatistics, BatchNormStatisticsKernels};
use glmc_engine::ops::checksum::{ChecksumKernels, SCRATCH};
use glmc_engine::ops::global_avg_pool::GlobalAvgPoolKernels;
use glmc_engine::ops::linear::{self, LinearKernels};
use glmc_engine::ops::load_step::{LoadStep, LoadStepKernels, STEP_WORDS, StepParams, row_words};
use glmc_engine::ops::negative_cosine::{NegativeCosine, NegativeCosineKernels};
use glmc_engine::ops::sgd::{Sgd, SgdConfig, SgdKernels};
use glmc_engine::ops::supervised_loss::{Form, Head, Reduction, SupervisedLoss, SupervisedLossKernels, ViewLabels};
use glmc_engine::ops::total_loss::{TotalLoss, TotalLossKernels};
use glmc_engine::rng::philox;
use glmc_engine::tensor::Grad;
use glmc_engine::tensor::{BufferId, DType, Precision, Tensor};

fn emulator() -> Emulator {
    Emulator::new(Options::default()).unwrap()
}

fn backend(precision: Precision) -> Launched {
    Launched::new(Box::new(emulator()), precision).unwrap()
}

fn tensor(b: &Launched, shape: &[usize], dtype: DType) -> Tensor {
    let elements: usize = shape.iter().product();
    Tensor::at_start(b.alloc(elements * dtype.bytes(), "test").unwrap(), shape, dtype)
}

fn bytes(b: &Launched, tensor: Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes()];
    b.download(tensor, &mut bytes).unwrap();
    bytes
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("must fail").to_string()
}

#[test]
fn philox_on_the_device_is_the_hosts() -> Result<()> {
    let source = r#"
        #include "philox.cuh"
        extern "C" __global__ void draws(u32* out, u32 low, u32 high, u32 epoch, u32 step, u32 purpose, u32 bound) {
            u32 index = blockIdx.x * blockDim.x + threadIdx.x;
            u32 seed[2] = {low, high};
            PhiloxWords words = philox_draw(seed, epoch, step, purpose, index);
            for (int i = 0; i < 4; i++) out[index * 5 + i] = words.word[i];
            out[index * 5 + 4] = philox_below(words.word[0], bound);
        }
    "#;
    let driver = emulator();
    let count = 4096u32;
    let out = driver.alloc(count as usize * 20, "words")?;
    let kernel = driver.kernel(&KernelSpec::from_text("draws.cu", "draws", source))?;
    for (seed, epoch, step, purpose, bound) in
        [(0u64, 0, 0, 8, 9), (0x0123_4567_89ab_cdef, 199, 193, 11, 17), (u64::MAX, u32::MAX, 7, 10, 1)]
    {
        let args = [
            Arg::Ptr(out),
            Arg::U32(seed as u32),
            Arg::U32((seed >> 32) as u32),
            Arg::U32(epoch),
            Arg::U32(step),
            Arg::U32(purpose),
            Arg::U32(bound),
        ];
        driver.launch(kernel, Launch::cover(count as usize, 128), &args)?;
        let mut words = vec![0u32; count as usize * 5];
        driver.download(bytemuck::cast_slice_mut(&mut words), out)?;
        for (index, got) in words.chunks(5).enumerate() {
            let want = philox::draw(seed, epoch, step, purpose, index as u32);
            assert_eq!(got[..4], want, "draw {index}");
            assert_eq!(got[4], philox::below(want[0], bound));
        }
    }
    Ok(())
}

#[test]
fn memory_is_zeroed_counted_and_checked() {
    let b = backend(Precision::F32);
    assert_eq!((b.name().as_str(), b.allocated()), ("emulator", (0, 0)));
    let t = tensor(&b, &[3, 5], DType::F32);
    assert!(bytes(&b, t).iter().all(|&byte| byte == 0));
    let other = b.alloc(1000, "another").unwrap();
    assert_eq!(b.allocated(), (1060, 1060));
    b.free(other);
    b.free(other);
    assert_eq!(b.allocated(), (60, 1060));

    b.upload(t.rows(1, 2), &[7; 40]).unwrap();
    assert_eq!(bytes(&b, t), [[0u8; 20].as_slice(), &[7; 40]].concat());
    b.zero(t.rows(2, 1)).unwrap();
    assert_eq!(bytes(&b, t.rows(1, 2)), [[7u8; 20], [0; 20]].concat());

    assert!(message(b.upload(t, &[0; 59])).contains("upload of 59 bytes, but the tensor [3, 5] has 60"));
    assert!(message(b.download(t, &mut [0; 61])).contains("download of 61 bytes"));
    let outside = Tensor { offset: 4, ..t };
    assert!(message(b.zero(outside)).contains("60 bytes at byte 4 lies outside of \"test\", which has 60 bytes"));
    let freed = Tensor::at_start(other, &[4], DType::F32);
    assert!(message(b.zero(freed)).contains("which is gone"));
    assert!(message(b.zero(Tensor::at_start(BufferId(99), &[4], DType::F32))).contains("which is gone"));
    let again = b.alloc(16, "a third").unwrap();
    assert_ne!(again, other, "identifiers of freed buffers are not reused");
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let b = backend(Precision::Bf16);
    let f32s = tensor(&b, &[2, 3, 3, 8], DType::F32);
    let y = tensor(&b, &[2, 8], DType::F32);
    assert!(message(b.global_avg_pool_forward(f32s, y)).starts_with("global_avg_pool: x is F32 of shape [2, 3, 3, 8]"));
    let x = tensor(&b, &[2, 3, 3, 8], DType::Bf16);
    let short = tensor(&b, &[2, 7], DType::F32);
    assert!(message(b.global_avg_pool_forward(x, short)).contains("y is F32 of shape [2, 7] (14 elements)"));
    b.global_avg_pool_forward(x, y).unwrap();
    let refused = Launched::new(Box::new(emulator()), Precision::F64);
    assert!(message(refused).contains("f64 is for the cpu"));
}

#[test]
fn a_table_that_has_run_out_is_an_error() {
    let b = backend(Precision::F32);
    let table = tensor(&b, &[2, row_words(3)], DType::I32);
    let cursor = tensor(&b, &[1], DType::I32);
    let (scalars, originals, partners) =
        (tensor(&b, &[STEP_WORDS], DType::I32), tensor(&b, &[3], DType::I32), tensor(&b, &[3], DType::I32));
    let shares = tensor(&b, &[3], DType::F32);
    let load = || {
        b.load_step(&LoadStep { table, cursor, scalars, originals, partners, shares }).and_then(|()| b.synchronize())
    };
    load().unwrap();
    load().unwrap();
    assert!(message(load()).contains("load_step"));
}

#[test]
fn checksums_tell_tensors_apart() {
    let b = backend(Precision::F32);
    let n = 300_001;
    let (left, right) = (tensor(&b, &[n], DType::U8), tensor(&b, &[n], DType::U8));
    let mut data: Vec<u8> = (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    b.upload(left, &data).unwrap();
    b.upload(right, &data).unwrap();
    let scratch = tensor(&b, &[SCRATCH], DType::U8);
    let first = b.checksum(left, scratch).unwrap();
    assert_eq!((first, first.not_finite), (b.checksum(right, scratch).unwrap(), 0));
    let allocated = b.allocated().0;
    for at in [0, 1, 4097, n - 2, n - 1] {
        data[at] ^= 0x40;
        b.upload(right, &data).unwrap();
        assert_ne!(first, b.checksum(right, scratch).unwrap(), "byte {at}");
        data[at] ^= 0x40;
    }
    data.swap(100, 104);
    b.upload(right, &data).unwrap();
    assert_ne!(first, b.checksum(right, scratch).unwrap(), "two words changed places");
    assert_eq!(b.allocated().0, allocated);
    let odd = Tensor { offset: 1, ..Tensor::at_start(left.buffer, &[8], DType::U8) };
    assert!(message(b.checksum(odd, scratch)).contains("no multiple of 4"));
}

/// A small step without convolutions: every other kernel that reduces, loads or draws.
struct Step {
    b: Launched,
    batch: usize,
    inputs: [Tensor; 5],
    work: [Tensor; 13],
    norm: [Tensor; 9],
    sgd: [Tensor; 4],
    log: Tensor,
}

const CLASSES: usize = 10;
const SIZE: usize = 12;
const CHANNELS: usize = 8;
/// Parts of the sums that a convolution would have made.
const PARTS: usize = 3;

impl Step {
    /// All tensors, filled from a fixed sequence.
    fn new(b: Launched) -> Step {
        let (batch, images, rows) = (5, 20, 4);
        let (compute, stem) = (b.precision().compute(), b.stem_channels());
        let count = 2 * batch;
        let t = |shape: &[usize], dtype| tensor(&b, shape, dtype);
        let f = |shape: &[usize]| tensor(&b, shape, DType::F32);
        let mut state = 1u32;
        let mut word = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let pixels = t(&[images, SIZE, SIZE, 3], DType::U8);
        b.upload(pixels, &(0..pixels.bytes()).map(|_| word() as u8).collect::<Vec<_>>()).unwrap();
        let labels = t(&[images], DType::I32);
        let classes: Vec<i32> = (0..images).map(|_| (word() % CLASSES as u32) as i32).collect();
        b.upload(labels, bytemuck::cast_slice(&classes)).unwrap();
        let table = t(&[rows, row_words(batch)], DType::I32);
        let mut words = Vec::new();
        for row in 0..rows as u32 {
            let params = StepParams {
                seed: [1, 2],
                step: row,
                lambda: 0.3 + 0.1 * row as f32,
                cut: [2, 7, 0, 5],
                lr: 0.1,
                coefficients: [0.6, 0.4, 2.0],
                row,
                ..StepParams::default()
            };
            words.extend_from_slice(bytemuck::cast_slice::<_, i32>(&[params]));
            words.extend((0..2 * batch).map(|_| (word() % images as u32) as i32));
            words.extend((0..batch).map(|n| (0.3 + 0.1 * (row as usize + n) as f32 / batch as f32).to_bits() as i32));
        }
        b.upload(table, bytemuck::cast_slice(&words)).unwrap();
        let cursor = t(&[1], DType::I32);
        let vectors = f(&[5, CLASSES]);
        let rows_of = |[odd, even]: [f32; 2]| [odd, even].repeat(CLASSES / 2);
        let each = [[1.0, 0.75], [0.5, -1.0], [0.25, 0.125], [0.5, 1.5], [0.0, 0.25]].map(rows_of).concat();
        b.upload(vectors, bytemuck::cast_slice(&each)).unwrap();
        let weights = CLASSES * CHANNELS + CLASSES;
        let sgd = [f(&[weights]), f(&[weights]), f(&[weights]), t(&[weights], compute)];
        let start: Vec<f32> = (0..weights).map(|_| word() as f32 / (1 << 23) as f32 - 1.0).collect();
        b.upload(sgd[0], bytemuck::cast_slice(&start)).unwrap();

        let image = [count, SIZE, SIZE, stem];
        let work = [
            t(&[STEP_WORDS], DType::I32),
            t(&[batch], DType::I32),
            t(&[batch], DType::I32),
            t(&image, compute),
            f(&[batch]),
            f(&[count, stem]),
            f(&[count, CHANNELS]),
            f(&[count, CLASSES]),
            f(&[count, CLASSES]),
            f(&[1, count]),
            f(&[count]),
            f(&[count, CHANNELS]),
            t(&image, compute),
        ];
        let g = norm_geometry(&b, batch);
        let scratch = b.batch_norm_backward_scratch(&g);
        let norm = [
            f(&[2, PARTS, 2, stem]),
            f(&[stem]),
            f(&[stem]),
            f(&[stem]),
            f(&[stem]),
            t(&image, compute),
            f(&[2, 2, stem]),
            t(&[scratch], DType::U8),
            t(&image, compute),
        ];
        let ones = vec![1f32; stem];
        b.upload(norm[1], bytemuck::cast_slice(&ones)).unwrap();
        b.upload(norm[4], bytemuck::cast_slice(&ones)).unwrap();
        let sums: Vec<f32> = (0..norm[0].elements()).map(|i| if i / stem % 2 == 0 { 3.0 } else { 300.0 }).collect();
        b.upload(norm[0], bytemuck::cast_slice(&sums)).unwrap();
        let log = f(&[rows, 4]);
        Step { batch, inputs: [pixels, labels, table, cursor, vectors], work, norm, sgd, log, b }
    }

    fn run(&self) -> Result<()> {
        let b = &self.b;
        let [pixels, labels, table, cursor, vectors] = self.inputs;
        let [scalars, originals, partners, out, shares, pooled, hidden, logits, dlogits, rows, cosine, du, dx] =
            self.work;
        let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 2, flip: true };
        b.load_step(&LoadStep { table, cursor, scalars, originals, partners, shares })?;
        b.augment_mix(Mixing::GLMC, &augmentation, &AugmentMix { pixels, originals, partners, scalars, out })?;
        let g = norm_geometry(b, self.batch);
        let [sums, weight, bias, running_mean, running_var, z, statistics, scratch, dz] = self.norm;
        let (views, parts, pixels, channels) = (g.views, PARTS, g.pixels(), g.channels);
        let geometry = batch_norm_statistics::Geometry { views, parts, pixels, channels };
        let tensors = BatchNormStatistics {
            x: out,
            sums,
            weight,
            running_mean: Some(running_mean),
            running_var: Some(running_var),
            statistics,
        };
        b.batch_norm_statistics(&geometry, &tensors)?;
        let forward = batch_norm_apply::Forward { x: out, statistics, weight, bias, shortcut: Some(out), z };
        b.batch_norm_apply(&g, &forward)?;
        b.global_avg_pool_forward(z, pooled)?;
        let master = self.sgd[0];
        let matrix = |offset: usize, shape: &[usize]| Tensor {
            offset: 4 * offset,
            ..Tensor::at_start(master.buffer, shape, DType::F32)
        };
        let (weight2, bias2) = (matrix(0, &[CLASSES, CHANNELS]), matrix(CLASSES * CHANNELS, &[CLASSES]));
        // As many features as the heads want, whatever the stem's channels are.
        let features = Tensor::at_start(hidden.buffer, &[2 * self.batch, CHANNELS], DType::F32);
        let weight1 = matrix(0, &[pooled.shape.dims()[1], CHANNELS]);
        b.linear_input_grad(&linear::InputGrad { dy: pooled, weight: weight1, dx: Grad::write(features) })?;
        b.linear_forward(&linear::Forward { x: features, weight: weight2, bias: Some(bias2), y: logits })?;
        let (form, reduction, scale) = (Form::Softmax { focal: 0.5 }, Reduction::SumW, 1.25);
        let heads = [Head { logits, vectors, form, reduction, scale, dlogits: Some(Grad::write(dlogits)) }];
        b.supervised_loss(&SupervisedLoss {
            heads: &heads,
            labels,
            originals,
            partners,
            shares,
            views: [ViewLabels::Mixed; 2],
            scalars,
            rows,
        })?;
        b.negative_cosine(&NegativeCosine {
            u: features,
            target: features,
            scalars,
            rows: cosine,
            du: Some(Grad::write(du)),
            dtarget: None,
        })?;
        b.total_loss(&TotalLoss {
            cross_entropy: rows,
            cosine: Some(cosine),
            scalars,
            log: self.log,
            batch: self.batch,
        })?;
        let grad = self.sgd[1];
        let dmatrix = |offset: usize, shape: &[usize]| Tensor {
            offset: 4 * offset,
            ..Tensor::at_start(grad.buffer, shape, DType::F32)
        };
        b.linear_weight_grad(&linear::WeightGrad {
            x: features,
            dy: dlogits,
            dweight: dmatrix(0, &[CLASSES, CHANNELS]),
            dbias: Some(dmatrix(CLASSES * CHANNELS, &[CLASSES])),
        })?;
        b.global_avg_pool_backward(pooled, Grad::write(dz))?;
        let backward = batch_norm_apply::Backward {
            x: out,
            z,
            statistics,
            weight,
            dz,
            dx: Some(Grad::write(dx)),
            dweight: None,
            dbias: None,
            dshortcut: Some(Grad { tensor: dx, accumulate: true }),
            scratch: Some(scratch),
        };
        // The shortcut is the input itself here, so its gradient goes on top of dx: in a pass of its own.
        b.batch_norm_backward(&g, &batch_norm_apply::Backward { dshortcut: None, ..backward })?;
        b.batch_norm_backward(&g, &batch_norm_apply::Backward { dx: None, ..backward })?;
        let config = SgdConfig::plain(0.9, 5e-4);
        b.sgd(
            &config,
            &Sgd {
                master,
                compute: (b.precision() == Precision::Bf16).then_some(self.sgd[3]),
                grad,
                momentum: self.sgd[2],
                scalars,
            },
        )
    }

    /// Every byte that a step changes.
    fn state(&self) -> Vec<u8> {
        let tensors = self.work.iter().chain(&self.norm).chain(&self.sgd).chain([&self.log]);
        tensors.flat_map(|&t| bytes(&self.b, t)).collect()
    }
}

fn norm_geometry(b: &Launched, batch: usize) -> batch_norm_apply::Geometry {
    batch_norm_apply::Geometry {
        views: 2,
        batch: 2 * batch,
        height: SIZE,
        width: SIZE,
        channels: b.stem_channels(),
        shortcut: Shortcut::Identity,
        relu: true,
    }
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

#[test]
fn a_replayed_graph_gives_the_bits_of_plain_calls() -> Result<()> {
    for precision in PRECISIONS {
        let eager = Step::new(backend(precision));
        for _ in 0..3 {
            eager.run()?;
        }
        let captured = Step::new(backend(precision));
        let before = captured.state();
        let graph = captured.b.capture(&mut || captured.run())?.expect("a launched backend has graphs");
        assert!(before == captured.state(), "recording runs nothing");
        for _ in 0..3 {
            graph.replay()?;
        }
        assert!(eager.state() == captured.state(), "{precision}: replayed steps differ from plain ones");
        let log = bytes(&eager.b, eager.log);
        let losses: &[f32] = bytemuck::cast_slice(&log);
        assert!(losses[..12].iter().all(|loss| loss.is_finite()) && losses[3] != losses[7] && losses[12..] == [0.0; 4]);
    }
    Ok(())
}

#[test]
fn neither_repetition_nor_the_order_of_threads_changes_a_bit() -> Result<()> {
    for precision in PRECISIONS {
        let driver = emulator();
        driver.check_orders(4, &mut || {
            let step = Step::new(Launched::new(Box::new(driver.clone()), precision)?);
            step.run()?;
            Ok(step.state())
        })?;
    }
    Ok(())
}

#[test]
fn addresses_that_vectors_do_not_fit_give_the_same_results() {
    for precision in PRECISIONS {
        let b = backend(precision);
        let (n, element) = (1000, precision.compute().bytes());
        let values: Vec<f32> = (0..n).map(|i| (i % 64) as f32 / 8.0 - 4.0).collect();
        let stored: Vec<u8> = match precision {
            Precision::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_ne_bytes()).collect(),
            _ => bytemuck::cast_slice(&values).to_vec(),
        };
        let results: Vec<_> = [0, 1]
            .map(|shift| {
                let shifted = |offset: usize, shape: &[usize], dtype: DType| Tensor {
                    offset,
                    ..Tensor::at_start(
                        b.alloc(shape.iter().product::<usize>() * dtype.bytes() + 16, "shifted").unwrap(),
                        shape,
                        dtype,
                    )
                };
                let x = shifted(shift * element, &[5, 5, 5, 8], precision.compute());
                let y = shifted(shift * 4, &[5, 8], DType::F32);
                b.upload(x, &stored).unwrap();
                b.global_avg_pool_forward(x, y).unwrap();
                let [master, grad, momentum] = [0; 3].map(|_| shifted(shift * 4, &[n], DType::F32));
                b.upload(master, bytemuck::cast_slice(&values)).unwrap();
                b.upload(grad, bytemuck::cast_slice(&values)).unwrap();
                let scalars = tensor(&b, &[STEP_WORDS], DType::I32);
                b.upload(scalars, bytemuck::bytes_of(&StepParams { lr: 0.5, ..StepParams::default() })).unwrap();
                let config = SgdConfig::plain(0.5, 0.25);
                b.sgd(&config, &Sgd { master, compute: None, grad, momentum, scalars }).unwrap();
                (bytes(&b, y), bytes(&b, master), bytes(&b, momentum))
            })
            .into();
        assert!(results[0] == results[1], "{precision}");
    }
}
