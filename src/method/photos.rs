//! How photographs are drawn: which box of each image a view shows, and what becomes of its colours; and what evaluation
//! shows of them.
//!
//! The distributions are torchvision's (`RandomResizedCrop.get_params`, `ColorJitter.get_params`, `RandomGrayscale`,
//! `GaussianBlur`, `RandomHorizontalFlip`; `Resize` and `CenterCrop`). Each draw is a pure function of seed, epoch, step, set
//! and sample: sixteen blocks of Philox belong to it, each with its own use, so that none depends on how many tries another
//! took.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::augment_mix::Mixing;
use crate::ops::augment_photos::PhotoDraw;
use crate::rng::philox::{self, Purpose};

/// What may happen to a photograph in training. The default is what GLMC's code has for ImageNet-LT and iNaturalist.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Photos {
    /// Smallest and largest share of the image's area that a crop covers.
    pub scale: [f64; 2],
    /// Narrowest and widest crop, as width over height.
    pub ratio: [f64; 2],
    /// Brightness is multiplied by a number in 1 -+ this.
    pub brightness: f64,
    /// Contrast likewise.
    pub contrast: f64,
    /// Saturation likewise.
    pub saturation: f64,
    /// Hues are shifted by up to this many turns.
    pub hue: f64,
    /// Share of the images without colours.
    pub grey: f64,
    /// Share of the images that are blurred.
    pub blur: f64,
    /// Smallest and largest standard deviation of the blur, in output pixels.
    pub sigma: [f64; 2],
    /// Share of the images that are mirrored.
    pub flip: f64,
}

impl Photos {
    /// Crops, jitter, grey, blur and mirroring (GLMC).
    pub const GLMC: Photos = Photos { grey: 0.2, blur: 0.5, ..Photos::JITTER };

    /// Crops, jitter and mirroring: most published baselines on ImageNet-LT.
    pub const JITTER: Photos = Photos { brightness: 0.4, contrast: 0.4, saturation: 0.4, ..Photos::PLAIN };

    /// Crops and mirroring.
    pub const PLAIN: Photos = Photos {
        scale: [0.08, 1.0],
        ratio: [3.0 / 4.0, 4.0 / 3.0],
        brightness: 0.0,
        contrast: 0.0,
        saturation: 0.0,
        hue: 0.0,
        grey: 0.0,
        blur: 0.0,
        sigma: [0.1, 2.0],
        flip: 0.5,
    };

    /// Those of a configuration's table `[photos]`: a `kind` (`glmc`, `jitter`, `plain`), and any setting besides.
    ///
    /// # Errors
    /// When a key or value is none of theirs.
    pub fn of(table: &toml::Table) -> Result<Photos> {
        let wrong = |what: &dyn std::fmt::Display| Error::Config(format!("photos: {what}").replace('\n', " "));
        let mut changes = table.clone();
        let base = match changes.remove("kind") {
            None => Photos::GLMC,
            Some(toml::Value::String(kind)) => match kind.as_str() {
                "glmc" => Photos::GLMC,
                "jitter" => Photos::JITTER,
                "plain" => Photos::PLAIN,
                _ => return Err(wrong(&format!("unknown kind {kind:?}: known are glmc, jitter, plain"))),
            },
            Some(other) => return Err(wrong(&format!("kind must be a name, not {other}"))),
        };
        let mut whole = base.to_table();
        whole.extend(changes);
        let photos: Photos = whole.try_into().map_err(|e: toml::de::Error| wrong(&e.message().trim()))?;
        photos.check()?;
        Ok(photos)
    }

    /// All settings, as a table `[photos]` has them.
    pub fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("numbers have a TOML form")
    }

    /// Checks every value.
    ///
    /// # Errors
    /// When one is out of range; the message names it.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Config(format!("photos: {what}")));
        for (name, [low, high], [least, most]) in [
            ("scale", self.scale, [1e-6, 1.0]),
            ("ratio", self.ratio, [1e-3, 1e3]),
            ("sigma", self.sigma, [1e-3, 100.0]),
        ] {
            if !(least <= low && low <= high && high <= most) {
                return wrong(format!("{name} must be two rising numbers in {least}..={most}, not {low} and {high}"));
            }
        }
        for (name, value, most) in [
            ("brightness", self.brightness, 10.0),
            ("contrast", self.contrast, 10.0),
            ("saturation", self.saturation, 10.0),
            ("hue", self.hue, 0.5),
            ("grey", self.grey, 1.0),
            ("blur", self.blur, 1.0),
            ("flip", self.flip, 1.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return wrong(format!("{name} must lie in 0..={most}, not {value}"));
            }
        }
        Ok(())
    }
}

