//! Published settings on photographs: GLMC's own, and those of other methods on ImageNet-LT.

use super::{DataSet, Preset, Then, named, stage};
use crate::data::published::{IMAGENET_LT, INATURALIST_2018, PLACES_LT};
use crate::method::Training;
use crate::method::schedule::SetAt;

/// Photographs as GLMC's code sees them.
const PHOTOGRAPHS: &str = r#"
    size = 224
    eval_resize = 256
    photos = { kind = "glmc" }
"#;

/// The same without the rebalanced classifier: classes of 732 to 1300 photographs count as balanced.
const NEARLY_BALANCED: &str = r#"
    size = 224
    eval_resize = 256
    photos = { kind = "glmc" }
    recipe = { heads = { fc_cb = false, fc = { coefficient = { course = "constant" } } }, evaluate = "fc" }
"#;

/// The same, and its rate: set after the epoch, with a warm-up that rises once too often.
const AS_PUBLISHED: &str = r#"
    size = 224
    eval_resize = 256
    photos = { kind = "glmc" }
    lr_schedule = "cosine-ahead"
    lr_set = "after"
    warmup_inclusive = true
"#;

/// Crops, mirroring and colour jitter.
const JITTERED: &str = r#"
    size = 224
    eval_resize = 256
    photos = { kind = "jitter" }
"#;

/// The same, in epochs of whole steps.
const DECOUPLED: &str = r#"
    size = 224
    eval_resize = 256
    photos = { kind = "jitter" }
    recipe = { originals = { length = { kind = "whole-steps" } } }
"#;

/// Crops, mirroring and colour jitter, with lambda ~ Beta(0.2, 0.2).
const LIGHTLY_MIXED: &str = r#"
    size = 224
    eval_resize = 256
    photos = { kind = "jitter" }
    beta = 0.2
"#;

/// Cosine to 0 without a warm-up, and nothing else said.
const TRAINING: Training = Training { steps: &[], warmup: 0, ..Training::LDAM_DRW };

/// Decoupling's first stage (`config/ImageNet_LT/feat_uniform.yaml`; the scheduler is stepped before the epoch).
const DECOUPLING: Training =
    Training { epochs: 90, batch: 512, lr: 0.2, set: SetAt::StepBefore, weight_decay: 5e-4, ..TRAINING };

/// GLMC's settings: epochs, batch and weight decay, and ten epochs of warm-up.
fn glmc(epochs: usize, batch: usize, weight_decay: f64) -> Training {
    Training { epochs, batch, weight_decay, warmup: 10, ..TRAINING }
}

