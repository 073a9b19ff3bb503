//! `glmc-engine posthoc`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};

use super::device::DeviceArgs;
use super::self_test::TrustArgs;
use super::trained::{StoreArgs, Trained};
use crate::config::{Select, Which};
use crate::console::{Column, Table, say, tell};
use crate::data::shots::Shot;
use crate::error::{Error, Result};
use crate::nn::model::HeadSpec;
use crate::nn::{HeadKind, HeadShape};
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{Data, normalisation};
use crate::train::evaluate::Evaluation;
use crate::train::features::Features;
use crate::train::feed::Images;
use crate::train::passes::Look;
use crate::train::posthoc::{Change, Classifier};
use crate::train::report::percent;
use crate::train::run_folder::checkpoint_file;

/// Values of a sweep at most.
const MOST: usize = 1000;

/// Change a trained classifier without training, and see what it reaches
///
/// Features are computed once; every change is then tried on them in double precision: tau-normalisation (w_c / |w_c|^tau, without
/// the bias), logit adjustment (z - tau log pi), MaxNorm (rows no longer than min + T (max - min) of their norms) and nearest class
/// means. Without a choice of these: --tau-norm 0..2 --logit-adjust 0..2. The best is chosen on the validation images where the
/// store has any. The run is not altered.
#[derive(Debug, clap::Args)]
pub struct PosthocArgs {
    /// A run folder or a checkpoint file
    #[arg(value_name = "RUN|FILE")]
    run: PathBuf,
    /// The run's checkpoint that is meant [default: last]
    #[arg(long)]
    checkpoint: Option<Which>,
    /// tau of w_c / |w_c|^tau: a number, or a range, both ends included, in steps of 0.1
    #[arg(long, value_name = "0..2")]
    tau_norm: Option<Range>,
    /// tau of z - tau log pi: a number or a range
    #[arg(long, value_name = "0..2")]
    logit_adjust: Option<Range>,
    /// T of MaxNorm, from 0 (all rows as long as the shortest) to 1 (as they are): a number or a range
    #[arg(long, value_name = "T")]
    maxnorm: Option<Range>,
    /// Nearest class mean, of features of norm 1
    #[arg(long)]
    ncm: bool,
    /// Keep the bias in tau-normalisation
    #[arg(long)]
    keep_bias: bool,
    /// Average the logits of each image and of its mirror image [default: as the run was evaluated]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    flip: Option<bool>,
    /// Write a checkpoint with the classifier that one change makes, for `eval`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Classifier, fc or fc_cb [default: the one that the run was evaluated with]
    #[arg(long)]
    head: Option<HeadKind>,
    /// Store [default: the one that the run was trained on]
    #[arg(long, value_name = "STORE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// A number, or the numbers from one to another in steps of 0.1, both included.
#[derive(Clone, Debug, PartialEq)]
struct Range(Vec<f64>);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let number = |text: &str| {
            let value = text.trim().parse::<f64>().ok().filter(|value| (0.0..=100.0).contains(value));
            value.ok_or_else(|| format!("{text:?} is no number from 0 to 100: give one, or a range such as 0..2"))
        };
        let Some((from, to)) = text.split_once("..") else { return Ok(Range(vec![number(text)?])) };
        let (from, to) = (number(from)?, number(to)?);
        if from > to {
            return Err(format!("the range ends ({to}) before it begins ({from})"));
        }
        let steps = ((to - from) * 10.0 + 1e-9).floor() as usize;
        // Rounded, so that 0.3 is 0.3 and not 0.30000000000000004.
        let value = |step: usize| ((from + step as f64 / 10.0) * 1e9).round() / 1e9;
        Ok(Range((0..=steps.min(MOST)).map(value).collect()))
    }
}

/// Every value of one change, and what was reached with it.
struct Sweep {
    name: &'static str,
    /// Value, what it makes of the classifier, test, validation.
    tried: Vec<(f64, Classifier, Evaluation, Option<Evaluation>)>,
}

impl Sweep {
    /// Where the best stands, by balanced accuracy on `select`: the first of equals.
    fn best(&self) -> usize {
        let reached = |(_, _, test, val): &(f64, Classifier, Evaluation, Option<Evaluation>)| {
            val.as_ref().unwrap_or(test).balanced.unwrap_or(0.0)
        };
        let all: Vec<f64> = self.tried.iter().map(reached).collect();
        (1..all.len()).fold(0, |best, at| if all[at] > all[best] { at } else { best })
    }

