//! Photographs: sizes that are kept, published lists, work that is interrupted and gone on with.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use glmc_engine::data::Store;
use glmc_engine::data::images::Normalise;
use glmc_engine::data::listing::Listing;
use glmc_engine::data::published::{IMAGENET_LT, INATURALIST_2018, PLACES_LT, Published};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use tempfile::TempDir;

use super::images::{picture, png, turned};
use super::{names, prepare, prepared, refused, text};
use crate::common::signals::heeding;

/// Images of many sizes in two classes, and a list of each subset.
struct Set(TempDir);

impl Set {
    fn new() -> Set {
        let set = Set(TempDir::new().unwrap());
        for (name, width, height) in [
            ("a/wide.png", 60, 40),
            ("a/tall.png", 21, 63),
            ("a/square.png", 30, 30),
            ("b/odd.png", 47, 31),
            ("b/small.png", 9, 8),
        ] {
            set.write(name, &png(&picture(width, height, 1)));
        }
        set.write("b/turned.jpg", &turned(&picture(48, 32, 1), 6));
        set.list("train.txt", "a/wide.png 0\na/tall.png 0\nb/odd.png 1\nb/turned.jpg 1\n");
        set.list("val.txt", "b/small.png 1\n");
        set.list("test.txt", "a/square.png 0\n");
        set
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.at("root").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn list(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn args(&self, out: &Path, more: &[&str]) -> Vec<String> {
        let mut args = vec!["images".to_string()];
        let lists = [("--train-list", "train.txt"), ("--val-list", "val.txt"), ("--test-list", "test.txt")];
        for (flag, name) in lists.into_iter().chain([("--root", "root")]) {
            args.extend([flag.to_string(), text(&self.at(name)).to_string()]);
        }
        args.extend(["--out", text(out)].iter().chain(more).map(|word| word.to_string()));
        args
    }

    fn prepared(&self, more: &[&str]) -> (String, Store) {
        let out = self.at("a.lt");
        let said = prepared(&words(&self.args(&out, &[&["--force"], more].concat())));
        let store = Store::open(&out).unwrap();
        store.check().unwrap();
        (said, store)
    }

    fn refused(&self, more: &[&str]) -> String {
        let line = refused(&words(&self.args(&self.at("bad.lt"), more)));
        assert!(!names(self.0.path()).iter().any(|name| name.contains("bad.lt")), "something was left behind");
        line
    }
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Height and width of each image.
fn sizes(set: &glmc_engine::data::ImageSet) -> Vec<(usize, usize)> {
    (0..set.len()).map(|i| set.image(i).unwrap()).map(|(_, height, width)| (height, width)).collect()
}

#[test]
fn the_aspect_is_kept() {
    let set = Set::new();
    let (said, store) = set.prepared(&["--resize", "short:16"]);
    assert!(said.contains("train.txt, val.txt and test.txt, resize short:16"), "{said}");
    assert!(said.contains("4 training images, 1 validation images, 1 test images"), "{said}");
    // As torchvision's Resize(16) has them; the last one lies on its side in the file.
    assert_eq!(sizes(store.train()), [(16, 24), (48, 16), (16, 24), (24, 16)]);
    assert_eq!(sizes(store.val().unwrap()), [(16, 18)]);
    assert_eq!(sizes(store.test()), [(16, 16)]);
    // A subset of one size needs no index.
    assert!(store.train().index().is_some() && store.test().index().is_none());
    assert!(!set.at("a.lt/test/index.npy").exists() && set.at("a.lt/train/index.npy").exists());
    // The measured mean is that of all pixels, whatever image they are of.
    let pixels = store.train().pixels().unwrap();
    for c in 0..3 {
        let values: Vec<f64> = pixels.iter().skip(c).step_by(3).map(|&v| f64::from(v) / 255.0).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!((mean - store.meta().mean[c]).abs() < 1e-12);
    }
    // The picture is a ramp across and a ramp down: so is what is stored of it.
    let (pixels, height, width) = store.train().image(0).unwrap();
    for (row, line) in pixels.chunks(3 * width).enumerate() {
        for (column, pixel) in line.chunks(3).enumerate() {
            let ramp = |at: usize, of: usize| (at as f64 + 0.5) * 200.0 / of as f64 + 7.0;
            for (found, expected) in pixel.iter().zip([ramp(column, width), ramp(row, height)]) {
                assert!((f64::from(*found) - expected).abs() < 6.0, "{row},{column}: {found} {expected}");
            }
        }
    }
    // The middle of the whole is what --size keeps.
    let (_, squares) = set.prepared(&["--size", "16"]);
    let (square, ..) = squares.train().image(0).unwrap();
    for (line, cut) in pixels.chunks(3 * width).zip(square.chunks(3 * 16)) {
        assert!(line[3 * 4..].iter().zip(cut).all(|(a, b)| a.abs_diff(*b) <= 1));
    }
}

#[test]
fn the_files_size_is_kept() {
    let set = Set::new();
    let (_, store) = set.prepared(&["--resize", "none", "--threads", "1"]);
    assert_eq!(sizes(store.train()), [(40, 60), (63, 21), (31, 47), (48, 32)]);
    assert_eq!(store.train().image(1).unwrap().0, picture(21, 63, 1).into_raw());
    let bytes =
        |store: &Path| ["train", "val", "test"].map(|split| fs::read(store.join(split).join("pixels.npy")).unwrap());
    let one = bytes(&set.at("a.lt"));
    set.prepared(&["--resize", "none", "--threads", "3"]);
    assert!(one == bytes(&set.at("a.lt")));
    let (_, store) = set.prepared(&["--resize", "none", "--exif", "ignore"]);
    assert_eq!(sizes(store.train())[3], (32, 48));
    // Of what is left of them when some are left out.
    set.write("b/odd.png", &png(&picture(47, 31, 1))[..90]);
    set.write("b/small.png", b"no image");
    set.list("val.txt", "b/small.png 1\nb/turned.jpg 1\n");
    let (said, store) = set.prepared(&["--resize", "none", "--skip-broken"]);
    assert!(said.contains("2 of 7 images cannot be decoded and were left out"), "{said}");
    assert_eq!(sizes(store.train()), [(40, 60), (63, 21), (48, 32)]);
    assert_eq!(store.train().image(0).unwrap().0, picture(60, 40, 1).into_raw());
    assert_eq!((store.train().labels(), sizes(store.val().unwrap())), (&[0, 0, 1][..], vec![(48, 32)]));
    // Those that are left may have one size.
    set.list("train.txt", "a/wide.png 0\nb/odd.png 1\na/wide.png 1\n");
    let (_, store) = set.prepared(&["--resize", "none", "--skip-broken"]);
    assert!(store.train().index().is_none() && !set.at("a.lt/train/index.npy").exists());
    assert_eq!(sizes(store.train()), [(40, 60); 2]);
}

#[test]
fn flags_that_contradict_each_other() {
    let set = Set::new();
    for more in [
        &[][..],
        &["--size", "8", "--resize", "none"],
        &["--resize", "short"],
        &["--resize", "short:0"],
        &["--resize", "8"],
        &["--size", "8", "--val-fraction", "0.1"],
    ] {
        assert_eq!(prepare(&words(&set.args(&set.at("bad.lt"), more))).status.code(), Some(2), "{more:?}");
    }
}

#[test]
fn lists_as_they_come() {
    let set = Set::new();
    // Line ends of another system, spaces, a tab, a mark in front, empty lines.
    set.write("a/with two  spaces.png", &png(&picture(20, 20, 3)));
    set.list("train.txt", "\u{feff}a/wide.png\t0\r\n\r\n  a/with two  spaces.png   0 \r\nb/odd.png 1\r\n");
    let (_, store) = set.prepared(&["--resize", "short:16"]);
    assert_eq!(sizes(store.train()), [(16, 24), (16, 16), (16, 24)]);
    let elsewhere = text(&set.at("train.txt")).to_string();
    for (list, line) in [
        ("a/wide.png 0\n../other/b/odd.png 1\n", "line 2: ../other/b/odd.png leads out of"),
        ("a/wide.png 0\na/../b/odd.png 1\n", "line 2: a/../b/odd.png leads out of"),
        (&format!("a/wide.png 0\n{elsewhere} 1\n"), "leads out of"),
    ] {
        set.list("train.txt", list);
        let found = set.refused(&["--resize", "short:16"]);
        assert!(found.contains("train.txt") && found.contains(line), "{found}");
    }
    set.list("train.txt", "a/wide.png 0\nb/odd.png 1\n");
    for (name, list, word) in [
        ("val.txt", "b/small.png 2\n", "has label 2, the training set has 2 classes"),
        ("test.txt", "b/small.png x\n", "line 1: \"x\" is not a label"),
        ("val.txt", "b/gone.png 1\n", "1 of 4 images cannot be decoded"),
    ] {
        let kept = fs::read_to_string(set.at(name)).unwrap();
        set.list(name, list);
        let line = set.refused(&["--resize", "short:16"]);
        assert!(line.contains(word), "{line}");
        set.list(name, &kept);
    }
}

#[test]
fn absurd_sizes_are_named_in_one_line() {
    let set = Set::new();
    for (width, height, resize, word) in [
        (1, 5000, "short:256", "1x5000 would be stored as 256x1280000, more than 178956970 pixels"),
        (5000, 1, "short:16", "5000x1 would be stored as 80000x16, longer than 16384"),
        (20_000, 2, "none", "longer than 16384"),
    ] {
        set.write("a/wide.png", &png(&RgbImage::new(width, height)));
        let line = set.refused(&["--resize", resize]);
        assert!(line.contains("1 of 6 images") && line.contains("a/wide.png") && line.contains(word), "{line}");
        // Such a shape is only refused where it is kept.
        set.prepared(&["--size", "16"]);
    }
    let line = set.refused(&["--resize", "none", "--max-pixels", "1000"]);
    assert!(line.contains("a/tall.png (21x63 is more than 1000 pixels (see --max-pixels))"), "{line}");
    let line = set.refused(&["--resize", "short:2000", "--decode-memory", "10"]);
    assert!(line.contains("more than 10 (see --decode-memory)"), "{line}");
}

#[test]
fn a_disk_with_too_little_room_is_told_before_anything_is_decoded() {
    let set = Set::new();
    set.list("train.txt", &"a/square.png 0\nb/odd.png 1\n".repeat(10_000));
    let line = set.refused(&["--size", "16384", "--decode-memory", "4096"]);
    assert!(
        line.contains("bad.lt: the store takes 15001.5 GiB, its disk has ") && line.contains("B free; make room"),
        "{line}"
    );
}

/// Makes the same store again, which must come out the same, and returns what was said meanwhile.
fn finish(args: &[String], out: &Path, whole: &[(String, Vec<u8>)]) -> String {
    let output = prepare(&words(args));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(super::place::tree(out) == whole, "another store");
    assert_eq!(names(out.parent().unwrap()), [out.file_name().unwrap().to_str().unwrap()]);
    said
}

/// Images that take a while, and the arguments that prepare them.
struct Long {
    set: Set,
    args: Vec<String>,
    out: PathBuf,
    work: PathBuf,
}

impl Long {
    fn new() -> Long {
        let set = Set::new();
        let mut list = String::new();
        for i in 0..6 {
            let mut bytes = Vec::new();
            let image = picture(300 + 10 * i, 400 - 20 * i, i);
            JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&image).unwrap();
            set.write(&format!("c/{i}.jpg"), &bytes);
        }
        (0..2000).for_each(|i| writeln!(list, "c/{}.jpg {}", i % 6, i % 2).unwrap());
        set.list("train.txt", &list);
        fs::create_dir(set.at("place")).unwrap();
        let out = set.at("place/a.lt");
        let args = set.args(&out, &["--resize", "short:32", "--threads", "1"]);
        let work = set.at("place/.a.lt.partial");
        Long { set, args, out, work }
    }

    /// Interrupts a preparation once some images are done.
    fn interrupt(&self, more: &[&str], signal: i32) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_glmc-engine"));
        command.arg("prepare").args(&self.args).args(more).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = heeding(&mut command).spawn().unwrap();
        let (journal, start) = (self.work.join("journal"), Instant::now());
        while fs::metadata(&journal).map_or(0, |stat| stat.len()) < 3000 {
            assert!(start.elapsed() < Duration::from_secs(60), "nothing was noted");
            std::thread::sleep(Duration::from_millis(2));
        }
        // SAFETY: sends a signal to a child that has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        child.wait_with_output().unwrap()
    }
}

#[test]
fn what_was_done_is_not_done_again() {
    let long = Long::new();
    let (args, out) = (&long.args, &long.out);
    prepared(&words(args));
    let whole = super::place::tree(out);
    fs::remove_dir_all(out).unwrap();

    // Ctrl-C says how to go on; by another number of threads it comes out the same.
    let output = long.interrupt(&[], libc::SIGINT);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    let line = said.lines().last().unwrap();
    assert!(line.starts_with("error: stopped with ") && line.contains(" of 2002 images done, kept in "), "{said}");
    assert!(line.ends_with("the same command continues from there"), "{said}");
    assert_eq!(names(&long.set.at("place")), [".a.lt.partial"]);
    let threads: Vec<String> = args.iter().map(|arg| if arg == "1" { "3" } else { arg }.to_string()).collect();
    let said = finish(&threads, out, &whole);
    assert!(said.contains("going on with ") && said.contains(" of 2002 images done"), "{said}");
    fs::remove_dir_all(out).unwrap();

    // A list that cannot be read for a while costs nothing.
    long.interrupt(&[], libc::SIGKILL);
    fs::rename(long.set.at("val.txt"), long.set.at("away")).unwrap();
    refused(&words(args));
    assert_eq!(names(&long.set.at("place")), [".a.lt.partial"]);
    fs::rename(long.set.at("away"), long.set.at("val.txt")).unwrap();
    // Pixels that never reached the disk are decoded again, those before them are not.
    let pixels = long.work.join("store/train/pixels.npy");
    let mut bytes = fs::read(&pixels).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pixels, &bytes).unwrap();
    let said = finish(args, out, &whole);
    assert!(said.contains("going on with ") && said.contains("decoded again"), "{said}");
    fs::remove_dir_all(out).unwrap();

