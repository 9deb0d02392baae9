//! Files that are not what was written: opened or refused, rescued or not, never a panic and never a row that never was.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_core::store::{Store as _, StoreError};
use landfall_proof::device::{Device, FILE, Op, Trouble, options};
use landfall_proof::dice::Dice;
use landfall_proof::known::Known;
use landfall_proof::state::{History, State};
use landfall_proof::work::{START_MS, random_op};
use landfall_simdisk::{Disk, Files};
use landfall_sqlite::OnCorrupt;
use landfall_testkit::campaign::{Campaign, Figures};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

const FOREIGN_LOG: &str = "the log of another store";

/// How many files are damaged in one life.
const FILES: u64 = 52;

/// A store at several moments, as files with the log beside them, and everything that was ever in it.
struct Sample {
    moments: Vec<Files>,
    known: Known,
    states: Vec<State>,
}

/// Random work, looked at between its steps.
fn sample(seed: u64) -> Sample {
    let disk = Disk::new(seed);
    let mut dice = Dice::new(seed, 2);
    let mut history = History::of(State::default());
    let mut moments = Vec::new();
    let mut now_ms = START_MS;
    for _ in 0..3 {
        let mut device = Device::open(&disk, &options(), now_ms, &mut history).unwrap();
        for number in 0..21 {
            let op = random_op(&mut dice);
            match device.apply(&op, &mut history) {
                Ok(()) => {}
                Err(trouble @ (Trouble::Store(_) | Trouble::Commit(_) | Trouble::Wrong(_))) => {
                    panic!("{op:?}: {trouble:?}")
                }
            }
            if number % 7 == 6 {
                moments.push(disk.files().unwrap());
            }
        }
        now_ms = device.now_ms() + 1;
        drop(device);
        // Closed: without a log.
        moments.push(disk.files().unwrap());
    }
    let states = history.states();
    Sample { moments, known: Known::of(&states), states }
}

/// Two stores that have nothing to do with each other; in a file of the first there may be a log of the second.
fn samples() -> &'static (Sample, Sample, Known) {
    static SAMPLES: OnceLock<(Sample, Sample, Known)> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let (one, other) = (sample(1), sample(2));
        let both = Known::of(one.states.iter().chain(&other.states));
        (one, other, both)
    })
}

fn log() -> String {
    format!("{FILE}-wal")
}

/// Damages a store in one of many ways.
fn damage(mut files: Files, sample: &Sample, other: &Sample, dice: &mut Dice) -> (&'static str, Files) {
    let has_log = files.get(&log()).is_some_and(|log| log.len() > 32);
    let name = if has_log && dice.percent(40) { log() } else { FILE.to_owned() };
    let what = match dice.below(13) {
        0 | 1 => {
            let bytes = files.get_mut(&name).unwrap();
            let places = if dice.percent(25) { 200.min(bytes.len()) } else { bytes.len() };
            bytes[dice.index(places)] ^= 1 << dice.below(8);
            "a flipped bit"
        }
        2 => {
            let bytes = files.get_mut(&name).unwrap();
            for _ in 0..40 {
                let place = dice.index(bytes.len());
                bytes[place] = dice.next() as u8;
            }
            "many wrong bytes"
        }
        3 => {
            let bytes = files.get_mut(&name).unwrap();
            bytes.truncate(dice.index(bytes.len()));
            "cut off"
        }
        4 => {
            let bytes = files.get_mut(&name).unwrap();
            let page = dice.index(bytes.len() / 4_096) * 4_096;
            let end = (page + 4_096).min(bytes.len());
            bytes[page..end].fill(0);
            "a page of zeros"
        }
        5 => {
            let bytes = files.get_mut(FILE).unwrap();
            let (one, two) =
                (dice.index(bytes.len() / 4_096) * 4_096, dice.index(bytes.len() / 4_096) * 4_096);
            let page = bytes[one..one + 4_096].to_vec();
            bytes.copy_within(two..two + 4_096, one);
            bytes[two..two + 4_096].copy_from_slice(&page);
            "two pages in each other's place"
        }
        6 => {
            let older = &sample.moments[dice.index(sample.moments.len())];
            match older.get(&log()) {
                Some(bytes) => drop(files.insert(log(), bytes.clone())),
                None => drop(files.remove(&log())),
            }
            "the log of another moment"
        }
        7 => {
            let foreign =
                other.moments.iter().find_map(|files| files.get(&log()).filter(|log| log.len() > 32));
            files.insert(log(), foreign.unwrap().clone());
            FOREIGN_LOG
        }
        8 => {
            files.remove(&log());
            "no log"
        }
        9 => {
            files.insert(name, Vec::new());
            "no bytes"
        }
        10 => {
            let garbage = (0..1 + dice.below(20_000)).map(|_| dice.next() as u8).collect();
            files.insert(name, garbage);
            "rubbish"
        }
        11 => {
            let older = &sample.moments[dice.index(sample.moments.len())];
            let bytes = files.get_mut(FILE).unwrap();
            let end = bytes.len().min(older[FILE].len());
            let page = dice.index(end / 4_096) * 4_096;
            bytes[page..page + 4_096].copy_from_slice(&older[FILE][page..page + 4_096]);
            "a page of another moment"
        }
        _ => {
            let page = dice.index(files[FILE].len() / 4_096) * 4_096;
            let garbage: Vec<u8> = (0..4_096).map(|_| dice.next() as u8).collect();
            files.get_mut(FILE).unwrap()[page..page + 4_096].copy_from_slice(&garbage);
            "a page of rubbish"
        }
    };
    (what, files)
}

