//! Global and Local Mixture Consistency cumulative learning: Fei Du, Peng Yang, Qi Jia, Fengtao Nan, Xiaoting Chen and Yun
//! Yang, "Global and Local Mixture Consistency Cumulative Learning for Long-tailed Visual Recognitions", CVPR 2023,
//! arXiv 2305.08661. Where the paper and its published code differ, the code's way is the default and a setting gives the
//! paper's.

use super::class_vectors::Rule;
use super::logit_adjustment::adjusted;
use super::recipe::{Head, Heads, Mix, Share, Similarity};
use super::samplers::Partners;
use super::schedule::{Coefficient, Course};
use super::{Method, MethodSettings, Published, Recipe, Training};
use crate::nn::HeadKind;
use crate::ops::augment_mix::View;

/// How the published figures were trained.
const TRAINING: Training =
    Training { batch: 64, lr: 0.01, steps: &[], warmup: 0, weight_decay: 5e-3, ..Training::LDAM_DRW };

/// `alpha*L_c + (1-alpha)*L_cb + gamma*L_sim` over a MixUp and a CutMix view (paper, section 3), with this rebalanced head.
/// On balanced data the rebalanced head would be a second conventional one: `fc` is trained alone.
fn glmc(settings: &MethodSettings, counts: &[usize], rebalanced: Head) -> Recipe {
    let factor = if settings.halve_supervised { 0.5 } else { 1.0 };
    let head = |head: Head, course, rising| Head { coefficient: Coefficient { factor, course, rising }, ..head };
    let balanced = counts.iter().all(|n| *n == counts[0]);
    let share = if settings.correct_labels { Share::Area } else { Share::Lambda };
    Recipe {
        views: vec![View::Mixup, View::Cutmix],
        mixing: Mix { beta: settings.beta, share, ..Mix::default() },
        partners: Partners::Power { q: settings.resample },
        heads: match balanced {
            true => Heads { fc: Some(head(Head::default(), Course::Constant, false)), fc_cb: None },
            false => Heads {
                fc: Some(head(Head::default(), Course::Parabola, false)),
                fc_cb: Some(head(rebalanced, Course::Parabola, true)),
            },
        },
        similarity: Some(Similarity { gamma: settings.gamma, ..Similarity::default() }),
        evaluate: if balanced { HeadKind::Fc } else { HeadKind::FcCb },
        ..Recipe::plain()
    }
}

/// GLMC as published.
pub const GLMC: Method = Method {
    name: "glmc",
    title: "GLMC",
    source: "Du et al., CVPR 2023",
    make: |settings, counts| {
        let weight = Rule::Power { k: settings.k };
        glmc(settings, counts, Head { weight: Some(weight.into()), ..Head::default() })
    },
    training: TRAINING,
    published: Published {
        width: 64,
        cifar10: [Some(87.75), Some(90.18), Some(94.04)],
        cifar100: [Some(55.88), Some(61.08), Some(70.74)],
        source: "Du et al., table 1 (the best epoch on the test images)",
    },
    ..Method::BASE
};

/// GLMC whose rebalanced head is adjusted by the classes' frequencies rather than weighted; the authors published a model
/// of it for ImageNet-LT, without its formula.
pub const GLMC_BS: Method = Method {
    name: "glmc-bs",
    title: "GLMC with balanced softmax",
    source: "Du et al., CVPR 2023: the published model, without code",
    make: |settings, counts| glmc(settings, counts, adjusted(1.0)),
    training: TRAINING,
    published: Published { width: 64, ..Published::NONE },
    ..Method::BASE
};
