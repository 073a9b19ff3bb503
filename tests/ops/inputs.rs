//! Where a step begins and evaluation ends: `load_step`, `augment_mix`, `mix_views`, `classify`.

use glmc_engine::ops::augment_mix::{Augmentation, Mixing, View, augment_mix, mix_views};
use glmc_engine::ops::classify::classify;
use glmc_engine::ops::load_step::{StepParams, StepVars, load_step, row_words};
use glmc_engine::rng::philox::{self, Purpose};
use glmc_engine::tensor::DType;

use crate::common::array::{Array, Random};
use crate::common::fixtures;
use crate::common::rig::{Arrays, Rig};
use crate::common::suite::{Case, Suite};

const AUGMENTATION: Augmentation = Augmentation {
    mean: [0.491_399_68, 0.482_158_27, 0.446_531_24],
    std: [0.247_032_33, 0.243_485_05, 0.261_587_68],
    padding: 4,
    flip: true,
};

/// The three colours of an image tensor; channels that only pad the stem's input must be zero.
pub fn colours(out: &Array) -> Array {
    let [n, h, w, channels] = out.four();
    let mut data = Vec::with_capacity(n * h * w * 3);
    for pixel in out.data.chunks_exact(channels) {
        data.extend_from_slice(&pixel[..3]);
        assert!(pixel[3..].iter().all(|&v| v == 0.0), "channels past the third");
    }
    Array::new(&[n, h, w, 3], data)
}

fn step_vars(rig: &mut Rig<'_>, i: &Arrays, step: &StepParams) -> glmc_engine::Result<StepVars> {
    let scalars = rig.step(step)?;
    Ok(StepVars {
        scalars,
        logged: scalars,
        originals: rig.constant(&i["originals"], DType::I32)?,
        partners: rig.constant(&i["partners"], DType::I32)?,
        // None of these ops reads them.
        shares: rig.constant(&Array::filled(&i["partners"].shape, f64::NAN), DType::F32)?,
    })
}

fn augment(name: &str, mixing: Mixing, augmentation: Augmentation, step: StepParams, inputs: [Array; 3]) -> Case {
    let [pixels, originals, partners] = inputs;
    let inputs = [("pixels", pixels), ("originals", originals), ("partners", partners)];
    Case::new("augment_mix", name, inputs, move |rig, i| {
        rig.train = false;
        let pixels = rig.constant(&i["pixels"], DType::U8)?;
        let vars = step_vars(rig, i, &step)?;
        let out = augment_mix(&mut rig.tape, rig.backend, pixels, vars, mixing, augmentation)?;
        rig.output_through("out", out, colours);
        Ok(())
    })
}

/// Pads with black, crops at (row, column) of the padded image, flips, normalises.
fn augment_one(pixels: &Array, image: usize, [row, column]: [usize; 2], flip: bool, a: &Augmentation) -> Vec<f64> {
    let [_, height, width, _] = pixels.four();
    let mut out = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let x = if flip { width - 1 - x } else { x };
            let inside = |i: usize, extent: usize| i.checked_sub(a.padding).filter(|&i| i < extent);
            let source = inside(y + row, height).zip(inside(x + column, width));
            for c in 0..3 {
                let byte = source.map_or(0.0, |(y, x)| pixels.data[((image * height + y) * width + x) * 3 + c]);
                out.push((byte / 255.0 - f64::from(a.mean[c])) / f64::from(a.std[c]));
            }
        }
    }
    out
}

/// What a view shows of originals and partners that are augmented for it.
fn show(view: View, own: &[f64], partner: &[f64], [h, w]: [usize; 2], step: &StepParams) -> Vec<f64> {
    let lambda = f64::from(step.lambda);
    let [top, bottom, left, right] = step.cut.map(|v| v as usize);
    let value = |(i, (&o, &r)): (usize, (&f64, &f64))| {
        let (y, x) = (i / 3 / w % h, i / 3 % w);
        match view {
            View::Plain => o,
            View::Mixup => lambda * o + (1.0 - lambda) * r,
            View::Cutmix if (top..bottom).contains(&y) && (left..right).contains(&x) => r,
            View::Cutmix => o,
            View::Partner => r,
        }
    };
    own.iter().zip(partner).enumerate().map(value).collect()
}

