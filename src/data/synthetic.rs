//! A drawn long-tailed set: textured shapes on textured grounds.
//!
//! A class is a shape, a texture and a hue. Neighbouring classes share one or two of them, every image is turned, scaled, moved,
//! half covered and noisy, and now and then one attribute is another class's: a small network learns the large classes in a minute
//! and confuses the small ones with them.
//!
//! Drawn photographs ([`SyntheticConfig::photos`]) differ in size, 80 to 400 pixels a side, and of most the hue says nothing: shape and
//! texture must be learned, as no mean of colours tells classes apart.
//!
//! Only additions, multiplications, divisions, square roots and comparisons are used, in a fixed order, and NumPy's Mersenne
//! Twister: IEEE 754 fixes the result of each, so that a seed gives the same bytes on every machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;

use super::longtail::{Profile, class_counts};
use super::meta::{FORMAT, Meta};
use super::store::Subset;
use super::summary::Summary;
use super::writer::StoreWriter;
use crate::rng::mt19937::Mt19937;
use crate::{Error, Result, stop};

const SHAPES: [&str; 8] = ["disc", "square", "triangle", "cross", "ring", "diamond", "bar", "crescent"];
const TEXTURES: [&str; 8] = ["plain", "rows", "columns", "slanted", "checked", "dotted", "ringed", "speckled"];

/// Of drawn files, 1 to 100.
const JPEG_QUALITY: u8 = 90;

/// Images drawn before they are written, and bytes of them.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 32 << 20;

/// Shortest and longest side of a drawn photograph, and the longest shorter one.
const PHOTO_SIDES: (usize, usize) = (80, 400);
const PHOTO_SHORT: usize = 300;

/// How [`prepare`] draws a set.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticConfig {
    /// Number of classes, 2 to 1000. Beyond 64, classes differ in hue alone and the set becomes much harder.
    pub classes: usize,
    /// Training images of the largest class.
    pub per_class: usize,
    /// Test images of every class.
    pub test_per_class: usize,
    /// Largest class over smallest class.
    pub imbalance: f64,
    /// Side of an image, 8 to 512.
    pub size: usize,
    /// Photographs of many sizes, whatever `size` says.
    pub photos: bool,
    /// Random seed.
    pub seed: u64,
    /// Replace an existing store.
    pub force: bool,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        let (per_class, test_per_class, imbalance) = (500, 50, 50.0);
        Self { classes: 10, per_class, test_per_class, imbalance, size: 32, photos: false, seed: 0, force: false }
    }
}

/// The set's images, each subset's of each class, once the numbers are known to be in range.
fn class_sizes(config: &SyntheticConfig) -> Result<Vec<usize>> {
    let range = |name: &str, value: usize, min: usize, max: usize| match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(Error::Config(format!("{name} {value}: must be {min} to {max}"))),
    };
    range("classes", config.classes, 2, 1000)?;
    range("per-class", config.per_class, 1, 1_000_000)?;
    range("test-per-class", config.test_per_class, 1, 1_000_000)?;
    range("size", config.size, 8, 512)?;
    class_counts(config.per_class * config.classes, config.classes, config.imbalance, Profile::Exp)
}

/// The class of every image of a subset, and its number in that.
fn images(config: &SyntheticConfig, subset: Subset, counts: &[usize]) -> Vec<(usize, usize)> {
    let count = |class: usize| if subset == Subset::Train { counts[class] } else { config.test_per_class };
    (0..config.classes).flat_map(|class| (0..count(class)).map(move |i| (class, i))).collect()
}

