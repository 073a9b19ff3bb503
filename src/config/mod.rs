//! What a run is: flags over a configuration file over a preset, resolved into one validated [`Config`].

mod check;
mod file;
mod init;
mod optimizer;
mod placement;
mod presets;
mod second_stage;
mod select;
mod sizes;

pub use file::Stage;
use file::{MAX_CONFIG, refuse_unknown};
pub use init::{Init, Which};
pub use optimizer::{Every, Norm, OptimizerConfig, Passes, Projection, Sam};
pub use placement::{Log, Placement, PlacementSettings};
pub use presets::{DataSet, Preset, Then, preset, presets};
pub use second_stage::{SECOND_STAGES, SecondStage, second_stage_parser};
pub use select::Select;
pub use sizes::{Sides, usual_resize};

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::shots::{ShotRule, Shots};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::method::photos::Photos;
use crate::method::schedule::{Decay, LearningRate, SetAt, WarmUp};
use crate::method::{METHODS, Method, MethodSettings, Recipe};
use crate::nn::{Group, HeadKind, Stem, encoder};

/// The groups of flags in `--help`.
const DATA: &str = "Data";
const MODEL: &str = "Model";
const METHOD: &str = "Method";
const SCHEDULE: &str = "Schedule";
pub(crate) const DEVICE: &str = "Device";
const RUN: &str = "Run";

/// Declares a struct of settings, each of them optional, with `or`: these, and where they say nothing, those under them.
macro_rules! settings {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$about:meta])* pub $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$about])* pub $field: $kind),* }

        impl $name {
            /// These settings, and where they say nothing, those of `under`.
            pub fn or(self, under: $name) -> $name {
                $name { $($field: self.$field.or(under.$field)),* }
            }
        }
    };
}
use settings;

