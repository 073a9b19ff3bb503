//! `meta.json`: what a store holds. Its last entry is a checksum of every byte before it, so that damage and editing are seen.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::loader::Prepared;
use super::longtail::LongTail;
use super::npy::Dtype;
use crate::{Error, Result};

/// The version of the store's layout that this program writes; it reads this one and those before it.
pub const FORMAT: u32 = 2;

/// Most classes that a store can have.
pub const MAX_CLASSES: usize = 1_000_000;

const CHECKSUM_KEY: &str = ",\n  \"checksum\": \"";
const CHECKSUM_END: &str = "\"\n}\n";

/// The content of `meta.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The version of the layout: [`FORMAT`], or an older one.
    pub format: u32,
    /// Where the images came from: `cifar10`, `cifar100`, `images`, `synthetic`, with what else is worth knowing.
    pub source: String,
    /// A name per class.
    pub class_names: Vec<String>,
    /// Training images per class.
    pub counts: Vec<usize>,
    /// Mean of red, green and blue for the normalisation, of pixels scaled to 0..1.
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue, likewise.
    pub std: [f64; 3],
    /// How the training images were chosen from the source; absent where all were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<LongTail>,
    /// Seed of a drawn set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// CIFAR-100's superclasses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coarse: Option<Coarse>,
    /// What was made of image files; absent where the images came from elsewhere, and in older stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Prepared>,
    /// Every array by its path in the store, `train/pixels.npy` and so on.
    pub arrays: BTreeMap<String, ArrayMeta>,
}

/// Superclasses: the coarse label of an image is `of_class[its label]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coarse {
    /// A name per superclass.
    pub names: Vec<String>,
    /// The superclass of each class.
    pub of_class: Vec<usize>,
}

/// One `.npy` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayMeta {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// BLAKE3 of the whole file (`b3sum` prints the same).
    pub blake3: String,
    /// Format 1: BLAKE3 of the file's first and last 64 KiB (of the whole file where it is not longer than both), which every
    /// reader checks: arrays of two stores that were swapped are seen at once, even where their shapes agree. Later formats
    /// have a checksum for every block of pixels instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
}

impl Meta {
    /// The file's text, with the checksum.
    pub(super) fn to_text(&self) -> String {
        // A tree of strings, numbers and lists always serialises; floats are finite by `validate`.
        let body = serde_json::to_string_pretty(self).expect("meta data serialises");
        let body = body.strip_suffix("\n}").expect("a pretty object ends in a brace on its own line");
        let checksum = checksum(body);
        format!("{body}{CHECKSUM_KEY}{checksum}{CHECKSUM_END}")
    }

    /// Parses and validates the text of the file at `path`.
    pub(super) fn from_text(path: &Path, text: &[u8]) -> Result<Meta> {
        if text.is_empty() {
            return Err(Error::file(path, "is empty; prepare the store again"));
        }
        let damaged =
            || Error::file(path, "is damaged or was edited (its checksum does not fit); prepare the store again");
        let text = std::str::from_utf8(text).map_err(|_| damaged())?;
        let (body, sum) =
            text.strip_suffix(CHECKSUM_END).and_then(|text| text.rsplit_once(CHECKSUM_KEY)).ok_or_else(|| {
                Error::file(
                    path,
                    "is cut off or not a store's meta data (no checksum at its end); prepare the store again",
                )
            })?;
        if checksum(body) != sum {
            return Err(damaged());
        }
        let unfit = |e: serde_json::Error| Error::file(path, format!("is not meta data of a store: {e}"));
        let value: serde_json::Value = serde_json::from_str(&format!("{body}\n}}")).map_err(unfit)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if (1..=u64::from(FORMAT)).contains(&format) => {}
            Some(format) => {
                let what = format!(
                    "store format {format}, this program reads 1 to {FORMAT}; prepare the store again with this version"
                );
                return Err(Error::file(path, what));
            }
            None => return Err(Error::file(path, "says no format version; prepare the store again")),
        }
        let meta: Meta = serde_json::from_value(value).map_err(unfit)?;
        meta.validate().map_err(|what| Error::file(path, what))?;
        Ok(meta)
    }

    /// What is wrong with the content, if anything is.
    pub(super) fn validate(&self) -> Result<(), String> {
        let classes = self.class_names.len();
        if !(2..=MAX_CLASSES).contains(&classes) {
            return Err(format!("{classes} classes: must be 2 to {MAX_CLASSES}"));
        }
        if self.counts.len() != classes {
            return Err(format!("{} training counts for {classes} classes", self.counts.len()));
        }
        if let Some(class) = self.counts.iter().position(|&n| n == 0) {
            return Err(format!("class {class} ({}) has no training image", self.class_names[class]));
        }
        if !self.mean.iter().all(|m| (0.0..=1.0).contains(m)) || !self.std.iter().all(|&s| s > 0.0 && s <= 1.0) {
            return Err(format!("mean {:?} or std {:?} is out of range", self.mean, self.std));
        }
        if self.format == 1
            && let Some((name, _)) = self.arrays.iter().find(|(_, array)| array.ends.is_none())
        {
            return Err(format!("gives {name} no checksum of its ends"));
        }
        if let Some(coarse) = &self.coarse
            && (coarse.of_class.len() != classes || coarse.of_class.iter().any(|&c| c >= coarse.names.len()))
        {
            return Err("the coarse labels do not fit the classes".into());
        }
        Ok(())
    }

    /// The declaration of the array at `name`.
    pub(super) fn array(&self, path: &Path, name: &str) -> Result<&ArrayMeta> {
        self.arrays
            .get(name)
            .ok_or_else(|| Error::file(path, format!("says nothing of {name}; prepare the store again")))
    }
}

