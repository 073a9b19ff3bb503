//! `augment_photos`: each transform against torchvision's, all of them on every device, and what the CPU refuses.

use glmc_engine::backend;
use glmc_engine::ops::augment_mix::{Mixing, View};
use glmc_engine::ops::augment_photos::{DRAW_WORDS, PhotoConfig, PhotoDraw, Photos, augment_photos};
use glmc_engine::ops::load_step::{StepParams, StepVars};
use glmc_engine::tensor::{DType, Precision};

use crate::common::array::{Array, Random};
use crate::common::devices::{self, ORACLE};
use crate::common::fixtures;
use crate::common::suite::{Case, Suite};
use crate::inputs::colours;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Transforms that have a limit of their own in `tests/common/tolerance.rs`, by which the output is named.
const TRANSFORMS: [&str; 11] =
    ["resize", "centre", "brightness", "contrast", "saturation", "hue", "grey", "flip", "normalise", "blur", "jitter"];

/// The words, as numbers that keep their bits.
fn words(draw: &PhotoDraw) -> Vec<f64> {
    bytemuck::cast_slice::<_, i32>(std::slice::from_ref(draw)).iter().map(|&word| f64::from(word)).collect()
}

/// Photographs one after another, and where each begins.
fn album(random: &mut Random, sizes: &[[usize; 2]]) -> (Array, Array) {
    let (mut bytes, mut index) = (Vec::new(), Vec::new());
    for &[height, width] in sizes {
        index.extend([bytes.len() as f64, 0.0, height as f64, width as f64]);
        bytes.extend((0..height * width * 3).map(|_| random.below(256) as f64));
    }
    (Array::vector(&bytes), Array::new(&[sizes.len(), 4], index))
}

/// What a case is made from.
#[derive(Clone)]
struct Inputs {
    pixels: Array,
    index: Array,
    draws: Array,
    originals: Array,
    partners: Array,
}

fn case(
    name: &str,
    output: &'static str,
    mixing: Mixing,
    config: PhotoConfig,
    step: StepParams,
    inputs: Inputs,
) -> Case {
    let Inputs { pixels, index, draws, originals, partners } = inputs;
    let inputs =
        [("pixels", pixels), ("index", index), ("draws", draws), ("originals", originals), ("partners", partners)];
    Case::new("augment_photos", name, inputs, move |rig, i| {
        rig.train = false;
        let scalars = rig.step(&step)?;
        let vars = StepVars {
            scalars,
            logged: scalars,
            originals: rig.constant(&i["originals"], DType::I32)?,
            partners: rig.constant(&i["partners"], DType::I32)?,
            shares: rig.constant(&Array::filled(&i["partners"].shape, f64::NAN), DType::F32)?,
        };
        let photos = Photos {
            pixels: rig.constant(&i["pixels"], DType::U8)?,
            index: rig.constant(&i["index"], DType::I32)?,
            draws: rig.constant(&i["draws"], DType::I32)?,
        };
        let out = augment_photos(&mut rig.tape, rig.backend, photos, vars, mixing, config)?;
        rig.output_through(output, out, colours);
        Ok(())
    })
}

fn torchvision(suite: &mut Suite) {
    for f in fixtures::of("augment_photos") {
        let (transform, _) = f.name.split_once('-').expect("a transform, and which case of it");
        let output = TRANSFORMS.into_iter().find(|name| *name == transform).unwrap_or("all");
        let (image, size) = (f.get("image"), f.integer("size"));
        let three = |name: &str| [0, 1, 2].map(|c| f.attributes[name][c].as_f64().expect("a number") as f32);
        let inputs = Inputs {
            pixels: Array::vector(&image.data),
            index: Array::new(&[1, 4], vec![0.0, 0.0, image.shape[0] as f64, image.shape[1] as f64]),
            draws: f.get("draw").reshaped(&[1, DRAW_WORDS]),
            originals: Array::vector(&[0.0]),
            partners: Array::vector(&[0.0]),
        };
        let config = PhotoConfig { size, stride: 1, mean: three("mean"), std: three("std") };
        let (mixing, step) = (Mixing::One(View::Plain), StepParams::default());
        let case = case(&f.name, output, mixing, config, step, inputs);
        suite.close("torchvision", case, vec![(output, f.get("out").reshaped(&[1, size, size, 3]))]);
    }
}

