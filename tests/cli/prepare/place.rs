//! Where a store may be written, and what gives way to it.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use glmc_engine::data::Store;
use tempfile::TempDir;

use super::{archives, names, prepare, prepared, refused, text};
use crate::common::signals::heeding;

fn synthetic<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["synthetic", "--out", text(out), "--per-class", "20", "--imbalance", "2"], more].concat()
}

/// Everything below a folder, with its content.
pub fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        match path.is_dir() {
            true => all.extend(tree(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes))),
            false => all.push((name, fs::read(path).unwrap())),
        }
    }
    all
}

/// A folder of photographs in the shape of a store.
#[test]
fn force_replaces_nothing_but_a_store_that_is_alone() {
    let dir = TempDir::new().unwrap();
    let photos = dir.path().join("photos");
    for split in ["train", "test"] {
        fs::create_dir_all(photos.join(split)).unwrap();
        fs::write(photos.join(split).join("holiday.jpg"), "the only copy").unwrap();
    }
    let store = dir.path().join("whole.lt");
    prepared(&synthetic(&store, &[]));
    let whole = fs::read_to_string(store.join("meta.json")).unwrap();
    for meta in ["", "{}", "my camera's settings", &whole[..whole.len() / 2], &whole.replacen("plain", "plane", 1)] {
        fs::write(photos.join("meta.json"), meta).unwrap();
        let before = tree(&photos);
        let line = refused(&synthetic(&photos, &["--force"]));
        assert!(line.contains("photos") && line.contains("meta.json"), "{line}");
        assert_eq!(tree(&photos), before);
    }
    // Even beside the meta data of a store.
    fs::write(photos.join("meta.json"), &whole).unwrap();
    let before = tree(&photos);
    let line = refused(&synthetic(&photos, &["--force"]));
    assert!(line.contains("not just a store") && line.contains("holiday.jpg"), "{line}");
    assert_eq!(tree(&photos), before);

    // Anything in any folder of a whole store.
    for foreign in
        ["thesis.txt", "train/thesis.txt", "test/pixels.npy.bak", "val/labels.npy", "train/deep/er.npy", ".hidden"]
    {
        let path = store.join(foreign);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "years of work").unwrap();
        let line = refused(&synthetic(&store, &["--force"]));
        assert!(line.contains("not just a store"), "{foreign}: {line}");
        assert_eq!(fs::read(&path).unwrap(), b"years of work");
        fs::remove_file(&path).unwrap();
        let _ = fs::remove_dir(path.parent().unwrap());
    }
    // A link in the place of an array: what it points to is not the store's.
    let pixels = store.join("train/pixels.npy");
    fs::rename(&pixels, dir.path().join("elsewhere.npy")).unwrap();
    symlink(dir.path().join("elsewhere.npy"), &pixels).unwrap();
    assert!(refused(&synthetic(&store, &["--force"])).contains("train/pixels.npy"));
    fs::remove_file(&pixels).unwrap();
    // A store that lacks an array is still nothing but a store.
    prepared(&synthetic(&store, &["--force"]));
    Store::open(&store).unwrap().check().unwrap();
    assert_eq!(names(dir.path()), ["elsewhere.npy", "photos", "whole.lt"]);
}

