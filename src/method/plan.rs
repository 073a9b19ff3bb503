//! An epoch's steps, drawn ahead: which images, with which partners, how mixed, at what learning rate. The plan is a pure function of seed and
//! epoch, so that a resumed run continues it and every device follows the same one.

use super::mixing::{Mixture, draw_box, draw_lambda};
use super::recipe::{Mix, Originals, Recipe};
use super::samplers::{Draw, Members, Partners, Sampling, shuffle};
use super::schedule::LearningRate;
use crate::error::Result;
use crate::ops::load_step::StepParams;
use crate::ops::total_loss::{LOSS_COLUMNS, TOTAL};
use crate::rng::philox::{Purpose, Stream};

/// What a plan depends on besides the epoch.
#[derive(Clone, Debug)]
pub struct PlanConfig {
    pub recipe: Recipe,
    pub seed: u64,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Parts that a step is made in, one after another; divides the batch.
    pub accumulate: usize,
    pub lr: LearningRate,
    /// Training images per class.
    pub counts: Vec<usize>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
}

/// Samples of a step that pass through the network together; a step's gradient is the sum of its parts', in their order. Lambda,
/// box and partners are the step's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub step: usize,
    /// Its place among the parts of the step.
    pub place: usize,
    /// The first of its samples in the step.
    pub first: usize,
    /// Its samples.
    pub size: usize,
}

/// Sizes of the parts of a step of `size` samples: as many of `part` as there are, then what is left.
pub fn part_sizes(size: usize, part: usize) -> impl Iterator<Item = usize> {
    (0..size).step_by(part).map(move |first| part.min(size - first))
}

/// The steps of one epoch.
pub struct EpochPlan {
    batch: usize,
    /// Samples of a part of a step.
    part: usize,
    originals: Vec<u32>,
    partners: Vec<u32>,
    /// The original's share of each sample's label.
    shares: Vec<f32>,
    steps: Vec<StepParams>,
    /// The classifiers' class vectors, (heads, 5, classes); empty where nothing is trained.
    vectors: Vec<f64>,
}

/// A step whose randomness is being drawn.
struct StepDraw<'a> {
    config: &'a PlanConfig,
    epoch: usize,
    step: usize,
    originals: &'a [u32],
}

impl StepDraw<'_> {
    fn stream(&self, purpose: Purpose) -> Stream {
        Stream::new(self.config.seed, self.epoch as u32, self.step as u32, purpose)
    }

    /// Whether this step mixes.
    fn mixes(&self) -> bool {
        let Mix { p, epochs, .. } = self.config.recipe.mixing;
        let within = epochs.is_none_or(|[from, to]| (from..to).contains(&self.epoch));
        self.config.recipe.mixes() && within && (p >= 1.0 || self.stream(Purpose::Mix).unit() < p)
    }

    fn mixture(&self) -> Result<Mixture> {
        let PlanConfig { recipe, height, width, .. } = self.config;
        let lambda = draw_lambda(recipe.mixing.beta, &mut self.stream(Purpose::Lambda))? as f32;
        let cut = draw_box(f64::from(lambda), *height, *width, &mut self.stream(Purpose::Box));
        Ok(Mixture { lambda, cut })
    }

    /// Partners of the originals.
    fn partners(&self, from: &PartnerSource<'_>) -> Vec<u32> {
        let mut words = self.stream(Purpose::Partner);
        match from {
            PartnerSource::Step => {
                let mut partners = self.originals.to_vec();
                shuffle(&mut partners, &mut words);
                partners
            }
            PartnerSource::Draw(draw) => self.originals.iter().map(|_| draw.one(&mut words)).collect(),
            PartnerSource::Epoch(drawn) => drawn[self.step * self.config.batch..][..self.originals.len()].to_vec(),
        }
    }
}

/// Where the partners of an epoch come from, made once for all its steps.
enum PartnerSource<'a> {
    /// The step's own originals.
    Step,
    /// A sampler with replacement.
    Draw(Draw<'a>),
    /// Those of the whole epoch, drawn at once.
    Epoch(Vec<u32>),
}