    // Another setting, another list, a changed file: nothing of it is used, and nothing of it stays.
    let changes: [(&str, &dyn Fn() -> Vec<String>); 3] = [
        ("a setting", &|| [&args[..], &["--exif".to_string(), "ignore".to_string()]].concat()),
        ("a list", &|| {
            long.set.list("val.txt", "b/odd.png 1\n");
            args.clone()
        }),
        ("a file", &|| {
            long.set.write("a/square.png", &png(&picture(31, 31, 30)));
            args.clone()
        }),
    ];
    for (what, change) in changes {
        long.interrupt(&[], libc::SIGKILL);
        let changed = change();
        let output = prepare(&words(&changed));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !said.contains("going on"), "{what}: {said}");
        assert_eq!(names(&long.set.at("place")), ["a.lt"], "{what}");
        Store::open(out).unwrap().check().unwrap();
        fs::remove_dir_all(out).unwrap();
    }
    // Another kind of store in its place takes the room.
    long.interrupt(&[], libc::SIGKILL);
    prepared(&["synthetic", "--out", text(out), "--per-class", "8", "--imbalance", "1"]);
    assert_eq!(names(&long.set.at("place")), ["a.lt"]);
}

/// A list in which every class has so many images.
fn listing(counts: &[usize]) -> Listing {
    let labels: Vec<i32> = (0..counts.len()).flat_map(|class| vec![class as i32; counts[class]]).collect();
    Listing { paths: Vec::new(), labels }
}

