//! Files that are none, names that are no text, small files that ask for much.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use glmc_engine::data::Store;
use glmc_engine::data::pickle::Pickle;
use tempfile::TempDir;

use super::images::{picture, png};
use super::{archives, names, prepared, refused, text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_glmc-engine");

fn fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a string that ends in 0 and lives through the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

/// The one line on stderr of a command that must end with status 1 within ten seconds.
fn line_of(args: &[&str]) -> String {
    let mut child = Command::new(PROGRAM).args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("{args:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    stderr
}

/// A set of two classes of two small images each, in `root`, and its list.
fn set(dir: &Path) {
    for class in 0..2 {
        fs::create_dir_all(dir.join(format!("root/{class}"))).unwrap();
        for i in 0..2 {
            fs::write(dir.join(format!("root/{class}/{i}.png")), png(&picture(20, 20, class * 2 + i))).unwrap();
        }
    }
    fs::write(dir.join("list.txt"), "0/0.png 0\n0/1.png 0\n1/0.png 1\n1/1.png 1\n").unwrap();
    fs::write(dir.join("names.txt"), "a\nb\n").unwrap();
}

#[test]
fn no_reader_waits_for_a_fifo_or_reads_a_device() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    set(dir.path());
    archives::ten_binary(&at("bin"), 10);
    archives::ten_pickle(&at("py"), 10, archives::Writer::Python2, false);
    prepared(&["synthetic", "--out", text(&at("a.lt")), "--per-class", "8", "--imbalance", "1"]);
    let out = at("out.lt");
    let (list, root, class_names, store) = (at("list.txt"), at("root"), at("names.txt"), at("a.lt"));
    let images = ["prepare", "images", "--train-list", text(&list), "--test-list", text(&list), "--root", text(&root)];
    let images = [&images[..], &["--class-names", text(&class_names), "--size", "8", "--out", text(&out)]].concat();
    let (bin, py) = (at("bin"), at("py"));
    let cifar =
        |source| ["prepare", "cifar10", "--any-size", "--imbalance", "1", "--source", source, "--out", text(&out)];
    let (bin, py) = (cifar(text(&bin)), cifar(text(&py)));
    let check = ["prepare", "check", text(&store)];
    let (checkpoint, config, reference) = (at("x.safetensors"), at("x.toml"), at("reference.safetensors"));
    for file in [&checkpoint, &config, &reference] {
        fs::write(file, "").unwrap();
    }
    let eval = ["eval", "--checkpoint", text(&checkpoint), "--data", text(&store)];
    let run = at("run");
    let train = ["train", "--config", text(&config), "--data", text(&store), "--out", text(&run)];
    let resume = ["train", "--resume", text(&run)];
    fs::create_dir(&run).unwrap();
    fs::write(run.join("config.toml"), "").unwrap();
    let verify = ["verify", text(&reference)];
    let readers: [(&[&str], &str); 15] = [
        (&images, "list.txt"),
        (&images, "names.txt"),
        (&images, "root/1/0.png"),
        (&bin, "bin/data_batch_2.bin"),
        (&bin, "bin/test_batch.bin"),
        (&bin, "bin/batches.meta.txt"),
        (&py, "py/data_batch_2"),
        (&py, "py/batches.meta"),
        (&check, "a.lt/meta.json"),
        (&check, "a.lt/train/pixels.npy"),
        (&check, "a.lt/train/labels.npy"),
        (&eval, "x.safetensors"),
        (&train, "x.toml"),
        (&resume, "run/config.toml"),
        (&verify, "reference.safetensors"),
    ];
    for (command, file) in readers {
        let path = at(file);
        let kept = at("kept");
        let there = fs::rename(&path, &kept).is_ok();
        let name = path.file_name().unwrap().to_str().unwrap();
        fifo(&path);
        let line = line_of(command);
        assert!(line.contains(name) && line.contains("is a FIFO"), "{file}: {line}");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let line = line_of(command);
        assert!(line.contains(name) && line.contains("is a device"), "{file}: {line}");
        fs::remove_file(&path).unwrap();
        let socket = UnixListener::bind(&path).unwrap();
        let line = line_of(command);
        assert!(line.contains(name) && line.contains("is a socket"), "{file}: {line}");
        drop(socket);
        fs::remove_file(&path).unwrap();
        if there {
            fs::rename(&kept, &path).unwrap();
        }
    }
    assert!(!out.exists());
}

/// Two pairs of folders whose names differ only in bytes that are no text.
#[test]
fn class_folders_whose_names_are_no_text_stay_apart() {
    let dir = TempDir::new().unwrap();
    let (root, out) = (dir.path().join("root"), dir.path().join("a.lt"));
    for (i, class) in [&b"caf\xe8"[..], b"caf\xe9", b"plain", b"\xff"].iter().enumerate() {
        let folder = root.join(OsStr::from_bytes(class));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.png"), png(&picture(8, 8, i as u32))).unwrap();
        fs::write(folder.join(OsStr::from_bytes(b"\xfe.png")), png(&picture(8, 8, 10 + i as u32))).unwrap();
    }
    let args = ["images", "--train-dir", text(&root), "--test-dir", text(&root), "--size", "8", "--out", text(&out)];
    let said = prepared(&args);
    assert!(said.contains("3 class folders have names that are not UTF-8, such as caf\\xe8"), "{said}");
    let store = Store::open(&out).unwrap();
    assert_eq!(store.meta().class_names, ["caf\\xe8", "caf\\xe9", "plain", "\\xff"]);
    assert_eq!(store.meta().counts, [2; 4]);
    // A folder that is called as another one is written.
    let twin = root.join("caf\\xe9");
    fs::create_dir(&twin).unwrap();
    fs::write(twin.join("a.png"), png(&picture(8, 8, 0))).unwrap();
    let line = refused(&[&args[..], &["--force"]].concat());
    assert!(line.contains("same name"), "{line}");
}

/// Names that would clear the screen, reorder the line, or fill it.
#[test]
fn messages_are_one_harmless_line_whatever_the_names() {
    let dir = TempDir::new().unwrap();
    let odd = "\u{1b}[2J\u{202e}two\nlines\r\u{7}\u{2066}";
    let harmless = |text: &str| text.chars().all(|c| matches!(c, ' '..='~' | '\n')) && text.len() < 10_000;
    let root = dir.path().join(odd);
    for class in ["a", odd] {
        fs::create_dir_all(root.join(class)).unwrap();
        fs::write(root.join(class).join(format!("{odd}.png")), "no image").unwrap();
        fs::write(root.join(class).join(format!("{odd}.txt")), "").unwrap();
    }
    let out = dir.path().join(format!("{odd}.lt"));
    let args = ["images", "--train-dir", text(&root), "--test-dir", text(&root), "--size", "8", "--out", text(&out)];
    let line = refused(&args);
    assert!(harmless(&line) && line.contains("\\u{1b}[2J") && line.contains("\\u{202e}"), "{line:?}");
    for class in ["a", odd] {
        fs::write(root.join(class).join("good.png"), png(&picture(8, 8, 3))).unwrap();
    }
    let output = super::prepare(&[&args[..], &["--skip-broken"]].concat());
    assert!(output.status.success());
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(harmless(&stdout) && stdout.contains("\\u{1b}[2J"), "{stdout:?}");
    assert!(harmless(&stderr) && stderr.contains("left out: "), "{stderr:?}");
    assert!(harmless(&prepared(&["check", text(&out)])));

    // Five megabytes as a path, as a label, as a line without one.
    let (list, long) = (dir.path().join("list.txt"), "\u{1b}long\u{202e}".repeat(500_000));
    for text_of in [format!("{long} 0\nb.png 1\n"), format!("a.png {long}\n"), long.replace(' ', "")] {
        fs::write(&list, text_of).unwrap();
        let train = ["images", "--train-list", text(&list), "--test-list", text(&list), "--root", text(dir.path())];
        let line = refused(&[&train[..], &["--size", "8", "--out", text(&dir.path().join("b.lt"))]].concat());
        assert!(harmless(&line) && line.len() < 2000, "{}", line.len());
    }
    for name in ["no\nsuch.lt", "\u{202e}"] {
        assert!(harmless(&refused(&["check", text(&dir.path().join(name))])));
        assert!(harmless(&line_of(&["verify", name])));
    }
}

/// As another user, who may not look: what keeps a file from being read is told as it is.
#[test]
fn no_permission_is_called_so() {
    // A folder that others may enter, for the program as well, whose own folder may be closed to them.
    let dir = TempDir::with_prefix_in("glmc", "/tmp").unwrap();
    let program = dir.path().join("glmc-engine");
    fs::copy(PROGRAM, &program).unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o777);
    mode(&program, 0o755);
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let store = closed.join("a.lt");
    prepared(&["synthetic", "--out", text(&store), "--per-class", "8", "--imbalance", "1"]);
    archives::ten_binary(&closed.join("bin"), 10);
    let (bin, out, checkpoint) = (closed.join("bin"), dir.path().join("out.lt"), store.join("x"));
    let commands: [&[&str]; 4] = [
        &["prepare", "check", text(&store)],
        &["prepare", "cifar10", "--source", text(&bin), "--out", text(&out)],
        &["prepare", "synthetic", "--out", text(&store), "--force"],
        &["eval", "--checkpoint", text(&checkpoint), "--data", text(&store)],
    ];
    mode(&closed, 0o600);
    for args in commands {
        let mut command = Command::new(&program);
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            command.uid(65_534).gid(65_534);
        }
        let output = command.args(args).current_dir("/tmp").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains("Permission denied") && stderr.lines().count() == 1, "{args:?}: {stderr}");
    }
    mode(&closed, 0o700);
    // A store's own file.
    mode(&closed, 0o755);
    mode(&store.join("meta.json"), 0o000);
    let mut command = Command::new(&program);
    // SAFETY: as above.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(65_534).gid(65_534);
    }
    let output = command.args(["prepare", "check", text(&store)]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("meta.json: Permission denied"), "{stderr}");
}