/// All of them. Of Places-LT and ImageNet nobody published settings of GLMC: these are ImageNet-LT's, with a rate that is set
/// before the epoch and a warm-up that ends where it should, as those of `imagenet-lt-clean`.
pub fn presets() -> Vec<Preset> {
    let imagenet_lt = DataSet::Lists(&IMAGENET_LT);
    let (inat2018, places_lt) = (DataSet::Lists(&INATURALIST_2018), DataSet::Lists(&PLACES_LT));
    let of_glmc = Preset {
        name: "imagenet-lt".into(),
        data: imagenet_lt,
        method: named("glmc"),
        model: "resnext50_32x4d",
        width: 64,
        training: glmc(135, 120, 2e-4),
        published: Some(56.3),
        then: Then::Nothing,
        source: "GLMC's code, README",
        gamma: 10.0,
        k: 1.0,
        resample: 0.2,
        more: AS_PUBLISHED,
        differs: "",
    };
    let of_glmc = |name: &str| Preset { name: name.into(), ..of_glmc.clone() };
    let ours = |name: &str, data: DataSet, more: &'static str| Preset {
        data,
        more,
        published: None,
        source: "ours, unpublished",
        ..of_glmc(name)
    };
    // Decoupling (Kang et al., ICLR 2020), one network and four classifiers.
    let decoupling = |name: &str, top1: f64, then: Then| Preset {
        method: named("ce"),
        training: DECOUPLING,
        published: Some(top1),
        then,
        source: "facebookresearch/classifier-balancing",
        more: DECOUPLED,
        ..of_glmc(name)
    };
    vec![
        of_glmc("imagenet-lt"),
        Preset { published: None, more: PHOTOGRAPHS, ..of_glmc("imagenet-lt-clean") },
        decoupling("imagenet-lt-ce", 44.4, Then::Nothing),
        decoupling("imagenet-lt-crt", 49.6, stage("crt")),
        decoupling("imagenet-lt-lws", 49.9, stage("lws")),
        Preset {
            differs: "their tau is not known here: swept on the validation images",
            ..decoupling("imagenet-lt-tau-norm", 49.4, Then::TauNorm("0..2"))
        },
        Preset {
            method: named("cmo-bs"),
            model: "resnet50",
            training: Training { epochs: 100, steps: &[(60, 0.1), (80, 0.01)], warmup: 5, ..TRAINING },
            published: Some(52.3),
            source: "naver-ai/cmo, best epoch on test",
            more: JITTERED,
            ..of_glmc("imagenet-lt-cmo-bs")
        },
        Preset {
            method: named("mislas"),
            model: "resnet50",
            training: Training { epochs: 180, batch: 256, weight_decay: 5e-4, ..TRAINING },
            published: Some(52.7),
            then: stage("mislas"),
            source: "dvlab-research/MiSLAS, 45.5 after the first stage",
            more: LIGHTLY_MIXED,
            differs: "augmentation as their Places-LT has it: that of ImageNet-LT is not known here",
            ..of_glmc("imagenet-lt-mislas")
        },
        Preset { data: inat2018, training: glmc(120, 128, 1e-4), published: Some(72.21), ..of_glmc("inat2018") },
        ours("places-lt", places_lt, PHOTOGRAPHS),
        ours("imagenet", DataSet::ImageNet, NEARLY_BALANCED),
    ]
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, PlacementSettings, Preset, Settings, Then, preset};
    use crate::method::samplers::{Length, Sampling};
    use crate::nn::BatchNorm;

    fn config(settings: Settings) -> Config {
        Config::resolve(Settings { placement: PlacementSettings::on("x.lt"), ..settings }).unwrap()
    }

    /// Both stages of a preset on these classes.
    fn both(name: &str, counts: &[usize]) -> (Preset, Config, Config) {
        let preset = preset(name).unwrap();
        let Then::Stage(stage) = preset.then else { panic!("{name} has one stage") };
        let first = config(preset.settings());
        let second = config(stage.settings(&first, counts, "run".into(), None).unwrap());
        (preset, first, second)
    }

    #[test]
    fn the_stages_of_imagenet_lt_are_as_published() {
        let counts = [9; 1000];
        for (name, top1, epochs) in [("imagenet-lt-crt", 49.6, 10), ("imagenet-lt-lws", 49.9, 5)] {
            let (preset, first, second) = both(name, &counts);
            assert_eq!((preset.published, preset.model), (Some(top1), "resnext50_32x4d"), "{name}");
            let of = |config: &Config| (config.epochs, config.batch, config.lr, config.weight_decay);
            assert_eq!((of(&first), of(&second)), ((90, 512, 0.2, 5e-4), (epochs, 512, 0.2, 5e-4)), "{name}");
            // Both are stepped before the epoch.
            for config in [&first, &second] {
                let rate = config.learning_rate();
                let expected = 0.1 * (1.0 + (std::f64::consts::PI / config.epochs as f64).cos());
                assert!((rate.at(0, config.epochs, 0, 1) - expected).abs() < 1e-12, "{name}");
            }
            let [one, two] = [&first, &second].map(|config| config.recipe(&counts).unwrap().originals);
            assert_eq!((one.sampling, one.length), (Sampling::Shuffle, Length::WholeSteps), "{name}");
            assert_eq!((two.sampling, two.length), (Sampling::ClassAware { images: 4 }, Length::WholeSteps), "{name}");
        }
    }

    #[test]
    fn mislas_on_imagenet_lt_is_as_published() {
        let counts: Vec<usize> = (0..1000).map(|class| 1280 - class).collect();
        let (_, first, second) = both("imagenet-lt-mislas", &counts);
        assert_eq!((first.beta, first.epochs, first.batch, first.weight_decay), (0.2, 180, 256, 5e-4));
        assert_eq!((second.epochs, second.batch, second.weight_decay), (10, 256, 5e-4));
        assert_eq!((second.groups[0].batch_norm, second.groups[1].lr_factor), (BatchNorm::Train, 0.05));
        let smoothing = second.recipe(&counts).unwrap().vectors(&counts, 0).unwrap()[4 * 1000..].to_vec();
        assert!((smoothing[0] - 0.3).abs() < 1e-12 && smoothing[999].abs() < 1e-12, "{smoothing:?}");
    }

    #[test]
    fn cmo_on_imagenet_lt_is_as_published() {
        let counts = [9; 1000];
        let preset = preset("imagenet-lt-cmo-bs").unwrap();
        let config = config(preset.settings());
        assert_eq!((config.batch, config.lr, config.weight_decay), (128, 0.1, 2e-4));
        let rate = config.learning_rate();
        let rates = [0, 4, 59, 60, 79, 80].map(|epoch| rate.at(epoch, 100, 0, 1));
        let expected = [0.02, 0.1, 0.1, 0.01, 0.01, 0.001];
        assert!(rates.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{rates:?}");
        assert_eq!(config.recipe(&counts).unwrap().mixing.epochs, Some([4, 97]));
    }
}
