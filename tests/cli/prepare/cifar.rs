//! CIFAR archives in every layout, and broken ones.

use std::fs;
use std::path::Path;

use glmc_engine::data::Store;
use glmc_engine::data::longtail::Pick;
use tempfile::TempDir;

use super::archives::{self, Writer};
use super::{FILES, names, prepare, prepared, refused, text};

/// All bytes of a store.
fn bytes(store: &Path) -> Vec<Vec<u8>> {
    FILES.iter().map(|file| fs::read(store.join(file)).unwrap()).collect()
}

#[test]
fn every_layout_of_cifar10_gives_the_same_store() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    archives::ten_binary(&at("bin"), 300);
    archives::ten_pickle(&at("py2"), 300, Writer::Python2, false);
    archives::ten_pickle(&at("py3"), 300, Writer::Python3, false);
    archives::ten_pickle(&at("fortran"), 300, Writer::Python2, true);
    // The folder above the archive's own folder will do too.
    archives::ten_pickle(&at("above").join("cifar-10-batches-py"), 300, Writer::Python2, false);
    let sources = ["bin", "py2", "py3", "fortran", "above"];
    let stores = sources.map(|source| {
        let out = at(&format!("{source}.lt"));
        let said = prepared(&[
            "cifar10",
            "--source",
            text(&at(source)),
            "--out",
            text(&out),
            "--imbalance",
            "10",
            "--any-size",
        ]);
        assert!(said.contains("airplane") && said.contains("imbalance 10.0"), "{said}");
        bytes(&out)
    });
    for (store, source) in stores.iter().zip(sources) {
        assert!(*store == stores[0], "{source} differs from bin");
    }

    let store = Store::open(at("bin.lt")).unwrap();
    store.check().unwrap();
    let meta = store.meta();
    assert_eq!(meta.counts, [150, 116, 89, 69, 53, 41, 32, 25, 19, 15]);
    assert_eq!(meta.mean, [0.49139968, 0.48215827, 0.44653124]);
    assert_eq!(meta.std, [0.24703233, 0.24348505, 0.26158768]);
    assert_eq!(meta.class_names, archives::TEN);
    assert_eq!((store.test().len(), store.test().height(), store.test().width()), (300, 32, 32));
    // The test set is in the order of the file, planes interleaved.
    let original = archives::batch(300, 10, 99);
    for i in [0, 7, 299] {
        let (pixels, _, _) = store.test().image(i).unwrap();
        let planes = &original.pixels[i * 3072..][..3072];
        assert_eq!(store.test().labels()[i], i32::from(original.labels[i]));
        assert!((0..1024).all(|p| (0..3).all(|c| pixels[p * 3 + c] == planes[c * 1024 + p])), "image {i}");
    }
}

#[test]
fn every_layout_of_cifar100_gives_the_same_store() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    archives::hundred_binary(&at("bin"), 1000);
    archives::hundred_pickle(&at("py2"), 1000, Writer::Python2);
    archives::hundred_pickle(&at("py3"), 1000, Writer::Python3);
    let stores = ["bin", "py2", "py3"].map(|source| {
        let out = at(&format!("{source}.lt"));
        prepared(&[
            "cifar100",
            "--source",
            text(&at(source)),
            "--out",
            text(&out),
            "--imbalance",
            "5",
            "--profile",
            "step",
            "--any-size",
        ]);
        bytes(&out)
    });
    assert!(stores[1] == stores[0] && stores[2] == stores[0]);
    let store = Store::open(at("bin.lt")).unwrap();
    let (fine, coarse) = archives::hundred_names();
    assert_eq!(store.meta().class_names, fine);
    let superclasses = store.meta().coarse.as_ref().unwrap();
    assert_eq!(superclasses.names, coarse);
    assert_eq!(superclasses.of_class, (0..100).map(|c| c / 5).collect::<Vec<_>>());
    assert_eq!(store.meta().mean, [0.4914, 0.4822, 0.4465]);
    assert_eq!(store.meta().std, [0.2023, 0.1994, 0.2010]);
    assert_eq!((store.meta().counts[0], store.meta().counts[99], store.train().len()), (10, 2, 600));
}

