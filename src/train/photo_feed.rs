//! Photographs of several sizes on their way to the device: one after another as bytes, with an index of where each lies and
//! how large it is, and for every step what is to be made of each.
//!
//! What is to be made of them is drawn and sent step by step, 64 bytes an image, so that an epoch of millions takes no more
//! memory than one of thousands.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::feed::Images;
use crate::data::store::Entry;
use crate::error::Result;
use crate::memory::{Mark, Pinned};
use crate::method::EpochPlan;
use crate::method::photos::{At, Framing, evaluated, sets};
use crate::ops::Backend;
use crate::ops::augment_mix::Mixing;
use crate::ops::augment_photos::{DRAW_WORDS, INDEX_WORDS, PhotoConfig, PhotoDraw, Photos, augment_photos};
use crate::ops::load_step::StepVars;
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// Bytes of an image's row in the index, and of a draw.
const INDEX_BYTES: usize = 4 * INDEX_WORDS;
const DRAW_BYTES: usize = 4 * DRAW_WORDS;

/// A step's images are read in so many parts; whether the device has run out of work is seen between them.
const PARTS: usize = 8;

/// How photographs are shown, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    pub framing: Framing,
    /// Training and evaluation differ in it.
    pub mixing: Mixing,
    /// Parts that a step is made in.
    pub accumulate: usize,
}

impl Shown {
    fn is_evaluated(&self) -> bool {
        matches!(self.mixing, Mixing::Evaluate | Mixing::EvaluateFlip)
    }

    /// Images of a step of so many samples, partners counted.
    pub(super) fn images(&self, batch: usize) -> usize {
        if self.mixing.takes_partners() { 2 * batch } else { batch }
    }

    /// What view set `set` shows of an image that is sample `sample` of a step.
    fn draw(&self, [seed, place]: [[u32; 2]; 2], set: u32, sample: u32, image: [usize; 2]) -> PhotoDraw {
        let Framing { size, resize, photos } = self.framing;
        if self.is_evaluated() {
            return evaluated(image, size, resize, set == 1);
        }
        let [epoch, step] = place;
        photos.draw(At { seed, epoch, step, set, sample }, image, size)
    }
}

/// An image of a step, and where its bytes go.
#[derive(Clone, Copy)]
struct Piece {
    image: u32,
    offset: usize,
}

/// Of a step: images and the rows of the index that are theirs, by image; and each image once.
type Order = (Vec<(u32, u32)>, Vec<Piece>);

/// The device's side of photographs, besides their pixels and labels.
pub(super) struct PhotoFeed {
    shown: Shown,
    /// Samples of a step's part.
    part: usize,
    /// I32 (images, or those of a step, 4).
    pub index: Tensor,
    /// I32 (sets * batch, 16).
    pub draws: Tensor,
    /// Room for a step's, kept between them.
    order: RefCell<Order>,
}

/// What lies in a page-locked buffer behind the draws, in this order; a resident feed has the draws alone.
struct Parts<'p> {
    index: &'p mut [u8],
    labels: &'p mut [u8],
    pixels: &'p mut [u8],
}

