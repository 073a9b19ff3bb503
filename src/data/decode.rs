//! One image file to RGB pixels of a given size.
//!
//! What the pixels are: those that Pillow's `Image.open(f).convert("RGB")` has (grey is repeated, alpha is dropped,
//! 16 bits are rounded to 8, EXIF orientation is not applied), then torchvision's `Resize(S)` of the shorter side with
//! antialiased bilinear filtering and `CenterCrop(S)`. JPEG decoders may differ by a few counts a pixel.

use std::io::Cursor;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Longest side of an image file.
const MAX_FILE_SIDE: usize = 32_768;
/// Most pixels of an image file.
const MAX_FILE_PIXELS: usize = 1 << 28;

/// A decoded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Rows of red, green, blue.
    pub pixels: Vec<u8>,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Decodes a JPEG or PNG file, told apart by their first bytes.
///
/// # Errors
///
/// Says in a few words why the bytes are no such image: another format, cut off, damaged, absurdly large.
pub fn decode(bytes: &[u8]) -> Result<Rgb, String> {
    match bytes {
        [] => Err("empty".into()),
        [0xff, 0xd8, 0xff, ..] => decode_jpeg(bytes),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => decode_png(bytes),
        _ => Err("neither JPEG nor PNG".into()),
    }
}

fn check_size(width: usize, height: usize) -> Result<(), String> {
    let fits = (1..=MAX_FILE_SIDE).contains(&width) && (1..=MAX_FILE_SIDE).contains(&height);
    match fits && width * height <= MAX_FILE_PIXELS {
        true => Ok(()),
        false => Err(format!("size {width}x{height} is out of range")),
    }
}

fn decode_jpeg(bytes: &[u8]) -> Result<Rgb, String> {
    // Strict: where a file is cut off or damaged, the lenient mode fills the rest with grey and says nothing.
    match decode_jpeg_as(bytes, true) {
        // Padding between header segments is odd but harmless, and real photographs have it.
        Err(what) if what.contains("Extra bytes between headers") && has_end(bytes) => decode_jpeg_as(bytes, false),
        // The decoder is content without the end marker, and then the last rows may be made up.
        Ok(_) if !has_end(bytes) => Err("cut off (no end marker)".into()),
        outcome => outcome,
    }
}

/// Whether the marker that ends a JPEG file is there, perhaps with something after it.
fn has_end(bytes: &[u8]) -> bool {
    let tail = &bytes[bytes.len().saturating_sub(64 << 10)..];
    tail.windows(2).any(|pair| pair == [0xff, 0xd9])
}

fn decode_jpeg_as(bytes: &[u8], strict: bool) -> Result<Rgb, String> {
    let options = DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(MAX_FILE_SIDE)
        .set_max_height(MAX_FILE_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(one_line)?;
    let (width, height) = decoder.dimensions().ok_or("no size in the header")?;
    check_size(width, height)?;
    let pixels = decoder.decode().map_err(one_line)?;
    if pixels.len() != width * height * 3 {
        return Err("an unusual colour space".into());
    }
    Ok(Rgb { pixels, width, height })
}

fn decode_png(bytes: &[u8]) -> Result<Rgb, String> {
    let mut reader = image::ImageReader::with_format(Cursor::new(bytes), image::ImageFormat::Png);
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_FILE_SIDE as u32);
    limits.max_image_height = Some(MAX_FILE_SIDE as u32);
    limits.max_alloc = Some(8 * MAX_FILE_PIXELS as u64);
    reader.limits(limits);
    let image = reader.decode().map_err(one_line)?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    check_size(width, height)?;
    Ok(Rgb { pixels: image.into_raw(), width, height })
}

/// A decoder's error as part of one line.
fn one_line(error: impl std::fmt::Display) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

/// Brings images to squares; holds the buffers that resizing needs.
#[derive(Default)]
pub struct Squarer {
    resizer: Resizer,
    /// Four bytes a pixel, of the source and of the result: of the resizer's many pixel types only this one is compiled,
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
        source.clear();
        source.extend(image.pixels.as_chunks().0.iter().flat_map(|&[r, g, b]| [r, g, b, 0]));
        target.resize(size * size * 4, 0);
        let from = ImageRef::new(width as u32, height as u32, source, PixelType::U8x4).map_err(one_line)?;
        let mut to = Image::from_slice_u8(size as u32, size as u32, target, PixelType::U8x4).map_err(one_line)?;
        self.resizer.resize(&from, &mut to, &options).map_err(one_line)?;
        for (out, wide) in out.chunks_exact_mut(3).zip(target.chunks_exact(4)) {
            out.copy_from_slice(&wide[..3]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image() {
        assert_eq!(decode(b"").unwrap_err(), "empty");
        assert_eq!(decode(b"GIF89a").unwrap_err(), "neither JPEG nor PNG");
        assert!(decode(&[0xff, 0xd8, 0xff]).is_err());
        assert!(decode(b"\x89PNG\r\n\x1a\n").is_err());
    }

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