settings! {
    /// Settings, each of them optional: what a preset, a configuration file or the command line says. The names are the
    /// same in all three.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
    pub struct Settings {
        #[command(flatten)]
        #[serde(flatten)]
        pub placement: PlacementSettings,
        #[arg(long, value_name = "NAME", help = format!("{} [default: resnet32]", encoder::names()), help_heading = MODEL,
              alias = "arch")]
        pub model: Option<String>,
        /// Channels of the first stage: 16 is the classic CIFAR ResNet, 64 the GLMC paper's [default: 64]
        #[arg(long, help_heading = MODEL)]
        pub width: Option<usize>,
        /// What the network begins with: a 3x3 convolution, or a 7x7 one with stride 2 and a pool [default: imagenet above 64
        /// pixels, else cifar; CIFAR's ResNets have no other]
        #[arg(long, help_heading = MODEL)]
        pub stem: Option<Stem>,
        /// Width of the projections that GLMC compares [default: the network's published one: 128 for ResNet-32]
        #[arg(long, help_heading = MODEL)]
        pub hidden: Option<usize>,
        /// Training method [default: glmc]
        #[arg(long, value_parser = crate::method::value_parser(), help_heading = METHOD)]
        pub method: Option<&'static Method>,
        /// Passes over the training set [default: 200]
        #[arg(long, help_heading = SCHEDULE)]
        pub epochs: Option<usize>,
        /// Samples per step [default: 64]
        #[arg(long, help_heading = SCHEDULE)]
        pub batch: Option<usize>,
        /// Parts that a step is made in, one after another, to save memory: gradients are those of the whole batch, batch
        /// normalisation sees a part at a time [default: 1]
        #[arg(long, value_name = "PARTS", help_heading = SCHEDULE)]
        pub accumulate: Option<usize>,
        /// Learning rate that --lr-schedule starts from [default: 0.01]
        #[arg(long, help_heading = SCHEDULE)]
        pub lr: Option<f64>,
        /// What the learning rate does after the warm-up: cosine (half a cosine to 0), cosine-ahead (the same, one epoch
        /// ahead), constant, or finished epochs with factors of --lr, as in 160:0.01,180:0.0001 [default: cosine]
        #[arg(long, value_name = "SCHEDULE", help_heading = SCHEDULE)]
        pub lr_schedule: Option<Decay>,
        /// Epochs of linear warm-up [default: 0]
        #[arg(long, value_name = "EPOCHS", help_heading = SCHEDULE)]
        pub warmup_epochs: Option<usize>,
        /// Share of --lr that the warm-up starts from, as in BBN; with 0 its first epoch has --lr over --warmup-epochs
        /// [default: 0]
        #[arg(long, value_name = "SHARE", help_heading = SCHEDULE)]
        pub warmup_from: Option<f64>,
        /// Weight decay, on every parameter [default: 0.005]
        #[arg(long, help_heading = SCHEDULE, aliases = ["wd", "weight_decay"])]
        pub weight_decay: Option<f64>,
        /// Momentum of SGD [default: 0.9]
        #[arg(long, help_heading = SCHEDULE)]
        pub momentum: Option<f64>,
        /// Nesterov's momentum: steps look ahead along it [default: false]
        #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = SCHEDULE)]
        pub nesterov: Option<bool>,
        /// Sharpness-aware minimisation: a second gradient where the weights have climbed by RHO along the first; twice the
        /// work [default: none]
        #[arg(long, value_name = "RHO", help_heading = SCHEDULE)]
        pub sam: Option<Sam>,
        /// Factor of the similarity loss [default: 1.0]
        #[arg(long, help_heading = METHOD, alias = "contrast_weight")]
        pub gamma: Option<f64>,
        /// Exponent of the class weights: w_c proportional to (1/n_c)^k [default: 1.2]
        #[arg(long, help_heading = METHOD, alias = "label_weighting")]
        pub k: Option<f64>,
        /// Exponent q of the partners' sampling: 0 instance-balanced, 1 class-balanced, 2 reversed [default: 0.0]
        #[arg(long, value_name = "Q", help_heading = METHOD, alias = "resample_weighting")]
        pub resample: Option<f64>,
        /// lambda ~ Beta(beta, beta) [default: 1.0, as in the published results]
        #[arg(long, help_heading = METHOD)]
        pub beta: Option<f64>,
        /// Strength of the logits' adjustment, in la and vs [default: 1 for la, 1.2 for vs]
        #[arg(long, help_heading = METHOD)]
        pub tau: Option<f64>,
        /// Finished epochs before deferred weights are in force, in drw and ldam-drw [default: four fifths of the epochs]
        #[arg(long, value_name = "EPOCHS", help_heading = METHOD)]
        pub defer_until: Option<usize>,
        /// Halve the supervised losses, as the paper writes them and its code does not [default: false]
        #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = METHOD)]
        pub halve_supervised: Option<bool>,
        /// Correct the labels for the part of the box that lies outside the image [default: false]
        #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = METHOD)]
        pub correct_labels: Option<bool>,
        /// The same as --shots glmc [default: false]
        #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = DATA)]
        pub twenty_is_few: Option<bool>,
        /// Which classes count as many-, medium- and few-shot [default: oltr]
        #[arg(long, value_name = "RULE", help_heading = DATA)]
        pub shots: Option<Shots>,
        /// Classifier to evaluate with [default: fc_cb for GLMC on long-tailed data, else fc]
        #[arg(long, help_heading = METHOD)]
        pub head: Option<HeadKind>,
        /// Evaluate on the mean of the logits of each image and of its mirror image [default: false]
        #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = METHOD)]
        pub eval_flip: Option<bool>,
        /// Images by which the best epoch is chosen; published figures need test [default: val where the store has one, else test]
        #[arg(long, value_name = "SPLIT", help_heading = RUN)]
        pub select: Option<Select>,
        /// Random seed [default: 0]
        #[arg(long, help_heading = SCHEDULE)]
        pub seed: Option<u64>,
        /// Rows and columns that the network sees of a photograph: random crops resized to it in training, the centre in
        /// evaluation [default: 224 where most images are larger, else their shorter side; images of one size up to 64 are
        /// cropped from a border instead]
        #[arg(long, value_name = "PIXELS", help_heading = DATA)]
        pub size: Option<usize>,
        /// Shorter side that photographs are resized to in evaluation, before their centre is cut out [default: 8/7 of --size:
        /// 256 for 224]
        #[arg(long, value_name = "PIXELS", help_heading = DATA)]
        pub eval_resize: Option<usize>,
        /// What changes in the method's recipe: a table of a configuration file, `[recipe]`.
        #[arg(skip)]
        pub recipe: Option<toml::Table>,
        /// What may happen to photographs in training: a table `[photos]`.
        #[arg(skip)]
        pub photos: Option<toml::Table>,
        // Only in files: what they say does not fit into a flag.
        #[arg(skip)]
        pub groups: Option<Vec<Group>>,
        #[arg(skip)]
        pub project: Option<Projection>,
        #[arg(skip)]
        pub lr_set: Option<SetAt>,
        #[arg(skip)]
        pub warmup_inclusive: Option<bool>,
        #[arg(skip)]
        pub warmup_every_step: Option<bool>,
        #[arg(skip)]
        pub init: Option<Init>,
    }
}

