//! A plain PyTorch state dict in a safetensors file: torchvision's, or one of the models published with GLMC.
//!
//! Names are brought to torchvision's: `module.` in front, which `DataParallel` puts there, goes, and the names of GLMC's code for
//! ResNet-18 to 152 (`conv1.0`, `conv2_x.0.residual_function.3`, `conv3_x.0.shortcut.0`) become `conv1`, `layer1.0.conv2` and
//! `layer2.0.downsample.0`. `num_batches_tracked`, a counter that nothing here needs, is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Error, Result};
use crate::nn::parameters::{Kind, Spec, Specs};

/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 36;

/// A tensor: its name in the file, its shape and values.
struct Entry {
    own_name: String,
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// A state dict in memory, by torchvision's names.
pub struct StateDict {
    path: PathBuf,
    /// BLAKE3 of the file.
    pub checksum: String,
    entries: BTreeMap<String, Entry>,
}

/// What a network takes of a state dict; indices into its parameters.
pub struct Fit {
    /// Taken as they are.
    pub loaded: Vec<usize>,
    /// Not in the file.
    pub missing: Vec<usize>,
    /// Of heads that have other shapes in the file, for other classes or features.
    pub redrawn: Vec<usize>,
    /// In the file, and no parameter of the network: torchvision's names.
    pub skipped: Vec<String>,
}

/// Torchvision's name of what a state dict calls `name`.
fn known_as(name: &str) -> String {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("module.") {
        name = rest;
    }
    for (own, theirs) in [("conv1.0.", "conv1."), ("conv1.1.", "bn1.")] {
        if let Some(rest) = name.strip_prefix(own) {
            return format!("{theirs}{rest}");
        }
    }
    let stage = (2..=5).find_map(|stage| Some((stage - 1, name.strip_prefix(&format!("conv{stage}_x."))?)));
    let Some((stage, rest)) = stage else { return name.into() };
    let Some((block, rest)) = rest.split_once('.') else { return name.into() };
    let part = |layer: &str| -> Option<String> {
        let at: usize = layer.parse().ok()?;
        // A convolution, its normalisation and a ReLU in turns.
        match at % 3 {
            0 => Some(format!("conv{}", at / 3 + 1)),
            1 => Some(format!("bn{}", at / 3 + 1)),
            _ => None,
        }
    };
    let renamed = match (rest.strip_prefix("residual_function."), rest.strip_prefix("shortcut.")) {
        (Some(rest), _) => rest.split_once('.').and_then(|(layer, rest)| Some(format!("{}.{rest}", part(layer)?))),
        (_, Some(rest)) => Some(format!("downsample.{rest}")),
        _ => None,
    };
    renamed.map_or_else(|| name.into(), |renamed| format!("layer{stage}.{block}.{renamed}"))
}

fn values(view: &TensorView<'_>) -> Option<Vec<f64>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F64 => bytemuck::pod_collect_to_vec(bytes),
        Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(bytes).into_iter().map(f64::from).collect(),
        Dtype::BF16 => bytemuck::pod_collect_to_vec::<u8, bf16>(bytes).into_iter().map(f64::from).collect(),
        Dtype::F16 => {
            let bits = bytemuck::pod_collect_to_vec::<u8, u16>(bytes);
            bits.into_iter().map(|bits| f64::from(f16::from_bits(bits))).collect()
        }
        _ => return None,
    })
}

/// Whether a parameter is of a head, not of the encoder.
fn is_of_head(spec: &Spec) -> bool {
    !matches!(spec.kind, Kind::ConvWeight | Kind::NormWeight | Kind::NormBias | Kind::RunningMean | Kind::RunningVar)
}

/// The layer or head that a parameter is of: all before the last point.
fn layer(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(layer, _)| layer)
}

