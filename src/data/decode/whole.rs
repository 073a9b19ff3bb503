//! Whether a file is all there: decoders are content with the pixels, and a cut file says that something went wrong with it.

use image::ImageFormat;

/// Fails if the end of the file is missing, for the formats whose decoders do not see that.
pub(super) fn check(bytes: &[u8], format: ImageFormat) -> Result<(), String> {
    let whole = match format {
        ImageFormat::Png => png(bytes),
        ImageFormat::WebP => riff(bytes),
        ImageFormat::Bmp => bmp(bytes),
        _ => true,
    };
    if whole { Ok(()) } else { Err("cut off (its end is missing)".into()) }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Chunks (length, name, data, checksum) up to the one named IEND, which is whole; whatever follows is not the image's.
fn png(bytes: &[u8]) -> bool {
    let mut at = 8;
    while let (Some(length), Some(name)) = (number(bytes, at), number::<4>(bytes, at + 4)) {
        at = at.saturating_add(12).saturating_add(u32::from_be_bytes(length) as usize);
        if name == *b"IEND" {
            return at <= bytes.len();
        }
    }
    false
}

/// The header says how much follows it.
fn riff(bytes: &[u8]) -> bool {
    number(bytes, 4).is_some_and(|n| 8 + u64::from(u32::from_le_bytes(n)) <= bytes.len() as u64)
}

/// The header says how long the file is; some programs leave that 0.
fn bmp(bytes: &[u8]) -> bool {
    number(bytes, 2).is_some_and(|n| u64::from(u32::from_le_bytes(n)) <= bytes.len() as u64)
}
