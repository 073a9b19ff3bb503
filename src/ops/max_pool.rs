//! The largest value of each window (`torch.nn.functional.max_pool2d`): behind the stem of the ImageNet ResNets (He et al. 2016,
//! table 1).
//!
//! The forward notes which tap of its window each output took. The backward then reads dy and one byte an output and writes dx;
//! finding the taps again would read x and y as well, more than twice the bytes in bf16 with a stride of 2, and x would have to
//! be kept for it.

use super::{Backend, four};
use crate::error::{Error, Result};
use crate::tape::{Formula, Op, Pass, Run, Tape, Var};
use crate::tensor::{DType, Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "max_pool";

/// Windows: square, with as much padding on each side, which no value is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Rows and columns of a window, 1 to 16.
    pub kernel: usize,
    /// From one window to the next, in pixels.
    pub stride: usize,
    /// At most half of the kernel, so that each window holds a pixel.
    pub padding: usize,
}

impl Config {
    /// 3x3, stride 2, padding 1: from 112x112 to 56x56 pixels.
    pub const IMAGENET: Config = Config { kernel: 3, stride: 2, padding: 1 };

    /// Windows along a side of `extent` pixels; `None` where there is none.
    pub fn windows(self, extent: usize) -> Option<usize> {
        Some((extent + 2 * self.padding).checked_sub(self.kernel)? / self.stride + 1)
    }

    /// Rows or columns that window `at` covers on a side of `extent` pixels, and the first tap of them.
    pub fn covers(self, at: usize, extent: usize) -> (std::ops::Range<usize>, usize) {
        let start = at * self.stride;
        let first = start.saturating_sub(self.padding);
        (first..(start + self.kernel - self.padding).min(extent), first + self.padding - start)
    }

    /// Windows along a side, `windows` in all, that cover pixel `at`.
    pub fn over(self, at: usize, windows: usize) -> std::ops::Range<usize> {
        let last = (at + self.padding) / self.stride;
        let first = (at + self.padding + 1).saturating_sub(self.kernel).div_ceil(self.stride);
        first..(last + 1).min(windows)
    }

    /// Images, rows and columns of x, rows and columns of y, channels; `None` where `y` is not what becomes of `x`.
    pub fn extents(self, x: Tensor, y: Tensor) -> Option<[usize; 6]> {
        let ([batch, height, width, channels], y) = (x.shape.four()?, y.shape.four()?);
        let (rows, columns) = (self.windows(height)?, self.windows(width)?);
        (y == [batch, rows, columns, channels]).then_some([batch, height, width, rows, columns, channels])
    }
}

/// What a backend provides for `max_pool`. x (batch, height, width, channels) and y (batch, rows, columns, channels) have the
/// compute type; taps has y's shape and is U8: in the window, row times kernel plus column.
pub trait MaxPoolKernels {
    /// y = the largest value of each window of x and, where it is wanted, the tap that it came from: the first of equal ones, row
    /// by row, and a NaN before any number (the last of several), as in PyTorch.
    fn max_pool_forward(&self, x: Tensor, y: Tensor, taps: Option<Tensor>, config: Config) -> Result<()>;
    /// dx (+)= for each pixel the sum of dy over the windows that took it, in the windows' order.
    fn max_pool_backward(&self, dy: Tensor, taps: Tensor, dx: Grad, config: Config) -> Result<()>;
}

#[derive(Debug)]
struct MaxPool {
    config: Config,
    extents: [usize; 4],
    x: Var,
    y: Var,
    /// Only where x gets a gradient.
    taps: Option<Var>,
    outputs: usize,
}

/// Records the largest values of windows: (batch, height, width, channels) -> (batch, rows, columns, channels), in the compute
/// type.
///
/// # Errors
/// When x is no image tensor, holds no window, or the windows make no sense.
pub fn max_pool(tape: &mut Tape, backend: &dyn Backend, x: Var, config: Config) -> Result<Var> {
    let extents = four(NAME, "the input", tape.shape(x))?;
    let Config { kernel, stride, padding } = config;
    // A tap is a byte.
    if !(1..=16).contains(&kernel) || stride == 0 || padding > kernel / 2 {
        let what = "a kernel has 1 to 16 rows, a stride is not 0, a padding at most half of the kernel";
        return Err(Error::op(NAME, format!("kernel {kernel}, stride {stride}, padding {padding}: {what}")));
    }
    let [batch, height, width, channels] = extents;
    let (Some(rows), Some(columns)) = (config.windows(height), config.windows(width)) else {
        let what = format!("a window of {kernel}x{kernel} with padding {padding} does not fit into {height}x{width}");
        return Err(Error::op(NAME, what));
    };
    let shape = [batch, rows, columns, channels];
    let y = tape.value(&shape, backend.precision().compute());
    let taps = tape.requires_grad(x).then(|| tape.value(&shape, DType::U8));
    tape.record(MaxPool { config, extents, x, y, taps, outputs: shape.iter().product() });
    Ok(y)
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Var> {
        [self.y].into_iter().chain(self.taps).collect()
    }

    fn saves(&self) -> Vec<Var> {
        self.taps.into_iter().collect()
    }

    fn grads_read(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn differentiates(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn label(&self) -> String {
        let ([b, h, w, c], Config { kernel, stride, .. }) = (self.extents, self.config);
        format!("{b}x{h}x{w}x{c} {kernel}x{kernel} /{stride}")
    }

    /// Forward, a comparison per tap; backward, an addition per output.
    fn flops(&self, pass: Pass, _wanted: &[Var]) -> f64 {
        let taps = self.config.kernel * self.config.kernel;
        (self.outputs * if pass == Pass::Forward { taps } else { 1 }) as f64
    }

    fn formula(&self) -> Option<Formula> {
        let MaxPool { config, x, y, .. } = *self;
        Some(Formula::LargestOfWindows { x, config, y })
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let taps = self.taps.map(|taps| run.value(taps));
        run.backend.max_pool_forward(run.value(self.x), run.value(self.y), taps, self.config)
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        match (run.grad_target(self.x), self.taps) {
            (Some(dx), Some(taps)) => run.backend.max_pool_backward(run.grad(self.y), run.value(taps), dx, self.config),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_pixels_agree_on_who_covers_whom() {
        for kernel in 1..6 {
            for (stride, padding) in (1..5).flat_map(|stride| (0..=kernel / 2).map(move |padding| (stride, padding))) {
                let config = Config { kernel, stride, padding };
                for extent in 1..12 {
                    let Some(windows) = config.windows(extent) else { continue };
                    for pixel in 0..extent {
                        let over: Vec<usize> = (0..windows)
                            .filter(|&at| (at * stride..at * stride + kernel).contains(&(pixel + padding)))
                            .collect();
                        assert_eq!(
                            config.over(pixel, windows).collect::<Vec<_>>(),
                            over,
                            "{config:?} {extent} {pixel}"
                        );
                        for at in over {
                            let (covered, tap) = config.covers(at, extent);
                            assert!(covered.contains(&pixel) && covered.start + padding == at * stride + tap);
                        }
                    }
                }
            }
        }
        assert_eq!(Config::IMAGENET.windows(112), Some(56));
    }
}
