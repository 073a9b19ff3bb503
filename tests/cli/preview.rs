//! `preview`: a sheet of what the network sees, and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};

use crate::place::Place;
use crate::{error, glmc, ok, text};

impl Place {
    /// A store of 8x8 images of three classes.
    fn squares(&self) -> PathBuf {
        let store = self.path("squares.lt");
        let fixed = "prepare synthetic --classes 3 --per-class 12 --imbalance 4 --size 8 --out";
        ok(glmc(&fixed.split(' ').chain([text(&store)]).collect::<Vec<_>>()));
        store
    }

    /// A store of photographs of one colour each, of several sizes.
    fn photographs(&self) -> PathBuf {
        let (root, store) = (self.path("files"), self.path("photos.lt"));
        for class in 0..2u32 {
            let folder = root.join(format!("class {class}"));
            fs::create_dir_all(&folder).expect("a folder");
            for i in 0..8 {
                let image =
                    RgbImage::from_pixel(20 + 7 * i, 40 - 3 * i, Rgb([40 + 20 * i as u8, 200, class as u8 * 250]));
                image.save(folder.join(format!("{i}.png"))).expect("an image");
            }
        }
        let fixed = "prepare images --resize none --test-fraction 0.25 --train-dir";
        ok(glmc(&fixed.split(' ').chain([text(&root), "--out", text(&store)]).collect::<Vec<_>>()));
        store
    }
}

fn preview(store: &Path, out: &Path, more: &[&str]) -> std::process::Output {
    glmc(&[&["preview", text(store), "--out", text(out)][..], more].concat())
}

fn sheet(path: &Path) -> RgbImage {
    image::open(path).expect("a PNG file").to_rgb8()
}

#[test]
fn a_sheet_follows_seed_epoch_and_method() {
    let place = Place::new();
    let store = place.squares();
    let small = ["--samples", "5", "--batch", "4"];
    let made = |name: &str, more: &[&str]| {
        let out = place.path(name);
        let told = ok(preview(&store, &out, &[&small[..], more].concat()));
        (sheet(&out), told)
    };
    let (first, told) = made("first.png", &[]);
    assert!(told.contains("first.png: 5 samples of epoch 1, 2 views each of 8x8"), "{told}");
    assert_eq!(made("again.png", &[]).0, first, "the same bits");
    assert_eq!(made("one_thread.png", &["--threads", "1"]).0, first);
    assert_ne!(made("epoch.png", &["--epoch", "3"]).0, first);
    assert_ne!(made("seed.png", &["--seed", "1"]).0, first);
    let (plain, told) = made("plain.png", &["--method", "ce"]);
    assert!(told.contains("one view each"), "{told}");
    assert!(plain.width() < first.width());
    // Every device shows the same, to a rounding of the shade.
    let (emulated, _) = made("emulator.png", &["--device", "emulator"]);
    assert_eq!(emulated.dimensions(), first.dimensions());
    assert!(emulated.iter().zip(first.iter()).all(|(&a, &b)| a.abs_diff(b) <= 1));
}

#[test]
fn photographs_are_shown_in_their_size() {
    let place = Place::new();
    let store = place.photographs();
    let out = place.path("sheet.png");
    let plain = place.path("plain.toml");
    // Nothing but the crop: the views keep the photographs' colours.
    fs::write(&plain, "size = 32\nmethod = \"ce\"\n[photos]\nkind = \"plain\"\n").expect("a file");
    let told = ok(preview(&store, &out, &["--config", text(&plain), "--samples", "4"]));
    assert!(told.contains("4 samples of epoch 1, one view each of 32x32"), "{told}");
    let sheet = sheet(&out);
    // The first view stands 8 pixels from the corner, enlarged four times.
    let colours: Vec<_> = (0..32).map(|i| sheet.get_pixel(8 + 4 * i, 8 + 4 * i).0).collect();
    assert!(colours.iter().all(|colour| *colour == colours[0]), "{colours:?}");
    let [red, green, blue] = colours[0];
    assert!(green == 200 && (blue == 0 || blue == 250) && (40..=180).contains(&red) && red % 20 == 0, "{colours:?}");
    // With all of them, both mixtures.
    let told = ok(preview(&store, &out, &["--size", "24", "--samples", "3", "--force"]));
    assert!(told.contains("3 samples of epoch 1, 2 views each of 24x24"), "{told}");
}

#[test]
fn what_cannot_be_shown_is_one_line() {
    let place = Place::new();
    let store = place.squares();
    let out = place.path("sheet.png");
    ok(preview(&store, &out, &["--samples", "1"]));
    let before = fs::read(&out).expect("the sheet");
    let line = error(preview(&store, &out, &["--samples", "2"]), 1);
    assert!(line.contains("sheet.png: exists already; --force replaces it"), "{line}");
    assert_eq!(fs::read(&out).expect("the sheet"), before);
    ok(preview(&store, &out, &["--samples", "2", "--force"]));
    assert_ne!(fs::read(&out).expect("the sheet"), before);

    let new = place.path("new.png");
    let stages = place.path("stages.toml");
    fs::write(&stages, "[[stage]]\nepochs = 1\n").expect("a file");
    for (store, out, more, status, says) in [
        (&store, &place.path("none/new.png"), &[][..], 1, "none: no such folder"),
        (&store, &place.path("squares.lt"), &["--force"], 1, "is a folder where --out must name a file"),
        (&store, &PathBuf::from("/dev/full/x.png"), &[], 1, "/dev/full: no such folder"),
        (&place.path("gone.lt"), &new, &[], 1, "no such store"),
        (&store, &new, &["--samples", "0"], 2, "--samples 0: must be 1 to 256"),
        (&store, &new, &["--epoch", "0"], 2, "epochs count from 1"),
        (&store, &new, &["--epoch", "9", "--epochs", "8"], 1, "epoch 9 of a run of 8"),
        (&store, &new, &["--data", "x.lt"], 2, "takes its store without --data"),
        (&store, &new, &["--config", text(&stages)], 1, "has stages"),
        (&store, &new, &["--preset", "cifar10-lt-if100"], 1, "--any-data takes it anyway"),
    ] {
        let line = error(preview(store, out, more), status);
        assert!(line.contains(says), "{line}");
    }
    assert!(!new.exists(), "nothing half-written");
}
