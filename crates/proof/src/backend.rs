//! The server of a simulated life on a simulated disk: the real apply code, its writer thread and its SQLite file.
//!
//! Its disk fails, is full and loses power, and it is killed, at operations that a seed chooses. Beside it a model in memory
//! takes every request that was answered, and the answers must be the same. Of a request whose answer was lost nobody
//! knows whether it took effect: when the server is there again it holds all of it or nothing, and still everything that
//! it ever answered (E7, E8). It knows nothing of the world but what [`Backend`] says. Tests: `tests/whole_engine.rs`.

use crate::dice::Dice;
use crate::troubles::Troubles;
use landfall_protocol::{PROTOCOL_VERSION, PushResponse};
use landfall_server::incoming::{Incoming, Submission};
use landfall_server::state::{MemoryRecords, Policy, Records, RecordsError, Refusal, push_with};
use landfall_server::{SqliteOptions, SqliteStore, StoreError};
use landfall_simdisk::{Directory, Disk, Fault, Image, Kind};
use landfall_testkit::campaign::Figures;
use landfall_testkit::sim::home::Backend;
use std::collections::BTreeSet;

/// The name of the database; that of [`MemoryRecords`] in the other worlds.
const NAME: &str = "simulated";
/// The tenant of [`MemoryRecords`].
const TENANT: &str = "default";
const FILE: &str = "server.db";
/// The server's threads are this process: the writer's enters no other.
const SERVER: u32 = 0;

/// What is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerPlant {
    /// Syncs of its disk do nothing and say that they did, so that it answers before its commit is durable.
    LyingSync,
}

/// A server with a disk of its own. The store goes first, then the disk.
#[derive(Debug)]
pub struct DiskBackend {
    store: Option<SqliteStore>,
    disk: Disk,
    troubles: Troubles,
    full: u64,
    healed: bool,
    plant: Option<ServerPlant>,
    /// What it must hold.
    model: MemoryRecords,
    /// Every key that ever came.
    keys: BTreeSet<String>,
    /// What it did wrong first.
    wrong: Option<String>,
    figures: Figures,
}

impl DiskBackend {
    /// A server with a new database.
    ///
    /// # Panics
    /// When that cannot be made.
    #[allow(clippy::expect_used, reason = "without a database there is nothing to prove")]
    pub fn new(seed: u64, plant: Option<ServerPlant>) -> Self {
        let mut dice = Dice::new(seed, 15);
        let disk = Disk::new(dice.next());
        disk.set_directory(dice.pick(&[Directory::Strict, Directory::Ordered]));
        let mut new = Self {
            store: None,
            disk,
            troubles: Troubles::draw(Dice::new(seed, 16)),
            full: 0,
            healed: false,
            plant,
            model: MemoryRecords::new(NAME),
            keys: BTreeSet::new(),
            wrong: None,
            figures: Figures::new(),
        };
        new.open().expect("a new database on a sound disk");
        new.store = None;
        let _inside = new.disk.enter(SERVER);
        let named = rusqlite::Connection::open(new.disk.path(FILE))
            .and_then(|file| file.execute("UPDATE meta SET value = ?1 WHERE name = 'server_id'", [NAME]));
        named.expect("its name, which else would be drawn by the system");
        new
    }

    fn open(&mut self) -> Result<&SqliteStore, StoreError> {
        let store = match self.store.take() {
            Some(open) => open,
            None => {
                let _inside = self.disk.enter(SERVER);
                SqliteStore::open(self.disk.path(FILE), SqliteOptions::default())?
            }
        };
        Ok(self.store.insert(store))
    }

    fn count(&mut self, what: &'static str) {
        *self.figures.entry(what).or_default() += 1;
    }

    fn cut_power(&mut self) {
        let (image, seed) = (self.troubles.dice.pick(&Image::ALL), self.troubles.dice.next());
        self.disk.power_loss(image, seed);
        self.store = None;
        self.full = 0;
        self.count("images");
    }

    /// It died in a request, or its machine did.
    fn die(&mut self) {
        if self.troubles.dice.percent(self.troubles.power) {
            return self.cut_power();
        }
        self.disk.kill(SERVER);
        self.store = None;
        self.count("server deaths");
    }

