//! An encoder and the heads that a method trains on its features.

use serde::{Deserialize, Serialize};

use super::encoder::{self, Encoder, EncoderConfig, Stem};
use super::layers::{Head, Recorder};
use super::parameters::Specs;
use crate::error::{Error, Result};
use crate::tape::Var;

/// What network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// A name of [`encoder::FAMILIES`].
    pub name: String,
    /// Channels of the first stage. 16 is the classic CIFAR ResNet, 64 what the GLMC paper's tables use.
    pub width: usize,
    pub classes: usize,
    /// The heads, in the order of PyTorch's state dict.
    pub heads: Vec<HeadSpec>,
    /// Width h of the projection and prediction vectors; `None` takes the encoder's published one.
    pub hidden: Option<usize>,
    /// Whether the encoder ends in two branches: see [`EncoderConfig::branches`].
    pub branches: bool,
    /// What images meet first.
    pub stem: Stem,
}

/// A head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadSpec {
    /// Its name in PyTorch's state dict.
    pub name: &'static str,
    /// What it reads.
    pub inputs: Extent,
    /// What it puts out.
    pub outputs: Extent,
    /// How it computes.
    pub shape: HeadShape,
    /// How its bias starts.
    pub bias: BiasStart,
    /// S, by which evaluation multiplies its logits before it takes their softmax: the ranking of classes stays, confidences
    /// are those of the loss that scales them by S. 1 where the loss does not.
    pub eval_scale: f32,
}

impl HeadSpec {
    /// An affine head, as PyTorch's `nn.Linear`.
    pub const fn linear(name: &'static str, inputs: Extent, outputs: Extent) -> HeadSpec {
        HeadSpec { name, inputs, outputs, shape: HeadShape::Linear, bias: BiasStart::Default, eval_scale: 1.0 }
    }

    /// Whether its settings make sense together.
    fn check(&self) -> Result<()> {
        let name = self.name;
        if !(self.eval_scale.is_finite() && self.eval_scale > 0.0) {
            return Err(Error::Config(format!("{name}: the scale {} is no positive number", self.eval_scale)));
        }
        match self.bias {
            BiasStart::Constant(_) if self.shape == HeadShape::Cosine => {
                Err(Error::Config(format!("{name}: a cosine head has no bias that could start at a constant")))
            }
            BiasStart::Constant(value) if !value.is_finite() => {
                Err(Error::Config(format!("{name}: a bias cannot start at {value}")))
            }
            _ => Ok(()),
        }
    }
}

/// How a head computes its outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadShape {
    /// `W x + b`.
    #[default]
    Linear,
    /// `w_c/|w_c| . x/|x|`, without bias: LDAM-DRW's `NormedLinear` (Cao et al., NeurIPS 2019, and their code, whose weight is
    /// (in, out); here it is (out, in), as of every head). Its outputs are cosines; the scale S belongs to the loss.
    Cosine,
    /// `s ∘ (W x + b)` with a learned scale s for each class (LWS; MiSLAS).
    Scaled,
}

impl std::fmt::Display for HeadShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            HeadShape::Linear => "linear",
            HeadShape::Cosine => "cosine",
            HeadShape::Scaled => "scaled",
        })
    }
}

/// How a head's bias starts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum BiasStart {
    /// As PyTorch's `nn.Linear`: uniform in ±1/sqrt(inputs).
    #[default]
    Default,
    /// All the same: class-balanced focal loss starts at `-log(classes - 1)`, so that every class is unlikely at first.
    Constant(f64),
}

/// The extents that heads have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The encoder's features.
    Features,
    /// One value per class.
    Classes,
    /// Width h of the projection and prediction vectors.
    Hidden,
}

/// A head that classifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// The rebalanced classifier: for long-tailed data.
    #[value(name = "fc_cb")]
    FcCb,
    /// The conventional classifier: for balanced data, and for plain cross-entropy.
    #[value(name = "fc")]
    Fc,
    /// The mean of both classifiers' logits.
    #[value(name = "mean")]
    Mean,
}

impl HeadKind {
    /// As flags and files call it: a single head's name in PyTorch's state dict.
    pub fn name(self) -> &'static str {
        match self {
            HeadKind::FcCb => "fc_cb",
            HeadKind::Fc => "fc",
            HeadKind::Mean => "mean",
        }
    }

    /// The heads whose logits it takes, themselves or their mean.
    pub fn heads(self) -> &'static [HeadKind] {
        match self {
            HeadKind::FcCb => &[HeadKind::FcCb],
            HeadKind::Fc => &[HeadKind::Fc],
            HeadKind::Mean => &[HeadKind::Fc, HeadKind::FcCb],
        }
    }
}

impl std::fmt::Display for HeadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A network's description: its parameters are declared, nothing is allocated.
#[derive(Debug)]
pub struct Model {
    encoder: Box<dyn Encoder>,
    heads: Vec<(HeadSpec, Head)>,
    specs: Specs,
}