/// Training counts that have the published sum and extremes.
fn training(published: &Published) -> Vec<usize> {
    let [largest, smallest] = published.extremes;
    let mut counts = vec![smallest; published.classes];
    let mut left = published.images - smallest * published.classes;
    for count in &mut counts {
        let more = left.min(largest - smallest);
        (*count, left) = (*count + more, left - more);
    }
    counts
}

#[test]
fn a_list_that_differs_from_the_published_one_is_refused() {
    use glmc_engine::data::Subset::{Test, Train, Val};
    let file = Path::new("lists/x.txt");
    for published in [&IMAGENET_LT, &PLACES_LT, &INATURALIST_2018] {
        let check =
            |subset, counts: &[usize]| published.check(subset, file, &listing(counts)).map_err(|e| e.to_string());
        let good = training(published);
        let (classes, images) = (published.classes, published.images);
        assert_eq!(check(Train, &good), Ok(()));
        let with = |changes: &[(usize, usize)]| {
            let mut counts = good.clone();
            changes.iter().for_each(|&(class, count)| counts[class] = count);
            counts
        };
        let [largest, smallest] = published.extremes;
        let last = classes - 1;
        for (counts, word) in [
            (with(&[(0, largest - 1)]), format!("lists {} images, must list {images}", images - 1)),
            (with(&[(0, largest + 1), (1, largest - 1)]), format!("its largest class has {} images", largest + 1)),
            (
                with(&[(last, smallest - 1), (last - 1, smallest + 1)]),
                format!("smallest class has {} images", smallest - 1),
            ),
            (with(&[(last, 0), (last - 1, 2 * smallest)]), format!("has no image with label {last}")),
            ([&with(&[(last, 0)])[..], &[smallest]].concat(), format!("has label {classes}, must have 0 to {last}")),
        ] {
            let line = check(Train, &counts).unwrap_err();
            assert!(line.contains(&word) && line.contains(published.title), "{word}: {line}");
        }
        for (subset, each) in [(Val, published.val_each), (Test, published.test_each)] {
            if each == 0 {
                continue;
            }
            let mut counts = vec![each; classes];
            assert_eq!(check(subset, &counts), Ok(()));
            counts[3] += 1;
            assert!(check(subset, &counts).unwrap_err().contains("images, must list"));
            counts[4] -= 1;
            assert!(check(subset, &counts).unwrap_err().contains(&format!("has {} images of class 3", each + 1)));
        }
    }
    assert_eq!(INATURALIST_2018.normalise, Normalise::Inat2018);
}

