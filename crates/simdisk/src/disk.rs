//! The disk as a test sees it: its folder, its processes, its faults, its power cut. What SQLite calls is in `vfs.rs`.
//! Tests: `tests/disk.rs`.

use crate::model::{Change, Directory, Files, Image, Recording, State, Step};
use crate::vfs;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A process of the simulation. Files belong to the process that opened them; the one at the start is 0.
pub type Process = u32;

/// What goes wrong. Each kind counts the operations that it can hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The process is dead before a write, truncation, sync, creation or deletion.
    CrashBefore,
    /// The process dies in the middle of one: a write is done in part, the others are not done.
    CrashMiddle,
    /// A write fails and does nothing.
    EioWrite,
    /// A sync fails, and what was dirty never reaches the disk.
    EioSync,
    /// A sync does nothing and says that it did.
    LyingSync,
    /// A write or creation fails because the disk is full. With `forever` until [`Disk::clear_faults`].
    Full,
    /// A write is done in part, and the disk is full.
    ShortWrite,
    /// A read fails.
    EioRead,
    /// A truncation fails.
    EioTruncate,
    /// A deletion fails.
    EioDelete,
    /// Opening a file fails.
    EioOpen,
}

/// A fault that waits for its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// With which operation from now on that `kind` can hit: 1 is the next.
    pub at: u64,
    /// Whose operations count; `None`: everybody's.
    pub process: Option<Process>,
    /// Whether every such operation after it goes wrong too.
    pub forever: bool,
}

impl Fault {
    /// The `at`-th operation from now goes wrong, once, whoever does it.
    pub fn once(kind: Kind, at: u64) -> Self {
        Self { kind, at, process: None, forever: false }
    }

    /// The same and all after it.
    pub fn forever(kind: Kind, at: u64) -> Self {
        Self { forever: true, ..Self::once(kind, at) }
    }

    /// Only `process` is hit.
    #[must_use]
    pub fn of(self, process: Process) -> Self {
        Self { process: Some(process), ..self }
    }
}

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Read,
    Write,
    Truncate,
    Sync,
    Create,
    Open,
    Delete,
}

impl Kind {
    fn hits(self, operation: Operation) -> bool {
        match self {
            Self::CrashBefore | Self::CrashMiddle => !matches!(operation, Operation::Read | Operation::Open),
            Self::EioWrite | Self::ShortWrite => operation == Operation::Write,
            Self::EioSync | Self::LyingSync => operation == Operation::Sync,
            Self::Full => matches!(operation, Operation::Write | Operation::Create),
            Self::EioRead => operation == Operation::Read,
            Self::EioTruncate => operation == Operation::Truncate,
            Self::EioDelete => operation == Operation::Delete,
            Self::EioOpen => matches!(operation, Operation::Open | Operation::Create),
        }
    }
}

/// Locks on one main file, by handle, and its shared memory.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    pub(crate) levels: BTreeMap<u64, i32>,
    /// For each slot: by handle, and whether exclusive.
    pub(crate) shared_memory: [BTreeMap<u64, bool>; 8],
    pub(crate) memory: Option<Arc<SharedMemory>>,
}

/// The pieces keep their places; SQLite has pointers into them.
#[derive(Debug, Default)]
pub(crate) struct SharedMemory {
    pub(crate) pieces: Mutex<Vec<vfs::Piece>>,
}

#[derive(Debug)]
pub(crate) struct Real {
    pub(crate) file: Arc<File>,
    number: u64,
}

#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) folder: PathBuf,
    pub(crate) state: State,
    pub(crate) real: BTreeMap<u64, Real>,
    pub(crate) locks: BTreeMap<u64, Locks>,
    /// Which process each open handle is of. A handle that is not in here is dead.
    pub(crate) handles: BTreeMap<u64, Process>,
    pub(crate) next: u64,
    crashed: BTreeSet<Process>,
    faults: Vec<Fault>,
    recording: Option<Recording>,
    ops: u64,
    reads: u64,
    syncs: u64,
    hit: bool,
}