impl Model {
    /// Describes a network for a backend whose stem wants `stem_channels` input channels.
    ///
    /// # Errors
    /// When the name is unknown, or a number is zero or absurd.
    pub fn new(config: &ModelConfig, stem_channels: usize) -> Result<Model> {
        let family = encoder::family(&config.name)?;
        if !(1..=1024).contains(&config.width) {
            return Err(Error::Config(format!("width {} is not in 1..=1024", config.width)));
        }
        if config.classes < 2 {
            return Err(Error::Config(format!("{} classes: at least two are needed", config.classes)));
        }
        let hidden = config.hidden.unwrap_or(family.hidden);
        if !(1..=1 << 14).contains(&hidden) {
            return Err(Error::Config(format!("hidden width {hidden} is not in 1..=16384")));
        }
        let mut specs = Specs::default();
        encoder::stem(&config.name, Some(config.stem), 0)?;
        let ModelConfig { width, branches, stem, .. } = *config;
        let encoder = (family.build)(&config.name, &mut specs, EncoderConfig { width, stem_channels, branches, stem })?;
        let extent = |extent: Extent| match extent {
            Extent::Features => encoder.features(),
            Extent::Classes => config.classes,
            Extent::Hidden => hidden,
        };
        for head in &config.heads {
            head.check()?;
        }
        let declare = |head: &HeadSpec| (*head, Head::new(&mut specs, head, extent(head.inputs), extent(head.outputs)));
        let heads = config.heads.iter().map(declare).collect();
        Ok(Model { encoder, heads, specs })
    }

    /// The declared parameters.
    pub fn specs(&self) -> &Specs {
        &self.specs
    }

    /// Values of a feature vector.
    pub fn features(&self) -> usize {
        self.encoder.features()
    }

    /// Records the encoder on images (batch, height, width, stem channels); returns features (batch, features).
    ///
    /// # Errors
    /// When the images do not fit the network.
    pub fn record_features(&self, r: &mut Recorder<'_>, images: Var) -> Result<Var> {
        self.encoder.record(r, images)
    }

    /// Records one head on what it reads, (batch, inputs); returns (batch, outputs).
    ///
    /// # Errors
    /// When the model does not have that head.
    pub fn record_head(&self, r: &mut Recorder<'_>, name: &str, x: Var) -> Result<Var> {
        self.head(name)?.1.record(r, x)
    }

    /// Records the logits of a classifier on features, (batch, classes) for each of its heads, and says by what evaluation
    /// multiplies them: see [`HeadSpec::eval_scale`].
    ///
    /// # Errors
    /// When the model lacks a head, or the heads to be averaged are scaled differently.
    pub fn record_classifier(
        &self,
        r: &mut Recorder<'_>,
        classifier: HeadKind,
        features: Var,
    ) -> Result<(Vec<Var>, f32)> {
        let names = classifier.heads().iter().map(|head| head.name());
        let logits = names.clone().map(|name| self.record_head(r, name, features)).collect::<Result<Vec<_>>>()?;
        let scales = names.map(|name| self.eval_scale(name)).collect::<Result<Vec<_>>>()?;
        if scales.iter().any(|&scale| scale != scales[0]) {
            let what = "fc and fc_cb have different scales: their logits have no mean; evaluate one of them";
            return Err(Error::Config(what.into()));
        }
        Ok((logits, scales[0]))
    }

    /// S of one head: see [`HeadSpec::eval_scale`].
    ///
    /// # Errors
    /// When the model does not have that head.
    pub fn eval_scale(&self, name: &str) -> Result<f32> {
        Ok(self.head(name)?.0.eval_scale)
    }

