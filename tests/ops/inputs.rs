//! Where a step begins and evaluation ends: `load_step`, `augment_mix`, `mix_views`, `soft_labels`, `classify`.

use glmc_engine::ops::augment_mix::{Augmentation, Mixing, augment_mix, mix_views};
use glmc_engine::ops::classify::classify;
use glmc_engine::ops::load_step::{StepParams, StepVars, load_step};
use glmc_engine::ops::soft_labels::soft_labels;
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
fn colours(out: &Array) -> Array {
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

/// MixUp's batch, then CutMix's.
fn mix(views: [&[f64]; 4], [n, h, w]: [usize; 3], step: &StepParams) -> Array {
    let lambda = f64::from(step.lambda);
    let [top, bottom, left, right] = step.cut.map(|v| v as usize);
    let [o1, o2, r1, r2] = views;
    let mut out: Vec<f64> = o1.iter().zip(r1).map(|(o, r)| lambda * o + (1.0 - lambda) * r).collect();
    for i in 0..n * h * w * 3 {
        let (y, x) = (i / 3 / w % h, i / 3 % w);
        let inside = (top..bottom).contains(&y) && (left..right).contains(&x);
        out.push(if inside { r2[i] } else { o2[i] });
    }
    Array::new(&[2 * n, h, w, 3], out)
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
    let view = |indices: &Array, view: Option<u32>| -> Vec<f64> {
        let sample = |n: usize| {
            let image = indices.data[n] as usize;
            let Some(view) = view else { return augment_one(pixels, image, [a.padding; 2], false, a) };
            let words = philox::draw(seed, step.epoch, step.step, Purpose::Augment as u32 + view, n as u32);
            let crop = [0, 1].map(|k| philox::below(words[k], 2 * a.padding as u32 + 1) as usize);
            augment_one(pixels, image, crop, a.flip && words[2] % 2 == 1, a)
        };
        (0..batch).flat_map(sample).collect()
    };
    match mixing {
        Mixing::Evaluate => Array::new(&[batch, h, w, 3], view(originals, None)),
        Mixing::Single => Array::new(&[batch, h, w, 3], view(originals, Some(0))),
        Mixing::Glmc => {
            let views = [(originals, 0), (originals, 1), (partners, 2), (partners, 3)].map(|(i, v)| view(i, Some(v)));
            mix([&views[0], &views[1], &views[2], &views[3]], [batch, h, w], step)
        }
    }
}

fn augmentations(suite: &mut Suite) {
    let mut random = Random::new(6);
    for (mixing, name, padding, flip, [images, batch, height, width]) in [
        (Mixing::Glmc, "glmc", 4, true, [5, 6, 12, 12]),
        (Mixing::Glmc, "glmc_batch_1", 4, true, [1, 1, 5, 9]),
        (Mixing::Glmc, "glmc_plain", 0, false, [3, 4, 7, 6]),
        (Mixing::Glmc, "glmc_wide_border", 9, true, [3, 8, 4, 4]),
        (Mixing::Glmc, "glmc_32", 4, true, [40, 17, 32, 32]),
        (Mixing::Single, "single", 4, true, [4, 9, 8, 10]),
        (Mixing::Evaluate, "evaluate", 4, true, [6, 4, 9, 8]),
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
        let case = Case::new("mix_views", &f.name, [("views", views.reshaped(&[4 * n, h, w, 3]))], move |rig, i| {
            rig.train = false;
            let (views, step) = (rig.constant(&i["views"], rig.accumulate())?, rig.step(&step)?);
            let out = mix_views(&mut rig.tape, rig.backend, views, step)?;
            rig.output_through("out", out, colours);
            Ok(())
        });
        suite.close("pytorch", case, vec![("out", wanted)]);
    }
}

fn labels_case(name: &str, label_lambda: f32, labels: Array, pairs: [Array; 2], weights: Array) -> Case {
    let [originals, partners] = pairs;
    let inputs = [("labels", labels), ("originals", originals), ("partners", partners), ("weights", weights)];
    let step = StepParams { lambda: f32::NAN, label_lambda, ..StepParams::default() };
    Case::new("soft_labels", name, inputs, move |rig, i| {
        rig.train = false;
        let labels = rig.constant(&i["labels"], DType::I32)?;
        let weights = rig.constant(&i["weights"], rig.accumulate())?;
        let vars = step_vars(rig, i, &step)?;
        let (label, weighted) = soft_labels(&mut rig.tape, rig.backend, labels, vars, weights)?;
        rig.output("label", label);
        rig.output("label_weighted", weighted);
        Ok(())
    })
}

fn labels(suite: &mut Suite) {
    // Sample 1 meets its own class: its shares add up.
    let [label_of, originals, partners] =
        [[2.0, 0.0, 1.0], [1.0, 0.0, 2.0], [2.0, 0.0, 0.0]].map(|v| Array::vector(&v));
    let label = vec![0.75, 0.25, 0.0, 0.0, 0.0, 1.0, 0.0, 0.75, 0.25];
    let weighted = vec![6.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 1.5, 0.125];
    let weights = Array::vector(&[8.0, 2.0, 0.5]);
    let wanted = [("label", label), ("label_weighted", weighted)].map(|(n, v)| (n, Array::new(&[3, 3], v)));
    suite.exact(labels_case("three", 0.75, label_of, [originals, partners], weights), wanted.to_vec());
    for f in fixtures::of("soft_label_cross_entropy") {
        // PyTorch's labels come from classes; here image n is of the class that is mixed.
        let (first, second) = (f.get("first"), f.get("second"));
        let n = first.data.len();
        let of = Array::vector(&[first.data, second.data].concat());
        let [originals, partners] =
            [0, n].map(|start| Array::vector(&(0..n).map(|i| (start + i) as f64).collect::<Vec<_>>()));
        let counts: Vec<f64> =
            f.attributes["counts"].as_array().expect("counts").iter().map(|v| v.as_f64().expect("a count")).collect();
        let inverse: Vec<f64> = counts.iter().map(|n| n.powf(-f.number("k"))).collect();
        let sum: f64 = inverse.iter().sum();
        let weights: Vec<f64> = inverse.iter().map(|w| counts.len() as f64 * w / sum).collect();
        let case = labels_case(&f.name, f.number("lambda") as f32, of, [originals, partners], Array::vector(&weights));
        let wanted = ["label", "label_weighted"].map(|name| (name, f.get(name)));
        suite.close("pytorch", case, wanted.to_vec());
    }
}

fn steps(suite: &mut Suite) {
    let mut random = Random::new(7);
    for batch in [1, 3, 64] {
        let width = 16 + 2 * batch;
        let table = random.indices(&[4, width], 1 << 30);
        let row = |r: usize, from: usize, count: usize| Array::vector(&table.data[r * width + from..][..count]);
        let mut wanted = vec![("cursor", Array::vector(&[3.0]))];
        for (r, [step, originals, partners]) in
            [(1, ["step", "originals", "partners"]), (2, ["step2", "originals2", "partners2"])]
        {
            wanted.push((step, row(r, 0, 16)));
            wanted.push((originals, row(r, 16, batch)));
            wanted.push((partners, row(r, 16 + batch, batch)));
        }
        let case = Case::new("load_step", format!("batch_{batch}"), [("table", table)], move |rig, i| {
            rig.train = false;
            let table = rig.constant(&i["table"], DType::I32)?;
            let cursor = rig.memory(&Array::vector(&[1.0]), DType::I32)?;
            rig.output_memory("cursor", cursor);
            let cursor = rig.tape.external(cursor);
            for suffix in ["", "2"] {
                let vars = load_step(&mut rig.tape, table, cursor, batch)?;
                for (name, var) in [("step", vars.scalars), ("originals", vars.originals), ("partners", vars.partners)]
                {
                    rig.output(&format!("{name}{suffix}"), var);
                }
            }
            Ok(())
        });
        suite.exact(case, wanted);
    }
}

/// Classifies into rows 2.. of ranks and confidences that start as -1.
fn ranking(name: &str, logits: Array, labels: Array, originals: Array) -> Case {
    let rows = 2 + originals.data.len();
    let partners = originals.clone();
    let inputs = [("logits", logits), ("labels", labels), ("originals", originals), ("partners", partners)];
    let step = StepParams { row: 2, ..StepParams::default() };
    Case::new("classify", name, inputs, move |rig, i| {
        rig.train = false;
        let labels = rig.constant(&i["labels"], DType::I32)?;
        let logits = rig.constant(&i["logits"], rig.accumulate())?;
        let vars = step_vars(rig, i, &step)?;
        let nothing = Array::filled(&[rows], -1.0);
        let (ranks, confidences) = (rig.memory(&nothing, DType::I32)?, rig.memory(&nothing, DType::F32)?);
        rig.output_memory("ranks", ranks);
        rig.output_memory("confidences", confidences);
        let results = (rig.tape.external(ranks), rig.tape.external(confidences));
        classify(&mut rig.tape, rig.backend, logits, labels, vars, results)
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
    suite.exact(ranking("ties_and_nan", logits, labels, originals), vec![("ranks", ranks)]);

    let mut random = Random::new(8);
    for [images, batch, classes] in [[9, 5, 10], [3, 1, 1], [70, 64, 100], [5, 3, 1000]] {
        let logits = random.normal(&[batch, classes]).map(|v| 4.0 * v);
        let (labels, originals) = (random.indices(&[images], classes), random.indices(&[batch], images));
        suite.oracle(ranking(&format!("{batch}x{classes}"), logits.clone(), labels.clone(), originals.clone()));
        let mut confidences = Array::filled(&[2 + batch], -1.0);
        for (n, row) in logits.data.chunks_exact(classes).enumerate() {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            confidences.data[2 + n] = 1.0 / row.iter().map(|v| (v - most).exp()).sum::<f64>();
        }
        let case = ranking(&format!("{batch}x{classes}"), logits, labels, originals);
        suite.close("naive", case, vec![("confidences", confidences)]);
    }
}

pub fn add(suite: &mut Suite) {
    augmentations(suite);
    labels(suite);
    steps(suite);
    rankings(suite);
}
