//! Checkpoints: one safetensors file that `load_state_dict` takes, with the optimiser's state, the run's state and all that
//! using the model takes in it.
//!
//! Tensors: every parameter and running statistic under PyTorch's name and shape, `*.num_batches_tracked`, and
//! `optimizer.momentum.NAME`; of weights that are projected also `run.limit.NAME` (1), the norm that their rows may have. A
//! checkpoint made within an epoch also has `run.losses` (steps, 4), the losses of its steps so far. The metadata has one key,
//! `glmc_engine`: a [`Manifest`] as JSON.

use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::manifest::{Manifest, Progress};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::nn::{Field, ParameterStore};
use crate::ops::Backend;
use crate::tensor::Precision;

/// Longest checkpoint that is read.
const MAX_BYTES: u64 = 1 << 40;

const KEY: &str = "glmc_engine";
const MOMENTUM: &str = "optimizer.momentum.";
const LOSSES: &str = "run.losses";
const LIMIT: &str = "run.limit.";

/// BLAKE3 of a manifest's JSON as it was written, its own checksum blank, and of the tensors in the order of their names.
/// Format 1 left out their types.
fn checksum<'a>(
    blank: &str,
    is_old: bool,
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(blank.as_bytes());
    for (name, dtype, shape, bytes) in tensors {
        let head = if is_old { format!("{name}{shape:?}") } else { format!("{name} {dtype:?} {shape:?}\n") };
        hasher.update(head.as_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// A checkpoint in memory: everything checked, nothing on a device yet.
pub struct Checkpoint {
    /// What it says about itself.
    pub manifest: Manifest,
    tensors: Vec<(String, Vec<usize>, Vec<f64>)>,
    path: PathBuf,
}

/// A tensor on its way to the file.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Entry {
    fn floats(name: String, shape: &[usize], values: &[f64], precision: Precision) -> Entry {
        let (dtype, bytes) = if precision == Precision::F64 {
            (Dtype::F64, bytemuck::cast_slice(values).to_vec())
        } else {
            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            (Dtype::F32, bytemuck::cast_slice(&narrow).to_vec())
        };
        Entry { name, dtype, shape: shape.to_vec(), bytes }
    }
}

/// A model and its optimiser's state on the host, every number of which is finite.
pub struct State(Vec<Entry>);

impl State {
    /// Copies the state from the device, which has looked at every number of it before, and adds the `limits` of projected
    /// weights; the inner result names the first tensor that has a number in it which is not finite, if any has.
    ///
    /// # Errors
    /// When the device fails.
    pub fn take(
        backend: &dyn Backend,
        store: &ParameterStore,
        limits: &[(String, f64)],
    ) -> Result<Result<State, String>> {
        let is_finite = store.not_finite(backend)? == 0;
        let mut entries = Vec::new();
        for (field, prefix) in [(Field::Value, ""), (Field::Momentum, MOMENTUM)] {
            let snapshot = store.snapshot(backend, field)?;
            for (index, spec) in store.specs().iter().enumerate() {
                if field == Field::Momentum && !spec.kind.is_learned() {
                    continue;
                }
                let (name, values) = (format!("{prefix}{}", spec.name), snapshot.get(index));
                if is_finite {
                    entries.push(Entry::floats(name, &spec.shape, &values, backend.precision()));
                } else if !values.iter().all(|value| value.is_finite()) {
                    return Ok(Err(name));
                }
            }
        }
        for (name, limit) in limits {
            entries.push(Entry::floats(format!("{LIMIT}{name}"), &[1], &[*limit], backend.precision()));
        }
        // What a backend stores beside the parameters, as padding, is zero in every run that goes well.
        Ok(if is_finite { Ok(State(entries)) } else { Err("what lies between the parameters".into()) })
    }

    /// Writes a checkpoint. `losses` are those of an unfinished epoch's steps, four per step.
    ///
    /// # Errors
    /// When the file system fails; an older file at `path` is then untouched.
    pub fn save(&self, path: &Path, manifest: Manifest, losses: &[f64]) -> Result<()> {
        let (passes, mut more) = (passes(&manifest)?, Vec::new());
        for layer in self.0.iter().filter_map(|entry| entry.name.strip_suffix("running_var")) {
            let bytes = (passes as i64).to_le_bytes().to_vec();
            let name = format!("{layer}num_batches_tracked");
            more.push(Entry { name, dtype: Dtype::I64, shape: Vec::new(), bytes });
        }
        if !losses.is_empty() {
            more.push(Entry::floats(LOSSES.into(), &[losses.len() / 4, 4], losses, Precision::F64));
        }
        write(path, manifest, self.0.iter().chain(&more).collect())
    }
}

/// How many batches each batch normalisation has seen: the parts of all steps.
fn passes(manifest: &Manifest) -> Result<u64> {
    let (Progress { epoch, step, total_steps, .. }, config) = (&manifest.progress, &manifest.config);
    if config.accumulate == 1 {
        return Ok(*total_steps);
    }
    let batch = config.batch;
    let all = manifest.counts.iter().sum();
    let images = config.recipe(&manifest.counts)?.originals.length.images(all, &manifest.counts, batch)?;
    let of_epoch = images / batch * config.accumulate + (images % batch).div_ceil(batch / config.accumulate);
    Ok((epoch * of_epoch + step * config.accumulate) as u64)
}

fn write(path: &Path, mut manifest: Manifest, mut entries: Vec<&Entry>) -> Result<()> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let contents = entries.iter().map(|e| (e.name.as_str(), e.dtype, e.shape.as_slice(), e.bytes.as_slice()));
    manifest.checksum = String::new();
    manifest.checksum = checksum(&manifest.to_json(), manifest.is_old(), contents);
    let bytes = serialised(path, &entries, (KEY, manifest.to_json()))?;
    write_atomically(path, |file| file.write_all(&bytes).map_err(Error::io(path)))
}

