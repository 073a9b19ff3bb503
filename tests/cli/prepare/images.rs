//! Image files of every kind, damaged ones, and what becomes of them.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use glmc_engine::data::Store;
use glmc_engine::data::decode::{Exif, Options, Rgb as Decoded, decode as decode_with, header};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;

use super::{names, prepare, prepared, refused, text};

/// A smooth picture.
pub fn picture(width: u32, height: u32, salt: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let ramp = |a: u32, n: u32| (a * 200 / n.max(1) + salt * 7) as u8;
        Rgb([ramp(x, width), ramp(y, height), 128 - (salt % 100) as u8])
    })
}

pub fn png(image: &RgbImage) -> Vec<u8> {
    file(image, ImageFormat::Png)
}

fn file(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
    bytes
}

fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    decode_with(bytes, &Options::default())
}

const FORMATS: [(ImageFormat, &str, u8); 6] = [
    (ImageFormat::Jpeg, "jpg", 8),
    (ImageFormat::Png, "png", 0),
    (ImageFormat::WebP, "webp", 0),
    (ImageFormat::Gif, "gif", 40),
    (ImageFormat::Bmp, "bmp", 0),
    (ImageFormat::Tiff, "tif", 0),
];

fn worst(image: &Decoded, expected: &RgbImage) -> u8 {
    assert_eq!((image.width as u32, image.height as u32), expected.dimensions());
    image.pixels.iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn every_format_is_decoded_whole_and_refused_cut() {
    let image = picture(40, 30, 1);
    for (format, name, limit) in FORMATS {
        let whole = file(&image, format);
        let decoded = decode(&whole).unwrap();
        assert!(worst(&decoded, &image) <= limit, "{name}");
        let head = header(Cursor::new(&whole), &Options::default()).unwrap();
        assert_eq!((head.width, head.height), (40, 30), "{name}");
        for n in 0..whole.len() {
            // What a cut leaves whole may pass; nothing may be made up.
            match decode(&whole[..n]) {
                Ok(cut) => assert!(
                    matches!(format, ImageFormat::Gif | ImageFormat::Tiff) && cut == decoded,
                    "{name} cut at {n}"
                ),
                Err(what) => assert!(!what.contains('\n') && !what.is_empty(), "{name}: {what}"),
            }
            let _ = header(Cursor::new(&whole[..n]), &Options::default());
        }
        for i in 0..whole.len() {
            for value in [0, 0xff, whole[i] ^ 0x10] {
                let mut bad = whole.clone();
                bad[i] = value;
                let options = Options { max_pixels: 1 << 22, ..Options::default() };
                if let Err(what) = decode_with(&bad, &options) {
                    assert!(!what.contains('\n') && !what.is_empty(), "{name}: {what}");
                }
            }
        }
        // Something after the end is not the image's: a film behind a photograph, zeros.
        for tail in [&[0; 50][..], b"....ftypmp42 and a film", &whole] {
            assert_eq!(decode(&[&whole[..], tail].concat()).as_ref(), Ok(&decoded), "{name}");
        }
    }
}

/// More than any window in which an end marker might be looked for.
#[test]
fn photographs_with_a_film_behind_them_are_taken() {
    let photo = jpeg(&picture(64, 48, 2));
    let film: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let whole = decode(&photo).unwrap();
    assert_eq!(decode(&[&photo[..], &film].concat()), Ok(whole));
    // A cut photograph whose preview has an end marker of its own is still cut.
    let mut preview = b"Exif\0\0".to_vec();
    preview.extend(jpeg(&picture(8, 8, 1)));
    let length = (preview.len() as u16 + 2).to_be_bytes();
    let with_preview = [&photo[..2], &[0xff, 0xe1], &length, &preview, &photo[2..]].concat();
    decode(&with_preview).unwrap();
    let error = decode(&with_preview[..with_preview.len() - 200]).unwrap_err();
    assert!(error.contains("cut off"), "{error}");
}

#[test]
fn a_png_without_its_end_is_cut_off() {
    let whole = png(&picture(40, 30, 1));
    for missing in [1, 4, 8, 12, 13] {
        let error = decode(&whole[..whole.len() - missing]).unwrap_err();
        assert!(error.contains("cut off"), "{missing}: {error}");
    }
}

/// A JPEG that says how it must be turned.
pub fn turned(image: &RgbImage, orientation: u8) -> Vec<u8> {
    let plain = jpeg(image);
    let exif =
        [&b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..], &[orientation, 0, 0, 0, 0, 0, 0, 0]].concat();
    [&plain[..2], &[0xff, 0xe1, 0, exif.len() as u8 + 2], &exif, &plain[2..]].concat()
}

