//! Data of the right shapes and no content, for planning a run whose store is not at hand.

use crate::config::DataSet;
use crate::data::longtail::{Profile, class_counts};
use crate::data::pixels::PixelSource;
use crate::data::synthetic::SyntheticConfig;
use crate::error::Result;
use crate::ops::augment_mix::Augmentation;
use crate::train::engine::Data;
use crate::train::feed::Images;

/// Side of the squares that stand for stored photographs.
const STORED: usize = 256;

/// Black pixels without end.
struct Black;

impl PixelSource for Black {
    fn read(&self, _at: usize, into: &mut [u8]) -> Result<()> {
        into.fill(0);
        Ok(())
    }
}

/// Black images, as many and as large as a preset's.
#[derive(Clone, PartialEq)]
pub struct StandIn {
    /// Training images of each class.
    pub counts: Vec<usize>,
    pub test_images: usize,
    /// Rows and columns of an image.
    pub size: usize,
}

impl StandIn {
    /// What a preset is meant for.
    ///
    /// # Errors
    /// When the data set cannot be that unbalanced.
    pub fn of(data: DataSet) -> Result<StandIn> {
        let exponential = |total, classes, imbalance| class_counts(total, classes, imbalance, Profile::Exp);
        let (counts, test_images, size) = match data {
            DataSet::Demo => {
                let demo = SyntheticConfig::default();
                let (total, test) = (demo.classes * demo.per_class, demo.classes * demo.test_per_class);
                (exponential(total, demo.classes, demo.imbalance)?, test, demo.size)
            }
            DataSet::Cifar { classes, imbalance } => (exponential(50_000, classes, imbalance as f64)?, 10_000, 32),
            DataSet::Lists(lists) => {
                // Their number and the extremes are known: what a plan asks of them.
                let [most, least] = lists.extremes;
                let mut counts = vec![(lists.images - most - least) / (lists.classes - 2); lists.classes];
                (counts[0], counts[lists.classes - 1]) = (most, least);
                (counts, lists.test_each * lists.classes, STORED)
            }
            DataSet::ImageNet => (vec![1281; 1000], 50_000, STORED),
        };
        Ok(StandIn { counts, test_images, size })
    }

    /// Calls `work` with the data.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with_data<R>(&self, work: impl FnOnce(&Data<'_>) -> Result<R>) -> Result<R> {
        let (train, test) = (vec![0i32; self.counts.iter().sum()], vec![0i32; self.test_images]);
        let side = self.size;
        work(&Data {
            counts: &self.counts,
            train: Images { pixels: &Black, labels: &train, height: side, width: side, index: None },
            test: Some(Images { pixels: &Black, labels: &test, height: side, width: side, index: None }),
            val: None,
            augmentation: Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: side / 8, flip: true },
            framing: None,
        })
    }
}