    /// It is there again, with all of a request whose fate nobody knows or nothing of it, and with everything else.
    fn come_back(&mut self, policy: &dyn Policy, doubtful: Option<&Submission>) {
        self.disk.clear_faults();
        if self.troubles.dice.percent(50) {
            self.store = None;
        }
        // A writer that is in doubt makes durable what it finds before it does anything.
        let nothing = Submission {
            protocol: PROTOCOL_VERSION,
            client_id: "whoever looks".into(),
            client_epoch: 1,
            server_id: None,
            tasks: Vec::new(),
        };
        let looked =
            self.open().map_err(Refusal::from).and_then(|store| store.push_blocking(TENANT, nothing));
        if let Err(refusal) = looked {
            return self.blame(format!("it does not come back: {refusal:?}"));
        }
        let mut with_it = self.model.clone();
        if let Some(doubtful) = doubtful {
            let _ = push_with(&mut with_it, policy, doubtful);
        }
        let (Some(without), Some(with)) = (self.difference(&self.model), self.difference(&with_it)) else {
            if self.difference(&self.model).is_some() {
                self.model = with_it;
                self.count("requests found after a lost answer");
            }
            return;
        };
        self.blame(format!("with the last request: {with}; without: {without}"));
    }

    /// Where it holds something else.
    fn difference(&self, model: &MemoryRecords) -> Option<String> {
        let Some(store) = &self.store else { return Some("it is not there".into()) };
        let _inside = self.disk.enter(SERVER);
        let compared = store.read_blocking(TENANT, |records| Ok(differ(records, model, &self.keys)?));
        compared.unwrap_or_else(|refusal| Some(format!("it cannot be read: {refusal:?}")))
    }

    fn blame(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }
}

/// The first thing in which two databases are not the same, to whoever asks.
fn differ(
    one: &dyn Records,
    other: &MemoryRecords,
    keys: &BTreeSet<String>,
) -> Result<Option<String>, RecordsError> {
    let (version, expected) = (one.version()?, other.version()?);
    if version != expected {
        return Ok(Some(format!("version {version} instead of {expected}")));
    }
    let (records, expected) =
        (one.changed_after(0, usize::MAX, usize::MAX)?, other.changed_after(0, usize::MAX, usize::MAX)?);
    if records != expected {
        return Ok(Some(format!("records {records:?} instead of {expected:?}")));
    }
    for key in keys {
        let (seen, expected) = (one.seen(key)?, other.seen(key)?);
        if seen != expected {
            return Ok(Some(format!("under key {key} {seen:?} instead of {expected:?}")));
        }
    }
    for (client, expected) in other.all_clients() {
        let epoch = one.client_epoch(client)?;
        if epoch != Some(expected) {
            return Ok(Some(format!("epoch {epoch:?} of {client} instead of {expected}")));
        }
    }
    Ok(None)
}

impl Backend for DiskBackend {
    fn push(&mut self, policy: &dyn Policy, request: &Submission) -> Option<Result<PushResponse, Refusal>> {
        self.keys.extend(request.tasks.iter().map(|task| match task {
            Incoming::Task(task, _) => task.key.clone(),
            Incoming::Unreadable { key, .. } => key.clone(),
        }));
        if !self.healed && self.troubles.dice.percent(self.troubles.between) {
            self.cut_power();
            self.come_back(policy, None);
        }
        if self.plant == Some(ServerPlant::LyingSync) {
            self.disk.set_fault(Fault::forever(Kind::LyingSync, 1));
        }
        let armed = !self.healed && self.troubles.arm(&self.disk, SERVER, &mut self.full);
        let answer =
            self.open().map_err(Refusal::from).and_then(|store| store.push_blocking(TENANT, request.clone()));
        if self.disk.is_crashed(SERVER) {
            self.die();
            self.come_back(policy, Some(request));
            return None;
        }
        if armed && self.disk.was_hit() {
            self.count("faults");
        }
        self.disk.clear_faults();
        if let Err(Refusal::Store(_)) = &answer {
            self.come_back(policy, Some(request));
            return Some(answer);
        }
        let expected = push_with(&mut self.model, policy, request);
        if format!("{answer:?}") != format!("{expected:?}") {
            self.blame(format!("it answered {answer:?} instead of {expected:?}"));
        }
        Some(answer)
    }

    fn read(&mut self, with: &mut dyn FnMut(&dyn Records)) -> bool {
        let read = |store: &SqliteStore| {
            store.read_blocking(TENANT, |records| {
                with(records);
                Ok(())
            })
        };
        let _inside = self.disk.enter(SERVER);
        self.open().map_err(Refusal::from).and_then(read).is_ok()
    }

    fn truth(&self) -> &MemoryRecords {
        &self.model
    }

    fn verify(&mut self) -> Result<(), String> {
        self.store = None;
        self.come_back(&landfall_server::state::NoPolicy, None);
        match self.wrong.take() {
            Some(wrong) => Err(format!("E7: the server: {wrong}")),
            None => Ok(()),
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        self.disk.clear_faults();
    }

    fn figures(&self) -> Figures {
        self.figures.clone()
    }
}
