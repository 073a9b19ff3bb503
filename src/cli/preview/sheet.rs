//! A contact sheet: of each sample its views side by side, and under them what they are.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::font;
use crate::train::preview::{Preview, Sample};

/// Smaller views are enlarged by a whole factor to this many pixels, so that text fits under them.
const LEAST: usize = 128;
/// Samples stand beside each other up to this many pixels.
const WIDE: usize = 1600;
/// Pixels between views, and around samples.
const GAP: usize = 2;
const MARGIN: usize = 8;
/// Lines of text under a sample.
const LINES: usize = 3;
/// Rows of a line of text.
const LINE: usize = font::HEIGHT + 3;

const GROUND: [u8; 3] = [24, 24, 24];
const INK: [u8; 3] = [224, 224, 224];

/// Pixels of three bytes.
struct Canvas {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Canvas {
        Canvas { width, height, bytes: GROUND.repeat(width * height) }
    }

    /// Sets a pixel, if it is on the canvas.
    fn put(&mut self, [x, y]: [usize; 2], colour: [u8; 3]) {
        if x < self.width && y < self.height {
            self.bytes[(y * self.width + x) * 3..][..3].copy_from_slice(&colour);
        }
    }

    /// An image of some columns, each pixel a square.
    fn image(&mut self, [left, top]: [usize; 2], bytes: &[u8], columns: usize, factor: usize) {
        for (at, pixel) in bytes.as_chunks().0.iter().enumerate() {
            let (x, y) = (left + at % columns * factor, top + at / columns * factor);
            for square in 0..factor * factor {
                self.put([x + square % factor, y + square / factor], *pixel);
            }
        }
    }

    /// As much of a line of text as fits.
    fn text(&mut self, [left, top]: [usize; 2], text: &str, room: usize) {
        for (at, letter) in text.chars().take(room / font::ADVANCE).enumerate() {
            for (y, row) in font::rows(letter).iter().enumerate() {
                for x in (0..font::WIDTH).filter(|x| row >> (font::WIDTH - 1 - x) & 1 == 1) {
                    self.put([left + at * font::ADVANCE + x, top + y], INK);
                }
            }
        }
    }
}

/// What is written under a sample: its step and lambda, then the classes of its label with their shares.
fn lines(sample: &Sample, names: &[String]) -> Vec<String> {
    let mut lines = vec![match sample.lambda {
        Some(lambda) => format!("step {}, lambda {lambda:.3}", sample.step + 1),
        None => format!("step {}", sample.step + 1),
    }];
    lines.extend(sample.labels.iter().map(|&(class, share)| {
        let name = usize::try_from(class).ok().and_then(|class| names.get(class));
        format!("{share:.3} {}", name.map_or_else(|| class.to_string(), Clone::clone))
    }));
    lines
}

/// The sheet as a PNG file.
pub fn png(preview: &Preview, names: &[String]) -> Result<Vec<u8>, String> {
    let [rows, columns] = preview.size;
    let views = preview.samples.iter().map(|sample| sample.views.len()).max().unwrap_or(0);
    let factor = LEAST.div_ceil(columns).max(1);
    let cell = views * (columns * factor + GAP);
    let (across, down) = (cell + MARGIN, rows * factor + LINES * LINE + 2 * MARGIN);
    let beside = (WIDE / across).clamp(1, preview.samples.len().max(1));
    let height = down * preview.samples.len().div_ceil(beside) + MARGIN;
    let mut canvas = Canvas::new(beside * across + MARGIN, height);
    for (at, sample) in preview.samples.iter().enumerate() {
        let (left, top) = (MARGIN + at % beside * across, MARGIN + at / beside * down);
        for (view, bytes) in sample.views.iter().enumerate() {
            canvas.image([left + view * (columns * factor + GAP), top], bytes, columns, factor);
        }
        for (line, text) in lines(sample, names).iter().enumerate() {
            canvas.text([left, top + rows * factor + MARGIN / 2 + line * LINE], text, cell);
        }
    }
    let mut file = Vec::new();
    let [width, height] = [canvas.width, canvas.height].map(|side| side as u32);
    let encoded = PngEncoder::new(&mut file).write_image(&canvas.bytes, width, height, ExtendedColorType::Rgb8);
    encoded.map_err(|error| format!("the sheet of {width}x{height} pixels does not become a PNG: {error}"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_stand_beside_each_other_and_text_under_them() {
        let view = |shade: u8| (0..64 * 64 * 3).map(|i| shade.wrapping_add((i % 7) as u8)).collect::<Vec<u8>>();
        let sample =
            |shade, labels| Sample { step: 0, lambda: Some(0.25), labels, views: vec![view(shade), view(shade + 50)] };
        let samples = vec![sample(10, vec![(0, 0.25), (1, 0.75)]), sample(110, vec![(1, 0.25), (7, 0.75)])];
        let names = ["bird".to_string(), "ümlaut".to_string()];
        assert_eq!(lines(&samples[0], &names), ["step 1, lambda 0.250", "0.250 bird", "0.750 ümlaut"]);
        assert_eq!(lines(&samples[1], &names)[2], "0.750 7");
        let preview = Preview { size: [64, 64], samples };
        let sheet = image::load_from_memory(&png(&preview, &names).unwrap()).unwrap().to_rgb8();
        let (cell, down) = (2 * 130, 128 + 3 * LINE + 16);
        assert_eq!(sheet.dimensions(), ((2 * (cell + 8) + 8) as u32, (down + 8) as u32));
        for (sample, shade) in [(0, 10u8), (1, 110)] {
            for (view, shade) in [(0, shade), (1, shade + 50)] {
                let (left, top) = (8 + sample * (cell + 8) + view * 130, 8);
                for (x, y) in [(0, 0), (63, 0), (17, 40), (63, 63)] {
                    let at = (y * 64 + x) * 3;
                    let wanted = [0, 1, 2].map(|c| shade + ((at + c) % 7) as u8);
                    // Each pixel is a square of four.
                    for (dx, dy) in [(0, 0), (1, 1)] {
                        let found = sheet.get_pixel((left + 2 * x + dx) as u32, (top + 2 * y + dy) as u32);
                        assert_eq!(found.0, wanted, "{sample} {view} {x} {y}");
                    }
                }
            }
        }
        // Of the text, the first letter: the S of "step".
        let ink = |x: usize, y: usize| sheet.get_pixel((8 + x) as u32, (8 + 128 + 4 + y) as u32).0 == INK;
        for (y, row) in font::rows('s').iter().enumerate() {
            for x in 0..font::WIDTH {
                assert_eq!(ink(x, y), row >> (font::WIDTH - 1 - x) & 1 == 1, "{x} {y}");
            }
        }
    }
}