    fn head(&self, name: &str) -> Result<&(HeadSpec, Head)> {
        self.heads.iter().find(|(head, _)| head.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.heads.iter().map(|(head, _)| head.name).collect();
            Error::Config(format!("this model was trained without {name}; its heads: {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::native::Native;
    use crate::memory::{Memory, read_floats, write_floats};
    use crate::nn::{Field, Mode, ParameterStore};
    use crate::tensor::Precision;

    const CLASSES: usize = 5;
    const HIDDEN: usize = 7;
    const BATCH: usize = 3;

    const fn head(name: &'static str, shape: HeadShape, bias: BiasStart) -> HeadSpec {
        HeadSpec { shape, bias, ..HeadSpec::linear(name, Extent::Hidden, Extent::Classes) }
    }

    fn model(heads: &'static [HeadSpec]) -> Result<Model> {
        let (name, hidden) = ("resnet20".into(), Some(HIDDEN));
        let heads = heads.to_vec();
        Model::new(
            &ModelConfig { name, width: 2, classes: CLASSES, heads, hidden, branches: false, stem: Stem::Cifar },
            3,
        )
    }

    const HEADS: &[HeadSpec] = &[
        head("fc", HeadShape::Linear, BiasStart::Default),
        head("rare", HeadShape::Linear, BiasStart::Constant(-2.5)),
        HeadSpec { eval_scale: 30.0, ..head("angle", HeadShape::Cosine, BiasStart::Default) },
        head("lws", HeadShape::Scaled, BiasStart::Default),
    ];

    /// The start of a parameter, by its name.
    fn start(store: &ParameterStore, native: &Native, name: &str) -> Vec<f64> {
        let index = store.specs().iter().position(|spec| spec.name == name).unwrap_or_else(|| panic!("no {name}"));
        store.snapshot(native, Field::Value).unwrap().get(index)
    }

    #[test]
    fn heads_start_and_compute_as_their_shapes_say() {
        let native = Native::new(Precision::F64, 1).unwrap();
        let model = model(HEADS).unwrap();
        let names: Vec<&str> = model.specs().iter().map(|spec| spec.name.as_str()).collect();
        let last = ["fc.weight", "fc.bias", "rare.weight", "rare.bias", "angle.weight", "lws.weight", "lws.bias"];
        assert_eq!(names[names.len() - 8..], [&last[..], &["lws.scales"]].concat());

        let store = ParameterStore::new(&native, model.specs().clone()).unwrap();
        store.initialise(&native, 3).unwrap();
        let start = |name: &str| start(&store, &native, name);
        assert_eq!(start("rare.bias"), [-2.5; CLASSES]);
        assert_eq!(start("lws.scales"), [1.0; CLASSES]);
        let bound = 1.0 / (HIDDEN as f64).sqrt();
        assert!(start("lws.bias").iter().all(|b| *b != 0.0 && b.abs() <= bound));
        let angle = start("angle.weight");
        for row in angle.chunks(HIDDEN) {
            assert!((row.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-6, "{row:?}");
        }
        assert!(angle.iter().any(|&v| v < 0.0) && angle.iter().any(|&v| v > 0.0));

        // Scales that are not 1, and a weight whose rows have other lengths.
        let mut snapshot = store.snapshot(&native, Field::Value).unwrap();
        let scales = [1.0, 2.0, -0.5, 0.0, 3.0];
        let weight: Vec<f64> = angle.iter().enumerate().map(|(at, v)| v * (1.0 + at as f64)).collect();
        snapshot.set(names.len() - 1, &scales);
        snapshot.set(names.len() - 4, &weight);
        store.restore(&native, Field::Value, &snapshot).unwrap();
        drop(snapshot);

        let mut r = Recorder::new(&native, &store, Mode::Inference);
        let x = native.tensor(&[BATCH, HIDDEN], Precision::F64.accumulate(), "x").unwrap();
        let values: Vec<f64> = (0..BATCH * HIDDEN).map(|at| (at * 5 % 11) as f64 - 4.5).collect();
        write_floats(&native, x, &values).unwrap();
        let x = r.tape.external(x);
        let outputs = HEADS.iter().map(|head| model.record_head(&mut r, head.name, x).unwrap()).collect::<Vec<_>>();
        outputs.iter().for_each(|&output| r.tape.keep(output));
        let program = r.tape.plan(&native, false).unwrap();
        program.forward(&native).unwrap();
        let found: Vec<Vec<f64>> =
            outputs.into_iter().map(|output| read_floats(&native, program.value(output)).unwrap()).collect();

        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let affine = |name: &str| {
            let (weight, bias) = (start(&format!("{name}.weight")), start(&format!("{name}.bias")));
            let row = |x: &[f64]| {
                let outputs = weight.chunks(HIDDEN).zip(&bias).map(|(w, b)| dot(w, x) + b);
                outputs.collect::<Vec<f64>>()
            };
            values.chunks(HIDDEN).flat_map(row).collect::<Vec<f64>>()
        };
        let cosine = |x: &[f64], w: &[f64]| dot(x, w) / (dot(x, x) * dot(w, w)).sqrt();
        let cosines = values.chunks(HIDDEN).flat_map(|x| weight.chunks(HIDDEN).map(move |w| cosine(x, w)));
        let scaled = affine("lws").iter().enumerate().map(|(at, v)| v * scales[at % CLASSES]).collect();
        let wanted = [affine("fc"), affine("rare"), cosines.collect(), scaled];
        for ((head, found), wanted) in HEADS.iter().zip(&found).zip(&wanted) {
            assert_eq!(found.len(), BATCH * CLASSES);
            let worst = found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-12, "{} ({}): {worst}", head.name, head.shape);
        }
        assert_eq!(["fc", "angle"].map(|name| model.eval_scale(name).unwrap()), [1.0, 30.0]);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        const BIASED: &[HeadSpec] = &[head("fc", HeadShape::Cosine, BiasStart::Constant(1.0))];
        const NAN: &[HeadSpec] = &[head("fc", HeadShape::Linear, BiasStart::Constant(f64::NAN))];
        const SCALE: &[HeadSpec] = &[HeadSpec { eval_scale: 0.0, ..head("fc", HeadShape::Cosine, BiasStart::Default) }];
        for (heads, what) in [(BIASED, "no bias"), (NAN, "NaN"), (SCALE, "positive")] {
            let message = model(heads).unwrap_err().to_string();
            assert!(message.contains(what) && message.contains("fc"), "{message}");
        }
        let message = model(HEADS).unwrap().eval_scale("fc_cb").unwrap_err().to_string();
        assert!(message.contains("without fc_cb; its heads: fc, rare, angle, lws"), "{message}");
    }
}