#[test]
fn orientation_is_honoured_or_ignored() {
    let image = picture(48, 32, 1);
    let upright = decode(&jpeg(&image)).unwrap();
    for orientation in 1..=8 {
        let file = turned(&image, orientation);
        let mut expected = DynamicImage::from(RgbImage::from_raw(48, 32, upright.pixels.clone()).unwrap());
        expected.apply_orientation(image::metadata::Orientation::from_exif(orientation).unwrap());
        assert_eq!(worst(&decode(&file).unwrap(), &expected.into_rgb8()), 0, "{orientation}");
        let options = Options { exif: Exif::Ignore, ..Options::default() };
        assert_eq!(decode_with(&file, &options).as_ref(), Ok(&upright), "{orientation}");
    }
    // And by the program: a picture that is dark above, stored upside down.
    let dir = TempDir::new().unwrap();
    let dark_above = RgbImage::from_fn(16, 16, |_, y| if y < 8 { Rgb([10; 3]) } else { Rgb([240; 3]) });
    for class in ["a", "b"] {
        fs::create_dir_all(dir.path().join("root").join(class)).unwrap();
        fs::write(dir.path().join("root").join(class).join("x.jpg"), turned(&dark_above, 3)).unwrap();
    }
    let root = dir.path().join("root");
    let first = |more: &[&str]| {
        let out = dir.path().join("a.lt");
        let args = ["images", "--train-dir", text(&root), "--test-dir", text(&root), "--size", "16", "--force"];
        prepared(&[&args[..], &["--out", text(&out)], more].concat());
        let pixels = fs::read(out.join("train/pixels.npy")).unwrap();
        pixels[128]
    };
    assert!(first(&[]) > 200);
    assert!(first(&["--exif", "ignore"]) < 50);
}

/// A folder with a folder per class, `each` images in each of three.
struct Photos {
    dir: TempDir,
}

