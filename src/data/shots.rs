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

    /// The group of a class with `count` training images, by [`ShotRule::new`].
    pub fn of(count: usize, twenty_is_few: bool) -> Shot {
        ShotRule::new(twenty_is_few).shot(count)
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

/// Where the groups end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShotRule {
    /// Classes with more training images are many-shot.
    pub many_above: usize,
    /// Classes with fewer training images are few-shot.
    pub few_below: usize,
}

impl ShotRule {
    /// The rule that papers use: 20 to 100 training images are medium. GLMC's published code counts exactly 20 as few;
    /// `twenty_is_few` does so too.
    pub fn new(twenty_is_few: bool) -> ShotRule {
        ShotRule { many_above: 100, few_below: if twenty_is_few { 21 } else { 20 } }
    }

    /// The group of a class with `count` training images.
    pub fn shot(self, count: usize) -> Shot {
        match count {
            n if n > self.many_above => Shot::Many,
            n if n < self.few_below => Shot::Few,
            _ => Shot::Medium,
        }
    }

    /// How many training images the classes of a group have.
    pub fn range(self, shot: Shot) -> String {
        let ShotRule { many_above, few_below } = self;
        match shot {
            Shot::Many => format!("> {many_above}"),
            Shot::Medium => format!("{few_below} to {many_above}"),
            // As the published code says it.
            Shot::Few if self == ShotRule::new(true) => format!("<= {}", few_below - 1),
            Shot::Few => format!("< {few_below}"),
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

    #[test]
    fn ranges_say_what_the_rule_does() {
        let ranges = |twenty_is_few| Shot::ALL.map(|shot| ShotRule::new(twenty_is_few).range(shot));
        assert_eq!(ranges(false), ["> 100", "20 to 100", "< 20"]);
        assert_eq!(ranges(true), ["> 100", "21 to 100", "<= 20"]);
    }
}