/// A draw of anything that training or evaluation draws, and more.
fn draw(random: &mut Random, [height, width]: [usize; 2], size: usize) -> PhotoDraw {
    let mut unit = || random.between(0, 1 << 16) as f32 / 65536.0;
    let mut side = |extent: usize| {
        let length = 1 + (unit() * (extent - 1) as f32) as u32;
        ((unit() * (extent as u32 - length) as f32) as u32, length)
    };
    let ((top, rows), (left, columns)) = (side(height), side(width));
    let mut draw = PhotoDraw::of_box([top, left, rows, columns], size);
    [draw.brightness, draw.contrast, draw.saturation] = [0; 3].map(|_| 0.5 + unit());
    draw.hue = 0.5 - unit();
    draw.sigma = 2.0 * unit();
    draw.flags = random.below(4) as u32;
    let mut order = [0, 1, 2, 3];
    (1..4).for_each(|place| order.swap(place, random.below(place + 1)));
    draw.order = order.iter().enumerate().map(|(place, step)| step << (2 * place)).sum();
    // Each is left out at times.
    for part in 0..5 {
        if random.below(4) == 0 {
            match part {
                0 => draw.brightness = 1.0,
                1 => draw.contrast = 1.0,
                2 => draw.saturation = 1.0,
                3 => draw.hue = 0.0,
                _ => draw.sigma = 0.0,
            }
        }
    }
    draw
}

/// Draws of two steps, of which the second is taken.
fn album_case(name: &str, mixing: Mixing, batch: usize, size: usize, sizes: &[[usize; 2]], seed: u64) -> Case {
    let mut random = Random::new(seed);
    let (pixels, index) = album(&mut random, sizes);
    let [originals, partners] = [0; 2].map(|_| random.indices(&[batch], sizes.len()));
    // A last batch that is smaller than the others.
    let stride = mixing.image_sets() * (batch + 1);
    let mut draws = vec![0.0; 2 * stride * DRAW_WORDS];
    for set in 0..mixing.image_sets() {
        for n in 0..batch {
            let images = if set < mixing.views() { &originals } else { &partners };
            let drawn = draw(&mut random, sizes[images.data[n] as usize], size);
            draws[(stride + set * batch + n) * DRAW_WORDS..][..DRAW_WORDS].copy_from_slice(&words(&drawn));
        }
    }
    let side = size as i32;
    let cut = [0, side / 2 + 1, side / 3, side];
    let step = StepParams { step: 1, lambda: 0.3, cut, ..StepParams::default() };
    let draws = Array::new(&[2 * stride, DRAW_WORDS], draws);
    let config = PhotoConfig { size, stride, mean: MEAN, std: STD };
    case(name, "out", mixing, config, step, Inputs { pixels, index, draws, originals, partners })
}

fn oracle(suite: &mut Suite) {
    let sizes = [[23, 31], [9, 50], [40, 8], [1, 1], [16, 16]];
    for (name, mixing, batch, size) in [
        ("glmc", Mixing::GLMC, 5, 12),
        ("glmc_large", Mixing::GLMC, 2, 33),
        ("one_pixel", Mixing::GLMC, 3, 1),
        ("plain", Mixing::One(View::Plain), 7, 10),
        ("partner", Mixing::One(View::Partner), 4, 9),
        ("mixup", Mixing::One(View::Mixup), 4, 7),
        ("plain_partner", Mixing::Two(View::Plain, View::Partner), 3, 8),
        ("plain_cutmix", Mixing::Two(View::Plain, View::Cutmix), 3, 8),
        ("evaluate", Mixing::Evaluate, 6, 11),
        ("evaluate_flip", Mixing::EvaluateFlip, 6, 11),
    ] {
        suite.oracle(album_case(name, mixing, batch, size, &sizes, batch as u64 * 31 + size as u64));
    }
}