/// Draws the set as JPEG files, `out`/train/CLASS/0000.jpg and `out`/test/CLASS/0000.jpg, which [`super::images`] reads; returns
/// how many images the subsets have.
///
/// # Errors
///
/// If a number is out of range, if there is something at `out`, or if files cannot be written; nothing is left behind then.
pub fn files(out: &Path, config: &SyntheticConfig) -> Result<[usize; 2]> {
    let counts = class_sizes(config)?;
    if out.symlink_metadata().is_ok() {
        return Err(Error::file(out, "exists already; name a new folder for the files"));
    }
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(Error::file(parent, "no such folder; make it first"));
    }
    let everyone = fs::Permissions::from_mode(0o777);
    let folder = tempfile::Builder::new()
        .prefix(".drawn-")
        .permissions(everyone)
        .tempdir_in(parent)
        .map_err(Error::io(parent))?;
    let mut drawn = [0; 2];
    for (subset, drawn) in [Subset::Train, Subset::Test].into_iter().zip(&mut drawn) {
        let folders: Vec<PathBuf> = (0..config.classes)
            .map(|class| folder.path().join(subset.name()).join(Look::of(class).name(class).replace(' ', "_")))
            .collect();
        folders.iter().try_for_each(|folder| fs::create_dir_all(folder).map_err(Error::io(folder)))?;
        let images = images(config, subset, &counts);
        *drawn = images.len();
        images.into_par_iter().try_for_each(|(class, i)| {
            stop::check()?;
            let (height, width) = frame(config, subset, class, i);
            let (mut pixels, mut file) = (vec![0; height * width * 3], Vec::new());
            draw(config, subset, class, i, (height, width), &mut pixels);
            let path = folders[class].join(format!("{i:04}.jpg"));
            let mut encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
            encoder
                .encode(&pixels, width as u32, height as u32, ExtendedColorType::Rgb8)
                .map_err(|error| Error::file(&path, error.to_string()))?;
            fs::write(&path, &file).map_err(Error::io(&path))
        })?;
    }
    fs::rename(folder.path(), out).map_err(Error::io(out))?;
    // Nothing is left at its old place.
    let _ = folder.keep();
    Ok(drawn)
}

/// Draws the set and writes the store at `out`.
///
/// # Errors
///
/// If a number is out of range, or if the store cannot be written.
pub fn prepare(out: &Path, config: &SyntheticConfig) -> Result<Summary> {
    let counts = class_sizes(config)?;
    let mut writer = StoreWriter::create(out, config.force, &[])?;
    let mut mean_std = ([0.0; 3], [0.0; 3]);
    for subset in [Subset::Train, Subset::Test] {
        let images = images(config, subset, &counts);
        let frames: Vec<(usize, usize)> = images.iter().map(|&(class, i)| frame(config, subset, class, i)).collect();
        let announced: Vec<(usize, usize, i32)> =
            images.iter().zip(&frames).map(|(&(class, _), &(height, width))| (height, width, class as i32)).collect();
        let mut sums = super::sums::Sums::default();
        let mut file = writer.mixed(subset, &announced)?;
        let largest = frames.iter().map(|&(height, width)| height * width * 3).max().unwrap_or(1);
        let batch = (BATCH_BYTES / largest).clamp(1, BATCH);
        let mut pixels = Vec::new();
        for (images, frames) in images.chunks(batch).zip(frames.chunks(batch)) {
            stop::check()?;
            let bytes = || frames.iter().map(|&(height, width)| height * width * 3);
            pixels.resize(bytes().sum(), 0);
            let outs = super::sizes::parts(&mut pixels, bytes());
            images.par_iter().zip(frames).zip(outs).for_each(|((&(class, i), &frame), out)| {
                draw(config, subset, class, i, frame, out);
            });
            sums.add(&super::sums::Sums::of(&pixels));
            file.append(&pixels)?;
        }
        writer.end_split(file)?;
        if subset == Subset::Train {
            mean_std = sums.mean_std(frames.iter().map(|&(height, width)| (height * width) as u64).sum());
        }
    }
    let meta = Meta {
        format: FORMAT,
        source: format!("synthetic{}, imbalance {}", if config.photos { " photographs" } else { "" }, config.imbalance),
        class_names: (0..config.classes).map(|class| Look::of(class).name(class)).collect(),
        counts,
        mean: mean_std.0,
        std: mean_std.1,
        split: None,
        seed: Some(config.seed),
        coarse: None,
        prepared: None,
        arrays: Default::default(),
    };
    let summary = Summary::new(out, &meta, config.classes * config.test_per_class, Vec::new());
    writer.finish(meta)?;
    Ok(summary)
}

/// What a class looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    shape: usize,
    texture: usize,
    /// 0..1 around the colour circle.
    hue: f64,
}

