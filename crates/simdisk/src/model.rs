//! What is durable, what is pending, and what a power cut makes of it. Pure: no files, no SQLite. Tests: `tests/disk.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

const SECTOR: usize = 512;

/// The files of a disk by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// When a directory operation becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Directory {
    /// When a new journal or log is first synced, or a delete asks for it.
    #[default]
    Strict,
    /// With any later sync too, as journalling file systems do it.
    Ordered,
}

/// What a power cut leaves of that which was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// Nothing.
    Nothing,
    /// All of it.
    Everything,
    /// Each sector or not; directory operations up to some point.
    Sectors,
    /// The same, and sectors cut inside.
    Torn,
    /// The newest write of each file without those before it.
    NewestOnly,
    /// Every write, no directory operation.
    DataWithoutDirectory,
    /// Every directory operation, no write.
    DirectoryWithoutData,
}

impl Image {
    /// Every kind there is.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Everything,
        Self::Sectors,
        Self::Torn,
        Self::NewestOnly,
        Self::DataWithoutDirectory,
        Self::DirectoryWithoutData,
    ];
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(usize, Arc<[u8]>),
    Truncate(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => put(bytes, *at, data),
            Self::Truncate(len) => bytes.resize(*len, 0),
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

#[derive(Clone, Debug)]
enum Entry {
    Add(String, u64),
    Remove(String),
}

/// Something that changes the state.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Change(u64, Change),
    Sync {
        node: u64,
        directory: bool,
    },
    /// A failed sync: what was dirty will never reach the disk.
    Forget(u64),
    Add(String, u64),
    Remove(String),
    SyncDirectory,
    /// Everything reaches the disk.
    Settle,
    /// Nothing changes, yet it counts: a power cut before and after it is tried.
    Nothing,
}

#[derive(Clone, Debug, Default)]
struct Node {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    nodes: BTreeMap<u64, Node>,
    pub(crate) directory: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<Entry>,
    pub(crate) model: Directory,
}

impl State {
    pub(crate) fn of(files: impl IntoIterator<Item = (String, u64, Vec<u8>)>, model: Directory) -> Self {
        let mut state = Self { model, ..Self::default() };
        for (name, node, bytes) in files {
            state.nodes.insert(node, Node { durable: bytes, pending: Vec::new() });
            state.directory.insert(name, node);
        }
        state.durable = state.directory.clone();
        state
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Change(node, change) => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.pending.push(change.clone());
                }
            }
            Step::Sync { node, directory } => {
                self.flush(*node);
                if *directory || self.model == Directory::Ordered {
                    self.sync_directory();
                }
            }
            Step::Forget(node) => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.pending.clear();
                }
            }
            Step::Add(name, node) => {
                self.nodes.entry(*node).or_default();
                self.directory.insert(name.clone(), *node);
                self.pending.push(Entry::Add(name.clone(), *node));
            }
            Step::Remove(name) => {
                if self.directory.remove(name).is_some() {
                    self.pending.push(Entry::Remove(name.clone()));
                }
            }
            Step::SyncDirectory => self.sync_directory(),
            Step::Settle => {
                let nodes: Vec<u64> = self.nodes.keys().copied().collect();
                nodes.into_iter().for_each(|node| self.flush(node));
                self.sync_directory();
            }
            Step::Nothing => {}
        }
    }

    fn flush(&mut self, node: u64) {
        if let Some(node) = self.nodes.get_mut(&node) {
            for change in std::mem::take(&mut node.pending) {
                change.apply(&mut node.durable);
            }
        }
    }

    fn sync_directory(&mut self) {
        self.pending.clear();
        self.durable.clone_from(&self.directory);
        let named: Vec<u64> = self.directory.values().copied().collect();
        self.nodes.retain(|node, _| named.contains(node));
    }

    pub(crate) fn knows(&self, node: u64) -> bool {
        self.nodes.contains_key(&node)
    }

    /// What a power cut now would leave.
    pub(crate) fn image(&self, image: Image, seed: u64) -> Vec<(String, u64, Vec<u8>)> {
        let mut random = Random(seed ^ 0x00AB_CDEF);
        let kept = match image {
            Image::Nothing | Image::DataWithoutDirectory => 0,
            Image::Sectors | Image::Torn => random.below(self.pending.len() + 1),
            Image::Everything | Image::NewestOnly | Image::DirectoryWithoutData => self.pending.len(),
        };
        let mut names = self.durable.clone();
        for entry in &self.pending[..kept] {
            match entry {
                Entry::Add(name, node) => {
                    names.insert(name.clone(), *node);
                }
                Entry::Remove(name) => {
                    names.remove(name);
                }
            }
        }
        let surviving = |(name, id): (String, u64)| {
            let bytes = self.nodes.get(&id).map(|node| node.image(image, &mut random)).unwrap_or_default();
            (name, id, bytes)
        };
        names.into_iter().map(surviving).collect()
    }
}

impl Node {
    fn image(&self, image: Image, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        match image {
            Image::Nothing | Image::DirectoryWithoutData => {}
            Image::Everything | Image::DataWithoutDirectory => {
                self.pending.iter().for_each(|change| change.apply(&mut bytes));
            }
            Image::NewestOnly => {
                self.pending.iter().next_back().into_iter().for_each(|last| last.apply(&mut bytes))
            }
            Image::Sectors | Image::Torn => {
                for change in &self.pending {
                    match change {
                        Change::Truncate(_) if random.below(2) == 0 => change.apply(&mut bytes),
                        Change::Truncate(_) => {}
                        Change::Write(at, data) => {
                            scatter(&mut bytes, *at, data, image == Image::Torn, random)
                        }
                    }
                }
            }
        }
        bytes
    }
}

fn scatter(bytes: &mut Vec<u8>, at: usize, data: &[u8], torn: bool, random: &mut Random) {
    let mut done = 0;
    while done < data.len() {
        let begin = at + done;
        let end = ((begin / SECTOR + 1) * SECTOR).min(at + data.len());
        let sector = &data[done..end - at];
        let dice = random.next();
        let cut = match (torn, dice & 3) {
            (false, 0 | 1) | (true, 1..) => sector.len(),
            _ => 0,
        };
        let cut = if torn && dice & 12 == 0 { cut.min(random.below(sector.len() + 1)) } else { cut };
        if cut > 0 {
            put(bytes, begin, &sector[..cut]);
        }
        done = end - at;
    }
}

/// Everything that happened on a disk since some moment: a power cut after any of its steps can be asked for, without
/// running the work again.
#[derive(Clone, Debug)]
pub struct Recording {
    pub(crate) state: State,
    pub(crate) steps: Vec<Step>,
    pub(crate) done: usize,
}

impl Recording {
    /// How many steps it has.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many steps it stands behind.
    pub fn position(&self) -> usize {
        self.done
    }

    /// Goes one step on. False at the end.
    pub fn advance(&mut self) -> bool {
        let Some(step) = self.steps.get(self.done) else { return false };
        self.state.apply(step);
        self.done += 1;
        true
    }

    /// From now on this directory model holds.
    pub fn set_directory(&mut self, model: Directory) {
        self.state.model = model;
    }

    /// What a power cut here would leave.
    pub fn image(&self, image: Image, seed: u64) -> Files {
        self.state.image(image, seed).into_iter().map(|(name, _, bytes)| (name, bytes)).collect()
    }
}

/// splitmix64
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}