impl Photos {
    fn new(each: u32) -> Photos {
        let dir = TempDir::new().unwrap();
        for class in 0..3 {
            let folder = dir.path().join(format!("root/kind {class}"));
            fs::create_dir_all(&folder).unwrap();
            for i in 0..each {
                let (format, end, _) = FORMATS[i as usize % FORMATS.len()];
                fs::write(folder.join(format!("{i:02}.{end}")), file(&picture(30, 24, class * 50 + i), format))
                    .unwrap();
            }
        }
        Photos { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn args<'a>(&self, root: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        [&["images", "--train-dir", text(root), "--size", "16", "--force", "--out", text(out)], more].concat()
    }
}

fn labels(store: &Store, class: i32) -> [usize; 3] {
    let count = |labels: &[i32]| labels.iter().filter(|&&label| label == class).count();
    let val = store.val().map_or(0, |val| count(val.labels()));
    [count(store.train().labels()), val, count(store.test().labels())]
}

#[test]
fn shares_are_held_out_by_seed() {
    let photos = Photos::new(20);
    let (root, out) = (photos.at("root"), photos.at("a.lt"));
    let make = |more: &[&str]| {
        let said = prepared(&photos.args(&root, &out, more));
        let store = Store::open(&out).unwrap();
        store.check().unwrap();
        let bytes = ["train", "val", "test"].map(|split| fs::read(out.join(split).join("pixels.npy")).ok());
        (said, store, bytes)
    };
    let (said, store, bytes) = make(&["--test-fraction", "0.25", "--val-fraction", "0.1"]);
    assert!(said.contains("39 training images, 6 validation images, 15 test images"), "{said}");
    assert!(said.contains("test fraction 0.25 by seed 0") && !said.contains("warning"), "{said}");
    assert_eq!([0, 1, 2].map(|class| labels(&store, class)), [[13, 2, 5]; 3]);
    assert!(make(&["--test-fraction", "0.25", "--val-fraction", "0.1"]).2 == bytes);
    assert!(make(&["--test-fraction", "0.25", "--val-fraction", "0.1", "--seed", "1"]).2 != bytes);
    // The test images do not depend on whether others are held out for validation.
    assert!(make(&["--test-fraction", "0.25"]).2[2] == bytes[2]);
    // A long tail is cut from what is left for training.
    let (_, store, _) = make(&["--test-fraction", "0.2", "--imbalance", "4", "--split", "random"]);
    assert_eq!([0, 1, 2].map(|class| labels(&store, class)), [[16, 0, 4], [8, 0, 4], [4, 0, 4]]);
    // From a list, and beside a test set of its own.
    let list: String =
        (0..60).map(|i| format!("kind {0}/{1:02}.{2} {0}\n", i % 3, i / 3, FORMATS[i / 3 % 6].1)).collect();
    fs::write(photos.at("all.txt"), list).unwrap();
    let list = photos.at("all.txt");
    let lists =
        ["images", "--train-list", text(&list), "--root", text(&root), "--size", "16", "--force", "--out", text(&out)];
    let said = prepared(&[&lists[..], &["--test-fraction", "0.5"]].concat());
    assert!(said.contains("30 training images, 30 test images"), "{said}");
    let said = prepared(&[&lists[..], &["--test-list", text(&list), "--val-fraction", "0.5"]].concat());
    assert!(said.contains("30 training images, 30 validation images, 60 test images"), "{said}");

    for (flag, value) in
        [("--test-fraction", "0"), ("--test-fraction", "1"), ("--test-fraction", "-0.5"), ("--test-fraction", "nan")]
    {
        let line = refused(&photos.args(&root, &out, &[flag, value]));
        assert!(line.contains("test-fraction"), "{line}");
    }
    let line = refused(&photos.args(&root, &out, &["--test-fraction", "0.6", "--val-fraction", "0.4"]));
    assert!(line.contains("leave nothing"), "{line}");
    for more in [&[][..], &["--val-fraction", "0.1"], &["--test-fraction", "0.5", "--test-dir", text(&root)]] {
        assert_eq!(prepare(&photos.args(&root, &out, more)).status.code(), Some(2), "{more:?}");
    }
}

#[test]
fn small_classes_keep_an_image_for_training() {
    let photos = Photos::new(1);
    let (root, out) = (photos.at("root"), photos.at("a.lt"));
    let line = refused(&photos.args(&root, &out, &["--test-fraction", "0.5"]));
    assert!(line.contains("too few images"), "{line}");
    fs::write(root.join("kind 1/second.png"), png(&picture(9, 9, 9))).unwrap();
    let said = prepared(&photos.args(&root, &out, &["--test-fraction", "0.1"]));
    assert!(said.contains("3 training images, 1 test images"), "{said}");
    assert!(said.contains("note: 2 class(es) are too small to give test images"), "{said}");
}

#[test]
fn what_is_passed_over_is_told() {
    let photos = Photos::new(2);
    let (root, out) = (photos.at("root"), photos.at("a.lt"));
    for (name, content) in [
        ("kind 0/readme.txt", ""),
        ("kind 0/Thumbs.db", ""),
        ("kind 1/.DS_Store", ""),
        ("kind 2/night/dark.jpg", ""),
        ("kind 2/night/late/black.PNG", ""),
        ("index.html", ""),
    ] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), content).unwrap();
    }
    let said = prepared(&photos.args(&root, &out, &["--test-fraction", "0.5"]));
    for word in [
        "2 in subfolders of a class folder (as ",
        "night/dark.jpg",
        "2 of another kind than images (as ",
        "1 hidden (as ",
        "1 beside the class folders (as ",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    fs::create_dir_all(root.join("only deep/er")).unwrap();
    fs::write(root.join("only deep/er/x.jpg"), "").unwrap();
    let line = refused(&photos.args(&root, &out, &["--test-fraction", "0.5"]));
    assert!(line.contains("only deep") && line.contains("the 1 in subfolders are not looked at"), "{line}");
}

#[test]
fn a_path_with_two_labels_and_one_listed_twice_are_told() {
    let photos = Photos::new(2);
    let (root, out) = (photos.at("root"), photos.at("a.lt"));
    let list = photos.at("l.txt");
    fs::write(&list, "kind 0/00.jpg 0\nkind 1/00.jpg 1\nkind 0/00.jpg 1\nkind 1/01.png 1\nkind 1/01.png 1\n").unwrap();
    let args = ["images", "--train-list", text(&list), "--root", text(&root), "--size", "8", "--out", text(&out)];
    let said = prepared(&[&args[..], &["--test-list", text(&list)]].concat());
    assert!(said.contains("1 image(s) again with another label") && said.contains("(0 and 1)"), "{said}");
    assert!(said.contains("1 image(s) twice, the first is") && said.contains("kind 1/01.png"), "{said}");
}