impl Look {
    fn of(class: usize) -> Look {
        // Five shapes and four textures are enough for twenty classes; more come in only with more classes, so that
        // the usual ten share each shape between two classes and each texture between two or three.
        let (shapes, textures) = if class < 20 { (5, 4) } else { (SHAPES.len(), TEXTURES.len()) };
        let shape = class % shapes;
        let texture = (class / shapes + 2 * shape) % textures;
        let turn = class as f64 * 0.618_033_988_75;
        Look { shape, texture, hue: turn - turn.floor() }
    }

    fn name(self, class: usize) -> String {
        let name = format!("{} {}", TEXTURES[self.texture], SHAPES[self.shape]);
        let repeated = (0..class).any(|other| {
            let other = Look::of(other);
            (other.shape, other.texture) == (self.shape, self.texture)
        });
        if repeated { format!("{name} {class}") } else { name }
    }
}

/// Uniform in `low..high`.
fn uniform(rng: &mut Mt19937, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.next_f64()
}

/// True with probability `p`.
fn chance(rng: &mut Mt19937, p: f64) -> bool {
    rng.next_f64() < p
}

/// Red, green and blue of a hue, with the given saturation and value (HSV, piecewise linear).
fn colour(hue: f64, saturation: f64, value: f64) -> [f64; 3] {
    [0.0, 1.0 / 3.0, 2.0 / 3.0].map(|offset| {
        let turn = hue - offset + 1.5;
        let distance = (turn - turn.floor() - 0.5).abs();
        value * (1.0 - saturation * (6.0 * distance - 1.0).clamp(0.0, 1.0))
    })
}

/// A surface: two colours and a pattern that mixes them.
struct Surface {
    texture: usize,
    frequency: f64,
    phase: [f64; 2],
    colours: [[f64; 3]; 2],
    salt: u32,
}

impl Surface {
    fn new(rng: &mut Mt19937, texture: usize, frequency: f64, light: [f64; 3], contrast: f64) -> Surface {
        Surface {
            texture,
            frequency,
            phase: [rng.next_f64(), rng.next_f64()],
            colours: [light, light.map(|c| c * (1.0 - contrast))],
            salt: rng.next_u32(),
        }
    }

    fn at(&self, x: f64, y: f64) -> [f64; 3] {
        let (u, v) = (x * self.frequency + self.phase[0], y * self.frequency + self.phase[1]);
        // A wave of period 1 from 0 to 1, with soft edges.
        let wave = |t: f64| (4.0 * ((t - t.floor() - 0.5).abs() * 2.0 - 0.5) + 0.5).clamp(0.0, 1.0);
        let mix = match self.texture {
            0 => 0.0,
            1 => wave(v),
            2 => wave(u),
            3 => wave(0.7 * (u + v)),
            4 => {
                let (a, b) = (wave(u), wave(v));
                a + b - 2.0 * a * b
            }
            5 => {
                let (a, b) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
                (4.0 * ((a * a + b * b).sqrt() - 0.33) + 0.5).clamp(0.0, 1.0)
            }
            6 => wave((x * x + y * y).sqrt() * self.frequency + self.phase[0]),
            _ => {
                let cell = ((2.0 * u).floor() as i64 as u32).wrapping_mul(0x9e37_79b1)
                    ^ ((2.0 * v).floor() as i64 as u32).wrapping_mul(0x85eb_ca77)
                    ^ self.salt;
                let mixed = (cell ^ (cell >> 15)).wrapping_mul(0x2c1b_3c6d);
                f64::from((mixed ^ (mixed >> 12)) >> 31)
            }
        };
        std::array::from_fn(|c| self.colours[0][c] + mix * (self.colours[1][c] - self.colours[0][c]))
    }
}

/// How far (x, y) is outside a shape about as large as the unit disc; negative inside.
fn outside(shape: usize, x: f64, y: f64) -> f64 {
    let radius = (x * x + y * y).sqrt();
    let bar = |x: f64, y: f64, half: f64| (x.abs() - 1.0).max(y.abs() - half);
    match shape {
        0 => radius - 0.9,
        1 => x.abs().max(y.abs()) - 0.8,
        2 => (-y - 0.6).max(0.866 * x.abs() + 0.5 * y - 0.6),
        3 => bar(x, y, 0.35).min(bar(y, x, 0.35)),
        4 => (radius - 0.7).abs() - 0.28,
        5 => (x.abs() + y.abs()) * 0.8 - 0.85,
        6 => bar(x, y, 0.4),
        _ => (radius - 1.0).max(0.75 - ((x - 0.5) * (x - 0.5) + y * y).sqrt()),
    }
}

