//! An encoder's features of every image of a set, on the host.

use super::feed::Feed;
use super::passes::{Look, Passes};
use crate::error::Result;
use crate::nn::{Model, ParameterStore};
use crate::ops::Backend;

/// What the encoder makes of each image, of each of its views.
pub struct Features {
    /// (images, views, width).
    values: Vec<f64>,
    views: usize,
    width: usize,
}

impl Features {
    /// Computes the features of a feed's images.
    ///
    /// # Errors
    /// When shapes do not fit, the images cannot be read, or the device fails.
    pub fn extract(
        backend: &dyn Backend,
        model: &Model,
        store: &ParameterStore,
        feed: &Feed<'_>,
        look: Look,
    ) -> Result<Features> {
        let passes =
            Passes::new(backend, store, feed, &look, &|r, seen| Ok(vec![model.record_features(r, seen.images)?]))?;
        let views = look.views();
        let (mut values, mut width) = (Vec::new(), 0);
        passes.run(backend, feed, &mut |images, kept| {
            let (batch, found) = (images.len(), &kept[0].values);
            width = found.len() / (views * batch);
            for n in 0..batch {
                let rows = (0..views).map(|view| (view * batch + n) * width);
                rows.for_each(|row| values.extend_from_slice(&found[row..][..width]));
            }
            Ok(())
        })?;
        Ok(Features { values, views, width })
    }

    /// Features from elsewhere.
    #[cfg(test)]
    pub(super) fn given(values: Vec<f64>, views: usize, width: usize) -> Features {
        Features { values, views, width }
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows of each image, (views, width).
    pub fn images(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact((self.views * self.width).max(1))
    }
}