fn naive_augment(
    mixing: Mixing,
    a: &Augmentation,
    step: &StepParams,
    [pixels, originals, partners]: &[Array; 3],
) -> Array {
    let [_, h, w, _] = pixels.four();
    let batch = originals.data.len();
    let seed = u64::from(step.seed[0]) | u64::from(step.seed[1]) << 32;
    let augmented = |indices: &Array, stream: Option<u32>, mirrored: bool| -> Vec<f64> {
        let sample = |n: usize| {
            let image = indices.data[n] as usize;
            let Some(stream) = stream else { return augment_one(pixels, image, [a.padding; 2], mirrored, a) };
            let words = philox::draw(seed, step.epoch, step.step, Purpose::Augment as u32 + stream, n as u32);
            let crop = [0, 1].map(|k| philox::below(words[k], 2 * a.padding as u32 + 1) as usize);
            augment_one(pixels, image, crop, a.flip && words[2] % 2 == 1, a)
        };
        (0..batch).flat_map(sample).collect()
    };
    let views = match mixing {
        Mixing::Evaluate => return Array::new(&[batch, h, w, 3], augmented(originals, None, false)),
        Mixing::EvaluateFlip => {
            let both = [false, true].map(|mirrored| augmented(originals, None, mirrored));
            return Array::new(&[2 * batch, h, w, 3], both.concat());
        }
        Mixing::One(view) => vec![view],
        Mixing::Two(first, second) => vec![first, second],
    };
    let mut out = Vec::new();
    for (v, &view) in (0..).zip(&views) {
        let (own, partner) = (augmented(originals, Some(v), false), augmented(partners, Some(2 + v), false));
        out.extend(show(view, &own, &partner, [h, w], step));
    }
    Array::new(&[views.len() * batch, h, w, 3], out)
}

/// One view of each kind, and two of all kinds.
fn mixings() -> Vec<Mixing> {
    let kinds = [View::Plain, View::Mixup, View::Cutmix, View::Partner];
    let two = kinds.into_iter().flat_map(|first| kinds.map(|second| Mixing::Two(first, second)));
    kinds.map(Mixing::One).into_iter().chain(two).collect()
}

/// Black and white pixels, mean, deviation and lambda are such that every result is exact, in any type: all views, with the
/// mixing on and off.
fn exact_views(suite: &mut Suite) {
    let mut random = Random::new(16);
    let augmentation = Augmentation { mean: [0.5, 0.25, 0.75], std: [0.5, 0.25, 0.125], padding: 3, flip: true };
    let [images, batch, height, width] = [7, 5, 9, 11];
    let pixels = random.indices(&[images, height, width, 3], 2).map(|v| 255.0 * v);
    let inputs = [pixels, random.indices(&[batch], images), random.indices(&[batch], images)];
    let on = StepParams { seed: [3, 5], epoch: 1, step: 6, lambda: 0.75, cut: [2, 9, 1, 6], ..StepParams::default() };
    // Empty boxes of each kind: no rows, no columns.
    let offs =
        [StepParams { lambda: 1.0, cut: [4, 4, 1, 6], ..on }, StepParams { lambda: 1.0, cut: [2, 9, 6, 6], ..on }];
    assert_eq!(mixings().len(), 20);
    // Nothing is mixed in; a partner stays what it is.
    let off = |view| if view == View::Partner { view } else { View::Plain };
    for mixing in mixings() {
        let plain = match mixing {
            Mixing::Two(first, second) => Mixing::Two(off(first), off(second)),
            Mixing::One(view) => Mixing::One(off(view)),
            Mixing::Evaluate | Mixing::EvaluateFlip => mixing,
        };
        let wanted = naive_augment(mixing, &augmentation, &on, &inputs);
        let name = format!("{mixing}");
        suite.exact(augment(&name, mixing, augmentation, on, inputs.clone()), vec![("out", wanted)]);
        for (i, off) in offs.into_iter().enumerate() {
            let wanted = naive_augment(plain, &augmentation, &off, &inputs);
            let name = format!("{mixing}_off_{i}");
            suite.exact(augment(&name, mixing, augmentation, off, inputs.clone()), vec![("out", wanted)]);
        }

        // Given images: as many sets as the mixing takes, of small integers.
        let [n, h, w, views] = [3, 4, 5, mixing.views()];
        let values = n * h * w * 3;
        let given = random.integers(&[mixing.image_sets() * n, h, w, 3], 6);
        let sets: Vec<&[f64]> = given.data.chunks(values).collect();
        assert_eq!(sets.len(), if mixing == Mixing::One(View::Plain) { 1 } else { 2 * views });
        for step in [on, offs[0], offs[1]].map(|s| StepParams { cut: [1, 3.min(s.cut[1]), s.cut[2].min(4), 4], ..s }) {
            let kinds = match mixing {
                Mixing::Two(first, second) => vec![first, second],
                Mixing::One(view) => vec![view],
                Mixing::Evaluate | Mixing::EvaluateFlip => Vec::new(),
            };
            let partner = |v: usize| sets.get(views + v).unwrap_or(&sets[v]);
            let shown = kinds.iter().enumerate().flat_map(|(v, &kind)| show(kind, sets[v], partner(v), [h, w], &step));
            let wanted = Array::new(&[views * n, h, w, 3], shown.collect());
            let name = format!("{mixing}_{}_{:?}", step.lambda, step.cut);
            suite.exact(given_views(&name, mixing, given.clone(), step), vec![("out", wanted)]);
        }
    }
}

