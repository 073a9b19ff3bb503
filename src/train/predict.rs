//! A trained model's answers about image files: a stream from the files through the device to whoever writes the answers down.
//!
//! Nothing is held of all files but their paths, sizes and 100 bytes or so besides: the images of a step are decoded into one of
//! the feed's two buffers, on all threads, while the device computes the step before.

use super::answers::{Answer, AnswerReader};
use super::feed::{Feed, Images};
use super::passes::{Look, Passes, evaluation};
use super::photo_feed::Shown;
use crate::data::loader::Planned;
use crate::error::Result;
use crate::method::photos::Framing;
use crate::nn::{HeadKind, Model, ParameterStore};
use crate::ops::Backend;
use crate::ops::augment_mix::Augmentation;

/// Bytes of a step's images at most, unless one image has more: there are three copies of these.
const STEP_BYTES: usize = 256 << 20;

/// What to answer, and how to look.
#[derive(Clone, Copy, Debug)]
pub struct PredictConfig {
    /// The classifier.
    pub head: HeadKind,
    /// Normalisation; nothing is cropped by it.
    pub augmentation: Augmentation,
    /// How photographs are looked at; `None` where images are taken as they are.
    pub framing: Option<Framing>,
    /// Whether answers are the mean over an image and its mirror image.
    pub flip: bool,
    /// Images at a time, at most; answers do not depend on it.
    pub batch: usize,
    /// Whether answers have the features as well.
    pub features: bool,
}

/// Hears the answer about a file, by its place among the files, or in a few words why there is none.
pub type Each<'a> = &'a mut dyn FnMut(usize, Result<&Answer<'_>, &str>) -> Result<()>;

/// Gives `each` the answer about every file in their order, or in a few words why there is none.
///
/// # Errors
/// Those of `each`; or the model has no such head, the device has too little memory or fails, or a signal asks for it.
pub fn predict(
    backend: &dyn Backend,
    (model, store): (&Model, &ParameterStore),
    files: &Planned<'_>,
    config: PredictConfig,
    each: Each<'_>,
) -> Result<()> {
    let PredictConfig { head, augmentation, framing, flip, features, .. } = config;
    let mut next = 0;
    // Files that are no images stand between those that are.
    let mut skip_to = |to: usize, each: Each<'_>| {
        for path in next..to {
            each(path, Err(&files.take_broken(path).unwrap_or_default()))?;
        }
        next = to + 1;
        Ok(())
    };
    let index = files.index();
    if !index.is_empty() {
        let labels = vec![0; index.len()];
        let largest = index.iter().map(|entry| 3 * entry.height * entry.width).max().unwrap_or(1);
        let batch = config.batch.min(STEP_BYTES / largest).clamp(1, index.len());
        let (height, width) = (index[0].height, index[0].width);
        let index = framing.map(|_| index);
        let images = Images { pixels: files, labels: &labels, height, width, index };
        let shown = framing.map(|framing| Shown { framing, mixing: evaluation(flip), accumulate: 1 });
        let feed = Feed::new(backend, images, batch, 0, shown)?;
        let look = Look { augmentation, flip, batch, arena: None };
        let passes = Passes::new(backend, store, &feed, &look, &|r, seen| {
            let found = model.record_features(r, seen.images)?;
            let (mut kept, _) = model.record_classifier(r, head, found)?;
            kept.extend(Some(found).filter(|_| features));
            Ok(kept)
        })?;
        let reader = AnswerReader::new(model, head, look.views(), features)?;
        passes.run(backend, &feed, &mut |images, kept| {
            reader.read(images, kept, &mut |image, answer| {
                let path = files.path_of(image);
                skip_to(path, each)?;
                match files.take_broken(path) {
                    None => each(path, Ok(answer)),
                    Some(why) => each(path, Err(&why)),
                }
            })
        })?;
    }
    skip_to(files.paths().len(), each)
}
