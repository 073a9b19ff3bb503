//! The program under attack: how it may end, and how often it ended how.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub const BIN: &str = env!("CARGO_BIN_EXE_glmc-engine");

/// Far above what any command here takes, on a busy machine as well.
const LIMIT: Duration = Duration::from_secs(60);

/// How a command ended.
pub struct Ending {
    pub what: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, which must come in time.
pub fn end(command: &mut Command, what: &str) -> Ending {
    // Files, as a full pipe would be a hang of the test's own making.
    let [mut stdout, mut stderr] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
    let give = |file: &File| Stdio::from(file.try_clone().expect("a file"));
    command.stdin(Stdio::null()).stdout(give(&stdout)).stderr(give(&stderr));
    let mut child = command.spawn().expect("the program starts");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if begun.elapsed() > LIMIT {
            child.kill().expect("a kill");
            panic!("{what}: hangs: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("readable");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ending { what: what.to_string(), status, stdout: text(&mut stdout), stderr: text(&mut stderr) }
}

/// Runs the program with these arguments.
pub fn glmc(arguments: &[&str], what: &str) -> Ending {
    end(Command::new(BIN).args(arguments), what)
}

impl Ending {
    /// Whether it succeeded. It may have refused, with one line, but neither crashed nor panicked.
    #[track_caller]
    pub fn succeeded(&self) -> bool {
        let Ending { what, status, stderr, .. } = self;
        let errors = stderr.lines().filter(|line| line.contains("error:")).count();
        assert!(!stderr.contains("panicked") && !stderr.contains("please report"), "{what}: {stderr}");
        match status.code() {
            Some(0) => assert_eq!(errors, 0, "{what}: {stderr}"),
            Some(1 | 2) => assert_eq!(errors, 1, "{what}: {stderr}"),
            _ => panic!("{what}: {status}: {stderr}"),
        }
        status.success()
    }

    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.succeeded(), "{}: {}", self.what, self.stderr);
        self.stdout
    }

    /// Whether SIGKILL ended it; else it must have ended as [`Ending::succeeded`] allows.
    #[track_caller]
    pub fn was_killed(&self) -> bool {
        let killed = self.status.signal() == Some(libc::SIGKILL);
        if !killed {
            self.succeeded();
        }
        killed
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// All cases where the full set is asked for, else some of them.
pub fn thorough() -> bool {
    std::env::var_os("HOSTILE").is_some_and(|value| value == "full")
}

/// How many cases of a class: a few, or many.
pub fn cases(few: usize, many: usize) -> usize {
    if thorough() { many } else { few }
}

/// How often a class of cases ended how; printed at the end.
pub struct Counts {
    class: String,
    endings: BTreeMap<&'static str, usize>,
}

impl Counts {
    pub fn new(class: impl Into<String>) -> Counts {
        Counts { class: class.into(), endings: BTreeMap::new() }
    }

    pub fn add(&mut self, ending: &'static str) {
        *self.endings.entry(ending).or_default() += 1;
    }

    pub fn total(&self) -> usize {
        self.endings.values().sum()
    }

    pub fn of(&self, ending: &str) -> usize {
        self.endings.get(ending).copied().unwrap_or(0)
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        let endings: Vec<String> = self.endings.iter().map(|(ending, count)| format!("{count} {ending}")).collect();
        println!("hostile: {}: {} cases: {}", self.class, self.total(), endings.join(", "));
    }
}

/// Copies a folder of folders and files.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A small long-tailed store, runs on it, and what they must come to.
pub struct Scene {
    pub folder: tempfile::TempDir,
    /// What its runs are given besides.
    more: &'static [&'static str],
    /// A run that nothing disturbed.
    whole: PathBuf,
}

/// What a run comes to.
#[derive(PartialEq)]
pub struct Outcome {
    last: Vec<u8>,
    best: Vec<u8>,
    metrics: Vec<serde_json::Value>,
}

impl Scene {
    pub fn new() -> Scene {
        Scene::of("prepare synthetic --classes 4 --per-class 24 --imbalance 4 --size 8 --seed 3 --out", &[])
    }

    /// On drawn photographs of mixed sizes, which are read from the store step by step.
    pub fn of_photographs() -> Scene {
        Scene::of(
            "prepare synthetic --photos --classes 4 --per-class 24 --test-per-class 4 --imbalance 4 --seed 3 --out",
            &["--size", "12", "--eval-resize", "13", "--resident-limit", "0"],
        )
    }

    fn of(fixed: &str, more: &'static [&'static str]) -> Scene {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let whole = folder.path().join("whole");
        let scene = Scene { folder, more, whole };
        let store = scene.store();
        glmc(&fixed.split(' ').chain([text(&store)]).collect::<Vec<_>>(), "the store").ok();
        end(&mut scene.train(&scene.whole), "a run that nothing disturbs").ok();
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("data.lt")
    }

    /// A finished run.
    pub fn whole(&self) -> &Path {
        &self.whole
    }

    /// Three epochs into a folder.
    pub fn train(&self, run: &Path) -> Command {
        let fixed = "train --model resnet20 --width 2 --epochs 3 --batch 16 --lr 0.05 --seed 1 --threads 1 --device cpu --log tensorboard,csv";
        let mut command = Command::new(BIN);
        command.args(fixed.split(' ')).args(self.more).args(["--data", text(&self.store()), "--out", text(run)]);
        command
    }

    /// Begins a run or goes on with it, whichever is left to do.
    pub fn go_on(&self, run: &Path) -> Command {
        if !run.join("config.toml").exists() {
            return self.train(run);
        }
        let mut command = Command::new(BIN);
        command.args(["train", "--resume", text(run)]);
        command
    }

    /// Takes a run to its end, which must be the one that it has undisturbed.
    #[track_caller]
    pub fn same_end(&self, run: &Path, what: &str) {
        end(&mut self.go_on(run), what).ok();
        assert!(outcome(run) == outcome(&self.whole), "{what}: another outcome");
        let table = fs::read_to_string(run.join("metrics.csv")).expect("a table");
        assert_eq!(table.lines().count(), 4, "{what}: {table}");
    }
}

pub fn outcome(run: &Path) -> Outcome {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let line = |line| {
        let mut value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let fields = value.as_object_mut().expect("an object");
        fields.retain(|key, _| key != "seconds" && key != "samples_per_second");
        value
    };
    Outcome {
        last: fs::read(run.join("last.safetensors")).expect("a checkpoint"),
        best: fs::read(run.join("best.safetensors")).expect("a checkpoint"),
        metrics: text.lines().map(line).collect(),
    }
}
