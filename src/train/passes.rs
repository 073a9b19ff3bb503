//! One look at every image of a set, in order, a batch at a time: what evaluation and feature extraction have in common.

use std::ops::Range;

use super::feed::Feed;
use crate::error::Result;
use crate::memory::{Replay, read_floats};
use crate::method::EpochPlan;
use crate::nn::{Mode, ParameterStore, Recorder};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, Mixing};
use crate::ops::load_step::{StepVars, load_step, row_words};
use crate::tape::{Arena, Program, Var};
use crate::tensor::{DType, Tensor};

/// How images are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Normalisation; nothing is cropped.
    pub augmentation: Augmentation,
    /// Whether each image is followed by its mirror image, as a second view of the batch.
    pub flip: bool,
    /// Images at a time.
    pub batch: usize,
    /// Memory that is free meanwhile.
    pub arena: Option<Arena>,
}

impl Look {
    /// Views of each image.
    pub fn views(&self) -> usize {
        1 + usize::from(self.flip)
    }
}

/// What evaluation shows of each image.
pub fn evaluation(flip: bool) -> Mixing {
    if flip { Mixing::EvaluateFlip } else { Mixing::Evaluate }
}

/// A step's variables as a recording finds them.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// (views * batch, height, width, stem channels).
    pub images: Var,
    /// I32 (images of the feed).
    pub labels: Var,
    pub vars: StepVars,
}

/// The steps of one batch size.
struct SizedPass {
    program: Program,
    cursor: Tensor,
    replay: Option<Box<dyn Replay>>,
    steps: Range<usize>,
    kept: Vec<Var>,
}

/// Hears which images a step was of, and what was kept of them.
pub type Each<'a> = &'a mut dyn FnMut(Range<usize>, &[Kept]) -> Result<()>;

/// What a recording kept of a step, on the host.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The numbers in its order.
    pub values: Vec<f64>,
    /// What they were computed in.
    pub dtype: DType,
}

impl SizedPass {
    fn start(&self, backend: &dyn Backend) -> Result<()> {
        match &self.replay {
            Some(replay) => replay.replay(),
            None => self.program.forward(backend),
        }
    }

    fn read(&self, backend: &dyn Backend) -> Result<Vec<Kept>> {
        let tensors = self.kept.iter().map(|&kept| self.program.value(kept));
        tensors.map(|tensor| Ok(Kept { values: read_floats(backend, tensor)?, dtype: tensor.dtype })).collect()
    }
}

/// Programs that look at all images of a feed, planned once.
pub struct Passes {
    plan: EpochPlan,
    sized: Vec<SizedPass>,
}

impl Passes {
    /// Plans them; `record` records what is made of a batch, and returns what is to be read after each step.
    ///
    /// # Errors
    /// Those of `record`; or shapes do not fit, or the device has too little memory.
    pub fn new(
        backend: &dyn Backend,
        store: &ParameterStore,
        feed: &Feed<'_>,
        look: &Look,
        record: &dyn Fn(&mut Recorder<'_>, Seen) -> Result<Vec<Var>>,
    ) -> Result<Passes> {
        let plan = EpochPlan::evaluation(feed.images().len(), look.batch);
        let mixing = evaluation(look.flip);
        let mut sized = Vec::new();
        let full = plan.full_steps();
        for (steps, size) in [(0..full, look.batch), (full..plan.steps(), plan.tail())] {
            if steps.is_empty() {
                continue;
            }
            let (rows, words) = (steps.len(), row_words(size));
            let table = backend.tensor(&[rows, words], DType::I32, "step table")?;
            let cursor = backend.tensor(&[1], DType::I32, "step cursor")?;
            backend.upload(table, bytemuck::cast_slice(&feed.table(&plan, steps.clone(), size)))?;
            let mut r = Recorder::new(backend, store, Mode::Inference);
            let [table_var, cursor_var, labels] = [table, cursor, feed.labels].map(|t| r.tape.external(t));
            let vars = load_step(&mut r.tape, table_var, cursor_var, size)?;
            let images = feed.record(&mut r.tape, backend, vars, mixing, look.augmentation)?;
            let kept = record(&mut r, Seen { images, labels, vars })?;
            kept.iter().for_each(|&kept| r.tape.keep(kept));
            let program = r.tape.plan_in(backend, false, look.arena)?;
            let mut pass = SizedPass { program, cursor, replay: None, steps, kept };
            pass.replay = backend.capture(&mut || pass.program.forward(backend))?;
            sized.push(pass);
        }
        Ok(Passes { plan, sized })
    }

    /// Runs them on the parameters as they are now. `each` is given the images of every step, and what the recording kept of
    /// them. While the device computes a step, the images of the next are read and what was kept of the last is used.
    ///
    /// # Errors
    /// Those of `each`; or the images cannot be read, or the device fails.
    pub fn run(&self, backend: &dyn Backend, feed: &Feed<'_>, each: Each<'_>) -> Result<()> {
        let mut first = 0;
        let mut running: Option<(&SizedPass, Range<usize>)> = None;
        for pass in &self.sized {
            for step in pass.steps.clone() {
                feed.stage(backend, &self.plan, step)?;
                // Read before the next step overwrites it, used when that has begun.
                let done = running.take().map(|(pass, images)| Ok((images, pass.read(backend)?))).transpose()?;
                if step == pass.steps.start {
                    backend.zero(pass.cursor)?;
                }
                pass.start(backend)?;
                if let Some((images, kept)) = done {
                    each(images, &kept)?;
                }
                let images = first..first + self.plan.indices(step).0.len();
                first = images.end;
                running = Some((pass, images)).filter(|_| !pass.kept.is_empty());
            }
        }
        match running {
            Some((pass, images)) => each(images, &pass.read(backend)?),
            None => Ok(()),
        }
    }
}