/// Evaluation with mirror images: what the second set's draws mirror is the first set's output, mirrored.
fn mirrored(suite: &mut Suite) {
    let (mut random, size, sizes) = (Random::new(5), 6, [[14, 9], [7, 20]]);
    let (pixels, index) = album(&mut random, &sizes);
    // White, so that the result is exact: a resize of equal values, to rounding.
    let pixels = pixels.map(|_| 255.0);
    let drawn = |flags, [h, w]: [usize; 2]| PhotoDraw { flags, ..PhotoDraw::of_box([0, 0, h as u32, w as u32], size) };
    let draws: Vec<f64> = [0, PhotoDraw::FLIP]
        .iter()
        .flat_map(|&flags| sizes.iter().flat_map(move |&s| words(&drawn(flags, s))))
        .collect();
    let inputs = Inputs {
        pixels,
        index,
        draws: Array::new(&[4, DRAW_WORDS], draws),
        originals: Array::vector(&[0.0, 1.0]),
        partners: Array::vector(&[0.0, 1.0]),
    };
    let config = PhotoConfig { size, stride: 4, mean: [0.5; 3], std: [0.5; 3] };
    let case = case("white", "flip", Mixing::EvaluateFlip, config, StepParams::default(), inputs);
    suite.close("mirrored", case, vec![("flip", Array::filled(&[4, size, size, 3], 1.0))]);
}

/// What the host must not draw, the CPU names; of a box that is not in its image the emulator does, where a GPU takes what
/// there is.
fn refusals(suite: &mut Suite) {
    let good = PhotoDraw::of_box([1, 2, 3, 4], 5);
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    for (name, draw, image, says) in [
        ("box_below", PhotoDraw { top: 6, ..good }, 0.0, "a box of 3x4 at row 6, column 2 of an image of 8x9"),
        ("box_right", PhotoDraw { left: 7, ..good }, 0.0, "a box of 3x4 at row 1, column 7 of an image of 8x9"),
        ("box_wraps", PhotoDraw { top: u32::MAX, ..good }, 0.0, "a box of 3x4 at row 4294967295"),
        ("no_rows", PhotoDraw { height: 0, ..good }, 0.0, "a box of 0x4"),
        ("no_columns", PhotoDraw { width: 0, ..good }, 0.0, "a box of 3x0"),
        ("scale_zero", PhotoDraw { scale: [0.0, 1.0], ..good }, 0.0, "a scale of [0.0, 1.0]"),
        ("scale_infinite", PhotoDraw { scale: [1.0, infinite], ..good }, 0.0, "a scale of [1.0, inf]"),
        ("sigma_nan", PhotoDraw { sigma: nan, ..good }, 0.0, "a blur of NaN"),
        ("order", PhotoDraw { order: 0b11_01_01_00, ..good }, 0.0, "the order 0xd4"),
        ("image", good, 3.0, "image 3 is not in 0..2"),
        ("image_behind_the_end", good, 1.0, "image 1 of 8x9 at byte 1 ends behind byte 216"),
    ] {
        let inputs = Inputs {
            pixels: Array::vector(&[7.0; 8 * 9 * 3]),
            index: Array::new(&[2, 4], vec![0.0, 0.0, 8.0, 9.0, 1.0, 0.0, 8.0, 9.0]),
            draws: Array::new(&[1, DRAW_WORDS], words(&draw)),
            originals: Array::vector(&[image]),
            partners: Array::vector(&[0.0]),
        };
        let config = PhotoConfig { size: 5, stride: 1, mean: MEAN, std: STD };
        let case = case(name, "out", Mixing::Evaluate, config, StepParams::default(), inputs);
        let (of_box, on_emulator) = (says.starts_with("a box"), case.clone());
        if of_box {
            suite.check(format!("augment_photos::refusal::{name} on the emulator"), move || {
                // Of its own: after a failure a device is of no use.
                let emulator = backend::open("emulator:checked", Precision::F32, 1).map_err(|e| e.to_string())?;
                match on_emulator.run(emulator.as_ref()) {
                    Err(error) if error.to_string().contains("__trap at ") => Ok(()),
                    Err(error) => Err(format!("\"{error}\" tells of no __trap")),
                    Ok(_) => Err("it was not refused".into()),
                }
            });
        }
        suite.check(format!("augment_photos::refusal::{name} on {}", ORACLE.label()), move || {
            match case.run(&*devices::open(&ORACLE)) {
                Err(error) if error.to_string().contains(says) => Ok(()),
                Err(error) => Err(format!("\"{error}\" does not say \"{says}\"")),
                Ok(_) => Err("it was not refused".into()),
            }
        });
    }
}

pub fn add(suite: &mut Suite) {
    torchvision(suite);
    oracle(suite);
    mirrored(suite);
    refusals(suite);
}
