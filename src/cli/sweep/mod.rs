//! `glmc-engine sweep`.

mod grid;

use std::path::{Path, PathBuf};

use self::grid::{Point, Seeds, points};
use super::self_test::TrustArgs;
use super::signals;
use super::stand_in::StandIn;
use super::train::{check_data, draw_demo, located};
use crate::backend::{self, AUTO};
use crate::config::{Config, DataSet, Preset, Settings, Then, preset};
use crate::console::{self, Column, Table, note, tell};
use crate::data::store::Store;
use crate::error::{Error, Result, word};
use crate::train::engine::Data;
use crate::train::means;
use crate::train::report::spell;
use crate::train::sweep::{Member, SUMMARY, State, Sweep};

/// The demo's images in a sweep's folder.
const DEMO: [&str; 2] = ["data.lt", ".data.lt.partial"];

const GOING_ON: &str = "The same command goes on with a sweep that was stopped: finished runs are kept, one that is part-way is \
    resumed. More seeds or values may be asked for then, not fewer. Each run's folder is named after its values and its seed, as \
    in k=1.2,gamma=4,seed=0, and is a run like any other. summary.csv has the figures of every run, and their means.";

/// Train with several seeds and settings, one run after another, and print means and standard deviations
#[derive(Debug, clap::Args)]
#[command(after_help = GOING_ON)]
pub struct SweepArgs {
    /// Published settings to start from; `glmc-engine train --list-presets` lists them
    #[arg(long, value_name = "PRESET")]
    base: String,
    /// Seeds of the runs: 0..4 are five, the last included; 3,7 are two
    #[arg(long, value_name = "SEEDS")]
    seeds: Seeds,
    /// Settings to vary, every combination of their values, as in --grid k=1,1.2 gamma=1,4; values that contain commas are separated by semicolons
    #[arg(long, value_name = "KEY=VALUES", num_args = 1..)]
    grid: Vec<String>,
    /// List the runs, say how long they will take, and exit
    #[arg(long)]
    dry_run: bool,
    /// Folder for the runs [default: sweeps/PRESET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Accept a store with another number of classes than the preset is meant for
    #[arg(long)]
    any_data: bool,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the subcommand.
pub fn run(args: SweepArgs) -> Result<()> {
    if args.settings.seed.is_some() {
        return Err(Error::Usage("a sweep has no --seed: give --seeds".into()));
    }
    let (preset, points) = (preset(&args.base)?, points(&args.grid)?);
    if let Then::Stage(_) = preset.then {
        let (base, of) = (&args.base, preset.method.name);
        let what = format!("--base {base} has two stages, and a sweep trains one");
        return Err(Error::Usage(format!("{what}: sweep a preset of {of}, then run `finetune` on each of its runs")));
    }
    let out = args.out.clone().unwrap_or_else(|| Path::new("sweeps").join(&args.base));
    let mut settings = args.settings.clone();
    if let (device, Some(why)) = backend::resolve(settings.placement.device.as_deref().unwrap_or(AUTO)) {
        note!("device {device}: {why}");
        settings.placement.device = Some(device);
    }
    let is_demo = preset.data == DataSet::Demo && settings.placement.data.is_none();
    if is_demo {
        settings.placement.data = Some(out.join(DEMO[0]));
    }
    let mut sweep = Sweep { members: members(&preset, &points, &args.seeds, &settings)?, folder: out };
    signals::outlive_readers();
    signals::listen("stopping: the step in progress is finished and saved first")?;
    let mut proven = Vec::new();
    for member in &sweep.members {
        let placement = &member.config.placement;
        let what = (&placement.device, placement.precision);
        if !proven.contains(&what) {
            args.trust.prove(&placement.device, placement.precision)?;
            proven.push(what);
        }
    }
    drop(proven);
    let own: &[&str] = if is_demo { &DEMO } else { &[] };
    sweep.check_folder(own)?;
    let store = match is_demo && args.dry_run && !sweep.folder.join(DEMO[0]).exists() {
        // What is to be drawn yet is not drawn for a list.
        true => None,
        false => Some(on_store(&mut sweep, &preset, is_demo, args.any_data)?),
    };
    let fingerprint = store.as_ref().map(Store::fingerprint).transpose()?;
    let states = sweep.states(fingerprint.as_deref())?;
    let (left, by) = match &store {
        Some(store) => sweep.estimate(&states, &Data::of(store, None))?,
        None => StandIn::of(preset.data)?.with_data(|data| sweep.estimate(&states, data))?,
    };
    let finished = states.iter().filter(|state| matches!(state, State::Finished(_))).count();
    let to_go = match states.len() - finished {
        0 => "nothing to do".into(),
        _ => format!("about {} to go, {by}", spell(left)),
    };
    let count = format!("{} runs in {}, {finished} finished; {to_go}", states.len(), sweep.folder.display());
    if args.dry_run {
        list(&sweep, &states);
        tell!("{count}");
        return console::finish();
    }
    note!("{count}");
    std::fs::create_dir_all(&sweep.folder).map_err(Error::io(&sweep.folder))?;
    let diverged = sweep.run(&states, &command())?;
    let states = sweep.states(fingerprint.as_deref())?;
    report(&sweep, &states, &points, &args.base)?;
    match diverged.len() {
        0 => console::finish(),
        n => {
            let (of, names) = (states.len(), diverged.join(", "));
            let what = format!("{n} of {of} runs did not stay finite and are not in the figures ({names})");
            Err(Error::Training(format!("{what}: what to change is said above")))
        }
    }
}

/// The runs: every seed of a point, then those of the next.
fn members(preset: &Preset, points: &[Point], seeds: &Seeds, flags: &Settings) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    for (at, point) in points.iter().enumerate() {
        for &seed in &seeds.0 {
            let settings = Settings { seed: Some(seed), ..point.settings.clone() };
            let settings = settings.or(flags.clone()).or(preset.settings());
            let config = Config { preset: Some(preset.name.clone()), ..Config::resolve(settings)? };
            let name = point.folder(seed);
            if members.iter().any(|other| other.name == name) {
                return Err(Error::Usage(format!("--grid: two points would both have the folder {name}")));
            }
            members.push(Member { name, point: at, config });
        }
    }
    Ok(members)
}

