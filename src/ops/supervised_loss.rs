//! The supervised losses of long-tailed classification, loss and gradient of both heads and all views in one kernel.
//!
//! A sample has two label terms: the class i of its original with a share, and the class j of its partner with the rest.
//! Each head has five vectors over the classes ([`ClassVector`]: s, b, m, w, eps) and a scale S. Term t of a row of logits z
//! sees `u = S (s z - m_y e_y) + b`, y its class: its own logit alone is lowered by the margin. The row's loss is
//!
//! ```text
//! l = sum_t share_t w_{y_t} Loss(u_t, y_t)
//! ```
//!
//! With the vectors neutral that is the mixed labels' cross-entropy (GLMC paper, section 3). Offsets `tau log pi` make logit
//! adjustment (Menon et al. 2021) and balanced softmax (Ren et al. 2020), with scales VS (Kini et al. 2021); margins and S make
//! LDAM (Cao et al. 2019, equation 13); weights make class-balanced losses (Cui et al. 2019); eps is MiSLAS's label-aware
//! smoothing (Zhong et al. 2021). What else a loss can be is its [`Form`], what it is divided by its [`Reduction`].

use serde::{Deserialize, Serialize};

use super::load_step::StepVars;
use super::{Backend, expect, two};
use crate::error::{Error, Result};
use crate::tape::{Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "supervised_loss";

/// Rows of a head's class vectors, (5, classes), of the accumulation type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassVector {
    /// s: factor of the class's logit.
    Scale,
    /// b: added to it.
    Offset,
    /// m: what a sample's logit of its own class is lowered by, before S.
    Margin,
    /// w: factor of the loss of the class's samples.
    Weight,
    /// eps in 0..1: share of a sample's label that all classes get alike. Only of [`Form::Softmax`].
    Smoothing,
}

impl ClassVector {
    /// In the order of the rows.
    pub const ALL: [ClassVector; 5] =
        [ClassVector::Scale, ClassVector::Offset, ClassVector::Margin, ClassVector::Weight, ClassVector::Smoothing];
    /// Rows.
    pub const COUNT: usize = 5;

    /// The value that changes nothing.
    pub fn neutral(self) -> f64 {
        match self {
            ClassVector::Scale | ClassVector::Weight => 1.0,
            ClassVector::Offset | ClassVector::Margin | ClassVector::Smoothing => 0.0,
        }
    }
}

/// Loss(u, y) of a label term, p = softmax(u).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Cross-entropy `(1 - eps_y)(-log p_y) + eps_y mean_c(-log p_c)`; with an exponent g > 0 the focal loss as LDAM-DRW's
    /// code has it: `(1 - exp(-ce))^g ce` of `ce = w_y` times that, the weight inside.
    Softmax {
        /// g; 0 for cross-entropy.
        focal: f32,
    },
    /// `1/C sum_c BCE(p_c, [c = y])`, C classes (Alshammari et al. 2022, stage 2). A `1 - p_c` under 2^-126 of `p_c` counts as
    /// that.
    BceOnSoftmax,
    /// `sum_c f(x_c)`, x_c = u_c and of the own class -u_y, `f(x) = sigmoid(x)^g log(1 + e^x)` (Cui et al. 2019, equation 12).
    SigmoidFocal {
        /// g.
        focal: f32,
    },
}

/// Which labels the samples of a view have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewLabels {
    /// Both terms, by the step's shares.
    #[default]
    Mixed,
    /// The original's alone, whatever the share is.
    Original,
    /// The partner's alone.
    Partner,
}

impl ViewLabels {
    /// The original's share where the step's is `share`.
    pub fn share(self, share: f32) -> f32 {
        match self {
            ViewLabels::Mixed => share,
            ViewLabels::Original => 1.0,
            ViewLabels::Partner => 0.0,
        }
    }
}

/// What the sum of a view's rows is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The samples of the batch.
    N,
    /// Each label term by the sum over the batch of the weights of its classes, as PyTorch's weighted cross-entropy is.
    SumW,
}

/// A head and its loss, on the tape.
#[derive(Clone, Copy, Debug)]
pub struct HeadLoss {
    /// (views * batch, classes), accumulation type.
    pub logits: Var,
    /// (5, classes), accumulation type: the rows of [`ClassVector`].
    pub vectors: Var,
    /// The loss.
    pub form: Form,
    /// The divisor.
    pub reduction: Reduction,
    /// S.
    pub scale: f32,
}

/// One head's tensors, all of the accumulation type, and its loss.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// (views * batch, classes).
    pub logits: Tensor,
    /// (5, classes): the rows of [`ClassVector`].
    pub vectors: Tensor,
    /// The loss.
    pub form: Form,
    /// The divisor.
    pub reduction: Reduction,
    /// S.
    pub scale: f32,
    /// Gradient of the logits; `None` when only the loss is wanted.
    pub dlogits: Option<Grad>,
}

/// The tensors of `supervised_loss`.
#[derive(Clone, Copy, Debug)]
pub struct SupervisedLoss<'a> {
    /// One or two, of as many rows and classes.
    pub heads: &'a [Head],
    /// I32 (images): class of every image that originals and partners count.
    pub labels: Tensor,
    /// I32 (batch).
    pub originals: Tensor,
    /// I32 (batch).
    pub partners: Tensor,
    /// F32 (batch), also where the accumulation type is F64: the original's share in 0..=1 of each sample's label.
    pub shares: Tensor,
    /// Of the first and of the second view.
    pub views: [ViewLabels; 2],
    /// A `StepParams`.
    pub scalars: Tensor,
    /// Accumulation type (heads, views * batch), written.
    pub rows: Tensor,
}

