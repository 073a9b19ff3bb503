//! The run folder: what is never overwritten, never begun twice, and never changed by a request that is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{BIN, Place, error, glmc, ok, resume, text, timeless_metrics, weights_of};

const SHORT: [&str; 4] = ["--epochs", "2", "--width", "2"];

/// Every file of a folder, and what is in it.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let read = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"))
    };
    entries.map(read).collect()
}

#[test]
fn a_refused_resume_changes_nothing() {
    let place = Place::new();
    let (run, other) = (place.path("run"), place.path("other.lt"));
    ok(place.train(&run, &SHORT));
    let before = contents(&run);
    let fixed = "prepare synthetic --classes 4 --per-class 40 --imbalance 8 --size 8 --seed 4 --out";
    ok(glmc(&fixed.split(' ').chain([text(&other)]).collect::<Vec<_>>()));
    let line = error(glmc(&["train", "--resume", text(&run), "--data", text(&other), "--threads", "2"]), 1);
    assert!(line.contains("another store"), "{line}");
    assert!(contents(&run) == before, "a refused --resume has changed the run");
    // The same store elsewhere is the same store, and config.toml remembers where.
    let moved = place.path("moved.lt");
    fs::rename(place.store(), &moved).expect("a rename");
    ok(glmc(&["train", "--resume", text(&run), "--data", text(&moved)]));
    assert!(fs::read_to_string(run.join("config.toml")).expect("a file").contains("moved.lt"));
}

#[test]
fn a_folder_of_other_things_is_refused() {
    let place = Place::new();
    for name in ["best.safetensors", "metrics.jsonl", "thesis.txt"] {
        let folder = place.path(&format!("with-{name}"));
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join(name), "years of work").expect("writable");
        let before = contents(&folder);
        let line = error(place.train(&folder, &SHORT), 1);
        assert!(line.contains("neither empty nor a run") && line.contains(name), "{line}");
        // The demo, too, looks before it draws its images.
        error(glmc(&["train", "--out", text(&folder)]), 1);
        assert!(contents(&folder) == before);
    }
    let empty = place.path("empty");
    fs::create_dir(&empty).expect("a folder");
    ok(place.train(&empty, &SHORT));
    // The demo's own images are no obstacle: it may have been stopped while it drew them.
    let demo = place.path("demo");
    fs::create_dir(&demo).expect("a folder");
    fs::rename(place.store(), demo.join("data.lt")).expect("a rename");
    ok(glmc(&[&["train", "--out", text(&demo)], &SHORT[..]].concat()));
}

#[test]
fn a_run_that_lost_its_checkpoints_says_so_and_begins_again_only_when_told() {
    let place = Place::new();
    // Saved at its end only, so that the number of metrics says nothing.
    for every in ["1", "100"] {
        let run = place.path(every);
        ok(place.train(&run, &[&SHORT[..], &["--checkpoint-every", every]].concat()));
        let (bits, metrics) = (weights_of(&run, "last.safetensors"), timeless_metrics(&run));
        for gone in [&["last.safetensors"][..], &["best.safetensors"]] {
            gone.iter().for_each(|name| fs::remove_file(run.join(name)).expect("a file"));
            let before = contents(&run);
            let line = error(resume(&run), 1);
            assert!(line.contains(".safetensors"), "{line}");
            if !run.join("best.safetensors").exists() {
                assert!(line.contains("last.safetensors: is missing") && line.contains("--restart"), "{line}");
            }
            assert!(contents(&run) == before);
        }
        ok(glmc(&["train", "--resume", text(&run), "--restart"]));
        assert!(weights_of(&run, "last.safetensors") == bits);
        assert_eq!(timeless_metrics(&run), metrics);
    }
    // Without run.json, as an older version left it.
    let run = place.path("1");
    fs::remove_file(run.join("run.json")).and_then(|()| fs::remove_file(run.join("last.safetensors"))).expect("files");
    assert!(error(resume(&run), 1).contains("--restart"));
    assert_eq!(glmc(&["train", "--restart"]).status.code(), Some(2));
}

