//! Whether a run fits into its device's memory, told before anything is allocated.

use super::report::mebibytes;
use crate::config::Config;
use crate::error::{Error, Result};

/// Refuses a run that takes more than the `free` bytes, and says what would fit. `bytes` is what a run of a configuration takes
/// without its images; `None` where it cannot be planned.
///
/// # Errors
/// When it does not fit.
pub(super) fn check(config: &Config, free: usize, bytes: &dyn Fn(&Config) -> Option<usize>) -> Result<()> {
    let Some(needed) = bytes(config).filter(|needed| *needed > free) else { return Ok(()) };
    let Config { batch, accumulate, .. } = *config;
    let fits = |batch: usize, accumulate: usize| {
        bytes(&Config { batch, accumulate, ..config.clone() }).is_some_and(|needed| needed <= free)
    };
    // A larger batch never takes less.
    let (mut fitting, mut too_large) = (0, batch);
    while too_large - fitting > 1 {
        let middle = fitting + (too_large - fitting) / 2;
        if fits(middle, 1) { fitting = middle } else { too_large = middle }
    }
    let parts = (accumulate + 1..=batch).filter(|parts| batch.is_multiple_of(*parts) && config.sam.is_none());
    let parts = parts.into_iter().find(|parts| fits(batch, *parts));
    let smaller = match fitting {
        0 => "not even one sample at a time would fit".into(),
        n => format!("the largest batch that fits is --batch {n}"),
    };
    let kept = parts.map(|parts| format!("; --accumulate {parts} keeps the batch, in parts of {}", batch / parts));
    Err(Error::Config(format!(
        "batch {batch} needs {} of memory and {} are free: {smaller}{}",
        mebibytes(needed),
        mebibytes(free),
        kept.unwrap_or_default()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PlacementSettings, Sam, Settings};

    fn told(free: usize, sam: Option<Sam>) -> Result<()> {
        let placement = PlacementSettings::on("x.lt");
        let batch = Some(120);
        let config = Config::resolve(Settings { placement, batch, sam, ..Settings::default() }).unwrap();
        // A MiB for each sample of a part, and ten besides.
        check(&config, free << 20, &|config| Some((10 + config.batch / config.accumulate) << 20))
    }

    #[test]
    fn what_would_fit_is_told() {
        assert!(told(130, None).is_ok());
        let said = |free, sam| told(free, sam).unwrap_err().to_string();
        let message = said(129, None);
        assert!(message.contains("batch 120 needs 130.0 MiB of memory and 129.0 MiB are free"), "{message}");
        assert!(message.contains("--batch 119; --accumulate 2 keeps the batch, in parts of 60"), "{message}");
        assert!(said(45, None).ends_with("--batch 35; --accumulate 4 keeps the batch, in parts of 30"));
        assert!(said(11, None).ends_with("--batch 1; --accumulate 120 keeps the batch, in parts of 1"));
        assert!(said(10, None).ends_with("not even one sample at a time would fit"));
        assert!(said(45, Some(Sam::new(0.1))).ends_with("--batch 35"));
    }
}
