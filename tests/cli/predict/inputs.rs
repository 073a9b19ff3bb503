//! What paths on the command line mean, and what their names may have in them.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::{Place, columns, csv_of, picture, predict};
use crate::{BIN, error, glmc, ok, text};

/// Runs `predict` with text on standard input.
fn piped(run: &Path, folder: &Path, input: &[u8], more: &[&str]) -> Output {
    let mut command = Command::new(BIN);
    command.args(["predict", "--threads", "1", "--checkpoint", text(run), "--format", "csv"]).args(more);
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("writable");
    child.wait_with_output().expect("an end")
}

fn paths(told: &str) -> Vec<String> {
    columns(told, &["path"]).concat()
}

#[test]
fn folders_lists_and_standard_input_name_the_same_files() {
    let place = Place::small();
    let run = place.trained();
    let answers = |told: &str| columns(told, &["index", "predicted", "probability"]);
    let csv = ["--format", "csv"];
    let list = ok(predict(&run, &[&[text(&place.path("bare.txt"))], &csv[..]].concat()));
    assert_eq!(paths(&list)[0], text(&place.path("files/30.png")), "paths of a list are relative to it");
    assert_eq!(columns(&list, &["index"]).concat(), (0..12).map(|i| i.to_string()).collect::<Vec<_>>());
    // Line ends of another system, a mark at the start, empty lines.
    let bare = fs::read_to_string(place.path("bare.txt")).expect("a list");
    fs::write(place.path("crlf.txt"), format!("\u{feff}\r\n{}\r\n", bare.replace('\n', "\r\n"))).expect("a list");
    assert_eq!(ok(predict(&run, &[&[text(&place.path("crlf.txt"))], &csv[..]].concat())), list);
    // Elsewhere, with a root.
    fs::create_dir(place.path("lists")).expect("a folder");
    fs::copy(place.path("bare.txt"), place.path("lists/moved.txt")).expect("a copy");
    let root = place.path("");
    let moved = [text(&place.path("lists/moved.txt")), "--root", text(&root)].map(String::from);
    let moved: Vec<&str> = moved.iter().map(String::as_str).chain(csv).collect();
    assert_eq!(answers(&ok(predict(&run, &moved))), answers(&list));
    // Standard input is relative to where the program runs, or to the root.
    let piped_there = ok(piped(&run, &root, bare.as_bytes(), &["-"]));
    assert_eq!((answers(&piped_there), &paths(&piped_there)[0][..]), (answers(&list), "files/30.png"));
    assert_eq!(
        answers(&ok(piped(&run, Path::new("/"), bare.as_bytes(), &["-", "--root", text(&root)]))),
        answers(&list)
    );
    // A folder is sorted, at every depth; what is no image by its name is passed over and said.
    fs::create_dir(place.path("files/00")).expect("a folder");
    fs::copy(place.path("files/31.jpg"), place.path("files/00/deep.JPEG")).expect("a copy");
    fs::write(place.path("files/notes.md"), "no image").expect("a file");
    let output = predict(&run, &[&[text(&place.path("files"))], &csv[..]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("1 of another kind than images"), "{stderr}");
    let found = paths(&ok(output));
    assert_eq!(found.len(), 43);
    assert!(found[0].ends_with("files/00/deep.JPEG") && found[1].ends_with("files/00.png"), "{found:?}");
    // Several at once, in their order; a file named twice is answered twice.
    let image = place.path("files/35.png");
    let several = [text(&image), text(&place.path("bare.txt")), text(&image)].map(String::from);
    let several: Vec<&str> = several.iter().map(String::as_str).chain(csv).collect();
    let rows = columns(&ok(predict(&run, &several)), &["predicted", "probability", "path"]);
    assert_eq!((rows.len(), &rows[0], &rows[6]), (14, &rows[13], &rows[0]));
}

#[test]
fn any_name_is_one_line() {
    let place = Place::small();
    let run = place.trained();
    let odd = place.path("odd");
    fs::create_dir(&odd).expect("a folder");
    let names: [&[u8]; 6] = [
        b"a, \"b\".png",
        b"back\\slash.png",
        b"caf\xe9.png",
        "d\u{e9}j\u{e0} vu.png".as_bytes(),
        b"two\nlines.png",
        b"  .png",
    ];
    for name in names {
        fs::copy(place.path("files/00.png"), odd.join(OsStr::from_bytes(name))).expect("a copy");
    }
    let mut sorted = names.map(|name| String::from_utf8_lossy(name).replace('\u{fffd}', "\\xe9"));
    sorted.sort();
    let of = |paths: Vec<String>| -> Vec<String> {
        paths.iter().map(|path| path.strip_prefix(&format!("{}/", text(&odd))).expect("a name").into()).collect()
    };
    let told = ok(predict(&run, &[text(&odd), "--format", "csv"]));
    let mut found = of(paths(&told));
    found.sort();
    assert_eq!(found, sorted);
    let told = ok(predict(&run, &[text(&odd), "--format", "jsonl"]));
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut found = of(lines.iter().map(|line| line["path"].as_str().expect("text").into()).collect());
    found.sort();
    assert_eq!(found, sorted);
    assert_eq!((&lines[0]["index"], lines[0]["top"].as_array().map(Vec::len)), (&0.into(), Some(3)));
    assert_eq!(lines[0]["predicted"], lines[0]["top"][0]["class"]);
    // A table is for reading: nothing in it moves the cursor.
    let table = ok(predict(&run, &[text(&odd)]));
    assert!(table.contains("two\\nlines.png") && table.lines().all(|line| !line.contains('\x1b')), "{table}");
    // Through a pipe, where a line is a name whatever bytes it has.
    let told = ok(piped(&run, &odd, b"caf\xe9.png\na, \"b\".png\n", &["-"]));
    assert_eq!(paths(&told), ["caf\\xe9.png", "a, \"b\".png"]);
}

#[test]
fn images_of_any_kind_are_read_as_rgb() {
    let place = Place::small();
    let run = place.trained();
    let folder = place.path("kinds");
    fs::create_dir(&folder).expect("a folder");
    let colours = picture(8, 8, 1, 3);
    colours.save(folder.join("plain.png")).expect("an image");
    let alpha = image::RgbaImage::from_fn(8, 8, |x, y| {
        let [r, g, b] = colours.get_pixel(x, y).0;
        image::Rgba([r, g, b, (x * 30) as u8])
    });
    alpha.save(folder.join("alpha.png")).expect("an image");
    colours.save(folder.join("other.webp")).expect("an image");
    // Of few colours, which a GIF keeps as they are.
    let grey = image::DynamicImage::from(image::DynamicImage::from(colours.clone()).to_luma8()).to_rgb8();
    grey.save(folder.join("zgrey.gif")).expect("an image");
    image::DynamicImage::from(grey).to_luma8().save(folder.join("zgrey.png")).expect("an image");
    picture(1, 1, 0, 1).save(folder.join("zone.png")).expect("an image");
    let rows = columns(&ok(predict(&run, &[text(&folder), "--format", "csv"])), &["predicted", "probability"]);
    assert_eq!(rows.len(), 6);
    assert!(rows[0] == rows[1] && rows[0] == rows[2], "alpha is dropped: {rows:?}");
    assert_eq!(rows[3], rows[4], "grey is repeated");
}

#[test]
fn what_names_no_file_is_one_line() {
    let place = Place::small();
    let run = place.trained();
    let empty = place.path("empty");
    fs::create_dir_all(empty.join("deeper")).expect("a folder");
    fs::write(empty.join("deeper/readme.md"), "").expect("a file");
    fs::write(place.path("none.txt"), "\n\r\n").expect("a list");
    for (path, says) in [
        (empty, "empty: holds no image: no file at any depth is named .jpg"),
        (place.path("none.txt"), "none.txt: names no file"),
        (place.path("gone.txt"), "gone.txt: No such file"),
    ] {
        let out = place.path("out.csv");
        let line = error(predict(&run, &[text(&path), "--out", text(&out)]), 1);
        assert!(line.contains(says), "{line}");
        assert!(!out.exists() && !place.path("out.csv.partial").exists());
    }
    let line = error(piped(&run, &place.path(""), b"", &["-"]), 1);
    assert!(line.contains("standard input: names no file"), "{line}");
    assert!(error(piped(&run, &place.path(""), b"x.png", &["-", "-"]), 2).contains("once only"));
    let line = error(predict(&run, &[text(&place.path("files")), "--root", "."]), 2);
    assert!(line.contains("--root is for lists"), "{line}");
    assert_eq!(glmc(&["predict", "--checkpoint", text(&run)]).status.code(), Some(2), "no path at all");
    // One file is an answer of one line.
    assert_eq!(csv_of(&ok(predict(&run, &[text(&place.path("files/00.png")), "--format", "csv"]))).1.len(), 1);
}
