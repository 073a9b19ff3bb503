//! The README's lines of Python.

use std::fs;

use libtest_mimic::{Failed, Trial};

use crate::{Place, glmc, ok, python};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("page: the README's Python classifies a photograph", snippet)]
}

/// The indented lines behind the sentence that announces them.
fn lines(page: &str) -> Option<String> {
    let (_, after) = page.split_once("In Python, with onnxruntime")?;
    let code = after.lines().skip(1).skip_while(|line| !line.starts_with("    "));
    let code: Vec<&str> = code.take_while(|line| line.starts_with("    ")).map(|line| &line[4..]).collect();
    Some(code.join("\n"))
}

fn snippet() -> Result<(), Failed> {
    let place = Place::new();
    let store = place.store(16)?;
    let run = place.train(&store, "--model resnet20")?;
    ok(glmc("export --softmax --out", &[&place.path("model.onnx"), &run]))?;
    image::RgbImage::from_fn(50, 40, |x, y| image::Rgb([x as u8 * 5, y as u8 * 6, 90]))
        .save(place.path("photo.jpg"))?;
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?;
    let code = lines(&page).ok_or("README.md announces no Python")?;
    assert!(code.lines().count() >= 5, "{code}");
    // Pillow reads the photograph there.
    let has_pillow = python().args(["-c", "import PIL"]).output()?.status.success();
    let code = if has_pillow { code } else { return Err("Pillow is missing: tools/requirements-ci.txt has it".into()) };
    let told = ok(python().args(["-c", &code]).current_dir(place.path("")).output()?)?;
    let names: Vec<&str> = told.split_whitespace().collect();
    let share: f64 = names.last().ok_or("nothing is printed")?.parse()?;
    assert!((0.2..=1.0).contains(&share), "the likeliest of five classes: {told}");
    Ok(())
}
