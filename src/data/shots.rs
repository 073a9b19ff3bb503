//! Many-, medium- and few-shot classes, the groups by which papers on long-tailed recognition report accuracy
//! (Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019).

use serde::{Deserialize, Serialize};

/// How often a class occurs in the training set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shot {
    /// More than 100 training images.
    Many,
    /// 20 to 100 training images.
    Medium,
    /// Fewer than 20 training images.
    Few,
}

impl Shot {
    /// The three groups, in the order in which tables print them.
    pub const ALL: [Shot; 3] = [Shot::Many, Shot::Medium, Shot::Few];

    /// The group of a class with `count` training images. GLMC's published code counts exactly 20 as few;
    /// `twenty_is_few` does so too.
    pub fn of(count: usize, twenty_is_few: bool) -> Shot {
        match count {
            101.. => Shot::Many,
            20 if twenty_is_few => Shot::Few,
            20..=100 => Shot::Medium,
            _ => Shot::Few,
        }
    }

    /// `many`, `medium` or `few`.
    pub fn name(self) -> &'static str {
        match self {
            Shot::Many => "many",
            Shot::Medium => "medium",
            Shot::Few => "few",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges() {
        let groups = [0, 19, 20, 21, 100, 101].map(|n| Shot::of(n, false));
        assert_eq!(groups, [Shot::Few, Shot::Few, Shot::Medium, Shot::Medium, Shot::Medium, Shot::Many]);
        assert_eq!(Shot::of(20, true), Shot::Few);
        assert_eq!(Shot::of(21, true), Shot::Medium);
    }
}