fn given_views(name: &str, mixing: Mixing, images: Array, step: StepParams) -> Case {
    Case::new("mix_views", name, [("images", images)], move |rig, i| {
        rig.train = false;
        let (images, step) = (rig.constant(&i["images"], rig.accumulate())?, rig.step(&step)?);
        let out = mix_views(&mut rig.tape, rig.backend, mixing, images, step)?;
        rig.output_through("out", out, colours);
        Ok(())
    })
}

fn augmentations(suite: &mut Suite) {
    let mut random = Random::new(6);
    let single = Mixing::One(View::Plain);
    for (mixing, name, padding, flip, [images, batch, height, width]) in [
        (Mixing::GLMC, "glmc", 4, true, [5, 6, 12, 12]),
        (Mixing::GLMC, "glmc_batch_1", 4, true, [1, 1, 5, 9]),
        (Mixing::GLMC, "glmc_plain", 0, false, [3, 4, 7, 6]),
        (Mixing::GLMC, "glmc_wide_border", 9, true, [3, 8, 4, 4]),
        (Mixing::GLMC, "glmc_32", 4, true, [40, 17, 32, 32]),
        (single, "single", 4, true, [4, 9, 8, 10]),
        (Mixing::Evaluate, "evaluate", 4, true, [6, 4, 9, 8]),
        (Mixing::EvaluateFlip, "evaluate_flip", 4, false, [6, 4, 9, 7]),
    ] {
        let pixels = random.indices(&[images, height, width, 3], 256);
        let inputs = [pixels, random.indices(&[batch], images), random.indices(&[batch], images)];
        let cut = [1, height as i32 - 1, 0, width as i32 / 2];
        let step = StepParams { seed: [7, 9], epoch: 3, step: 11, lambda: 0.3, cut, ..StepParams::default() };
        let augmentation = Augmentation { padding, flip, ..AUGMENTATION };
        let wanted = naive_augment(mixing, &augmentation, &step, &inputs);
        suite.close("naive", augment(name, mixing, augmentation, step, inputs), vec![("out", wanted)]);
    }
    for f in fixtures::of("augment_mix") {
        let (views, crops, flips) = (f.get("views"), f.get("crops"), f.get("flips"));
        let [_, n, h, w, _] = views.shape.as_slice().try_into().expect("rank 5");
        // The plain loops above must agree with PyTorch before they may judge the op.
        let mut own = Vec::new();
        for sample in 0..4 * n {
            let indices = if sample < 2 * n { f.get("original") } else { f.get("partner") };
            let crop = [0, 1].map(|k| crops.data[2 * sample + k] as usize);
            let image = indices.data[sample % n] as usize;
            own.extend(augment_one(&f.get("images"), image, crop, flips.data[sample] == 1.0, &AUGMENTATION));
        }
        let worst = own.iter().zip(&views.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-6, "{}: {worst}", f.name);

        let cut: Vec<i32> = f.get("box").data.iter().map(|&v| v as i32).collect();
        let cut = cut.try_into().expect("four numbers");
        let step = StepParams { lambda: f.number("lambda") as f32, cut, ..StepParams::default() };
        let wanted = Array::new(&[2 * n, h, w, 3], [f.get("mixup").data, f.get("cutmix").data].concat());
        let case = given_views(&f.name, Mixing::GLMC, views.reshaped(&[4 * n, h, w, 3]), step);
        suite.close("pytorch", case, vec![("out", wanted)]);
    }
}