    /// Nearest means have no parameter.
    fn value(&self, at: usize) -> String {
        if self.name == "ncm" { "-".into() } else { self.tried[at].0.to_string() }
    }
}

/// Runs the subcommand.
pub fn run(args: PosthocArgs) -> Result<()> {
    let changes = changes(&args)?;
    let file = checkpoint_file(&args.run, args.checkpoint)?;
    let checkpoint = Checkpoint::read(&file)?;
    let (config, counts) = (checkpoint.manifest.config.clone(), checkpoint.manifest.counts.clone());
    let kind = args.head.or(config.head).map_or_else(|| Ok(config.recipe(&counts)?.evaluate), Ok)?;
    let head = head(&config.recipe(&counts)?.head_specs(), kind)?;
    check_meaning(&args, &head)?;
    let data = args.data.clone().unwrap_or_else(|| config.placement.data.clone());
    if args.data.is_none() && !data.exists() {
        let what = "the store that the run was trained on is gone: say where it is now, with --data";
        return Err(Error::file(&data, what));
    }
    let trained = Trained::open(file, checkpoint, &data, args.store)?;
    let Trained { file, checkpoint, store, subject, framing } = &trained;
    let counts = checkpoint.manifest.counts.clone();
    let backend = args.device.open_proven(args.trust)?;
    let backend = backend.as_ref();
    let (_, model, parameters) = trained.load(backend)?;
    let Data { train, test, val, augmentation, .. } = Data::of(store, *framing);
    let augmentation = normalisation(augmentation, subject.mean, subject.std);
    let flip = args.flip.unwrap_or(config.eval_flip);
    let look_at = |images: Images<'_>, flip: bool| {
        let (feed, batch) = trained.feed(backend, images, flip)?;
        let look = Look { augmentation, flip, batch, arena: None };
        let features = Features::extract(backend, &model, &parameters, &feed, look);
        feed.release(backend);
        features
    };
    let test = test.ok_or_else(|| Error::file(&data, "has no test images"))?;
    let labels = test.labels;
    let test = look_at(test, flip)?;
    let val = val.map(|val| Ok((look_at(val, flip)?, val.labels))).transpose()?;
    let groups = checkpoint.manifest.shots().groups(&counts);
    let evaluate = |classifier: &Classifier| {
        let on_val = val.as_ref().map(|(val, labels)| classifier.evaluate(val, labels, &groups));
        (classifier.evaluate(&test, labels, &groups), on_val)
    };
    let original = Classifier::of(checkpoint, &head, counts.len(), test.width())?;
    let trained_as = evaluate(&original);
    let mut sweeps = Vec::new();
    for (name, values, change) in &changes {
        let mut tried = Vec::new();
        for &value in values {
            let classifier = original.changed(change(value, args.keep_bias), &counts)?;
            let (test, val) = evaluate(&classifier);
            tried.push((value, classifier, test, val));
        }
        sweeps.push(Sweep { name, tried });
    }
    if args.ncm {
        let means = Classifier::nearest_means(&look_at(train, false)?, train.labels, counts.len())?;
        let (test, val) = evaluate(&means);
        sweeps.push(Sweep { name: "ncm", tried: vec![(0.0, means, test, val)] });
    }
    let select = if val.is_some() { Select::Val } else { Select::Test };
    let saved = match (&args.save, &sweeps[..]) {
        (Some(to), [sweep]) => Some((to, save(to, checkpoint, &head, sweep, args.keep_bias)?)),
        _ => None,
    };
    if args.json {
        let sweeps: Vec<Value> = sweeps.iter().map(as_json).collect();
        let whole = json!({
            "checkpoint": file.display().to_string(), "epoch": checkpoint.manifest.progress.epoch, "head": kind.name(),
            "flip": flip, "chosen_on": select, "trained": { "test": trained_as.0, "val": trained_as.1 }, "sweeps": sweeps,
            "saved": saved.map(|(to, what)| json!({ "file": to.display().to_string(), "what": what })),
        });
        say!("{whole}");
        return Ok(());
    }
    tell!("{}, epoch {}, classifier {kind}", file.display(), checkpoint.manifest.progress.epoch);
    let flipped = if flip { ", mean over each image and its mirror image" } else { "" };
    tell!("{} test images{flipped}, accuracy in percent", labels.len());
    for sweep in &sweeps {
        say!("");
        print(sweep, &trained_as, select);
    }
    if let Some((to, what)) = saved {
        say!("");
        tell!("{} has the model after {what}: `glmc-engine eval --checkpoint` reads it", to.display());
    }
    Ok(())
}

