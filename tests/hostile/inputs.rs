//! Small sources of every kind that `prepare` reads.

use std::fs;
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage};

use crate::archives;
use crate::program::text;

/// Archives and image files in one folder.
pub struct Sources(PathBuf);

impl Sources {
    pub fn new(folder: &Path) -> Sources {
        let at = |name: &str| folder.join(name);
        archives::ten_binary(&at("bin"), 10);
        archives::ten_pickle(&at("py"), 10, archives::Writer::Python3, false);
        archives::hundred_binary(&at("bin100"), 200);
        archives::hundred_pickle(&at("py100"), 200, archives::Writer::Python2);
        let mut list = String::new();
        for class in 0..2u32 {
            fs::create_dir_all(at(&format!("root/{class}"))).expect("a folder");
            for (i, (ending, format)) in [("png", ImageFormat::Png), ("jpg", ImageFormat::Jpeg)].iter().enumerate() {
                let name = format!("{class}/{i}.{ending}");
                let colour = |x, y| Rgb([(x * 9 + class * 40) as u8, (y * 7) as u8, (x * y + i as u32) as u8]);
                let picture = RgbImage::from_fn(20, 16, colour);
                picture.save_with_format(at("root").join(&name), *format).expect("writable");
                list += &format!("{name} {class}\n");
            }
        }
        // Enough for some chunks, of two sizes, and one that cannot be decoded.
        let tall = RgbImage::from_fn(12, 30, |x, y| Rgb([(x * 20) as u8, (y * 8) as u8, 99]));
        tall.save_with_format(at("root/1/tall.png"), ImageFormat::Png).expect("writable");
        let whole = fs::read(at("root/1/tall.png")).expect("a file");
        fs::write(at("root/1/cut.png"), &whole[..whole.len() - 20]).expect("writable");
        fs::write(at("many.txt"), format!("{list}1/tall.png 1\n1/cut.png 1\n").repeat(50)).expect("writable");
        fs::write(at("list.txt"), list).expect("writable");
        fs::write(at("names.txt"), "cat\ndog\n").expect("writable");
        Sources(folder.to_path_buf())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The ways to prepare them into a store, by name.
    pub fn commands(&self, store: &Path) -> Vec<(&'static str, Vec<String>)> {
        let words = |parts: &[&str]| parts.iter().map(|part| part.to_string()).collect::<Vec<_>>();
        let cifar = |set, folder| {
            let source = self.at(folder);
            let fixed = ["prepare", set, "--any-size", "--imbalance", "1", "--source", text(&source)];
            words(&[&fixed[..], &["--out", text(store)]].concat())
        };
        let [root, list, names] = ["root", "list.txt", "names.txt"].map(|name| self.at(name));
        let images = ["prepare", "images", "--size", "8", "--train-list", text(&list), "--test-list", text(&list)];
        let more = ["--root", text(&root), "--class-names", text(&names), "--out", text(store)];
        vec![
            ("binary archives", cifar("cifar10", "bin")),
            ("pickles", cifar("cifar10", "py")),
            ("images", words(&[&images[..], &more].concat())),
            ("binary archives of CIFAR-100", cifar("cifar100", "bin100")),
            ("pickles of CIFAR-100", cifar("cifar100", "py100")),
            ("photographs", self.photographs(store, "10")),
        ]
    }

    /// To prepare the images as they come in size, the shorter side this long, without the one that cannot be decoded.
    pub fn photographs(&self, store: &Path, short: &str) -> Vec<String> {
        let [root, train, list] = ["root", "many.txt", "list.txt"].map(|name| self.at(name));
        let [root, train, list, store] = [&root, &train, &list, store].map(text);
        let resize = format!("short:{short}");
        let lists = ["--train-list", train, "--val-list", list, "--test-list", list, "--root", root, "--out", store];
        let words = ["prepare", "images", "--resize", &resize, "--threads", "1", "--skip-broken"];
        words.iter().chain(&lists).map(|word| word.to_string()).collect()
    }

    /// Each kind of file among them, with the command that reads it.
    pub fn files(&self) -> [(&'static str, usize, PathBuf); 10] {
        [
            ("binary archive", 0, self.at("bin/data_batch_2.bin")),
            ("names of a binary archive", 0, self.at("bin/batches.meta.txt")),
            ("pickle", 1, self.at("py/data_batch_3")),
            ("pickle of names", 1, self.at("py/batches.meta")),
            ("list", 2, self.at("list.txt")),
            ("class names", 2, self.at("names.txt")),
            ("PNG", 2, self.at("root/0/0.png")),
            ("JPEG", 2, self.at("root/1/1.jpg")),
            ("binary archive of CIFAR-100", 3, self.at("bin100/train.bin")),
            ("pickle of CIFAR-100", 4, self.at("py100/meta")),
        ]
    }
}
