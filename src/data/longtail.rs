//! Long-tailed subsets of a balanced set: how many images each class keeps, and which.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::store::Subset;
use crate::rng::mt19937::Mt19937;
use crate::{Error, Result};

/// Keeps what [`hold_out`] draws apart from what [`Pick::Random`] draws by the same seed.
const HOLD_OUT: u32 = 1;

/// The shape of the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Exponential: class c keeps N/C * (1/imbalance)^(c/(C-1)) images.
    Exp,
    /// The first half of the classes keep N/C images, the second half N/C/imbalance.
    Step,
}

/// Which images of a class are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// Those of LDAM-DRW (Cao et al., 2019), which most papers use: NumPy's legacy generator seeded once (with 0, as published),
    /// then for each class in turn the images shuffled and the first of them kept. The subset is ordered class by class.
    Ldam,
    /// Those of GLMC's authors (Du et al., 2023): NumPy's legacy generator seeded once (with 3407, as published), then for each
    /// class in turn `np.random.choice(n, kept, replace=False)`, which is the head of a legacy permutation. Other images than
    /// LDAM-DRW's.
    Glmc,
    /// Those of GLMC's first release, until 23 May 2023, for its withdrawn figures: the same, drawn with replacement, so that
    /// some images come twice and a class's count is kept whatever it has.
    #[serde(rename = "glmc-replacement")]
    GlmcReplacement,
    /// An independent random subset of each class by seed, in the order of the full set.
    Random,
}

impl Pick {
    /// The published seed; 0 where none is.
    pub fn seed(self) -> u64 {
        match self {
            Pick::Glmc | Pick::GlmcReplacement => 3407,
            Pick::Ldam | Pick::Random => 0,
        }
    }

    /// What the command line calls it.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }
}

/// A rule that makes a long-tailed subset.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongTail {
    /// Largest class over smallest class; 1 keeps the set balanced.
    pub imbalance: f64,
    /// The shape of the tail.
    pub profile: Profile,
    /// Which images are kept.
    pub split: Pick,
    /// Seed of `split`; [`Pick::seed`] is the published one.
    pub seed: u64,
}

/// What a [`LongTail`] rule chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Positions in the full set, in the order of the subset.
    pub indices: Vec<usize>,
    /// Images per class in the subset.
    pub counts: Vec<usize>,
    /// Classes that had fewer images than their count in the profile; they keep all they have.
    pub short: Vec<usize>,
}

/// Images per class for a set of `total` images in `classes` classes: LDAM-DRW's `get_img_num_per_cls`, in the same
/// double-precision arithmetic and with the same truncation.
///
/// # Errors
///
/// An imbalance that is not a finite number of at least 1, fewer than two classes, or a class that would keep no image.
pub fn class_counts(total: usize, classes: usize, imbalance: f64, profile: Profile) -> Result<Vec<usize>> {
    if !imbalance.is_finite() || imbalance < 1.0 {
        return Err(Error::Config(format!("imbalance {imbalance}: must be a number of at least 1 (1 is balanced)")));
    }
    if classes < 2 {
        return Err(Error::Config(format!("{classes} class(es): a training set needs at least 2")));
    }
    let largest = total as f64 / classes as f64;
    let factor = 1.0 / imbalance;
    let counts: Vec<usize> = (0..classes)
        .map(|class| match profile {
            Profile::Exp => (largest * factor.powf(class as f64 / (classes as f64 - 1.0))) as usize,
            Profile::Step if class < classes / 2 => largest as usize,
            Profile::Step => (largest * factor) as usize,
        })
        .collect();
    match counts.iter().position(|&n| n == 0) {
        None => Ok(counts),
        Some(class) => Err(Error::Config(format!(
            "imbalance {imbalance}: class {class} would keep 0 of its {largest:.0} images; lower the imbalance"
        ))),
    }
}

