//! Kills, errors and full disks at any call that changes a file; signals at any moment. Nothing is lost: what is done again
//! or goes on ends as if nothing had happened.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use glmc_engine::data::Store;

use crate::common::array::Random;
use crate::common::signals::heeding;
use crate::inputs;
use crate::program::{BIN, Counts, Scene, cases, end, glmc, names, text, thorough};

/// The library that strikes, or why there is none.
fn library(folder: &Path) -> Result<PathBuf, String> {
    let library = folder.join("faults.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/faults.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output =
        Command::new(compiler).args(["-shared", "-fPIC", "-O1", source, "-ldl", "-o", text(&library)]).output();
    match output {
        Ok(output) if output.status.success() => Ok(library),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("no C compiler: {error}")),
    }
}

/// How a command's calls that change files are disturbed.
struct Faults(PathBuf);

impl Faults {
    /// `None`, and why on the screen, where no library can be made or preloaded.
    fn new(scene: &Scene) -> Option<Faults> {
        let faults = match library(scene.folder.path()) {
            Ok(library) => Faults(library),
            Err(why) => {
                println!("hostile: skipped: {why}");
                return None;
            }
        };
        // A loader that ignores the library (musl's, a static program's) must not pass for a program without faults.
        match faults.calls(Command::new(BIN).arg("--version"), scene) {
            Some(_) => Some(faults),
            None => {
                println!("hostile: skipped: libraries are not preloaded here");
                None
            }
        }
    }

    fn with(&self, command: &mut Command, fault: &str) {
        command.env("LD_PRELOAD", &self.0).env("GLMC_FAULT", fault);
    }

    /// How many calls a command makes that change files.
    fn calls(&self, command: &mut Command, scene: &Scene) -> Option<usize> {
        let report = scene.path("calls");
        fs::remove_file(&report).ok();
        self.with(command, &format!("count:{}", text(&report)));
        end(command, "counted").ok();
        fs::read_to_string(&report).ok()?.trim().parse().ok()
    }
}

/// Numbers of calls to strike at: all of them, or some with the first and the last.
fn moments(calls: usize, few: usize, seed: u64) -> Vec<usize> {
    if thorough() || calls <= few {
        return (1..=calls).collect();
    }
    let mut dice = Random::new(seed);
    // One in each of as many stretches.
    let mut moments: Vec<usize> = (0..few).map(|i| 1 + i * calls / few + dice.below(calls / few)).collect();
    moments[0] = 1;
    moments[few - 1] = calls;
    moments
}

#[test]
fn training_killed_at_any_call_ends_with_the_same_bits() {
    training_killed(&Scene::new(), "training");
}

#[test]
fn training_on_photographs_killed_at_any_call_ends_with_the_same_bits() {
    training_killed(&Scene::of_photographs(), "training on photographs of mixed sizes");
}

fn training_killed(scene: &Scene, class: &str) {
    let Some(faults) = Faults::new(scene) else { return };
    let calls = faults.calls(&mut scene.train(&scene.path("counted")), scene).expect("a number");
    assert!(calls > 30, "{calls} calls");
    let mut counts = Counts::new(format!("{class} killed at its {calls} calls"));
    for moment in moments(calls, cases(24, 0), 1) {
        let run = scene.path("killed");
        let mut command = scene.train(&run);
        faults.with(&mut command, &format!("kill:{moment}"));
        let what = format!("killed at call {moment}");
        counts.add(if end(&mut command, &what).was_killed() { "killed" } else { "over before" });
        scene.same_end(&run, &what);
        fs::remove_dir_all(&run).expect("a folder");
    }
    // Writes are where a kill can do harm: nearly all moments must have been reached.
    assert!(counts.of("killed") * 10 >= counts.total() * 9, "{} of {}", counts.of("killed"), counts.total());
}

#[test]
fn training_with_an_error_at_any_call_loses_nothing() {
    let scene = Scene::new();
    let Some(faults) = Faults::new(&scene) else { return };
    let calls = faults.calls(&mut scene.train(&scene.path("counted")), &scene).expect("a number");
    for (seed, fault) in [(2, "eio"), (3, "enospc"), (4, "full")] {
        let mut counts = Counts::new(format!("training with {fault} at its {calls} calls"));
        for moment in moments(calls, cases(8, 0), seed) {
            let run = scene.path(fault);
            let mut command = scene.train(&run);
            faults.with(&mut command, &format!("{fault}:{moment}"));
            let what = format!("{fault} at call {moment}");
            counts.add(if end(&mut command, &what).succeeded() { "unharmed" } else { "one line" });
            scene.same_end(&run, &what);
            fs::remove_dir_all(&run).expect("a folder");
        }
        assert!(counts.of("one line") > 0, "{fault} never struck");
    }
}

