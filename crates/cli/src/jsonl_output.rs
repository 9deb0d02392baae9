//! Writing unsynced work as JSON Lines: to a new file, readable for its owner only and durable when the command ends, or
//! to standard output for `-`.
//!
//! A file that could not be written whole is taken away again, so that none is mistaken for a whole export.
//! Tests: `tests/transfer.rs`.

use crate::output::{Output, many};
use crate::problem::Problem;
use crate::progress::Ticker;
use crate::store::DbArgs;
use landfall_core::export::ExportedTask;
use landfall_engine::{Engine, Error};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Where lines go.
enum Sink {
    File(BufWriter<File>),
    Pipe(io::Stdout),
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Pipe(io::stdout()));
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Self::File(BufWriter::new(options.open(path)?)))
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::File(file) => writeln!(file, "{text}"),
            Self::Pipe(stdout) => writeln!(stdout, "{text}"),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush().and_then(|()| file.get_ref().sync_all()),
            Self::Pipe(stdout) => stdout.flush(),
        }
    }
}

/// Writes the tasks that are `wanted`; gives back how many there were.
pub(crate) fn write(
    db: &DbArgs,
    engine: &Engine,
    path: &Path,
    wanted: impl Fn(&ExportedTask) -> bool + Send + 'static,
    output: &Output,
) -> Result<u64, Problem> {
    let name = if path.as_os_str() == "-" { "standard output".into() } else { path.display().to_string() };
    let sink = Sink::open(path).map_err(|error| {
        let problem = Problem::new(format!("cannot write {name}: {error}"));
        match error.kind() {
            io::ErrorKind::AlreadyExists => problem.hint("name a file that does not exist yet"),
            _ => problem,
        }
    })?;
    let sink = Arc::new(Mutex::new((sink, 0_u64)));
    let lines = Arc::clone(&sink);
    let mut ticker = Ticker::new(output, "task", "written");
    let outcome = engine.export(move |task| {
        if wanted(&task) {
            let (sink, count) = &mut *lines.lock().unwrap_or_else(PoisonError::into_inner);
            sink.line(&task.to_json())?;
            *count += 1;
            ticker.count(*count);
        }
        Ok(())
    });
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = match outcome {
        Ok(_) => sink.0.end().map_err(|error| Problem::new(format!("cannot write {name}: {error}"))),
        Err(Error::Input(error)) => Err(Problem::new(format!("cannot write {name}: {error}"))),
        Err(error) => Err(Problem::from(error).context(db.db.display())),
    };
    match outcome {
        Ok(()) => Ok(sink.1),
        Err(problem) => {
            if matches!(sink.0, Sink::File(_)) {
                // What is left of it would look like an export.
                drop(fs::remove_file(path));
            }
            Err(if problem.hint.is_some() {
                problem
            } else {
                problem.hint("nothing was changed in the queue")
            })
        }
    }
}

/// What was written, for people: on standard error when standard output has the lines.
pub(crate) fn report(count: u64, path: &Path, output: &Output) -> Result<(), Problem> {
    let what = many(count, "task");
    match path.as_os_str() == "-" {
        true => {
            output.note(format_args!("{what} written"));
            Ok(())
        }
        false if output.is_json() => {
            output.json(&serde_json::json!({"tasks": count, "file": path.display().to_string()}))
        }
        false => output.line(format_args!("{what} written to {}", path.display())),
    }
}