fn steps(suite: &mut Suite) {
    let mut random = Random::new(7);
    for batch in [1, 3, 64] {
        let width = row_words(batch);
        let mut table = random.indices(&[4, width], 1 << 30);
        for row in table.data.chunks_exact_mut(width) {
            row[16 + 2 * batch..]
                .iter_mut()
                .for_each(|word| *word = f64::from((random.below(65) as f32 / 64.0).to_bits()));
        }
        let row = |r: usize, from: usize, count: usize| Array::vector(&table.data[r * width + from..][..count]);
        let mut wanted = vec![("cursor", Array::vector(&[3.0]))];
        for (r, [step, originals, partners, shares]) in
            [(1, ["step", "originals", "partners", "shares"]), (2, ["step2", "originals2", "partners2", "shares2"])]
        {
            wanted.push((step, row(r, 0, 16)));
            wanted.push((originals, row(r, 16, batch)));
            wanted.push((partners, row(r, 16 + batch, batch)));
            wanted.push((shares, row(r, 16 + 2 * batch, batch).map(|word| f64::from(f32::from_bits(word as u32)))));
        }
        let case = Case::new("load_step", format!("batch_{batch}"), [("table", table)], move |rig, i| {
            rig.train = false;
            let table = rig.constant(&i["table"], DType::I32)?;
            let cursor = rig.memory(&Array::vector(&[1.0]), DType::I32)?;
            rig.output_memory("cursor", cursor);
            let cursor = rig.tape.external(cursor);
            for suffix in ["", "2"] {
                let vars = load_step(&mut rig.tape, table, cursor, batch)?;
                let StepVars { scalars, originals, partners, shares, .. } = vars;
                let all = [("step", scalars), ("originals", originals), ("partners", partners), ("shares", shares)];
                for (name, var) in all {
                    rig.output(&format!("{name}{suffix}"), var);
                }
            }
            Ok(())
        });
        suite.exact(case, wanted);
    }
}

/// Classifies into rows 2.. of ranks, confidences and losses that start as -1. `logits` are of one head or two.
fn ranking(name: &str, (logits, scale): (&[Array], f32), labels: Array, originals: Array) -> Case {
    let rows = 2 + originals.data.len();
    let partners = originals.clone();
    let heads: Vec<&'static str> = ["logits", "second"][..logits.len()].to_vec();
    let mut inputs = vec![("labels", labels), ("originals", originals), ("partners", partners)];
    inputs.extend(heads.iter().copied().zip(logits.iter().cloned()));
    let step = StepParams { row: 2, ..StepParams::default() };
    Case::new("classify", name, inputs, move |rig, i| {
        rig.train = false;
        let labels = rig.constant(&i["labels"], DType::I32)?;
        let float = rig.accumulate();
        let logits = heads.iter().map(|head| rig.constant(&i[*head], float)).collect::<Result<Vec<_>, _>>()?;
        let vars = step_vars(rig, i, &step)?;
        let nothing = Array::filled(&[rows], -1.0);
        let results =
            [("ranks", DType::I32), ("confidences", DType::F32), ("losses", DType::F32)].map(|(name, dtype)| {
                let memory = rig.memory(&nothing, dtype)?;
                rig.output_memory(name, memory);
                Ok(rig.tape.external(memory))
            });
        let [ranks, confidences, losses] = results;
        classify(&mut rig.tape, rig.backend, (&logits, scale), labels, vars, [ranks?, confidences?, losses?])
    })
}

