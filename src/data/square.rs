//! Images of any shape to squares of one size: torchvision's `Resize(S)` of the shorter side with antialiased bilinear filtering,
//! then `CenterCrop(S)`.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::decode::{Rgb, one_line};
use crate::files;

/// Largest buffer that is kept for the next image.
const KEPT: usize = 64 << 20;

/// Brings images to squares; holds the buffers that resizing needs.
#[derive(Default)]
pub struct Squarer {
    resizer: Resizer,
    /// Four bytes per pixel, of the source and of the result: of the resizer's many pixel types only this one is compiled,
    /// as the others would make up half of the program.
    wide: [Vec<u8>; 2],
}

impl Squarer {
    /// Resizes the shorter side of `image` to `size` and cuts the middle out, into `out` (`size` x `size` x 3 bytes).
    ///
    /// # Errors
    ///
    /// If the image cannot be scaled so much.
    pub fn square(&mut self, image: &Rgb, size: usize, out: &mut [u8]) -> Result<(), String> {
        let (width, height) = (image.width, image.height);
        if (width, height) == (size, size) {
            out.copy_from_slice(&image.pixels);
            return Ok(());
        }
        // torchvision: the longer side is truncated, the crop's corner rounded half to even as Python does.
        let short = width.min(height);
        let (new_width, new_height) = (size * width / short, size * height / short);
        let corner = |long: usize| ((long - size) as f64 / 2.0).round_ties_even();
        // Only the pixels that survive the crop are computed: the box of the source that the crop comes from.
        let (scale_x, scale_y) = (width as f64 / new_width as f64, height as f64 / new_height as f64);
        let side = size as f64;
        // Rounding may put the box a hair outside the image.
        let fit = |start: f64, extent: f64, limit: f64| (start.min(limit - extent).max(0.0), extent.min(limit));
        let (left, crop_width) = fit(corner(new_width) * scale_x, side * scale_x, width as f64);
        let (top, crop_height) = fit(corner(new_height) * scale_y, side * scale_y, height as f64);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false)
            .crop(left, top, crop_width, crop_height);
        let [source, target] = &mut self.wide;
        for (buffer, pixels) in [(&mut *source, width * height), (&mut *target, size * size)] {
            if buffer.capacity() < 4 * pixels {
                // A new one: growing would hold the old one meanwhile.
                *buffer = Vec::new();
                *buffer = files::buffer(4 * pixels)?;
            }
        }
        source.clear();
        source.extend(image.pixels.as_chunks().0.iter().flat_map(|&[r, g, b]| [r, g, b, 0]));
        target.resize(size * size * 4, 0);
        let from = ImageRef::new(width as u32, height as u32, source, PixelType::U8x4).map_err(one_line)?;
        let mut to = Image::from_slice_u8(size as u32, size as u32, target, PixelType::U8x4).map_err(one_line)?;
        self.resizer.resize(&from, &mut to, &options).map_err(one_line)?;
        for (out, wide) in out.chunks_exact_mut(3).zip(target.chunks_exact(4)) {
            out.copy_from_slice(&wide[..3]);
        }
        if source.capacity() > KEPT {
            *source = Vec::new();
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
        Squarer::default().square(&image, 32, &mut same).unwrap();
        let row: Vec<u8> = (16..48).map(|x| 4 * x).collect();
        assert!(same.chunks(96).all(|r| r.chunks(3).zip(&row).all(|(p, &v)| p == [v; 3])));
        let mut half = vec![0; 16 * 16 * 3];
        Squarer::default().square(&image, 16, &mut half).unwrap();
        for (i, p) in half[..48].chunks(3).enumerate() {
            let expected = 4 * (16 + 2 * i as i32) + 2;
            assert!((i32::from(p[0]) - expected).abs() <= 1, "column {i}: {} for {expected}", p[0]);
        }
    }

    #[test]
    fn every_shape_fits() {
        let mut squarer = Squarer::default();
        for (width, height) in [(1, 1), (1, 500), (500, 1), (3, 7), (333, 500), (31, 33), (1000, 999)] {
            let image = Rgb { pixels: vec![77; width * height * 3], width, height };
            for size in [1, 2, 31, 32, 224] {
                let mut out = vec![0; size * size * 3];
                squarer.square(&image, size, &mut out).unwrap();
                assert!(out.iter().all(|&v| v == 77), "{width}x{height} to {size}");
            }
        }
    }
}
