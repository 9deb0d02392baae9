//! Work for a device: the fixed workloads whose every step is cut, and random ones. Tests: `tests/power_loss.rs`.

use crate::device::{Device, FILE, Op, Trouble, Word, options};
use crate::dice::Dice;
use crate::state::{History, State};
use landfall_core::store::Store as _;
use landfall_simdisk::{Disk, Recording};
use rusqlite::Connection;
use std::fs::OpenOptions;

/// When the work of every proof begins.
pub const START_MS: u64 = 1_763_870_000_000;

/// The fixed workloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// Changes one by one.
    OneByOne,
    /// Many changes in one commit.
    Together,
    /// Freezing, sending, settling.
    Sending,
    /// Pages of the feed.
    Pulling,
    /// A log that is too long is emptied; what has ended is forgotten.
    Tidying,
    /// A file is made.
    NewFile,
    /// A file of the first schema is brought up to the newest.
    Migrating,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OneByOne,
        Self::Together,
        Self::Sending,
        Self::Pulling,
        Self::Tidying,
        Self::NewFile,
        Self::Migrating,
    ];

    /// What is done while it is watched.
    pub fn ops(self) -> Vec<Op> {
        use Op::{Answer, Burst, Delete, Enqueue, Idle, Page, Pass, Prune, Reopen, Sync};
        match self {
            Self::OneByOne => (0..20_u64)
                .map(|n| match n % 7 {
                    6 => Delete { record: n - 2 },
                    _ => Enqueue { record: n % 11, bytes: 20 + (n as usize % 4) * 2_500 },
                })
                .collect(),
            Self::Together => {
                let burst = |n: u64| Burst { first: n * 15, count: 25, bytes: 100 };
                (0..4).map(burst).chain([Reopen]).collect()
            }
            Self::Sending => {
                let mut ops = vec![Burst { first: 0, count: 14, bytes: 60 }, Sync];
                for word in [Word::Applied, Word::Mixed, Word::Lost, Word::Mixed, Word::Applied] {
                    ops.extend([Answer(word), Enqueue { record: 3, bytes: 40 }, Pass { ms: 60_000 }, Sync]);
                }
                ops
            }
            Self::Pulling => {
                let mut ops = vec![Sync];
                for changes in [12, 0, 20, 6] {
                    ops.extend([
                        Page { changes },
                        Enqueue { record: changes, bytes: 30 },
                        Answer(Word::Mixed),
                        Sync,
                    ]);
                }
                ops
            }
            Self::Tidying => {
                vec![
                    Idle,
                    Enqueue { record: 1, bytes: 30 },
                    Prune,
                    Idle,
                    Prune,
                    Enqueue { record: 2, bytes: 900 },
                ]
            }
            Self::NewFile => vec![Enqueue { record: 1, bytes: 30 }, Reopen, Enqueue { record: 2, bytes: 30 }],
            Self::Migrating => vec![Enqueue { record: 1, bytes: 30 }],
        }
    }

    /// What was done before, and is durable; the last state.
    ///
    /// # Errors
    /// When it cannot be done.
    #[allow(clippy::cast_possible_truncation, reason = "small numbers")]
    pub fn prepare(self, disk: &Disk) -> Result<State, Trouble> {
        let mut history = History::of(State::default());
        match self {
            Self::NewFile => return Ok(State::default()),
            Self::Migrating => {
                let wrong = |error: rusqlite::Error| Trouble::Wrong(error.to_string());
                let raw = Connection::open(disk.path(FILE)).map_err(wrong)?;
                raw.execute_batch(include_str!("../../sqlite/tests/golden/format-1.sql")).map_err(wrong)?;
                drop(raw);
                // What it is after the migration is read off a copy on another disk.
                let other = Disk::new(0);
                other.load(&disk.files().map_err(|error| Trouble::Wrong(error.to_string()))?);
                let mut migrated = options().open(other.path(FILE))?;
                let state = State::of(&*migrated.begin()?)?;
                disk.settle();
                return Ok(state);
            }
            _ => {}
        }
        let mut device = Device::open(disk, &options(), START_MS - 1_000_000, &mut history)?;
        let mut ops: Vec<Op> = (0..12).map(|record| Op::Enqueue { record: record % 9, bytes: 80 }).collect();
        if self == Self::Tidying {
            for _ in 0..4 {
                ops.extend([Op::Sync, Op::Answer(Word::Applied), Op::Pass { ms: 1_000 }]);
            }
        }
        for op in &ops {
            device.apply(op, &mut history)?;
        }
        // Its log stays.
        disk.kill(0);
        drop(device);
        if self == Self::Tidying {
            // A log that was longer once: what lies behind its last frame means nothing.
            let log = OpenOptions::new().write(true).open(disk.path(&format!("{FILE}-wal")));
            let log = log.map_err(|error| Trouble::Wrong(error.to_string()))?;
            log.set_len(17 << 20).map_err(|error| Trouble::Wrong(error.to_string()))?;
        }
        disk.settle();
        Ok(history.last().cloned().unwrap_or_default())
    }

    /// Runs it on a disk of its own, from opening the file to closing it.
    ///
    /// # Errors
    /// When a step of it fails: nothing goes wrong yet.
    pub fn record(
        self,
        change: impl Fn(&Disk, landfall_sqlite::Options) -> landfall_sqlite::Options,
    ) -> Result<(Recording, History), String> {
        let disk = Disk::new(self as u64);
        let told = |trouble: Trouble| format!("{self:?}, undisturbed: {trouble:?}");
        let mut history = History::of(self.prepare(&disk).map_err(told)?);
        disk.record();
        let options = change(&disk, options());
        let mut device = Device::open(&disk, &options, START_MS, &mut history).map_err(told)?;
        for op in self.ops() {
            device.apply(&op, &mut history).map_err(told)?;
        }
        drop(device);
        let recording = disk.recorded().ok_or("nothing was recorded")?;
        Ok((recording, history))
    }
}

/// Something to do, by lot.
pub fn random_op(dice: &mut Dice) -> Op {
    let record = dice.below(30);
    match dice.below(100) {
        0..35 => Op::Enqueue { record, bytes: dice.pick(&[0, 20, 200, 5_000]) },
        35..42 => Op::Burst { first: record, count: 2 + dice.below(12), bytes: dice.pick(&[10, 300]) },
        42..47 => Op::Delete { record },
        47..60 => Op::Sync,
        60..76 => Op::Answer(dice.pick(&[Word::Applied, Word::Mixed, Word::Mixed, Word::Lost])),
        76..84 => Op::Page { changes: dice.below(9) },
        84..90 => Op::Pass { ms: 1 + dice.below(100_000) },
        90..93 => Op::Prune,
        93..97 => Op::Idle,
        _ => Op::Reopen,
    }
}