impl Inside {
    pub(crate) fn is_crashed(&self, process: Process) -> bool {
        self.crashed.contains(&process)
    }

    pub(crate) fn step(&mut self, step: Step) {
        self.state.apply(&step);
        if let Some(recording) = &mut self.recording {
            recording.steps.push(step);
        }
    }

    /// Counts an operation and says what is to go wrong with it. `Err` when its process is dead.
    pub(crate) fn operation(&mut self, process: Process, operation: Operation) -> Result<Option<Kind>, ()> {
        if self.is_crashed(process) {
            return Err(());
        }
        match operation {
            Operation::Read => self.reads += 1,
            Operation::Open => {}
            Operation::Sync => {
                self.ops += 1;
                self.syncs += 1;
            }
            _ => self.ops += 1,
        }
        let mut found = None;
        self.faults.retain_mut(|fault| {
            if !fault.kind.hits(operation) || fault.process.is_some_and(|of| of != process) {
                return true;
            }
            fault.at = fault.at.saturating_sub(1);
            if fault.at > 0 {
                return true;
            }
            found = found.or(Some(fault.kind));
            fault.forever
        });
        self.hit |= found.is_some();
        if matches!(found, Some(Kind::CrashBefore | Kind::CrashMiddle)) {
            self.crashed.insert(process);
            if found == Some(Kind::CrashBefore) {
                return Err(());
            }
        }
        Ok(found)
    }

    pub(crate) fn open_real(&mut self, name: &str, create: bool) -> io::Result<u64> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        let number = file.metadata()?.ino();
        let node = self.next;
        self.next += 1;
        self.real.insert(node, Real { file: Arc::new(file), number });
        Ok(node)
    }

    /// Takes in what was done to the folder without SQLite.
    pub(crate) fn look_around(&mut self) -> io::Result<()> {
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = self.state.directory.get(&name).copied();
            there.insert(name.clone());
            if known
                .is_some_and(|node| self.real.get(&node).is_some_and(|real| real.number == metadata.ino()))
            {
                continue;
            }
            let number = metadata.ino();
            let moved =
                self.real.iter().find(|(node, real)| real.number == number && self.state.knows(**node));
            if let Some(node) = moved.map(|(node, _)| *node) {
                self.step(Step::Add(name, node));
                continue;
            }
            let node = self.open_real(&name, false)?;
            self.step(Step::Add(name, node));
            let bytes = fs::read(entry.path())?;
            if !bytes.is_empty() {
                self.step(Step::Change(node, Change::Write(0, bytes.into())));
            }
        }
        let gone: Vec<String> =
            self.state.directory.keys().filter(|name| !there.contains(*name)).cloned().collect();
        gone.into_iter().for_each(|name| self.step(Step::Remove(name)));
        self.tidy();
        Ok(())
    }

    /// Lets go of files that have no name any more, on the disk or in use.
    pub(crate) fn tidy(&mut self) {
        let state = &self.state;
        self.real.retain(|node, _| state.knows(*node));
        self.locks
            .retain(|node, locks| state.knows(*node) || !locks.levels.is_empty() || locks.memory.is_some());
    }

    pub(crate) fn release(&mut self, handle: u64) {
        self.handles.remove(&handle);
        for locks in self.locks.values_mut() {
            locks.levels.remove(&handle);
            locks.shared_memory.iter_mut().for_each(|slot| {
                let _ = slot.remove(&handle);
            });
        }
    }

    /// The files become these: in place where they are the same file, so that the file's identity stays.
    fn become_files(&mut self, files: Vec<(String, u64, Vec<u8>)>) -> io::Result<()> {
        let old = std::mem::take(&mut self.state.directory);
        let keep = |node: u64| format!("kept.{node}");
        for (name, node) in &old {
            let path = self.folder.join(name);
            match files.iter().find(|(_, other, _)| other == node) {
                Some((same, ..)) if same == name => {}
                Some(_) => fs::rename(path, self.folder.join(keep(*node)))?,
                None => fs::remove_file(path).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })?,
            }
        }
        let mut now = Vec::new();
        for (name, mut node, bytes) in files {
            if old.get(&name) != Some(&node) {
                let kept = self.folder.join(keep(node));
                if kept.exists() {
                    fs::rename(kept, self.folder.join(&name))?;
                } else {
                    node = self.open_real(&name, true)?;
                }
            }
            let file = &self.real[&node].file;
            file.set_len(bytes.len() as u64)?;
            file.write_all_at(&bytes, 0)?;
            now.push((name, node, bytes));
        }
        self.state = State::of(now, self.state.model);
        self.handles.clear();
        self.locks.clear();
        self.crashed.clear();
        self.faults.clear();
        self.recording = None;
        self.tidy();
        Ok(())
    }
}

