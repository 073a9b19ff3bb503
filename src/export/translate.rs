//! From what a tape computes to nodes: one arm for each [`Formula`], none for any network.
//!
//! Images are NHWC here and NCHW there, weights OHWI and OIHW. In inference a batch normalisation is an affine map of each channel:
//! where it reads a convolution that nothing else reads, its scale goes into the weights and its shift becomes the bias, in double
//! precision.

use std::borrow::Cow;
use std::collections::HashMap;

use super::graph::Builder;
use super::onnx::Attribute;
use crate::error::{Error, Result};
use crate::ops::batch_norm_apply::{Parameters, Shortcut};
use crate::ops::conv2d::Geometry;
use crate::tape::{Formula, Var};

/// A value that is the same for every image: a parameter by PyTorch's name, in PyTorch's layout.
pub struct Constant<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub values: Cow<'a, [f64]>,
}

impl Constant<'_> {
    /// The layer that it belongs to: `layer1.0.conv1` of `layer1.0.conv1.weight`.
    fn layer(&self) -> &str {
        self.name.rsplit_once('.').map_or(self.name, |(layer, _)| layer)
    }
}

/// What a formula reads.
fn reads(formula: &Formula) -> Vec<Var> {
    match *formula {
        Formula::Convolution { x, weight, .. } => vec![x, weight],
        Formula::Normalisation { x, shortcut, .. } => {
            [x].into_iter().chain(shortcut.map(|(source, _)| source)).collect()
        }
        Formula::LargestOfWindows { x, .. } | Formula::MeanOfPixels { x, .. } | Formula::UnitRows { x, .. } => vec![x],
        Formula::Affine { x, weight, bias, .. } => [x, weight].into_iter().chain(bias).collect(),
        Formula::ScaledColumns { x, scales, .. } => vec![x, scales],
        Formula::SideBySide { parts, .. } => parts.to_vec(),
    }
}

/// Translates formulas, one after another.
pub struct Translator<'a> {
    pub builder: Builder,
    constants: HashMap<Var, Constant<'a>>,
    /// What values that depend on the image are called.
    names: HashMap<Var, String>,
    /// Convolutions that wait for the normalisation behind them.
    waiting: HashMap<Var, (Var, Var, Geometry)>,
    keep_norms: bool,
}

impl<'a> Translator<'a> {
    /// Begins with an image's normalised pixels, which are called `name` in what `builder` has so far.
    pub fn new(
        builder: Builder,
        constants: HashMap<Var, Constant<'a>>,
        image: (Var, String),
        keep_norms: bool,
    ) -> Self {
        let names = HashMap::from([image]);
        Translator { builder, constants, names, waiting: HashMap::new(), keep_norms }
    }

    /// What a value is called in the graph.
    ///
    /// # Errors
    /// When no formula so far has made it.
    pub fn name(&self, var: Var) -> Result<String> {
        let name = self.names.get(&var).cloned();
        name.ok_or_else(|| Error::Config("this network reads a value that does not depend on the image".into()))
    }