/// Predictions into three files, of which older ones are there.
#[test]
fn predictions_disturbed_at_any_call_leave_whole_files() {
    let scene = Scene::new();
    let Some(faults) = Faults::new(&scene) else { return };
    let [images, place] = ["images", "answers"].map(|name| scene.path(name));
    [&images, &place].into_iter().for_each(|folder| fs::create_dir(folder).expect("a folder"));
    for i in 0..40u32 {
        let image = image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([(x * 30) as u8, (y * 30) as u8, i as u8 * 6]));
        image.save(images.join(format!("{i:02}.png"))).expect("an image");
    }
    let outputs = ["a.csv", "l.npy", "f.npy"].map(|name| place.join(name));
    let predict = || {
        let mut command = Command::new(BIN);
        command.args(["predict", "--device", "cpu", "--threads", "1", "--force", "--checkpoint", text(scene.whole())]);
        command.arg(&images).args(["--out", text(&outputs[0]), "--logits", text(&outputs[1])]);
        command.args(["--features", text(&outputs[2])]);
        command
    };
    end(&mut predict(), "undisturbed").ok();
    let whole = outputs.each_ref().map(|path| fs::read(path).expect("an output"));
    let calls = faults.calls(&mut predict(), &scene).expect("a number");
    for (seed, fault) in [(11, "kill"), (12, "eio"), (13, "enospc"), (14, "full")] {
        let mut counts = Counts::new(format!("predictions with {fault} at their {calls} calls"));
        for moment in moments(calls, cases(6, 0), seed) {
            outputs.iter().for_each(|path| fs::write(path, "older").expect("writable"));
            let mut command = predict();
            faults.with(&mut command, &format!("{fault}:{moment}"));
            let (what, ending) = (format!("{fault} at call {moment}"), end(&mut command, "predictions"));
            counts.add(match fault {
                "kill" if ending.was_killed() => "killed",
                _ if ending.succeeded() => "unharmed",
                _ => "one line",
            });
            for (path, whole) in outputs.iter().zip(&whole) {
                let found = fs::read(path).expect("an output");
                assert!(found == b"older" || found == *whole, "{what}: {} is half-written", path.display());
            }
            // What a kill leaves, the next one replaces.
            if fault != "kill" {
                assert_eq!(names(&place), ["a.csv", "f.npy", "l.npy"], "{what}");
            }
        }
        assert!(counts.of("one line") + counts.of("killed") > 0, "{fault} never struck");
    }
}

/// Reports are whole, or the old ones stay.
#[test]
fn reports_with_an_error_at_any_call_are_whole_or_as_before() {
    let scene = Scene::new();
    let Some(faults) = Faults::new(&scene) else { return };
    let (page, tables) = (scene.path("report.html"), scene.path("tables"));
    let report = || {
        let mut command = Command::new(BIN);
        command.args(["report", text(scene.whole()), "--device", "cpu", "--force", "--out", text(&page)]);
        command.args(["--csv", text(&tables)]);
        command
    };
    let calls = faults.calls(&mut report(), &scene).expect("a number");
    let kept = ["epochs.csv", "runs.csv", "classes.csv", "confusion.csv", "reliability.csv"];
    let contents = || kept.map(|name| fs::read(tables.join(name)).expect("a table"));
    let whole = contents();
    for (seed, fault) in [(5, "eio"), (6, "full"), (7, "kill")] {
        let mut counts = Counts::new(format!("a report with {fault} at its {calls} calls"));
        for moment in moments(calls, cases(8, 0), seed) {
            let mut command = report();
            faults.with(&mut command, &format!("{fault}:{moment}"));
            let what = format!("{fault} at call {moment}");
            let ending = end(&mut command, &what);
            counts.add(if ending.was_killed() || !ending.succeeded() { "struck" } else { "unharmed" });
            let text = fs::read_to_string(&page).expect("a page");
            assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>"), "{what}: half a page");
            assert!(contents() == whole, "{what}: other tables");
        }
        assert!(counts.of("struck") > 0, "{fault} never struck");
    }
}