/// The sizes that photographs are trained and evaluated at, and what may happen to them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Framing {
    /// Rows and columns of what the network sees.
    pub size: usize,
    /// The shorter side that evaluation resizes to before it cuts the centre out.
    pub resize: usize,
    pub photos: Photos,
}

/// Blocks of Philox that belong to one draw.
const BLOCKS: u32 = 16;
/// Tries of a crop, a block each.
const TRIES: u32 = 10;

/// Where in a run a sample is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The run's seed, low word first.
    pub seed: [u32; 2],
    pub epoch: u32,
    pub step: u32,
    /// Which of a view's images: o1, o2, r1, r2 are 0 to 3.
    pub set: u32,
    /// Its place in the step's batch.
    pub sample: u32,
}

/// Which of o1, o2, r1, r2 the sets are that a step has of each sample, in the order of [`Mixing::image_sets`].
pub fn sets(mixing: Mixing) -> &'static [u32] {
    match (mixing, mixing.image_sets()) {
        (Mixing::Two(..), _) => &[0, 1, 2, 3],
        (Mixing::EvaluateFlip, _) => &[0, 1],
        (_, 1) => &[0],
        _ => &[0, 2],
    }
}

impl At {
    fn block(self, block: u32) -> [u32; 4] {
        let purpose = Purpose::Photo as u32 + self.set;
        philox::philox4x32([self.sample * BLOCKS + block, self.step, self.epoch, purpose], self.seed)
    }

    /// Two numbers in 0..1.
    fn units(self, block: u32) -> [f64; 2] {
        let [a, b, c, d] = self.block(block);
        [philox::unit(a, b), philox::unit(c, d)]
    }
}

fn between([low, high]: [f64; 2], unit: f64) -> f64 {
    low + (high - low) * unit
}

impl Photos {
    /// Top, left, height and width of the box that `RandomResizedCrop` shows of an image of `height` x `width` pixels.
    fn crop(&self, at: At, [height, width]: [usize; 2]) -> [u32; 4] {
        let area = (height * width) as f64;
        let [narrow, wide] = self.ratio;
        for block in 0..TRIES {
            let [size, shape] = at.units(block);
            let target = area * between(self.scale, size);
            let ratio = between([narrow.ln(), wide.ln()], shape).exp();
            let rounded = |side: f64| side.sqrt().round_ties_even() as usize;
            let (w, h) = (rounded(target * ratio), rounded(target / ratio));
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let [row, column, ..] = at.block(TRIES);
                let top = philox::below(row, (height - h + 1) as u32);
                let left = philox::below(column, (width - w + 1) as u32);
                return [top, left, h as u32, w as u32];
            }
        }
        // The whole of the image's centre that has an allowed ratio.
        let ratio = width as f64 / height as f64;
        let (h, w) = if ratio < narrow {
            (((width as f64 / narrow).round_ties_even() as usize).clamp(1, height), width)
        } else if ratio > wide {
            (height, ((height as f64 * wide).round_ties_even() as usize).clamp(1, width))
        } else {
            (height, width)
        };
        [(height - h) / 2, (width - w) / 2, h, w].map(|n| n as u32)
    }

    /// What training shows, in `size` x `size` pixels, of an image of these rows and columns.
    pub fn draw(&self, at: At, image: [usize; 2], size: usize) -> PhotoDraw {
        let jitter = |by: f64, unit: f64| between([f64::max(0.0, 1.0 - by), 1.0 + by], unit) as f32;
        let [brightness, contrast] = at.units(TRIES + 1);
        let [saturation, hue] = at.units(TRIES + 2);
        let [grey, blur] = at.units(TRIES + 3);
        let [flip, sigma] = at.units(TRIES + 4);
        let [order, ..] = at.block(TRIES + 5);
        let flag = |flag: u32, is_set: bool| if is_set { flag } else { 0 };
        PhotoDraw {
            brightness: jitter(self.brightness, brightness),
            contrast: jitter(self.contrast, contrast),
            saturation: jitter(self.saturation, saturation),
            hue: between([-self.hue, self.hue], hue) as f32,
            order: permutation(philox::below(order, 24)),
            flags: flag(PhotoDraw::FLIP, flip < self.flip) | flag(PhotoDraw::GREY, grey < self.grey),
            sigma: if blur < self.blur { between(self.sigma, sigma) as f32 } else { 0.0 },
            ..PhotoDraw::of_box(self.crop(at, image), size)
        }
    }
}

