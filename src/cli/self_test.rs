//! The self-test of a GPU at its first use: its kernels against the CPU, in a process of its own that can hang or crash without
//! harm, under a time limit. What has passed is noted in the cache of kernels.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::backend;
use crate::console::{note, say};
use crate::driver::cache::{Cache, Key};
use crate::driver::sources;
use crate::driver::watched::Event;
use crate::error::{Error, Result};
use crate::stop;
use crate::tensor::Precision;
use crate::verify::self_test::{Failure, Proof, self_test};

/// The hidden subcommand's name.
pub const COMMAND: &str = "self-test";
/// Environment variable that says `--trust-device` for every command.
const TRUST: &str = "GLMC_TRUST_DEVICE";
/// Environment variable: seconds that a kernel of the self-test may take.
const LIMIT: &str = "GLMC_SELF_TEST_SECONDS";
/// Without it: kernels of the self-test take microseconds on a GPU that works, however busy it is.
const KERNEL: Duration = Duration::from_secs(30);
/// Compiling is the CPU's work, and slow on a busy one.
const COMPILING: Duration = Duration::from_secs(600);
/// How long the process may take to leave when it has said how it went, or was killed.
const LEAVE: Duration = Duration::from_secs(5);
/// How often the wish to stop is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Whether to go on without a self-test.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct TrustArgs {
    /// Compute on a GPU that has not passed its self-test (see README.md, "The first use of a GPU")
    #[arg(long)]
    pub trust_device: bool,
}

impl TrustArgs {
    /// Tests the kernels of a GPU that is new: another one, or with another driver, compiler or kernel sources. Other devices,
    /// and a GPU that cannot be opened, are not looked at.
    ///
    /// # Errors
    /// When a kernel fails, or the test cannot be run.
    pub fn prove(self, device: &str, precision: Precision) -> Result<()> {
        let Some(gpu) = backend::gpu(device) else { return Ok(()) };
        let kernels = gpu.kernels.as_deref().unwrap_or_default();
        let (sources, version) = (&sources::origin()?.hash, crate::version::VERSION);
        // The module's version: two drivers for the same CUDA are two drivers. Absent where the driver is no module of Linux.
        let module = fs::read("/proc/driver/nvidia/version").unwrap_or_default();
        let identity = format!(
            "{:?} {} {:?} {:?} {kernels} {sources} {precision} {version}",
            gpu.uuid, gpu.product, gpu.compute, gpu.driver
        );
        let key = Key::new([identity.as_bytes(), module.as_slice()], "tested");
        let cache = Cache::user();
        if cache.get(&key).is_some() {
            return Ok(());
        }
        let device = format!("cuda:{}", gpu.ordinal);
        if self.trust_device || env::var_os(TRUST).is_some_and(|value| !value.is_empty()) {
            note!("warning: {device} has not passed its self-test in {precision}: its results are taken on trust");
            return Ok(());
        }
        note!("first use of {} in {precision}: its kernels are compared with the CPU's, once", gpu.product);
        let start = Instant::now();
        match supervise(&device, precision)? {
            Ok(proof) => {
                note!("{} kernels agree, {:.1} s", proof.kernels, start.elapsed().as_secs_f64());
                // Where it cannot be kept, the next run tests again.
                cache.put(&key, format!("{identity}\n").as_bytes());
                Ok(())
            }
            Err(Failure(what)) => {
                let what = format!(
                    "self-test of {}: {what}; report this with the output of `glmc-engine info` to the project; \
                     --device cpu computes without the GPU, --trust-device goes on",
                    gpu.product
                );
                Err(Error::device(device, what))
            }
        }
    }
}

/// What the process of the test says.
enum Message {
    Compiling,
    Kernel(String),
    Passed(Proof),
    Failed(String),
    /// It could not do its work: no fault of a kernel.
    Refused(String),
}

impl Message {
    fn of(line: &str) -> Option<Message> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match kind {
            "compiling" => Message::Compiling,
            "kernel" => Message::Kernel(rest.into()),
            "passed" => Message::Passed(serde_json::from_str(rest).ok()?),
            "failed" => Message::Failed(rest.into()),
            "refused" => Message::Refused(rest.into()),
            _ => return None,
        })
    }
}

/// The process's arguments.
#[derive(Debug, clap::Args)]
pub struct SelfTestArgs {
    device: String,
    precision: Precision,
}

/// Runs the test in this process, which says on standard output what it does and how it ends.
pub fn run(args: &SelfTestArgs) -> Result<()> {
    // Should this process hang in a kernel, nothing else would end it when whoever waits for it is killed.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let tell = |event: Event<'_>| match event {
        Event::Compiling => say!("compiling"),
        Event::Launching(kernel) => say!("kernel {kernel}"),
    };
    match self_test(&args.device, args.precision, tell) {
        Ok(Ok(proof)) => say!("passed {}", serde_json::to_string(&proof).map_err(|e| Error::Config(e.to_string()))?),
        Ok(Err(Failure(what))) => say!("failed {what}"),
        Err(error) => say!("refused {error}"),
    }
    Ok(())
}

