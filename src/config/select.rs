//! The images by which the best epoch is chosen.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::data::store::Store;
use crate::error::{Error, Result};

/// The split whose top-1 says which epoch is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The test images, as published figures are.
    Test,
    /// The validation images, so that the test images have no say in it.
    Val,
}

impl Select {
    /// What a run on `store` selects by: what was asked for, else the validation images where there are any.
    ///
    /// # Errors
    /// When validation images were asked for and there are none.
    pub fn resolve(asked: Option<Select>, store: &Store) -> Result<Select> {
        match (asked, store.val()) {
            (Some(Select::Val), None) => {
                let what = "has no val split, which --select val needs: `prepare images --val-fraction` makes one";
                Err(Error::file(store.path(), what))
            }
            (Some(asked), _) => Ok(asked),
            (None, Some(_)) => Ok(Select::Val),
            (None, None) => Ok(Select::Test),
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Select::Test => "test",
            Select::Val => "val",
        })
    }
}