/// Kills and errors while a store is written over another.
#[test]
fn preparing_disturbed_at_any_call_leaves_a_whole_store() {
    let scene = Scene::new();
    let Some(faults) = Faults::new(&scene) else { return };
    let place = scene.path("place");
    fs::create_dir(&place).expect("a folder");
    let sources = inputs::Sources::new(&scene.path("sources"));
    let store = place.join("a.lt");
    let commands = sources.commands(&store);
    let older = "prepare synthetic --classes 3 --per-class 8 --imbalance 2 --size 8 --seed 9 --force --out";
    let older: Vec<&str> = older.split(' ').chain([text(&store)]).collect();
    for (name, arguments) in &commands {
        let prepare = || {
            let mut command = Command::new(BIN);
            command.args(arguments).arg("--force");
            command
        };
        glmc(&older, "the older store").ok();
        let calls = faults.calls(&mut prepare(), &scene).expect("a number");
        let whole = Store::open(&store).and_then(|store| store.fingerprint()).expect("a store");
        let mut counts = Counts::new(format!("prepare {name} disturbed at its {calls} calls"));
        for (seed, fault) in [(5, "kill"), (6, "eio"), (7, "full")] {
            for moment in moments(calls, cases(3, 0), seed) {
                glmc(&older, "the older store").ok();
                let what = format!("prepare {name}, {fault} at call {moment}");
                let mut command = prepare();
                faults.with(&mut command, &format!("{fault}:{moment}"));
                let ending = end(&mut command, &what);
                let ending = match ending.was_killed() {
                    true => "killed",
                    false if ending.succeeded() => "unharmed",
                    false => "one line",
                };
                counts.add(ending);
                if store.exists() {
                    Store::open(&store)
                        .and_then(|store| store.check())
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                end(&mut prepare(), &what).ok();
                let found = Store::open(&store).and_then(|store| store.fingerprint()).expect("a store");
                assert!(found == whole && names(&place) == ["a.lt"], "{what}: {:?}", names(&place));
            }
        }
        assert!(counts.of("killed") > 0 && counts.of("one line") > 0, "{name}: nothing struck");
    }
}

/// What a killed preparation of photographs did is not done again, and the store has the same bytes.
#[test]
fn photographs_killed_at_any_call_are_gone_on_with() {
    let scene = Scene::new();
    let Some(faults) = Faults::new(&scene) else { return };
    let place = scene.path("place");
    fs::create_dir(&place).expect("a folder");
    let sources = inputs::Sources::new(&scene.path("sources"));
    let store = place.join("a.lt");
    let prepare = || {
        let mut command = Command::new(BIN);
        command.args(sources.photographs(&store, "12"));
        command
    };
    let files =
        ["train", "val", "test"].map(|split| ["pixels", "index", "labels", "blocks"].map(|array| (split, array)));
    let bytes = || {
        let arrays = files.as_flattened().iter().map(|(split, array)| format!("{split}/{array}.npy"));
        let names = arrays.chain(["meta.json".to_string()]);
        names.map(|name| fs::read(store.join(name)).ok()).collect::<Vec<_>>()
    };
    let calls = faults.calls(&mut prepare(), &scene).expect("a number");
    let whole = bytes();
    fs::remove_dir_all(&store).expect("a store");
    let mut counts = Counts::new(format!("prepare photographs killed at its {calls} calls, and gone on with"));
    for moment in moments(calls, cases(8, 0), 9) {
        let what = format!("prepare photographs, killed at call {moment}");
        let mut command = prepare();
        faults.with(&mut command, &format!("kill:{moment}"));
        let killed = end(&mut command, &what).was_killed();
        if killed && !store.exists() {
            let ending = end(&mut prepare(), &what);
            counts.add(if ending.stderr.contains("going on with") { "gone on with" } else { "begun again" });
            ending.ok();
        } else {
            counts.add("over before");
        }
        assert!(bytes() == whole, "{what}: another store");
        // What a kill after the renaming left goes with the next store of that name.
        end(prepare().arg("--force"), &what).ok();
        assert!(bytes() == whole && names(&place) == ["a.lt"], "{what}: {:?}", names(&place));
        fs::remove_dir_all(&store).expect("a store");
    }
    assert!(counts.of("gone on with") > 0 && counts.of("begun again") > 0, "nothing struck");
}

/// Files that may not grow beyond a size, as on a disk that is full or a quota that is reached.
#[test]
fn a_limit_on_file_sizes_is_one_line_and_nothing_is_lost() {
    let scene = Scene::new();
    let longest = fs::metadata(scene.whole().join("last.safetensors")).expect("a checkpoint").len();
    let mut counts = Counts::new("training with files limited in size");
    let most = cases(6, 60) as u64;
    for step in 0..most {
        let limit = longest * step / (most - 1);
        let run = scene.path("limited");
        let mut command = scene.train(&run);
        let limited = move || {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: between fork and exec; neither call runs code of ours, and the limits live through the call. The
            // signal's default would end the program as a kill does.
            match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) == libc::SIG_ERR } {
                true => Err(std::io::Error::last_os_error()),
                // SAFETY: as above.
                false if unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } != 0 => {
                    Err(std::io::Error::last_os_error())
                }
                false => Ok(()),
            }
        };
        // SAFETY: the closure allocates nothing and takes no lock.
        unsafe { command.pre_exec(limited) };
        let what = format!("files of at most {limit} bytes");
        // The limit holds for what the test reads as well: output goes nowhere.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("an end");
        assert!(matches!(status.code(), Some(0 | 1)), "{what}: {status}");
        counts.add(if status.success() { "unharmed" } else { "refused" });
        scene.same_end(&run, &what);
        fs::remove_dir_all(&run).expect("a folder");
    }
    assert!(counts.of("refused") > 0 && counts.of("unharmed") > 0);
}

