//! Which images an epoch visits, and with which partners.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::rng::philox::{self, Stream};

/// Where the originals of an epoch come from; how many they are is another matter ([`Length`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Sampling {
    /// Every image once, in random order.
    #[default]
    Shuffle,
    /// With replacement, an image of class c with probability proportional to `n_c^(-q)`.
    Power {
        /// 0 is instance-balanced, 1 class-balanced, 2 reversed.
        q: f64,
    },
    /// The classes in turn, in an order drawn anew for each round, `images` of each at a time; a class's images in random
    /// order, begun again when it has none left (Decoupling, ICLR 2020).
    ClassAware {
        /// Images of a class in its turn; published: 4.
        images: usize,
    },
    /// With replacement, class c with probability `(1 - e/E) n_c/N + (e/E)/C` in epoch e of E (Decoupling's progressively
    /// balanced sampling).
    Progressive,
}

/// How many originals an epoch visits, and so how many steps it has. Steps are of `batch` samples; what is left over makes a
/// last, smaller one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Length {
    /// As many as there are training images, N.
    #[default]
    Images,
    /// As many as all classes would have if each were as large as the largest: `C n_max`.
    LargestClass,
    /// The whole steps that N images make; where they make none, one smaller step of them all. So the code of Decoupling cuts
    /// its epochs (Kang et al., ICLR 2020), those of class-aware sampling too, whose sampler would go on to `C n_max` images.
    WholeSteps,
    /// This many steps.
    Steps { steps: usize },
}

/// The most images of an epoch: the plan of one is kept in memory.
const MOST_IMAGES: usize = 1 << 27;

impl Length {
    /// Originals of an epoch, on `all` images, which the classes share as `counts` says, and in steps of `batch` samples. (What is
    /// timed on drawn samples counts none of its classes as empty, so `all` is not their sum there.)
    ///
    /// # Errors
    /// When an epoch would have no step, or more images than memory could hold.
    pub fn images(self, all: usize, counts: &[usize], batch: usize) -> Result<usize> {
        let images = match self {
            Length::Images => Some(all),
            Length::LargestClass => counts.iter().max().and_then(|most| most.checked_mul(counts.len())),
            Length::WholeSteps if all < batch => Some(all),
            Length::WholeSteps => Some(all / batch * batch),
            Length::Steps { steps } => steps.checked_mul(batch),
        };
        match images {
            Some(0) => Err(Error::Config("originals.length: an epoch has at least 1 step".into())),
            Some(images) if images <= MOST_IMAGES => Ok(images),
            _ => Err(Error::Config(format!("originals.length: an epoch has at most {MOST_IMAGES} images"))),
        }
    }
}

/// Where partners come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Partners {
    /// A permutation of the step's own originals, as Mixup has them.
    #[default]
    Permutation,
    /// A second sampler with replacement: an image of class c with probability proportional to `n_c^(-q)`.
    Power {
        /// 0 is instance-balanced, 1 class-balanced, 2 reversed.
        q: f64,
    },
    /// A second shuffle of all images.
    Shuffle,
    /// As [`Sampling::ClassAware`].
    ClassAware {
        /// Images of a class in its turn.
        images: usize,
    },
    /// As [`Sampling::Progressive`].
    Progressive,
}

impl Partners {
    /// Checks the parameters, for data with these training images per class.
    ///
    /// # Errors
    /// When one is out of range.
    pub fn check(self, counts: &[usize]) -> Result<()> {
        match self {
            Partners::Power { q } => Sampling::Power { q }.check(counts),
            other => other.sampling().map_or(Ok(()), |sampling| sampling.check(counts)),
        }
    }

    /// The sampling of an epoch's partners, where they are drawn by the epoch and not by the step.
    pub fn sampling(self) -> Option<Sampling> {
        match self {
            Partners::Permutation | Partners::Power { .. } => None,
            Partners::Shuffle => Some(Sampling::Shuffle),
            Partners::ClassAware { images } => Some(Sampling::ClassAware { images }),
            Partners::Progressive => Some(Sampling::Progressive),
        }
    }
}