#[test]
fn a_class_without_images_is_told_with_its_folder() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("bin");
    archives::ten_binary(&source, 9);
    let out = dir.path().join("x.lt");
    let line = refused(&["cifar10", "--any-size", "--source", text(&source), "--out", text(&out)]);
    assert!(line.contains("bin: no training image has label 9 (truck)"), "{line}");
}

/// Whole images are missing at the end of the file.
#[test]
fn archives_of_other_sizes_need_a_flag() {
    let dir = TempDir::new().unwrap();
    let (source, out) = (dir.path().join("bin"), dir.path().join("x.lt"));
    archives::ten_binary(&source, 10_000);
    let args = ["cifar10", "--source", text(&source), "--out", text(&out)];
    prepared(&args);
    let path = source.join("test_batch.bin");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..4_999 * 3073]).unwrap();
    let args = [&args[..], &["--force"]].concat();
    let line = refused(&args);
    let word = "test_batch.bin: has 4999 images, the official file has 10000";
    assert!(line.contains(word) && line.contains("--any-size"), "{line}");
    assert_eq!(Store::open(&out).unwrap().test().len(), 10_000);
    prepared(&[&args[..], &["--any-size"]].concat());
    assert_eq!(Store::open(&out).unwrap().test().len(), 4_999);
}