#[derive(Default)]
struct Came {
    opened: u64,
    refused: u64,
    rescued: u64,
    lost: u64,
    damaged: u64,
}

/// A log without what is left behind its end of an older one: frames of other salts.
fn in_force(log: &[u8]) -> &[u8] {
    const HEAD: usize = 32;
    const FRAME: usize = 24 + 4_096;
    let is_of_it = |number: &usize| {
        let at = HEAD + number * FRAME;
        log.len() >= at + FRAME && log[at + 8..at + 16] == log[16..24]
    };
    let frames = (0..log.len() / FRAME).take_while(is_of_it).count();
    &log[..log.len().min(HEAD + frames * FRAME)]
}

/// Opens damaged files as they are, and once more with the wish to rescue them.
fn look_at(disk: &Disk, files: &Files, known: &Known, came: &mut Came) -> Result<(), String> {
    disk.load(files);
    let refused = match options().open(disk.path(FILE)) {
        Ok(mut store) => {
            came.opened += 1;
            if let Ok(tx) = store.begin() {
                came.damaged += known.look(&*tx, false)?.damaged;
            }
            // It may go on; whether it can is another matter. It must not panic.
            let mut history = History::of(State::default());
            drop(store);
            if let Ok(mut device) = Device::open(disk, &options(), START_MS * 2, &mut history) {
                let _ = device.apply(&Op::Sync, &mut history);
            }
            None
        }
        Err(error) => Some(error),
    };
    match &refused {
        None => return Ok(()),
        Some(
            StoreError::Corrupt(_)
            | StoreError::Foreign(_)
            | StoreError::TooNew { .. }
            | StoreError::Damaged(_),
        ) => {
            came.refused += 1;
        }
        Some(other) => return Err(format!("a damaged file is called {other:?}")),
    }
    let now = disk.files().map_err(|error| error.to_string())?;
    let bytes = |files: &Files, name: &str| files.get(name).cloned().unwrap_or_default();
    if bytes(&now, FILE) != bytes(files, FILE) {
        return Err(format!("it was refused ({refused:?}), and changed"));
    }
    // That a file is too short for its log may come to light behind the opening's own commit, which is then in the log.
    if !bytes(&now, &log()).starts_with(in_force(&bytes(files, &log()))) {
        return Err(format!("it was refused ({refused:?}), and something of its log is gone"));
    }
    match options().on_corrupt(OnCorrupt::Rescue).open(disk.path(FILE)) {
        Ok(mut store) => {
            // Another opening may find less to complain of: what it hands out must be true all the same.
            if store.rescued().is_none() {
                came.opened += 1;
                return store.begin().map_or(Ok(()), |tx| known.look(&*tx, false).map(drop));
            }
            came.rescued += 1;
            let tx = store.begin().map_err(|error| format!("after a rescue: {error:?}"))?;
            let seen = known.look(&*tx, true).map_err(|what| format!("after a rescue: {what}"))?;
            if seen.damaged + seen.errors > 0 {
                return Err(format!("after a rescue it is not whole: {seen:?}"));
            }
        }
        Err(_) => came.lost += 1,
    }
    Ok(())
}

#[test]
fn no_damage_makes_a_row_that_never_was() {
    let figures = Campaign::new("damaged-files", 100).run(|seed| {
        let (sample, other, both) = samples();
        let disk = Disk::new(seed);
        let mut dice = Dice::new(seed, 3);
        let mut came = Came::default();
        for number in 0..FILES {
            let moment = sample.moments[dice.index(sample.moments.len())].clone();
            let (what, files) = damage(moment, sample, other, &mut dice);
            // SQLite cannot tell whose log it is. What comes out of it was written, though not here.
            let known = if what == FOREIGN_LOG { both } else { &sample.known };
            catch_unwind(AssertUnwindSafe(|| look_at(&disk, &files, known, &mut came)))
                .unwrap_or_else(|_| Err("a panic".into()))
                .map_err(|error| format!("file {number}, {what}: {error}"))?;
        }
        Ok(Figures::from([
            ("damaged files", FILES),
            ("opened", came.opened),
            ("refused", came.refused),
            ("rescued", came.rescued),
            ("beyond rescue", came.lost),
            ("damaged rows", came.damaged),
        ]))
    });
    assert!(figures["opened"] > 0 && figures["refused"] > 0 && figures["rescued"] > 0, "{figures:?}");
}
