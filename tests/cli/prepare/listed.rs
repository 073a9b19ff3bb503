//! Stores from image files: lists and folders, odd images, odd lists.

use std::fs;
use std::path::{Path, PathBuf};

use glmc_engine::data::Store;
use glmc_engine::data::decode::{Options, Rgb as Decoded, decode as decode_with};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba};
use tempfile::TempDir;

use super::{names, prepare, prepared, refused, text};

fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    decode_with(bytes, &Options::default())
}

/// A smooth picture that JPEG keeps well.
fn picture(width: u32, height: u32, salt: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let ramp = |a: u32, n: u32| (a * 200 / n.max(1) + salt * 7) as u8;
        Rgb([ramp(x, width), ramp(y, height), 128 - (salt % 100) as u8])
    })
}

fn jpeg(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
    bytes
}

/// A tree of `classes` x `each` JPEGs, and a list of it.
fn tree(root: &Path, classes: u32, each: u32) -> String {
    let mut list = String::new();
    for class in 0..classes {
        fs::create_dir_all(root.join(format!("kind {class}"))).unwrap();
        for i in 0..each {
            let name = format!("kind {class}/image {i}.jpg");
            let image = picture(30 + 7 * i, 40 + class, class * 3 + i);
            fs::write(root.join(&name), jpeg(&image.into())).unwrap();
            list.push_str(&format!("{name} {class}\n"));
        }
    }
    list
}

struct Set {
    dir: TempDir,
}

