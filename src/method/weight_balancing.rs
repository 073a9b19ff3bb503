//! The first stage of weight balancing (Shaden Alshammari et al., CVPR 2022): plain cross-entropy under a strong weight decay,
//! which keeps the classes' weights of like length. `finetune --method wb` is the second.

use super::schedule::SetAt;
use super::{Method, Published, Training};

/// As ShadeAlsha/LTR-weight-balancing trains it, with its ResNet-34 replaced by the ResNet-32 of the other methods.
pub const WB: Method = Method {
    name: "wb",
    title: "weight balancing, first stage (weight decay)",
    source: "Alshammari et al., CVPR 2022",
    training: Training {
        epochs: 320,
        batch: 64,
        lr: 0.01,
        steps: &[],
        warmup: 0,
        set: SetAt::StepBefore,
        weight_decay: 5e-3,
        ..Training::LDAM_DRW
    },
    published: Published {
        width: 16,
        cifar100: [Some(38.6), None, None],
        source: "cool-xuan/Imbalanced_SAM, issue 1, ResNet-32 (the paper's 47.9 is of a ResNet-34)",
        ..Published::NONE
    },
    ..Method::BASE
};