/// More than a hundred thousand small files, without a special case.
#[test]
fn a_published_set_is_prepared() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("lists")).unwrap();
    for class in 0..365 {
        fs::create_dir_all(at(&format!("root/kind {class}"))).unwrap();
        let image = picture(8, if class == 7 { 10 } else { 8 }, class);
        fs::write(at(&format!("root/kind {class}/x.png")), png(&image)).unwrap();
    }
    let (train, val, test) = PLACES_LT.lists(&at("lists"));
    for (path, counts) in [(train, training(&PLACES_LT)), (val.unwrap(), vec![20; 365]), (test, vec![100; 365])] {
        let listing = listing(&counts);
        let mut lines = String::new();
        listing.labels.iter().for_each(|label| writeln!(lines, "kind {label}/x.png {label}").unwrap());
        fs::write(path, lines).unwrap();
    }
    let (lists, root, out) = (at("lists"), at("root"), at("p.lt"));
    let args = ["places-lt", "--lists", text(&lists), "--root", text(&root), "--out", text(&out)];
    let said = prepared(&[&args[..], &["--resize", "none"]].concat());
    assert!(
        said.contains("Places-LT: images of Places_LT_train.txt, Places_LT_val.txt and Places_LT_test.txt"),
        "{said}"
    );
    assert!(said.contains("62500 training images, 7300 validation images, 36500 test images"), "{said}");
    assert!(said.contains("largest class 4980, smallest 5, imbalance 996.0"), "{said}");
    let store = Store::open(&out).unwrap();
    assert_eq!((store.meta().mean, store.meta().std), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]));
    assert_eq!(store.train().index().unwrap().len(), 62_500);
    assert_eq!(store.meta().class_names[3], "kind 3");
    // A line less, and a list that is not there.
    let train = at("lists/Places_LT_train.txt");
    let lines = fs::read_to_string(&train).unwrap();
    fs::write(&train, lines.split_once('\n').unwrap().1).unwrap();
    let line = refused(&[&args[..], &["--force"]].concat());
    assert!(line.contains("Places_LT_train.txt: lists 62499 images, must list 62500"), "{line}");
    fs::remove_file(&train).unwrap();
    assert!(refused(&[&args[..], &["--force"]].concat()).contains("Places_LT_train.txt: No such file"));
    let line = refused(&["inat2018", "--lists", text(&lists), "--root", text(&root), "--out", text(&at("i.lt"))]);
    assert!(line.contains("iNaturalist18_train.txt: No such file"), "{line}");
    assert_eq!(names(dir.path()), ["lists", "p.lt", "root"]);
}

#[test]
fn drawn_photographs_differ_in_size() {
    let dir = TempDir::new().unwrap();
    let make = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let args = ["--photos", "--per-class", "12", "--test-per-class", "2", "--imbalance", "4", "--seed", "5"];
        prepared(&[&["synthetic", "--out", text(&out)], &args[..], more].concat());
        super::place::tree(&out)
    };
    assert!(make("a.lt", &["--threads", "1"]) == make("b.lt", &["--threads", "3"]));
    let store = Store::open(dir.path().join("a.lt")).unwrap();
    assert_eq!((store.classes(), store.meta().counts[0], store.meta().counts[19]), (20, 12, 3));
    assert_eq!(store.test().len(), 40);
    assert!(store.train().index().is_some());
    let sides: Vec<usize> = sizes(store.train()).into_iter().flat_map(|(height, width)| [height, width]).collect();
    assert!(sides.iter().all(|side| (80..=400).contains(side)), "{sides:?}");
    assert!(sides.iter().max().unwrap() - sides.iter().min().unwrap() > 150, "{sides:?}");
}