#[test]
fn balanced_and_random_splits() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    archives::ten_binary(&at("bin"), 20);
    let source = at("bin");
    let make = |name: &str, more: &[&str]| {
        let out = at(name);
        prepared(&[&["cifar10", "--any-size", "--source", text(&source), "--out", text(&out)], more].concat());
        Store::open(out).unwrap()
    };
    assert_eq!(make("a.lt", &["--imbalance", "1"]).meta().counts, [10; 10]);
    let [b, c, d] = [("b.lt", "3"), ("c.lt", "3"), ("d.lt", "4")]
        .map(|(name, seed)| make(name, &["--imbalance", "10", "--split", "random", "--seed", seed]));
    assert_eq!(b.train().pixels().unwrap(), c.train().pixels().unwrap());
    assert_ne!(b.train().pixels().unwrap(), d.train().pixels().unwrap());
    // The authors' own draw is another, and has a seed of its own unless another is given.
    let rule = |store: &Store| store.meta().split.expect("a rule");
    let authors = ["--imbalance", "10", "--split", "glmc"];
    let [ldam, glmc] = [("e.lt", &authors[..2]), ("f.lt", &authors)].map(|(name, more)| make(name, more));
    assert_eq!([&ldam, &glmc].map(|s| (rule(s).split, rule(s).seed)), [(Pick::Ldam, 0), (Pick::Glmc, 3407)]);
    assert_ne!(ldam.train().pixels().unwrap(), glmc.train().pixels().unwrap());
    let seeded = make("g.lt", &[&authors[..], &["--seed", "0"]].concat());
    assert_eq!((rule(&seeded).seed, seeded.train().pixels().unwrap()), (0, ldam.train().pixels().unwrap()));
    let line = refused(
        &[
            &["cifar10", "--any-size", "--source", text(&source), "--out", text(&at("x.lt")), "--seed", "4294967296"],
            &authors[..],
        ]
        .concat(),
    );
    assert!(line.contains("the glmc split takes seeds of 32 bits (3407"), "{line}");
    for bad in ["0.5", "nan", "-3", "inf", "1000"] {
        let out = at("x.lt");
        let args = ["cifar10", "--any-size", "--source", text(&source), "--out", text(&out), "--imbalance", bad];
        let error = refused(&args);
        assert!(error.contains("imbalance"), "{error}");
    }
    assert_eq!(names(dir.path()), ["a.lt", "b.lt", "bin", "c.lt", "d.lt", "e.lt", "f.lt", "g.lt"]);
}

/// Each file of each layout cut off, emptied and removed: one line that names the file.
#[test]
fn broken_archives_are_named() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    archives::ten_binary(&at("ten_bin"), 20);
    archives::ten_pickle(&at("ten_py2"), 20, Writer::Python2, false);
    archives::ten_pickle(&at("ten_py3"), 20, Writer::Python3, false);
    archives::hundred_binary(&at("hundred_bin"), 200);
    archives::hundred_pickle(&at("hundred_py"), 200, Writer::Python2);
    let out = at("x.lt");
    for folder in ["ten_bin", "ten_py2", "ten_py3", "hundred_bin", "hundred_py"] {
        let set = if folder.starts_with("ten") { "cifar10" } else { "cifar100" };
        let args = ["--imbalance", "1", "--any-size", "--source", text(&at(folder)), "--out", text(&out), "--force"]
            .map(String::from);
        let args: Vec<&str> = [set].into_iter().chain(args.iter().map(String::as_str)).collect();
        for file in names(&at(folder)) {
            let path = at(folder).join(&file);
            let whole = fs::read(&path).unwrap();
            for content in [&whole[..whole.len() * 2 / 3], &whole[..whole.len() - 20], &[], b"\x00\xff nonsense \x80"] {
                fs::write(&path, content).unwrap();
                let error = refused(&args);
                assert!(error.contains(&file), "{folder}/{file}, {} bytes: {error}", content.len());
            }
            fs::remove_file(&path).unwrap();
            let error = refused(&args);
            assert!(error.contains(&file), "{folder}/{file} removed: {error}");
            fs::write(&path, &whole).unwrap();
        }
        prepared(&args);
    }
    let error = refused(&["cifar100", "--source", text(&at("ten_bin")), "--out", text(&at("y.lt"))]);
    assert!(error.contains("holds no cifar100"), "{error}");
    let error = refused(&["cifar10", "--source", text(&at("nowhere")), "--out", text(&at("y.lt"))]);
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn labels_out_of_range_and_batches_of_unequal_length() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("bin");
    archives::ten_binary(&source, 20);
    let out = dir.path().join("x.lt");
    let args = ["cifar10", "--any-size", "--source", text(&source), "--out", text(&out), "--imbalance", "1"];
    let path = source.join("data_batch_3.bin");
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[3073 * 4] = 10;
    fs::write(&path, &bad).unwrap();
    let error = refused(&args);
    assert!(error.contains("data_batch_3.bin") && error.contains("image 4 has label 10"), "{error}");
    fs::write(&path, &good[..3073 * 19]).unwrap();
    let error = refused(&args);
    assert!(error.contains("data_batch_3.bin") && error.contains("has 19 images"), "{error}");
}