impl LongTail {
    /// Chooses a subset of the images whose labels are given.
    ///
    /// # Errors
    ///
    /// Those of [`class_counts`], a label outside `0..classes`, a class without images, or a seed that NumPy's generator does
    /// not take (32 bits).
    pub fn select(&self, labels: &[i32], classes: usize) -> Result<Selection> {
        let wanted = class_counts(labels.len(), classes, self.imbalance, self.profile)?;
        let mut members = vec![Vec::new(); classes];
        for (i, &label) in labels.iter().enumerate() {
            match usize::try_from(label).ok().and_then(|class| members.get_mut(class)) {
                Some(class) => class.push(i),
                None => return Err(Error::Config(format!("image {i}: label {label} is not in 0..{classes}"))),
            }
        }
        if let Some(class) = members.iter().position(Vec::is_empty) {
            return Err(Error::Config(format!("class {class} has no training image")));
        }
        match self.split {
            // A choice without replacement is the head of a permutation of 0..n, and a permutation is a shuffle: the two differ
            // in nothing but their seed.
            Pick::Ldam | Pick::Glmc | Pick::GlmcReplacement => {
                let seed = u32::try_from(self.seed).map_err(|_| {
                    let (seed, split, published) = (self.seed, self.split.name(), self.split.seed());
                    let what = format!("the {split} split takes seeds of 32 bits ({published} is the published one)");
                    Error::Config(format!("seed {seed}: {what}"))
                })?;
                let mut rng = Mt19937::new(seed);
                match self.split {
                    Pick::GlmcReplacement => members.iter_mut().zip(&wanted).for_each(|(class, &n)| {
                        let last = class.len() as u64 - 1;
                        *class = (0..n).map(|_| class[rng.interval(last) as usize]).collect();
                    }),
                    _ => members.iter_mut().for_each(|class| rng.shuffle(class)),
                }
            }
            Pick::Random => {
                for (class, images) in members.iter_mut().enumerate() {
                    let mut rng = Mt19937::from_key(&[self.seed as u32, (self.seed >> 32) as u32, class as u32]);
                    rng.shuffle(images);
                }
            }
        }
        let short = (0..classes).filter(|&c| members[c].len() < wanted[c]).collect();
        members.iter_mut().zip(&wanted).for_each(|(class, &n)| class.truncate(n));
        let counts = members.iter().map(Vec::len).collect();
        let mut indices: Vec<usize> = members.concat();
        if self.split == Pick::Random {
            indices.sort_unstable();
        }
        Ok(Selection { indices, counts, short })
    }
}