/// What a backend provides for `supervised_loss`.
pub trait SupervisedLossKernels {
    /// For head k and row n, sample n % batch: `rows[k][n] = l` as above, with [`Reduction::SumW`] each term times
    /// `batch / D_t`, so that the sum of a view's rows over `batch` is its loss; and `dlogits = coefficients[k] / batch *
    /// d rows[k][n] / d logits` with the coefficients of the scalars. A term whose share is 0 is left out. Indices and classes must
    /// be in range, as those of a store are, which is checked when it is opened: kernels trust them.
    fn supervised_loss(&self, t: &SupervisedLoss) -> Result<()>;
}

#[derive(Debug)]
struct Record {
    heads: Vec<HeadLoss>,
    labels: Var,
    vars: StepVars,
    views: [ViewLabels; 2],
    rows: Var,
    batch: usize,
    /// Of one head.
    elements: f64,
}

/// Records the losses of one or two heads for the step's originals, partners and shares; `labels` I32 (images) has the class
/// of every image, and `views` says which of them count in the first and in the second view. Head k's gradient is scaled by the step's coefficient k. Returns the losses of all rows, (heads, views *
/// batch).
///
/// # Errors
/// When the shapes do not fit each other, there are more than two heads or views, or an exponent or a scale is no number that makes
/// sense.
pub fn supervised_loss(
    tape: &mut Tape,
    backend: &dyn Backend,
    heads: &[HeadLoss],
    labels: Var,
    vars: StepVars,
    views: [ViewLabels; 2],
) -> Result<Var> {
    if !(1..=2).contains(&heads.len()) {
        return Err(Error::op(NAME, format!("one or two heads, not {}", heads.len())));
    }
    let [count, classes] = two(NAME, "the logits", tape.shape(heads[0].logits))?;
    for head in heads {
        expect(NAME, "the logits", tape.shape(head.logits), &[count, classes])?;
        expect(NAME, "the class vectors", tape.shape(head.vectors), &[ClassVector::COUNT, classes])?;
        if let Form::Softmax { focal } | Form::SigmoidFocal { focal } = head.form
            && !(focal.is_finite() && focal >= 0.0)
        {
            return Err(Error::op(NAME, format!("a focal exponent is 0 or more, not {focal}")));
        }
        if !(head.scale.is_finite() && head.scale > 0.0) {
            return Err(Error::op(NAME, format!("the logits' scale is a number above 0, not {}", head.scale)));
        }
    }
    let batch = tape.shape(vars.originals).elements();
    for (what, var) in [("the partners", vars.partners), ("the shares", vars.shares)] {
        expect(NAME, what, tape.shape(var), &[batch])?;
    }
    if batch == 0 || count % batch != 0 {
        return Err(Error::op(NAME, format!("{count} rows of logits are no multiple of {batch} samples")));
    }
    if count > 2 * batch {
        return Err(Error::op(NAME, format!("one or two views, not {}", count / batch)));
    }
    let rows = tape.value(&[heads.len(), count], backend.precision().accumulate());
    let elements = (count * classes) as f64;
    tape.record(Record { heads: heads.to_vec(), labels, vars, views, rows, batch, elements });
    Ok(rows)
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        let StepVars { scalars, originals, partners, shares, .. } = self.vars;
        let heads = self.heads.iter().flat_map(|head| [head.logits, head.vectors]);
        heads.chain([self.labels, originals, partners, shares, scalars]).collect()
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.rows]
    }

    fn differentiates(&self) -> Vec<Var> {
        self.heads.iter().map(|head| head.logits).collect()
    }

    fn is_loss(&self) -> bool {
        true
    }

    /// Per logit of a softmax: scaled, shifted, compared, less the largest, exponential, sum; and for the gradient times a
    /// factor, less the smoothing, times the scale. BCE adds the odds, their logarithm and two sums; a sigmoid's loss is two
    /// exponentials, a logarithm, a power and a handful of products.
    fn flops(&self, _pass: Pass, wanted: &[Var]) -> f64 {
        let of = |head: &HeadLoss| {
            let (loss, gradient) = match head.form {
                Form::Softmax { .. } => (6.0, 3.0),
                Form::BceOnSoftmax => (12.0, 7.0),
                Form::SigmoidFocal { .. } => (8.0, 8.0),
            };
            loss + if wanted.is_empty() { 0.0 } else { gradient }
        };
        self.elements * self.heads.iter().map(of).sum::<f64>()
    }

    /// A class an original and a partner.
    fn touches(&self, var: Var) -> Option<usize> {
        (var == self.labels).then_some(2 * self.batch * size_of::<i32>())
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let head = |head: &HeadLoss| Head {
            logits: run.value(head.logits),
            vectors: run.value(head.vectors),
            form: head.form,
            reduction: head.reduction,
            scale: head.scale,
            dlogits: run.grad_target(head.logits),
        };
        let call = |heads: &[Head]| {
            run.backend.supervised_loss(&SupervisedLoss {
                heads,
                labels: run.value(self.labels),
                originals: run.value(self.vars.originals),
                partners: run.value(self.vars.partners),
                shares: run.value(self.vars.shares),
                views: self.views,
                scalars: run.value(self.vars.scalars),
                rows: run.value(self.rows),
            })
        };
        // Two heads at most: no list is built on the heap.
        match self.heads.as_slice() {
            [one] => call(&[head(one)]),
            [one, two] => call(&[head(one), head(two)]),
            more => Err(Error::op(NAME, format!("one or two heads, not {}", more.len()))),
        }
    }
}
