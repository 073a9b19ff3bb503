//! The stages of a file with tables `[[stage]]`: runs one after another, each of which starts from the one before.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Init, PlacementSettings, Which};
use crate::console::{self, note, tell};
use crate::data::store::Store;
use crate::error::{Error, Result, word};
use crate::files::{names_in, read_text, write_atomically};
use crate::train::checkpoint::Checkpoint;
use crate::train::origin::check_follows;
use crate::train::run_folder::RunFolder;
use crate::train::session::{self, Role};

/// The file in the stages' folder that says what all of them are.
const FILE: &str = "stages.toml";

/// What else may lie there before the first stage has begun.
const BEFORE: [&str; 3] = ["data.lt", ".data.lt.partial", "stages.toml.partial"];

/// The content of `stages.toml`: every setting of every stage.
#[derive(Serialize, Deserialize)]
struct Stages {
    stage: Vec<Config>,
}

/// The run folder of 0-based stage `at`.
fn folder(out: &Path, at: usize) -> PathBuf {
    out.join(format!("stage-{}", at + 1))
}

/// Where 0-based stage `at`, which is not the first, starts from.
pub fn before(out: &Path, at: usize, checkpoint: Option<Which>, reinit: Vec<String>) -> Result<Init> {
    let out = std::path::absolute(out).map_err(Error::io(out))?;
    Ok(Init { from: folder(&out, at - 1), checkpoint, reinit })
}

/// Whether this folder holds stages.
pub fn are_in(out: &Path) -> bool {
    out.join(FILE).exists()
}

/// Refuses a folder that holds anything but these stages.
///
/// # Errors
/// When it does, or the system refuses.
pub fn check_folder(out: &Path) -> Result<()> {
    if are_in(out) {
        return Ok(());
    }
    for name in names_in(out)? {
        if !BEFORE.iter().any(|known| name == *known) {
            let what =
                format!("holds {}, and stages need a folder of their own: give another --out", word(Path::new(&name)));
            return Err(Error::file(out, what));
        }
    }
    Ok(())
}

/// Trains these stages in `out`, or goes on with them where they were stopped. Nothing is begun before all were found to
/// follow from each other.
///
/// # Errors
/// When a stage cannot follow from the one before, other stages are there, or a run fails.
pub fn start(out: &Path, configs: &[Config]) -> Result<()> {
    for (at, config) in configs.iter().enumerate() {
        let store = Store::open(&config.placement.data)?;
        let counts = &store.meta().counts;
        let fits = match at {
            0 => config.recipe(counts).map(drop),
            _ => check_follows(&configs[at - 1], config, counts),
        };
        fits.map_err(|e| Error::Config(format!("stage {}: {e}", at + 1)))?;
    }
    match are_in(out) {
        true => {
            let there = read(out)?;
            if there.len() != configs.len() || !there.iter().zip(configs).all(|(there, new)| there.same_run(new)) {
                return Err(Error::file(out, "holds stages of other settings: give another --out"));
            }
        }
        false => {
            fs::create_dir_all(out).map_err(Error::io(out))?;
            let at = out.join(FILE);
            let text = toml::to_string(&Stages { stage: configs.to_vec() }).expect("a configuration has a TOML form");
            write_atomically(&at, |file| file.write_all(text.as_bytes()).map_err(Error::io(&at)))?;
        }
    }
    go_on(out, configs)
}

/// Goes on with the stages in `out` where they were stopped, on the device that `placement` says.
///
/// # Errors
/// When their file is damaged, or a run fails.
pub fn resume(out: &Path, placement: &PlacementSettings, prove: &dyn Fn(&Config) -> Result<()>) -> Result<()> {
    let mut configs = read(out)?;
    for (at, config) in configs.iter_mut().enumerate() {
        config.placement = placement.clone().over(&config.placement);
        // The folder may have moved.
        if let (Some(init), 1..) = (&mut config.init, at) {
            *init = before(out, at, init.checkpoint, std::mem::take(&mut init.reinit))?;
        }
        prove(config)?;
    }
    go_on(out, &configs)
}

fn read(out: &Path) -> Result<Vec<Config>> {
    let file = out.join(FILE);
    let text = read_text(&file, 16 << 20)?;
    let wrong = |e: toml::de::Error| Error::file(&file, format!("damaged: {}", e.message().replace('\n', " ")));
    let Stages { stage } = toml::from_str(&text).map_err(wrong)?;
    stage.iter().try_for_each(Config::check).map_err(|e| Error::file(&file, e.to_string()))?;
    Ok(stage)
}

fn go_on(out: &Path, configs: &[Config]) -> Result<()> {
    let command = format!("glmc-engine train --resume {}", word(out));
    for (at, config) in configs.iter().enumerate() {
        let (path, of) = (folder(out, at), configs.len());
        if is_finished(&path, config)? {
            note!("stage {} of {of}: finished, in {}", at + 1, path.display());
            continue;
        }
        note!("stage {} of {of}: {}", at + 1, path.display());
        let role = if at + 1 == of { Role::Alone } else { Role::Part(&command) };
        let backend = config.placement.open()?;
        if path.join("config.toml").exists() {
            let run = RunFolder::open(&path)?;
            let stored = Config::read(&run.config())?;
            let here = Config { placement: config.placement.clone(), ..stored };
            session::resume(&here, run, false, role, backend.as_ref())?;
        } else {
            session::start(config, || RunFolder::create(&path, config), role, backend.as_ref())?;
        }
    }
    tell!("The last stage is in {}", folder(out, configs.len() - 1).display());
    console::finish()
}

/// Whether a stage has made all its epochs, and has said so.
fn is_finished(path: &Path, config: &Config) -> Result<bool> {
    let last = path.join("last.safetensors");
    if !path.join("result.json").exists() || !last.exists() {
        return Ok(false);
    }
    Ok(Checkpoint::read(&last)?.manifest.progress.epoch >= config.epochs)
}
