//! Child processes that never outlive the demo.
//!
//! A child is killed when it is dropped. Should the demo itself be killed, the child's standard input ends, and every
//! child ends with it. Children have a process group of their own, so that Ctrl-C reaches the parent alone, which
//! then ends them. Tests: `tests/demo.rs`.

use crate::problem::Problem;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A child of this same program.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts this program again with other arguments. What it says on standard error goes to the end of `log`.
    pub(super) fn start(arguments: Vec<OsString>, log: &Path) -> Result<Self, Problem> {
        let trouble = |what: &str, error: std::io::Error| {
            Problem::new(format!("cannot start a process: {what}: {error}"))
        };
        let program = std::env::current_exe().map_err(|error| trouble("own program", error))?;
        let errors = OpenOptions::new().create(true).append(true).open(log);
        let errors = errors.map_err(|error| trouble("its log", error))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        // Everything is on this machine; a proxy of the user's network has no business in between.
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| trouble("start", error))?;
        let stdin = child.stdin.take();
        let (sender, lines) = channel();
        let stdout = child.stdout.take();
        // From here on the child is ended by dropping this.
        let process = Self { child, stdin, lines, log: log.to_owned() };
        let read = move || {
            let lines = stdout.map(|stdout| BufReader::new(stdout).lines());
            // A line cut off by a kill is no message; the reader of it will see.
            for line in lines.into_iter().flatten().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("demo stdout".into())
            .spawn(read)
            .map_err(|error| trouble("thread", error))?;
        Ok(process)
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input. A child that is gone does not read it, which is no error.
    pub(super) fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            drop(writeln!(stdin, "{line}"));
        }
    }

    /// The next line it wrote, if there is one.
    pub(super) fn line(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Everything it wrote that was not read yet, of a process that has ended: the thread that reads may be behind.
    pub(super) fn rest(&self) -> Vec<String> {
        /// The pipe ends with the process, so this is for a machine that stands still.
        const PATIENCE: Duration = Duration::from_secs(5);
        std::iter::from_fn(|| self.lines.recv_timeout(PATIENCE).ok()).collect()
    }

    /// The next line it writes.
    pub(super) fn line_within(&self, time: Duration) -> Result<String, Problem> {
        self.lines.recv_timeout(time).map_err(|error| match error {
            RecvTimeoutError::Timeout => Problem::new("a process is silent").hint(self.last_words()),
            RecvTimeoutError::Disconnected => Problem::new("a process ended").hint(self.last_words()),
        })
    }

    /// How it ended, if it did by itself.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until the system has buried it.
    pub(super) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Ends its standard input and waits until it has ended in order.
    pub(super) fn end(&mut self, patience: Duration) -> Result<(), Problem> {
        self.stdin = None;
        let until = Instant::now() + patience;
        while Instant::now() < until {
            match self.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(Problem::new(format!("a process failed: {status}")).hint(self.last_words()));
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
        self.kill();
        Err(Problem::new("a process did not end in order").hint(self.last_words()))
    }

    /// The end of what it said on standard error.
    pub(super) fn last_words(&self) -> String {
        /// Enough for a panic message and some lines before it.
        const LINES: usize = 12;
        let text =
            fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
        if last.is_empty() { "it said nothing".to_owned() } else { format!("it said:\n{}", last.join("\n")) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder for one run, removed in the end unless it is to be kept.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// A fresh folder in the system's place for temporary files, or `keep`, which must be empty or not exist yet.
    pub(super) fn make(keep: Option<&Path>) -> Result<Self, Problem> {
        let path = match keep {
            Some(path) => path.to_owned(),
            None => {
                let now =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let name = format!("landfall-demo-{}-{:x}", std::process::id(), now.as_nanos());
                std::env::temp_dir().join(name)
            }
        };
        let trouble = |error| Problem::new(format!("cannot use the folder {}: {error}", path.display()));
        if keep.is_some() {
            fs::create_dir_all(&path).map_err(trouble)?;
            if fs::read_dir(&path).map_err(trouble)?.next().is_some() {
                return Err(Problem::new(format!("the folder {} is not empty", path.display()))
                    .hint("give --keep a folder that is empty or does not exist yet"));
            }
        } else {
            fs::create_dir(&path).map_err(trouble)?;
        }
        Ok(Self { path, keep: keep.is_some() })
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The database of a device.
    pub(super) fn device(&self, number: usize) -> PathBuf {
        self.file(&format!("device-{number}.db"))
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder where it is.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}