impl<'a> PartnerSource<'a> {
    fn of(config: &PlanConfig, epoch: usize, members: &'a Members, length: usize) -> Result<PartnerSource<'a>> {
        let partners = config.recipe.partners;
        if let Partners::Power { q } = partners {
            return Ok(PartnerSource::Draw(members.by_power(q)?));
        }
        let words = Stream::new(config.seed, epoch as u32, 0, Purpose::Partner);
        Ok(match partners.sampling() {
            Some(sampling) => PartnerSource::Epoch(members.epoch(sampling, length, words, [epoch, config.epochs])?),
            None => PartnerSource::Step,
        })
    }
}

impl EpochPlan {
    /// Draws the plan of 0-based epoch `epoch` over training images of these classes.
    ///
    /// # Errors
    /// When a setting of the recipe is out of range.
    pub fn draw(config: &PlanConfig, epoch: usize, labels: &[i32], members: &Members) -> Result<EpochPlan> {
        let PlanConfig { recipe, seed, epochs, counts, .. } = config;
        let Originals { sampling, from_epoch, length } = recipe.originals;
        let sampling = if epoch < from_epoch { Sampling::Shuffle } else { sampling };
        let length = length.images(labels.len(), counts, config.batch)?;
        let words = Stream::new(*seed, epoch as u32, 0, Purpose::Shuffle);
        let originals = members.epoch(sampling, length, words, [epoch, *epochs])?;
        let source = PartnerSource::of(config, epoch, members, length)?;
        let count = originals.len().div_ceil(config.batch);
        let pixels = config.height * config.width;
        let coefficients = recipe.coefficients(epoch, *epochs);
        let (mut partners, mut shares) = (Vec::with_capacity(originals.len()), Vec::with_capacity(originals.len()));
        let mut steps = Vec::with_capacity(count);
        for (step, batch) in originals.chunks(config.batch).enumerate() {
            let draw = StepDraw { config, epoch, step, originals: batch };
            let (mixture, others) = match draw.mixes() {
                true => (draw.mixture()?, draw.partners(&source)),
                false => (Mixture::NONE, batch.to_vec()),
            };
            let images = |image: u32| counts[labels[image as usize] as usize];
            let share = |(&i, &j): (&u32, &u32)| {
                mixture.share(recipe.mixing.share, pixels, [images(i), images(j)], [epoch, *epochs])
            };
            shares.extend(batch.iter().zip(&others).map(share));
            partners.extend(others);
            let Mixture { lambda, cut } = mixture;
            steps.push(StepParams {
                seed: [*seed as u32, (*seed >> 32) as u32],
                epoch: epoch as u32,
                step: step as u32,
                lambda,
                cut: [cut.rows.0, cut.rows.1, cut.columns.0, cut.columns.1].map(|at| at as i32),
                lr: config.lr.at(epoch, *epochs, step, count) as f32,
                coefficients,
                row: step as u32,
                ..StepParams::default()
            });
        }
        let vectors = recipe.vectors(counts, epoch)?;
        let (batch, part) = (config.batch, config.batch / config.accumulate);
        Ok(EpochPlan { batch, part, originals, partners, shares, steps, vectors })
    }

    /// A plan that visits images `0..images` in order: evaluation. Results of a step start at its first image.
    pub fn evaluation(images: usize, batch: usize) -> EpochPlan {
        let originals: Vec<u32> = (0..images as u32).collect();
        let steps = (0..images.div_ceil(batch))
            .map(|step| StepParams { row: (step * batch) as u32, step: step as u32, ..StepParams::default() })
            .collect();
        let shares = vec![1.0; images];
        EpochPlan { batch, part: batch, partners: originals.clone(), originals, shares, steps, vectors: Vec::new() }
    }

    /// The classifiers' class vectors in this epoch, (heads, 5, classes).
    pub fn vectors(&self) -> &[f64] {
        &self.vectors
    }

    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Steps of a full batch; at most one smaller step follows.
    pub fn full_steps(&self) -> usize {
        self.originals.len() / self.batch
    }

