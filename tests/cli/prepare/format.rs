//! The store's format: what a writer can put in, and what an older one wrote.

use std::fs;
use std::path::Path;

use glmc_engine::data::meta::{FORMAT, Meta};
use glmc_engine::data::pixels::{BLOCK, PixelSource};
use glmc_engine::data::synthetic::{self, SyntheticConfig};
use glmc_engine::data::{Store, StoreWriter, Subset};
use tempfile::TempDir;

fn meta() -> Meta {
    Meta {
        format: FORMAT,
        source: "a test".into(),
        class_names: vec!["a".into(), "b".into()],
        counts: vec![2, 1],
        mean: [0.5; 3],
        std: [0.25; 3],
        split: None,
        seed: None,
        coarse: None,
        prepared: None,
        arrays: Default::default(),
    }
}

fn noise(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| ((i + seed).wrapping_mul(2654435761) >> 13) as u8).collect()
}

#[test]
fn images_of_any_size_in_three_subsets() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.lt");
    let mut writer = StoreWriter::create(&path, false, &[]).unwrap();
    let sizes = [(300, 500, 0), (1, 7, 1), (640, 480, 0)];
    let mut pixels = writer.mixed(Subset::Train, &sizes).unwrap();
    for (i, (height, width, _)) in sizes.into_iter().enumerate() {
        pixels.append(&noise(height * width * 3, i)).unwrap();
    }
    writer.end_split(pixels).unwrap();
    for subset in [Subset::Val, Subset::Test] {
        let mut pixels = writer.split(subset, &[1, 0], 5, 4).unwrap();
        pixels.append(&noise(2 * 5 * 4 * 3, 9)).unwrap();
        writer.end_split(pixels).unwrap();
    }
    writer.finish(meta()).unwrap();
    let store = Store::open(&path).unwrap();
    store.check().unwrap();
    for (i, (height, width, _)) in sizes.into_iter().enumerate() {
        assert_eq!(store.train().image(i).unwrap(), (noise(height * width * 3, i), height, width));
    }
    assert_eq!(store.train().labels(), [0, 1, 0]);
    assert_eq!(store.val().unwrap().pixels().unwrap(), noise(120, 9));
    assert_eq!(Subset::ALL.map(|subset| store.subset(subset).unwrap().len()), [3, 2, 2]);
    // An array with a header like any other, and a row per 256 KiB.
    let blocks = fs::read(path.join("train/blocks.npy")).unwrap();
    let file = fs::read(path.join("train/pixels.npy")).unwrap();
    assert_eq!(blocks.len(), 128 + 32 * file.len().div_ceil(BLOCK));
    assert_eq!(blocks[128 + 32..][..32], blake3::hash(&file[BLOCK..2 * BLOCK]).as_bytes()[..]);
}

/// What this program's first version would have written.
fn as_format_1(path: &Path) {
    let file = path.join("meta.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    meta["format"] = 1.into();
    meta.as_object_mut().unwrap().remove("checksum");
    let arrays = meta["arrays"].as_object_mut().unwrap();
    for subset in ["train", "test"] {
        arrays.remove(&format!("{subset}/blocks.npy")).unwrap();
        fs::remove_file(path.join(subset).join("blocks.npy")).unwrap();
    }
    for (name, array) in arrays {
        let bytes = fs::read(path.join(name)).unwrap();
        let first = bytes.len().min(64 << 10);
        let last = (bytes.len() - first).min(64 << 10);
        let ends = [&bytes[..first], &bytes[bytes.len() - last..]].concat();
        array["ends"] = blake3::hash(&ends).to_hex().to_string().into();
    }
    let body = serde_json::to_string_pretty(&meta).unwrap();
    let body = body.strip_suffix("\n}").unwrap();
    let checksum = blake3::hash(body.as_bytes()).to_hex();
    fs::write(&file, format!("{body},\n  \"checksum\": \"{checksum}\"\n}}\n")).unwrap();
}

#[test]
fn a_store_of_format_1_still_opens_with_its_own_checks() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.lt");
    synthetic::prepare(&path, &SyntheticConfig { per_class: 300, ..SyntheticConfig::default() }).unwrap();
    let whole = Store::open(&path).unwrap().train().pixels().unwrap();
    as_format_1(&path);
    let store = Store::open(&path).unwrap();
    store.check().unwrap();
    assert_eq!(store.train().pixels().unwrap(), whole);
    let file = path.join("train/pixels.npy");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let store = Store::open(&path).unwrap();
    store.train().read(0, &mut vec![0; whole.len()]).unwrap();
    let line = store.check().unwrap_err().to_string();
    assert!(line.contains("train/pixels.npy") && line.contains("damaged"), "{line}");
    bytes[middle] ^= 1;
    bytes[200] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert!(Store::open(&path).unwrap_err().to_string().contains("train/pixels.npy"));
}
