//! An epoch's steps, drawn ahead: which images, with which partners, how mixed, at what learning rate. The plan is a pure function of seed and
//! epoch, so that a resumed run continues it and every device follows the same one.

use super::Method;
use super::mixing::PartnerSampler;
use super::schedule::LearningRate;
use crate::error::Result;
use crate::ops::load_step::{StepParams, row_words};
use crate::rng::philox::{self, Purpose, Stream};

/// What a plan depends on besides seed and epoch.
#[derive(Clone, Debug)]
pub struct PlanConfig {
    /// Draws what is the method's own.
    pub method: &'static dyn Method,
    pub seed: u64,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    pub lr: LearningRate,
    /// Parameter of the Beta distribution of lambda.
    pub beta: f64,
    /// Factor of the similarity loss.
    pub gamma: f64,
    /// Factor of both supervised losses: 1 as published, 1/2 as the paper writes.
    pub supervised: f64,
    /// Whether the labels' lambda follows the clipped box.
    pub correct_labels: bool,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
}

/// A step whose scalars are being drawn.
pub struct StepDraw<'a> {
    /// What the plan depends on.
    pub config: &'a PlanConfig,
    /// 0-based epoch.
    pub epoch: usize,
    /// 0-based step of the epoch.
    pub step: usize,
    /// The images that the step visits.
    pub originals: &'a [u32],
    /// Where partners come from.
    pub sampler: &'a PartnerSampler,
}

impl StepDraw<'_> {
    /// The step's random words for one purpose.
    pub fn stream(&self, purpose: Purpose) -> Stream {
        Stream::new(self.config.seed, self.epoch as u32, self.step as u32, purpose)
    }
}

/// The steps of one epoch.
pub struct EpochPlan {
    batch: usize,
    originals: Vec<u32>,
    partners: Vec<u32>,
    /// The originals' shares of their samples' labels.
    shares: Vec<f32>,
    steps: Vec<StepParams>,
}

impl EpochPlan {
    /// Draws the plan of 0-based epoch `epoch` over `images` training images.
    ///
    /// # Errors
    /// When beta is out of range.
    pub fn draw(config: &PlanConfig, epoch: usize, images: usize, sampler: &PartnerSampler) -> Result<EpochPlan> {
        let (seed, number) = (config.seed, epoch as u32);
        let mut originals: Vec<u32> = (0..images as u32).collect();
        let mut words = Stream::new(seed, number, 0, Purpose::Shuffle);
        for last in (1..images).rev() {
            originals.swap(last, philox::below(words.word(), last as u32 + 1) as usize);
        }
        let (mut partners, mut shares) = (Vec::with_capacity(images), Vec::with_capacity(images));
        let count = images.div_ceil(config.batch);
        let mut steps = Vec::with_capacity(count);
        for (step, batch) in originals.chunks(config.batch).enumerate() {
            let mut params = StepParams {
                seed: [seed as u32, (seed >> 32) as u32],
                epoch: number,
                step: step as u32,
                lambda: 1.0,
                lr: config.lr.at(epoch, config.epochs, step, count) as f32,
                coefficients: [1.0, 0.0, 0.0],
                row: step as u32,
                ..StepParams::default()
            };
            let draw = StepDraw { config, epoch, step, originals: batch, sampler };
            config.method.draw(&draw, &mut params, &mut partners, &mut shares)?;
            debug_assert_eq!(
                (partners.len(), shares.len()),
                (step * config.batch + batch.len(), step * config.batch + batch.len()),
                "{} draws a partner and a share per original",
                config.method.name()
            );
            steps.push(params);
        }
        Ok(EpochPlan { batch: config.batch, originals, partners, shares, steps })
    }

    /// A plan that visits images `0..images` in order: evaluation. Results of a step start at its first image.
    pub fn evaluation(images: usize, batch: usize) -> EpochPlan {
        let originals: Vec<u32> = (0..images as u32).collect();
        let steps = (0..images.div_ceil(batch))
            .map(|step| StepParams { row: (step * batch) as u32, step: step as u32, ..StepParams::default() })
            .collect();
        EpochPlan { batch, partners: originals.clone(), originals, shares: vec![1.0; images], steps }
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
        let range = self.samples(step);
        (&self.originals[range.clone()], &self.partners[range])
    }

    fn samples(&self, step: usize) -> std::ops::Range<usize> {
        step * self.batch..((step + 1) * self.batch).min(self.originals.len())
    }

    /// The rows of steps `steps` as `load_step` reads them: scalars, originals, partners, shares. The steps must have one size.
    pub fn table(&self, steps: std::ops::Range<usize>) -> Vec<u32> {
        let mut words = Vec::with_capacity(steps.len() * row_words(self.batch));
        for step in steps {
            let (originals, partners) = self.indices(step);
            words.extend_from_slice(bytemuck::cast_slice(std::slice::from_ref(&self.steps[step])));
            words.extend_from_slice(originals);
            words.extend_from_slice(partners);
            words.extend_from_slice(bytemuck::cast_slice(&self.shares[self.samples(step)]));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::glmc::Glmc;
    use crate::method::schedule::{Decay, SetAt, WarmUp};

    fn config() -> PlanConfig {
        PlanConfig {
            method: &Glmc,
            seed: 7,
            epochs: 10,
            batch: 8,
            lr: LearningRate { base: 0.1, decay: Decay::Cosine, warmup: WarmUp::default(), set: SetAt::Before },
            beta: 1.0,
            gamma: 2.0,
            supervised: 1.0,
            correct_labels: false,
            height: 32,
            width: 32,
        }
    }

    #[test]
    fn every_image_once_per_epoch_and_the_same_plan_twice() {
        let labels = vec![0; 21];
        let sampler = PartnerSampler::new(&labels, 1, 0.0).unwrap();
        let plan = EpochPlan::draw(&config(), 3, 21, &sampler).unwrap();
        let again = EpochPlan::draw(&config(), 3, 21, &sampler).unwrap();
        let other = EpochPlan::draw(&config(), 4, 21, &sampler).unwrap();
        assert_eq!((plan.steps(), plan.full_steps(), plan.tail()), (3, 2, 5));
        let mut seen = plan.originals.clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..21).collect::<Vec<u32>>());
        assert_eq!(plan.table(0..2), again.table(0..2));
        assert_ne!(plan.originals, other.originals);
        assert_eq!(plan.table(2..3).len(), row_words(5));
    }

    #[test]
    fn labels_can_follow_the_clipped_box() {
        let sampler = PartnerSampler::new(&[0; 64], 1, 0.0).unwrap();
        let corrected = PlanConfig { correct_labels: true, ..config() };
        let plan = EpochPlan::draw(&corrected, 0, 64, &sampler).unwrap();
        for step in 0..plan.steps() {
            let p = plan.params(step);
            let area = (p.cut[1] - p.cut[0]) * (p.cut[3] - p.cut[2]);
            assert_eq!(plan.shares[plan.samples(step)], [1.0 - area as f32 / 1024.0; 8]);
        }
    }
}
