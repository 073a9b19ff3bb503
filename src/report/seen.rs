//! What one checkpoint makes of the test images: which classes are taken for which, how sure it is, and the images on which it
//! is most confidently wrong.

use std::collections::BTreeMap;

use image::codecs::png::PngEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use crate::data::store::ImageSet;
use crate::error::{Error, Result};
use crate::train::answers::Guess;
use crate::train::evaluate::{Bin, Evaluation, bins};

/// Images of a gallery.
const GALLERY: usize = 24;
/// Pixels of the longer side of one at most.
const SIDE: u32 = 96;
/// Bytes of a gallery at most: a page of several stays under 2 MB.
const BYTES: usize = 160 << 10;

/// An image whose class was not guessed.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// Its place among the test images.
    pub image: usize,
    pub class: usize,
    pub guess: usize,
    /// The softmax probability of the guess, 0 to 1.
    pub confidence: f64,
    /// Width and height in pixels.
    pub size: (u32, u32),
    pub png: Vec<u8>,
}

/// What was made of the test images.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The checkpoint: its name and epoch.
    pub checkpoint: String,
    pub epoch: usize,
    /// The classifier.
    pub head: String,
    pub evaluation: Evaluation,
    pub bins: Vec<Bin>,
    /// Images by class and guess, where there are any.
    pub confusion: BTreeMap<(usize, usize), usize>,
    /// Test images of each class.
    pub images: Vec<usize>,
    /// The most confident mistakes, the most confident first.
    pub wrong: Vec<Wrong>,
}

impl Seen {
    /// Tallies the first guess about each of these test images.
    ///
    /// # Errors
    /// When an image cannot be read or is damaged.
    pub fn of(
        (evaluation, guesses): (Evaluation, &[Guess]),
        test: &ImageSet,
        (checkpoint, epoch, head): (String, usize, String),
    ) -> Result<Seen> {
        let labels = test.labels();
        let mut confusion = BTreeMap::new();
        let mut images = vec![0; evaluation.per_class.len()];
        let mut mistakes = Vec::new();
        for (at, (&label, guess)) in labels.iter().zip(guesses).enumerate() {
            let (class, confidence, guess) = (label as usize, guess.probability, guess.class);
            images[class] += 1;
            *confusion.entry((class, guess)).or_insert(0) += 1;
            if guess != class {
                mistakes.push((at, class, guess, confidence));
            }
        }
        // Of equals the first.
        mistakes.sort_by(|a, b| b.3.total_cmp(&a.3));
        let mut wrong = Vec::new();
        let mut room = BYTES;
        for (image, class, guess, confidence) in mistakes.into_iter().take(GALLERY) {
            let (size, png) = thumbnail(test, image)?;
            let Some(left) = room.checked_sub(png.len()) else { break };
            room = left;
            wrong.push(Wrong { image, class, guess, confidence: confidence.into(), size, png });
        }
        let right = |(&label, guess): (&i32, &Guess)| (guess.class == label as usize, guess.probability);
        let bins = bins(labels.iter().zip(guesses).map(right));
        Ok(Seen { checkpoint, epoch, head, evaluation, bins, confusion, images, wrong })
    }
}

/// An image as a PNG file: a large one made small.
fn thumbnail(test: &ImageSet, at: usize) -> Result<((u32, u32), Vec<u8>)> {
    let wrong = |what: String| Error::Config(format!("test image {at}: {what}"));
    let (pixels, height, width) = test.image(at)?;
    let image = RgbImage::from_raw(width as u32, height as u32, pixels).ok_or_else(|| wrong("has no pixels".into()))?;
    let longer = image.width().max(image.height());
    let image = match longer > SIDE {
        false => image,
        true => {
            let side = |side: u32| (side * SIDE / longer).max(1);
            resize(&image, side(image.width()), side(image.height()), FilterType::CatmullRom)
        }
    };
    let (size, mut file) = (image.dimensions(), Vec::new());
    let encoded = PngEncoder::new(&mut file).write_image(image.as_raw(), size.0, size.1, ExtendedColorType::Rgb8);
    encoded.map_err(|error| wrong(format!("does not become a PNG: {error}")))?;
    Ok((size, file))
}