/// The random numbers of one image; `stream` tells those for different things apart.
fn dice(config: &SyntheticConfig, subset: Subset, class: usize, i: usize, stream: &[u32]) -> Mt19937 {
    let subset = match subset {
        Subset::Train => 0,
        Subset::Test => 1,
        Subset::Val => 2,
    };
    let seed = config.seed;
    let key = [seed as u32, (seed >> 32) as u32, subset, class as u32, i as u32];
    Mt19937::from_key(&[&key, stream].concat())
}

/// Height and width of an image.
fn frame(config: &SyntheticConfig, subset: Subset, class: usize, i: usize) -> (usize, usize) {
    if !config.photos {
        return (config.size, config.size);
    }
    let mut rng = dice(config, subset, class, i, &[1]);
    let (shortest, longest) = PHOTO_SIDES;
    // More small ones than large ones.
    let share = rng.next_f64();
    let short = shortest as f64 + (PHOTO_SHORT - shortest) as f64 * share * share;
    let long = (short * uniform(&mut rng, 1.0, 1.6)).min(longest as f64);
    let (short, long) = (short as usize, long as usize);
    if chance(&mut rng, 0.3) { (long, short) } else { (short, long) }
}

/// Draws image `i` of a class into `out` (height x width x 3 bytes).
fn draw(
    config: &SyntheticConfig,
    subset: Subset,
    class: usize,
    i: usize,
    (height, width): (usize, usize),
    out: &mut [u8],
) {
    let rng = &mut dice(config, subset, class, i, &[]);

    let mut look = Look::of(class);
    let other = Look::of(rng.interval(config.classes as u64 - 1) as usize);
    if chance(rng, 0.03) {
        look.texture = other.texture;
    }
    if chance(rng, 0.03) {
        look.shape = other.shape;
    }
    if chance(rng, 0.12) {
        look.hue = other.hue;
    }
    if config.photos && chance(rng, 0.8) {
        look.hue = rng.next_f64();
    }
    let hue = look.hue + uniform(rng, -0.08, 0.08);
    let (saturation, value) = (uniform(rng, 0.4, 0.9), uniform(rng, 0.6, 1.0));
    let contrast = uniform(rng, 0.35, 0.75);
    let frequency = uniform(rng, 1.8, 3.0);
    let object = Surface::new(rng, look.texture, frequency, colour(hue, saturation, value), contrast);

    let ground_texture = rng.interval(TEXTURES.len() as u64 - 1) as usize;
    let (ground_hue, ground_frequency) = (rng.next_f64(), uniform(rng, 0.8, 2.5));
    let ground_colour = colour(ground_hue, uniform(rng, 0.0, 0.5), uniform(rng, 0.25, 0.9));
    let ground_contrast = uniform(rng, 0.0, 0.2);
    let ground = Surface::new(rng, ground_texture, ground_frequency, ground_colour, ground_contrast);

    let scale = uniform(rng, 0.55, 0.85);
    let centre = [uniform(rng, -0.2, 0.2), uniform(rng, -0.2, 0.2)];
    // A turn by up to 23 degrees either way: half-angle tangent, which needs no trigonometry.
    let t = uniform(rng, -0.2, 0.2);
    let (cos, sin) = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
    // A straight cover over part of the image.
    let cover = chance(rng, 0.15).then(|| (uniform(rng, 0.2, 0.8), rng.interval(3), colour(rng.next_f64(), 0.3, 0.5)));
    let noise = uniform(rng, 0.02, 0.09);
    let light = uniform(rng, 0.8, 1.15);

    // The largest square in the middle reaches from -1 to 1 both ways.
    let half = width.min(height) as f64 / 2.0;
    let edge = [width, height].map(|side| side as f64 / (2.0 * half));
    for (row, line) in out.chunks_exact_mut(width * 3).enumerate() {
        let y = (row as f64 + 0.5) / half - edge[1];
        for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
            let x = (column as f64 + 0.5) / half - edge[0];
            let (dx, dy) = ((x - centre[0]) / scale, (y - centre[1]) / scale);
            let (u, v) = (cos * dx + sin * dy, cos * dy - sin * dx);
            // Antialiased over about one pixel.
            let alpha = (0.5 - outside(look.shape, u, v) * scale * half).clamp(0.0, 1.0);
            let (front, back) = (object.at(u, v), ground.at(x, y));
            let mut rgb: [f64; 3] = std::array::from_fn(|c| back[c] + alpha * (front[c] - back[c]));
            if let Some((depth, side, paint)) = cover {
                let along = [x, -x, y, -y][side as usize];
                if along > depth {
                    rgb = paint;
                }
            }
            for (byte, channel) in pixel.iter_mut().zip(rgb) {
                // The sum of three uniform numbers is near enough to a normal one; its standard deviation is 0.5.
                let bits = rng.next_u32();
                let sum = f64::from(bits & 1023) + f64::from((bits >> 10) & 1023) + f64::from((bits >> 20) & 1023);
                let normal = (sum / 1023.0 - 1.5) * 2.0;
                *byte = ((channel * light + noise * normal).clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_distinct() {
        let looks: Vec<Look> = (0..20).map(Look::of).collect();
        for (i, a) in looks.iter().enumerate() {
            assert!(looks[..i].iter().all(|b| (a.shape, a.texture) != (b.shape, b.texture)), "class {i}");
        }
        let names: std::collections::BTreeSet<String> = (0..1000).map(|c| Look::of(c).name(c)).collect();
        assert_eq!(names.len(), 1000);
    }

    #[test]
    fn hues() {
        let near = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-9);
        assert!(near(colour(0.0, 1.0, 1.0), [1.0, 0.0, 0.0]));
        assert!(near(colour(1.0 / 3.0, 1.0, 1.0), [0.0, 1.0, 0.0]));
        assert!(near(colour(0.5, 1.0, 0.8), [0.0, 0.8, 0.8]));
        assert!(near(colour(0.7, 0.0, 0.4), [0.4, 0.4, 0.4]));
    }

    /// The bytes of a seed are the same on every machine: this checksum was made once.
    #[test]
    fn same_bytes_everywhere() {
        let config = SyntheticConfig { size: 16, classes: 30, ..Default::default() };
        let mut hasher = blake3::Hasher::new();
        let mut image = vec![0; 16 * 16 * 3];
        for class in 0..30 {
            draw(&config, Subset::Train, class, 1, (16, 16), &mut image);
            hasher.update(&image);
        }
        assert_eq!(&hasher.finalize().to_hex()[..16], "cb5435815d0ae273");
    }

    #[test]
    fn photographs_have_many_sizes_and_hues() {
        let config = SyntheticConfig { photos: true, ..Default::default() };
        let frames: Vec<(usize, usize)> = (0..500).map(|i| frame(&config, Subset::Train, i % 7, i)).collect();
        let sides = || frames.iter().flat_map(|&(height, width)| [height, width]);
        assert!(sides().all(|side| (80..=400).contains(&side)));
        assert!(sides().any(|side| side > 350) && sides().any(|side| side < 90));
        assert!(frames.iter().filter(|(height, width)| height > width).count() > 100);
        let distinct: std::collections::BTreeSet<_> = frames.iter().collect();
        assert!(distinct.len() > 400);
        assert_eq!(frame(&config, Subset::Train, 3, 4), frame(&config, Subset::Train, 3, 4));
        // What is drawn fills the frame, and no two images of a class have one mean colour.
        let mean = |i| {
            let (height, width) = frame(&config, Subset::Test, 2, i);
            let mut image = vec![0; height * width * 3];
            draw(&config, Subset::Test, 2, i, (height, width), &mut image);
            assert!(image.chunks(width * 3).all(|line| line.iter().any(|&byte| byte > 0)));
            image.iter().map(|&byte| usize::from(byte)).sum::<usize>() / image.len()
        };
        let means: std::collections::BTreeSet<usize> = (0..30).map(mean).collect();
        assert!(means.len() > 15 && means.last().unwrap() - means.first().unwrap() > 40, "{means:?}");
    }
}
