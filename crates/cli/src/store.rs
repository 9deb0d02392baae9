//! Opening the queue that `--db` and `--as` name, with what `--model` says of its records.
//!
//! Only commands that store a change make a new queue, and `sync --create`: a mistyped path or name must not look like
//! an empty queue. Tests: `tests/store_troubles.rs`, `tests/accounts.rs`.

use crate::problem::Problem;
use landfall_core::model::Model;
use landfall_core::store::Store as _;
use landfall_engine::{Engine, EngineBuilder};
use landfall_sqlite::SqliteStore;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

/// Bytes that a model may have. 16 MiB: thousands of times the largest that anybody writes.
const MODEL_BYTES_MAX: u64 = 16 << 20;

/// `--db`, `--as` and `--model`, for every command that works on a queue.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DbArgs {
    /// The queue file.
    #[arg(long, value_name = "PATH", env = "LANDFALL_DB", help_heading = "Queue")]
    pub(crate) db: PathBuf,
    /// Whose queue in that file; without it, the one for apps without accounts.
    #[arg(
        long = "as",
        id = "identity",
        value_name = "IDENTITY",
        env = "LANDFALL_AS",
        help_heading = "Queue"
    )]
    pub(crate) identity: Option<String>,
    /// The file is the app's own database, in which `landfall outbox install` has made the tables.
    #[arg(long, env = "LANDFALL_COLOCATED", help_heading = "Queue")]
    pub(crate) colocated: bool,
    /// The file that holds the passphrase of an encrypted queue; a line end at its end does not count.
    #[cfg(feature = "sqlcipher")]
    #[arg(long, value_name = "FILE", env = "LANDFALL_KEY_FILE", help_heading = "Queue")]
    pub(crate) key_file: Option<PathBuf>,
    /// What the app says of its record types and lanes: a JSON file.
    ///
    /// {"types":{"note":{"references":{"project_id":"project"},"schema":2,"upcasts":{"1":{"rename":{"body":"text"},
    /// "remove":["old"],"add":{"done":false}}},"debounce_ms":500,"sensitive":["pin"],"when_dead":"skip"}},
    /// "lanes":{"mail":"skip"},"when_dead":"block","closed":false}. Every member may be left out; docs/model.md
    /// explains each. Values of sensitive fields are shown as [redacted].
    #[arg(long, value_name = "FILE", env = "LANDFALL_MODEL", help_heading = "Queue")]
    pub(crate) model: Option<PathBuf>,
}

impl DbArgs {
    /// Opens the store, making it if there is none.
    pub(crate) fn open_or_create(&self) -> Result<SqliteStore, Problem> {
        self.open_path()
    }

    /// Opens the store that must be there.
    pub(crate) fn open_file(&self) -> Result<SqliteStore, Problem> {
        match self.db.try_exists() {
            Ok(true) => self.open_path(),
            Ok(false) => Err(Problem::new(format!("there is no queue at {}", self.db.display()))
                .hint("check the path; `landfall enqueue` makes a new queue with its first change, `landfall sync --create` one that begins with what the backend has")),
            Err(error) => Err(Problem::new(format!("cannot look at {}: {error}", self.db.display()))),
        }
    }

    /// Opens the store, in which there must be a queue of the identity that is asked for.
    pub(crate) fn open(&self) -> Result<SqliteStore, Problem> {
        let mut store = self.open_file()?;
        if let Some(name) = &self.identity {
            let known = self.named(store.identities())?;
            if !known.iter().any(|(known, _)| known.as_ref() == Some(name)) {
                let db = self.db.display();
                return Err(Problem::new(format!("there is no queue of {name:?} in {db}"))
                    .hint("`landfall accounts` lists those that are there; `landfall enqueue --as NAME` makes one with its first change"));
            }
        }
        Ok(store)
    }

    /// What `--model` says; without it, the defaults.
    pub(crate) fn model(&self) -> Result<Model, Problem> {
        let Some(path) = &self.model else { return Ok(Model::default()) };
        let name = path.display();
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MODEL_BYTES_MAX).read_to_string(&mut text))
            .map_err(|error| Problem::new(format!("cannot read the model {name}: {error}")))?;
        serde_json::from_str(&text).map_err(|error| {
            Problem::new(format!("the model {name} is not usable: {error}")).hint(
                "`landfall enqueue --help` shows its shape below --model; docs/model.md explains each member",
            )
        })
    }

    /// An engine that has no backend, on the queue that must be there, and the model.
    pub(crate) fn queue(&self) -> Result<(Engine, Model), Problem> {
        let model = self.model()?;
        let engine = self.build(Engine::local(self.open()?), model.clone())?;
        Ok((engine, model))
    }

    /// The same on a queue that is made if there is none.
    pub(crate) fn queue_or_new(&self) -> Result<Engine, Problem> {
        let model = self.model()?;
        self.build(Engine::local(self.open_or_create()?), model)
    }

    /// Opens an engine as the queue of the identity.
    pub(crate) fn build(&self, builder: EngineBuilder, model: Model) -> Result<Engine, Problem> {
        let builder = match &self.identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        };
        self.named(builder.model(model).build_blocking())
    }

    /// Adds the file's name to an error.
    pub(crate) fn named<T>(&self, result: Result<T, impl Into<Problem>>) -> Result<T, Problem> {
        result.map_err(|error| error.into().context(self.db.display()))
    }

    fn open_path(&self) -> Result<SqliteStore, Problem> {
        let path = &self.db;
        if path.is_dir() {
            return Err(Problem::new(format!("{} is a folder", path.display())).hint("name a file"));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.exists()) {
            return Err(Problem::new(format!("there is no folder {}", folder.display()))
                .hint(format!("make it first: mkdir -p '{}'", folder.display())));
        }
        let mut options = SqliteStore::options();
        if self.colocated {
            options = options.colocated();
        }
        #[cfg(feature = "sqlcipher")]
        if let Some(file) = self.key_file.clone() {
            options = options.key_from(move || {
                let words = std::fs::read_to_string(&file)
                    .map_err(|error| format!("the key file {}: {error}", file.display()))?;
                Ok(landfall_sqlite::SecretKey::passphrase(words.trim_end_matches(['\r', '\n'])))
            });
        }
        options.open(path).map_err(|error| Problem::from(error).context(path.display()))
    }
}
