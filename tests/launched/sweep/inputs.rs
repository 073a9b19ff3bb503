//! What stands around the network: the step's table, labels, images, ranks.

use super::*;
use glmc_engine::memory::Memory;
use glmc_engine::ops::augment_mix::{AugmentMix, AugmentMixKernels, Augmentation, Mixing, View};
use glmc_engine::ops::classify::{Classify, ClassifyKernels};
use glmc_engine::ops::load_step::{LoadStep, LoadStepKernels, row_words};

/// Everything that integers decide must be exact.
#[test]
fn steps_and_ranks() {
    let mut random = Random::new(7);
    for (batch, classes, images) in [(1, 2, 3), (5, 10, 40), (70, 129, 200)] {
        let labels: Vec<usize> = (0..images).map(|_| random.between(0, classes - 1)).collect();
        let row = row_words(batch);
        let table: Vec<usize> = (0..3 * row).map(|_| random.between(0, images - 1)).collect();
        // Few different values, so that ties are common.
        let logits: Vec<f64> = (0..2 * batch * classes).map(|_| random.between(0, 5) as f64).collect();
        fn run<B: Memory + LoadStepKernels + ClassifyKernels>(
            b: &B,
            (batch, classes, images): (usize, usize, usize),
            (labels, table): (&[usize], &[usize]),
            logits: &[f64],
        ) -> Results {
            let table = b.int(table, &[3, row_words(batch)]);
            let cursor = b.int(&[1], &[1]);
            let words = b.int(&[0; STEP_WORDS], &[STEP_WORDS]);
            let (originals, partners) = (b.int(&vec![0; batch], &[batch]), b.int(&vec![0; batch], &[batch]));
            let shares = b.put(&vec![9.0; batch], &[batch], DType::F32);
            b.load_step(&LoadStep { table, cursor, scalars: words, originals, partners, shares }).unwrap();
            let mut results: Results = [words, cursor, originals, partners, shares].map(|t| ("step", b.get(t))).into();
            let (labels, scalars) = (b.int(labels, &[images]), b.step(&some_step()));
            let rows = images + 2;
            // One view of one head, and two views of two.
            for (views, heads) in [(1, 1), (2, 2)] {
                let ranks = b.int(&vec![0; rows], &[rows]);
                let [confidences, losses] = [(); 2].map(|()| b.put(&vec![0.0; rows], &[rows], DType::F32));
                let mut all = [0, 1].map(|_| b.float(&logits[..views * batch * classes], &[views * batch, classes]));
                if heads == 2 {
                    let others: Vec<f64> = logits[..views * batch * classes].iter().rev().copied().collect();
                    all[1] = b.float(&others, &[views * batch, classes]);
                }
                let (logits, second, scale) = (all[0], (heads == 2).then_some(all[1]), 0.5);
                b.classify(&Classify { logits, second, scale, labels, originals, scalars, ranks, confidences, losses })
                    .unwrap();
                results.extend([
                    ("ranks", b.get(ranks)),
                    ("confidences", b.get(confidences)),
                    ("losses", b.get(losses)),
                ]);
            }
            results
        }
        sweep!("classify", &format!("{batch} of {images}, {classes} classes"), |b| run(
            b,
            (batch, classes, images),
            (&labels, &table),
            &logits
        ));
    }
}

#[test]
fn augment_mix() {
    let mut random = Random::new(8);
    for (images, batch, height, width, padding, flip) in
        [(3, 2, 5, 7, 2, true), (9, 4, 32, 32, 4, true), (2, 1, 1, 1, 1, false), (4, 3, 18, 17, 0, true)]
    {
        let pixels: Vec<f64> = (0..images * height * width * 3).map(|_| random.between(0, 255) as f64).collect();
        let pick = |random: &mut Random| (0..batch).map(|_| random.between(0, images - 1)).collect::<Vec<_>>();
        let (originals, partners) = (pick(&mut random), pick(&mut random));
        let views = random.values(4 * batch * height * width * 3);
        let augmentation = Augmentation { mean: [0.5, 0.25, 0.375], std: [0.25, 0.5, 0.125], padding, flip };
        fn run<B: Memory + AugmentMixKernels>(
            b: &B,
            [images, batch, height, width]: [usize; 4],
            (pixels, views): (&[f64], &[f64]),
            (originals, partners): (&[usize], &[usize]),
            augmentation: &Augmentation,
        ) -> Results {
            let pixels = b.put(pixels, &[images, height, width, 3], DType::U8);
            let (originals, partners) = (b.int(originals, &[batch]), b.int(partners, &[batch]));
            let (scalars, stem) = (b.step(&some_step()), b.stem_channels());
            // The stem's padding is zero, and is left out of the comparison.
            let colours = |tensor: Tensor| -> Vec<f64> {
                let values = b.get(tensor);
                values
                    .chunks(stem)
                    .flat_map(|p| {
                        assert!(p[3..].iter().all(|&v| v == 0.0));
                        p[..3].to_vec()
                    })
                    .collect()
            };
            let blank = |n: usize| b.compute(&vec![5.0; n * height * width * stem], &[n, height, width, stem]);
            let mut results = Results::new();
            let mixings = [
                ("glmc", Mixing::GLMC),
                ("cutmix and plain", Mixing::Two(View::Cutmix, View::Plain)),
                ("single", Mixing::One(View::Plain)),
                ("single mixup", Mixing::One(View::Mixup)),
                ("partner", Mixing::One(View::Partner)),
                ("plain and partner", Mixing::Two(View::Plain, View::Partner)),
                ("evaluate", Mixing::Evaluate),
                ("evaluate and mirror", Mixing::EvaluateFlip),
            ];
            for (name, mixing) in mixings {
                let out = blank(mixing.views() * batch);
                b.augment_mix(mixing, augmentation, &AugmentMix { pixels, originals, partners, scalars, out }).unwrap();
                results.push((name, colours(out)));
            }
            for (name, mixing) in [
                ("views", Mixing::GLMC),
                ("one view", Mixing::One(View::Cutmix)),
                ("plain and partner", Mixing::Two(View::Plain, View::Partner)),
            ] {
                let given = mixing.image_sets() * batch;
                let given = b.float(&views[..given * height * width * 3], &[given, height, width, 3]);
                let out = blank(mixing.views() * batch);
                b.mix_views(mixing, given, scalars, out).unwrap();
                results.push((name, colours(out)));
            }
            results
        }
        sweep!("augment_mix", &format!("{batch} of {images}, {height}x{width}"), |b| run(
            b,
            [images, batch, height, width],
            (&pixels, &views),
            (&originals, &partners),
            &augmentation
        ));
    }
}
