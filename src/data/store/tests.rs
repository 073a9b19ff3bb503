use std::fs;

use super::*;

/// Writes an array as format 1 has it, and returns its declaration.
fn array(root: &Path, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> (String, ArrayMeta) {
    let path = root.join(name);
    let bytes = [npy::header(dtype, shape), data.to_vec()].concat();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &bytes).unwrap();
    let ends = Some(end_checksum(&File::open(&path).unwrap(), &path, bytes.len() as u64).unwrap());
    let blake3 = blake3::hash(&bytes).to_hex().to_string();
    (name.to_string(), ArrayMeta { dtype, shape: shape.to_vec(), blake3, ends })
}

/// A store of format 1: three images of different sizes, with this index and this many bytes of pixels in each split.
fn mixed(root: &Path, index: [[i64; 3]; 3], total: usize) -> Result<Store> {
    let labels: Vec<u8> = [0i32, 1, 1].iter().flat_map(|n| n.to_le_bytes()).collect();
    let index: Vec<u8> = index.as_flattened().iter().flat_map(|n| n.to_le_bytes()).collect();
    let pixels: Vec<u8> = (0..total).map(|i| i as u8).collect();
    let mut arrays = std::collections::BTreeMap::new();
    for subset in ["train", "test"] {
        arrays.extend([
            array(root, &format!("{subset}/labels.npy"), Dtype::I32, &[3], &labels),
            array(root, &format!("{subset}/index.npy"), Dtype::I64, &[3, 3], &index),
            array(root, &format!("{subset}/pixels.npy"), Dtype::U8, &[total], &pixels),
        ]);
    }
    let meta = Meta {
        format: 1,
        source: "test".into(),
        class_names: vec!["a".into(), "b".into()],
        counts: vec![1, 2],
        mean: [0.5; 3],
        std: [0.25; 3],
        split: None,
        seed: None,
        coarse: None,
        prepared: None,
        arrays,
    };
    fs::write(root.join("meta.json"), meta.to_text()).unwrap();
    Store::open(root)
}

#[test]
fn images_of_mixed_sizes() {
    let dir = tempfile::TempDir::new().unwrap();
    let store = mixed(dir.path(), [[0, 2, 3], [18, 1, 1], [21, 4, 2]], 45).unwrap();
    store.check().unwrap();
    let train = store.train();
    assert_eq!((train.len(), train.height(), train.width()), (3, 4, 3));
    assert_eq!(train.image(1).unwrap(), (vec![18, 19, 20], 1, 1));
    let (pixels, ..) = train.image(2).unwrap();
    assert_eq!((pixels.len(), pixels[23]), (24, 44));
    assert_eq!(train.index().unwrap()[2], Entry { offset: 21, height: 4, width: 2 });
}

#[test]
fn an_index_that_does_not_tile_the_pixels() {
    let dir = tempfile::TempDir::new().unwrap();
    for (index, total) in [
        ([[0, 2, 3], [18, 1, 1], [21, 4, 2]], 46),
        ([[0, 2, 3], [18, 1, 1], [21, 4, 2]], 44),
        ([[0, 2, 3], [17, 1, 1], [20, 4, 2]], 44),
        ([[0, 2, 3], [18, 0, 1], [18, 4, 2]], 42),
        ([[0, 2, 3], [18, -1, -1], [21, 4, 2]], 45),
        ([[i64::MIN, 2, 3], [18, 1, 1], [21, 4, 2]], 45),
        ([[0, i64::MAX, i64::MAX], [18, 1, 1], [21, 4, 2]], 45),
    ] {
        let line = mixed(dir.path(), index, total).expect_err("it must not open").to_string();
        assert!(line.contains("train/index.npy"), "{index:?}: {line}");
    }
}
