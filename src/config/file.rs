//! Files of settings: one run, or the stages of one.

use std::path::Path;

use super::{Settings, Which};
use crate::error::{Error, Result};
use crate::files::read_text;

/// Longest file of settings that is read.
pub(super) const MAX_CONFIG: u64 = 16 << 20;

/// A table `[[stage]]`: what one stage of several has besides the file's other settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stage {
    /// Its own settings.
    pub settings: Settings,
    /// Which checkpoint of the stage before it starts from.
    pub from: Option<Which>,
    /// Patterns of the parameters that are drawn anew.
    pub reinit: Vec<String>,
}

impl Settings {
    /// Reads a TOML file of settings of one run; a key `preset` names the preset under them.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML, or has a key that is no setting.
    pub fn read(path: &Path) -> Result<(Settings, Option<String>)> {
        match Settings::read_stages(path)? {
            (settings, preset, stages) if stages.is_empty() => Ok((settings, preset)),
            _ => Err(Error::file(path, "has stages, which only train --config takes")),
        }
    }

    /// As [`Settings::read`], for a file that may have tables `[[stage]]`.
    ///
    /// # Errors
    /// As for [`Settings::read`], and when a first stage is to start from one before it.
    pub fn read_stages(path: &Path) -> Result<(Settings, Option<String>, Vec<Stage>)> {
        let text = read_text(path, MAX_CONFIG)?;
        let wrong = |e: toml::de::Error| {
            let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Error::file(path, format!("line {line}: {}", e.message().replace('\n', " ")))
        };
        let mut table: toml::Table = toml::from_str(&text).map_err(wrong)?;
        let preset = match table.remove("preset") {
            None => None,
            Some(toml::Value::String(name)) => Some(name),
            Some(other) => return Err(Error::file(path, format!("preset must be a name, not {other}"))),
        };
        let stages = match table.remove("stage") {
            None => Vec::new(),
            Some(toml::Value::Array(stages)) if !stages.is_empty() => stages,
            Some(_) => return Err(Error::file(path, "stage must be tables, one at least, each headed [[stage]]")),
        };
        refuse_unknown(path, &text, &table)?;
        let settings: Settings = toml::from_str(&text).map_err(wrong)?;
        if !stages.is_empty() && settings.init.is_some() {
            return Err(Error::file(path, "init is of one run: put it into the first [[stage]]"));
        }
        let stages = stages.into_iter().enumerate().map(|(at, stage)| Stage::read(path, &text, at, stage));
        Ok((settings, preset, stages.collect::<Result<_>>()?))
    }
}

impl Stage {
    fn read(path: &Path, text: &str, at: usize, value: toml::Value) -> Result<Stage> {
        let wrong = |what: String| Error::file(path, format!("stage {}: {what}", at + 1));
        let toml::Value::Table(mut table) = value else { return Err(wrong("is no table".into())) };
        let mut own = |key: &str| match (table.remove(key), at) {
            (Some(_), 0) => Err(wrong(format!("{key} is of the stage before, and this is the first"))),
            (value, _) => Ok(value),
        };
        let (from, reinit) = (own("from")?, own("reinit")?);
        let of = |e: toml::de::Error| wrong(e.message().replace('\n', " "));
        refuse_unknown(path, text, &table)?;
        if at > 0 && table.contains_key("init") {
            return Err(wrong("starts from the stage before: in place of init, say from and reinit".into()));
        }
        Ok(Stage {
            settings: table.try_into().map_err(of)?,
            from: from.map(|value| value.try_into().map_err(of)).transpose()?,
            reinit: reinit.map(|value| value.try_into().map_err(of)).transpose()?.unwrap_or_default(),
        })
    }
}

/// Serde cannot flatten and refuse unknown keys at once, so they are refused here: every key must be a flag's name, or one of
/// those that only files have.
pub(super) fn refuse_unknown(path: &Path, text: &str, table: &toml::Table) -> Result<()> {
    let flags = <Settings as clap::Args>::augment_args(clap::Command::new("settings"));
    let in_files = ["groups", "init", "lr_set", "photos", "project", "recipe", "warmup_every_step", "warmup_inclusive"];
    let known: Vec<&str> = flags.get_arguments().map(|flag| flag.get_id().as_str()).chain(in_files).collect();
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => {
            let line = 1 + text.lines().position(|line| line.trim_start().starts_with(key.as_str())).unwrap_or(0);
            Err(Error::file(path, format!("line {line}: unknown setting {key:?}: known are {}", known.join(", "))))
        }
        None => Ok(()),
    }
}
