//! The release archive of the program that is tested: what is in it, and that it runs from there.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::BIN;

/// Why the archive cannot be made here, if so.
fn lacking() -> Option<&'static str> {
    let runs = |command: &str, argument: &str| {
        Command::new(command).arg(argument).output().is_ok_and(|output| output.status.success())
    };
    let has_python =
        Command::new("python3").args(["-c", "import tomllib"]).output().is_ok_and(|output| output.status.success());
    match () {
        () if !has_python => Some("python3 of 3.11 or newer"),
        () if !runs("strip", "--version") || !runs("objdump", "--version") => Some("binutils"),
        () => None,
    }
}

#[test]
fn an_archive_holds_all_and_its_program_runs() {
    if let Some(what) = lacking() {
        println!("skipped: no {what}");
        return;
    }
    let place = TempDir::new().expect("a folder");
    let folders = ["a", "b"].map(|name| place.path().join(name));
    fs::copy(BIN, place.path().join("program")).expect("a copy of the program");
    let archives = folders.each_ref().map(|folder| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/release.sh");
        // By its name in the caller's folder, which is none of the project's.
        let name = folder.file_name().expect("a name");
        let mut packing = Command::new("bash");
        packing.current_dir(place.path()).arg(script).args(["--binary", "program"]).arg(name);
        let output = packing.output().expect("bash");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut names: Vec<_> =
            fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        names.sort();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[1].to_string_lossy().ends_with(".tar.gz.sha256"));
        names.swap_remove(0)
    });
    assert!(fs::read(&archives[0]).expect("one") == fs::read(&archives[1]).expect("another"), "the same archive again");

    let unpacked = Command::new("tar").args(["xzf"]).arg(&archives[0]).arg("-C").arg(place.path()).status();
    assert!(unpacked.expect("tar").success());
    let name = archives[0].file_name().expect("a name").to_string_lossy().replace(".tar.gz", "");
    let root = place.path().join(name);
    for file in ["INSTALL", "LICENSE-MIT", "README.md", "share/man/man1/glmc-engine-train.1"] {
        assert!(root.join(file).is_file(), "{file}");
    }
    assert_eq!(fs::read_dir(root.join("share/completions")).expect("completions").count(), 3);
    let install = fs::read_to_string(root.join("INSTALL")).expect("text");
    assert!(install.contains("glibc 2."), "{install}");
    let licences = fs::read_to_string(root.join("THIRD-PARTY-LICENSES.txt")).expect("text");
    assert!(licences.contains("\ncudarc ") && licences.contains("Permission is hereby granted"), "{licences:.300}");

    let bill = fs::read(root.join("sbom.cdx.json")).expect("a bill of materials");
    let bill: Value = serde_json::from_slice(&bill).expect("JSON");
    let references: Vec<&Value> =
        bill["components"].as_array().expect("a list").iter().map(|c| &c["bom-ref"]).collect();
    assert!(references.len() > 100);
    let graph = bill["dependencies"].as_array().expect("a list");
    assert_eq!(graph.len(), references.len() + 1, "and the program");
    for needed in graph.iter().flat_map(|of| of["dependsOn"].as_array().expect("a list")) {
        assert!(references.contains(&needed), "{needed}");
    }
    assert!(!licences.contains("\ncriterion "), "what only tests need is in no program");

    // Elsewhere, with nothing of its sources around.
    let program = root.join("bin/glmc-engine");
    let listed = Command::new(program).args(["train", "--list-presets"]).current_dir("/").output().expect("it starts");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("cifar10-lt-if100"));
}