/// A run, fully resolved. This is what `config.toml` in a run folder holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The preset that the run began with; flags and files may have changed what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    #[serde(flatten)]
    pub placement: Placement,
    pub model: String,
    pub width: usize,
    /// Absent where the network has no choice, and in runs of before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    pub method: &'static Method,
    pub epochs: usize,
    pub batch: usize,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulate: usize,
    pub lr: f64,
    #[serde(default)]
    pub lr_schedule: Decay,
    /// In which epoch the schedule's values are put to use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lr_set: SetAt,
    pub warmup_epochs: usize,
    #[serde(default, skip_serializing_if = "is_default")]
    pub warmup_from: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub warmup_inclusive: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub warmup_every_step: bool,
    pub weight_decay: f64,
    pub momentum: f64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nesterov: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sam: Option<Sam>,
    pub gamma: f64,
    pub k: f64,
    pub resample: f64,
    pub beta: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defer_until: Option<usize>,
    pub halve_supervised: bool,
    pub correct_labels: bool,
    pub twenty_is_few: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<Shots>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadKind>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub eval_flip: bool,
    /// Older runs, which do not say it, chose on the test images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<Select>,
    pub seed: u64,
    /// Rows and columns that photographs are trained at; `None` where images are cropped from a border.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Shorter side that photographs are resized to in evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_resize: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photos: Option<Photos>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Projection>,
    /// The run that this one is a further stage of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// What changes in the method's recipe.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub recipe: toml::Table,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Config {
    /// Fills the gaps with defaults and checks every value.
    ///
    /// # Errors
    /// When a value is out of range or there is no data; the message names the setting.
    pub fn resolve(settings: Settings) -> Result<Config> {
        let method = settings.method.unwrap_or(METHODS[0]);
        let config = Config {
            preset: None,
            placement: settings.placement.resolve()?,
            model: settings.model.unwrap_or_else(|| "resnet32".into()),
            width: settings.width.unwrap_or(64),
            stem: settings.stem,
            hidden: settings.hidden,
            method,
            epochs: settings.epochs.unwrap_or(200),
            batch: settings.batch.unwrap_or(64),
            accumulate: settings.accumulate.unwrap_or(1),
            lr: settings.lr.unwrap_or(0.01),
            lr_schedule: settings.lr_schedule.unwrap_or_default(),
            lr_set: settings.lr_set.unwrap_or_default(),
            warmup_epochs: settings.warmup_epochs.unwrap_or(0),
            warmup_from: settings.warmup_from.unwrap_or(0.0),
            warmup_inclusive: settings.warmup_inclusive.unwrap_or(false),
            warmup_every_step: settings.warmup_every_step.unwrap_or(false),
            init: settings.init,
            weight_decay: settings.weight_decay.unwrap_or(5e-3),
            momentum: settings.momentum.unwrap_or(0.9),
            nesterov: settings.nesterov.unwrap_or(false),
            sam: settings.sam.or_else(|| method.sam.map(|sam| Sam::of(sam, false))),
            gamma: settings.gamma.unwrap_or(1.0),
            k: settings.k.unwrap_or(1.2),
            resample: settings.resample.unwrap_or(0.0),
            beta: settings.beta.unwrap_or(1.0),
            tau: settings.tau,
            defer_until: settings.defer_until,
            halve_supervised: settings.halve_supervised.unwrap_or(false),
            correct_labels: settings.correct_labels.unwrap_or(false),
            twenty_is_few: settings.twenty_is_few.unwrap_or(false),
            shots: settings.shots,
            head: settings.head,
            eval_flip: settings.eval_flip.unwrap_or(false),
            select: settings.select,
            seed: settings.seed.unwrap_or(0),
            size: settings.size,
            eval_resize: settings.eval_resize,
            photos: settings.photos.as_ref().map(Photos::of).transpose()?,
            recipe: settings.recipe.unwrap_or_default(),
            groups: settings
                .groups
                .unwrap_or_else(|| method.undecayed.iter().map(|name| Group::undecayed(name)).collect()),
            project: settings.project,
        };
        config.check()?;
        Ok(config)
    }

    /// Settles what depends on the data: the split by which the best epoch is chosen, the sizes of images, and the network's stem.
    ///
    /// # Errors
    /// When something was asked for that this store or network does not have.
    pub fn settle(&mut self, store: &Store) -> Result<()> {
        self.select = Some(Select::resolve(self.select, store)?);
        self.settle_shapes(Sides::of(store))
    }

    /// What the optimiser does besides the learning rate.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            nesterov: self.nesterov,
            groups: self.groups.clone(),
            project: self.project.clone(),
            sam: self.sam,
        }
    }

    /// What the method trains on data with these training images per class: its own recipe with this run's changes.
    ///
    /// # Errors
    /// When a change names no key of a recipe, or the parts contradict each other.
    pub fn recipe(&self, counts: &[usize]) -> Result<Recipe> {
        let settings = MethodSettings {
            epochs: self.epochs,
            gamma: self.gamma,
            k: self.k,
            resample: self.resample,
            beta: self.beta,
            tau: self.tau,
            defer_until: self.defer_until,
            halve_supervised: self.halve_supervised,
            correct_labels: self.correct_labels,
        };
        let recipe = self.method.recipe(&settings, counts).changed(&self.recipe)?;
        recipe.check(counts, self.epochs)?;
        recipe.originals.length.images(counts.iter().sum(), counts, self.batch)?;
        Ok(recipe)
    }

    /// The learning rate's schedule.
    pub fn learning_rate(&self) -> LearningRate {
        let warmup = WarmUp {
            epochs: self.warmup_epochs,
            from: self.warmup_from,
            inclusive: self.warmup_inclusive,
            every_step: self.warmup_every_step,
        };
        LearningRate { base: self.lr, decay: self.lr_schedule.clone(), warmup, set: self.lr_set }
    }

    /// Which of so many classes count as many-, medium- and few-shot.
    pub fn shots(&self, classes: usize) -> ShotRule {
        let usual = if self.twenty_is_few { Shots::Glmc } else { Shots::Oltr };
        self.shots.unwrap_or(usual).rule(classes)
    }

    /// The split by which the best epoch is chosen.
    pub fn select(&self) -> Select {
        self.select.unwrap_or(Select::Test)
    }

    /// Whether another configuration describes the same computation: everything but where it runs and is saved.
    pub fn same_run(&self, other: &Config) -> bool {
        let moved = Config { placement: self.placement.clone(), ..other.clone() };
        *self == moved
    }

    /// The configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field of a configuration has a TOML form")
    }

    /// Reads a run's `config.toml`.
    ///
    /// # Errors
    /// When it cannot be read or is not a whole configuration.
    pub fn read(path: &Path) -> Result<Config> {
        let text = read_text(path, MAX_CONFIG)?;
        let wrong = |e: toml::de::Error| {
            Error::file(path, format!("not a run's configuration: {}", e.message().replace('\n', " ")))
        };
        let mut table: toml::Table = toml::from_str(&text).map_err(wrong)?;
        table.remove("preset");
        refuse_unknown(path, &text, &table)?;
        let config: Config = toml::from_str(&text).map_err(wrong)?;
        config.check().map_err(|e| Error::file(path, e.to_string()))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