/// A safetensors file's bytes; `path` is for messages.
fn serialised(path: &Path, entries: &[&Entry], (key, text): (&str, String)) -> Result<Vec<u8>> {
    // One key alone: the format's writer has no order of several.
    let metadata = std::collections::HashMap::from([(key.to_string(), text)]);
    let views = entries
        .iter()
        .map(|e| match TensorView::new(e.dtype, e.shape.clone(), &e.bytes) {
            Ok(view) => Ok((e.name.as_str(), view)),
            Err(error) => Err(Error::file(path, format!("{}: {error}", e.name))),
        })
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, Some(metadata)).map_err(|e| Error::file(path, format!("cannot be written: {e}")))
}

/// Whether a tensor of a file is a parameter or statistic of the model.
fn is_model(name: &str) -> bool {
    ![MOMENTUM, LIMIT, LOSSES].iter().any(|prefix| name.starts_with(prefix))
}

impl Checkpoint {
    /// Reads and checks a checkpoint.
    ///
    /// # Errors
    /// When it cannot be read, was not written by this program, or is damaged.
    pub fn read(path: &Path) -> Result<Checkpoint> {
        let bytes = crate::files::read(path, MAX_BYTES)?;
        let wrong = |what: String| Error::file(path, format!("{what}; restore the file, or train again"));
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a whole safetensors file ({e})")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(format!("damaged header ({e})")))?;
        let json = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get(KEY))
            .ok_or_else(|| wrong("not a glmc-engine checkpoint (no glmc_engine metadata)".into()))?;
        let manifest = Manifest::from_json(json).map_err(|what| Error::file(path, what))?;
        let mut views: Vec<(String, TensorView<'_>)> = tensors.tensors();
        views.sort_by(|a, b| a.0.cmp(&b.0));
        // The text as it was written: another version may order or name the same settings differently.
        let blank = json.replacen(&manifest.checksum, "", 1);
        let contents = views.iter().map(|(name, v)| (name.as_str(), v.dtype(), v.shape(), v.data()));
        if checksum(&blank, manifest.is_old(), contents) != manifest.checksum {
            return Err(wrong("damaged: its checksum does not match its content".into()));
        }
        let tensors = views
            .iter()
            .filter_map(|(name, v)| {
                let values = match v.dtype() {
                    Dtype::F64 => bytemuck::pod_collect_to_vec(v.data()),
                    Dtype::F32 => {
                        bytemuck::pod_collect_to_vec::<u8, f32>(v.data()).into_iter().map(f64::from).collect()
                    }
                    _ => return None,
                };
                Some((name.clone(), v.shape().to_vec(), values))
            })
            .collect();
        Ok(Checkpoint { manifest, tensors, path: path.to_path_buf() })
    }