/// What handles and tests share.
#[derive(Debug)]
pub(crate) struct Shared {
    inside: Mutex<Inside>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static DISKS: Mutex<Vec<(PathBuf, Weak<Shared>)>> = Mutex::new(Vec::new());

/// Whose file this is, and its name there.
pub(crate) fn find(path: &Path) -> Option<(Arc<Shared>, String)> {
    let folder = path.parent()?;
    let name = path.file_name()?.to_str()?.to_owned();
    let disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, disk) = disks.iter().find(|(of, _)| of == folder)?;
    disk.upgrade().map(|disk| (disk, name))
}

/// A simulated disk. Dropping it removes its folder.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    folder: PathBuf,
}

impl Disk {
    /// An empty disk. What SQLite draws by lot on this thread follows from `seed`, as long as no other thread draws.
    ///
    /// # Panics
    /// When there is no place for its folder: nothing can be proved then.
    #[allow(clippy::expect_used, reason = "without a folder there is nothing to go on with")]
    pub fn new(seed: u64) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        vfs::register(seed);
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(format!("landfall-simdisk-{}-{number}", std::process::id()));
        // A process of the same number that was killed may have left one.
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).expect("a folder for the simulated disk");
        let folder = folder.canonicalize().expect("the folder that was just made");
        let shared = Arc::new(Shared {
            inside: Mutex::new(Inside {
                folder: folder.clone(),
                state: State::default(),
                real: BTreeMap::new(),
                locks: BTreeMap::new(),
                handles: BTreeMap::new(),
                next: 1,
                crashed: BTreeSet::new(),
                faults: Vec::new(),
                recording: None,
                ops: 0,
                reads: 0,
                syncs: 0,
                hit: false,
            }),
        });
        let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        disks.push((folder.clone(), Arc::downgrade(&shared)));
        Self { shared, folder }
    }

    /// When directory operations become durable. At first [`Directory::Strict`].
    pub fn set_directory(&self, model: Directory) {
        self.shared.lock().state.model = model;
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Until the guard is dropped, this thread is `process`.
    pub fn enter(&self, process: Process) -> Entered {
        Entered { before: vfs::set_process(process) }
    }

    /// The process ends without a word: nothing that it has open works any more, its locks are gone, and what it wrote
    /// stays, as written, not as durable. Drop what it had open before another process goes on. It may start anew.
    pub fn kill(&self, process: Process) {
        let mut inside = self.shared.lock();
        let dead: Vec<u64> =
            inside.handles.iter().filter(|(_, of)| **of == process).map(|(handle, _)| *handle).collect();
        dead.into_iter().for_each(|handle| inside.release(handle));
        // Whoever uses a log holds a lock on the main file. The last one takes the shared memory with it.
        for locks in inside.locks.values_mut().filter(|locks| locks.levels.is_empty()) {
            locks.memory = None;
        }
        inside.crashed.remove(&process);
        inside.tidy();
    }

    /// The power goes, and comes back: everything that was open is dead, faults are over, and the disk holds what is
    /// left. The counters go on.
    ///
    /// # Panics
    /// When the real files cannot be written.
    #[allow(clippy::expect_used, reason = "without its files there is nothing to go on with")]
    pub fn power_loss(&self, image: Image, seed: u64) {
        let mut inside = self.shared.lock();
        inside.look_around().expect("the folder of the simulated disk");
        let files = inside.state.image(image, seed);
        inside.become_files(files).expect("the files of the simulated disk");
    }

    /// The disk holds exactly these files, all of them durable, and everything that was open is dead.
    ///
    /// # Panics
    /// When the real files cannot be written.
    #[allow(clippy::expect_used, reason = "without its files there is nothing to go on with")]
    pub fn load(&self, files: &Files) {
        let mut inside = self.shared.lock();
        inside.look_around().expect("the folder of the simulated disk");
        let mut new = inside.next;
        let node = |name: &String| {
            new += 1;
            inside.state.directory.get(name).copied().unwrap_or(u64::MAX - new)
        };
        let nodes: Vec<u64> = files.keys().map(node).collect();
        let files = files.iter().zip(nodes).map(|((name, bytes), node)| (name.clone(), node, bytes.clone()));
        let files = files.collect();
        inside.become_files(files).expect("the files of the simulated disk");
    }

    /// The files as programs read them now.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn files(&self) -> io::Result<Files> {
        let mut files = Files::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
        }
        Ok(files)
    }

    /// Everything that programs see now is durable.
    ///
    /// # Panics
    /// When the folder cannot be read.
    #[allow(clippy::expect_used, reason = "without its files there is nothing to go on with")]
    pub fn settle(&self) {
        let mut inside = self.shared.lock();
        inside.look_around().expect("the folder of the simulated disk");
        inside.step(Step::Settle);
    }

    /// From now on everything is written down, until [`recorded`](Self::recorded).
    ///
    /// # Panics
    /// When the folder cannot be read.
    #[allow(clippy::expect_used, reason = "without its files there is nothing to go on with")]
    pub fn record(&self) {
        let mut inside = self.shared.lock();
        inside.look_around().expect("the folder of the simulated disk");
        inside.recording = Some(Recording { state: inside.state.clone(), steps: Vec::new(), done: 0 });
    }

    /// How many steps were written down so far.
    pub fn steps(&self) -> usize {
        self.shared.lock().recording.as_ref().map_or(0, Recording::len)
    }

    /// What was written down since [`record`](Self::record).
    pub fn recorded(&self) -> Option<Recording> {
        self.shared.lock().recording.take()
    }

    /// Adds a fault to those that wait, and forgets that one was hit.
    pub fn set_fault(&self, fault: Fault) {
        let mut inside = self.shared.lock();
        inside.hit = false;
        inside.faults.push(fault);
    }

    /// Nothing goes wrong any more: a full disk has space again. Processes that crashed stay dead.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Whether a fault was hit since the last one was set.
    pub fn was_hit(&self) -> bool {
        self.shared.lock().hit
    }

    /// Whether the process crashed, and was neither killed nor lost its power since.
    pub fn is_crashed(&self, process: Process) -> bool {
        self.shared.lock().is_crashed(process)
    }

    /// Writes, truncations, syncs, creations and deletions so far.
    pub fn ops(&self) -> u64 {
        self.shared.lock().ops
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.shared.lock().reads
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.shared.lock().syncs
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|(folder, _)| *folder != self.folder);
        drop(disks);
        self.shared.lock().handles.clear();
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// While it lives, its thread is another process.
#[derive(Debug)]
#[must_use = "the thread is this process only while the guard lives"]
pub struct Entered {
    before: Process,
}

impl Drop for Entered {
    fn drop(&mut self) {
        vfs::set_process(self.before);
    }
}
