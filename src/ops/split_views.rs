//! A batch of two views taken apart, each of which goes its own way from there: BBN's branches (Zhou et al., "BBN:
//! Bilateral-branch network with cumulative learning for long-tailed visual recognition", CVPR 2020, section 4.1). In the
//! compute type, as all images.

use super::{Backend, four};
use crate::error::{Error, Result};
use crate::tape::{Op, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "split_views";

/// What a backend provides for `split_views`. All tensors have the compute type.
pub trait SplitViewsKernels {
    /// first and second (batch, height, width, channels) each = the halves of x (2 * batch, height, width, channels).
    fn split_views_forward(&self, x: Tensor, first: Tensor, second: Tensor) -> Result<()>;
    /// The halves of dx (+)= dfirst and dsecond.
    fn split_views_backward(&self, dfirst: Tensor, dsecond: Tensor, dx: Grad) -> Result<()>;
}

#[derive(Debug)]
struct SplitViews {
    extents: [usize; 4],
    x: Var,
    views: [Var; 2],
}

/// Records the taking apart of x (2 * batch, height, width, channels); returns the two views, (batch, height, width, channels)
/// each. Both must be used where x wants a gradient.
///
/// # Errors
/// When x is no image tensor of two views.
pub fn split_views(tape: &mut Tape, backend: &dyn Backend, x: Var) -> Result<[Var; 2]> {
    let extents = four(NAME, "the input", tape.shape(x))?;
    let [images, height, width, channels] = extents;
    if images == 0 || images % 2 != 0 {
        return Err(Error::op(NAME, format!("{images} images are not two views")));
    }
    let shape = [images / 2, height, width, channels];
    let views = [(); 2].map(|()| tape.value(&shape, backend.precision().compute()));
    tape.record(SplitViews { extents, x, views });
    Ok(views)
}

impl Op for SplitViews {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Var> {
        self.views.to_vec()
    }

    fn grads_read(&self) -> Vec<Var> {
        self.views.to_vec()
    }

    fn differentiates(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn label(&self) -> String {
        let [b, h, w, c] = self.extents;
        format!("{b}x{h}x{w}x{c}")
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let [first, second] = self.views.map(|view| run.value(view));
        run.backend.split_views_forward(run.value(self.x), first, second)
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        match run.grad_target(self.x) {
            Some(dx) => {
                let [dfirst, dsecond] = self.views.map(|view| run.grad(view));
                run.backend.split_views_backward(dfirst, dsecond, dx)
            }
            None => Ok(()),
        }
    }
}