/// A change by its value, and by whether the bias is kept.
type Form = fn(f64, bool) -> Change;
/// Name, values and form of a change that is to be tried.
type Asked = (&'static str, Vec<f64>, Form);

fn changes(args: &PosthocArgs) -> Result<Vec<Asked>> {
    let none = args.tau_norm.is_none() && args.logit_adjust.is_none() && args.maxnorm.is_none() && !args.ncm;
    let usual = || none.then(|| Range((0..=20).map(|tenth| f64::from(tenth) / 10.0).collect()));
    let asked: [(_, _, _, Form); 3] = [
        (&args.tau_norm, usual(), "tau-norm", |tau, keep_bias| Change::TauNorm { tau, keep_bias }),
        (&args.logit_adjust, usual(), "logit-adjust", |tau, _| Change::LogitAdjust { tau }),
        (&args.maxnorm, None, "maxnorm", |t, _| Change::MaxNorm { t }),
    ];
    let changes: Vec<Asked> = asked
        .into_iter()
        .filter_map(|(given, usual, name, form)| Some((name, given.clone().or(usual)?.0, form)))
        .collect();
    let usage = |what: &str| Err(Error::Usage(what.into()));
    if let Some((.., values, _)) = changes.iter().find(|(name, ..)| *name == "maxnorm")
        && values.iter().any(|&t| t > 1.0)
    {
        return usage("--maxnorm: T lies in 0..1; at 1 no row is shortened");
    }
    if args.keep_bias && !changes.iter().any(|(name, ..)| *name == "tau-norm") {
        return usage("--keep-bias goes with --tau-norm, the only change that drops the bias");
    }
    if args.save.is_some() && args.ncm {
        return usage("--save cannot save nearest class means: they are no head's weights");
    }
    if args.save.is_some() && changes.len() != 1 {
        return usage("--save saves one change: give one of --tau-norm, --logit-adjust and --maxnorm");
    }
    Ok(changes)
}

/// The one head that is changed.
fn head(heads: &[HeadSpec], kind: HeadKind) -> Result<HeadSpec> {
    if kind == HeadKind::Mean {
        let what = "posthoc changes one classifier, not the mean of two: give --head fc or --head fc_cb";
        return Err(Error::Usage(what.into()));
    }
    let found = heads.iter().find(|head| head.name == kind.name());
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = heads.iter().map(|head| head.name).filter(|name| name.starts_with("fc")).collect();
        Error::Config(format!("this model was trained without {kind}; its classifiers: {}", names.join(", ")))
    })
}

/// Refuses at once what the head would refuse after its features were computed.
fn check_meaning(args: &PosthocArgs, head: &HeadSpec) -> Result<()> {
    if head.shape != HeadShape::Cosine {
        return Ok(());
    }
    let name = head.name;
    if args.tau_norm.is_some() || args.maxnorm.is_some() || (args.logit_adjust.is_none() && !args.ncm) {
        let what =
            "its rows are normalised anyway: of tau-norm and MaxNorm nothing is left; take --logit-adjust or --ncm";
        return Err(Error::Config(format!("{name} is a cosine head, and {what}")));
    }
    if args.save.is_some() {
        let what = "which has no bias to hold the adjustment: leave out --save";
        return Err(Error::Config(format!("{name} is a cosine head, {what}")));
    }
    Ok(())
}

/// Writes the sweep's best as a checkpoint; returns what it is.
fn save(to: &Path, checkpoint: &Checkpoint, head: &HeadSpec, sweep: &Sweep, keep_bias: bool) -> Result<String> {
    if to.exists() {
        return Err(Error::file(to, "exists already: give another --save"));
    }
    let at = sweep.best();
    let bias = if keep_bias { " with bias" } else { "" };
    let what = format!("{} {}{bias} on {}", sweep.name, sweep.value(at), head.name);
    // What was changed before stays said.
    let before = checkpoint.manifest.posthoc.iter().cloned();
    let all = before.chain([what.clone()]).collect::<Vec<_>>().join(", ");
    checkpoint.save_changed(to, all, &sweep.tried[at].1.tensors(head)?)?;
    Ok(what)
}

