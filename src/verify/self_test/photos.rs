//! Photographs of several sizes, with all that a draw can ask for.

use super::{BATCH, Trial, integers, step};
use crate::error::Result;
use crate::ops::Backend;
use crate::ops::augment_mix::Mixing;
use crate::ops::augment_photos::{DRAW_WORDS, INDEX_WORDS, PhotoConfig, PhotoDraw, Photos, augment_photos};
use crate::ops::load_step::{STEP_WORDS, StepParams, StepVars};
use crate::rng::philox;
use crate::tape::Tape;
use crate::tensor::DType;

/// Rows and columns of the photographs.
const SIZES: [[u32; 2]; 3] = [[19, 26], [7, 5], [33, 12]];
/// Rows and columns of what is made of them: more than the threads of a block.
const SIZE: usize = 23;

/// A draw of which every part is another for other `salt`s, and some leave out.
fn draw(salt: u32, [height, width]: [u32; 2]) -> PhotoDraw {
    let words = philox::draw(6, 0, 0, salt, 0);
    let half = |bits: u32| 0.5 + (bits % 128) as f32 / 128.0;
    let (top, left) = (words[0] % height, words[1] % width);
    let (rows, columns) = (1 + words[2] % (height - top), 1 + words[3] % (width - left));
    // Orders of the four steps that begin with each of them.
    let crop = if salt.is_multiple_of(5) { 2.0 } else { 0.0 };
    let order = [0b11_10_01_00, 0b00_11_10_01, 0b01_00_11_10, 0b10_00_01_11][salt as usize % 4];
    PhotoDraw {
        scale: [rows as f32 / SIZE as f32, columns as f32 / (SIZE as f32 + 2.0 * crop)],
        shift: [0.0, crop],
        brightness: half(words[0] >> 16),
        contrast: if salt.is_multiple_of(3) { 1.0 } else { half(words[1] >> 16) },
        saturation: half(words[2] >> 16),
        hue: half(words[3] >> 16) - 1.0,
        order,
        flags: words[0] >> 30,
        sigma: if salt.is_multiple_of(2) { 0.0 } else { half(words[1] >> 24) },
        ..PhotoDraw::of_box([top, left, rows, columns], SIZE)
    }
}

/// Their views.
pub(super) fn views(backend: &dyn Backend, mixing: Mixing) -> Result<Trial> {
    let (mut index, mut bytes) = (Vec::new(), 0);
    for [height, width] in SIZES {
        index.extend([bytes, 0, height as i32, width as i32]);
        bytes += (height * width * 3) as i32;
    }
    let pixels = backend.tensor(&[bytes as usize], DType::U8, "self-test")?;
    let noise = (0..bytes as u32).map(|at| philox::draw(5, 1, 0, 0, at)[0] as u8);
    backend.upload(pixels, &noise.collect::<Vec<_>>())?;
    let samples = [[0, 2, 1, 2, 0], [1, 1, 0, 2, 2]];
    let draws: Vec<PhotoDraw> = (0..mixing.image_sets() * BATCH)
        .map(|row| {
            let image = samples[usize::from(row / BATCH >= mixing.views())][row % BATCH];
            draw(row as u32, SIZES[image as usize])
        })
        .collect();
    let scalars = StepParams { step: 0, ..step() };
    let scalars = integers(backend, &[STEP_WORDS], bytemuck::cast_slice(std::slice::from_ref(&scalars)))?;
    let [originals, partners] = samples.map(|samples| integers(backend, &[BATCH], &samples));
    let index = integers(backend, &[SIZES.len(), INDEX_WORDS], &index)?;
    let rows = integers(backend, &[draws.len(), DRAW_WORDS], bytemuck::cast_slice(&draws))?;
    let shares = backend.tensor(&[BATCH], DType::F32, "self-test")?;
    let mut tape = Tape::new();
    let [pixels, index, rows, scalars] = [pixels, index, rows, scalars].map(|tensor| tape.external(tensor));
    let [originals, partners, shares] = [originals?, partners?, shares].map(|tensor| tape.external(tensor));
    let vars = StepVars { scalars, logged: scalars, originals, partners, shares };
    let config = PhotoConfig { size: SIZE, stride: draws.len(), mean: [0.5, 0.25, 0.75], std: [0.25, 0.5, 0.25] };
    augment_photos(&mut tape, backend, Photos { pixels, index, draws: rows }, vars, mixing, config)?;
    Ok(Trial { program: tape.plan(backend, false)?, update: None })
}