#[test]
fn what_is_there_and_no_store_stays() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/a"), "").unwrap();
    fs::write(at("file"), "text").unwrap();
    prepared(&synthetic(&at("store.lt"), &[]));
    symlink(at("store.lt"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    let before = names(dir.path());
    for (name, word) in
        [("empty", "no store"), ("full", "no store"), ("file", "no store"), ("link", "link"), ("dangling", "link")]
    {
        for more in [&["--force"][..], &[]] {
            let line = refused(&synthetic(&at(name), more));
            assert!(line.contains(name) && line.contains(word), "{name}: {line}");
        }
    }
    // A slash at the end names the same.
    for (name, word) in [("link/", "link"), ("store.lt/", "exists already")] {
        let line = refused(&synthetic(&at(name), &[]));
        assert!(line.contains(word), "{line}");
    }
    for odd in ["/", "..", ".", "a/..", ""] {
        let output = prepare(&synthetic(Path::new(odd), &["--force"]));
        assert_eq!(output.status.code(), Some(2), "{odd:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.lines().count() == 1 || odd.is_empty(), "{stderr}");
    }
    assert_eq!(names(dir.path()), before);
}

#[test]
fn a_store_lies_outside_of_its_source() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    archives::ten_binary(&at("all/cifar"), 10);
    // The source under other names.
    symlink(at("all/cifar"), at("link")).unwrap();
    let source = at("all/cifar");
    // A store that, by whatever accident, has the source within: only the meta data make it one.
    let before = tree(&source);
    for (from, out, word) in [
        ("all/cifar", "all/cifar", "is the source folder"),
        ("all/cifar", "all/cifar/", "is the source folder"),
        ("all/cifar", "all", "holds the source folder"),
        ("all/cifar", "all/cifar/out.lt", "lies in the source folder"),
        ("link", "all/cifar/out.lt", "lies in the source folder"),
        ("all/cifar", "link/out.lt", "lies in the source folder"),
        ("link", "all/cifar", "is the source folder"),
        ("link", "all", "holds the source folder"),
    ] {
        let (from, out) = (at(from), at(out));
        let line = refused(&["cifar10", "--any-size", "--source", text(&from), "--out", text(&out), "--force"]);
        assert!(line.contains(word), "{}: {line}", out.display());
        assert_eq!(tree(&source), before);
    }
    assert_eq!(names(&at("all")), ["cifar"]);
    // Of an archive in a folder below the source, that folder counts: a store may lie beside it.
    archives::ten_binary(&at("here/cifar-10-batches-bin"), 10);
    let out = at("here/c10.lt");
    prepared(&["cifar10", "--any-size", "--source", text(&at("here")), "--out", text(&out), "--imbalance", "1"]);
    for class in ["a", "b"] {
        fs::create_dir_all(at("photos").join(class)).unwrap();
        fs::write(at("photos").join(class).join("x.png"), "").unwrap();
    }
    let photos = at("photos");
    fs::write(at("list.txt"), "a/x.png 0\nb/x.png 1\n").unwrap();
    for out in [at("photos/x.lt"), at("photos/a"), photos.clone(), dir.path().to_path_buf()] {
        let dirs = ["images", "--train-dir", text(&photos), "--test-dir", text(&photos), "--size", "8", "--force"];
        let list = at("list.txt");
        let lists = ["images", "--train-list", text(&list), "--test-list", text(&list), "--root", text(&photos)];
        for args in [&dirs[..], &[&lists[..], &["--size", "8", "--force"]].concat()] {
            let line = refused(&[args, &["--out", text(&out)]].concat());
            assert!(line.contains("source folder") || line.contains("no store"), "{line}");
        }
    }
    assert_eq!(names(&photos), ["a", "b"]);
    // The root of a list may be any folder, that of the file system as well: what holds the images counts.
    for class in ["a", "b"] {
        fs::write(photos.join(class).join("x.png"), super::images::png(&super::images::picture(8, 8, 1))).unwrap();
    }
    let (list, out) = (at("list.txt"), at("beside.lt"));
    let lines = ["a", "b"].map(|class| format!("{}/{class}/x.png", text(&photos).trim_start_matches('/')));
    fs::write(&list, format!("{} 0\n{} 1\n", lines[0], lines[1])).unwrap();
    let args =
        ["images", "--train-list", text(&list), "--test-list", text(&list), "--root", "/", "--size", "8", "--out"];
    assert!(refused(&[&args[..], &[text(&photos.join("x.lt"))]].concat()).contains("lies in the source folder"));
    prepared(&[&args[..], &[text(&out)]].concat());
}

/// A long preparation that has begun to write.
fn begun(out: &Path) -> Child {
    let args = ["prepare", "synthetic", "--per-class", "100000", "--imbalance", "1", "--force", "--out", text(out)];
    let mut command = Command::new(env!("CARGO_BIN_EXE_glmc-engine"));
    let child = heeding(command.args(args)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let work = out.with_file_name(format!(".{}.partial", out.file_name().unwrap().to_str().unwrap()));
    let pixels = work.join("store/train/pixels.npy");
    let start = Instant::now();
    while fs::metadata(&pixels).map_or(0, |stat| stat.len()) < 1 << 20 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: sends a signal to a child that has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn a_stopped_preparation_leaves_nothing_and_says_so() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("a.lt");
    prepared(&synthetic(&out, &[]));
    let before = tree(&out);
    for (number, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let child = begun(&out);
        signal(&child, number);
        // A second one right after is the same wish.
        signal(&child, number);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert_eq!(stderr, "stopping: nothing is left behind\nerror: stopped; nothing was written\n");
        assert_eq!(names(dir.path()), ["a.lt"]);
        assert_eq!(tree(&out), before);
    }
}

/// What was ignored when the program started, as by nohup, stays ignored.
#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("a.lt");
    let binary = env!("CARGO_BIN_EXE_glmc-engine");
    let script =
        format!("trap '' HUP; exec {binary} prepare synthetic --per-class 3000 --imbalance 1 --out {}", text(&out));
    let mut child = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).spawn().unwrap();
    let work = dir.path().join(".a.lt.partial/store/train/labels.npy");
    let start = Instant::now();
    while !work.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing was written");
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, libc::SIGHUP);
    assert!(child.wait().unwrap().success());
    Store::open(&out).unwrap();
}