/// The training images of each class.
#[derive(Clone, Debug)]
pub struct Members(Vec<Vec<u32>>);

impl Members {
    /// Those of images with these labels.
    ///
    /// # Errors
    /// When there are no images.
    pub fn new(labels: &[i32], classes: usize) -> Result<Members> {
        let mut members = vec![Vec::new(); classes];
        for (image, &label) in labels.iter().enumerate() {
            members[label as usize].push(image as u32);
        }
        match labels.is_empty() {
            true => Err(Error::Config("no images to draw from".into())),
            false => Ok(Members(members)),
        }
    }

    fn images(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Draws with replacement by weights per class; a class without images is never drawn.
    fn by_class(&self, weight: impl Fn(usize) -> f64) -> Result<Draw<'_>> {
        let cumulative = cumulative(self.0.iter().map(Vec::len), weight)?;
        // A class with images exists: the probabilities sum to 1.
        let last = self.0.iter().rposition(|m| !m.is_empty()).unwrap_or(0);
        Ok(Draw { members: self, cumulative, last })
    }

    /// Draws an image of class c with probability proportional to `n_c^(-q)`.
    ///
    /// # Errors
    /// When q is not finite, or so large that the probabilities are not.
    pub fn by_power(&self, q: f64) -> Result<Draw<'_>> {
        self.by_class(by_power(q))
    }

    /// So many images, by these random words, in 0-based epoch `epoch` of `epochs`.
    ///
    /// # Errors
    /// When a sampler's parameter is out of range.
    pub fn epoch(
        &self,
        sampling: Sampling,
        length: usize,
        mut words: Stream,
        [epoch, epochs]: [usize; 2],
    ) -> Result<Vec<u32>> {
        let images = self.images();
        let drawn = |draw: Draw<'_>, words: &mut Stream| (0..length).map(|_| draw.one(words)).collect();
        match sampling {
            Sampling::Shuffle => {
                let mut order = Vec::with_capacity(length);
                while order.len() < length {
                    let mut all: Vec<u32> = (0..images as u32).collect();
                    shuffle(&mut all, &mut words);
                    all.truncate(length - order.len());
                    order.append(&mut all);
                }
                Ok(order)
            }
            Sampling::Power { q } => Ok(drawn(self.by_power(q)?, &mut words)),
            Sampling::Progressive => {
                let (done, classes) = (epoch as f64 / epochs as f64, self.0.len() as f64);
                let weight = |n: usize| (1.0 - done) * n as f64 / images as f64 + done / classes;
                Ok(drawn(self.by_class(weight)?, &mut words))
            }
            Sampling::ClassAware { images: each } => Ok(self.class_aware(each, length, &mut words)),
        }
    }

    fn class_aware(&self, each: usize, length: usize, words: &mut Stream) -> Vec<u32> {
        let mut classes: Vec<usize> = (0..self.0.len()).filter(|&class| !self.0[class].is_empty()).collect();
        let mut queues: Vec<Vec<u32>> = vec![Vec::new(); self.0.len()];
        let mut order = Vec::with_capacity(length);
        while order.len() < length {
            shuffle(&mut classes, words);
            for &class in &classes {
                for _ in 0..each.min(length - order.len()) {
                    if queues[class].is_empty() {
                        queues[class].clone_from(&self.0[class]);
                        shuffle(&mut queues[class], words);
                    }
                    order.extend(queues[class].pop());
                }
            }
        }
        order
    }
}

/// `n^(1 - q)`: images of probability `n^(-q)` each.
fn by_power(q: f64) -> impl Fn(usize) -> f64 {
    move |n| (n as f64).powf(1.0 - q)
}

/// The probability of each class and all before it, where a class of n images has this weight, and one of none has none.
fn cumulative(counts: impl Iterator<Item = usize>, weight: impl Fn(usize) -> f64) -> Result<Vec<f64>> {
    let weights: Vec<f64> = counts.map(|n| if n == 0 { 0.0 } else { weight(n) }).collect();
    let total: f64 = weights.iter().sum();
    if !(total.is_finite() && total > 0.0) {
        return Err(Error::Config(format!("the classes' probabilities sum to {total}: q must be nearer to 0..=2")));
    }
    let mut sum = 0.0;
    Ok(weights.iter().map(|w| (sum += w / total, sum).1).collect())
}

