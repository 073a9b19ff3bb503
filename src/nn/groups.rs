//! Groups of parameters: by patterns of their names, what the optimiser does with each, and what batch normalisations use.

use serde::{Deserialize, Serialize};

use super::parameters::{Kind, Spec, Specs};
use crate::error::{Error, Result};

/// What a batch normalisation uses and updates in a training step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchNorm {
    /// The batch's statistics; the running ones follow.
    #[default]
    #[serde(rename = "train")]
    Train,
    /// The batch's statistics; the running ones stay as they are.
    #[serde(rename = "batch")]
    BatchStatistics,
    /// The running statistics, which stay as they are. Only where nothing before it is trained.
    #[serde(rename = "running")]
    Running,
}

/// Settings of the parameters whose names match a pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// A name in which each `*` stands for any characters, also none: `fc_cb.*`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Factor of the learning rate.
    #[serde(default = "one")]
    pub lr_factor: f64,
    /// Weight decay; the run's, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Whether weights and momentum stay as they are.
    #[serde(default)]
    pub frozen: bool,
    /// Of the batch normalisations whose scale it matches.
    #[serde(default)]
    pub batch_norm: BatchNorm,
}

fn one() -> f64 {
    1.0
}

impl Group {
    /// A parameter without weight decay.
    pub fn undecayed(name: &str) -> Group {
        let (pattern, weight_decay) = (name.into(), Some(0.0));
        Group { pattern, lr_factor: one(), weight_decay, frozen: false, batch_norm: BatchNorm::default() }
    }

    /// Checks what can be checked without a network.
    ///
    /// # Errors
    /// When a value is out of range or says nothing; the message names the group.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Config(format!("the group {:?}: {what}", self.pattern)));
        if !(0.0..=1e3).contains(&self.lr_factor) {
            return wrong(format!("lr_factor must lie in 0..=1000, not {}", self.lr_factor));
        }
        match self.weight_decay {
            Some(decay) if !(0.0..=1e3).contains(&decay) => {
                wrong(format!("weight_decay must lie in 0..=1000, not {decay}"))
            }
            Some(_) if self.frozen => wrong("it is frozen, so that its weight_decay does nothing: leave it out".into()),
            _ if self.frozen && self.lr_factor != 1.0 => {
                wrong("it is frozen, so that its lr_factor does nothing: leave it out".into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether `name` is the pattern with something for each `*` in it.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    // Between two `*` the first place is as good as any later one.
    while let Some((piece, after)) = rest.split_once('*') {
        let Some(at) = name.find(piece) else { return false };
        (name, rest) = (&name[at + piece.len()..], after);
    }
    name.ends_with(rest)
}

/// What the optimiser does with one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Factor of the learning rate.
    pub lr_factor: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Whether it stays as it is.
    pub frozen: bool,
    /// What a batch normalisation uses whose scale it is.
    pub batch_norm: BatchNorm,
}

/// The rule of each parameter, in the order of declaration.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Whether a parameter's gradient is wanted.
    differentiated: Vec<bool>,
}

impl Rules {
    /// Resolves groups, of which the later match wins, for a network's parameters; what no pattern matches is trained with
    /// `weight_decay`.
    ///
    /// # Errors
    /// When a pattern matches nothing, or nothing is left to train.
    pub fn new(specs: &Specs, weight_decay: f64, groups: &[Group]) -> Result<Rules> {
        for group in groups {
            group.check()?;
            require_match(specs, &group.pattern)?;
        }
        let rule = |spec: &Spec| {
            let group = groups.iter().rev().find(|group| matches(&group.pattern, &spec.name));
            group.map_or(Rule { lr_factor: 1.0, weight_decay, frozen: false, batch_norm: BatchNorm::Train }, |group| {
                Rule {
                    lr_factor: group.lr_factor,
                    weight_decay: group.weight_decay.unwrap_or(weight_decay),
                    frozen: group.frozen,
                    batch_norm: group.batch_norm,
                }
            })
        };
        let rules: Vec<Rule> = specs.iter().map(rule).collect();
        let trained = |(spec, rule): (&Spec, &Rule)| spec.kind.is_learned() && !rule.frozen;
        if !specs.iter().zip(&rules).any(trained) {
            return Err(Error::Config("groups freeze every parameter: nothing is left to train".into()));
        }
        // An affine layer makes the gradients of its weight and bias together: one is made with the other.
        let layer = |spec: &Spec| spec.name.rsplit_once('.').map(|(layer, _)| layer.to_owned());
        let affine = |spec: &Spec| matches!(spec.kind, Kind::LinearWeight | Kind::LinearBias { .. });
        let wanted = |(spec, rule): (&Spec, &Rule)| {
            trained((spec, rule))
                || affine(spec)
                    && specs
                        .iter()
                        .zip(&rules)
                        .any(|(other, its)| affine(other) && trained((other, its)) && layer(other) == layer(spec))
        };
        let differentiated = specs.iter().zip(&rules).map(wanted).collect();
        Ok(Rules { rules, differentiated })
    }