    /// Samples of the last, smaller step; 0 if the batch divides the images.
    pub fn tail(&self) -> usize {
        self.originals.len() % self.batch
    }

    /// One step's scalars.
    pub fn params(&self, step: usize) -> &StepParams {
        &self.steps[step]
    }

    /// Indices of a step's originals and partners.
    pub fn indices(&self, step: usize) -> (&[u32], &[u32]) {
        let range = step * self.batch..((step + 1) * self.batch).min(self.originals.len());
        (&self.originals[range.clone()], &self.partners[range])
    }

    /// The originals' shares of a step's labels.
    pub fn shares(&self, step: usize) -> &[f32] {
        &self.shares[step * self.batch..][..self.indices(step).0.len()]
    }

    /// The parts of these steps that have `size` samples.
    pub fn parts(&self, steps: std::ops::Range<usize>, size: usize) -> impl Iterator<Item = Part> {
        let of = move |step: usize| {
            let sizes = part_sizes(self.indices(step).0.len(), self.part).enumerate();
            sizes.map(move |(place, size)| Part { step, place, first: place * self.part, size })
        };
        steps.flat_map(of).filter(move |part| part.size == size)
    }

    /// Samples of a part that is not the last of its step.
    pub fn part(&self) -> usize {
        self.part
    }

    /// What the loss log has of whole steps, from its rows, which are the parts': losses are means over the step's samples.
    pub fn losses(&self, log: &[f64]) -> Vec<f64> {
        if self.part == self.batch {
            return log.to_vec();
        }
        let mut rows = log.chunks_exact(LOSS_COLUMNS);
        let mut all = Vec::new();
        for step in 0..self.steps() {
            let size = self.indices(step).0.len();
            let mut losses = [0.0; LOSS_COLUMNS];
            for (part, row) in part_sizes(size, self.part).zip(&mut rows) {
                // The coefficients, and so the total, have the part's share in them already.
                let share = |column: usize| if column == TOTAL { 1.0 } else { part as f64 / size as f64 };
                losses.iter_mut().zip(row).enumerate().for_each(|(column, (to, loss))| *to += share(column) * loss);
            }
            all.extend(losses);
        }
        all
    }

    /// The rows of parts of one size as `load_step` reads them: scalars, originals, partners, shares.
    pub fn table(&self, parts: impl Iterator<Item = Part>) -> Vec<u32> {
        let mut words = Vec::new();
        for Part { step, place, first, size } in parts {
            let (originals, partners) = self.indices(step);
            let mut params = self.steps[step];
            if self.part < self.batch {
                let share = size as f32 / originals.len() as f32;
                params.coefficients = params.coefficients.map(|coefficient| coefficient * share);
                params.first = first as u32;
                params.row = (step * self.batch.div_ceil(self.part) + place) as u32;
            }
            words.extend_from_slice(bytemuck::cast_slice(std::slice::from_ref(&params)));
            words.extend_from_slice(&originals[first..][..size]);
            words.extend_from_slice(&partners[first..][..size]);
            words.extend_from_slice(bytemuck::cast_slice(&self.shares[step * self.batch + first..][..size]));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::recipe::Share;
    use crate::method::samplers::Length;
    use crate::method::schedule::{Decay, SetAt, WarmUp};
    use crate::method::{MethodSettings, method};
    use crate::ops::load_step::STEP_WORDS;

    fn config(name: &str) -> PlanConfig {
        let settings = MethodSettings { epochs: 10, ..MethodSettings::default() };
        PlanConfig {
            recipe: method(name).unwrap().recipe(&settings, &[16, 5]),
            seed: 7,
            epochs: 10,
            batch: 8,
            accumulate: 1,
            lr: LearningRate { base: 0.1, decay: Decay::Cosine, warmup: WarmUp::default(), set: SetAt::Before },
            counts: vec![16, 5],
            height: 32,
            width: 32,
        }
    }

    fn labels() -> Vec<i32> {
        (0..21).map(|image| i32::from(image >= 16)).collect()
    }

    fn draw(config: &PlanConfig, epoch: usize) -> EpochPlan {
        EpochPlan::draw(config, epoch, &labels(), &Members::new(&labels(), 2).unwrap()).unwrap()
    }

    #[test]
    fn every_image_once_per_epoch_and_the_same_plan_twice() {
        let config = config("glmc");
        let (plan, again, other) = (draw(&config, 3), draw(&config, 3), draw(&config, 4));
        assert_eq!((plan.steps(), plan.full_steps(), plan.tail()), (3, 2, 5));
        let mut seen = plan.originals.clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..21).collect::<Vec<u32>>());
        let table = |plan: &EpochPlan, steps, size| plan.table(plan.parts(steps, size));
        assert_eq!(table(&plan, 0..2, 8), table(&again, 0..2, 8));
        assert_ne!(plan.originals, other.originals);
        assert_eq!(table(&plan, 2..3, 5).len(), STEP_WORDS + 3 * 5);
        assert!(plan.shares[..8].iter().all(|&share| share == plan.params(0).lambda));
    }

