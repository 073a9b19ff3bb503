//! Projection of a classifier's rows after an update: MaxNorm `w_c <- w_c min(1, limit / |w_c|)` (Alshammari et al.,
//! "Long-Tailed Recognition via Weight Balancing", CVPR 2022; GLMC paper, section 3.4), or rows of just one norm (the
//! former paper's L2 normalisation). Not on the tape.

use crate::error::Result;
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "project_rows";

/// The tensors of `project_rows`.
#[derive(Clone, Copy, Debug)]
pub struct ProjectRows {
    /// Accumulation type (rows, ...), updated: master weights, as many in each row.
    pub master: Tensor,
    /// Compute type, written: the copy that products read, where the compute type differs from the master's.
    pub compute: Option<Tensor>,
    /// Accumulation type (1): the norm that rows are scaled to.
    pub limit: Tensor,
    /// Whether rows below the limit are scaled up to it, but for rows of zeros.
    pub exact: bool,
}

/// What a backend provides for `project_rows`.
pub trait ProjectRowsKernels {
    /// Scales every row that is longer than the limit, or with `exact` every row, to the limit.
    fn project_rows(&self, t: &ProjectRows) -> Result<()>;
    /// The norms that [`ProjectRowsKernels::project_rows`] compares with the limit, to the bit; norms (rows).
    fn row_norms(&self, master: Tensor, norms: Tensor) -> Result<()>;
}
