//! A trained model, and the store or the files that it is used on: what `eval`, `posthoc` and `predict` begin with.

use std::path::{Path, PathBuf};

use crate::config::{Config, Sides};
use crate::console::note;
use crate::data::decode::Exif;
use crate::data::loader::Prepared;
use crate::data::resize::Resize;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::method::Recipe;
use crate::method::photos::Framing;
use crate::nn::{Model, ParameterStore};
use crate::ops::Backend;
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{evaluation_batch, model};
use crate::train::feed::{Feed, Images};
use crate::train::manifest::Subject;
use crate::train::passes::evaluation;
use crate::train::photo_feed::Shown;

/// What is made of a store that is not the one that was trained on.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct StoreArgs {
    /// Accept a store whose classes have other names, or stand in another order
    #[arg(long)]
    ignore_names: bool,
    /// Take mean, std and class names from the store, as checkpoints without them need it
    #[arg(long)]
    from_store: bool,
    /// Rows and columns that are cut out of the centre of each photograph [default: as the run was trained]
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// Shorter side that photographs are resized to first [default: as the run was evaluated, or 8/7 of --size]
    #[arg(long, value_name = "PIXELS")]
    eval_resize: Option<usize>,
}

impl StoreArgs {
    /// Those of a command that has no such flags.
    pub fn taking(from_store: bool) -> StoreArgs {
        StoreArgs { ignore_names: false, from_store, size: None, eval_resize: None }
    }
}

/// A checkpoint, checked, and an open store with the same classes.
pub struct Trained {
    pub file: PathBuf,
    pub checkpoint: Checkpoint,
    pub store: Store,
    /// What inputs are normalised by, and what classes are called.
    pub subject: Subject,
    /// How photographs are looked at; `None` where images are taken as they are.
    pub framing: Option<Framing>,
}

impl Trained {
    /// Opens the store and compares it with what the checkpoint knows.
    ///
    /// # Errors
    /// When the store is missing or damaged, or its classes are not those that were trained on.
    pub fn open(file: PathBuf, mut checkpoint: Checkpoint, data: &Path, args: StoreArgs) -> Result<Trained> {
        let store = Store::open(data)?;
        let classes = checkpoint.manifest.counts.len();
        if store.classes() != classes {
            let what = format!("has {} classes, but the checkpoint was trained on {classes}", store.classes());
            return Err(Error::file(data, what));
        }
        if checkpoint.manifest.imported.is_some() {
            checkpoint.manifest.counts.clone_from(&store.meta().counts);
        }
        let subject = match &checkpoint.manifest.data {
            Some(subject) if !args.from_store => {
                check_names(&store, subject, args.ignore_names || !checkpoint.manifest.knows_names())?;
                match checkpoint.manifest.knows_names() {
                    true => subject.clone(),
                    false => Subject { class_names: store.meta().class_names.clone(), ..subject.clone() },
                }
            }
            None if !args.from_store => {
                let what = "was written by an older version, without mean, std and class names: --from-store takes those of \
                            the evaluated store, which is right where that is the one that it was trained on";
                return Err(Error::file(&file, what));
            }
            _ => Subject::of(&store, checkpoint.manifest.config.size),
        };
        let framing = framing(&checkpoint.manifest.config, &store, &subject, args)?;
        match framing.and_then(|framing| framing.note()) {
            Some(note) => note!("{note}"),
            None if framing.is_none() => warn_of_size(&store, &subject),
            None => {}
        }
        Ok(Trained { file, checkpoint, store, subject, framing })
    }

    /// The model on a device.
    ///
    /// # Errors
    /// When the checkpoint is of another model than it says, or the device fails.
    pub fn load(&self, backend: &dyn Backend) -> Result<(Recipe, Model, ParameterStore)> {
        load(&self.checkpoint, backend)
    }

    /// Images on the device, as many of them as fit, and how many are looked at at a time.
    ///
    /// # Errors
    /// When they are damaged, or the device has too little memory.
    pub fn feed<'a>(&self, backend: &dyn Backend, images: Images<'a>, flip: bool) -> Result<(Feed<'a>, usize)> {
        let batch = evaluation_batch(&images, self.framing);
        let shown = self.framing.map(|framing| Shown { framing, mixing: evaluation(flip), accumulate: 1 });
        // Half of what is free is more than enough for the activations of one batch.
        let limit = self.checkpoint.manifest.config.placement.resident_limit;
        let room = limit.map_or(backend.available()? / 2, |mib| mib.saturating_mul(1 << 20));
        let feed = Feed::new(backend, images, batch, room, shown)?;
        feed.fill(backend)?;
        Ok((feed, batch))
    }
}

