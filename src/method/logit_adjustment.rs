//! Logits adjusted by the classes' frequencies: logit adjustment (Aditya Krishna Menon et al., ICLR 2021), balanced softmax
//! (Jiawei Ren et al., NeurIPS 2020), which is the same with tau 1, and the VS loss (Ganesh Ramachandra Kini et al.,
//! NeurIPS 2021), which scales the logits as well. Evaluation is without the adjustment.

use super::class_vectors::Rule;
use super::recipe::Head;
use super::{Method, Published, Recipe};

/// A head whose logits are offset by `tau log pi`.
pub fn adjusted(tau: f64) -> Head {
    Head { offset: Some(Rule::LogPrior { tau }.into()), ..Head::default() }
}

/// The figures of balanced softmax, and so of logit adjustment by the same recipe.
const FIGURES: Published = Published {
    width: 16,
    cifar10: [Some(77.54), Some(81.11), None],
    cifar100: [Some(42.99), Some(46.55), None],
    source: "zhangyongshun/BagofTricks-LT, BSCE (warm-up from a third)",
};

/// Balanced softmax.
pub const BS: Method = Method {
    name: "bs",
    title: "balanced softmax",
    source: "Ren et al., NeurIPS 2020",
    make: |_, _| Recipe::with_head(adjusted(1.0)),
    published: FIGURES,
    ..Method::BASE
};

/// Logit adjustment in the loss.
pub const LA: Method = Method {
    name: "la",
    title: "logit adjustment",
    source: "Menon et al., ICLR 2021 (their own figures are of another network)",
    make: |settings, _| Recipe::with_head(adjusted(settings.tau.unwrap_or(1.0))),
    published: FIGURES,
    ..Method::BASE
};

/// Vector scaling.
pub const VS: Method = Method {
    name: "vs",
    title: "VS loss",
    source: "Kini et al., NeurIPS 2021",
    make: |settings, _| {
        let scale = Rule::Relative { gamma: 0.2 };
        Recipe::with_head(Head { class_scale: Some(scale.into()), ..adjusted(settings.tau.unwrap_or(1.2)) })
    },
    published: Published {
        width: 16,
        cifar10: [Some(80.29), None, Some(88.74)],
        cifar100: [Some(42.67), None, Some(58.50)],
        source: "wang22ti/DDC",
    },
    ..Method::BASE
};