#[test]
fn removing_what_was_the_lock_lets_nobody_in() {
    let place = Place::new();
    let run = place.path("run");
    let mut arguments = place.training(&run);
    arguments.extend(["--epochs", "1000"].map(String::from));
    let mut first =
        Command::new(BIN).args(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    while !run.join("config.toml").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for name in [".lock", "config.toml", "run.json"] {
        fs::remove_file(run.join(name)).ok();
    }
    let second = place.train(&run, &SHORT);
    first.kill().expect("a kill");
    first.wait().expect("an end");
    assert!(error(second, 1).contains("another process is training in this folder"));
}

#[test]
fn resume_takes_the_last_checkpoint_as_its_folder_and_no_other_file() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(&run, &SHORT));
    ok(resume(&run.join("last.safetensors")));
    let line = error(resume(&run.join("best.safetensors")), 2);
    assert!(line.contains("best epoch's") && line.contains(&format!("--resume {}", run.display())), "{line}");
    error(resume(&run.join("config.toml")), 1);
    // From inside the folder, too.
    let output = Command::new(BIN).args(["train", "--resume", "last.safetensors"]).current_dir(&run).output();
    ok(output.expect("it starts"));
}

#[test]
fn run_json_says_when_where_and_how_and_no_checkpoint_depends_on_it() {
    let place = Place::new();
    let (run, again) = (place.path("run"), place.path("again"));
    ok(place.train(&run, &SHORT));
    ok(place.train(&again, &SHORT));
    for name in ["last.safetensors", "best.safetensors", "config.toml"] {
        assert!(weights_of(&run, name) == weights_of(&again, name), "{name} of two equal runs");
    }
    ok(resume(&run));
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(run.join("run.json")).expect("a file")).expect("JSON");
    let processes = record["processes"].as_array().expect("a list");
    assert_eq!(processes.len(), 2, "{record}");
    let command = |i: usize| processes[i]["command"].as_array().expect("a list").len();
    assert_eq!((processes[0]["device"].as_str(), command(1)), (Some("cpu"), 4), "{record}");
    for key in ["date", "host", "version"] {
        assert!(processes.iter().all(|process| process[key].as_str().is_some_and(|text| !text.is_empty())), "{key}");
    }
    assert!(processes[0].get("kernels").is_none(), "the CPU has no kernels: {record}");
    let version = ok(glmc(&["--version"]));
    assert!(version.starts_with(&format!("glmc-engine {}", env!("CARGO_PKG_VERSION"))), "{version}");
    if let Some(commit) = processes[0]["commit"].as_str() {
        assert!(version.contains(commit), "{version}");
    }
}

#[test]
fn run_json_says_where_the_kernels_came_from() {
    let place = Place::new();
    let kernels = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
    for folder in [None, Some(kernels)] {
        let run = place.path(if folder.is_some() { "folder" } else { "own" });
        let mut command = Command::new(BIN);
        command.args(place.training(&run)).args(["--epochs", "1", "--width", "2", "--device", "emulator"]);
        command.env_remove("GLMC_KERNELS").envs(folder.map(|folder| ("GLMC_KERNELS", folder)));
        ok(command.output().expect("the program starts"));
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(run.join("run.json")).expect("a file")).expect("JSON");
        let said = &record["processes"][0]["kernels"];
        assert_eq!(said["folder"].as_str(), folder, "{record}");
        assert_eq!(said["hash"].as_str().map(str::len), Some(16), "{record}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_store_whose_path_is_not_utf8_is_refused_before_anything_is_written() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let (run, link) = (place.path("run"), place.path("link.lt"));
    let strange = place.path("x").with_file_name(std::ffi::OsStr::from_bytes(b"d\xff.lt"));
    fs::rename(place.store(), &strange).expect("a rename");
    std::os::unix::fs::symlink(&strange, &link).expect("a link");
    for data in [&strange, &link] {
        let mut command = Command::new(BIN);
        command.args(["train", "--width", "2", "--epochs", "1", "--out", text(&run), "--data"]).arg(data);
        let line = error(command.output().expect("it starts"), 1);
        assert!(line.contains("not UTF-8") && line.contains("\\xff.lt"), "{line}");
    }
    assert!(!run.exists());
}

#[test]
fn paths_in_suggested_commands_are_quoted() {
    let place = Place::new();
    let run = place.path("a run's folder");
    ok(place.train(&run, &SHORT));
    let word = format!("'{}'", text(&run).replace('\'', r"'\''"));
    for output in [place.train(&run, &SHORT), resume(&run.join("best.safetensors"))] {
        let status = output.status.code().expect("an end");
        let line = error(output, status);
        assert!(line.contains(&format!("--resume {word}")), "{line}");
    }
    let line = error(glmc(&["train", "--resume", text(&run), "--epochs", "9"]), 2);
    assert!(line.contains(&format!("--extend {word} --epochs 9")), "{line}");
}
