//! A trained model for other programs: an ONNX file, or the weights that inference takes.
//!
//! A network is not described here a second time. It is recorded as evaluation records it, by the same two calls, and the recording
//! is walked: every op says what it computes in inference (its [`Formula`](crate::tape::Formula)), and each formula becomes a few nodes.

mod graph;
pub mod onnx;
pub mod runtime;
mod translate;
pub mod weights;

use std::borrow::Cow;
use std::collections::HashMap;

use prost::Message;
use serde_json::json;

use crate::backend::native::Native;
use crate::error::{Error, Result};
use crate::nn::{HeadKind, Mode, ParameterStore, Recorder};
use crate::ops::Backend;
use crate::tensor::Precision;
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::model;
use crate::train::manifest::Subject;
use crate::version;
use graph::Builder;
use onnx::{Element, IR_VERSION, Model, OPSET, OperatorSet, Property, ValueInfo};
use translate::{Constant, Translator};

/// Longest message that protobuf has.
const LONGEST: usize = i32::MAX as usize;

/// What the graph takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Input {
    /// Bytes 0 to 255, (batch, height, width, 3): images as decoders give them.
    #[default]
    U8,
    /// Singles 0 to 1, (batch, 3, height, width).
    F32,
}

impl Input {
    fn element(self) -> Element {
        match self {
            Input::U8 => Element::U8,
            Input::F32 => Element::F32,
        }
    }

    /// The extents of one image.
    pub fn extents(self, height: usize, width: usize) -> [usize; 3] {
        match self {
            Input::U8 => [height, width, 3],
            Input::F32 => [3, height, width],
        }
    }

    /// In words, for whoever calls the graph.
    pub fn words(self) -> &'static str {
        match self {
            Input::U8 => "RGB bytes 0..255, (batch, height, width, 3)",
            Input::F32 => "RGB floats 0..1, (batch, 3, height, width)",
        }
    }
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The classifier.
    pub head: HeadKind,
    pub input: Input,
    /// Probabilities in place of logits.
    pub softmax: bool,
    /// The encoder's features as a second output.
    pub features: bool,
    /// Batch normalisations as such, not in the convolutions before them.
    pub keep_norms: bool,
}

impl Wanted {
    /// The first output's name.
    pub fn output(&self) -> &'static str {
        if self.softmax { "probabilities" } else { "logits" }
    }
}

/// What a file says about the model besides its numbers, by key; lists as JSON.
pub fn properties(checkpoint: &Checkpoint, subject: &Subject, head: HeadKind) -> Vec<(&'static str, String)> {
    let manifest = &checkpoint.manifest;
    let config = &manifest.config;
    let mut all = vec![
        ("model", config.model.clone()),
        ("width", config.width.to_string()),
        ("method", config.method.name.to_string()),
        ("epoch", manifest.progress.epoch.to_string()),
        ("head", head.to_string()),
        ("classes", subject.class_names.len().to_string()),
        ("class_names", json!(subject.class_names).to_string()),
        ("image_size", json!([subject.height, subject.width]).to_string()),
        ("mean", json!(subject.mean).to_string()),
        ("std", json!(subject.std).to_string()),
        ("glmc_engine", version::VERSION.to_string()),
    ];
    if let Some(framing) = config.framing() {
        all.push(("resize", format!("shorter side to {}, bilinear with antialiasing", framing.resize)));
        all.push(("crop", format!("centre of {0}x{0}", framing.size)));
    }
    all.extend(config.stem.map(|stem| ("stem", stem.to_string())));
    all.extend(manifest.posthoc.clone().map(|what| ("posthoc", what)));
    all
}