    /// The shape of the tensor of this name, if it has one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.iter().find(|(known, ..)| known == name).map(|(_, shape, _)| shape.as_slice())
    }

    /// The names of the model's parameters and running statistics.
    pub fn model(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, ..)| name.as_str()).filter(|name| is_model(name))
    }

    /// Writes the model with some of its tensors changed; `what` says what was done to it. The optimiser's and the run's state
    /// are left out: nothing can go on from a model that was changed.
    ///
    /// # Errors
    /// When this checkpoint's file is not what it was, or the file system fails.
    pub fn save_changed(&self, path: &Path, what: String, changed: &[(String, Vec<f64>)]) -> Result<()> {
        let mut entries = self.model_entries()?;
        let mut found = 0;
        for entry in &mut entries {
            if let Some((name, values)) = changed.iter().find(|(name, _)| *name == entry.name) {
                let precision = if entry.dtype == Dtype::F64 { Precision::F64 } else { Precision::F32 };
                *entry = Entry::floats(name.clone(), &entry.shape, values, precision);
                found += 1;
            }
        }
        if found != changed.len() {
            return Err(self.changed_meanwhile());
        }
        let mut manifest = self.manifest.clone();
        manifest.posthoc = Some(what);
        write(path, manifest, entries.iter().collect())
    }

    /// The model's tensors that `keep` names, and `more` with their shapes, in single precision, as the bytes of a safetensors file:
    /// a plain state dict. Its metadata has one key, `about`.
    ///
    /// # Errors
    /// When this checkpoint's file is not what it was.
    pub fn weights(
        &self,
        keep: impl Fn(&str) -> bool,
        more: Vec<(String, Vec<usize>, Vec<f64>)>,
        about: String,
    ) -> Result<Vec<u8>> {
        let mut entries = self.model_entries()?;
        entries.retain(|entry| keep(&entry.name));
        for entry in entries.iter_mut().filter(|entry| entry.dtype == Dtype::F64) {
            let values: Vec<f64> = bytemuck::pod_collect_to_vec(&entry.bytes);
            *entry = Entry::floats(entry.name.clone(), &entry.shape, &values, Precision::F32);
        }
        entries.extend(
            more.iter().map(|(name, shape, values)| Entry::floats(name.clone(), shape, values, Precision::F32)),
        );
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        serialised(&self.path, &entries.iter().collect::<Vec<_>>(), ("about", about))
    }

    fn changed_meanwhile(&self) -> Error {
        Error::file(&self.path, "has changed meanwhile: try again")
    }

    /// The model's tensors. Numbers are those that were read and checked; counters are not kept in memory and are read again.
    fn model_entries(&self) -> Result<Vec<Entry>> {
        let bytes = crate::files::read(&self.path, MAX_BYTES)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|_| self.changed_meanwhile())?;
        let of_model = tensors.tensors().into_iter().filter(|(name, _)| is_model(name));
        let entry = |(name, view): (String, TensorView<'_>)| {
            let (dtype, shape) = (view.dtype(), view.shape());
            let precision = if dtype == Dtype::F64 { Precision::F64 } else { Precision::F32 };
            match self.tensors.iter().find(|(known, ..)| *known == name) {
                Some((.., values)) => Entry::floats(name, shape, values, precision),
                None => Entry { name, dtype, shape: shape.to_vec(), bytes: view.data().to_vec() },
            }
        };
        Ok(of_model.map(entry).collect())
    }

    /// One tensor's values.
    ///
    /// # Errors
    /// When there is none of that name, or it has another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<&[f64]> {
        let (_, found, values) = self
            .tensors
            .iter()
            .find(|(n, ..)| n == name)
            .ok_or_else(|| Error::file(&self.path, format!("has no tensor {name}")))?;
        if found != shape {
            let what = format!("tensor {name} has shape {found:?}, but the model's is {shape:?}");
            return Err(Error::file(&self.path, what));
        }
        Ok(values)
    }

    /// Loads the parameters, and with `optimiser` the momentum, into a store of the same model.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape, or the device fails.
    pub fn load(&self, backend: &dyn Backend, store: &ParameterStore, optimiser: bool) -> Result<()> {
        let fields = if optimiser { &[Field::Value, Field::Momentum][..] } else { &[Field::Value] };
        for &field in fields {
            let mut snapshot = store.snapshot(backend, field)?;
            for (index, spec) in store.specs().iter().enumerate() {
                match field {
                    Field::Momentum if !spec.kind.is_learned() => {}
                    Field::Momentum => {
                        let name = format!("{MOMENTUM}{}", spec.name);
                        snapshot.set(index, self.tensor(&name, &spec.shape)?);
                    }
                    _ => snapshot.set(index, self.tensor(&spec.name, &spec.shape)?),
                }
            }
            store.restore(backend, field, &snapshot)?;
        }
        Ok(())
    }

    /// The limit of a projected weight's rows.
    ///
    /// # Errors
    /// When it is missing.
    pub fn limit(&self, name: &str) -> Result<f64> {
        Ok(self.tensor(&format!("{LIMIT}{name}"), &[1])?[0])
    }

    /// The losses of the unfinished epoch's steps, four per step.
    ///
    /// # Errors
    /// When they are missing.
    pub fn losses(&self) -> Result<Vec<f64>> {
        match self.manifest.progress.step {
            0 => Ok(Vec::new()),
            steps => Ok(self.tensor(LOSSES, &[steps, 4])?.to_vec()),
        }
    }
}
