//! The sizes at which images are trained and evaluated on.

use super::Config;
use crate::data::store::{ImageSet, Store};
use crate::error::{Error, Result};
use crate::method::photos::{Framing, Photos};
use crate::nn::encoder;

/// The size that photographs are trained at, if the images are that large and nothing else is said.
const USUAL: usize = 224;

/// Images of one size up to this are cropped from a border, as CIFAR's are, unless sizes are asked for.
const BORDERED: usize = 64;

/// Largest side of what a network sees, or of what evaluation resizes to.
const LARGEST: usize = 4096;

/// The sides of the images that a run is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// All have these rows and columns.
    One([usize; 2]),
    /// They differ.
    Mixed {
        /// Of the training images' shorter sides.
        median: usize,
    },
}

impl Sides {
    /// Those of a store's images.
    pub fn of(store: &Store) -> Sides {
        let train = store.train();
        let sets = [Some(train), Some(store.test()), store.val()].into_iter().flatten();
        let side = |set: &ImageSet| [set.height(), set.width()];
        if sets.into_iter().all(|set| set.index().is_none()) {
            return Sides::One(side(train));
        }
        let mut shorter: Vec<usize> = match train.index() {
            None => return Sides::Mixed { median: train.height().min(train.width()) },
            Some(index) => index.iter().map(|entry| entry.height.min(entry.width)).collect(),
        };
        let middle = (shorter.len() - 1) / 2;
        Sides::Mixed { median: *shorter.select_nth_unstable(middle).1 }
    }
}

/// The shorter side that evaluation resizes to where nothing else is said: 256 for 224.
pub fn usual_resize(size: usize) -> usize {
    (size * 256 + 112) / 224
}

impl Config {
    /// Settles the sizes for images of these sides, and the network's stem.
    ///
    /// # Errors
    /// When this network or these images do not have what was asked for.
    pub fn settle_shapes(&mut self, sides: Sides) -> Result<()> {
        self.settle_sizes(sides)?;
        let side = match (self.size, sides) {
            (Some(size), _) => size,
            (None, Sides::One(sides)) => sides[0].min(sides[1]),
            (None, Sides::Mixed { median }) => median,
        };
        self.stem = encoder::stem(&self.model, self.stem, side)?;
        Ok(())
    }

    /// Settles the sizes for images of these sides: which, if any, photographs are trained and evaluated at.
    ///
    /// # Errors
    /// When augmentations of photographs are asked for, and images are small and cropped from a border.
    pub fn settle_sizes(&mut self, sides: Sides) -> Result<()> {
        let usual = match sides {
            Sides::One([height, width]) => {
                let as_stored = self.size.is_none_or(|size| [size; 2] == [height, width]);
                if height.max(width) <= BORDERED && as_stored && self.eval_resize.is_none() {
                    self.size = None;
                    return match self.photos {
                        None => Ok(()),
                        Some(_) => Err(Error::Config(format!(
                            "photos: images of {height}x{width} are cropped from a border and mirrored; to have them treated as \
                             photographs, give another --size or an --eval-resize"
                        ))),
                    };
                }
                height.min(width)
            }
            Sides::Mixed { median } => median.min(USUAL),
        };
        let size = *self.size.get_or_insert(usual);
        self.eval_resize.get_or_insert(usual_resize(size));
        self.photos.get_or_insert(Photos::GLMC);
        self.check_sizes()
    }

    /// Checks the sizes by themselves.
    pub(super) fn check_sizes(&self) -> Result<()> {
        for (name, side) in [("size", self.size), ("eval-resize", self.eval_resize)] {
            if let Some(side) = side.filter(|side| !(1..=LARGEST).contains(side)) {
                return Err(Error::Config(format!("{name} must lie in 1..={LARGEST}, not {side}")));
            }
        }
        self.photos.map_or(Ok(()), |photos| photos.check())
    }

    /// How photographs are seen; `None` where images of one size are cropped from a border.
    pub fn framing(&self) -> Option<Framing> {
        let size = self.size?;
        let resize = self.eval_resize.unwrap_or_else(|| usual_resize(size));
        Some(Framing { size, resize, photos: self.photos.unwrap_or(Photos::GLMC) })
    }
}

impl Framing {
    /// What works but is unusual.
    pub fn note(&self) -> Option<String> {
        let Framing { size, resize, .. } = self;
        (resize < size).then(|| {
            format!("warning: --eval-resize {resize} is below --size {size}: evaluation shows whole images in a black border")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PlacementSettings, Settings};

    fn settled(settings: &str, sides: Sides) -> Result<[Option<usize>; 2]> {
        let settings: Settings = toml::from_str(settings).unwrap();
        let mut config = Config::resolve(Settings { placement: PlacementSettings::on("x.lt"), ..settings })?;
        config.settle_sizes(sides)?;
        // What is settled stays as it is on the same data.
        let mut again = config.clone();
        again.settle_sizes(sides)?;
        assert_eq!(config, again);
        assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
        Ok([config.size, config.eval_resize])
    }

    #[test]
    fn small_images_of_one_size_stay_as_they_are() {
        let cifar = Sides::One([32, 32]);
        assert_eq!(settled("", cifar).unwrap(), [None, None]);
        assert_eq!(settled("size = 32", cifar).unwrap(), [None, None]);
        assert_eq!(settled("size = 24", cifar).unwrap(), [Some(24), Some(27)]);
        assert_eq!(settled("eval_resize = 36", cifar).unwrap(), [Some(32), Some(36)]);
        assert_eq!(settled("", Sides::One([64, 48])).unwrap(), [None, None]);
        let message = settled("[photos]\nkind = 'plain'", cifar).unwrap_err().to_string();
        assert!(message.contains("32x32") && message.contains("--size"), "{message}");
    }

    #[test]
    fn photographs_have_a_size_and_a_resize() {
        assert_eq!(settled("", Sides::Mixed { median: 256 }).unwrap(), [Some(224), Some(256)]);
        assert_eq!(settled("", Sides::Mixed { median: 50 }).unwrap(), [Some(50), Some(57)]);
        assert_eq!(settled("", Sides::One([96, 128])).unwrap(), [Some(96), Some(110)]);
        assert_eq!(settled("size = 128", Sides::Mixed { median: 256 }).unwrap(), [Some(128), Some(146)]);
        assert!(settled("size = 0", Sides::Mixed { median: 256 }).is_err());
        assert!(settled("eval_resize = 5000", Sides::Mixed { median: 256 }).is_err());
    }

    #[test]
    fn a_smaller_resize_than_the_crop_is_said() {
        let framing = |resize| Framing { size: 224, resize, photos: Photos::GLMC };
        assert!(framing(224).note().is_none());
        assert!(framing(200).note().unwrap().contains("--eval-resize 200"));
    }
}