/// The most memory that this process has had, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

/// Few bytes that build much: each is refused, in memory of the order of the file. In a process of its own, whose peak counts.
#[test]
fn a_pickle_takes_no_more_memory_than_its_size_allows() {
    const SELF: &str = "hostile::a_pickle_takes_no_more_memory_than_its_size_allows";
    let Ok(case) = std::env::var("GLMC_TEST_PICKLE") else {
        for case in 0..8 {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", SELF]).env("GLMC_TEST_PICKLE", case.to_string());
            let output = command.output().unwrap();
            assert!(output.status.success(), "case {case}: {}", String::from_utf8_lossy(&output.stdout));
        }
        return;
    };
    let n = 8 << 20;
    let one_name = [&b"\x80\x02}(U\x06labels]q\x01(X\x00\x04\x00\x00"[..], &[b'x'; 1024], b"q\x02"].concat();
    let file: Vec<u8> = match case.parse().unwrap() {
        // Values of one byte each: None, lists, dictionaries, marks.
        0 => [b"\x80\x02", &vec![b'N'; n][..]].concat(),
        1 => [b"\x80\x02", &vec![b']'; n][..]].concat(),
        2 => [b"\x80\x02", &vec![b'('; n][..]].concat(),
        // Memo entries of one byte each.
        3 => [b"\x80\x04N", &vec![0x94; n][..]].concat(),
        // One string of a kilobyte, four million times in a list.
        4 => [&one_name[..], &b"h\x02".repeat(n / 2), b"eu."].concat(),
        // Recalled as tuples.
        5 => [&b"\x80\x02Nq\x01"[..], &b"h\x01\x85".repeat(n / 3)].concat(),
        // A dictionary of one key.
        6 => [&b"\x80\x02}(Nq\x01"[..], &b"h\x01".repeat(n / 2), b"u."].concat(),
        // Arrays of many dimensions.
        _ => {
            let array = &b"cnumpy\n_reconstruct\n"[..];
            [&b"\x80\x02("[..], &b"K\x01".repeat(100_000), b"tq\x01", &array.repeat(n / 20)].concat()
        }
    };
    let before = peak();
    let outcome = Pickle::load(&file).map(|pickle| pickle.strings("labels").map(|_| ()));
    assert!(!matches!(outcome, Ok(Ok(()))));
    let used = peak() - before.min(peak());
    assert!(used < 4 * n, "{} MiB", used >> 20);
}

