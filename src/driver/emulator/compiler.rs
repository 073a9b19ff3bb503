//! The system's C++ compiler: from a kernel's `.cu` to a shared library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use crate::driver::cache::{Cache, Key};
use crate::driver::{KernelSpec, sources};
use crate::{Error, Result};

/// How much of what a broken compiler says is shown.
const MOST_CHARACTERS: usize = 160;

/// A C++ compiler that runs.
#[derive(Clone, Debug)]
pub struct Compiler {
    command: Vec<String>,
    version: String,
}

/// A compiled library.
pub struct Compiled {
    /// The library.
    pub path: PathBuf,
    /// Whether `path` is a temporary file that may go once it is loaded and never needed again.
    pub temporary: bool,
}

impl Compiler {
    /// `$CXX` where it is set, else `c++`, `g++` or `clang++`, whichever runs first. Searched for once per process.
    pub fn find() -> Result<&'static Compiler> {
        static FOUND: OnceLock<Result<Compiler, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| Compiler::search(env::var("CXX").ok().as_deref()));
        found.as_ref().map_err(|what| Error::device("emulator", what.clone()))
    }

    fn search(named: Option<&str>) -> Result<Compiler, String> {
        match named.map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) => Compiler::try_command(name).ok_or_else(|| {
                format!("CXX names `{name}`, which does not run; set it to a C++ compiler, or unset it")
            }),
            None => ["c++", "g++", "clang++"].into_iter().find_map(Compiler::try_command).ok_or_else(|| {
                "needs a C++ compiler and found none (c++, g++, clang++); install g++ or clang++, or set CXX"
                    .to_string()
            }),
        }
    }

    /// The compiler that `command` (a program and perhaps arguments) starts, if it does.
    fn try_command(command: &str) -> Option<Compiler> {
        let command: Vec<String> = command.split_whitespace().map(String::from).collect();
        let (program, arguments) = command.split_first()?;
        let output = Command::new(program).args(arguments).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(Compiler { command, version })
    }

    /// Name and version, one line.
    pub fn version(&self) -> &str {
        self.version.lines().next().unwrap_or("unknown")
    }

    fn is_clang(&self) -> bool {
        self.version.contains("clang")
    }

    /// Options other than the knobs.
    fn options(&self, checked: bool) -> Vec<&'static str> {
        let mut options = vec![
            "-x",
            "c++",
            "-std=c++17",
            "-O2",
            "-fPIC",
            "-fvisibility=hidden",
            "-fno-exceptions",
            "-fno-rtti",
            // One rounding per operation, whatever the optimiser does: checked and unchecked runs agree bit for bit.
            "-ffp-contract=off",
            // Kernels reuse shared memory for different types.
            "-fno-strict-aliasing",
            "-Wall",
            "-Wno-unknown-pragmas",
            "-Wno-unused-function",
            "-Wno-attributes",
            "-DGLMC_EMULATOR",
        ];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            options.extend(["-mavx2", "-mfma"]);
        }
        if checked {
            // Aggregates stay whole, so that a 16-byte access is checked as one.
            options.extend(["-DGLMC_CHECKED", "-fsanitize=thread", "-g"]);
            if !self.is_clang() {
                // Lines are wanted; where variables lie is not, and takes as long to compute as all optimisation.
                options.extend(["-fno-var-tracking", "-fno-tree-sra", "--param=tsan-instrument-func-entry-exit=0"]);
            }
        }
        options
    }

    /// Compiles `spec`, or finds it in `cache`.
    pub fn compile(&self, spec: &KernelSpec, checked: bool, cache: &Cache) -> Result<Compiled> {
        let source = spec.source()?;
        let options = self.options(checked);
        let defines: Vec<String> = spec.define_options().collect();
        let mut parts: Vec<&[u8]> = vec![b"emulator", self.version.as_bytes(), spec.entry.as_bytes()];
        parts.extend([spec.file.as_bytes(), source.as_bytes()]);
        parts.extend(options.iter().map(|option| option.as_bytes()));
        parts.extend(defines.iter().map(|define| define.as_bytes()));
        // What is compiled (see `main_file`) and all that it includes.
        let main = main_file(spec);
        let headers = [sources::included(source), sources::included(&main)].concat();
        parts.extend(headers.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
        let key = Key::new(parts, "so");
        if let Some(path) = cache.get_path(&key) {
            return Ok(Compiled { path, temporary: false });
        }
        let folder = Scratch::new()?;
        let library = folder.0.join("kernel.so");
        self.run(spec, source, &options, &defines, &folder.0, &library)?;
        let content = fs::read(&library).map_err(Error::io(&library))?;
        if let Some(path) = cache.put(&key, &content) {
            return Ok(Compiled { path, temporary: false });
        }
        // Nowhere to keep it: load it from a name of its own, which the caller removes.
        let path = folder.0.with_extension("so");
        fs::rename(&library, &path).map_err(Error::io(&path))?;
        Ok(Compiled { path, temporary: true })
    }

    fn run(
        &self,
        spec: &KernelSpec,
        source: &str,
        options: &[&str],
        defines: &[String],
        folder: &Path,
        library: &Path,
    ) -> Result<()> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(Error::io(parent))?;
            }
            fs::write(&path, text).map_err(Error::io(&path))
        };
        for (name, text) in sources::headers() {
            write(name, text)?;
        }
        write(&spec.file, source)?;
        write("main.cpp", &main_file(spec))?;
        let object = folder.join("kernel.o");
        let mut compile = self.start();
        compile
            .current_dir(folder)
            .args(options)
            .args(defines)
            .arg(format!("-DGLMC_ENTRY={}", spec.entry))
            // Messages and debug information name files as they lie under kernels/.
            .arg(format!("-ffile-prefix-map={}=kernels", folder.display()))
            .arg("-I")
            .arg(folder)
            .arg("-c")
            .arg(folder.join("main.cpp"))
            .arg("-o")
            .arg(&object);
        // Linked without -fsanitize: checks.h takes the place of the sanitizer's runtime.
        let mut link = self.start();
        link.arg("-shared").arg(&object).arg("-lm").arg("-o").arg(library);
        for mut command in [compile, link] {
            let output = command
                .output()
                .map_err(|error| Error::device("emulator", format!("cannot run {}: {error}", self.command[0])))?;
            if !output.status.success() {
                self.check_compiler(folder)?;
                let log =
                    String::from_utf8_lossy(&output.stderr).replace(&format!("{}/", folder.display()), "kernels/");
                let what =
                    format!("kernel {} does not compile with {}:\n{}", spec.label(), self.version(), log.trim_end());
                return Err(Error::device("emulator", what));
            }
        }
        if !library.is_file() {
            return Err(self.broken("makes no library, and says that it did"));
        }
        Ok(())
    }

    /// After something did not compile: whether the least program does. If not, the compiler is at fault, and what it said
    /// about the kernel is of no use.
    fn check_compiler(&self, folder: &Path) -> Result<()> {
        let (text, library) = (folder.join("least.cpp"), folder.join("least.so"));
        fs::write(&text, "#include <math.h>\nextern \"C\" int least() { return 0; }\n").map_err(Error::io(&text))?;
        let output = self.start().args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&text).output();
        match output {
            Ok(output) if output.status.success() && library.is_file() => Ok(()),
            Ok(output) => {
                let log = String::from_utf8_lossy(&output.stderr);
                let line = log.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
                let line: String = line.chars().filter(|c| !c.is_control()).take(MOST_CHARACTERS).collect();
                let said =
                    if line.is_empty() { output.status.to_string() } else { format!("{}: {line}", output.status) };
                Err(self.broken(&format!("cannot compile the least program ({said})")))
            }
            Err(error) => Err(self.broken(&format!("does not run ({error})"))),
        }
    }

    fn broken(&self, what: &str) -> Error {
        let command = self.command.join(" ");
        let what = format!("the C++ compiler `{command}` {what}; repair it, or set CXX to another");
        Error::device("emulator", what)
    }

    fn start(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
    }
}

/// What the compiler is given: the kernel's file and the emulator's way into it.
fn main_file(spec: &KernelSpec) -> String {
    format!("#include \"{}\"\n#include \"emulator/entry.h\"\n", spec.file)
}

/// A temporary folder that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_nanos());
        let name = format!("glmc-engine-{}-{nanos:x}-{count}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).map_err(Error::io(&path))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_does_not_run_is_named() {
        let error = Compiler::search(Some("/no/such/compiler -O2")).unwrap_err();
        assert!(error.contains("CXX names `/no/such/compiler -O2`"), "{error}");
        assert!(Compiler::search(Some("  ")).is_ok());
    }
}
