//! What the optimiser does besides its learning rate: settings, and what contradicts what.

use std::fmt;
use std::str::FromStr;

use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::method::SharpnessAware;
use crate::nn::Group;

/// SGD with momentum, and what may be put around it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerConfig {
    pub momentum: f64,
    /// Weight decay of parameters whose group says nothing else.
    pub weight_decay: f64,
    /// Whether steps look ahead along the momentum.
    pub nesterov: bool,
    /// Parameters with settings of their own; of two that match, the later one counts.
    pub groups: Vec<Group>,
    /// What weights are held to after an update.
    pub project: Option<Projection>,
    /// Sharpness-aware minimisation.
    pub sam: Option<Sam>,
}

/// What the rows of a weight are held to. Biases are not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// MaxNorm's threshold: no row may become longer than min + t (max - min) of the norms that the rows start with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_norm: Option<f64>,
    /// Instead: the norm that every row is scaled to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2_norm: Option<f64>,
    /// Of the weights whose names match; a `*` stands for any characters.
    #[serde(rename = "match")]
    pub pattern: String,
    /// When.
    #[serde(default)]
    pub every: Every,
}

/// What rows are held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// At most min + t (max - min) of their norms at the start.
    Max {
        /// t.
        t: f64,
    },
    /// Just this norm.
    L2 {
        /// The norm.
        radius: f64,
    },
}

/// When weights are projected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    /// After the last step of an epoch.
    #[default]
    Epoch,
    /// After every step.
    Step,
}

impl Projection {
    /// What rows are held to.
    ///
    /// # Errors
    /// When it says none or both, or a value is out of range.
    pub fn norm(&self) -> Result<Norm> {
        let wrong = |what: String| Err(Error::Config(format!("project: {what}")));
        match (self.max_norm, self.l2_norm) {
            (Some(t), None) if (0.0..=1.0).contains(&t) => Ok(Norm::Max { t }),
            (Some(t), None) => wrong(format!("max_norm must lie in 0..=1, not {t}")),
            (None, Some(radius)) if radius > 0.0 && radius <= 1e6 => Ok(Norm::L2 { radius }),
            (None, Some(radius)) => wrong(format!("l2_norm must be above 0 and at most 1000000, not {radius}")),
            (None, None) => wrong("say max_norm = T (0.1 in the paper) or l2_norm = RADIUS".into()),
            (Some(_), Some(_)) => wrong("max_norm and l2_norm exclude each other".into()),
        }
    }
}

/// Sharpness-aware minimisation: how far the weights climb, along which losses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sam {
    /// How far.
    pub rho: f64,
    /// Factors of the losses' coefficients on the way up, in the order of the loss log: 0 leaves one out.
    pub ascent: [f64; 3],
    /// The passes in which running statistics are updated.
    pub running: Passes,
}

/// Which of the two passes of a step with SAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passes {
    /// At the weights.
    First,
    /// Both, as Saddle-LongTail does.
    #[default]
    Both,
    /// Where the weights have climbed to.
    Second,
}

impl Sam {
    /// All losses count on the way up, and both passes update running statistics.
    pub fn new(rho: f64) -> Sam {
        Sam { rho, ascent: [1.0; 3], running: Passes::Both }
    }

    /// A method's, on CIFAR-100 or else on CIFAR-10.
    pub fn of(sam: SharpnessAware, hundred_classes: bool) -> Sam {
        let ascent = [1.0, 1.0, if sam.similarity { 1.0 } else { 0.0 }];
        Sam { ascent, ..Sam::new(sam.rho[usize::from(hundred_classes)]) }
    }
}

impl FromStr for Sam {
    type Err = String;

    fn from_str(text: &str) -> Result<Sam, String> {
        text.parse()
            .map(Sam::new)
            .map_err(|_| format!("{text:?} is no number: how far the weights climb, such as 0.05"))
    }
}