/// `--force` exchanges old and new in one step: whenever it is killed, one of them is there under its name.
#[test]
fn a_store_is_there_at_every_moment_of_its_replacement() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("a.lt");
    prepared(&synthetic(&out, &[]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_glmc-engine"));
    command.arg("prepare").args(synthetic(&out, &["--force"])).stdout(Stdio::null()).stderr(Stdio::null());
    let (mut looks, end) = (0, Instant::now() + Duration::from_secs(2));
    while Instant::now() < end {
        let mut child = command.spawn().unwrap();
        while child.try_wait().unwrap().is_none() {
            for _ in 0..200 {
                assert!(out.join("meta.json").exists(), "after {looks} looks");
                looks += 1;
            }
        }
    }
    Store::open(&out).unwrap().check().unwrap();
}

/// SIGKILL leaves a working folder, which the next run of the same name removes; that of a live run stays.
#[test]
fn leftovers_of_a_kill_are_removed_and_live_work_is_not() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("a.lt");
    let mut child = begun(&out);
    let line = refused(&synthetic(&out, &["--force"]));
    assert!(line.contains("another process"), "{line}");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(names(dir.path()), [".a.lt.partial"]);
    prepared(&synthetic(&out, &[]));
    assert_eq!(names(dir.path()), ["a.lt"]);
    // What is not of a store is named, not removed.
    fs::create_dir_all(dir.path().join(".b.lt.partial/store")).unwrap();
    fs::write(dir.path().join(".b.lt.partial/store/mine.txt"), "mine").unwrap();
    let line = refused(&synthetic(&dir.path().join("b.lt"), &[]));
    assert!(line.contains("mine.txt"), "{line}");
    assert!(dir.path().join(".b.lt.partial/store/mine.txt").exists());
}

/// Where a kill between two renames took a store's name, the next look gives it back, even one that only reads.
#[test]
fn a_store_without_its_name_is_found_again() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("a.lt");
    prepared(&synthetic(&out, &[]));
    let work = dir.path().join(".a.lt.partial");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("lock"), "").unwrap();
    fs::rename(&out, work.join("old")).unwrap();
    prepared(&["check", text(&out)]);
    assert_eq!(names(dir.path()), ["a.lt"]);
}