    #[test]
    fn shares_can_follow_the_clipped_box() {
        let mut config = config("glmc");
        config.recipe.mixing.share = Share::Area;
        let plan = draw(&config, 0);
        for step in 0..plan.steps() {
            let p = plan.params(step);
            let area = (p.cut[1] - p.cut[0]) * (p.cut[3] - p.cut[2]);
            assert_eq!(plan.shares[8 * step], 1.0 - area as f32 / 1024.0);
        }
    }

    #[test]
    fn bbn_shuffles_its_originals_and_reverses_its_partners() {
        let config = config("bbn");
        let mut rare = 0;
        for epoch in 0..10 {
            let plan = draw(&config, epoch);
            // alpha = 1 - (e/E)^2, the share of features and labels alike.
            let alpha = (1.0 - (epoch as f64 / 10.0).powi(2)) as f32;
            assert_eq!(plan.shares, [alpha; 21]);
            let mut originals = plan.originals.clone();
            originals.sort_unstable();
            assert_eq!(originals, (0..21).collect::<Vec<u32>>());
            rare += plan.partners.iter().filter(|&&image| image >= 16).count();
        }
        // With probability 1/n_c: of classes of 16 and 5 images the smaller one has 16 of 21, here of 210.
        assert!((140..=180).contains(&rare), "{rare}");
    }

    #[test]
    fn a_method_that_does_not_mix_has_no_partners() {
        let plan = draw(&config("ce"), 0);
        assert_eq!(plan.originals, plan.partners);
        assert_eq!(plan.shares, [1.0; 21]);
        assert_eq!(plan.params(1).cut, [0; 4]);
    }

    #[test]
    fn a_permutation_is_of_the_step() {
        let plan = draw(&config("mixup"), 0);
        for step in 0..plan.steps() {
            let (originals, partners) = plan.indices(step);
            let sorted = |images: &[u32]| {
                let mut images = images.to_vec();
                images.sort_unstable();
                images
            };
            assert_eq!(sorted(originals), sorted(partners));
        }
        assert_ne!(plan.originals, plan.partners);
    }