impl Sampling {
    /// Checks the parameters, for data with these training images per class.
    ///
    /// # Errors
    /// When one is out of range.
    pub fn check(self, counts: &[usize]) -> Result<()> {
        match self {
            Sampling::Shuffle | Sampling::Progressive => Ok(()),
            Sampling::Power { q } => cumulative(counts.iter().copied(), by_power(q)).map(drop),
            Sampling::ClassAware { images: 0 } => {
                Err(Error::Config("class-aware sampling takes at least 1 image of a class at a time".into()))
            }
            Sampling::ClassAware { .. } => Ok(()),
        }
    }
}

/// Fisher-Yates.
pub fn shuffle<T>(items: &mut [T], words: &mut Stream) {
    for last in (1..items.len()).rev() {
        items.swap(last, philox::below(words.word(), last as u32 + 1) as usize);
    }
}

/// Draws images with replacement: first a class, then one of its images.
#[derive(Clone, Debug)]
pub struct Draw<'a> {
    members: &'a Members,
    /// Probability of each class and all before it.
    cumulative: Vec<f64>,
    /// The last class that has images.
    last: usize,
}

impl Draw<'_> {
    /// Draws one image.
    pub fn one(&self, words: &mut Stream) -> u32 {
        let at = words.unit();
        // Rounding may leave the last sum a little under 1. Empty classes add nothing to the sums, so that the first sum
        // above `at` always belongs to a class with images.
        let class = self.cumulative.partition_point(|&c| c <= at).min(self.last);
        let members = &self.members.0[class];
        members[philox::below(words.word(), members.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::philox::Purpose;

    fn labels(counts: &[usize]) -> Vec<i32> {
        counts.iter().enumerate().flat_map(|(class, &n)| vec![class as i32; n]).collect()
    }

    /// Originals of 0-based epoch `epoch` of `epochs`.
    fn drawn(of: &Members, sampling: Sampling, length: usize, seed: u64, [epoch, epochs]: [usize; 2]) -> Vec<u32> {
        let words = Stream::new(seed, epoch as u32, 0, Purpose::Shuffle);
        of.epoch(sampling, length, words, [epoch, epochs]).unwrap()
    }

    #[test]
    fn classes_follow_the_exponent() {
        // CIFAR-10-LT, imbalance 100.
        let counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50];
        let members = Members::new(&labels(&counts), 10).unwrap();
        let first = |q| members.by_power(q).unwrap().cumulative[0];
        let tail = |q| 1.0 - members.by_power(q).unwrap().cumulative[8];
        for (q, head, last) in [(0.2, 0.3417, 0.0086), (1.0, 0.1, 0.1), (2.0, 0.0040, 0.4024)] {
            assert!((first(q) - head).abs() < 5e-5 && (tail(q) - last).abs() < 5e-5, "q {q}: {} {}", first(q), tail(q));
        }
    }

    #[test]
    fn drawn_images_have_the_classes_probabilities() {
        let labels = labels(&[90, 10]);
        let members = Members::new(&labels, 2).unwrap();
        for (q, expected) in [(0.0, 0.1), (1.0, 0.5), (2.0, 0.9)] {
            let (draw, mut words) = (members.by_power(q).unwrap(), Stream::new(5, 0, 0, Purpose::Partner));
            let tail = (0..20_000).filter(|_| draw.one(&mut words) >= 90).count();
            assert!((tail as f64 / 20_000.0 - expected).abs() < 0.015, "q {q}: {tail}");
        }
        assert!(members.by_power(f64::NAN).is_err() && members.by_power(1e9).is_err());
    }

    #[test]
    fn progressive_sampling_goes_from_instances_to_classes() {
        let labels = labels(&[900, 100]);
        let members = Members::new(&labels, 2).unwrap();
        let tail = |epoch| {
            let drawn = drawn(&members, Sampling::Progressive, 1000, 3, [epoch, 100]);
            drawn.iter().filter(|&&image| image >= 900).count() as f64 / 1000.0
        };
        assert!((tail(0) - 0.1).abs() < 0.03 && (tail(50) - 0.3).abs() < 0.05 && (tail(99) - 0.496).abs() < 0.05);
    }

    #[test]
    fn class_aware_rounds_hold_every_class_and_use_up_its_images() {
        let labels = labels(&[50, 6, 0, 4]);
        let members = Members::new(&labels, 4).unwrap();
        let order = drawn(&members, Sampling::ClassAware { images: 2 }, 60, 1, [0, 1]);
        assert_eq!(order.len(), 60);
        for round in order.chunks(6) {
            let mut classes: Vec<i32> = round.iter().map(|&image| labels[image as usize]).collect();
            classes.sort_unstable();
            assert_eq!(classes, [0, 0, 1, 1, 3, 3]);
        }
        // Three rounds use up the six images of class 1, each once.
        let mut seen: Vec<u32> = order[..18].iter().copied().filter(|&image| labels[image as usize] == 1).collect();
        seen.sort_unstable();
        assert_eq!(seen, (50..56).collect::<Vec<u32>>());
        assert!(Sampling::ClassAware { images: 0 }.check(&[50, 6, 0, 4]).is_err());
        // More than there are is an epoch of one class, and takes no more memory.
        let one = drawn(&members, Sampling::ClassAware { images: usize::MAX }, 60, 1, [0, 1]);
        assert_eq!(one.len(), 60);
    }

    #[test]
    fn an_epoch_has_the_length_that_it_is_given() {
        let counts = [50, 6, 0, 4];
        let (labels, samplings) = (
            labels(&counts),
            [Sampling::Shuffle, Sampling::Power { q: 1.0 }, Sampling::ClassAware { images: 4 }, Sampling::Progressive],
        );
        let members = Members::new(&labels, 4).unwrap();
        for sampling in samplings {
            let whole = drawn(&members, sampling, 60, 5, [1, 9]);
            for length in [1, 59, 61, 200] {
                let other = drawn(&members, sampling, length, 5, [1, 9]);
                assert_eq!(other.len(), length, "{sampling:?}");
                // A shorter epoch is cut off, a longer one goes on.
                let both = length.min(60);
                assert_eq!(other[..both], whole[..both], "{sampling:?}");
            }
        }
        // A shuffle visits every image before it visits one again.
        let mut twice = drawn(&members, Sampling::Shuffle, 120, 5, [1, 9]);
        assert_ne!(twice[..60], twice[60..]);
        twice.sort_unstable();
        assert_eq!(twice, (0..120).map(|image| image / 2).collect::<Vec<u32>>());
    }

    #[test]
    fn lengths_are_those_of_their_papers() {
        let images = |length: Length, batch: usize| length.images(60, &[50, 6, 0, 4], batch).map_err(|e| e.to_string());
        assert_eq!(images(Length::Images, 16), Ok(60));
        assert_eq!(images(Length::LargestClass, 16), Ok(200));
        assert_eq!([16, 60, 61].map(|batch| images(Length::WholeSteps, batch)), [48, 60, 60].map(Ok));
        assert_eq!(images(Length::Steps { steps: 7 }, 16), Ok(112));
        for (length, batch, said) in [
            (Length::Steps { steps: 0 }, 16, "at least 1 step"),
            (Length::Steps { steps: usize::MAX }, 16, "at most 134217728 images"),
            (Length::Steps { steps: 1 << 24 }, 16, "at most 134217728 images"),
        ] {
            let message = images(length, batch).unwrap_err();
            assert!(message.contains(said) && message.contains("originals.length"), "{message}");
        }
    }

    #[test]
    fn a_shuffle_visits_every_image_once() {
        let members = Members::new(&labels(&[21]), 1).unwrap();
        let mut order = drawn(&members, Sampling::Shuffle, 21, 7, [3, 10]);
        assert_ne!(order, drawn(&members, Sampling::Shuffle, 21, 7, [4, 10]));
        order.sort_unstable();
        assert_eq!(order, (0..21).collect::<Vec<u32>>());
    }
}
