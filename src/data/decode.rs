//! One image file to RGB pixels.
//!
//! What the pixels are: those that Pillow's `Image.open(f).convert("RGB")` has (grey is repeated, alpha is dropped, 16 bits are
//! rounded to 8; of an animation the first picture), turned upright by `ImageOps.exif_transpose` unless that is not wanted.
//! JPEG decoders may differ by a few counts per pixel.
//!
//! Files come from anywhere: nothing here trusts a size that a file states, every large buffer may be refused by the system, and
//! a decoder that panics is an error of one image.

mod jpeg;
mod whole;

use std::cell::Cell;
use std::io::{BufRead, Cursor, Seek, SeekFrom};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use clap::ValueEnum;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};

use crate::error;
use crate::files;

/// Longest side of an image file, JPEG's own limit.
const MAX_FILE_SIDE: u64 = 65_535;
/// Most pixels of an image file by default: where Pillow refuses.
pub const MAX_FILE_PIXELS: u64 = 178_956_970;
/// Bytes beside the pixels' that a decoder may take: tables, a window of compressed data, rows.
const SMALL: u64 = 1 << 20;

/// What to do with the orientation that cameras write into a file's EXIF data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exif {
    /// Turn the image upright.
    #[default]
    Apply,
    /// Take the pixels as they are stored, as the pipelines behind most published lists do.
    Ignore,
}

/// How files are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether images are turned upright.
    pub exif: Exif,
    /// Most pixels of an image.
    pub max_pixels: u64,
    /// Most bytes of memory for decoding an image and making it small.
    pub max_memory: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { exif: Exif::default(), max_pixels: MAX_FILE_PIXELS, max_memory: u64::MAX }
    }
}

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

/// What the first bytes of an image file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Columns, turned upright where that is wanted.
    pub width: usize,
    /// Rows, likewise.
    pub height: usize,
    /// Bytes of memory that decoding the file and making the image small take at most.
    pub memory: u64,
}