/// `sam = 0.05`, or a table.
impl<'de> Deserialize<'de> for Sam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sam, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            rho: f64,
            #[serde(default = "all")]
            ascent: [f64; 3],
            #[serde(default)]
            running: Passes,
        }
        fn all() -> [f64; 3] {
            [1.0; 3]
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Sam;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a table of rho, ascent and running")
            }

            fn visit_f64<E>(self, rho: f64) -> Result<Sam, E> {
                Ok(Sam::new(rho))
            }

            fn visit_i64<E>(self, rho: i64) -> Result<Sam, E> {
                Ok(Sam::new(rho as f64))
            }

            fn visit_u64<E>(self, rho: u64) -> Result<Sam, E> {
                Ok(Sam::new(rho as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sam, A::Error> {
                let Table { rho, ascent, running } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Sam { rho, ascent, running })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl OptimizerConfig {
    /// Checks what can be checked without a network.
    ///
    /// # Errors
    /// When a value is out of range or two contradict each other; the message names the setting.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Config(what));
        if self.nesterov && self.momentum == 0.0 {
            return wrong(
                "nesterov looks ahead along the momentum, which is 0: set momentum, or leave nesterov out".into(),
            );
        }
        self.groups.iter().try_for_each(Group::check)?;
        if let Some(project) = &self.project {
            project.norm()?;
        }
        let Some(Sam { rho, ascent, .. }) = self.sam else { return Ok(()) };
        if !(0.0..=1e3).contains(&rho) {
            return wrong(format!("sam must lie in 0..=1000, not {rho}"));
        }
        if !ascent.iter().all(|factor| (0.0..=1e6).contains(factor)) {
            return wrong(format!("the factors in sam.ascent must lie in 0..=1000000, not {ascent:?}"));
        }
        if ascent == [0.0; 3] {
            return wrong("sam.ascent leaves out every loss: there is nothing to climb along".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(config: OptimizerConfig) -> String {
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn contradictions_are_named() {
        let base = OptimizerConfig { momentum: 0.9, ..OptimizerConfig::default() };
        base.check().unwrap();
        assert!(error(OptimizerConfig { momentum: 0.0, nesterov: true, ..base.clone() }).starts_with("nesterov"));
        for (sam, what) in [
            (Sam::new(-0.1), "sam must lie in"),
            (Sam::new(f64::NAN), "sam must lie in"),
            (Sam { ascent: [0.0; 3], ..Sam::new(0.1) }, "every loss"),
            (Sam { ascent: [1.0, -1.0, 0.0], ..Sam::new(0.1) }, "sam.ascent"),
        ] {
            let error = error(OptimizerConfig { sam: Some(sam), ..base.clone() });
            assert!(error.contains(what), "{error}");
        }
        for (text, what) in [
            ("", "say max_norm"),
            ("max_norm = 1.5", "max_norm must lie in 0..=1"),
            ("l2_norm = 0.0", "l2_norm must be above 0"),
            ("max_norm = 0.1\nl2_norm = 1.0", "exclude each other"),
        ] {
            let project: Projection = toml::from_str(&format!("match = \"fc.weight\"\n{text}")).unwrap();
            let error = error(OptimizerConfig { project: Some(project), ..base.clone() });
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn sam_is_a_number_or_a_table() {
        #[derive(Deserialize)]
        struct Holder {
            sam: Sam,
        }
        let read = |text: &str| toml::from_str::<Holder>(text).map(|holder| holder.sam);
        assert_eq!(read("sam = 0.05").unwrap(), Sam::new(0.05));
        assert_eq!(read("sam = 1").unwrap(), Sam::new(1.0));
        let table = read("sam = { rho = 0.05, ascent = [1, 1, 0], running = \"first\" }");
        assert_eq!(table.unwrap(), Sam { rho: 0.05, ascent: [1.0, 1.0, 0.0], running: Passes::First });
        assert!(read("sam = { rho = 0.05, passes = 2 }").is_err() && read("sam = \"a\"").is_err());
        assert!("x".parse::<Sam>().unwrap_err().contains("no number"));
    }
}