fn rankings(suite: &mut Suite) {
    let nan = f64::NAN;
    let logits = [
        [1.0, 3.0, 2.0], // true class 2: behind 1
        [2.0, 2.0, 2.0], // true class 1: behind the lower class
        [1.0, nan, 2.0], // true class 1 is NaN: last
        [nan, 5.0, 0.0], // true class 1: NaN is not ahead
    ];
    let logits = Array::new(&[4, 3], logits.concat());
    let (labels, originals) = (Array::vector(&[1.0, 2.0, 1.0, 1.0]), Array::vector(&[1.0, 0.0, 2.0, 3.0]));
    let ranks = Array::vector(&[-1.0, -1.0, 1.0, 1.0, 2.0, 0.0]);
    suite.exact(ranking("ties_and_nan", (&[logits], 30.0), labels, originals), vec![("ranks", ranks)]);

    let mut random = Random::new(8);
    for [images, batch, classes] in [[9, 5, 10], [3, 1, 1], [70, 64, 100], [5, 3, 1000]] {
        let logits = random.normal(&[batch, classes]).map(|v| 4.0 * v);
        let (labels, originals) = (random.indices(&[images], classes), random.indices(&[batch], images));
        // Logits as they are; and cosines, which a scale makes logits of.
        for (logits, scale) in [(logits.clone(), 1.0), (logits.map(|v| v / 32.0), 16.0)] {
            let name = format!("{batch}x{classes}_{scale}");
            let case = || ranking(&name, (std::slice::from_ref(&logits), scale), labels.clone(), originals.clone());
            suite.oracle(case());
            let wanted = softmax(&logits.data, scale, [batch, classes], &labels, &originals);
            suite.close("naive", case(), wanted);
        }
    }
    // Two views of each of two heads, whose mean is known in binary.
    for [images, batch, classes] in [[9, 5, 10], [40, 33, 70]] {
        let whole = |random: &mut Random| random.normal(&[2 * batch, classes]).map(|v| (16.0 * v).round() / 8.0);
        let heads = [whole(&mut random), whole(&mut random)];
        let (labels, originals) = (random.indices(&[images], classes), random.indices(&[batch], images));
        for (name, heads) in [("views", &heads[..1]), ("views_of_heads", &heads)] {
            let all: Vec<&[f64]> = heads.iter().flat_map(|head| head.data.chunks_exact(batch * classes)).collect();
            let mean = |at: usize| all.iter().map(|view| view[at]).sum::<f64>() / all.len() as f64;
            let mean: Vec<f64> = (0..batch * classes).map(mean).collect();
            let case = || ranking(&format!("{name}_{batch}"), (heads, 1.0), labels.clone(), originals.clone());
            suite.oracle(case());
            suite.close("naive", case(), softmax(&mean, 1.0, [batch, classes], &labels, &originals));
        }
    }
}

/// What is to be found of logits (batch, classes).
fn softmax(
    logits: &[f64],
    scale: f32,
    [batch, classes]: [usize; 2],
    labels: &Array,
    originals: &Array,
) -> Vec<(&'static str, Array)> {
    let [mut ranks, mut confidences, mut losses] = [(); 3].map(|()| Array::filled(&[2 + batch], -1.0));
    for (n, row) in logits.chunks_exact(classes).enumerate() {
        let truth = labels.data[originals.data[n] as usize] as usize;
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum = row.iter().map(|v| (f64::from(scale) * (v - most)).exp()).sum::<f64>();
        ranks.data[2 + n] =
            row.iter().enumerate().filter(|&(c, &v)| v > row[truth] || (v == row[truth] && c < truth)).count() as f64;
        confidences.data[2 + n] = 1.0 / sum;
        losses.data[2 + n] = sum.ln() + f64::from(scale) * (most - row[truth]);
    }
    vec![("ranks", ranks), ("confidences", confidences), ("losses", losses)]
}

pub fn add(suite: &mut Suite) {
    augmentations(suite);
    exact_views(suite);
    steps(suite);
    rankings(suite);
}