/// The formats, by the first bytes of a file.
fn format_of(start: &[u8]) -> Result<ImageFormat, String> {
    match start {
        [] => Err("empty".into()),
        [0xff, 0xd8, 0xff, ..] => Ok(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Ok(ImageFormat::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(ImageFormat::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(ImageFormat::Gif),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Ok(ImageFormat::Tiff),
        [b'B', b'M', ..] => Ok(ImageFormat::Bmp),
        _ => Err("no image: none of JPEG, PNG, WebP, GIF, BMP and TIFF".into()),
    }
}

/// Reads an image file's header.
///
/// # Errors
///
/// Says in a few words why this is no image, or why it is too large.
pub fn header<R: BufRead + Seek>(mut file: R, options: &Options) -> Result<Header, String> {
    contained(move || {
        let mut start = [0; 12];
        let n = read_start(&mut file, &mut start).map_err(one_line)?;
        let length = file.seek(SeekFrom::End(0)).map_err(one_line)?;
        file.rewind().map_err(one_line)?;
        let (stored, orientation) = match format_of(&start[..n])? {
            ImageFormat::Jpeg => jpeg::header(file, options.exif, |width, height, per_pixel| {
                check_size(width, height, per_pixel, length, options)
            })?,
            format => {
                let mut decoder = decoder(file, format)?;
                let (width, height) = decoder.dimensions();
                let per_pixel = bytes_per_pixel(&decoder);
                let stored = check_size(width.into(), height.into(), per_pixel, length, options)?;
                (stored, orientation(&mut decoder, options.exif))
            }
        };
        Ok(match lies(orientation) {
            true => Header { width: stored.height, height: stored.width, ..stored },
            false => stored,
        })
    })
}

/// Decodes an image file.
///
/// # Errors
///
/// Says in a few words why the bytes are no such image: another format, cut off, damaged, too large.
pub fn decode(bytes: &[u8], options: &Options) -> Result<Rgb, String> {
    contained(|| {
        let format = format_of(bytes)?;
        let length = bytes.len() as u64;
        // Checked before any pixel is decoded; the header is read again, which costs little beside the pixels.
        let image = |width: u64, height: u64, per_pixel: u64| {
            let header = check_size(width, height, per_pixel, length, options)?;
            // Decoders do not ask for their own large buffers in a way that may fail: better to know beforehand.
            drop(files::buffer::<u8>((per_pixel * width * height) as usize)?);
            Ok(header)
        };
        if format == ImageFormat::Jpeg {
            return jpeg::decode(bytes, options.exif, image);
        }
        whole::check(bytes, format)?;
        let mut decoder = decoder(Cursor::new(bytes), format)?;
        let (width, height) = decoder.dimensions();
        let header = image(width.into(), height.into(), bytes_per_pixel(&decoder))?;
        let orientation = orientation(&mut decoder, options.exif);
        let colour = decoder.color_type();
        let mut raw = zeros(usize::from(colour.bytes_per_pixel()) * header.width * header.height)?;
        decoder.read_image(&mut raw).map_err(one_line)?;
        let pixels = to_rgb(raw, colour, header.width * header.height)?;
        upright(Rgb { pixels, width: header.width, height: header.height }, orientation)
    })
}

fn read_start(file: &mut impl BufRead, start: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < start.len() {
        match file.read(&mut start[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

fn decoder<'a, R: BufRead + Seek + 'a>(file: R, format: ImageFormat) -> Result<impl ImageDecoder + 'a, String> {
    let mut reader = ImageReader::with_format(file, format);
    // Sizes are checked here, by limits whose names the user knows.
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(16 * MAX_FILE_SIDE * MAX_FILE_SIDE);
    reader.limits(limits);
    reader.into_decoder().map_err(one_line)
}

/// How an image must be turned.
fn orientation(decoder: &mut impl ImageDecoder, exif: Exif) -> Orientation {
    match exif {
        Exif::Apply => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        Exif::Ignore => Orientation::NoTransforms,
    }
}

/// Whether turning changes width for height.
fn lies(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

/// Bytes that a decoder of the `image` crate takes for each pixel: what it returns, and as much again inside.
fn bytes_per_pixel(decoder: &impl ImageDecoder) -> u64 {
    2 * u64::from(decoder.color_type().bytes_per_pixel())
}

/// Checks an image's size; `per_pixel` is what its decoder takes for each pixel, `length` that of the file.
fn check_size(width: u64, height: u64, per_pixel: u64, length: u64, options: &Options) -> Result<Header, String> {
    if !(1..=MAX_FILE_SIDE).contains(&width) || !(1..=MAX_FILE_SIDE).contains(&height) {
        return Err(format!("size {width}x{height} is out of range"));
    }
    let pixels = width * height;
    if pixels > options.max_pixels {
        return Err(format!("{width}x{height} is more than {} pixels (see --max-pixels)", options.max_pixels));
    }
    // As RGB, perhaps turned, and with four bytes per pixel for resizing.
    let memory = pixels * (per_pixel + 3 + 4) + length + SMALL;
    if memory > options.max_memory {
        let [needed, limit] = [memory, options.max_memory].map(|bytes| bytes.div_ceil(1 << 20));
        return Err(format!("{width}x{height} takes up to {needed} MiB, more than {limit} (see --decode-memory)"));
    }
    // Both are at most MAX_FILE_SIDE.
    Ok(Header { width: width as usize, height: height as usize, memory })
}

fn zeros(n: usize) -> Result<Vec<u8>, String> {
    let mut buffer = files::buffer(n)?;
    buffer.resize(n, 0);
    Ok(buffer)
}

/// The RGB pixels of an image in another form.
fn to_rgb(raw: Vec<u8>, colour: ColorType, pixels: usize) -> Result<Vec<u8>, String> {
    if colour == ColorType::Rgb8 {
        return Ok(raw);
    }
    let channels = usize::from(colour.channel_count());
    let wide = usize::from(colour.bytes_per_pixel()) / channels;
    let byte = |sample: &[u8]| match *sample {
        [byte] => byte,
        // Decoders write samples of 16 bits in the machine's order; rounded.
        [a, b] => ((u32::from(u16::from_ne_bytes([a, b])) + 128) / 257) as u8,
        [a, b, c, d] => (f32::from_ne_bytes([a, b, c, d]).clamp(0.0, 1.0) * 255.0).round() as u8,
        _ => 0,
    };
    let mut rgb = files::buffer(3 * pixels)?;
    for pixel in raw.chunks_exact(wide * channels) {
        let mut samples = pixel.chunks_exact(wide).map(byte);
        // Grey is repeated; whatever follows the colours is alpha.
        let first = samples.next().unwrap_or(0);
        match channels {
            1 | 2 => rgb.extend([first; 3]),
            _ => rgb.extend([first, samples.next().unwrap_or(0), samples.next().unwrap_or(0)]),
        }
    }
    Ok(rgb)
}

/// Turns an image as its EXIF data say.
fn upright(image: Rgb, orientation: Orientation) -> Result<Rgb, String> {
    let (w, h) = (image.width, image.height);
    // Where the pixel that goes to row y, column x comes from: row, column.
    let from: fn(usize, usize, usize, usize) -> (usize, usize) = match orientation {
        Orientation::NoTransforms => return Ok(image),
        Orientation::FlipHorizontal => |y, x, _, w| (y, w - 1 - x),
        Orientation::Rotate180 => |y, x, h, w| (h - 1 - y, w - 1 - x),
        Orientation::FlipVertical => |y, x, h, _| (h - 1 - y, x),
        Orientation::Rotate90FlipH => |y, x, _, _| (x, y),
        Orientation::Rotate90 => |y, x, h, _| (h - 1 - x, y),
        Orientation::Rotate270FlipH => |y, x, h, w| (h - 1 - x, w - 1 - y),
        Orientation::Rotate270 => |y, x, _, w| (x, w - 1 - y),
    };
    let (width, height) = if lies(orientation) { (h, w) } else { (w, h) };
    let mut pixels = files::buffer(3 * w * h)?;
    for y in 0..height {
        for x in 0..width {
            let (row, column) = from(y, x, h, w);
            pixels.extend_from_slice(&image.pixels[3 * (row * w + column)..][..3]);
        }
    }
    Ok(Rgb { pixels, width, height })
}

/// A decoder's error as part of one line.
pub(super) fn one_line(error: impl std::fmt::Display) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    error::one_line(&text, 120)
}

thread_local! {
    /// Whether a panic of this thread is an error of one image, to be told as such.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder, whose panics become errors. They are bugs of the decoder's; one odd file must not end the work on a million others.
fn contained<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !CONTAINED.get() {
                before(panic);
            }
        }));
    });
    CONTAINED.set(true);
    // Nothing that the decoder left half-done is looked at afterwards.
    let outcome = panic::catch_unwind(AssertUnwindSafe(decode));
    CONTAINED.set(false);
    outcome.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into())).unwrap_or_default();
        Err(format!("the decoder failed on it: {}", one_line(said)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image() {
        let why = |bytes: &[u8]| decode(bytes, &Options::default()).unwrap_err();
        assert_eq!(why(b""), "empty");
        assert!(why(b"%PDF-1.7").contains("none of JPEG, PNG"));
        for start in [&b"GIF89a"[..], b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"RIFF\x08\0\0\0WEBP"] {
            let (decoded, header) = (why(start), header(Cursor::new(start), &Options::default()).unwrap_err());
            assert!(!decoded.contains('\n') && !header.contains('\n'), "{decoded} {header}");
        }
    }

    #[test]
    fn a_panic_of_a_decoder_is_an_error() {
        let outcome: Result<(), String> = contained(|| panic!("index out of\nbounds"));
        assert_eq!(outcome.unwrap_err(), "the decoder failed on it: index out of bounds");
        assert_eq!(contained(|| Ok(3)), Ok(3));
    }

    /// Against `image`'s own turning, for each of the eight orientations.
    #[test]
    fn every_orientation() {
        let (width, height) = (5, 3);
        let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i * 7) as u8).collect();
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).unwrap();
            let ours = upright(Rgb { pixels: pixels.clone(), width, height }, orientation).unwrap();
            let theirs = image::RgbImage::from_raw(width as u32, height as u32, pixels.clone()).unwrap();
            let mut theirs = image::DynamicImage::from(theirs);
            theirs.apply_orientation(orientation);
            assert_eq!((ours.width as u32, ours.height as u32), (theirs.width(), theirs.height()), "{exif}");
            assert_eq!(ours.pixels, theirs.into_rgb8().into_raw(), "{exif}");
        }
    }

    #[test]
    fn samples_of_sixteen_bits_are_rounded_as_the_image_crate_does() {
        let raw: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
        let ours = to_rgb(raw, ColorType::L16, 1 << 16).unwrap();
        let theirs = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(256, 256, (0..=u16::MAX).collect()).unwrap();
        assert_eq!(ours, image::DynamicImage::from(theirs).into_rgb8().into_raw());
    }
}