/// A file system of few pages, where this user may mount one.
#[test]
fn a_small_disk_that_is_full_is_one_line_and_nothing_is_lost() {
    let scene = Scene::new();
    let disk = scene.path("disk");
    fs::create_dir(&disk).expect("a folder");
    let mounted = |kibibytes: usize| {
        let size = format!("size={kibibytes}k");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs", text(&disk)]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let mut counts = Counts::new("training on a small disk");
    let whole: u64 =
        names(scene.whole()).iter().map(|n| fs::metadata(scene.whole().join(n)).expect("a file").len()).sum();
    let most = cases(4, 30);
    for step in 1..=most {
        // From a page to one and a half times what a run leaves.
        let kibibytes = 4 + step * (whole as usize * 3 / 2048) / most;
        if !mounted(kibibytes) {
            println!("hostile: skipped: no tmpfs can be mounted here");
            return;
        }
        let run = disk.join("run");
        let what = format!("a disk of {kibibytes} KiB");
        let ending = end(&mut scene.train(&run), &what);
        // Room again: what is there is moved to where there is enough.
        let rescued = scene.path("rescued");
        if run.exists() {
            crate::program::copy(&run, &rescued);
        }
        let unmounted = Command::new("umount").arg(&disk).status().expect("umount runs");
        assert!(unmounted.success());
        counts.add(if ending.succeeded() { "unharmed" } else { "one line" });
        scene.same_end(&rescued, &what);
        fs::remove_dir_all(&rescued).expect("a folder");
    }
    assert!(counts.of("one line") > 0);
}

#[test]
fn storms_of_signals_lose_no_epoch() {
    let scene = Scene::new();
    let mut dice = Random::new(8);
    let begun = Instant::now();
    end(&mut scene.train(&scene.path("timed")), "timed").ok();
    let longest = begun.elapsed().as_micros() as usize;
    let mut counts = Counts::new("training under storms of signals");
    for case in 0..cases(8, 100) {
        let run = scene.path("storm");
        let what = format!("storm {case}");
        for _ in 0..3 {
            let mut command = scene.go_on(&run);
            let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = heeding(quiet).spawn().expect("the program starts");
            std::thread::sleep(Duration::from_micros(dice.below(longest) as u64));
            for _ in 0..1 + dice.below(20) {
                // SAFETY: kill takes no pointer; the child has not been waited for, so that its number is its own.
                unsafe { libc::kill(child.id() as i32, [libc::SIGTERM, libc::SIGINT, libc::SIGHUP][dice.below(3)]) };
                std::thread::sleep(Duration::from_micros(dice.below(3000) as u64));
            }
            let status = child.wait().expect("an end");
            use std::os::unix::process::ExitStatusExt;
            // Before the program listens, a signal does what the system does by default.
            let ending = match (status.code(), status.signal()) {
                (Some(0), _) => "over before",
                (Some(129 | 130 | 143), _) => "saved",
                (_, Some(libc::SIGTERM | libc::SIGINT | libc::SIGHUP)) => "ended by default",
                _ => panic!("{what}: {status}"),
            };
            counts.add(ending);
        }
        scene.same_end(&run, &what);
        fs::remove_dir_all(&run).expect("a folder");
    }
}
