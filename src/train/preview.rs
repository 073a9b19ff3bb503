//! The views of an epoch's first steps, made by the ops of the training step from the rows of its plan, on the host as bytes:
//! what the network sees.

use super::engine::{Data, plan_config};
use super::feed::Feed;
use super::photo_feed::Shown;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::memory::read_floats;
use crate::method::plan::part_sizes;
use crate::method::{EpochPlan, Members};
use crate::ops::Backend;
use crate::ops::augment_mix::Augmentation;
use crate::ops::load_step::{load_step, row_words};
use crate::tape::Tape;
use crate::tensor::DType;

/// One sample of a step.
#[derive(Clone, Debug)]
pub struct Sample {
    /// 0-based step of the epoch.
    pub step: usize,
    /// The step's lambda; `None` where it mixes nothing.
    pub lambda: Option<f32>,
    /// Classes of the original and, where the step mixes, of its partner, with their shares of the label.
    pub labels: Vec<(i32, f32)>,
    /// Each view's bytes, (height, width, 3): normalisation undone, clamped and rounded.
    pub views: Vec<Vec<u8>>,
}

/// Samples of an epoch.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Rows and columns of a view.
    pub size: [usize; 2],
    /// As many as were asked for, if the epoch has them.
    pub samples: Vec<Sample>,
}

/// The first `count` samples of 0-based epoch `epoch`. Of the data, only their steps' images are read.
///
/// # Errors
/// When the epoch is none of the run's, or images cannot be read or are damaged, or the device fails.
pub fn preview(backend: &dyn Backend, config: &Config, data: &Data<'_>, epoch: usize, count: usize) -> Result<Preview> {
    if epoch >= config.epochs {
        return Err(Error::Config(format!("epoch {} of a run of {}: see --epochs", epoch + 1, config.epochs)));
    }
    let plan_config = plan_config(config, data)?;
    let mixing = plan_config.recipe.views()?;
    let shown = data.framing.map(|framing| Shown { framing, mixing, accumulate: config.accumulate });
    let members = Members::new(data.train.labels, data.counts.len())?;
    let plan = EpochPlan::draw(&plan_config, epoch, data.train.labels, &members)?;
    let feed = Feed::new(backend, data.train, config.batch, 0, shown)?;
    let mut preview = Preview { size: [plan_config.height, plan_config.width], samples: Vec::new() };
    for step in 0..plan.steps() {
        let left = count - preview.samples.len();
        if left == 0 {
            break;
        }
        feed.stage(backend, &plan, step)?;
        let samples = plan.indices(step).0.len();
        let mut sizes: Vec<usize> = part_sizes(samples, plan.part()).collect();
        sizes.dedup();
        let mut of_step = Vec::new();
        for size in sizes {
            let parts = plan.parts(step..step + 1, size).count();
            let (table, cursor) = (
                backend.tensor(&[parts, row_words(size)], DType::I32, "step table")?,
                backend.tensor(&[1], DType::I32, "step cursor")?,
            );
            backend.upload(table, bytemuck::cast_slice(&feed.table(&plan, step..step + 1, size)))?;
            let mut tape = Tape::new();
            let [rows, at] = [table, cursor].map(|tensor| tape.external(tensor));
            let vars = load_step(&mut tape, rows, at, size)?;
            let images = feed.record(&mut tape, backend, vars, mixing, data.augmentation)?;
            tape.keep(images);
            let program = tape.plan(backend, false)?;
            for part in plan.parts(step..step + 1, size) {
                program.forward(backend)?;
                let seen = program.value(images);
                let values = read_floats(backend, seen)?;
                let channels = seen.shape.dims()[3];
                let bytes = restored(&values, channels, &data.augmentation);
                let view_bytes = preview.size[0] * preview.size[1] * 3;
                for n in 0..size {
                    let views = bytes.chunks_exact(view_bytes).skip(n).step_by(size).map(<[u8]>::to_vec);
                    of_step.push(sample(&plan, step, part.first + n, data.train.labels, views.collect()));
                }
            }
            program.release(backend);
            [table, cursor].iter().for_each(|tensor| backend.free(tensor.buffer));
        }
        preview.samples.extend(of_step.into_iter().take(left));
    }
    feed.release(backend);
    Ok(preview)
}

fn sample(plan: &EpochPlan, step: usize, n: usize, classes: &[i32], views: Vec<Vec<u8>>) -> Sample {
    let (originals, partners) = plan.indices(step);
    let [original, partner] = [originals, partners].map(|images| classes[images[n] as usize]);
    // A step that mixes nothing has no partners of its own.
    let mixes = partners != originals;
    let share = plan.shares(step)[n];
    let labels = if mixes { vec![(original, share), (partner, 1.0 - share)] } else { vec![(original, 1.0)] };
    Sample { step, lambda: mixes.then(|| plan.params(step).lambda), labels, views }
}