    fn constant(&self, var: Var) -> Result<&Constant<'a>> {
        let constant = self.constants.get(&var);
        constant.ok_or_else(|| {
            Error::Config("this network computes weights from the image, which ONNX has no word for".into())
        })
    }

    /// Writes a parameter as it is; returns its name.
    fn parameter(&mut self, var: Var) -> Result<String> {
        let Constant { name, shape, values } = self.constant(var)?;
        let (name, shape, values) = (*name, shape.to_vec(), values.to_vec());
        Ok(self.builder.floats(name, &shape, &values))
    }

    /// Translates all of a recording.
    ///
    /// # Errors
    /// When a value is used in a way that has no counterpart; the message says which.
    pub fn translate(&mut self, formulas: &[Formula]) -> Result<()> {
        let mut readers: HashMap<Var, Vec<&Formula>> = HashMap::new();
        for formula in formulas {
            reads(formula).into_iter().for_each(|var| readers.entry(var).or_default().push(formula));
        }
        for formula in formulas {
            match *formula {
                Formula::Convolution { x, weight, y, geometry } => {
                    let read_by = readers.get(&y).map_or(&[][..], Vec::as_slice);
                    let is_normalised = |by: &&Formula| matches!(by, Formula::Normalisation { x, .. } if *x == y);
                    match read_by {
                        [by] if !self.keep_norms && is_normalised(by) => {
                            self.waiting.insert(y, (x, weight, geometry));
                        }
                        _ => {
                            let kernel = self.parameter(weight)?;
                            let layer = self.constant(weight)?.layer().to_owned();
                            let name = self.convolution(&layer, x, &[&kernel], &geometry)?;
                            self.names.insert(y, name);
                        }
                    }
                }
                Formula::Normalisation { x, parameters, epsilon, shortcut, relu, y } => {
                    let layer = self.constant(parameters.weight)?.layer().to_owned();
                    let mut name = match self.waiting.remove(&x) {
                        Some(convolution) => self.folded(convolution, parameters, epsilon)?,
                        None => self.normalisation(&layer, x, parameters, epsilon)?,
                    };
                    if let Some((source, kind)) = shortcut {
                        let source = self.shortcut(&layer, source, kind, parameters)?;
                        name = self.builder.node(&format!("{layer}.add"), "Add", &[&name, &source], vec![]);
                    }
                    if relu {
                        name = self.builder.node(&format!("{layer}.relu"), "Relu", &[&name], vec![]);
                    }
                    self.names.insert(y, name);
                }
                Formula::LargestOfWindows { x, config, y } => {
                    let [kernel, stride, padding] = [config.kernel, config.stride, config.padding].map(|n| n as i64);
                    let windows = vec![
                        Attribute::ints("kernel_shape", &[kernel; 2]),
                        Attribute::ints("strides", &[stride; 2]),
                        Attribute::ints("pads", &[padding; 4]),
                    ];
                    let x = self.name(x)?;
                    let name = self.builder.node("max_pool", "MaxPool", &[&x], windows);
                    self.names.insert(y, name);
                }
                Formula::MeanOfPixels { x, y } => {
                    let x = self.name(x)?;
                    let pooled = self.builder.node("pool", "GlobalAveragePool", &[&x], vec![]);
                    let name = self.builder.node("pool.flat", "Flatten", &[&pooled], vec![Attribute::int("axis", 1)]);
                    self.names.insert(y, name);
                }
                Formula::Affine { x, weight, bias, y } => {
                    let (x, layer) = (self.name(x)?, self.constant(weight)?.layer().to_owned());
                    let mut inputs = vec![x, self.parameter(weight)?];
                    inputs.extend(bias.map(|bias| self.parameter(bias)).transpose()?);
                    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                    let name = self.builder.node(&layer, "Gemm", &inputs, vec![Attribute::int("transB", 1)]);
                    self.names.insert(y, name);
                }
                Formula::UnitRows { x, epsilon, y } => self.unit_rows(x, epsilon, y)?,
                Formula::ScaledColumns { x, scales, y } => {
                    let (x, layer) = (self.name(x)?, self.constant(scales)?.layer().to_owned());
                    let scales = self.parameter(scales)?;
                    let name = self.builder.node(&format!("{layer}.scaled"), "Mul", &[&x, &scales], vec![]);
                    self.names.insert(y, name);
                }
                Formula::SideBySide { parts, y } => {
                    let [first, second] = [self.name(parts[0])?, self.name(parts[1])?];
                    let columns = vec![Attribute::int("axis", 1)];
                    let name = self.builder.node("branches", "Concat", &[&first, &second], columns);
                    self.names.insert(y, name);
                }
            }
        }
        Ok(())
    }

    /// A convolution of `x`; `operands` are its weight and, if it has one, its bias.
    fn convolution(&mut self, layer: &str, x: Var, operands: &[&str], geometry: &Geometry) -> Result<String> {
        let x = self.name(x)?;
        let [kernel, stride, padding, groups] =
            [geometry.kernel, geometry.stride, geometry.padding, geometry.groups].map(|n| n as i64);
        let attributes = vec![
            Attribute::ints("kernel_shape", &[kernel; 2]),
            Attribute::ints("strides", &[stride; 2]),
            Attribute::ints("pads", &[padding; 4]),
            Attribute::int("group", groups),
        ];
        let inputs = [&[x.as_str()], operands].concat();
        Ok(self.builder.node(layer, "Conv", &inputs, attributes))
    }

    /// A convolution with the normalisation behind it in its weights and bias.
    fn folded(
        &mut self,
        (x, weight, geometry): (Var, Var, Geometry),
        norm: Parameters,
        epsilon: f64,
    ) -> Result<String> {
        let channels = [norm.weight, norm.bias, norm.running_mean, norm.running_var];
        let [scale, shift, mean, variance] = channels.map(|var| self.constant(var).map(|constant| &constant.values));
        let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
        let factors: Vec<f64> = scale.iter().zip(variance.iter()).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let moved = shift.iter().zip(mean.iter()).zip(&factors);
        let bias: Vec<f64> = moved.map(|((shift, mean), factor)| shift - mean * factor).collect();
        let kernel = self.constant(weight)?;
        let each = kernel.values.len() / factors.len().max(1);
        let filters = kernel.values.chunks_exact(each.max(1)).zip(&factors);
        let values: Vec<f64> = filters.flat_map(|(filter, factor)| filter.iter().map(move |w| w * factor)).collect();
        let (name, shape, layer) = (kernel.name.to_owned(), kernel.shape.to_vec(), kernel.layer().to_owned());
        let kernel = self.builder.floats(&name, &shape, &values);
        let bias = self.builder.floats(&format!("{layer}.bias"), &[bias.len()], &bias);
        self.convolution(&layer, x, &[&kernel, &bias], &geometry)
    }

    fn normalisation(&mut self, layer: &str, x: Var, norm: Parameters, epsilon: f64) -> Result<String> {
        let mut inputs = vec![self.name(x)?];
        for var in [norm.weight, norm.bias, norm.running_mean, norm.running_var] {
            inputs.push(self.parameter(var)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let epsilon = vec![Attribute::float("epsilon", epsilon as f32)];
        Ok(self.builder.node(layer, "BatchNormalization", &inputs, epsilon))
    }

    /// What is added to a normalisation's output, of as many channels as it has.
    fn shortcut(&mut self, layer: &str, source: Var, kind: Shortcut, norm: Parameters) -> Result<String> {
        let source = self.name(source)?;
        let Shortcut::OptionA { channels, .. } = kind else { return Ok(source) };
        let corners = [("starts", [0, 0]), ("ends", [i64::MAX; 2]), ("axes", [2, 3]), ("steps", [2, 2])];
        let corners = corners.map(|(what, values)| self.builder.whole(&format!("every_second.{what}"), &values));
        let [starts, ends, axes, steps] = corners.each_ref().map(String::as_str);
        let inputs = [&source, starts, ends, axes, steps];
        let fewer = self.builder.node(&format!("{layer}.every_second"), "Slice", &inputs, vec![]);
        let lacking = self.constant(norm.weight)?.values.len() - channels;
        if lacking == 0 {
            return Ok(fewer);
        }
        let (front, back) = ((lacking / 2) as i64, (lacking - lacking / 2) as i64);
        let pads = self.builder.whole(&format!("channels.{front}_{back}"), &[0, front, 0, 0, 0, back, 0, 0]);
        Ok(self.builder.node(&format!("{layer}.pad"), "Pad", &[&fewer, &pads], vec![]))
    }

    /// Rows divided by their lengths: of a weight here and now, of features in the graph.
    fn unit_rows(&mut self, x: Var, epsilon: f64, y: Var) -> Result<()> {
        if let Some(Constant { name, shape, values }) = self.constants.get(&x) {
            let rows = values.chunks_exact(shape.last().copied().unwrap_or(1).max(1));
            let units = rows.flat_map(|row| {
                let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(epsilon);
                row.iter().map(move |v| v / length)
            });
            let constant = Constant { name, shape, values: units.collect() };
            self.constants.insert(y, constant);
            return Ok(());
        }
        let x = self.name(x)?;
        let rows = vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 1)];
        let length = self.builder.node(&format!("{x}.length"), "ReduceL2", &[&x], rows);
        let least = self.builder.floats("least_length", &[], &[epsilon]);
        let length = self.builder.node(&format!("{x}.length_or_least"), "Max", &[&length, &least], vec![]);
        let name = self.builder.node(&format!("{x}.unit"), "Div", &[&x, &length], vec![]);
        self.names.insert(y, name);
        Ok(())
    }
}