fn checksum(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::longtail::{Pick, Profile};

    fn meta() -> Meta {
        let split = LongTail { imbalance: 2.0, profile: Profile::Exp, split: Pick::Ldam, seed: 0 };
        let array = ArrayMeta { dtype: Dtype::I32, shape: vec![3], blake3: "x".into(), ends: None };
        Meta {
            format: FORMAT,
            source: "a \"test\"".into(),
            class_names: vec!["a".into(), "b".into()],
            counts: vec![2, 1],
            mean: [0.49139968, 0.48215827, 0.44653124],
            std: [0.24703233, 0.24348505, 0.26158768],
            split: Some(split),
            seed: None,
            prepared: None,
            coarse: Some(Coarse { names: vec!["x".into()], of_class: vec![0, 0] }),
            arrays: [("train/labels.npy".to_string(), array)].into(),
        }
    }

    #[test]
    fn round_trip_is_exact_and_valid_json() {
        let text = meta().to_text();
        assert_eq!(Meta::from_text(Path::new("m"), text.as_bytes()).unwrap(), meta());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["checksum"].as_str().unwrap().len(), 64);
    }

    #[test]
    fn every_flip_and_every_cut_is_seen() {
        let text = meta().to_text().into_bytes();
        for bit in 0..text.len() * 8 {
            let mut bad = text.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = Meta::from_text(Path::new("meta.json"), &bad).expect_err(&format!("bit {bit}"));
            assert!(error.to_string().starts_with("meta.json: "), "{error}");
        }
        for len in 0..text.len() {
            assert!(Meta::from_text(Path::new("m"), &text[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn odd_content_with_a_fitting_checksum() {
        let error = |change: &dyn Fn(&mut Meta)| {
            let mut odd = meta();
            change(&mut odd);
            Meta::from_text(Path::new("m"), odd.to_text().as_bytes()).unwrap_err().to_string()
        };
        assert!(error(&|m| m.format = 3).contains("format 3"));
        assert!(error(&|m| m.format = 0).contains("format 0"));
        assert!(error(&|m| m.format = 1).contains("train/labels.npy no checksum"));
        assert!(error(&|m| m.counts[1] = 0).contains("class 1 (b)"));
        assert!(error(&|m| m.counts.push(1)).contains("3 training counts"));
        assert!(error(&|m| m.class_names.clear()).contains("0 classes"));
        assert!(error(&|m| m.std[0] = 0.0).contains("std"));
        assert!(error(&|m| m.mean[2] = f64::NAN).contains("not meta data"));
        assert!(error(&|m| m.coarse.as_mut().unwrap().of_class[1] = 1).contains("coarse"));
    }
}
