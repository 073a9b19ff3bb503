//! Images of any shape to what a store keeps of them, as torchvision does: `Resize(S)` of the shorter side with antialiased bilinear
//! filtering, and where squares are wanted `CenterCrop(S)` of that.

use std::fmt;
use std::str::FromStr;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use serde::{Deserialize, Serialize};

use super::decode::{Rgb, one_line};
use super::store::MAX_SIDE;
use crate::files;

/// Largest buffer that is kept for the next image.
const KEPT: usize = 64 << 20;

/// What size images get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The shorter side is resized to this, and the middle cut out.
    Square(usize),
    /// The shorter side is resized to this, the longer one as the aspect asks, truncated.
    Short(usize),
    /// As they are.
    None,
    /// These rows and columns, out of the middle of the smallest image of the same aspect that has them.
    Middle(usize, usize),
}

impl Resize {
    /// Fails if the side is none that a store can have.
    ///
    /// # Errors
    ///
    /// Says what is allowed.
    pub fn check_side(self) -> Result<(), String> {
        match self {
            Resize::Square(size) | Resize::Short(size) | Resize::Middle(size, _) | Resize::Middle(_, size)
                if !(1..=MAX_SIDE).contains(&size) =>
            {
                Err(format!("size {size}: must be 1 to {MAX_SIDE}"))
            }
            _ => Ok(()),
        }
    }

    /// Height and width that an image gets, and the bytes that resizing it takes beside the source.
    ///
    /// # Errors
    ///
    /// If that is more than `max_pixels`, or longer than a stored image may be.
    pub fn target(self, height: usize, width: usize, max_pixels: u64) -> Result<(usize, usize, u64), String> {
        let (new_height, new_width) = match self {
            Resize::Square(size) => (size, size),
            // Sides of files are below 2^16 and sizes below 2^15, so that products fit.
            Resize::Short(size) => {
                let short = height.min(width).max(1);
                (size * height / short, size * width / short)
            }
            Resize::None => (height, width),
            Resize::Middle(height, width) => (height, width),
        };
        let pixels = new_height as u64 * new_width as u64;
        // A middle is as large as was said.
        if !matches!(self, Resize::Square(_) | Resize::Middle(..)) {
            let would = || format!("{width}x{height} would be stored as {new_width}x{new_height}");
            if pixels > max_pixels {
                return Err(format!("{}, more than {max_pixels} pixels (see --max-pixels)", would()));
            }
            if new_height.max(new_width) > MAX_SIDE {
                return Err(format!("{}, longer than {MAX_SIDE}, which no stored image may be", would()));
            }
        }
        Ok((new_height, new_width, pixels * (3 + 4)))
    }
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resize::Square(size) => write!(f, "square:{size}"),
            Resize::Short(size) => write!(f, "short:{size}"),
            Resize::None => write!(f, "none"),
            Resize::Middle(height, width) => write!(f, "middle:{width}x{height}"),
        }
    }
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Resize, String> {
        let resize = match text.split_once(':') {
            None if text == "none" => Ok(Resize::None),
            Some(("short", size)) => size.parse().map(Resize::Short).map_err(drop),
            _ => Err(()),
        };
        let resize = resize.map_err(|()| "must be short:S (such as short:256) or none".to_string())?;
        resize.check_side().map(|()| resize)
    }
}

/// Brings images to their size; holds the buffers that this needs.
#[derive(Default)]
pub struct Scaler {
    resizer: Resizer,
    /// Four bytes per pixel, of the source and of the result: of the resizer's many pixel types only this one is compiled,
    /// as the others would make up half of the program.
    wide: [Vec<u8>; 2],
}

