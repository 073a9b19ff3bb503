//! Context-rich minority oversampling (Seulki Park, Youngkyu Hong, Byeongho Heo, Sangdoo Yun and Jin Young Choi, "The Majority
//! Can Help the Minority", CVPR 2022): in half of the steps a box of a class-balanced partner is pasted into the original,
//! but not in the first four and the last three epochs.

use super::class_balanced::deferred;
use super::ldam::margins;
use super::logit_adjustment::adjusted;
use super::recipe::{Head, Mix, Share};
use super::samplers::Partners;
use super::{Method, MethodSettings, Published, Recipe};
use crate::ops::augment_mix::View;

fn cmo(head: Head, settings: &MethodSettings) -> Recipe {
    let last = settings.epochs.saturating_sub(3);
    let epochs = Some([last.min(4), last]);
    Recipe {
        views: vec![View::Cutmix],
        mixing: Mix { beta: settings.beta, p: 0.5, epochs, share: Share::Area },
        partners: Partners::Power { q: 1.0 },
        ..Recipe::with_head(head)
    }
}

/// On cross-entropy.
pub const CMO_CE: Method = Method {
    name: "cmo-ce",
    title: "CMO on cross-entropy",
    source: "Park et al., CVPR 2022",
    make: |settings, _| cmo(Head::default(), settings),
    published: Published {
        width: 16,
        cifar10: [None; 3],
        cifar100: [Some(43.9), Some(48.3), Some(59.5)],
        source: "Park et al., as quoted by others",
    },
    ..Method::BASE
};

/// On balanced softmax.
pub const CMO_BS: Method = Method {
    name: "cmo-bs",
    title: "CMO on balanced softmax",
    source: "Park et al., CVPR 2022",
    make: |settings, _| cmo(adjusted(1.0), settings),
    ..Method::BASE
};

/// On LDAM-DRW.
pub const CMO_LDAM_DRW: Method = Method {
    name: "cmo-ldam-drw",
    title: "CMO on LDAM-DRW",
    source: "Park et al., CVPR 2022",
    make: |settings, _| cmo(deferred(margins(), settings), settings),
    published: Published {
        width: 16,
        cifar10: [None; 3],
        cifar100: [Some(47.2), Some(51.7), Some(58.4)],
        source: "naver-ai/cmo",
    },
    ..Method::BASE
};
