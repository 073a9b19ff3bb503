//! What a configuration changes of a method's recipe.

use std::fmt::Display;

use toml::{Table, Value};

use super::Recipe;
use crate::error::{Error, Result};
use crate::nn::HeadKind;

impl Recipe {
    /// This recipe with a configuration's changes: tables are merged key by key, `false` takes away what may be absent (a
    /// head, the similarity), and anything else replaces what was there.
    ///
    /// # Errors
    /// When a key or value is none of a recipe's.
    pub fn changed(self, changes: &Table) -> Result<Recipe> {
        if changes.is_empty() {
            return Ok(self);
        }
        let wrong = |e: &dyn Display| Error::Config(format!("recipe: {}", e.to_string().trim().replace('\n', " ")));
        let mut whole = Table::try_from(self).map_err(|e| wrong(&e))?;
        merge(&mut whole, changes);
        let recipe: Recipe = whole.clone().try_into().map_err(|e: toml::de::Error| wrong(&e.message()))?;
        match unread(&whole, &Table::try_from(&recipe).map_err(|e| wrong(&e))?) {
            Some(key) => Err(wrong(&format!("unknown key {key}: nothing reads it there"))),
            None => Ok(recipe),
        }
    }
}

/// Merges `changes` into `table`. A table that says another `kind` replaces the whole.
fn merge(table: &mut Table, changes: &Table) {
    for (key, change) in changes {
        match (table.get_mut(key), change) {
            (Some(Value::Table(_)), Value::Boolean(false)) => drop(table.remove(key)),
            // A classifier that balanced data does not have is not there anyway.
            (None, Value::Boolean(false)) if [HeadKind::Fc, HeadKind::FcCb].iter().any(|head| head.name() == key) => {}
            (Some(Value::Table(old)), Value::Table(new))
                if new.get("kind").is_none_or(|kind| old.get("kind") == Some(kind)) =>
            {
                merge(old, new);
            }
            _ => drop(table.insert(key.clone(), change.clone())),
        }
    }
}

/// The first key of `given` that `read`, the same once it was read, does not have. Serde lets one pass beside a `kind` that
/// has no keys of its own.
fn unread(given: &Table, read: &Table) -> Option<String> {
    given.iter().find_map(|(key, value)| match (value, read.get(key)) {
        (Value::Table(given), Some(Value::Table(read))) => unread(given, read).map(|inner| format!("{key}.{inner}")),
        // What is left out where it is as by itself: `branches`, `from_epoch`.
        (Value::Boolean(false) | Value::Integer(0), None) | (_, Some(_)) => None,
        (_, None) => Some(key.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{METHODS, MethodSettings, method};

    fn changed(name: &str, changes: &str) -> Result<Recipe> {
        let recipe = method(name).unwrap().recipe(&MethodSettings::default(), &[50, 20, 3]);
        recipe.changed(&toml::from_str(changes).unwrap())
    }

    #[test]
    fn keys_that_nothing_reads_are_named() {
        for (name, changes, key) in [
            ("ce", "originals.length = { kind = 'images', steps = 3 }", "originals.length.steps"),
            ("ce", "originals.sampling = { kind = 'shuffle', q = 1.0 }", "originals.sampling.q"),
            ("mixup", "partners = { kind = 'permutation', q = 1.0 }", "partners.q"),
            ("cutmix", "mixing.share = { kind = 'area', kappa = 3.0 }", "mixing.share.kappa"),
        ] {
            let message = changed(name, changes).unwrap_err().to_string();
            assert!(message.contains(&format!("recipe: unknown key {key}")), "{changes}: {message}");
        }
        let weight = |more: &str| changed("cb-ce", &format!("heads.fc.weight = {{ kind = 'power', k = 1{more} }}"));
        assert!(weight(", kappa = 2").is_err());
        assert_eq!(weight(", from_epoch = 0").unwrap(), weight("").unwrap());
    }

    #[test]
    fn a_recipe_written_whole_changes_nothing() {
        let settings = MethodSettings::default();
        for method in METHODS {
            let recipe = method.recipe(&settings, &[50, 20, 3]);
            let whole = Table::try_from(&recipe).unwrap();
            assert_eq!(recipe.clone().changed(&whole).unwrap(), recipe, "{}", method.name);
        }
    }
}