/// Every single changed byte of a pickle either changes nothing that matters or is one error; none is a panic.
#[test]
fn no_changed_byte_of_a_pickle_is_a_panic() {
    use glmc_engine::data::pickle::Pickle;
    let dir = TempDir::new().unwrap();
    for writer in [Writer::Python2, Writer::Python3] {
        let folder = dir.path().join(if writer == Writer::Python2 { "2" } else { "3" });
        archives::hundred_pickle(&folder, 100, writer);
        let meta = fs::read(folder.join("meta")).unwrap();
        let train = fs::read(folder.join("train")).unwrap();
        for (file, limit) in [(&meta, meta.len()), (&train, 2500)] {
            let mut errors = 0;
            for i in (0..limit).step_by(if limit < 2500 { 1 } else { 7 }).chain(file.len() - 60..file.len()) {
                for value in [0, 0xff, file[i] ^ 1, b'(', b'R', b'b', b'.', b'}'] {
                    let mut bad = file.clone();
                    bad[i] = value;
                    let Ok(pickle) = Pickle::load(&bad) else {
                        errors += 1;
                        continue;
                    };
                    let _ = (pickle.strings("fine_label_names"), pickle.labels("fine_labels"), pickle.matrix("data"));
                    let _ = pickle.integer("num_cases_per_batch");
                }
                if i % 8 == 0 {
                    assert!(Pickle::load(&file[..i]).is_err(), "cut at {i}");
                }
            }
            assert!(errors > 500, "{errors} errors");
        }
    }
}

#[test]
fn pickles_that_name_other_functions_are_refused() {
    use glmc_engine::data::pickle::Pickle;
    let error = Pickle::load(b"\x80\x02cos\nsystem\nU\x04exit\x85R.").unwrap_err();
    assert!(error.contains("os.system"), "{error}");
    assert!(Pickle::load(b"\x80\x05}.").unwrap_err().contains("protocol 5"));
    // Protocol 0, as the oldest archives have their names.
    let old = Pickle::load(
        b"(dp1\nS'num_cases_per_batch'\np2\nI10000\nsS'label_names'\np3\n(lp4\nS'cat'\np5\naS'dog'\np6\nas.",
    );
    let old = old.unwrap();
    assert_eq!(old.integer("num_cases_per_batch"), Some(10_000));
    assert_eq!(old.strings("label_names").unwrap(), ["cat", "dog"]);
    // A list that is stored in the memo, then filled, then recalled.
    let shared = Pickle::load(b"\x80\x02}(U\x01a]q\x01U\x01xaU\x01bh\x01u.").unwrap();
    assert_eq!(shared.strings("b").unwrap(), ["x"]);
}

#[test]
fn the_published_name_of_the_imbalance_takes_its_reciprocal() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("bin");
    archives::ten_binary(&source, 300);
    let make = |name: &str, flags: [&str; 2]| {
        let out = dir.path().join(name);
        prepared(&[&["cifar10", "--any-size", "--source", text(&source), "--out", text(&out)], &flags[..]].concat());
        bytes(&out)
    };
    assert!(make("theirs.lt", ["--imbanlance_rate", "0.1"]) == make("ours.lt", ["--imbalance", "10"]));
    let out = dir.path().join("refused.lt");
    for rate in ["0", "-0.1", "nan", "100", "much"] {
        let flag = format!("--imbanlance_rate={rate}");
        let args = ["cifar10", "--any-size", "--source", text(&source), "--out", text(&out), &flag];
        let line = crate::error(prepare(&args), 2);
        assert!(line.contains("imbanlance_rate"), "{line}");
    }
}