/// The `number`-th of the 24 orders of four things, two bits each, the first lowest.
fn permutation(mut number: u32) -> u32 {
    let (mut left, mut order) = ([0, 1, 2, 3], 0);
    for place in 0..4 {
        let remaining = 4 - place;
        let at = (number % remaining) as usize;
        number /= remaining;
        order |= left[at] << (2 * place);
        left.copy_within(at + 1.., at);
    }
    order
}

/// What `Resize` and `CenterCrop` show of an image of these rows and columns; with `mirrored`, its mirror image.
pub fn evaluated([height, width]: [usize; 2], size: usize, resize: usize, mirrored: bool) -> PhotoDraw {
    // As torchvision computes them: the longer side is cut to a whole number, the offset of the crop rounded to the even one; a
    // crop that is larger than the image has the rest of its border on the far side.
    let short = height.min(width);
    let side = |side: usize| if side == short { resize } else { resize * side / short };
    let shift = |side: usize| match side >= size {
        true => ((side - size) as f64 / 2.0).round_ties_even() as f32,
        false => -(((size - side) / 2) as f32),
    };
    let resized = [height, width].map(side);
    PhotoDraw {
        scale: [0, 1].map(|side| ([height, width][side] as f64 / resized[side] as f64) as f32),
        shift: resized.map(shift),
        flags: if mirrored { PhotoDraw::FLIP } else { 0 },
        ..PhotoDraw::of_box([0, 0, height as u32, width as u32], size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u32, set: u32, sample: u32) -> At {
        At { seed: [7, 0], epoch: 3, step, set, sample }
    }

    #[test]
    fn a_draw_is_of_its_place_and_nothing_else() {
        let draw = |at: At| Photos::GLMC.draw(at, [300, 400], 224);
        assert_eq!(draw(at(1, 2, 3)), draw(at(1, 2, 3)));
        let others =
            [at(2, 2, 3), at(1, 3, 3), at(1, 2, 4), At { epoch: 4, ..at(1, 2, 3) }, At { seed: [8, 0], ..at(1, 2, 3) }];
        others.into_iter().for_each(|other| assert_ne!(draw(other), draw(at(1, 2, 3))));
        // Colours do not depend on how many tries the crop took.
        let narrow = Photos { ratio: [30.0, 31.0], ..Photos::GLMC }.draw(at(1, 2, 3), [300, 400], 224);
        assert_eq!((narrow.brightness, narrow.sigma, narrow.order), {
            let usual = draw(at(1, 2, 3));
            (usual.brightness, usual.sigma, usual.order)
        });
    }

    /// Means and bounds of many draws against those of torchvision's distributions.
    #[test]
    fn crops_and_colours_have_their_distributions() {
        const COUNT: u32 = 20_000;
        let image = [480, 640];
        let draws: Vec<PhotoDraw> = (0..COUNT).map(|n| Photos::GLMC.draw(at(n / 64, 0, n % 64), image, 224)).collect();
        let mean = |of: &dyn Fn(&PhotoDraw) -> f64| draws.iter().map(of).sum::<f64>() / f64::from(COUNT);
        let near = |found: f64, expected: f64, within: f64| {
            assert!((found - expected).abs() < within, "{found} is not {expected}");
        };
        for draw in &draws {
            let (h, w) = (f64::from(draw.height), f64::from(draw.width));
            assert!(draw.top + draw.height <= 480 && draw.left + draw.width <= 640);
            let share = h * w / (480.0 * 640.0);
            assert!((0.078..=1.0).contains(&share), "{share}");
            assert!((0.74..=1.35).contains(&(w / h)), "{w} x {h}");
            assert!((0.6..=1.4).contains(&draw.brightness) && draw.hue == 0.0);
            assert!(draw.sigma == 0.0 || (0.1..2.0).contains(&draw.sigma));
            assert_eq!(draw.scale, [(h / 224.0) as f32, (w / 224.0) as f32]);
        }
        near(mean(&|d| f64::from(d.flags & PhotoDraw::FLIP)), 0.5, 0.015);
        near(mean(&|d| f64::from(d.flags & PhotoDraw::GREY) / 2.0), 0.2, 0.015);
        near(mean(&|d| f64::from(u8::from(d.sigma > 0.0))), 0.5, 0.015);
        near(mean(&|d| f64::from(d.sigma)), 0.525, 0.02);
        near(mean(&|d| f64::from(d.contrast)), 1.0, 0.01);
        let orders: std::collections::BTreeSet<u32> = draws.iter().map(|d| d.order).collect();
        assert_eq!(orders.len(), 24);
        // Where nothing is refused, the area is uniform and the ratio's logarithm is.
        let square: Vec<PhotoDraw> = (0..COUNT)
            .map(|n| Photos { scale: [0.08, 0.5], ..Photos::PLAIN }.draw(at(n / 64, 1, n % 64), [1000, 1000], 224))
            .collect();
        let share = square.iter().map(|d| f64::from(d.height * d.width) / 1e6).sum::<f64>() / f64::from(COUNT);
        near(share, 0.29, 0.003);
        let log =
            square.iter().map(|d| (f64::from(d.width) / f64::from(d.height)).ln()).sum::<f64>() / f64::from(COUNT);
        near(log, 0.0, 0.005);
        let free = square.iter().map(|d| f64::from(d.top) / f64::from(1000 - d.height)).sum::<f64>() / f64::from(COUNT);
        near(free, 0.5, 0.01);
    }

    #[test]
    fn what_no_crop_fits_shows_its_centre() {
        // 20 times as wide as high: a crop of 8% or more of it with a ratio of 4/3 at most is never as low.
        let crop = |image| Photos { scale: [0.5, 1.0], ..Photos::GLMC }.crop(at(0, 0, 0), image);
        assert_eq!(crop([30, 600]), [0, 280, 30, 40]);
        assert_eq!(crop([600, 30]), [280, 0, 40, 30]);
        assert_eq!(crop([1, 1]), [0, 0, 1, 1]);
        // One row: nothing is wide enough, and nothing is empty.
        assert_eq!(crop([1, 9]), [0, 4, 1, 1]);
    }

    /// Values of torchvision 0.15's `Resize(256)` and `CenterCrop(224)`.
    #[test]
    fn evaluation_resizes_the_shorter_side_and_cuts_the_centre() {
        let of = |image, size, resize| {
            let draw = evaluated(image, size, resize, false);
            (draw.scale, draw.shift)
        };
        // 375 x 500 becomes 256 x 341; (341 - 224) / 2 = 58.5, rounded to the even 58.
        let (scale, shift) = of([375, 500], 224, 256);
        assert_eq!((scale, shift), ([375.0 / 256.0, (500.0 / 341.0) as f32], [16.0, 58.0]));
        let (_, shift) = of([500, 375], 224, 256);
        assert_eq!(shift, [58.0, 16.0]);
        // 59.5 is rounded to 60.
        assert_eq!(of([256, 343], 224, 256).1, [16.0, 60.0]);
        // A crop larger than the image: of 5 missing rows two lie above it.
        assert_eq!(of([27, 27], 32, 27), ([1.0; 2], [-2.0; 2]));
        assert_eq!(evaluated([27, 27], 32, 27, true).flags, PhotoDraw::FLIP);
    }

    #[test]
    fn a_table_changes_a_kind() {
        let of = |text: &str| Photos::of(&toml::from_str(text).unwrap());
        assert_eq!(of("").unwrap(), Photos::GLMC);
        assert_eq!(of("kind = 'plain'").unwrap(), Photos::PLAIN);
        let some = of("kind = 'jitter'\ngrey = 0.1\nscale = [0.2, 1.0]").unwrap();
        assert_eq!(some, Photos { grey: 0.1, scale: [0.2, 1.0], ..Photos::JITTER });
        for (text, said) in [
            ("kind = 'simclr'", "known are glmc, jitter, plain"),
            ("blurr = 0.1", "unknown field `blurr`"),
            ("flip = 1.5", "flip must lie in 0..=1, not 1.5"),
            ("scale = [0.9, 0.1]", "two rising numbers"),
            ("ratio = [0.0, 1.0]", "ratio"),
            ("hue = nan", "hue"),
        ] {
            let message = of(text).unwrap_err().to_string();
            assert!(message.starts_with("photos: ") && message.contains(said) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn sets_are_the_originals_and_partners_of_each_view() {
        use crate::ops::augment_mix::View;
        assert_eq!(sets(Mixing::GLMC), [0, 1, 2, 3]);
        assert_eq!(sets(Mixing::One(View::Plain)), [0]);
        assert_eq!(sets(Mixing::One(View::Cutmix)), [0, 2]);
        for mixing in
            [Mixing::GLMC, Mixing::One(View::Plain), Mixing::One(View::Mixup), Mixing::Evaluate, Mixing::EvaluateFlip]
        {
            assert_eq!(sets(mixing).len(), mixing.image_sets());
        }
    }
}
