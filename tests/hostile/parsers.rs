//! Arbitrary bytes and damaged files for every parser of the library: none panics, and none takes memory that the file does
//! not account for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use glmc_engine::data::Store;
use glmc_engine::data::listing::{read_list, read_names};
use glmc_engine::data::npy::{self, Dtype};
use glmc_engine::data::pickle::Pickle;
use glmc_engine::train::checkpoint::Checkpoint;
use glmc_engine::verify::Reference;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::common::checkpoints::{header, manifest, with_checksum, with_manifest};
use crate::inputs::Sources;
use crate::program::{Scene, cases};

/// Counts what the current thread has allocated, and the most that it ever had.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has no cells any more, and is not measured.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

// SAFETY: all memory is the system's; counting allocates nothing, as its cells need neither start nor end.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` has at a time.
fn most_of(work: impl FnOnce()) -> usize {
    let before = NOW.get();
    MOST.set(before);
    work();
    (MOST.get() - before) as usize
}

/// What a parser may take besides the bytes of its file: buffers, and structures that stand for a few bytes each.
fn allowed(bytes: usize) -> usize {
    (1 << 20) + 200 * bytes
}

/// One change of a file.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Put(Index, Vec<u8>),
    Cut(Index),
    Remove(Index, usize),
    /// A part of the file once more somewhere else.
    Repeat(Index, Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    // Bytes that mean something to one of the formats, besides arbitrary ones.
    let telling = prop::sample::select(&b"0123456789\"{}[](),:.-eE \n\t\x00\x01\x7f\x80\xff()qhtRcXUTKMJI"[..]);
    prop_oneof![
        4 => (at(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        3 => (at(), vec(prop_oneof![telling, any::<u8>()], 1..10)).prop_map(|(at, bytes)| Change::Put(at, bytes)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), 1..40usize).prop_map(|(at, n)| Change::Remove(at, n)),
        2 => (at(), at(), 1..200usize).prop_map(|(from, to, n)| Change::Repeat(from, to, n)),
    ]
}

fn changed(whole: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for change in changes.iter().filter(|_| !whole.is_empty()) {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        match change {
            Change::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Change::Put(at, new) => {
                let at = at.index(length);
                bytes.splice(at..(at + new.len()).min(length), new.iter().copied());
            }
            Change::Cut(at) => bytes.truncate(at.index(length)),
            Change::Remove(at, n) => {
                let at = at.index(length);
                bytes.drain(at..(at + n).min(length));
            }
            Change::Repeat(from, to, n) => {
                let (from, to) = (from.index(length), to.index(length));
                let part = bytes[from..(from + n).min(length)].to_vec();
                bytes.splice(to..to, part);
            }
        }
    }
    bytes
}

/// Gives `parse` arbitrary bytes and changes of whole files. It says how many bytes it has read, which bound its memory.
fn attack(name: &str, whole: &[Vec<u8>], many: usize, parse: impl Fn(&[u8]) -> usize) {
    let config = Config { cases: many as u32, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    let arbitrary = vec(any::<u8>(), 0..600);
    let files = (prop::sample::select(whole.to_vec()), vec(change(), 1..6));
    let damaged = files.prop_map(|(whole, changes)| changed(&whole, &changes));
    let outcome = runner.run(&prop_oneof![1 => arbitrary, 4 => damaged], |bytes| {
        let mut read = 0;
        let most = most_of(|| read = parse(&bytes));
        prop_assert!(most <= allowed(read), "{most} bytes of memory for {read} of the file");
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    println!("hostile: {name}: {many} cases, none panics");
}

/// As [`attack`], for a parser that reads a file.
fn attack_file(name: &str, path: &Path, whole: &[Vec<u8>], many: usize, parse: impl Fn(&Path)) {
    attack(name, whole, many, |bytes| {
        fs::write(path, bytes).expect("writable");
        parse(path);
        bytes.len()
    });
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(path).expect("a file")
}

#[test]
fn headers_of_arrays() {
    let whole = npy::header(Dtype::U8, &[3, 8, 8, 3]);
    attack("npy header", std::slice::from_ref(&whole), cases(2000, 200_000), |bytes| {
        let fits = npy::check_header(Path::new("x.npy"), bytes, Dtype::U8, &[3, 8, 8, 3]).is_ok();
        assert_eq!(fits, bytes.get(..128) == Some(&whole[..]));
        bytes.len()
    });
}

#[test]
fn pickles() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sources = Sources::new(folder.path());
    // One image keeps the file small, so that changes meet instructions and not pixels.
    crate::archives::ten_pickle(&sources.at("one"), 1, crate::archives::Writer::Python2, true);
    crate::archives::ten_pickle(&sources.at("new"), 1, crate::archives::Writer::Python3, false);
    let names = ["py/batches.meta", "one/batches.meta", "one/data_batch_1", "new/data_batch_2"];
    let mut whole: Vec<Vec<u8>> = names.iter().map(|name| read(sources.at(name))).collect();
    // The instructions without the pixels behind them.
    whole.extend(whole.clone().iter().filter(|file| file.len() > 800).map(|file| file[..400].to_vec()));
    attack("pickle", &whole, cases(3000, 500_000), |bytes| {
        if let Ok(pickle) = Pickle::load(bytes) {
            for key in ["data", "labels", "label_names", "num_cases_per_batch"] {
                let _ = (pickle.integer(key), pickle.strings(key), pickle.labels(key), pickle.matrix(key));
            }
        }
        bytes.len()
    });
}

#[test]
fn lists_and_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sources = Sources::new(folder.path());
    let file = folder.path().join("x");
    let root = PathBuf::from("/a/folder/of/images");
    let list = [read(sources.at("list.txt"))];
    attack_file("list", &file, &list, cases(2000, 200_000), |path| drop(read_list(path, &root)));
    let names = [read(sources.at("names.txt"))];
    attack_file("class names", &file, &names, cases(1000, 100_000), |path| drop(read_names(path, 2)));
}

#[test]
fn meta_data_of_stores_damaged_and_forged() {
    let scene = Scene::new();
    let (store, file) = (scene.store(), scene.store().join("meta.json"));
    let whole = read(&file);
    let open = |_: &Path| drop(Store::open(&store).and_then(|store| store.check()));
    let arrays: usize = ["train", "test"]
        .iter()
        .flat_map(|part| fs::read_dir(store.join(part)).expect("a folder"))
        .map(|entry| entry.expect("an entry").metadata().expect("a file").len() as usize)
        .sum();
    // Changes may cancel out; then the arrays are read as well.
    attack("meta.json", std::slice::from_ref(&whole), cases(1000, 50_000), |bytes| {
        fs::write(&file, bytes).expect("writable");
        open(&file);
        bytes.len() + arrays
    });
    // With a checksum that fits, what it says is believed, until it is looked at.
    let end = whole.windows(12).position(|part| part == b",\n  \"checksu").expect("its last field");
    attack("forged meta.json", &[whole[..end].to_vec()], cases(1000, 50_000), |bytes| {
        fs::write(&file, with_checksum(bytes)).expect("writable");
        open(&file);
        bytes.len() + arrays
    });
    fs::write(&file, &whole).expect("writable");
    Store::open(&store).and_then(|store| store.check()).expect("the store as it was");
}

#[test]
fn checkpoints_and_manifests_damaged_and_forged() {
    let scene = Scene::new();
    let (file, last) = (scene.path("x.safetensors"), scene.whole().join("last.safetensors"));
    let whole = read(&last);
    let header_length = whole.len() - header(&whole).1.len();
    let look = |path: &Path| drop(Checkpoint::read(path));
    // Its header alone, too, where changes are sure to meet it.
    let head = whole[..header_length].to_vec();
    attack_file("checkpoint", &file, &[whole.clone(), head.clone()], cases(300, 20_000), look);
    attack("header of a checkpoint", &[head], cases(500, 50_000), |bytes| {
        let length = (bytes.len().saturating_sub(8) as u64).to_le_bytes();
        let file_bytes = [&length, bytes.get(8..).unwrap_or_default(), &whole[header_length..]].concat();
        fs::write(&file, &file_bytes).expect("writable");
        look(&file);
        file_bytes.len()
    });
    let mut text = manifest(&last);
    text["checksum"] = "".into();
    attack("forged manifest", &[text.to_string().into_bytes()], cases(500, 50_000), |bytes| {
        let forged = with_manifest(&whole, &String::from_utf8_lossy(bytes), 2);
        fs::write(&file, &forged).expect("writable");
        look(&file);
        // The forger's own copies.
        8 * forged.len()
    });
}

#[test]
fn reference_steps() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/step_w2_c7_b3.safetensors");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, whole) = (folder.path().join("x.safetensors"), read(fixture));
    let header_length = whole.len() - header(&whole).1.len();
    let data = &whole[header_length..];
    attack("header of a reference step", &[whole[..header_length].to_vec()], cases(300, 30_000), |bytes| {
        let length = (bytes.len().saturating_sub(8) as u64).to_le_bytes();
        let file_bytes = [&length, bytes.get(8..).unwrap_or_default(), data].concat();
        fs::write(&file, &file_bytes).expect("writable");
        if let Ok(reference) = Reference::open(&file) {
            for step in 0..reference.steps.min(3) {
                let _ = (reference.lambda(step), reference.integers(&format!("step{step}.box"), &[4], 0..=64));
            }
            let _ = reference.floats("param.conv1.weight", &[2, 3, 3, 3]);
        }
        file_bytes.len()
    });
}