/// Opens the store and settles what depends on it.
fn on_store(sweep: &mut Sweep, preset: &Preset, is_demo: bool, any_data: bool) -> Result<Store> {
    if is_demo {
        draw_demo(&sweep.folder)?;
    }
    // All members are on the same one.
    let data = located(&sweep.members[0].config.placement.data)?;
    let store = Store::open(&data)?;
    check_data(preset, &store, any_data)?;
    for member in &mut sweep.members {
        member.config.placement.data.clone_from(&data);
        member.config.check()?;
        member.config.settle(&store)?;
    }
    Ok(store)
}

/// This process's command line, to be given again.
fn command() -> String {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(word).collect();
    format!("glmc-engine {}", arguments.join(" "))
}

fn list(sweep: &Sweep, states: &[State]) {
    let mut table = Table::new([Column::text("run", 0), Column::number("epochs", 1), Column::text("", 2)]);
    for (Member { name, config, .. }, state) in sweep.members.iter().zip(states) {
        let (done, how) = match state {
            State::New => (0, ""),
            State::Partway(done) => (*done, "part-way"),
            State::Finished(_) => (config.epochs, "finished"),
        };
        table.row([name.clone(), format!("{done}/{}", config.epochs), how.into()]);
    }
    table.print();
}

/// Prints and writes what came out.
fn report(sweep: &Sweep, states: &[State], points: &[Point], base: &str) -> Result<()> {
    let keys: Vec<String> = points[0].named.iter().map(|(key, _)| key.clone()).collect();
    let of_point = |at: usize| {
        let runs = sweep.members.iter().zip(states).filter(|(member, _)| member.point == at);
        let finished = runs.filter_map(|(member, state)| match state {
            State::Finished(run) => Some((member.name.as_str(), run.as_ref())),
            _ => None,
        });
        means::Point { settings: &points[at].named, runs: finished.collect() }
    };
    let outcome: Vec<means::Point<'_>> = (0..points.len()).map(of_point).collect();
    outcome.iter().try_for_each(means::Point::check)?;
    let at = sweep.folder.join(SUMMARY);
    means::write_csv(&at, &keys, &outcome)?;
    means::print(&outcome, base);
    let select = sweep.members[0].config.select();
    tell!("Best epochs are chosen on {select}. Run by run: {}", at.display());
    Ok(())
}