/// Normalised values of pixels of so many channels as bytes of three.
fn restored(values: &[f64], channels: usize, augmentation: &Augmentation) -> Vec<u8> {
    let Augmentation { mean, std, .. } = augmentation;
    let byte = |c: usize, value: f64| (255.0 * (value * f64::from(std[c]) + f64::from(mean[c]))).round() as u8;
    values.chunks_exact(channels).flat_map(|pixel| [0, 1, 2].map(|c| byte(c, pixel[c]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend;
    use crate::config::{PlacementSettings, Settings};
    use crate::train::feed::Images;

    const SIDE: usize = 16;
    const PADDING: usize = 2;

    fn pixels(images: usize) -> Vec<u8> {
        (0..images * SIDE * SIDE * 3).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 17) as u8).collect()
    }

    /// Every crop of an image with a black border, as it is and mirrored.
    fn crops(image: &[u8]) -> Vec<Vec<u8>> {
        let places = 2 * PADDING + 1;
        (0..places * places * 2)
            .map(|at| {
                let (row, column, flip) = (at / 2 / places, at / 2 % places, at % 2 == 1);
                let value = |i: usize| {
                    let (y, x, c) = (i / 3 / SIDE, i / 3 % SIDE, i % 3);
                    let x = if flip { SIDE - 1 - x } else { x };
                    let inside = |i: usize| i.checked_sub(PADDING).filter(|&i| i < SIDE);
                    inside(y + row).zip(inside(x + column)).map_or(0, |(y, x)| image[(y * SIDE + x) * 3 + c])
                };
                (0..SIDE * SIDE * 3).map(value).collect()
            })
            .collect()
    }

    fn previewed(method: &str, accumulate: usize, count: usize) -> (Preview, EpochPlan, Vec<u8>) {
        let labels: Vec<i32> = (0..21).map(|i| i32::from(i >= 16)).collect();
        let settings = Settings {
            placement: PlacementSettings::on("x.lt"),
            method: Some(crate::method::method(method).unwrap()),
            batch: Some(8),
            accumulate: Some(accumulate),
            seed: Some(3),
            ..Settings::default()
        };
        let config = Config::resolve(settings).unwrap();
        let pixels = pixels(labels.len());
        let train = Images { pixels: &pixels, labels: &labels, height: SIDE, width: SIDE, index: None };
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let augmentation = Augmentation { mean, std, padding: PADDING, flip: true };
        let data = Data { counts: &[16, 5], train, test: None, val: None, augmentation, framing: None };
        let backend = backend::open("cpu", crate::tensor::Precision::F32, 1).unwrap();
        let preview = preview(backend.as_ref(), &config, &data, 4, count).unwrap();
        assert_eq!(backend.allocated().0, 0, "all memory is given back");
        let members = Members::new(&labels, 2).unwrap();
        let plan = EpochPlan::draw(&plan_config(&config, &data).unwrap(), 4, &labels, &members).unwrap();
        let late = super::preview(backend.as_ref(), &config, &data, config.epochs, 1).unwrap_err().to_string();
        assert!(late.contains("epoch 201 of a run of 200"), "{late}");
        (preview, plan, pixels)
    }

    fn image(pixels: &[u8], index: u32) -> &[u8] {
        &pixels[index as usize * SIDE * SIDE * 3..][..SIDE * SIDE * 3]
    }

    #[test]
    fn a_plain_view_is_a_crop_of_the_plan_s_image() {
        for accumulate in [1, 2] {
            let (preview, plan, pixels) = previewed("ce", accumulate, 100);
            // The last step is smaller; no more samples than images.
            assert_eq!((preview.size, preview.samples.len()), ([SIDE, SIDE], 21));
            for (at, sample) in preview.samples.iter().enumerate() {
                let original = plan.indices(at / 8).0[at % 8];
                assert_eq!((sample.step, sample.lambda, sample.views.len()), (at / 8, None, 1));
                assert_eq!(sample.labels, [(i32::from(original >= 16), 1.0)]);
                assert!(crops(image(&pixels, original)).contains(&sample.views[0]), "sample {at}");
            }
        }
    }

    #[test]
    fn both_mixtures_are_those_of_the_plan() {
        let (preview, plan, pixels) = previewed("glmc", 1, 11);
        assert_eq!(preview.samples.len(), 11);
        for (at, sample) in preview.samples.iter().enumerate() {
            let ((originals, partners), params) = (plan.indices(at / 8), plan.params(at / 8));
            let [original, partner] = [originals, partners].map(|images| images[at % 8]);
            let lambda = params.lambda;
            assert_eq!(sample.lambda, Some(lambda));
            let classes = [original, partner].map(|image| i32::from(image >= 16));
            assert_eq!(sample.labels, [(classes[0], lambda), (classes[1], 1.0 - lambda)]);
            let [own, others] = [original, partner].map(|index| crops(image(&pixels, index)));
            let [mixup, cutmix] = &sample.views[..] else { panic!("two views") };
            let mixed = |o: &[u8], r: &[u8]| {
                o.iter().zip(r).zip(mixup).all(|((&o, &r), &seen)| {
                    (f32::from(o) * lambda + f32::from(r) * (1.0 - lambda) - f32::from(seen)).abs() < 0.51
                })
            };
            assert!(own.iter().any(|o| others.iter().any(|r| mixed(o, r))), "the mixup of sample {at}");
            let [top, bottom, left, right] = params.cut.map(|v| v as usize);
            let shows = |crop: &[u8], inside: bool| {
                (0..SIDE * SIDE).all(|p| {
                    let within = (top..bottom).contains(&(p / SIDE)) && (left..right).contains(&(p % SIDE));
                    within != inside || crop[3 * p..][..3] == cutmix[3 * p..][..3]
                })
            };
            assert!(own.iter().any(|o| shows(o, false)) && others.iter().any(|r| shows(r, true)), "sample {at}");
        }
    }
}