impl Scaler {
    /// Brings `image` to `height` x `width`, into `out` (3 bytes for each pixel): resized so that it just covers these, of squares the
    /// shorter side, and what lies beyond is cut off on both sides.
    ///
    /// # Errors
    ///
    /// If the image cannot be scaled so much.
    pub fn scale(&mut self, image: &Rgb, (height, width): (usize, usize), out: &mut [u8]) -> Result<(), String> {
        let (from_height, from_width) = (image.height, image.width);
        if (from_height, from_width) == (height, width) {
            out.copy_from_slice(&image.pixels);
            return Ok(());
        }
        // torchvision: the longer side is truncated, the crop's corner rounded half to even as Python does.
        let (new_width, new_height) = match from_width * height >= width * from_height {
            true => (height * from_width / from_height, height),
            false => (width, width * from_height / from_width),
        };
        let corner = |long: usize, kept: usize| ((long - kept) as f64 / 2.0).round_ties_even();
        // Only the pixels that survive the crop are computed: the box of the source that the crop comes from.
        let (scale_x, scale_y) = (from_width as f64 / new_width as f64, from_height as f64 / new_height as f64);
        // Rounding may put the box a hair outside the image.
        let fit = |start: f64, extent: f64, limit: f64| (start.min(limit - extent).max(0.0), extent.min(limit));
        let (left, crop_width) = fit(corner(new_width, width) * scale_x, width as f64 * scale_x, from_width as f64);
        let (top, crop_height) = fit(corner(new_height, height) * scale_y, height as f64 * scale_y, from_height as f64);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false)
            .crop(left, top, crop_width, crop_height);
        let [source, target] = &mut self.wide;
        for (buffer, pixels) in [(&mut *source, from_width * from_height), (&mut *target, width * height)] {
            if buffer.capacity() < 4 * pixels {
                // A new one: growing would hold the old one meanwhile.
                *buffer = Vec::new();
                *buffer = files::buffer(4 * pixels)?;
            }
        }
        source.clear();
        source.extend(image.pixels.as_chunks().0.iter().flat_map(|&[r, g, b]| [r, g, b, 0]));
        target.resize(width * height * 4, 0);
        let from = ImageRef::new(from_width as u32, from_height as u32, source, PixelType::U8x4).map_err(one_line)?;
        let mut to = Image::from_slice_u8(width as u32, height as u32, target, PixelType::U8x4).map_err(one_line)?;
        self.resizer.resize(&from, &mut to, &options).map_err(one_line)?;
        for (out, wide) in out.chunks_exact_mut(3).zip(target.chunks_exact(4)) {
            out.copy_from_slice(&wide[..3]);
        }
        for buffer in [source, target] {
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A horizontal ramp keeps its middle when the sides are cut off.
    #[test]
    fn the_middle_is_kept() {
        let (width, height) = (64, 32);
        let pixels = (0..height).flat_map(|_| (0..width).flat_map(|x| [4 * x as u8; 3])).collect();
        let image = Rgb { pixels, width, height };
        let mut same = vec![0; 32 * 32 * 3];
        Scaler::default().scale(&image, (32, 32), &mut same).unwrap();
        let row: Vec<u8> = (16..48).map(|x| 4 * x).collect();
        assert!(same.chunks(96).all(|r| r.chunks(3).zip(&row).all(|(p, &v)| p == [v; 3])));
        let mut half = vec![0; 16 * 16 * 3];
        Scaler::default().scale(&image, (16, 16), &mut half).unwrap();
        for (i, p) in half[..48].chunks(3).enumerate() {
            let expected = 4 * (16 + 2 * i as i32) + 2;
            assert!((i32::from(p[0]) - expected).abs() <= 1, "column {i}: {} for {expected}", p[0]);
        }
    }

    #[test]
    fn every_shape_fits() {
        let mut scaler = Scaler::default();
        for (width, height) in [(1, 1), (1, 500), (500, 1), (3, 7), (333, 500), (31, 33), (1000, 999)] {
            let image = Rgb { pixels: vec![77; width * height * 3], width, height };
            for size in [1, 2, 31, 32, 224] {
                let mut out = vec![0; size * size * 3];
                scaler.scale(&image, (size, size), &mut out).unwrap();
                assert!(out.iter().all(|&v| v == 77), "{width}x{height} to {size}");
            }
        }
    }

    /// torchvision's `Resize(S)` of PIL images, sizes as it computes them.
    #[test]
    fn the_shorter_side_is_as_asked_and_the_longer_truncated() {
        let target = |width, height| Resize::Short(256).target(height, width, u64::MAX).map(|(h, w, _)| (w, h));
        for (from, to) in [
            ((500, 375), (341, 256)),
            ((375, 500), (256, 341)),
            ((256, 256), (256, 256)),
            ((100, 50), (512, 256)),
            ((333, 500), (256, 384)),
            ((64, 4096), (256, 16_384)),
        ] {
            assert_eq!(target(from.0, from.1), Ok(to), "{from:?}");
        }
        let line = target(1, 5000).unwrap_err();
        assert!(line.contains("1x5000 would be stored as 256x1280000, longer than 16384"), "{line}");
        let line = Resize::Short(256).target(5000, 1, 1 << 20).unwrap_err();
        assert!(line.contains("more than 1048576 pixels (see --max-pixels)"), "{line}");
        assert_eq!(Resize::None.target(30, 40, 1200), Ok((30, 40, 8400)));
        assert!(Resize::None.target(30, 40, 1199).is_err());
        assert_eq!(Resize::Square(8).target(5000, 1, 1), Ok((8, 8, 448)));
    }

    /// Of a shape with another aspect, the part that is kept is as wide or as high as the image.
    #[test]
    fn any_shape_is_covered() {
        let mut scaler = Scaler::default();
        for (width, height) in [(7, 40), (40, 7), (32, 48), (1, 1), (1, 300), (300, 1), (33, 49)] {
            // Columns count up, or rows do.
            let ramp = |by_row: bool| {
                let value = move |x: usize, y: usize| if by_row { y * 250 / height } else { x * 250 / width };
                (0..height).flat_map(|y| (0..width).flat_map(move |x| [value(x, y) as u8; 3])).collect()
            };
            for by_row in [false, true] {
                let image = Rgb { pixels: ramp(by_row), width, height };
                let mut out = vec![0; 48 * 32 * 3];
                scaler.scale(&image, (48, 32), &mut out).unwrap();
                let whole = if by_row { width * 48 >= 32 * height } else { width * 48 <= 32 * height };
                let (first, last) = (i32::from(out[0]), i32::from(out[48 * 32 * 3 - 1]));
                let full = i32::from(image.pixels[3 * width * height - 1]);
                if whole {
                    assert!(first <= 8 && last >= full - 8, "{width}x{height} {by_row}: {first} to {last} of {full}");
                } else if full > 200 && width.max(height) > 3 * width.min(height) {
                    assert!(first > 20 && last < full - 20, "{width}x{height} {by_row}: {first} to {last} of {full}");
                }
            }
        }
    }

    /// A square from the middle is what is in the middle of the whole.
    #[test]
    fn the_whole_agrees_with_its_middle() {
        let (width, height) = (90, 60);
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| [2 * x as u8, 3 * y as u8, 9])).collect();
        let image = Rgb { pixels, width, height };
        let (mut whole, mut middle) = (vec![0; 30 * 45 * 3], vec![0; 30 * 30 * 3]);
        let mut scaler = Scaler::default();
        scaler.scale(&image, (30, 45), &mut whole).unwrap();
        scaler.scale(&image, (30, 30), &mut middle).unwrap();
        // The corner is at 7.5, which rounds to 8.
        for (row, expected) in whole.chunks(45 * 3).zip(middle.chunks(30 * 3)) {
            assert!(row[8 * 3..].iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 1));
        }
    }

    #[test]
    fn what_the_flag_may_say() {
        for (text, resize) in [("none", Resize::None), ("short:1", Resize::Short(1)), ("short:256", Resize::Short(256))]
        {
            assert_eq!(text.parse(), Ok(resize));
            assert_eq!(resize.to_string(), text);
        }
        for text in
            ["", "short", "short:", "short:-1", "short:0", "short:99999", "square:8", "256", "none:1", "Short:1"]
        {
            assert!(text.parse::<Resize>().is_err(), "{text}");
        }
    }
}
