//! JPEG files.

use std::io::{BufRead, Seek};

use image::metadata::Orientation;
use zune_core::bytestream::{ZByteReaderTrait, ZCursor};
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{Exif, Header, MAX_FILE_SIDE, Rgb, one_line, upright, zeros};

/// What the header says, and how the image must be turned; `checked` is told width, height and bytes per pixel.
pub(super) fn header<R: BufRead + Seek>(
    file: R,
    exif: Exif,
    checked: impl Fn(u64, u64, u64) -> Result<Header, String>,
) -> Result<(Header, Orientation), String> {
    let mut decoder = JpegDecoder::new_with_options(file, options(false));
    let (width, height, per_pixel) = size(&mut decoder)?;
    Ok((checked(width, height, per_pixel)?, orientation(&decoder, exif)))
}

fn orientation<T: ZByteReaderTrait>(decoder: &JpegDecoder<T>, exif: Exif) -> Orientation {
    let orientation = match exif {
        Exif::Apply => decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)),
        Exif::Ignore => None,
    };
    orientation.unwrap_or(Orientation::NoTransforms)
}

fn options(strict: bool) -> DecoderOptions {
    DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(MAX_FILE_SIDE as usize)
        .set_max_height(MAX_FILE_SIDE as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
}

fn size<T: ZByteReaderTrait>(decoder: &mut JpegDecoder<T>) -> Result<(u64, u64, u64), String> {
    decoder.decode_headers().map_err(one_line)?;
    let info = decoder.info().ok_or("no size in the header")?;
    // Where the image comes in several scans, its coefficients (16 bits each) are kept until the last one. A file of one scan
    // states no less about itself than one of many, so all are counted alike.
    let coefficients = 2 * u64::from(info.components);
    Ok((info.width.into(), info.height.into(), coefficients))
}

/// Decodes a file; `checked` is told width, height and bytes per pixel before any pixel is decoded.
pub(super) fn decode(
    bytes: &[u8],
    exif: Exif,
    checked: impl Fn(u64, u64, u64) -> Result<Header, String>,
) -> Result<Rgb, String> {
    // The decoder is content without the end, and then the last rows may be made up. What follows the end (a film, a second
    // picture, zeros) is not the image's.
    let bytes = &bytes[..length(bytes).ok_or("cut off (no end marker)")?];
    // Strict: where a file is cut off or damaged, the lenient mode fills the rest with grey and says nothing.
    match decode_as(bytes, true, exif, &checked) {
        // Padding between header segments is odd but harmless, and real photographs have it.
        Err(what) if what.contains("Extra bytes between headers") => decode_as(bytes, false, exif, &checked),
        outcome => outcome,
    }
}

fn decode_as(
    bytes: &[u8],
    strict: bool,
    exif: Exif,
    checked: &dyn Fn(u64, u64, u64) -> Result<Header, String>,
) -> Result<Rgb, String> {
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options(strict));
    let (width, height, per_pixel) = size(&mut decoder)?;
    let Header { width, height, .. } = checked(width, height, per_pixel)?;
    if decoder.output_buffer_size() != Some(3 * width * height) {
        return Err("an unusual colour space".into());
    }
    let mut pixels = zeros(3 * width * height)?;
    decoder.decode_into(&mut pixels).map_err(one_line)?;
    upright(Rgb { pixels, width, height }, orientation(&decoder, exif))
}

/// The length of the JPEG image that `bytes` begin with, through its end marker; `None` where that is missing.
fn length(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        // To the next marker, past compressed data or padding; any number of 0xff may come before its code.
        at += bytes.get(at..)?.iter().position(|&b| b == 0xff)?;
        at += bytes[at..].iter().position(|&b| b != 0xff)?;
        let code = bytes[at];
        at += 1;
        match code {
            // A 0xff in compressed data, restarts, and others without a segment.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            0xd9 => return Some(at),
            // A segment may hold anything, a preview with an end of its own as well.
            _ => at += usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::length;

    #[test]
    fn where_an_image_ends() {
        let preview = [0xff, 0xd8, 0xff, 0xd9];
        let whole =
            [&[0xff, 0xd8, 0xff, 0xe1, 0, 6][..], &preview, &[7, 0xff, 0xff, 0xda, 0, 3, 9, 1, 0xff, 0, 2, 0xff, 0xd0]];
        let whole = [&whole.concat()[..], &[3, 0xff, 0xd9]].concat();
        assert_eq!(length(&whole), Some(whole.len()));
        assert_eq!(length(&[&whole[..], &whole].concat()), Some(whole.len()));
        for n in 0..whole.len() {
            assert_eq!(length(&whole[..n]), None, "{n}");
        }
    }
}
