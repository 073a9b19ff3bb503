//! Reading a reference step: a safetensors file with a start, some GLMC steps and their outcome, computed elsewhere in
//! double precision. Images are NCHW and normalised, weights OIHW, names those of the published PyTorch model.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::method::class_vectors::Rule;
use crate::method::recipe::{Head, Heads, Similarity};
use crate::method::schedule::{Coefficient, Course};
use crate::method::{METHODS, MethodSettings, Recipe};
use crate::nn::{HeadKind, HeadShape, Stem};
use crate::ops::augment_mix::View;
use crate::ops::supervised_loss::Reduction;

/// Largest extents that a file may ask for: generous, but an absurd number does not take the machine down.
const MAX_STEPS: usize = 1000;

/// The references that the program carries: names, and files as `tools/make_reference.py` wrote them. Both are within what bf16
/// can reproduce; the first is the smaller one.
const BUILT_IN: [(&str, &[u8]); 2] = [
    ("built-in step_w2_c7_b3", include_bytes!("../../tests/fixtures/step_w2_c7_b3.safetensors")),
    ("built-in step_w4_c10_b5", include_bytes!("../../tests/fixtures/step_w4_c10_b5.safetensors")),
];

/// An open reference file: its settings, and its tensors on demand.
pub struct Reference {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Network, such as `resnet32`.
    pub arch: String,
    /// What images meet first; by itself that of CIFAR, as part 1 of the format has no other.
    pub stem: Stem,
    /// Channels of the first stage.
    pub width: usize,
    pub classes: usize,
    /// Samples per view.
    pub batch: usize,
    /// Rows and columns of an image.
    pub size: usize,
    pub steps: usize,
    /// What was trained.
    pub recipe: Recipe,
    /// Whether heads and views are the file's own: its tensors are then named by head and number of the view, else by GLMC's
    /// names.
    pub has_own_heads: bool,
    /// Width of the projections, from the shape of `param.projection_head.0.bias`; `None` without a similarity.
    pub hidden: Option<usize>,
    /// Training images per class.
    pub counts: Vec<usize>,
    /// Learning rate.
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    /// How far SAM climbs, without the similarity loss; `None` where there is none.
    pub sam: Option<f64>,
    pub nesterov: bool,
}

impl Reference {
    /// Opens a file and checks its settings.
    ///
    /// # Errors
    /// When it cannot be read, is no whole safetensors file, or a setting is missing or absurd.
    pub fn open(path: &Path) -> Result<Reference> {
        Reference::read(path, crate::files::read(path, 1 << 36)?)
    }

    /// The references that the program carries.
    ///
    /// # Errors
    /// Never, but for a damaged program.
    pub fn built_in() -> impl Iterator<Item = Result<Reference>> {
        BUILT_IN.iter().map(|(name, bytes)| Reference::read(Path::new(name), bytes.to_vec()))
    }

