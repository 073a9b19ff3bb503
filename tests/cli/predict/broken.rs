//! Files that are no images, among those that are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::{Place, columns, csv_of, npy, picture, predict};
use crate::{error, ok, text};

/// A list of good and bad files; returns it, and which of them are bad.
fn mixed(place: &Place) -> (PathBuf, Vec<(usize, &'static str)>) {
    let folder = place.path("mixed");
    fs::create_dir(&folder).expect("a folder");
    let whole = fs::read(place.path("files/00.png")).expect("an image");
    let photo = fs::read(place.path("files/01.jpg")).expect("an image");
    fs::write(folder.join("text.png"), "this is no image").expect("a file");
    fs::write(folder.join("empty.jpg"), "").expect("a file");
    // The header is there, the end is not: seen only when it is decoded.
    fs::write(folder.join("cut.png"), &whole[..whole.len() - 20]).expect("a file");
    fs::write(folder.join("cut.jpg"), &photo[..photo.len() - 40]).expect("a file");
    fs::create_dir(folder.join("folder.png")).expect("a folder");
    picture(300, 200, 0, 1).save(folder.join("huge.png")).expect("an image");
    assert!(Command::new("mkfifo").arg(folder.join("pipe.png")).status().expect("mkfifo").success());
    let good = "../files/02.bmp";
    let names = [
        good,
        "text.png",
        good,
        "empty.jpg",
        "cut.png",
        "cut.jpg",
        good,
        "folder.png",
        "huge.png",
        "pipe.png",
        "gone.png",
        good,
    ];
    let list = folder.join("list.txt");
    fs::write(&list, names.join("\n")).expect("a list");
    let bad = vec![
        (1, "none of JPEG, PNG"),
        (3, "empty"),
        (4, "cut off"),
        (5, "cut off"),
        (7, "is a folder"),
        (8, "300x200 is more than 10000 pixels"),
        (9, "is a FIFO"),
        (10, "No such file"),
    ];
    (list, bad)
}

const LIMIT: [&str; 2] = ["--max-pixels", "10000"];

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_answered() {
    let place = Place::small();
    let run = place.trained();
    let (list, bad) = mixed(&place);
    let good = columns(
        &ok(predict(&run, &[text(&place.path("files/02.bmp")), "--format", "csv"])),
        &["predicted", "name", "probability"],
    );
    // One at a time, all at once, and between: bad ones stand at every border of a batch.
    for batch in ["1", "2", "3", "64"] {
        let (out, logits, features) = (place.path("out.csv"), place.path("l.npy"), place.path("f.npy"));
        let outputs = ["--out", text(&out), "--logits", text(&logits), "--features", text(&features), "--force"];
        let output = predict(&run, &[&[text(&list), "--batch", batch], &LIMIT[..], &outputs].concat());
        let told = stderr(&output);
        let line = error(output, 1);
        assert!(line.contains("8 of 12 files could not be read; the others are done; --skip-broken"), "{line}");
        let failed: Vec<&str> = told.lines().filter(|line| line.starts_with("failed: ")).collect();
        assert_eq!(failed.len(), 8, "{told}");
        let rows = csv_of(&fs::read_to_string(&out).expect("lines")).1;
        assert_eq!(rows.len(), 12);
        let arrays = [npy(&logits), npy(&features)];
        let mut failures = failed.iter();
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(row[0], at.to_string());
            let is_nan = arrays.each_ref().map(|rows| rows[at].iter().all(|value| value.is_nan()));
            match bad.iter().find(|(index, _)| *index == at) {
                Some((_, why)) => {
                    let error = row.last().expect("an error");
                    assert!(error.contains(why), "{row:?}");
                    assert!(row[2..row.len() - 1].iter().all(String::is_empty), "{row:?}");
                    let line = failures.next().expect("a line in the same order");
                    assert!(line.contains(&row[1]) && line.contains(error.as_str()), "{line}");
                    assert_eq!(is_nan, [true; 2]);
                }
                None => {
                    assert_eq!(row[2..5], good[0]);
                    assert_eq!(is_nan, [false; 2]);
                    assert_eq!(row.last().map(String::as_str), Some(""));
                }
            }
        }
    }
}

#[test]
fn broken_files_may_be_no_error() {
    let place = Place::small();
    let run = place.trained();
    let (list, bad) = mixed(&place);
    let skipping = [&[text(&list), "--skip-broken"], &LIMIT[..]].concat();
    let output = predict(&run, &[&skipping[..], &["--format", "jsonl"]].concat());
    assert_eq!(stderr(&output).matches("failed: ").count(), 8);
    let told = ok(output);
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 12);
    for (at, line) in lines.iter().enumerate() {
        let why = bad.iter().find(|(index, _)| *index == at).map(|(_, why)| *why);
        assert_eq!(line["error"].is_string(), why.is_some(), "{line}");
        assert_eq!(line.get("predicted").is_none() && line.get("top").is_none(), why.is_some(), "{line}");
    }
    let table = ok(predict(&run, &skipping));
    assert_eq!(table.lines().filter(|line| line.trim_end().ends_with('-')).count(), 8, "{table}");
    // Where nothing is left, that is an error all the same, and the outputs say what was wrong.
    let (out, logits) = (place.path("none.jsonl"), place.path("none.npy"));
    let text_file = list.with_file_name("text.png");
    let none = [text(&text_file), "--skip-broken", "--out", text(&out), "--logits", text(&logits)];
    let line = error(predict(&run, &none), 1);
    assert!(line.contains("none of 1 files could be read"), "{line}");
    assert!(fs::read_to_string(&out).expect("lines").contains("\"error\":\"no image"));
    assert!(npy(&logits).concat().iter().all(|value| value.is_nan()));
}

#[test]
fn a_file_that_may_not_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::small();
    let run = place.trained();
    let closed = place.path("files/00.png");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).expect("permissions");
    if fs::read(&closed).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    let output = predict(&run, &[text(&place.path("files")), "--format", "csv"]);
    assert!(stderr(&output).contains("files/00.png (Permission denied"), "{}", stderr(&output));
    let lines = csv_of(&String::from_utf8_lossy(&output.stdout)).1;
    assert_eq!((output.status.code(), lines.len()), (Some(1), 42));
}

/// Of photographs, a header says how much room the image takes in a step, and then the image is another.
#[test]
fn photographs_among_broken_ones() {
    let place = Place::photographs();
    let run = place.run("run", &place.store("data.lt", &["--resize", "none"]), &["--size", "12"]);
    let (list, bad) = mixed(&place);
    let answers = |path: &Path, more: &[&str]| {
        let output = predict(&run, &[&[text(path), "--format", "csv"], &LIMIT[..], more].concat());
        columns(&String::from_utf8_lossy(&output.stdout), &["predicted", "probability", "error"])
    };
    let good = answers(&place.path("files/02.bmp"), &[]);
    for batch in ["1", "3", "64"] {
        let rows = answers(&list, &["--batch", batch]);
        for (at, row) in rows.iter().enumerate() {
            match bad.iter().find(|(index, _)| *index == at) {
                Some((_, why)) => assert!(row[2].contains(why) && row[0].is_empty(), "{row:?}"),
                None => assert_eq!(*row, good[0]),
            }
        }
    }
}