    /// The rule of parameter `index`.
    pub fn get(&self, index: usize) -> Rule {
        self.rules[index]
    }

    /// Whether the gradient of parameter `index` is wanted.
    pub fn is_differentiated(&self, index: usize) -> bool {
        self.differentiated[index]
    }
}

/// Whether a pattern matches a parameter.
///
/// # Errors
/// When it does not; the message says how the names begin.
pub fn require_match(specs: &Specs, pattern: &str) -> Result<()> {
    if specs.iter().any(|spec| matches(pattern, &spec.name)) {
        return Ok(());
    }
    let mut beginnings: Vec<&str> = Vec::new();
    for spec in specs.iter() {
        let beginning = spec.name.split('.').next().unwrap_or(&spec.name);
        if !beginnings.contains(&beginning) {
            beginnings.push(beginning);
        }
    }
    let known = beginnings.join(", ");
    Err(Error::Config(format!(
        "no parameter is called {pattern:?}: their names begin with {known}; * stands for the rest"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, expected) in [
            ("*", "fc.weight", true),
            ("fc.*", "fc.weight", true),
            ("fc.*", "fc_cb.weight", false),
            ("fc*", "fc_cb.weight", true),
            ("*.bias", "layer1.0.bn1.bias", true),
            ("*.bias", "fc.bias.x", false),
            ("layer*.bn*.weight", "layer1.0.bn1.weight", true),
            ("layer*.bn*.weight", "bn1.weight", false),
            ("fc.weight", "fc.weight", true),
            ("fc.weigh", "fc.weight", false),
            ("a*a", "a", false),
            ("a*ab*b", "aabb", true),
            ("", "fc", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    fn specs() -> Specs {
        let mut specs = Specs::default();
        specs.declare("conv1.weight".into(), &[4, 3, 3, 3], Kind::ConvWeight);
        specs.declare("bn1.weight".into(), &[4], Kind::NormWeight);
        specs.declare("bn1.running_mean".into(), &[4], Kind::RunningMean);
        specs.declare("fc.weight".into(), &[2, 4], Kind::LinearWeight);
        specs.declare("fc.bias".into(), &[2], Kind::LinearBias { fan_in: 4 });
        specs
    }

    fn group(pattern: &str) -> Group {
        toml::from_str(&format!("match = {pattern:?}")).unwrap()
    }

    #[test]
    fn the_later_match_wins_as_a_whole() {
        let frozen = Group { frozen: true, batch_norm: BatchNorm::BatchStatistics, ..group("*") };
        let trained = Group { weight_decay: Some(0.1), lr_factor: 2.0, ..group("fc.*") };
        let rules = Rules::new(&specs(), 0.5, &[frozen.clone(), trained.clone()]).unwrap();
        assert!(rules.get(0).frozen && rules.get(1).batch_norm == BatchNorm::BatchStatistics);
        let fc = Rule { lr_factor: 2.0, weight_decay: 0.1, frozen: false, batch_norm: BatchNorm::Train };
        assert_eq!((rules.get(3), rules.get(4)), (fc, fc));
        assert!(!rules.is_differentiated(0) && rules.is_differentiated(3));
        // The other way round everything is frozen.
        let error = Rules::new(&specs(), 0.5, &[trained, frozen]).unwrap_err().to_string();
        assert!(error.contains("every parameter"), "{error}");
    }

    #[test]
    fn half_an_affine_layer_may_be_frozen() {
        let rules = Rules::new(&specs(), 0.0, &[Group { frozen: true, ..group("fc.weight") }]).unwrap();
        assert!(rules.get(3).frozen && rules.is_differentiated(3) && rules.is_differentiated(4));
    }

    #[test]
    fn a_pattern_without_a_match_says_what_there_is() {
        let error = Rules::new(&specs(), 0.0, &[group("head.*")]).unwrap_err().to_string();
        assert!(error.contains("\"head.*\"") && error.contains("conv1, bn1, fc"), "{error}");
    }

    #[test]
    fn what_says_nothing_is_refused() {
        for (line, what) in [
            ("lr_factor = -1.0", "lr_factor"),
            ("weight_decay = nan", "weight_decay"),
            ("frozen = true\nweight_decay = 0.1", "weight_decay does nothing"),
            ("frozen = true\nlr_factor = 0.1", "lr_factor does nothing"),
        ] {
            let group: Group = toml::from_str(&format!("match = \"*\"\n{line}")).unwrap();
            let error = group.check().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert!(toml::from_str::<Group>("match = \"*\"\nlr = 1.0").is_err(), "an unknown key");
    }
}