impl Set {
    fn new() -> Set {
        let dir = TempDir::new().unwrap();
        let list = tree(&dir.path().join("root"), 3, 4);
        fs::write(dir.path().join("train.txt"), &list).unwrap();
        fs::write(dir.path().join("test.txt"), list.lines().step_by(2).collect::<Vec<_>>().join("\r\n")).unwrap();
        Set { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn args(&self, out: &str, more: &[&str]) -> Vec<String> {
        let paths = [("--train-list", "train.txt"), ("--test-list", "test.txt"), ("--root", "root"), ("--out", out)];
        let mut args = vec!["images".to_string()];
        for (flag, name) in paths {
            args.extend([flag.to_string(), text(&self.at(name)).to_string()]);
        }
        args.extend(["--size", "24"].map(String::from));
        args.extend(more.iter().map(|s| s.to_string()));
        args
    }

    fn prepared(&self, out: &str, more: &[&str]) -> (String, Store) {
        let args = self.args(out, more);
        let said = prepared(&args.iter().map(String::as_str).collect::<Vec<_>>());
        (said, Store::open(self.at(out)).unwrap())
    }

    fn refused(&self, more: &[&str]) -> String {
        let args = self.args("bad.lt", more);
        let line = refused(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!names(self.dir.path()).iter().any(|name| name.contains("bad.lt")), "something was left behind");
        line
    }
}

#[test]
fn lists_and_folders_give_the_same_arrays() {
    let set = Set::new();
    let (said, listed) = set.prepared("a.lt", &[]);
    assert!(said.contains("12 training images, 6 test images") && said.contains("kind 2"), "{said}");
    listed.check().unwrap();
    assert_eq!(listed.meta().class_names, ["kind 0", "kind 1", "kind 2"]);
    assert_eq!(listed.meta().counts, [4; 3]);
    assert!(listed.meta().split.is_none());
    assert_eq!(listed.train().labels(), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    let (root, out) = (set.at("root"), set.at("b.lt"));
    fs::write(root.join("kind 1/notes.txt"), "not an image").unwrap();
    fs::write(root.join(".hidden"), "").unwrap();
    prepared(&[
        "images",
        "--train-dir",
        text(&root),
        "--test-dir",
        text(&root),
        "--out",
        text(&out),
        "--size",
        "24",
        "--threads",
        "1",
    ]);
    let folders = Store::open(&out).unwrap();
    assert_eq!(listed.train().pixels().unwrap(), folders.train().pixels().unwrap());
    assert_eq!(listed.train().labels(), folders.train().labels());
    assert_eq!(listed.meta().class_names, folders.meta().class_names);
    assert_eq!(listed.meta().mean, folders.meta().mean);
    // What was stored is the picture: the middle of a ramp from 0 to 200 down the rows.
    let (pixels, height, width) = listed.train().image(5).unwrap();
    assert_eq!((height, width), (24, 24));
    let middle = i32::from(pixels[(12 * 24 + 12) * 3 + 1]);
    assert!((middle - (100 + 28 + 4)).abs() < 6, "{middle}");
}

#[test]
fn long_tail_normalisation_and_names() {
    let set = Set::new();
    fs::write(set.at("names.txt"), "ant\nbee\ncat\n").unwrap();
    let names = set.at("names.txt");
    let more = ["--imbalance", "4", "--split", "random", "--normalise", "imagenet", "--class-names", text(&names)];
    let (_, store) = set.prepared("a.lt", &more);
    assert_eq!(store.meta().counts, [4, 2, 1]);
    assert_eq!(store.meta().class_names, ["ant", "bee", "cat"]);
    assert_eq!(store.meta().mean, [0.485, 0.456, 0.406]);
    assert_eq!(store.test().len(), 6);
    let line = set.refused(&["--imbalance", "5"]);
    assert!(line.contains("class 2 would keep 0"), "{line}");
    fs::write(set.at("names.txt"), "ant\nbee\n").unwrap();
    let line = set.refused(&["--class-names", text(&names)]);
    assert!(line.contains("names.txt") && line.contains("2 classes"), "{line}");
}

#[test]
fn every_kind_of_image() {
    let dir = TempDir::new().unwrap();
    let colour = picture(40, 30, 1);
    let dynamic = DynamicImage::from(colour.clone());
    let png = |image: DynamicImage| {
        let path = dir.path().join("x.png");
        image.save(&path).unwrap();
        decode(&fs::read(path).unwrap()).unwrap()
    };
    let same = |image: &Decoded, expected: &RgbImage, limit: u8, what: &str| {
        assert_eq!((image.width as u32, image.height as u32), expected.dimensions(), "{what}");
        let worst = image.pixels.iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= limit, "{what}: {worst}");
    };
    let grey: GrayImage = dynamic.to_luma8();
    let grey_rgb = DynamicImage::from(grey.clone()).to_rgb8();
    same(&png(dynamic.clone()), &colour, 0, "rgb png");
    same(&png(grey.clone().into()), &grey_rgb, 0, "grey png");
    same(&png(dynamic.to_rgb16().into()), &colour, 0, "16-bit rgb png");
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> =
        ImageBuffer::from_fn(40, 30, |x, y| Luma([u16::from(grey.get_pixel(x, y)[0]) * 257]));
    same(&png(deep.into()), &grey_rgb, 0, "16-bit grey png");
    let see_through = ImageBuffer::from_fn(40, 30, |x, y| {
        let Rgb([r, g, b]) = *colour.get_pixel(x, y);
        Rgba([r, g, b, (x * 6) as u8])
    });
    same(&png(DynamicImage::ImageRgba8(see_through)), &colour, 0, "alpha is dropped");
    same(&decode(&jpeg(&dynamic)).unwrap(), &colour, 6, "jpeg");
    same(&decode(&jpeg(&grey.into())).unwrap(), &grey_rgb, 6, "grey jpeg");
    // Zeros after the end, as some cameras write.
    same(&decode(&[&jpeg(&dynamic)[..], &[0; 50]].concat()).unwrap(), &colour, 6, "jpeg with a tail");
}

/// No cut of a file may pass as an image, no changed byte may panic.
#[test]
fn cut_and_changed_images() {
    let dir = TempDir::new().unwrap();
    let dynamic = DynamicImage::from(picture(40, 30, 1));
    let path = dir.path().join("x.png");
    dynamic.save(&path).unwrap();
    for whole in [jpeg(&dynamic), fs::read(path).unwrap()] {
        decode(&whole).unwrap();
        for n in 0..whole.len() {
            decode(&whole[..n]).expect_err(&format!("cut at {n} of {}", whole.len()));
        }
        for i in 0..whole.len() {
            for value in [0, 0xff, whole[i] ^ 0x10] {
                let mut bad = whole.clone();
                bad[i] = value;
                if let Err(what) = decode(&bad) {
                    assert!(!what.contains('\n') && !what.is_empty());
                }
            }
        }
    }
}

#[test]
fn undecodable_files_are_all_named_at_once() {
    let set = Set::new();
    fs::write(set.at("root/kind 0/image 1.jpg"), "this is text").unwrap();
    fs::write(set.at("root/kind 1/image 2.jpg"), "").unwrap();
    fs::remove_file(set.at("root/kind 2/image 3.jpg")).unwrap();
    let whole = fs::read(set.at("root/kind 2/image 0.jpg")).unwrap();
    fs::write(set.at("root/kind 2/image 0.jpg"), &whole[..whole.len() / 2]).unwrap();
    let line = set.refused(&[]);
    for name in [
        "kind 0/image 1.jpg (no image: none of JPEG, PNG",
        "kind 1/image 2.jpg (empty)",
        "kind 2/image 3.jpg",
        "kind 2/image 0.jpg",
    ] {
        assert!(line.contains(name), "{name}: {line}");
    }
    assert!(line.contains("images cannot be decoded"), "{line}");

    // A hundred are counted, twenty named.
    let list: String = (0..100).map(|i| format!("gone{i}.jpg {}\n", i % 3)).collect();
    fs::write(set.at("train.txt"), list).unwrap();
    let line = set.refused(&[]);
    assert_eq!(line.matches("gone").count(), 20, "{line}");
    // 100 of the training list, and of the test list what was broken above.
    assert!(line.contains("of 106 images") && line.contains("more"), "{line}");
}

#[test]
fn odd_lists() {
    let set = Set::new();
    let good = fs::read_to_string(set.at("train.txt")).unwrap();
    for (list, word) in [
        ("", "lists no image"),
        ("\n \n\n", "lists no image"),
        ("kind 0/image 1.jpg\n", "line 1: \"1.jpg\" is not a label"),
        ("a.jpg 0\nb.jpg\n", "line 2: \"b.jpg\" has no label"),
        ("a.jpg 0\nb.jpg -1\n", "line 2: label -1"),
        ("a.jpg 0\nb.jpg 1.5\n", "line 2: \"1.5\" is not a label"),
        ("a.jpg 0\nb.jpg 4294967296\n", "line 2: label 4294967296"),
        ("a.jpg 0\nb.jpg 99999999999999999999\n", "is not a label"),
        ("a.jpg 0\nb.jpg 3\nc.jpg 2\n", "no image has label 1"),
        ("a.jpg 0\nb.jpg 900000\n", "(899999 in all)"),
        ("a.jpg 0\nb.jpg 0\n", "one class"),
    ] {
        fs::write(set.at("train.txt"), list).unwrap();
        let line = set.refused(&[]);
        assert!(line.contains("train.txt") && line.contains(word), "{list:?}: {line}");
        assert!(line.len() < 400, "{line}");
    }
    fs::write(set.at("train.txt"), b"a.jpg 0\n\xff\xfe.jpg 1\n").unwrap();
    assert!(set.refused(&[]).contains("line 2: is not UTF-8"));
    fs::write(set.at("train.txt"), "x".repeat(5_000_000)).unwrap();
    assert!(set.refused(&[]).len() < 400);
    fs::write(set.at("train.txt"), &good).unwrap();
    fs::write(set.at("test.txt"), "kind 0/image 0.jpg 3\n").unwrap();
    let line = set.refused(&[]);
    assert!(line.contains("test.txt") && line.contains("label 3"), "{line}");
    fs::remove_file(set.at("test.txt")).unwrap();
    assert!(set.refused(&[]).contains("test.txt"));
    // A test list without some class is told, not refused; a byte-order mark is nothing.
    fs::write(set.at("test.txt"), "\u{feff}kind 0/image 0.jpg 0\n").unwrap();
    let (said, _) = set.prepared("a.lt", &[]);
    assert!(said.contains("note: no test image has labels 1, 2"), "{said}");
    for size in ["0", "100000"] {
        let args = set.args("bad.lt", &[]);
        let args: Vec<&str> = args.iter().map(|arg| if arg == "24" { size } else { arg }).collect();
        assert!(refused(&args).contains(&format!("size {size}")));
    }
}

#[test]
fn odd_folders_and_flags() {
    let set = Set::new();
    let (root, out) = (set.at("root"), set.at("bad.lt"));
    let run = |train: &Path, test: &Path| {
        refused(&["images", "--train-dir", text(train), "--test-dir", text(test), "--out", text(&out), "--size", "8"])
    };
    let empty = set.at("empty");
    fs::create_dir_all(&empty).unwrap();
    assert!(run(&empty, &root).contains("holds no folder"));
    fs::create_dir_all(empty.join("only")).unwrap();
    assert!(run(&empty, &root).contains("only"));
    fs::write(empty.join("only/a.jpg"), "").unwrap();
    assert!(run(&empty, &root).contains("one class"));
    assert!(run(&root, &empty).contains("class only has no folder"));
    assert!(run(&set.at("nowhere"), &root).contains("nowhere"));
    // Half of one way and half of the other is a usage error.
    for args in [
        &["--train-dir", "a", "--out", "x", "--size", "8"][..],
        &["--train-list", "a", "--test-list", "b", "--out", "x", "--size", "8"],
        &[
            "--train-list",
            "a",
            "--test-list",
            "b",
            "--root",
            "c",
            "--train-dir",
            "d",
            "--test-dir",
            "e",
            "--out",
            "x",
            "--size",
            "8",
        ],
        &["--out", "x", "--size", "8"],
        &["--train-dir", "a", "--test-dir", "b", "--out", "x", "--size", "-8"],
    ] {
        let output = prepare(&[&["images"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