/// Which subset each image goes to when shares of every class are held out for testing and validation: the same for the same
/// labels and seed. A class of at least two images gives one to each subset that is asked for, as far as that leaves one for
/// training.
///
/// # Errors
///
/// A share that is not between 0 and 1, or shares that leave nothing for training.
pub fn hold_out(labels: &[i32], classes: usize, shares: [(Subset, f64); 2], seed: u64) -> Result<Vec<Subset>> {
    for (subset, share) in shares {
        if !(0.0..1.0).contains(&share) {
            return Err(Error::Config(format!("{}-fraction {share}: must be between 0 and 1", subset.name())));
        }
    }
    if shares[0].1 + shares[1].1 >= 1.0 {
        return Err(Error::Config("test-fraction and val-fraction leave nothing for training".into()));
    }
    let mut members = vec![Vec::new(); classes];
    // Labels are those of a listing, which are all in `0..classes`.
    labels.iter().enumerate().for_each(|(i, &label)| members[label as usize].push(i));
    let mut subsets = vec![Subset::Train; labels.len()];
    for (class, images) in members.iter_mut().enumerate() {
        Mt19937::from_key(&[seed as u32, (seed >> 32) as u32, class as u32, HOLD_OUT]).shuffle(images);
        let (n, mut rest) = (images.len(), &images[..]);
        for (subset, share) in shares {
            if share > 0.0 && rest.len() > 1 {
                let count = ((share * n as f64).round() as usize).clamp(1, rest.len() - 1);
                rest[..count].iter().for_each(|&i| subsets[i] = subset);
                rest = &rest[count..];
            }
        }
    }
    Ok(subsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_held_out_of_every_class() {
        let labels: Vec<i32> = [100, 10, 3, 2, 1].iter().enumerate().flat_map(|(c, &n)| vec![c as i32; n]).collect();
        let shares = [(Subset::Test, 0.2), (Subset::Val, 0.1)];
        let of = |seed| hold_out(&labels, 5, shares, seed).unwrap();
        let subsets = of(3);
        let count = |class: i32, subset: Subset| {
            labels.iter().zip(&subsets).filter(|&(&label, &s)| label == class && s == subset).count()
        };
        let counts: Vec<[usize; 3]> =
            (0..5).map(|c| [Subset::Train, Subset::Val, Subset::Test].map(|subset| count(c, subset))).collect();
        assert_eq!(counts, [[70, 10, 20], [7, 1, 2], [1, 1, 1], [1, 0, 1], [1, 0, 0]]);
        assert_eq!(subsets, of(3));
        assert_ne!(subsets, of(4));
        for bad in [[1.0, 0.0], [0.0, -0.1], [0.6, 0.4], [f64::NAN, 0.1]] {
            hold_out(&labels, 5, [(Subset::Test, bad[0]), (Subset::Val, bad[1])], 0).unwrap_err();
        }
    }

    #[test]
    fn published_counts() {
        let counts = class_counts(50_000, 10, 100.0, Profile::Exp).unwrap();
        assert_eq!(counts, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]);
        assert_eq!(class_counts(50_000, 100, 100.0, Profile::Exp).unwrap().iter().sum::<usize>(), 10_847);
        assert_eq!(class_counts(50_000, 10, 1.0, Profile::Exp).unwrap(), [5000; 10]);
        let step = class_counts(50_000, 10, 100.0, Profile::Step).unwrap();
        assert_eq!(step, [5000, 5000, 5000, 5000, 5000, 50, 50, 50, 50, 50]);
        assert_eq!(class_counts(50, 5, 10.0, Profile::Step).unwrap(), [10, 10, 1, 1, 1]);
    }

    #[test]
    fn refuses_nonsense() {
        for bad in [0.5, 0.0, -3.0, f64::NAN, f64::INFINITY] {
            let error = class_counts(100, 10, bad, Profile::Exp).unwrap_err().to_string();
            assert!(error.contains("imbalance"), "{error}");
        }
        assert!(class_counts(100, 10, 11.0, Profile::Exp).unwrap_err().to_string().contains("class 9"));
        assert!(class_counts(100, 1, 2.0, Profile::Exp).is_err());
        assert!(class_counts(0, 0, 2.0, Profile::Exp).is_err());
        let rule = LongTail { imbalance: 2.0, profile: Profile::Exp, split: Pick::Ldam, seed: 0 };
        assert!(rule.select(&[0, 0, 1, 2], 2).unwrap_err().to_string().contains("label 2"));
        assert!(rule.select(&[0, 0, -1, 1], 2).is_err());
        assert!(rule.select(&[0, 0, 0, 0], 2).unwrap_err().to_string().contains("class 1"));
        assert!(LongTail { seed: 1 << 32, ..rule }.select(&[0, 0, 1, 1], 2).unwrap_err().to_string().contains("seed"));
    }

    #[test]
    fn random_is_a_seeded_subset_in_order() {
        let labels: Vec<i32> = (0..400).map(|i| i % 4).collect();
        let rule = LongTail { imbalance: 10.0, profile: Profile::Exp, split: Pick::Random, seed: 7 };
        let a = rule.select(&labels, 4).unwrap();
        assert_eq!(a, rule.select(&labels, 4).unwrap());
        assert_ne!(a, LongTail { seed: 8, ..rule }.select(&labels, 4).unwrap());
        assert!(a.indices.is_sorted_by(|x, y| x < y));
        let mut counts = [0; 4];
        a.indices.iter().for_each(|&i| counts[labels[i] as usize] += 1);
        assert_eq!(counts, [100, 46, 21, 10]);
        assert!(a.short.is_empty());
    }

    #[test]
    fn a_class_with_too_few_keeps_all() {
        let mut labels = vec![0; 70];
        labels.extend([1; 30]);
        let rule = LongTail { imbalance: 1.0, profile: Profile::Exp, split: Pick::Ldam, seed: 0 };
        let chosen = rule.select(&labels, 2).unwrap();
        assert_eq!((chosen.counts, chosen.short), (vec![50, 30], vec![1]));
    }
}
