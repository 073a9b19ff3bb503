//! The kernel cache is never wrong and never in the way: damaged entries, crowded and unwritable folders, several at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use glmc_engine::driver::cache::{Cache, Key};
use glmc_engine::driver::emulator::{Checks, Emulator, Options};
use glmc_engine::driver::{Arg, Driver, KernelSpec, Launch};

fn key(name: &str) -> Key {
    Key::new([name.as_bytes()], "cubin")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn set_age(cache: &Cache, key: &Key, seconds: u64) {
    let file = fs::File::options().append(true).open(cache.folder().unwrap().join(key.file_name())).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn gives_back_what_was_put() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().join("deep/er"), 1 << 20);
    assert_eq!(cache.get(&key("a")), None);
    for content in [&b""[..], b"x", &[7; 100_000]] {
        let path = cache.put(&key("a"), content).unwrap();
        assert_eq!(cache.get(&key("a")).unwrap(), content);
        assert_eq!(cache.get_path(&key("a")).unwrap(), path);
    }
    assert_eq!(files(cache.folder().unwrap()).len(), 1, "no temporary file is left");
}

#[test]
fn keys_differ_where_parts_differ() {
    let of = |parts: &[&str]| Key::new(parts.iter().map(|part| part.as_bytes()), "so");
    assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
    assert_ne!(of(&["ab", "c"]), of(&["abc"]));
    assert_ne!(of(&["ab", ""]), of(&["ab"]));
}

#[test]
fn damaged_entries_count_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), 1 << 20);
    let path = cache.put(&key("a"), &[1; 1000]).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, 39, 40, 41, 500, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(cache.get(&key("a")), None, "truncated to {length}");
    }
    for at in [0, 999, 1000, 1007, 1008, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(&path, &flipped).unwrap();
        assert_eq!(cache.get(&key("a")), None, "bit flipped at {at}");
    }
    cache.put(&key("a"), &[1; 1000]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn entries_under_other_names_count_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), 1 << 20);
    let [a, b] = ["a", "b"].map(|name| cache.put(&key(name), name.as_bytes()).unwrap());
    let aside = folder.path().join("aside");
    fs::rename(&a, &aside).unwrap();
    fs::rename(&b, &a).unwrap();
    fs::rename(&aside, &b).unwrap();
    for name in ["a", "b"] {
        assert_eq!(cache.get(&key(name)), None, "{name}");
        assert_eq!(cache.get_path(&key(name)), None, "{name}");
    }
    cache.put(&key("a"), b"a").unwrap();
    assert_eq!(cache.get(&key("a")).unwrap(), b"a");
}

#[test]
fn unwritable_folders_are_harmless() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be: not even root can write there.
    let blocked = folder.path().join("file");
    fs::write(&blocked, "in the way").unwrap();
    let cache = Cache::at(&blocked, 1 << 20);
    assert_eq!(cache.put(&key("a"), b"x"), None);
    assert_eq!(cache.get(&key("a")), None);
    // The emulator compiles all the same, and leaves nothing behind.
    let driver = Emulator::new(Options { checks: Checks::Fast, cache }).unwrap();
    assert_eq!(run_add_one(&driver), 8);
    drop(driver);
    assert_eq!(files(folder.path()), [blocked]);
}

#[test]
fn the_oldest_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), 3000);
    for (name, age) in [("a", 400), ("b", 300)] {
        cache.put(&key(name), &[0; 900]).unwrap();
        set_age(&cache, &key(name), age);
    }
    // Use makes young: `b` becomes the oldest.
    assert!(cache.get(&key("a")).is_some());
    cache.put(&key("c"), &[0; 900]).unwrap();
    cache.put(&key("d"), &[0; 900]).unwrap();
    assert!(cache.get(&key("b")).is_none());
    assert!(cache.get(&key("a")).is_some() && cache.get(&key("c")).is_some() && cache.get(&key("d")).is_some());
    // What is larger than the limit is kept until the next one comes: it is needed now.
    cache.put(&key("huge"), &[0; 5000]).unwrap();
    assert!(cache.get(&key("huge")).is_some());
    assert_eq!(files(folder.path()).len(), 1);
}

#[test]
fn leftovers_of_crashed_writers_go_and_foreign_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), 10);
    for (name, age) in [("old.tmp", 7200), ("new.tmp", 10), ("notes.txt", 7200)] {
        fs::write(folder.path().join(name), [0; 100]).unwrap();
        let file = fs::File::options().append(true).open(folder.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    cache.put(&key("a"), b"content").unwrap();
    let left: Vec<String> =
        files(folder.path()).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.contains(&"old.tmp".to_string()));
}

#[test]
fn many_writers_and_readers_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let content = |n: usize| vec![n as u8; 10_000 + n];
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let cache = Cache::at(folder.path(), 40_000);
            scope.spawn(move || {
                for round in 0..50 {
                    let n = (thread + round) % 6;
                    let name = format!("entry {n}");
                    if let Some(found) = cache.get(&key(&name)) {
                        assert_eq!(found, content(n));
                    }
                    cache.put(&key(&name), &content(n));
                }
            });
        }
    });
    assert!(files(folder.path()).iter().all(|path| path.extension().is_some_and(|e| e == "cubin")));
}

fn run_add_one(driver: &Emulator) -> u32 {
    let spec =
        KernelSpec::from_text("primitives.cu", "add_one", include_str!("../planted/primitives.cu")).define("TILE", 4);
    let kernel = driver.kernel(&spec).unwrap();
    let data = driver.alloc(4, "data").unwrap();
    driver.upload(data, &7u32.to_ne_bytes()).unwrap();
    driver.launch(kernel, Launch::linear(1, 1), &[Arg::Ptr(data), Arg::U32(1)]).unwrap();
    let mut out = [0; 4];
    driver.download(&mut out, data).unwrap();
    u32::from_ne_bytes(out)
}

#[test]
fn two_emulators_share_a_folder_and_survive_damage() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Emulator::new(Options { checks: Checks::Fast, cache: Cache::at(folder.path(), 1 << 30) }).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(run_add_one(&open()), 8));
        }
    });
    let libraries = files(folder.path());
    assert_eq!(libraries.len(), 1);
    let whole = fs::read(&libraries[0]).unwrap();
    // Replaced, not overwritten: the old image is still mapped.
    fs::remove_file(&libraries[0]).unwrap();
    fs::write(&libraries[0], &whole[..whole.len() / 2]).unwrap();
    assert_eq!(run_add_one(&open()), 8);
    assert_eq!(fs::read(&libraries[0]).unwrap().len(), whole.len(), "the damaged entry was made anew");
}