/// The bytes of photographs, and of those that a step may have at most.
pub(super) fn bytes(images: &Images<'_>, most: usize) -> (usize, usize) {
    let mut sizes: Vec<usize> = (0..images.len()).map(|image| size(images.entry(image))).collect();
    let all = sizes.iter().sum();
    if most >= sizes.len() {
        return (all, all);
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    (all, sizes[..most].iter().sum())
}

fn size(entry: Entry) -> usize {
    entry.height * entry.width * 3
}

/// A row of the index.
fn row(entry: Entry, offset: usize) -> [u32; INDEX_WORDS] {
    [offset as u32, (offset as u64 >> 32) as u32, entry.height as u32, entry.width as u32]
}

impl PhotoFeed {
    /// Room for an index of `rows` images and the draws of a step of up to `batch` samples.
    pub fn new(backend: &dyn Backend, shown: Shown, rows: usize, batch: usize, resident: bool) -> Result<PhotoFeed> {
        let part = batch / shown.accumulate;
        let tensor = |rows: usize, words: usize, what: &str| backend.tensor(&[rows, words], DType::I32, what);
        let index = tensor(rows, INDEX_WORDS, "index of images")?;
        let draws = tensor(shown.mixing.image_sets() * batch, DRAW_WORDS, "draws")?;
        let room = if resident { 0 } else { rows };
        Ok(PhotoFeed {
            shown,
            part,
            index,
            draws,
            order: RefCell::new((Vec::with_capacity(room), Vec::with_capacity(room))),
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.index.bytes() + self.draws.bytes()
    }

    /// Uploads the index of images that are all on the device.
    pub fn fill(&self, backend: &dyn Backend, images: &Images<'_>) -> Result<()> {
        let entries = (0..images.len()).map(|image| images.entry(image));
        let rows: Vec<[u32; INDEX_WORDS]> = entries.map(|entry| row(entry, entry.offset)).collect();
        backend.upload(self.index, bytemuck::cast_slice(&rows))
    }

    /// Records the making of a step's images.
    pub fn record(
        &self,
        tape: &mut Tape,
        backend: &dyn Backend,
        (pixels, vars): (Tensor, StepVars),
        mixing: Mixing,
        (mean, std): ([f32; 3], [f32; 3]),
    ) -> Result<Var> {
        let [pixels, index, draws] = [pixels, self.index, self.draws].map(|tensor| tape.external(tensor));
        let stride = mixing.image_sets() * self.part;
        let config = PhotoConfig { size: self.shown.framing.size, stride, mean, std };
        augment_photos(tape, backend, Photos { pixels, index, draws }, vars, mixing, config)
    }

    /// Draws what is to be made of a step's images, and sends it.
    pub fn send_draws(
        &self,
        backend: &dyn Backend,
        images: &Images<'_>,
        memory: &mut Pinned,
        (plan, step): (&EpochPlan, usize),
    ) -> Result<()> {
        let (originals, partners) = plan.indices(step);
        let params = plan.params(step);
        let batch = originals.len();
        let (shown, part, views) = (self.shown, self.part, sets(self.shown.mixing));
        let bytes = &mut memory.bytes_mut()[..views.len() * batch * DRAW_BYTES];
        bytes.par_chunks_exact_mut(DRAW_BYTES).enumerate().for_each(|(at, to)| {
            // Part after part, and of each set after set; all parts but the last are as large.
            let (place, rest) = (at / (views.len() * part), at % (views.len() * part));
            let size = part.min(batch - place * part);
            let (set, n) = (views[rest / size], place * part + rest % size);
            let image = if set < 2 || shown.is_evaluated() { originals[n] } else { partners[n] };
            let entry = images.entry(image as usize);
            let place = [params.seed, [params.epoch, params.step]];
            let draw = shown.draw(place, set, n as u32, [entry.height, entry.width]);
            to.copy_from_slice(bytemuck::bytes_of(&draw));
        });
        backend.upload_async(self.draws.rows(0, views.len() * batch), memory, 0)
    }

    /// Reads a step's images, each once however often it occurs, and sends them with their index and labels. `batch` is where
    /// the partners' rows begin.
    pub fn send_images(
        &self,
        backend: &dyn Backend,
        images: &Images<'_>,
        memory: &mut Pinned,
        ((pixels, labels), batch): ((Tensor, Tensor), usize),
        (plan, step): (&EpochPlan, usize),
        idle: &Idle,
    ) -> Result<()> {
        let (originals, partners) = plan.indices(step);
        let (order, pieces) = &mut *self.order.borrow_mut();
        order.clear();
        pieces.clear();
        order.extend((0..).zip(originals).map(|(at, &image)| (image, at)));
        let has_partners = partners != originals;
        if has_partners {
            order.extend((batch as u32..).zip(partners).map(|(at, &image)| (image, at)));
        }
        order.sort_unstable();
        let mut used = 0;
        {
            let to = self.parts(memory, labels.bytes());
            for &(image, at) in order.iter() {
                let entry = images.entry(image as usize);
                let offset = match pieces.last() {
                    Some(last) if last.image == image => last.offset,
                    _ => {
                        pieces.push(Piece { image, offset: used });
                        used += size(entry);
                        used - size(entry)
                    }
                };
                let at = at as usize;
                to.index[at * INDEX_BYTES..][..INDEX_BYTES].copy_from_slice(bytemuck::cast_slice(&row(entry, offset)));
                to.labels[4 * at..][..4].copy_from_slice(&images.labels[image as usize].to_ne_bytes());
            }
            let mut rest = &mut to.pixels[..used];
            let mut begin = 0;
            // Some for each thread: those of one part are waited for before the next begins.
            let images_of_part = pieces.len().div_ceil(PARTS).max(4 * rayon::current_num_threads());
            for part in pieces.chunks(images_of_part) {
                let end = part.last().map_or(begin, |last| last.offset + size(images.entry(last.image as usize)));
                let (now, later) = rest.split_at_mut(end - begin);
                idle.watch(backend, || read(images, part, now))?;
                (rest, begin) = (later, end);
            }
        }
        let (index_at, labels_at) = (self.draws.bytes(), self.draws.bytes() + self.index.bytes());
        let rows =
            if has_partners { &[(0, originals.len()), (batch, partners.len())][..] } else { &[(0, originals.len())] };
        for &(start, count) in rows {
            backend.upload_async(self.index.rows(start, count), memory, index_at + INDEX_BYTES * start)?;
            backend.upload_async(labels.rows(start, count), memory, labels_at + 4 * start)?;
        }
        backend.upload_async(pixels.rows(0, used), memory, labels_at + labels.bytes())
    }

    fn parts<'p>(&self, memory: &'p mut Pinned, labels: usize) -> Parts<'p> {
        let (index, rest) = memory.bytes_mut()[self.draws.bytes()..].split_at_mut(self.index.bytes());
        let (labels, pixels) = rest.split_at_mut(labels);
        Parts { index, labels, pixels }
    }

    /// Gives the memory back.
    pub fn release(&self, backend: &dyn Backend) {
        backend.free(self.index.buffer);
        backend.free(self.draws.buffer);
    }
}

/// Reads images that lie one after another in `to`, on all threads: of a row of pieces of any size each thread takes one end.
fn read(images: &Images<'_>, pieces: &[Piece], to: &mut [u8]) -> Result<()> {
    match pieces {
        [] => Ok(()),
        [piece] => images.pixels.read(images.entry(piece.image as usize).offset, to),
        _ => {
            let (left, right) = pieces.split_at(pieces.len() / 2);
            let (first, second) = to.split_at_mut(right[0].offset - left[0].offset);
            let (one, other) = rayon::join(|| read(images, left, first), || read(images, right, second));
            one.and(other)
        }
    }
}

/// How long the device had nothing to do because images were not there yet.
#[derive(Default)]
pub(super) struct Idle {
    waited: Cell<Duration>,
    /// Set behind all work that the device has been given.
    end: RefCell<Option<Mark>>,
}

impl Idle {
    /// From here on until something else is given to the device, work that is done is a wait.
    pub fn begin(&self, backend: &dyn Backend) -> Result<()> {
        *self.end.borrow_mut() = Some(backend.mark()?);
        Ok(())
    }

    /// Does a part of the preparations; if the device was idle before it began, they are what it waits for.
    pub fn watch(&self, backend: &dyn Backend, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let is_idle = match &*self.end.borrow() {
            Some(end) => backend.reached(end)?,
            None => false,
        };
        let start = Instant::now();
        work()?;
        if is_idle {
            self.waited.set(self.waited.get() + start.elapsed());
        }
        Ok(())
    }

    pub fn waited(&self) -> Duration {
        self.waited.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend;
    use crate::method::photos::Photos;
    use crate::method::schedule::{Decay, LearningRate, SetAt, WarmUp};
    use crate::method::{Members, MethodSettings, PlanConfig, method};
    use crate::ops::load_step::{STEP_WORDS, row_words};
    use crate::tensor::Precision;
    use crate::train::feed::Feed;

    const BATCH: usize = 4;
    const SETS: usize = 4;

    /// Images of 1x1 to 7x12 pixels, all bytes different as far as they go.
    fn entries() -> Vec<Entry> {
        let mut offset = 0;
        let size = |i: usize| (1 + i * 5 % 7, 1 + i * 7 % 12);
        (0..13)
            .map(|i| {
                let (height, width) = size(i);
                offset += height * width * 3;
                Entry { offset: offset - height * width * 3, height, width }
            })
            .collect()
    }

    fn plan(recipe: &str, q: f64) -> EpochPlan {
        let labels: Vec<i32> = (0..13).map(|i| i32::from(i > 9)).collect();
        let settings = MethodSettings { resample: q, ..MethodSettings::default() };
        let config = PlanConfig {
            recipe: method(recipe).unwrap().recipe(&settings, &[10, 3]),
            seed: 5,
            epochs: 3,
            batch: BATCH,
            accumulate: 1,
            lr: LearningRate { base: 0.1, decay: Decay::Cosine, warmup: WarmUp::default(), set: SetAt::Before },
            counts: vec![10, 3],
            height: 8,
            width: 8,
        };
        EpochPlan::draw(&config, 1, &labels, &Members::new(&labels, 2).unwrap()).unwrap()
    }

    fn downloaded<T: bytemuck::Pod>(backend: &dyn Backend, tensor: Tensor) -> Vec<T> {
        let mut values = vec![T::zeroed(); tensor.bytes() / size_of::<T>()];
        backend.download(tensor, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }

    #[test]
    fn resident_or_streamed_the_device_finds_each_sample_s_image_label_and_draws() {
        let index = entries();
        let total: usize = index.iter().map(|entry| size(*entry)).sum();
        let pixels: Vec<u8> = (0..total).map(|i| (i * 37 % 251) as u8).collect();
        let labels: Vec<i32> = (100..113).collect();
        let images = Images { pixels: &pixels, labels: &labels, height: 7, width: 12, index: Some(&index) };
        let backend = backend::open("cpu", Precision::F32, 1).unwrap();
        let backend = backend.as_ref();
        let framing = Framing { size: 8, resize: 9, photos: Photos::GLMC };
        let shown = Shown { framing, mixing: Mixing::GLMC, accumulate: 1 };
        // A rare class drawn again and again: images occur more than once in a step, also as originals and partners.
        let (mut repeated, mut drawn) = (0, Vec::new());
        for limit in [usize::MAX, 0] {
            let plan = plan("glmc", 2.0);
            let feed = Feed::new(backend, images, BATCH, limit, Some(shown)).unwrap();
            feed.fill(backend).unwrap();
            assert_eq!(feed.is_resident(), limit > 0);
            let mut all_draws = Vec::new();
            for step in 0..plan.steps() {
                feed.stage(backend, &plan, step).unwrap();
                let (originals, partners) = plan.indices(step);
                let batch = originals.len();
                let row = feed.table(&plan, step..step + 1, batch);
                assert_eq!((row.len(), row[3]), (row_words(batch), 0));
                let photos = feed.photos().unwrap();
                let index_rows: Vec<[u32; 4]> = downloaded(backend, photos.index);
                let on_device: Vec<u8> = downloaded(backend, feed.pixels());
                let on_device_labels: Vec<i32> = downloaded(backend, feed.labels);
                for (at, &image) in originals.iter().chain(partners).enumerate() {
                    let (found, expected) = (row[STEP_WORDS + at] as usize, index[image as usize]);
                    let [low, _, height, width] = index_rows[found];
                    assert_eq!([height as usize, width as usize], [expected.height, expected.width]);
                    let bytes = size(expected);
                    assert_eq!(on_device[low as usize..][..bytes], pixels[expected.offset..][..bytes]);
                    assert_eq!(on_device_labels[found], labels[image as usize]);
                }
                let mut both: Vec<u32> = originals.iter().chain(partners).copied().collect();
                both.sort_unstable();
                repeated += both.windows(2).filter(|pair| pair[0] == pair[1]).count();
                let draws: Vec<PhotoDraw> = downloaded(backend, photos.draws.rows(0, SETS * batch));
                for (at, draw) in draws.iter().enumerate() {
                    let (set, n) = (at / batch, at % batch);
                    let entry = index[if set < 2 { originals[n] } else { partners[n] } as usize];
                    let at = At { seed: [5, 0], epoch: 1, step: step as u32, set: set as u32, sample: n as u32 };
                    assert_eq!(*draw, Photos::GLMC.draw(at, [entry.height, entry.width], 8));
                }
                all_draws.extend(draws);
            }
            drawn.push(all_draws);
            feed.release(backend);
        }
        assert!(repeated > 5, "{repeated}");
        assert_eq!(drawn[0], drawn[1]);
    }

    #[test]
    fn there_is_room_for_the_largest_images_and_no_more() {
        let index = entries();
        let pixels = vec![0u8; index.iter().map(|entry| size(*entry)).sum()];
        let images = Images { pixels: &pixels, labels: &[0; 13], height: 7, width: 12, index: Some(&index) };
        let mut sizes: Vec<usize> = index.iter().map(|entry| size(*entry)).collect();
        sizes.sort_unstable();
        assert_eq!(bytes(&images, 8), (pixels.len(), sizes[5..].iter().sum()));
        assert_eq!(bytes(&images, 13), (pixels.len(), pixels.len()));
        let backend = backend::open("cpu", Precision::F32, 1).unwrap();
        let framing = Framing { size: 8, resize: 9, photos: Photos::GLMC };
        for (mixing, most) in [(Mixing::GLMC, 8), (Mixing::EvaluateFlip, 4)] {
            let before = backend.allocated().0;
            let feed =
                Feed::new(backend.as_ref(), images, 4, 0, Some(Shown { framing, mixing, accumulate: 1 })).unwrap();
            let sets = mixing.image_sets();
            assert_eq!(feed.bytes(), bytes(&images, most).1 + most * (4 + 16) + sets * 4 * 64);
            assert!(backend.allocated().0 >= before + feed.bytes());
            feed.release(backend.as_ref());
            assert_eq!(backend.allocated().0, before);
        }
    }

    #[test]
    fn evaluation_shows_the_same_of_an_image_in_every_step() {
        let index = entries();
        let pixels = vec![0u8; index.iter().map(|entry| size(*entry)).sum()];
        let images = Images { pixels: &pixels, labels: &[0; 13], height: 7, width: 12, index: Some(&index) };
        let backend = backend::open("cpu", Precision::F32, 1).unwrap();
        let backend = backend.as_ref();
        let framing = Framing { size: 8, resize: 9, photos: Photos::GLMC };
        let feed =
            Feed::new(backend, images, 5, 0, Some(Shown { framing, mixing: Mixing::EvaluateFlip, accumulate: 1 }))
                .unwrap();
        let plan = EpochPlan::evaluation(13, 5);
        feed.stage(backend, &plan, 2).unwrap();
        let draws: Vec<PhotoDraw> = downloaded(backend, feed.photos().unwrap().draws.rows(0, 6));
        for (at, draw) in draws.iter().enumerate() {
            let entry = index[10 + at % 3];
            assert_eq!(*draw, evaluated([entry.height, entry.width], 8, 9, at >= 3));
        }
    }
}
