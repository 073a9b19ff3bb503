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

    /// `many`, `medium` or `few`.
    pub fn name(self) -> &'static str {
        match self {
            Shot::Many => "many",
            Shot::Medium => "medium",
            Shot::Few => "few",
        }
    }
}

/// How papers group classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Shots {
    /// More than 100 training images are many, fewer than 20 few (OLTR, Decoupling)
    Oltr,
    /// The same, but exactly 20 are few (GLMC's code)
    Glmc,
    /// Thirds of the classes by their index, as in 0-2, 3-6, 7-9 (MiSLAS)
    Index,
}

/// Where the groups end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ShotRule {
    /// By training images.
    Counts {
        /// Classes with more training images are many-shot.
        many_above: usize,
        /// Classes with fewer training images are few-shot.
        few_below: usize,
    },
    /// By index, in data whose classes stand from the most images to the fewest.
    Index {
        /// Classes before this one are many-shot.
        many_before: usize,
        /// Classes from this one on are few-shot.
        few_from: usize,
    },
}

impl Shots {
    /// The rule for so many classes. Of thirds by index, the first and the last are a third rounded down.
    pub fn rule(self, classes: usize) -> ShotRule {
        match self {
            Shots::Oltr => ShotRule::Counts { many_above: 100, few_below: 20 },
            Shots::Glmc => ShotRule::Counts { many_above: 100, few_below: 21 },
            Shots::Index => ShotRule::Index { many_before: classes / 3, few_from: classes - classes / 3 },
        }
    }
}

impl ShotRule {
    /// The group of each class, by its training images.
    pub fn groups(self, counts: &[usize]) -> Vec<Shot> {
        let group = |(class, &count): (usize, &usize)| match self {
            ShotRule::Counts { many_above, .. } if count > many_above => Shot::Many,
            ShotRule::Counts { few_below, .. } if count < few_below => Shot::Few,
            ShotRule::Index { many_before, .. } if class < many_before => Shot::Many,
            ShotRule::Index { few_from, .. } if class >= few_from => Shot::Few,
            _ => Shot::Medium,
        };
        counts.iter().enumerate().map(group).collect()
    }

    /// Which classes a group has: by their training images, or by index.
    pub fn range(self, shot: Shot) -> String {
        match (self, shot) {
            (ShotRule::Counts { many_above, .. }, Shot::Many) => format!("> {many_above} images"),
            (ShotRule::Counts { many_above, few_below }, Shot::Medium) => format!("{few_below} to {many_above}"),
            // As the published code says it.
            (ShotRule::Counts { few_below: 21, .. }, Shot::Few) => "<= 20".into(),
            (ShotRule::Counts { few_below, .. }, Shot::Few) => format!("< {few_below}"),
            (ShotRule::Index { many_before, .. }, Shot::Many) => format!("classes before {many_before}"),
            (ShotRule::Index { many_before, few_from }, Shot::Medium) => {
                format!("{many_before} to {}", few_from.saturating_sub(1))
            }
            (ShotRule::Index { few_from, .. }, Shot::Few) => format!("from {few_from}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges() {
        use Shot::{Few, Many, Medium};
        let counts = [101, 100, 21, 20, 19, 0];
        assert_eq!(Shots::Oltr.rule(6).groups(&counts), [Many, Medium, Medium, Medium, Few, Few]);
        assert_eq!(Shots::Glmc.rule(6).groups(&counts), [Many, Medium, Medium, Few, Few, Few]);
        assert_eq!(Shots::Index.rule(6).groups(&counts), [Many, Many, Medium, Medium, Few, Few]);
    }

    #[test]
    fn thirds_by_index() {
        let thirds = |classes: usize| {
            let groups = Shots::Index.rule(classes).groups(&vec![1; classes]);
            Shot::ALL.map(|shot| groups.iter().filter(|group| **group == shot).count())
        };
        assert_eq!([10, 100, 8, 2, 1].map(thirds), [[3, 4, 3], [33, 34, 33], [2, 4, 2], [0, 2, 0], [0, 1, 0]]);
        let ranges = Shot::ALL.map(|shot| Shots::Index.rule(10).range(shot));
        assert_eq!(ranges, ["classes before 3", "3 to 6", "from 7"]);
    }

    #[test]
    fn ranges_say_what_the_rule_does() {
        let ranges = |shots: Shots| Shot::ALL.map(|shot| shots.rule(10).range(shot));
        assert_eq!(ranges(Shots::Oltr), ["> 100 images", "20 to 100", "< 20"]);
        assert_eq!(ranges(Shots::Glmc), ["> 100 images", "21 to 100", "<= 20"]);
    }

    #[test]
    fn rules_of_older_checkpoints_are_read() {
        let old = r#"{"many_above":100,"few_below":21}"#;
        for (shots, text) in [(Shots::Glmc, old), (Shots::Index, r#"{"many_before":3,"few_from":7}"#)] {
            assert_eq!(serde_json::to_string(&shots.rule(10)).unwrap(), text);
            assert_eq!(serde_json::from_str::<ShotRule>(text).unwrap(), shots.rule(10));
        }
    }
}