fn as_json(sweep: &Sweep) -> Value {
    let tried = sweep.tried.iter().map(|(value, _, test, val)| {
        let value = (sweep.name != "ncm").then_some(value);
        json!({ "value": value, "test": test, "val": val })
    });
    json!({ "change": sweep.name, "tried": tried.collect::<Vec<_>>(), "chosen": sweep.best() })
}

fn print(sweep: &Sweep, (test, val): &(Evaluation, Option<Evaluation>), select: Select) {
    let (title, parameter) = match sweep.name {
        "tau-norm" => ("tau-norm: w_c / |w_c|^tau", "tau"),
        "logit-adjust" => ("Logit adjustment: z - tau log pi", "tau"),
        "maxnorm" => ("MaxNorm, once: rows no longer than min + T (max - min) of their norms", "T"),
        _ => ("Nearest class mean, of features of norm 1", ""),
    };
    tell!("{title}");
    let best = sweep.best();
    let figures = ["top-1", "many", "medium", "few", "ECE"].into_iter().zip([0, 2, 3, 1, 4]);
    let mut columns = vec![Column::number(parameter, 0)];
    if val.is_some() {
        columns.push(Column::number("val", 0));
    }
    columns.extend(figures.map(|(heading, rank)| Column::number(heading, rank)));
    columns.push(Column::text("", 0));
    let mut table = Table::new(columns);
    let mut row = |value: String, test: &Evaluation, val: Option<&Evaluation>, has_ece: bool, mark: String| {
        let ece = Some(test.ece).filter(|_| has_ece);
        let val = val.map(|val| percent(val.balanced));
        let figures = [Some(test.top1), test.many, test.medium, test.few, ece].map(percent);
        table.row([value].into_iter().chain(val).chain(figures).chain([mark]));
    };
    row("-".into(), test, val.as_ref(), true, "as trained".into());
    for (at, (value, _, test, val)) in sweep.tried.iter().enumerate() {
        let known = match (sweep.name, value) {
            ("tau-norm" | "logit-adjust", 0.0 | 1.0) => Some(format!("tau {value}")),
            _ => None,
        };
        let chosen = (at == best && sweep.tried.len() > 1).then(|| format!("best on {select}"));
        let mark: Vec<String> = known.into_iter().chain(chosen).collect();
        // Negative distances are no logits: their softmax says nothing.
        row(sweep.value(at), test, val.as_ref(), sweep.name != "ncm", mark.join(", "));
    }
    table.print();
    if sweep.tried.len() == 1 {
        return;
    }
    let reached = |at: usize| {
        let (value, _, test, _) = &sweep.tried[at];
        let groups = Shot::ALL.iter().zip([test.many, test.medium, test.few]);
        let groups = groups.filter_map(|(shot, figure)| figure.map(|_| format!("{} {}", shot.name(), percent(figure))));
        let groups = groups.collect::<Vec<_>>().join(", ");
        format!("{parameter} {value} reaches {:.2} ({groups})", test.top1)
    };
    match select {
        Select::Val => tell!("Chosen on the validation images, by balanced accuracy: {}.", reached(best)),
        Select::Test => {
            let one = sweep.tried.iter().position(|(value, ..)| *value == 1.0 && parameter == "tau");
            let beside = one.map(|at| format!(" Without such a choice, {}.", reached(at))).unwrap_or_default();
            tell!(
                "Chosen on the test images themselves, as papers do where there is no validation set: {}.{beside}",
                reached(best)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_both_ends() {
        let values = |text: &str| text.parse::<Range>().map(|range| range.0);
        assert_eq!(values("1"), Ok(vec![1.0]));
        assert_eq!(values("0..0.3"), Ok(vec![0.0, 0.1, 0.2, 0.3]));
        assert_eq!(values("0.25..0.5"), Ok(vec![0.25, 0.35, 0.45]));
        let whole = values("0..2").unwrap();
        assert_eq!((whole.len(), whole[0], whole[20]), (21, 0.0, 2.0));
        assert_eq!(values("0..100").unwrap().len(), 1001);
        for (text, said) in
            [("2..1", "before it begins"), ("-1..1", "no number"), ("a", "no number"), ("0..nan", "no number")]
        {
            assert!(values(text).unwrap_err().contains(said), "{text}");
        }
    }
}