    #[test]
    fn partners_can_be_drawn_by_the_epoch() {
        let mut config = config("mixup");
        config.recipe.partners = Partners::Shuffle;
        let plan = draw(&config, 2);
        let mut seen = plan.partners.clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..21).collect::<Vec<u32>>());
        assert_ne!(plan.partners, plan.originals);
        config.recipe.partners = Partners::ClassAware { images: 1 };
        let rare = draw(&config, 2).partners.iter().filter(|&&image| image >= 16).count();
        assert!((10..=11).contains(&rare), "{rare} of 21, of which 5 are rare");
    }

    #[test]
    fn cmo_mixes_half_of_the_steps_of_its_epochs() {
        let mut config = config("cmo-ce");
        config.recipe.mixing.epochs = Some([2, 8]);
        let mixed = |epoch| {
            let plan = draw(&config, epoch);
            (0..plan.steps()).filter(|&step| plan.params(step).lambda != 1.0).count()
        };
        assert_eq!((mixed(0), mixed(1), mixed(8)), (0, 0, 0));
        let steps: usize = (2..8).map(mixed).sum();
        assert!((3..16).contains(&steps), "{steps} of 18 steps");
        config.recipe.mixing.p = 0.0;
        assert_eq!((0..10).map(|epoch| draw(&config, epoch).shares[0]).sum::<f32>(), 10.0);
    }

    #[test]
    fn an_epoch_can_have_other_lengths() {
        let mut config = config("mixup");
        config.recipe.partners = Partners::Shuffle;
        let mut steps = |length: Length| {
            config.recipe.originals.length = length;
            let plan = draw(&config, 1);
            assert_eq!((plan.originals.len(), plan.shares.len()), (plan.partners.len(), plan.partners.len()));
            let rate = plan.params(plan.steps() - 1);
            assert_eq!(rate.step as usize, plan.steps() - 1);
            (plan.steps(), plan.full_steps(), plan.tail())
        };
        // 16 and 5 images in steps of 8.
        assert_eq!(steps(Length::Images), (3, 2, 5));
        assert_eq!(steps(Length::LargestClass), (4, 4, 0));
        assert_eq!(steps(Length::WholeSteps), (2, 2, 0));
        assert_eq!(steps(Length::Steps { steps: 7 }), (7, 7, 0));
    }

    #[test]
    fn parts_make_up_their_step_and_share_its_mixture() {
        let whole = draw(&config("glmc"), 0);
        let plan = draw(&PlanConfig { accumulate: 4, ..config("glmc") }, 0);
        let parts: Vec<Part> = plan.parts(0..3, 2).collect();
        // Steps of 8, 8 and 5 samples: four parts of two, four, two and one of one.
        assert_eq!(parts.len(), 10);
        assert_eq!(plan.parts(0..3, 1).collect::<Vec<_>>(), [Part { step: 2, place: 2, first: 4, size: 1 }]);
        let rows = plan.table(parts.iter().copied());
        let words = STEP_WORDS + 3 * 2;
        for (part, row) in parts.iter().zip(rows.chunks_exact(words)) {
            let params: &StepParams = bytemuck::from_bytes(bytemuck::cast_slice(&row[..STEP_WORDS]));
            let of = whole.params(part.step);
            assert_eq!((params.lambda, params.cut, params.step, params.lr), (of.lambda, of.cut, of.step, of.lr));
            let share = 2.0 / [8.0, 8.0, 5.0][part.step];
            assert_eq!(params.coefficients, of.coefficients.map(|coefficient| coefficient * share));
            assert_eq!((params.first as usize, params.row as usize), (part.first, 4 * part.step + part.place));
            let (originals, partners) = whole.indices(part.step);
            assert_eq!(row[STEP_WORDS..][..2], originals[part.first..][..2]);
            assert_eq!(row[STEP_WORDS + 2..][..2], partners[part.first..][..2]);
        }
        // Three steps of a log: L_c of a step is the mean over its samples, the total the sum of totals.
        let log: Vec<f64> = (0..11).flat_map(|row| [f64::from(row), 0.0, 0.0, 0.5]).collect();
        let losses = plan.losses(&log);
        assert_eq!([losses[0], losses[4], losses[8]], [1.5, 5.5, (8.0 * 2.0 + 9.0 * 2.0 + 10.0) / 5.0]);
        assert_eq!([losses[3], losses[7], losses[11]], [2.0, 2.0, 1.5]);
    }

    #[test]
    fn deferred_sampling_and_weights_begin_with_their_epoch() {
        let mut config = config("drw");
        config.recipe.originals =
            Originals { sampling: Sampling::Power { q: 1.0 }, from_epoch: 8, ..Originals::default() };
        let (before, after) = (draw(&config, 7), draw(&config, 8));
        assert!(before.vectors().iter().all(|&v| v == 0.0 || v == 1.0));
        assert!(after.vectors().iter().any(|&v| v != 0.0 && v != 1.0));
        let distinct = |plan: &EpochPlan| plan.originals.iter().collect::<std::collections::HashSet<_>>().len();
        assert!(distinct(&before) == 21 && distinct(&after) < 21);
    }
}
