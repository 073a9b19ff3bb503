//! The points of a grid of settings, and a sweep's seeds, from what the command line says.

use std::str::FromStr;

use clap::{Args, Command, FromArgMatches};

use crate::config::Settings;
use crate::error::{Error, Result, one_line};

/// Points, and seeds, at most: more are a slip of the keyboard.
const MOST: usize = 1000;

/// What a sweep gives in another way than by its grid.
const ELSEWHERE: [&str; 2] = ["seed", "data"];

/// A point of a grid.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// Names and values in the order of the grid, values as they are taken.
    pub named: Vec<(String, String)>,
    /// The same as settings.
    pub settings: Settings,
}

impl Point {
    /// The name of the folder of this point's run with a seed: `k=1.2,gamma=4,seed=0`.
    pub fn folder(&self, seed: u64) -> String {
        let parts = self.named.iter().map(|(key, value)| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+:".contains(c);
            let value: String = value.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
            format!("{key}={value},")
        });
        format!("{}seed={seed}", parts.collect::<String>())
    }
}

/// Every combination of values in `axes`, each of them `KEY=VALUE,VALUE`; the last key varies fastest. Without axes there is
/// one point that changes nothing.
///
/// # Errors
/// When a key is no setting or comes twice, or a value is none of its setting's or comes twice.
pub fn points(axes: &[String]) -> Result<Vec<Point>> {
    let mut points = vec![Point::default()];
    for axis in axes {
        let values = values(axis)?;
        let key = &values[0].0;
        if points[0].named.iter().any(|(other, _)| other == key) {
            return Err(Error::Usage(format!("--grid: {key} comes twice: give all its values at once")));
        }
        if values.len().saturating_mul(points.len()) > MOST {
            return Err(Error::Usage(format!("--grid has more than {MOST} points")));
        }
        points = points
            .iter()
            .flat_map(|point| {
                values.iter().map(|(key, value, settings)| {
                    let mut named = point.named.clone();
                    named.push((key.clone(), value.clone()));
                    Point { named, settings: settings.clone().or(point.settings.clone()) }
                })
            })
            .collect();
    }
    Ok(points)
}

/// The values of an axis: its key, the value as it is taken, and as a setting.
fn values(axis: &str) -> Result<Vec<(String, String, Settings)>> {
    let Some((key, list)) = axis.split_once('=') else {
        return Err(Error::Usage(format!("--grid {axis}: give a setting and its values, as in k=1,1.2")));
    };
    let flags = <Settings as Args>::augment_args(Command::new("--grid"));
    let wanted = key.replace('_', "-");
    let is_wanted = |flag: &&clap::Arg| {
        let aliases = flag.get_all_aliases().unwrap_or_default();
        flag.get_long().into_iter().chain(aliases).any(|name| name.replace('_', "-") == wanted)
    };
    let known = || flags.get_arguments().filter(|flag| !ELSEWHERE.contains(&flag.get_id().as_str()));
    let Some(flag) = known().find(is_wanted) else {
        let names: Vec<&str> = known().map(|flag| flag.get_id().as_str()).collect();
        let why = match ELSEWHERE.contains(&key) {
            true => format!("is given by --{key}{}", if key == "seed" { "s" } else { "" }),
            false => "is no setting".into(),
        };
        return Err(Error::Usage(format!("--grid {axis}: {key} {why}: known are {}", names.join(", "))));
    };
    let (id, long) = (flag.get_id().as_str(), flag.get_long().unwrap_or_default());
    // A learning rate's schedule has commas of its own.
    let separator = if list.contains(';') { ';' } else { ',' };
    let mut values: Vec<(String, String, Settings)> = Vec::new();
    for given in list.split(separator).map(str::trim) {
        let read = flags.clone().try_get_matches_from(["--grid".to_string(), format!("--{long}={given}")]);
        let settings = read.and_then(|matches| Settings::from_arg_matches(&matches)).map_err(|e| {
            let text = e.to_string();
            let line = text.lines().next().unwrap_or_default();
            Error::Usage(format!("--grid {axis}: {}", one_line(line.trim_start_matches("error: "), 300)))
        })?;
        let taken = taken(&settings, id);
        if values.iter().any(|(_, other, _)| *other == taken) {
            return Err(Error::Usage(format!("--grid {axis}: the value {taken} comes twice")));
        }
        values.push((id.to_string(), taken, settings));
    }
    Ok(values)
}