/// By the same path, by a link, and as a copy under another name.
#[test]
fn images_that_train_and_test_share_are_warned_of() {
    let photos = Photos::new(3);
    let (root, out, test) = (photos.at("root"), photos.at("a.lt"), photos.at("test"));
    let said = prepared(&photos.args(&root, &out, &["--test-dir", text(&root)]));
    assert!(said.contains("warning: 9 of 9 test images are training images too"), "{said}");
    for class in 0..3 {
        fs::create_dir_all(test.join(format!("kind {class}"))).unwrap();
        fs::write(test.join(format!("kind {class}/new.png")), png(&picture(20, 20, 90 + class))).unwrap();
    }
    let said = prepared(&photos.args(&root, &out, &["--test-dir", text(&test)]));
    assert!(!said.contains("warning"), "{said}");
    fs::copy(root.join("kind 1/01.png"), test.join("kind 2/renamed.png")).unwrap();
    std::os::unix::fs::symlink(root.join("kind 0/00.jpg"), test.join("kind 0/link.jpg")).unwrap();
    let said = prepared(&photos.args(&root, &out, &["--test-dir", text(&test)]));
    assert!(said.contains("warning: 2 of 5 test images") && said.contains("link.jpg"), "{said}");
}

#[test]
fn broken_files_are_left_out_on_request_and_named() {
    let photos = Photos::new(6);
    let (root, out) = (photos.at("root"), photos.at("a.lt"));
    let args = |more: &[&'static str]| -> Vec<String> {
        photos.args(&root, &out, &[&["--test-fraction", "0.34"], more].concat()).iter().map(|s| s.to_string()).collect()
    };
    let run = |more: &[&'static str]| {
        let args = args(more);
        prepare(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(run(&[]).status.success());
    // Without a header, and damaged behind it.
    fs::write(root.join("kind 0/02.webp"), "not an image").unwrap();
    for (name, keep) in [("kind 1/00.jpg", 400), ("kind 1/01.png", 120), ("kind 2/04.bmp", 1000)] {
        let whole = fs::read(root.join(name)).unwrap();
        assert!(whole.len() > keep + 100, "{name}: {}", whole.len());
        fs::write(root.join(name), &whole[..keep]).unwrap();
    }
    let broken = ["kind 0/02.webp", "kind 1/00.jpg", "kind 1/01.png", "kind 2/04.bmp"];
    let output = run(&[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--skip-broken") && stderr.contains("02.webp"), "{stderr}");
    let output = run(&["--skip-broken", "--threads", "1"]);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stderr}");
    let named: Vec<&str> = stderr.lines().filter(|line| line.starts_with("left out: ")).collect();
    assert_eq!(named.len(), 4, "{stderr}");
    for name in broken {
        assert!(named.iter().any(|line| line.contains(name)), "{name}: {stderr}");
    }
    assert!(stdout.contains("note: 4 of 18 images cannot be decoded and were left out"), "{stdout}");
    let store = Store::open(&out).unwrap();
    store.check().unwrap();
    assert_eq!(store.train().len() + store.test().len(), 14);
    let bytes = ["train/pixels.npy", "test/pixels.npy"].map(|name| fs::read(out.join(name)).unwrap());
    assert!(run(&["--skip-broken", "--threads", "3"]).status.success());
    assert!(bytes == ["train/pixels.npy", "test/pixels.npy"].map(|name| fs::read(out.join(name)).unwrap()));
    // The pixels are those of the files that are left, in their order: the same as of a folder that never had the others.
    for name in broken {
        fs::remove_file(root.join(name)).unwrap();
    }
    let whole = prepared(&photos.args(&root, &photos.at("b.lt"), &["--test-dir", text(&root)]));
    assert!(whole.contains("14 training images, 14 test images"), "{whole}");
    let with_gaps = photos.at("c.lt");
    fs::write(root.join("kind 1/00.jpg"), &jpeg(&picture(30, 24, 1))[..400]).unwrap();
    prepared(&photos.args(&root, &with_gaps, &["--test-dir", text(&root), "--skip-broken"]));
    for name in ["train/pixels.npy", "train/labels.npy", "test/pixels.npy"] {
        assert!(fs::read(with_gaps.join(name)).unwrap() == fs::read(photos.at("b.lt").join(name)).unwrap(), "{name}");
    }
    // A class of which nothing is left.
    for name in names(&root.join("kind 2")) {
        fs::write(root.join("kind 2").join(name), "gone").unwrap();
    }
    let output = run(&["--skip-broken"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("no training image of class 2 (kind 2) is left"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

/// All headers are read before any image is decoded: what a header shows is told at once, and damage behind it is not looked for.
#[test]
fn headers_are_checked_first() {
    let photos = Photos::new(6);
    let (root, out) = (photos.at("root"), photos.at("a.lt"));
    let first = root.join("kind 0/01.png");
    let whole = fs::read(&first).unwrap();
    fs::write(&first, &whole[..120]).unwrap();
    fs::write(root.join("kind 2/05.tif"), "no image").unwrap();
    let line = refused(&photos.args(&root, &out, &["--test-dir", text(&root)]));
    assert!(line.contains("2 of 36 images") && line.contains("05.tif") && !line.contains("01.png"), "{line}");
}