/// The model of a checkpoint on a device.
///
/// # Errors
/// When the checkpoint is of another model than it says, or the device fails.
pub fn load(checkpoint: &Checkpoint, backend: &dyn Backend) -> Result<(Recipe, Model, ParameterStore)> {
    let manifest = &checkpoint.manifest;
    let recipe = manifest.config.recipe(&manifest.counts)?;
    let model = model(&manifest.config, &recipe, manifest.counts.len(), backend)?;
    let parameters = ParameterStore::new(backend, model.specs().clone())?;
    checkpoint.load(backend, &parameters, false)?;
    Ok((recipe, model, parameters))
}

/// A checkpoint that is used on image files.
pub struct OnFiles {
    pub checkpoint: Checkpoint,
    /// What inputs are normalised by, and what classes are called.
    pub subject: Subject,
    /// How photographs are looked at; `None` where images are taken as they are.
    pub framing: Option<Framing>,
    /// What is made of files before they are looked at: what was made of those that were trained on.
    pub prepared: Prepared,
}

impl OnFiles {
    /// Takes what a checkpoint says, or says in its place the store that it was trained on, and `resize` and `exif` where they are
    /// given.
    ///
    /// # Errors
    /// When the checkpoint says too little, the store is another one, or `resize` is of no use.
    pub fn open(
        file: &Path,
        checkpoint: Checkpoint,
        from_store: Option<&Path>,
        (resize, exif): (Option<Resize>, Option<Exif>),
    ) -> Result<OnFiles> {
        let manifest = &checkpoint.manifest;
        let mut config = manifest.config.clone();
        let subject = match (&manifest.data, from_store) {
            (_, Some(path)) => {
                let (store, classes) = (Store::open(path)?, manifest.counts.len());
                if store.classes() != classes {
                    let what = format!("has {} classes, but the checkpoint was trained on {classes}", store.classes());
                    return Err(Error::file(path, what));
                }
                Subject::of(&store, config.size)
            }
            (Some(subject), None) => subject.clone(),
            (None, None) => {
                let what = "was written by an older version, without mean, std, class names and image size: --from-store STORE \
                            takes those of the store that it was trained on";
                return Err(Error::file(file, what));
            }
        };
        if manifest.imported.is_some() {
            // Nothing is known of the images that it was trained on but their size.
            config.settle_sizes(Sides::One([subject.height, subject.width]))?;
        }
        let framing = config.framing();
        let known = subject.prepared.map(|prepared| prepared.resize);
        let resize = match (framing, resize) {
            (None, Some(_)) => {
                let what = format!(
                    "--resize: this model sees whole images of {}x{}, which is what files are resized to",
                    subject.height, subject.width
                );
                return Err(Error::Usage(what));
            }
            (None, None) => Resize::Middle(subject.height, subject.width),
            (Some(framing), resize) => resize.or(known).unwrap_or(Resize::Short(framing.resize)),
        };
        let exif = exif.or(subject.prepared.map(|prepared| prepared.exif)).unwrap_or_default();
        Ok(OnFiles { checkpoint, subject, framing, prepared: Prepared { resize, exif } })
    }
}

/// How a trained model looks at a store's photographs: as it was trained and evaluated, unless something else is asked for. One
/// that was trained on images of one size sees others at that size.
fn framing(config: &Config, store: &Store, subject: &Subject, args: StoreArgs) -> Result<Option<Framing>> {
    let is_mixed = matches!(Sides::of(store), Sides::Mixed { .. });
    if config.size.is_none() && !is_mixed && args.size.is_none() && args.eval_resize.is_none() {
        return Ok(None);
    }
    let mut config = config.clone();
    if args.size.is_some() {
        (config.size, config.eval_resize) = (args.size, None);
    }
    config.size.get_or_insert(subject.height.min(subject.width));
    config.eval_resize = args.eval_resize.or(config.eval_resize);
    config.check()?;
    Ok(config.framing())
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