/// The model as an ONNX file's bytes.
///
/// # Errors
/// When the checkpoint lacks the head or a tensor, the network has an op that ONNX has no counterpart of, or the file would be
/// longer than its format can be.
pub fn onnx(checkpoint: &Checkpoint, subject: &Subject, wanted: Wanted) -> Result<Vec<u8>> {
    let manifest = &checkpoint.manifest;
    let recipe = manifest.config.recipe(&manifest.counts)?;
    // The recording alone is wanted: a planner's memory is never touched.
    let planner = Native::new(Precision::F32, 1)?.planner()?;
    let network = model(&manifest.config, &recipe, manifest.counts.len(), planner.as_ref())?;
    let store = ParameterStore::new(planner.as_ref(), network.specs().clone())?;
    let mut r = Recorder::new(planner.as_ref(), &store, Mode::Inference);
    let Subject { height, width, .. } = *subject;
    let shape = [1, height, width, planner.stem_channels()];
    let image = r.tape.value(&shape, planner.precision().compute());
    let features = network.record_features(&mut r, image)?;
    let (logits, scale) = network.record_classifier(&mut r, wanted.head, features)?;
    let formulas = r.tape.formulas().map_err(|op| {
        Error::Config(format!("{} has the op {op}, of which there is no form in ONNX", manifest.config.model))
    })?;

    let mut constants = HashMap::new();
    for (spec, &var) in network.specs().iter().zip(r.parameters()) {
        let values = Cow::Borrowed(checkpoint.tensor(&spec.name, &spec.shape)?);
        constants.insert(var, Constant { name: &spec.name, shape: &spec.shape, values });
    }
    let mut builder = Builder::default();
    let pixels = normalised(&mut builder, subject, wanted.input);
    let mut translator = Translator::new(builder, constants, (image, pixels), wanted.keep_norms);
    translator.translate(&formulas)?;
    let names = logits.iter().map(|&var| translator.name(var)).collect::<Result<Vec<_>>>()?;
    let features_name = translator.name(features)?;
    let features = r.tape.shape(features).dims()[1];
    let mut builder = translator.builder;
    let classes = subject.class_names.len();
    let last = classified(&mut builder, &names, scale, wanted.softmax);
    builder.rename(&last, wanted.output());
    let what = if wanted.softmax {
        "probability of each class"
    } else {
        "logit of each class: their softmax is probabilities"
    };
    let mut outputs = vec![ValueInfo::batch(wanted.output(), Element::F32, &[classes], what)];
    if wanted.features {
        builder.rename(&features_name, "features");
        outputs.push(ValueInfo::batch("features", Element::F32, &[features], "what the classifier reads"));
    }
    let extents = wanted.input.extents(height, width);
    let input = ValueInfo::batch("image", wanted.input.element(), &extents, wanted.input.words());
    let doc = format!(
        "image: {}; normalised in the graph. {}: {what}, in the order of class_names.",
        wanted.input.words(),
        wanted.output()
    );
    let mut properties = properties(checkpoint, subject, wanted.head);
    properties.push(("input", wanted.input.words().to_string()));
    let property = |(key, value): (&str, String)| Property { key: Some(key.into()), value: Some(value) };
    let file = Model {
        ir_version: Some(IR_VERSION),
        opset_import: vec![OperatorSet { domain: Some(String::new()), version: Some(OPSET) }],
        producer_name: Some("glmc-engine".into()),
        producer_version: Some(version::VERSION.into()),
        doc_string: Some(doc.clone()),
        graph: Some(builder.graph(manifest.config.model.clone(), doc, vec![input], outputs)),
        metadata_props: properties.into_iter().map(property).collect(),
    };
    let bytes = file.encoded_len();
    if bytes > LONGEST {
        let what = format!(
            "{} of this width takes {bytes} bytes, and an ONNX file has at most {LONGEST}",
            manifest.config.model
        );
        return Err(Error::Config(format!("{what}: take --format safetensors")));
    }
    Ok(file.encode_to_vec())
}

/// Begins a graph: from the input to normalised pixels, NCHW. Operations and constants are those of the engine, so that they round
/// alike.
fn normalised(builder: &mut Builder, subject: &Subject, input: Input) -> String {
    let mut pixels = "image".to_owned();
    if input == Input::U8 {
        // Bytes are moved before they become four times as many.
        let planes = vec![onnx::Attribute::ints("perm", &[0, 3, 1, 2])];
        pixels = builder.node("image.planes", "Transpose", &[&pixels], planes);
        let floats = vec![onnx::Attribute::int("to", Element::F32 as i64)];
        pixels = builder.node("image.floats", "Cast", &[&pixels], floats);
        let most = builder.floats("image.most", &[], &[255.0]);
        pixels = builder.node("image.shares", "Div", &[&pixels, &most], vec![]);
    }
    let mean = builder.floats("image.mean", &[3, 1, 1], &subject.mean);
    let std = builder.floats("image.std", &[3, 1, 1], &subject.std);
    pixels = builder.node("image.centred", "Sub", &[&pixels, &mean], vec![]);
    builder.node("image.normalised", "Div", &[&pixels, &std], vec![])
}

/// Ends a graph: the mean of the heads' logits, times S, and their softmax, if it is wanted.
fn classified(builder: &mut Builder, logits: &[String], scale: f32, softmax: bool) -> String {
    let mut last = logits[0].clone();
    for other in &logits[1..] {
        last = builder.node("heads.sum", "Add", &[&last, other], vec![]);
    }
    let factor = f64::from(scale) / logits.len() as f64;
    if factor != 1.0 {
        let factor = builder.floats("heads.factor", &[], &[factor]);
        last = builder.node("heads.scaled", "Mul", &[&last, &factor], vec![]);
    }
    if softmax {
        last = builder.node("heads.softmax", "Softmax", &[&last], vec![onnx::Attribute::int("axis", 1)]);
    }
    last
}
