//! Data of the right shapes and no content, for planning a run whose store is not at hand.

use crate::config::DataSet;
use crate::data::longtail::{Profile, class_counts};
use crate::data::synthetic::SyntheticConfig;
use crate::error::Result;
use crate::ops::augment_mix::Augmentation;
use crate::train::engine::Data;
use crate::train::feed::Images;

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
        let (total, classes, imbalance, test_images, size) = match data {
            DataSet::Demo => {
                let demo = SyntheticConfig::default();
                let (total, test) = (demo.classes * demo.per_class, demo.classes * demo.test_per_class);
                (total, demo.classes, demo.imbalance, test, demo.size)
            }
            DataSet::Cifar { classes, imbalance } => (50_000, classes, imbalance as f64, 10_000, 32),
        };
        Ok(StandIn { counts: class_counts(total, classes, imbalance, Profile::Exp)?, test_images, size })
    }

    /// Calls `work` with the data.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with_data<R>(&self, work: impl FnOnce(&Data<'_>) -> Result<R>) -> Result<R> {
        let blank = |count: usize| (vec![0u8; count * self.size * self.size * 3], vec![0i32; count]);
        let (train, test) = (blank(self.counts.iter().sum()), blank(self.test_images));
        let side = self.size;
        work(&Data {
            counts: &self.counts,
            train: Images { pixels: &train.0, labels: &train.1, height: side, width: side, index: None },
            test: Some(Images { pixels: &test.0, labels: &test.1, height: side, width: side, index: None }),
            val: None,
            augmentation: Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: side / 8, flip: true },
            framing: None,
        })
    }
}
