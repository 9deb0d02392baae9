//! Opening the queue file that `--db` names.
//!
//! Only `enqueue` and `sync --create` make a new one: a mistyped path must not look like an empty queue. Tests: `tests/store_troubles.rs`.

use crate::problem::Problem;
use landfall_engine::Engine;
use landfall_sqlite::SqliteStore;
use std::path::{Path, PathBuf};

/// `--db`, for every command that works on a queue.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DbArgs {
    /// The queue file.
    #[arg(long, value_name = "PATH", env = "LANDFALL_DB")]
    pub(crate) db: PathBuf,
}

impl DbArgs {
    /// Opens the store, making it if there is none.
    pub(crate) fn open_or_create(&self) -> Result<SqliteStore, Problem> {
        open(&self.db)
    }

    /// Opens the store that must be there.
    pub(crate) fn open(&self) -> Result<SqliteStore, Problem> {
        match self.db.try_exists() {
            Ok(true) => open(&self.db),
            Ok(false) => Err(Problem::new(format!("there is no queue at {}", self.db.display()))
                .hint("check the path; `landfall enqueue` makes a new queue with its first change, `landfall sync --create` one that begins with what the backend has")),
            Err(error) => Err(Problem::new(format!("cannot look at {}: {error}", self.db.display()))),
        }
    }

    /// Opens an engine that has no backend on the store that must be there.
    pub(crate) fn engine(&self) -> Result<Engine, Problem> {
        self.named(Engine::local(self.open()?).build_blocking())
    }

    /// Adds the file's name to an error.
    pub(crate) fn named<T>(&self, result: Result<T, impl Into<Problem>>) -> Result<T, Problem> {
        result.map_err(|error| error.into().context(self.db.display()))
    }
}

fn open(path: &Path) -> Result<SqliteStore, Problem> {
    if path.is_dir() {
        return Err(Problem::new(format!("{} is a folder", path.display())).hint("name a file"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.exists()) {
        return Err(Problem::new(format!("there is no folder {}", folder.display()))
            .hint(format!("make it first: mkdir -p '{}'", folder.display())));
    }
    SqliteStore::open(path).map_err(|error| Problem::from(error).context(path.display()))
}