/// A program that may have little memory.
fn limited(kibibytes: usize, args: &[&str]) -> std::process::Output {
    let script = format!("ulimit -v {kibibytes}; exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", PROGRAM, "prepare"]).args(args);
    command.output().unwrap()
}

/// Images that are small as files and enormous as pixels.
#[test]
fn enormous_images_are_refused_by_name_before_any_is_decoded() {
    let dir = TempDir::new().unwrap();
    set(dir.path());
    let at = |name: &str| dir.path().join(name);
    let bomb = at("root/1/1.png");
    fs::write(&bomb, zeros_png(20_000, 10_000)).unwrap();
    assert!(fs::metadata(&bomb).unwrap().len() < 1 << 20);
    let (list, root, out) = (at("list.txt"), at("root"), at("out.lt"));
    let args = ["images", "--train-list", text(&list), "--test-list", text(&list), "--root", text(&root)];
    let args = [&args[..], &["--size", "8", "--threads", "2", "--out", text(&out)]].concat();
    let line = refused(&args);
    assert!(line.contains("1/1.png") && line.contains("20000x10000") && line.contains("--max-pixels"), "{line}");
    let line = refused(&[&args[..], &["--max-pixels", "200000000", "--decode-memory", "500"]].concat());
    assert!(line.contains("1/1.png") && line.contains("--decode-memory"), "{line}");
    // With enough pixels allowed and too little memory there is a line, not an abort.
    for more in [&["--decode-memory", "100000"][..], &[]] {
        let output = limited(900_000, &[&args[..], &["--max-pixels", "200000000"], more].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|line| !line.contains(" images/s")).collect();
        assert!(errors.len() == 1 && errors[0].contains("1/1.png") && errors[0].contains("memory"), "{stderr}");
    }
    assert!(!out.exists());
    // Within the limits, one at a time where two do not fit.
    fs::write(&bomb, zeros_png(5_000, 4_000)).unwrap();
    fs::write(at("root/0/1.png"), zeros_png(5_000, 4_000)).unwrap();
    prepared(&[&args[..], &["--decode-memory", "300"]].concat());
}

/// Large buffers of the other kinds, in a process that may not have them.
#[test]
fn short_memory_is_an_error_and_no_abort() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    archives::ten_binary(&at("bin"), 10_000);
    set(dir.path());
    let (bin, out, list, root) = (at("bin"), at("out.lt"), at("list.txt"), at("root"));
    let cifar = ["cifar10", "--source", text(&bin), "--out", text(&out), "--threads", "1"];
    let images = ["images", "--train-list", text(&list), "--test-list", text(&list), "--root", text(&root)];
    let images = [&images[..], &["--out", text(&out), "--threads", "1", "--size", "16000"]].concat();
    for (args, kibibytes) in [(&cifar[..], 150_000), (&images, 600_000)] {
        let output = limited(kibibytes, args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains("memory"), "{stderr}");
    }
    assert!(!names(dir.path()).iter().any(|name| name.contains("out.lt")));
}

/// A black picture, which compresses to almost nothing.
fn zeros_png(width: u32, height: u32) -> Vec<u8> {
    use image::ImageEncoder;
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    encoder.write_image(&vec![0; (width * height) as usize], width, height, image::ExtendedColorType::L8).unwrap();
    bytes
}