/// A setting's value as text: `1` for 1, 1.0 and 1e0.
fn taken(settings: &Settings, id: &str) -> String {
    // Settings are numbers and texts, which have a JSON form.
    match serde_json::to_value(settings).expect("settings have a JSON form").get(id) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) if value.is_f64() => value.as_f64().unwrap_or_default().to_string(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

/// Seeds: `0..4` are the five from 0 to 4, `3,7` these two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seeds, String> {
        let seed = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("{text:?} is no seed"));
        let seeds: Vec<u64> = match text.split_once("..") {
            Some((first, last)) => {
                let (first, last) = (seed(first)?, seed(last.trim_start_matches('='))?);
                if last < first {
                    return Err("the last seed is below the first".into());
                }
                (first..=last).take(MOST + 1).collect()
            }
            None => text.split(',').map(seed).collect::<Result<_, _>>()?,
        };
        if seeds.len() > MOST {
            return Err(format!("more than {MOST} seeds"));
        }
        match seeds.iter().enumerate().find(|(at, seed)| seeds[..*at].contains(seed)) {
            Some((_, twice)) => Err(format!("the seed {twice} comes twice")),
            None => Ok(Seeds(seeds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(axes: &[&str]) -> Result<Vec<Point>> {
        points(&axes.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn every_combination_is_a_point() {
        let points = of(&["k=1.0,1.2", "gamma=1,4e0"]).unwrap();
        let folders: Vec<String> = points.iter().map(|point| point.folder(3)).collect();
        let expected = ["k=1,gamma=1", "k=1,gamma=4", "k=1.2,gamma=1", "k=1.2,gamma=4"];
        assert_eq!(folders, expected.map(|name| format!("{name},seed=3")));
        assert_eq!((points[1].settings.k, points[1].settings.gamma), (Some(1.0), Some(4.0)));
        assert_eq!(of(&[]).unwrap()[0].folder(0), "seed=0");
    }

    #[test]
    fn keys_have_all_their_names_and_values_their_commas() {
        for key in ["weight-decay", "weight_decay", "wd"] {
            assert_eq!(of(&[&format!("{key}=5e-4,0")]).unwrap()[0].folder(1), "weight_decay=0.0005,seed=1");
        }
        let points = of(&["lr-schedule=160:0.01,180:0.0001;cosine"]).unwrap();
        assert_eq!(points[0].folder(0), "lr_schedule=160:0.01_180:0.0001,seed=0");
        assert_eq!(points[1].named, [("lr_schedule".to_string(), "cosine".to_string())]);
        assert_eq!(of(&["method=glmc,ce"]).unwrap()[1].folder(0), "method=ce,seed=0");
    }

    #[test]
    fn nonsense_is_refused_by_its_name() {
        for (axes, part) in [
            (&["k"][..], "give a setting and its values"),
            (&["kk=1"], "kk is no setting: known are "),
            (&["seed=1,2"], "seed is given by --seeds"),
            (&["data=a.lt"], "data is given by --data"),
            (&["k=1,x"], "invalid value 'x' for '--k <K>'"),
            (&["k="], "--grid k=: "),
            (&["k=1,1.0"], "the value 1 comes twice"),
            (&["k=1", "k=2"], "k comes twice"),
        ] {
            let line = of(axes).unwrap_err().to_string();
            assert!(line.contains(part), "{axes:?}: {line}");
        }
        let many: Vec<String> = (0..1001).map(|i| i.to_string()).collect();
        assert!(of(&[&format!("k={}", many.join(","))]).unwrap_err().to_string().contains("more than 1000"));
    }

    #[test]
    fn seeds_include_the_last() {
        let of = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.0);
        assert_eq!(of("0..4").unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(of("0..=1").unwrap(), [0, 1]);
        assert_eq!(of("7").unwrap(), [7]);
        assert_eq!(of("3, 1").unwrap(), [3, 1]);
        for bad in ["", "4..0", "a", "1,1", "-1", "0..", "0..18446744073709551615"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
