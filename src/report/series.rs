//! Runs put in order: those on the same data form a group, those of a group that differ in their seed alone a series, of which
//! there are means and deviations.

use super::run::{Known, Run};
use crate::config::Config;
use crate::train::evaluate::{Bin, Evaluation};
use crate::train::means::{Figure, Spread};
use crate::train::metrics::EpochMetrics;
use crate::train::sweep::{difference, settings};

/// Settings that a series is named after at most.
const NAMED_BY: usize = 3;
/// Characters of a value in a name.
const VALUE: usize = 24;

/// Runs that differ in their seed alone.
pub struct Series<'a> {
    /// What tells it from the others of its group.
    pub name: String,
    pub runs: Vec<&'a Run>,
}

/// Runs on the same data.
pub struct Group<'a> {
    /// What is known of the data, if any run knows it.
    pub known: Option<&'a Known>,
    pub series: Vec<Series<'a>>,
}

/// A curve's value at an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    pub epoch: usize,
    pub spread: Spread,
}

impl<'a> Group<'a> {
    /// Puts runs in groups, and these in series, each in the order in which the runs come.
    pub fn all(runs: &'a [Run]) -> Vec<Group<'a>> {
        let mut groups: Vec<(String, Vec<Vec<&'a Run>>)> = Vec::new();
        for run in runs {
            let data = run.data();
            let at = groups.iter().position(|(of, _)| *of == data).unwrap_or(groups.len());
            if at == groups.len() {
                groups.push((data, Vec::new()));
            }
            let series = &mut groups[at].1;
            let same = |other: &[&Run]| difference(&other[0].config, &run.config, &["seed"]).is_none();
            match series.iter_mut().find(|other| same(other)) {
                Some(there) => there.push(run),
                None => series.push(vec![run]),
            }
        }
        let group = |series: Vec<Vec<&'a Run>>| {
            let names = names(&series);
            let known = series.iter().flatten().find_map(|run| run.known.as_ref());
            let series = names.into_iter().zip(series).map(|(name, runs)| Series { name, runs });
            Group { known, series: series.collect() }
        };
        groups.into_iter().map(|(_, series)| group(series)).collect()
    }

    /// All runs.
    pub fn runs(&self) -> impl Iterator<Item = &'a Run> {
        self.series.iter().flat_map(|series| series.runs.iter().copied())
    }

    /// The settings in which the series differ, with the value of each.
    pub fn differences(&self) -> Vec<(String, Vec<String>)> {
        let configs: Vec<&Config> = self.series.iter().map(|series| &series.runs[0].config).collect();
        differing(&configs)
    }
}

/// The settings in which configurations differ (seeds apart, and where they compute), with the value of each.
fn differing(configs: &[&Config]) -> Vec<(String, Vec<String>)> {
    let tables: Vec<Vec<(String, String)>> = configs.iter().map(|config| settings(config, &["seed"])).collect();
    let mut keys: Vec<&String> = Vec::new();
    for (key, _) in tables.iter().flatten() {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let value = |table: &[(String, String)], key: &String| {
        table.iter().find(|(known, _)| known == key).map_or_else(|| "not set".to_string(), |(_, value)| value.clone())
    };
    let rows =
        keys.into_iter().map(|key| (key.clone(), tables.iter().map(|table| value(table, key)).collect::<Vec<_>>()));
    rows.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

/// Names for series: their methods, where these tell them apart, else the first settings that differ, else their folders'.
fn names(series: &[Vec<&Run>]) -> Vec<String> {
    let is_distinct = |names: &[String]| (1..names.len()).all(|at| !names[..at].contains(&names[at]));
    let folders: Vec<String> = series.iter().map(|runs| runs[0].name.clone()).collect();
    if let [runs] = series {
        return vec![if runs.len() == 1 { folders[0].clone() } else { runs[0].config.method.name.to_string() }];
    }
    let methods: Vec<String> = series.iter().map(|runs| runs[0].config.method.name.to_string()).collect();
    if is_distinct(&methods) {
        return methods;
    }
    let configs: Vec<&Config> = series.iter().map(|runs| &runs[0].config).collect();
    // A preset's name follows from what it sets, or says it already.
    let rows: Vec<_> = differing(&configs).into_iter().filter(|(key, _)| key != "preset").take(NAMED_BY).collect();
    let named = |at: usize| {
        let parts = rows.iter().map(|(key, values)| {
            let value: String = values[at].trim_matches('"').chars().take(VALUE).collect();
            if key == "method" { value } else { format!("{key}={value}") }
        });
        parts.collect::<Vec<_>>().join(", ")
    };
    let settings: Vec<String> = (0..series.len()).map(named).collect();
    if is_distinct(&settings) && settings.iter().all(|name| !name.is_empty()) { settings } else { folders }
}

impl Series<'_> {
    /// A figure over the epochs: mean and deviation of the runs that have it there.
    pub fn curve(&self, figure: &dyn Fn(&EpochMetrics) -> Option<f64>) -> Vec<At> {
        let longest = self.runs.iter().map(|run| run.epochs.len()).max().unwrap_or(0);
        let at = |epoch: usize| {
            let values = self.runs.iter().filter_map(|run| figure(run.epochs.get(epoch)?)).filter(|v| v.is_finite());
            Spread::of(values.map(Some)).map(|spread| At { epoch: epoch + 1, spread })
        };
        (0..longest).filter_map(at).collect()
    }

    /// A figure of each run's last epoch.
    pub fn last(&self, figure: Figure) -> Option<Spread> {
        self.of(|run| run.last(), figure)
    }

    /// A figure of each run's best epoch.
    pub fn best(&self, figure: Figure) -> Option<Spread> {
        self.of(|run| run.best(), figure)
    }

    fn of<'r>(&'r self, epoch: impl Fn(&'r Run) -> Option<&'r EpochMetrics>, figure: Figure) -> Option<Spread> {
        let values: Vec<Option<f64>> =
            self.runs.iter().filter_map(|run| epoch(run)).map(|epoch| figure(&epoch.test)).collect();
        Spread::of(values.into_iter())
    }

    /// The recall of a class in each run's last epoch.
    pub fn recall(&self, class: usize) -> Option<Spread> {
        let values = self.runs.iter().filter_map(|run| *run.last()?.test.per_class.get(class)?);
        Spread::of(values.map(Some))
    }

    /// The evaluations of its runs' checkpoints, where there are any.
    pub fn evaluations(&self) -> Vec<&Evaluation> {
        self.runs.iter().filter_map(|run| run.seen.as_ref()).map(|seen| &seen.evaluation).collect()
    }

    /// The bins of all runs' checkpoints together.
    pub fn bins(&self) -> Vec<Bin> {
        let mut sums: Vec<Bin> = Vec::new();
        for seen in self.runs.iter().filter_map(|run| run.seen.as_ref()) {
            sums.resize(seen.bins.len(), Bin::default());
            for (sum, bin) in sums.iter_mut().zip(&seen.bins) {
                sum.images += bin.images;
                sum.right += bin.right;
                sum.confidence += bin.confidence;
            }
        }
        sums
    }

    /// How often images of a class are taken for another, in the checkpoints of all runs together.
    pub fn confusion(&self) -> std::collections::BTreeMap<(usize, usize), usize> {
        let mut sums = std::collections::BTreeMap::new();
        for seen in self.runs.iter().filter_map(|run| run.seen.as_ref()) {
            for (&pair, &count) in &seen.confusion {
                *sums.entry(pair).or_insert(0) += count;
            }
        }
        sums
    }
}