/// Runs the test of a device in a process of its own. The inner `Err` is what a kernel did wrong.
///
/// # Errors
/// When the test cannot be run, or this process is asked to stop.
pub fn supervise(device: &str, precision: Precision) -> Result<Result<Proof, Failure>> {
    let failed = |e: std::io::Error| Error::device(device, format!("the self-test does not start: {e}"));
    let mut child = Command::new(env::current_exe().map_err(failed)?)
        .args([COMMAND, device, &precision.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let (send, messages) = channel();
    if let Some(output) = child.stdout.take() {
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(std::io::Result::ok);
            // Nobody listens any more when the test was given up.
            lines.filter_map(|line| Message::of(&line)).try_for_each(|message| send.send(message)).ok()
        });
    }
    match listen(&messages, kernel_limit()?) {
        Outcome::Said(Message::Passed(proof)) => {
            end(&mut child, LEAVE);
            Ok(Ok(proof))
        }
        Outcome::Said(Message::Failed(what)) => {
            end(&mut child, LEAVE);
            Ok(Err(Failure(what)))
        }
        Outcome::Said(Message::Refused(what)) => {
            end(&mut child, LEAVE);
            Err(Error::Config(what))
        }
        Outcome::Said(_) | Outcome::Ended(None) => {
            let status = child.wait().map_err(failed)?;
            Err(Error::device(device, format!("the self-test ended before its first kernel ({status})")))
        }
        Outcome::Ended(Some(kernel)) => {
            let status = child.wait().map_err(failed)?;
            Ok(Err(Failure(format!("kernel {kernel}: the process ended in it ({status})"))))
        }
        Outcome::Late(kernel, waited) => {
            end(&mut child, Duration::ZERO);
            let seconds = waited.as_secs_f64();
            Ok(Err(Failure(format!(
                "kernel {kernel} does not end: killed after {seconds:.0} s ({LIMIT} sets the limit)"
            ))))
        }
        Outcome::Stopped => {
            end(&mut child, Duration::ZERO);
            Err(Error::Interrupted("stopped in the self-test; nothing was begun".into()))
        }
    }
}

/// How long a kernel may take.
fn kernel_limit() -> Result<Duration> {
    let Some(text) = env::var_os(LIMIT).filter(|text| !text.is_empty()) else { return Ok(KERNEL) };
    let seconds: Option<u64> = text.to_str().and_then(|text| text.parse().ok());
    let what = || Error::Config(format!("{LIMIT} is {text:?}, not a whole number of seconds"));
    seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(what)
}

/// How the test went, as far as its messages tell.
enum Outcome {
    /// It said so.
    Said(Message),
    /// The process ended without a word, in this kernel.
    Ended(Option<String>),
    /// The kernel takes too long.
    Late(String, Duration),
    /// This process was asked to stop.
    Stopped,
}

fn listen(messages: &Receiver<Message>, kernel_limit: Duration) -> Outcome {
    let (mut kernel, mut limit, mut since) = (None, COMPILING, Instant::now());
    loop {
        match messages.recv_timeout(LOOK) {
            Ok(Message::Compiling) => limit = COMPILING,
            Ok(Message::Kernel(name)) => {
                kernel = Some(name);
                limit = kernel_limit;
            }
            Ok(end) => return Outcome::Said(end),
            Err(RecvTimeoutError::Disconnected) => return Outcome::Ended(kernel),
            Err(RecvTimeoutError::Timeout) if stop::signal().is_some() => return Outcome::Stopped,
            Err(RecvTimeoutError::Timeout) if since.elapsed() > limit => {
                return Outcome::Late(kernel.unwrap_or_else(|| "compilation".into()), since.elapsed());
            }
            Err(RecvTimeoutError::Timeout) => continue,
        }
        since = Instant::now();
    }
}

/// Waits for a process that is about to end, and kills one that does not. One that the system cannot end, as it may be with a
/// GPU that hangs, is left behind.
fn end(child: &mut Child, patience: Duration) {
    for patience in [patience, LEAVE] {
        let start = Instant::now();
        loop {
            match child.try_wait() {
                Ok(None) if start.elapsed() < patience => thread::sleep(LOOK),
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = child.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        assert!(matches!(Message::of("compiling"), Some(Message::Compiling)));
        assert!(matches!(Message::of("kernel a<B=1>"), Some(Message::Kernel(k)) if k == "a<B=1>"));
        assert!(matches!(Message::of("failed a b"), Some(Message::Failed(what)) if what == "a b"));
        assert!(matches!(Message::of("refused no memory"), Some(Message::Refused(_))));
        assert!(Message::of("passed").is_none() && Message::of("what a library prints").is_none());
        let line = format!("passed {}", serde_json::to_string(&Proof { kernels: 3, outputs: 5, share: 0.5 }).unwrap());
        assert!(matches!(Message::of(&line), Some(Message::Passed(Proof { kernels: 3, outputs: 5, .. }))));
    }

    #[test]
    fn silence_and_an_end_name_the_kernel() {
        let (send, messages) = channel();
        send.send(Message::Kernel("a".into())).unwrap();
        send.send(Message::Kernel("b".into())).unwrap();
        assert!(matches!(listen(&messages, Duration::ZERO), Outcome::Late(kernel, _) if kernel == "b"));
        send.send(Message::Kernel("c".into())).unwrap();
        drop(send);
        assert!(matches!(listen(&messages, KERNEL), Outcome::Ended(Some(kernel)) if kernel == "c"));
        assert!(matches!(listen(&messages, KERNEL), Outcome::Ended(None)));
    }
}
