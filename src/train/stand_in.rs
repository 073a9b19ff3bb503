//! Data of the right shapes and no content, for planning a run whose store is not at hand.

use super::engine::Data;
use super::feed::Images;
use crate::config::preset;
use crate::data::longtail::{Profile, class_counts};
use crate::data::synthetic::SyntheticConfig;
use crate::error::Result;
use crate::ops::augment_mix::Augmentation;

/// Black images, as many and as large as a preset's.
#[derive(Clone, PartialEq)]
pub struct StandIn {
    /// Training images of each class.
    pub counts: Vec<usize>,
    /// Test images.
    pub test_images: usize,
    /// Rows and columns of an image.
    pub size: usize,
}

impl StandIn {
    /// What a preset is meant for: CIFAR by its name (`cifar100-lt-if50`), the demo by what draws it.
    ///
    /// # Errors
    /// When there is no preset of that name.
    pub fn of(name: &str) -> Result<StandIn> {
        preset(name)?;
        let Some(rest) = name.strip_prefix("cifar") else {
            let demo = SyntheticConfig::default();
            let total = demo.classes * demo.per_class;
            let counts = class_counts(total, demo.classes, demo.imbalance, Profile::Exp)?;
            return Ok(StandIn { counts, test_images: demo.classes * demo.test_per_class, size: demo.size });
        };
        let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse();
        let classes = number(rest).unwrap_or(10);
        let imbalance = rest.split_once("-if").and_then(|(_, rest)| number(rest).ok()).unwrap_or(100);
        let counts = class_counts(50_000, classes, imbalance as f64, Profile::Exp)?;
        Ok(StandIn { counts, test_images: 10_000, size: 32 })
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
            train: Images { pixels: &train.0, labels: &train.1, height: side, width: side },
            test: Images { pixels: &test.0, labels: &test.1, height: side, width: side },
            augmentation: Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: side / 8, flip: true },
        })
    }
}
