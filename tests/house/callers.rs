//! Code that nothing calls goes.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::{Parts, line, words};
use crate::{files, none, text};

/// Functions that only tests, benches or examples call, each with its reason.
const FOR_TESTS: &[(&str, &str)] = &[
    ("check_orders", "the emulator's check that no result depends on the order of threads"),
    ("kernel_files", "that no kernel is without a launch is seen in the tests of the kernels command"),
    ("leaf", "tests of ops give gradients to inputs, which no training step does"),
];

/// The code of `src/` that is compiled for the program.
fn sources() -> Vec<(String, String)> {
    let program =
        files("src/").into_iter().filter(|file| file.has_ending(&["rs"]) && !file.path.ends_with("/tests.rs"));
    program.map(|file| (file.path, text::without_tests(&Parts::of(&file.text).code))).collect()
}

/// Whether a word is called, named by its path, or handed on: a variable or field of the same name is no caller.
fn is_use(before: &str, from: &str, word: &str) -> bool {
    let after = from.trim_start()[word.len()..].trim_start();
    let called = after.starts_with('(') || after.starts_with("::<");
    let handed_on = before.ends_with(['(', ',', '=']) && after.starts_with([')', ',', ';']);
    called || before.ends_with("::") || handed_on
}

#[test]
fn every_public_function_has_a_caller() {
    let sources = sources();
    let mut uses = BTreeSet::<&str>::new();
    let mut public = BTreeMap::<&str, Vec<String>>::new();
    for (path, code) in &sources {
        for (before, word) in words(code) {
            if before.ends_with("fn") {
                let start = before.rfind(['\n', '{', '}', ';', ']']).map_or(0, |at| at + 1);
                if before[start..].trim_start().starts_with("pub") {
                    public.entry(word).or_default().push(format!("{path}:{}", line(code, before.len())));
                }
            } else if is_use(before, &code[before.len()..], word) {
                uses.insert(word);
            }
        }
    }
    let excused: BTreeSet<&str> = FOR_TESTS.iter().map(|(name, _)| *name).collect();
    let unused = |name: &str| !uses.contains(name);
    let mut wrong = Vec::new();
    for (name, places) in public.iter().filter(|(name, _)| unused(name) && !excused.contains(**name)) {
        wrong.push(format!("{}: nothing in src/ calls {name}", places.join(", ")));
    }
    for (name, _) in FOR_TESTS.iter().filter(|(name, _)| !public.contains_key(name) || !unused(name)) {
        wrong.push(format!("tests/house/callers.rs: {name} needs no excuse any more"));
    }
    none(&wrong, "delete it, make it private to its tests, or give its reason in FOR_TESTS (tests/house/callers.rs)");
}