    fn read(path: &Path, bytes: Vec<u8>) -> Result<Reference> {
        let wrong = |what: String| Error::file(path, what);
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a whole safetensors file ({e})")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(format!("damaged header ({e})")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let text = |key: &str| {
            metadata.get(key).ok_or_else(|| wrong(format!("not a reference step: its metadata has no {key:?}")))
        };
        let real = |key: &str| -> Result<f64> {
            let value: Option<f64> = text(key)?.parse().ok().filter(|v: &f64| v.is_finite());
            value.ok_or_else(|| wrong(format!("metadata {key:?} is {:?}, not a finite number", metadata[key])))
        };
        let whole = |key: &str, most: usize| -> Result<usize> {
            let value: Option<usize> = text(key)?.parse().ok().filter(|v| (1..=most).contains(v));
            value.ok_or_else(|| wrong(format!("metadata {key:?} is {:?}, not in 1..={most}", metadata[key])))
        };
        let flag = |key: &str| match metadata.get(key).map(String::as_str) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(wrong(format!("metadata {key:?} is {other:?}, not true or false"))),
        };
        let classes = whole("classes", 1 << 20)?;
        let counts: Vec<usize> = serde_json::from_str(text("counts")?)
            .map_err(|e| wrong(format!("metadata \"counts\" is no list of whole numbers ({e})")))?;
        if counts.len() != classes || counts.contains(&0) {
            let what = format!("metadata \"counts\" must hold {classes} positive numbers, one per class");
            return Err(wrong(what));
        }
        let has_own_heads = metadata.contains_key("heads");
        let recipe = match has_own_heads {
            true => {
                let gamma = metadata.contains_key("gamma").then(|| real("gamma")).transpose()?;
                let views = metadata.get("views").map_or("[\"mixup\", \"cutmix\"]", String::as_str);
                own_recipe(views, text("heads")?, gamma).map_err(wrong)?
            }
            false => glmc(&counts, real("alpha")?, real("gamma")?, real("k")?),
        };
        if let Err(e) = recipe.check(&counts, 1) {
            return Err(wrong(format!("metadata: {e}")));
        }
        let bias = "param.projection_head.0.bias";
        let hidden = match (recipe.similarity, tensors.tensor(bias).map(|t| t.shape().to_vec()).as_deref()) {
            (None, _) => None,
            (Some(_), Ok(&[hidden])) => Some(hidden),
            (Some(_), Ok(shape)) => return Err(wrong(format!("tensor {bias} has shape {shape:?}"))),
            (Some(_), Err(_)) => return Err(wrong(format!("has no tensor {bias}"))),
        };
        let stem = match metadata.get("stem").map(String::as_str) {
            None | Some("cifar") => Stem::Cifar,
            Some("imagenet") => Stem::Imagenet,
            Some(other) => return Err(wrong(format!("metadata \"stem\" is {other:?}, not cifar or imagenet"))),
        };
        if let (Some(found), true) = (hidden, metadata.contains_key("hidden"))
            && whole("hidden", 1 << 14)? != found
        {
            let what = format!("metadata \"hidden\" is {:?}, but {bias} has {found} values", metadata["hidden"]);
            return Err(wrong(what));
        }
        let reference = Reference {
            hidden,
            stem,
            arch: text("arch")?.clone(),
            width: whole("width", 1024)?,
            classes,
            batch: whole("batch", 1 << 16)?,
            size: whole("size", 1 << 12)?,
            steps: whole("steps", MAX_STEPS)?,
            recipe,
            has_own_heads,
            counts,
            lr: real("lr")?,
            momentum: real("momentum")?,
            weight_decay: real("weight_decay")?,
            sam: metadata.contains_key("sam").then(|| real("sam")).transpose()?,
            nesterov: flag("nesterov")?,
            path: path.to_path_buf(),
            bytes,
        };
        // What the metadata claims must be what the file holds, before anything is allocated by it.
        let last = format!("step{}.original", reference.steps - 1);
        let views = reference.recipe.views.len();
        reference.tensor(&last, &[views, reference.batch, 3, reference.size, reference.size])?;
        Ok(reference)
    }

    /// What the file calls an output of head `name` for one of the views, or with no name the view itself.
    pub fn view(&self, name: &str, view: usize) -> String {
        match (self.has_own_heads, name) {
            (true, "") => format!("view{view}"),
            (true, name) => format!("{name}.view{view}"),
            (false, "") => self.recipe.views[view].to_string(),
            (false, name) => {
                let name = match name {
                    "fc" => "logits",
                    "fc_cb" => "logits_cb",
                    other => other,
                };
                format!("{name}_{}", self.recipe.views[view])
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A floating-point tensor of just this shape, every value finite: nothing can be compared with a NaN.
    ///
    /// # Errors
    /// When it is missing, has another shape or type, or a value is NaN or infinite.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let (dtype, bytes) = self.tensor(name, shape)?;
        let values: Vec<f64> = match dtype {
            Dtype::F64 => bytemuck::pod_collect_to_vec(bytes),
            Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(bytes).into_iter().map(f64::from).collect(),
            other => return Err(self.wrong(format!("tensor {name} has type {other:?}, not F32 or F64"))),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                let what = format!("tensor {name} holds {} (value {at} of {}): no reference", values[at], values.len());
                Err(self.wrong(what))
            }
            None => Ok(values),
        }
    }

    /// An integer tensor of just this shape, every value in `range`.
    ///
    /// # Errors
    /// When it is missing, has another shape or type, or a value lies outside.
    pub fn integers(&self, name: &str, shape: &[usize], range: RangeInclusive<i32>) -> Result<Vec<i32>> {
        let (dtype, bytes) = self.tensor(name, shape)?;
        if dtype != Dtype::I32 {
            return Err(self.wrong(format!("tensor {name} has type {dtype:?}, not I32")));
        }
        let values: Vec<i32> = bytemuck::pod_collect_to_vec(bytes);
        match values.iter().find(|v| !range.contains(v)) {
            Some(value) => Err(self.wrong(format!("tensor {name} holds {value}, not in {range:?}"))),
            None => Ok(values),
        }
    }

    /// Lambda of a step.
    ///
    /// # Errors
    /// When it is missing or no share.
    pub fn lambda(&self, step: usize) -> Result<f64> {
        let name = format!("step{step}.lambda");
        match self.floats(&name, &[1])?[0] {
            lambda if (0.0..=1.0).contains(&lambda) => Ok(lambda),
            lambda => Err(self.wrong(format!("tensor {name} holds {lambda}, not in 0..=1"))),
        }
    }

    fn wrong(&self, what: String) -> Error {
        Error::file(&self.path, what)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<(Dtype, &[u8])> {
        // `open` has parsed the header already.
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|e| self.wrong(e.to_string()))?;
        let view = tensors.tensor(name).map_err(|_| self.wrong(format!("has no tensor {name}")))?;
        if view.shape() != shape {
            let what = format!("tensor {name} has shape {:?}, but {shape:?} is needed", view.shape());
            return Err(self.wrong(what));
        }
        Ok((view.dtype(), view.data()))
    }
}

