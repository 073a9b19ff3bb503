//! A trained model and the store that it is used on: what `eval` and `posthoc` begin with.

use std::path::{Path, PathBuf};

use crate::console::note;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::method::Recipe;
use crate::nn::{Model, ParameterStore};
use crate::ops::Backend;
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{EVALUATION_BATCH, model};
use crate::train::feed::{Feed, Images};
use crate::train::manifest::Subject;

/// What is made of a store that is not the one that was trained on.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct StoreArgs {
    /// Accept a store whose classes have other names, or stand in another order
    #[arg(long)]
    ignore_names: bool,
    /// Take mean, std and class names from the store, as checkpoints without them need it
    #[arg(long)]
    from_store: bool,
}

/// A checkpoint, checked, and an open store with the same classes.
pub struct Trained {
    pub file: PathBuf,
    pub checkpoint: Checkpoint,
    pub store: Store,
    /// What inputs are normalised by, and what classes are called.
    pub subject: Subject,
}

impl Trained {
    /// Opens the store and compares it with what the checkpoint knows.
    ///
    /// # Errors
    /// When the store is missing or damaged, or its classes are not those that were trained on.
    pub fn open(file: PathBuf, checkpoint: Checkpoint, data: &Path, args: StoreArgs) -> Result<Trained> {
        let store = Store::open(data)?;
        let classes = checkpoint.manifest.counts.len();
        if store.classes() != classes {
            let what = format!("has {} classes, but the checkpoint was trained on {classes}", store.classes());
            return Err(Error::file(data, what));
        }
        let subject = match &checkpoint.manifest.data {
            Some(subject) if !args.from_store => {
                check_names(&store, subject, args.ignore_names)?;
                warn_of_size(&store, subject);
                subject.clone()
            }
            None if !args.from_store => {
                let what = "was written by an older version, without mean, std and class names: --from-store takes those of \
                            the evaluated store, which is right where that is the one that it was trained on";
                return Err(Error::file(&file, what));
            }
            _ => Subject::of(&store),
        };
        Ok(Trained { file, checkpoint, store, subject })
    }

    /// The model on a device.
    ///
    /// # Errors
    /// When the checkpoint is of another model than it says, or the device fails.
    pub fn load(&self, backend: &dyn Backend) -> Result<(Recipe, Model, ParameterStore)> {
        let manifest = &self.checkpoint.manifest;
        let recipe = manifest.config.recipe(&manifest.counts)?;
        let model = model(&manifest.config, &recipe, manifest.counts.len(), backend)?;
        let parameters = ParameterStore::new(backend, model.specs().clone())?;
        self.checkpoint.load(backend, &parameters, false)?;
        Ok((recipe, model, parameters))
    }

    /// Images on the device, as many of them as fit, and how many are looked at at a time.
    ///
    /// # Errors
    /// When they are damaged, or the device has too little memory.
    pub fn feed<'a>(&self, backend: &dyn Backend, images: Images<'a>) -> Result<(Feed<'a>, usize)> {
        let batch = EVALUATION_BATCH.min(images.len());
        // Half of what is free is more than enough for the activations of one batch.
        let limit = self.checkpoint.manifest.config.placement.resident_limit;
        let room = limit.map_or(backend.available()? / 2, |mib| mib.saturating_mul(1 << 20));
        let feed = Feed::new(backend, images, batch, room)?;
        feed.fill(backend)?;
        Ok((feed, batch))
    }
}

/// Refuses a store whose classes are not those of the checkpoint, one by one: an accuracy would be of other questions.
fn check_names(store: &Store, subject: &Subject, ignore: bool) -> Result<()> {
    let (found, known) = (&store.meta().class_names, &subject.class_names);
    let Some(class) = (0..known.len()).find(|&class| found[class] != known[class]) else { return Ok(()) };
    if ignore {
        return Ok(());
    }
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let how = if sorted(found) == sorted(known) { "in another order" } else { "of other names" };
    let what = format!(
        "has classes {how} than the checkpoint: class {class} is {:?} here and {:?} there; --ignore-names takes it anyway",
        found[class], known[class]
    );
    Err(Error::file(store.path(), what))
}

fn warn_of_size(store: &Store, subject: &Subject) {
    let (test, Subject { height, width, .. }) = (store.test(), subject);
    if (test.height(), test.width()) != (*height, *width) {
        let (found, path) = (format!("{}x{}", test.height(), test.width()), store.path().display());
        note!("warning: {path}: images of {found}, but the checkpoint was trained on {height}x{width}");
    }
}
