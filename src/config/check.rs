//! What can be checked of settings without data.

use super::{Config, Init, Shots};
use crate::error::{Error, Result};
use crate::nn::encoder;

impl Config {
    /// Checks every value that the parts that use it do not check themselves.
    ///
    /// # Errors
    /// When a value is out of range; the message names the setting.
    pub fn check(&self) -> Result<()> {
        let positive =
            [("epochs", self.epochs), ("batch", self.batch), ("checkpoint-every", self.placement.checkpoint_every)];
        for (name, value) in positive {
            if value == 0 {
                return Err(Error::Config(format!("{name} must be at least 1")));
            }
        }
        if self.batch > 1 << 16 || self.epochs > 1 << 20 {
            return Err(Error::Config("a batch has at most 65536 samples, a run at most 1048576 epochs".into()));
        }
        self.check_parts()?;
        self.learning_rate().check(self.epochs)?;
        if self.placement.data.to_str().is_none() {
            let what = "its path is not UTF-8, as config.toml needs it: rename it";
            return Err(Error::file(&self.placement.data, what));
        }
        self.init.as_ref().map_or(Ok(()), Init::check)?;
        self.stem.map_or(Ok(None), |stem| encoder::stem(&self.model, Some(stem), 0))?;
        // TOML, and so config.toml, has no larger number.
        if i64::try_from(self.seed).is_err() {
            return Err(Error::Config(format!("seed must be at most {}, not {}", i64::MAX, self.seed)));
        }
        if let (true, Some(Shots::Oltr | Shots::Index)) = (self.twenty_is_few, self.shots) {
            return Err(Error::Config("shots: twenty_is_few means glmc: give one of them".into()));
        }
        let bounded = [
            ("lr", self.lr, 0.0, 1e3),
            ("weight-decay", self.weight_decay, 0.0, 1e3),
            ("momentum", self.momentum, 0.0, 1.0),
            ("gamma", self.gamma, 0.0, 1e6),
            ("k", self.k, -20.0, 20.0),
            ("resample", self.resample, -20.0, 20.0),
            ("beta", self.beta, 1e-3, 1e6),
            ("tau", self.tau.unwrap_or(1.0), -100.0, 100.0),
        ];
        for (name, value, low, high) in bounded {
            if !(low..=high).contains(&value) {
                return Err(Error::Config(format!("{name} must lie in {low}..={high}, not {value}")));
            }
        }
        self.check_sizes()?;
        self.optimizer().check()
    }

    fn check_parts(&self) -> Result<()> {
        let Config { batch, accumulate: parts, .. } = *self;
        if parts == 0 || !batch.is_multiple_of(parts) {
            return Err(Error::Config(format!("accumulate must divide the batch of {batch}, and {parts} does not")));
        }
        if parts > 1 && self.sam.is_some() {
            let what = "accumulate: SAM climbs along the gradient of its whole batch, which is not made in parts";
            return Err(Error::Config(format!("{what}: take a smaller --batch, or leave --sam")));
        }
        Ok(())
    }
}