/// GLMC with a constant alpha.
fn glmc(counts: &[usize], alpha: f64, gamma: f64, k: f64) -> Recipe {
    // The default method; its two heads, also where the counts are equal.
    let settings = MethodSettings { gamma, k, ..MethodSettings::default() };
    let recipe = METHODS[0].recipe(&settings, counts);
    let constant = |factor| Coefficient { factor, course: Course::Constant, rising: false };
    let fc = Head { coefficient: constant(alpha), ..Head::default() };
    let fc_cb = Head { coefficient: constant(1.0 - alpha), weight: Some(Rule::Power { k }.into()), ..Head::default() };
    Recipe { heads: Heads { fc: Some(fc), fc_cb: Some(fc_cb) }, evaluate: HeadKind::FcCb, ..recipe }
}

/// A head as a file describes it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OwnHead {
    kind: HeadShape,
    scale: f64,
    class_scale: Option<Vec<f64>>,
    offset: Option<Vec<f64>>,
    margin: Option<Vec<f64>>,
    weight: Option<Vec<f64>>,
    reduction: Reduction,
    coefficient: f64,
}

impl Default for OwnHead {
    fn default() -> OwnHead {
        OwnHead {
            kind: HeadShape::Linear,
            scale: 1.0,
            class_scale: None,
            offset: None,
            margin: None,
            weight: None,
            reduction: Reduction::N,
            coefficient: 1.0,
        }
    }
}

/// The heads of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnHeads {
    fc: Option<OwnHead>,
    fc_cb: Option<OwnHead>,
}

/// A recipe of the file's own views and heads, JSON each; on failure says what is wrong.
fn own_recipe(views: &str, heads: &str, gamma: Option<f64>) -> Result<Recipe, String> {
    let views: Vec<View> = serde_json::from_str(views).map_err(|e| format!("metadata \"views\": {e}"))?;
    let OwnHeads { fc, fc_cb } = serde_json::from_str(heads).map_err(|e| format!("metadata \"heads\": {e}"))?;
    let listed = |values: Option<Vec<f64>>| values.map(|values| Rule::Values { values }.into());
    let head = |own: OwnHead| Head {
        shape: own.kind,
        scale: own.scale,
        reduction: own.reduction,
        coefficient: Coefficient { factor: own.coefficient, ..Coefficient::default() },
        class_scale: listed(own.class_scale),
        offset: listed(own.offset),
        margin: listed(own.margin),
        weight: listed(own.weight),
        ..Head::default()
    };
    let evaluate = if fc_cb.is_some() { HeadKind::FcCb } else { HeadKind::Fc };
    let similarity = gamma.map(|gamma| Similarity { gamma, ..Similarity::default() });
    let heads = Heads { fc: fc.map(head), fc_cb: fc_cb.map(head) };
    Ok(Recipe { views, heads, similarity, evaluate, ..Recipe::plain() })
}

/// Turns (n, c, h, w) into (n, h, w, c), with channels padded by zeros to `channels`.
pub fn to_nhwc(values: &[f64], [n, c, h, w]: [usize; 4], channels: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * h * w * channels];
    for (index, &value) in values.iter().enumerate() {
        let (x, y, colour, image) = (index % w, index / w % h, index / (w * h) % c, index / (w * h * c));
        out[((image * h + y) * w + x) * channels + colour] = value;
    }
    out
}

/// Turns (n, h, w, padded channels) into (n, c, h, w).
pub fn to_nchw(values: &[f64], [n, c, h, w]: [usize; 4], channels: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(n * c * h * w);
    for image in 0..n {
        for colour in 0..c {
            out.extend((0..h * w).map(|pixel| values[(image * h * w + pixel) * channels + colour]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_inverse() {
        let values: Vec<f64> = (0..2 * 3 * 4 * 5).map(f64::from).collect();
        let there = to_nhwc(&values, [2, 3, 4, 5], 8);
        assert_eq!(there[1], 20.0);
        assert_eq!(to_nchw(&there, [2, 3, 4, 5], 8), values);
    }
}
