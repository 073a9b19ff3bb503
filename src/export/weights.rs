//! The weights that inference takes, as a PyTorch state dict in a safetensors file: the encoder under torchvision's names, and one
//! classifier under the name that torchvision has for it.

use super::properties;
use crate::error::{Error, Result};
use crate::nn::model::{Extent, HeadSpec};
use crate::nn::{HeadKind, HeadShape};
use crate::train::checkpoint::Checkpoint;
use crate::train::manifest::Subject;
use crate::train::posthoc::Classifier;

/// What torchvision calls the classifier.
const NAME: &str = "fc";

/// The file's bytes. A classifier is `fc` whichever it is; learned scales are in its weight and bias, the rows of a cosine head have
/// length 1. `subject` is said where it is known.
///
/// # Errors
/// When the checkpoint lacks the head or a tensor of it, or the heads have no mean that is a head.
pub fn safetensors(checkpoint: &Checkpoint, subject: Option<&Subject>, kind: HeadKind) -> Result<Vec<u8>> {
    let manifest = &checkpoint.manifest;
    let specs = manifest.config.recipe(&manifest.counts)?.head_specs();
    let heads = kind.heads().iter().map(|head| {
        let found = specs.iter().find(|spec| spec.name == head.name());
        found.ok_or_else(|| {
            let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
            Error::Config(format!("this model was trained without {head}; its heads: {}", names.join(", ")))
        })
    });
    let heads = heads.collect::<Result<Vec<&HeadSpec>>>()?;
    let is_cosine = heads.iter().any(|head| head.shape == HeadShape::Cosine);
    if heads.len() > 1 && (is_cosine || heads[0].eval_scale != heads[1].eval_scale) {
        let what = "fc and fc_cb have no mean that is a head of its own: take --head fc or fc_cb";
        return Err(Error::Config(what.into()));
    }
    let shape = if is_cosine { HeadShape::Cosine } else { HeadShape::Linear };
    let plain = HeadSpec { shape, ..HeadSpec::linear(NAME, Extent::Features, Extent::Classes) };
    let classes = manifest.counts.len();
    let mut classifier: Vec<(String, Vec<f64>)> = Vec::new();
    for head in &heads {
        let width = checkpoint.shape(&format!("{}.weight", head.name)).and_then(|shape| shape.last().copied());
        let tensors = Classifier::of(checkpoint, head, classes, width.unwrap_or_default())?.tensors(&plain)?;
        let share = |values: Vec<f64>| values.into_iter().map(|value| value / heads.len() as f64).collect::<Vec<_>>();
        if classifier.is_empty() {
            classifier.extend(tensors.into_iter().map(|(name, values)| (name, share(values))));
        } else {
            for ((_, mean), (_, values)) in classifier.iter_mut().zip(tensors) {
                mean.iter_mut().zip(share(values)).for_each(|(mean, value)| *mean += value);
            }
        }
    }
    let shaped = classifier.into_iter().map(|(name, values)| {
        let shape = if name.ends_with("weight") { vec![classes, values.len() / classes] } else { vec![values.len()] };
        (name, shape, values)
    });
    let is_encoder = |name: &str| {
        let of = |spec: &HeadSpec| name.strip_prefix(spec.name).is_some_and(|rest| rest.starts_with('.'));
        !specs.iter().any(of)
    };
    let mut about = serde_json::Map::new();
    let known = subject.map(|subject| properties(checkpoint, subject, kind)).unwrap_or_default();
    about.extend(known.into_iter().map(|(key, value)| (key.to_owned(), value.into())));
    about.insert("head".into(), kind.name().into());
    about.insert("classifier".into(), shape.to_string().into());
    about.insert("logit_scale".into(), heads[0].eval_scale.into());
    let about = serde_json::Value::Object(about).to_string();
    checkpoint.weights(is_encoder, shaped.collect(), about)
}
