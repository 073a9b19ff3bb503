//! One mixed view: mixup (Hongyi Zhang et al., ICLR 2018), CutMix (Sangdoo Yun et al., ICCV 2019) and Remix (Hsin-Ping Chou et
//! al., ECCV workshops 2020). Partners are a permutation of the step's own originals, cropped and flipped on their own.

use super::recipe::{Mix, Share};
use super::{Method, MethodSettings, Published, Recipe, Training};
use crate::ops::augment_mix::View;

fn mixed(view: View, share: Share, settings: &MethodSettings) -> Recipe {
    Recipe { views: vec![view], mixing: Mix { beta: settings.beta, share, ..Mix::default() }, ..Recipe::plain() }
}

/// Whole images are mixed.
pub const MIXUP: Method = Method {
    name: "mixup",
    title: "mixup",
    source: "Zhang et al., ICLR 2018",
    make: |settings, _| mixed(View::Mixup, Share::Lambda, settings),
    published: Published {
        width: 16,
        cifar10: [Some(73.06), Some(77.82), Some(87.1)],
        cifar100: [Some(39.54), Some(44.99), Some(58.02)],
        source: "BBN, as the GLMC paper quotes it (with a misprint at CIFAR-100, imbalance 50)",
    },
    ..Method::BASE
};

/// A box is pasted.
pub const CUTMIX: Method = Method {
    name: "cutmix",
    title: "CutMix",
    source: "Yun et al., ICCV 2019",
    make: |settings, _| mixed(View::Cutmix, Share::Area, settings),
    ..Method::BASE
};

/// As mixup, with labels that lean to the smaller class.
pub const REMIX: Method = Method {
    name: "remix",
    title: "Remix",
    source: "Chou et al., ECCV workshops 2020",
    make: |settings, _| mixed(View::Mixup, Share::Remix { kappa: 3.0, tau: 0.5 }, settings),
    published: Published {
        width: 16,
        cifar10: [Some(73.43), Some(79.26), None],
        cifar100: [Some(41.39), Some(45.70), None],
        source: "zhangyongshun/BagofTricks-LT (warm-up from a third)",
    },
    ..Method::BASE
};

/// The first stage of MiSLAS (Zhisheng Zhong et al., CVPR 2021): mixup by another schedule. `finetune --method mislas` is the
/// second.
pub const MISLAS: Method = Method {
    name: "mislas",
    title: "MiSLAS, first stage (mixup)",
    source: "Zhong et al., CVPR 2021",
    training: Training { steps: &[(160, 0.1), (180, 0.01)], ..Training::LDAM_DRW },
    published: Published {
        width: 16,
        cifar10: [Some(72.8), Some(78.1), Some(87.6)],
        cifar100: [Some(39.5), Some(45.4), Some(59.1)],
        source: "dvlab-research/MiSLAS, first stage",
    },
    ..MIXUP
};