impl StateDict {
    /// Reads a file; `None` where it is a checkpoint of this program.
    ///
    /// # Errors
    /// When it cannot be read, is no safetensors file, holds two tensors of one name or a number that is not finite.
    pub fn read(path: &Path) -> Result<Option<StateDict>> {
        let bytes = crate::files::read(path, MAX_BYTES)?;
        let wrong = |what: String| Error::file(path, what);
        let how = "tools/pth_to_safetensors.py makes one of a .pth file";
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| wrong(format!("not a whole safetensors file ({e}); {how}")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(format!("damaged header ({e})")))?;
        if header.metadata().as_ref().is_some_and(|metadata| metadata.contains_key("glmc_engine")) {
            return Ok(None);
        }
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (own_name, view) in tensors.iter() {
            let name = known_as(own_name);
            if name.ends_with("num_batches_tracked") {
                continue;
            }
            let Some(values) = values(&view) else {
                return Err(wrong(format!("tensor {own_name} has type {:?}: weights are floats", view.dtype())));
            };
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(wrong(format!("tensor {own_name} holds {value}: no run can start from it")));
            }
            let entry = Entry { own_name: own_name.into(), shape: view.shape().to_vec(), values };
            if let Some(other) = entries.insert(name.clone(), entry) {
                let other = other.own_name;
                return Err(wrong(format!("tensors {other} and {own_name} are both {name}: leave one out")));
            }
        }
        if entries.is_empty() {
            return Err(wrong("holds no tensor".into()));
        }
        let checksum = blake3::hash(&bytes).to_hex().to_string();
        Ok(Some(StateDict { path: path.to_path_buf(), checksum, entries }))
    }

    /// The shape of the tensor of this name, if it has one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The values of the tensor of this name, if it has one.
    pub fn values(&self, name: &str) -> Option<&[f64]> {
        self.entries.get(name).map(|entry| entry.values.as_slice())
    }

    /// What a network of these parameters, but for those that `redraws` names, takes of it.
    ///
    /// # Errors
    /// When a parameter of the encoder has another shape, or nothing of the encoder is in the file.
    pub fn fit(&self, specs: &Specs, redraws: impl Fn(&str) -> bool) -> Result<Fit> {
        let mut fit = Fit { loaded: Vec::new(), missing: Vec::new(), redrawn: Vec::new(), skipped: Vec::new() };
        let differs = |spec: &Spec| self.shape(&spec.name).is_some_and(|shape| shape != spec.shape);
        // A bias that fits is of no use where the weight beside it does not.
        let heads: BTreeSet<&str> =
            specs.iter().filter(|spec| is_of_head(spec) && differs(spec)).map(|spec| layer(&spec.name)).collect();
        for (index, spec) in specs.iter().enumerate() {
            match self.entries.get(&spec.name) {
                _ if redraws(&spec.name) || (is_of_head(spec) && heads.contains(layer(&spec.name))) => {
                    fit.redrawn.push(index);
                }
                None => fit.missing.push(index),
                Some(Entry { own_name, shape, .. }) if differs(spec) => {
                    let what = format!(
                        "has {own_name} of shape {shape:?}, and the network's {} is {:?}: give the --model, --width and --stem \
                         that it is of",
                        spec.name, spec.shape
                    );
                    return Err(Error::file(&self.path, what));
                }
                Some(_) => fit.loaded.push(index),
            }
        }
        let specs: Vec<&Spec> = specs.iter().collect();
        if !fit.loaded.iter().any(|&index| !is_of_head(specs[index])) {
            let first = self.entries.values().next().map_or("", |entry| &entry.own_name);
            let what = format!(
                "has no parameter of this network's encoder: its first is {first}, and the network's {}; is it of another --model?",
                specs[0].name
            );
            return Err(Error::file(&self.path, what));
        }
        let unknown = |name: &&String| !specs.iter().any(|spec| spec.name == **name);
        fit.skipped = self.entries.keys().filter(unknown).cloned().collect();
        Ok(fit)
    }

    /// Which tensors are loaded, skipped and missing, in a line.
    pub fn describe(&self, specs: &Specs, fit: &Fit) -> String {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let of = |indices: &[usize]| indices.iter().map(|&index| names[index]).collect::<Vec<_>>();
        let all: Vec<&str> = names.iter().copied().chain(fit.skipped.iter().map(String::as_str)).collect();
        let skipped: Vec<&str> = fit.skipped.iter().map(String::as_str).collect();
        let mut line = format!("starting from {}, a state dict", self.path.display());
        for (what, some) in [
            ("loaded", of(&fit.loaded)),
            ("skipped", skipped),
            ("missing, so drawn anew", of(&fit.missing)),
            ("of other shapes or reinit, so drawn anew", of(&fit.redrawn)),
        ] {
            if !some.is_empty() {
                line += &format!("; {what} ({}): {}", some.len(), listed(&some, &all));
            }
        }
        line
    }
}

/// `some` of `all` names, those under one name as `layer1.*` where all of them are there.
pub fn listed(some: &[&str], all: &[&str]) -> String {
    let mut shown: Vec<String> = Vec::new();
    for name in some {
        let points = name.match_indices('.').map(|(at, _)| &name[..=at]);
        let whole = |prefix: &&str| all.iter().filter(|name| name.starts_with(*prefix)).all(|name| some.contains(name));
        let short = points.into_iter().find(whole).map_or_else(|| (*name).to_owned(), |prefix| format!("{prefix}*"));
        if !shown.contains(&short) {
            shown.push(short);
        }
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_torchvisions() {
        for (own, known) in [
            ("conv1.weight", "conv1.weight"),
            ("module.layer1.0.bn3.bias", "layer1.0.bn3.bias"),
            ("module.module.fc.weight", "fc.weight"),
            ("conv1.0.weight", "conv1.weight"),
            ("module.conv1.1.running_var", "bn1.running_var"),
            ("conv2_x.0.residual_function.0.weight", "layer1.0.conv1.weight"),
            ("conv2_x.1.residual_function.1.bias", "layer1.1.bn1.bias"),
            ("conv3_x.2.residual_function.3.weight", "layer2.2.conv2.weight"),
            ("conv4_x.10.residual_function.4.running_mean", "layer3.10.bn2.running_mean"),
            ("conv5_x.0.residual_function.6.weight", "layer4.0.conv3.weight"),
            ("module.conv5_x.0.residual_function.7.weight", "layer4.0.bn3.weight"),
            ("conv3_x.0.shortcut.0.weight", "layer2.0.downsample.0.weight"),
            ("conv3_x.0.shortcut.1.running_var", "layer2.0.downsample.1.running_var"),
            ("conv6_x.0.shortcut.1.bias", "conv6_x.0.shortcut.1.bias"),
            ("conv2_x.0.residual_function.2.weight", "conv2_x.0.residual_function.2.weight"),
        ] {
            assert_eq!(known_as(own), known);
        }
    }

    #[test]
    fn names_are_listed_by_what_is_whole() {
        let all = ["conv1.weight", "a.0.x", "a.0.y", "a.1.x", "a.1.y", "b.w"];
        assert_eq!(listed(&all[..1], &all), "conv1.*");
        assert_eq!(listed(&all[1..5], &all), "a.*");
        assert_eq!(listed(&all[1..4], &all), "a.0.*, a.1.x");
        assert_eq!(listed(&[], &all), "");
    }
}
