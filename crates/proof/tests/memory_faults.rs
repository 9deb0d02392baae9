//! The n-th allocation inside SQLite fails, once or for ever, for many n: a program of its own, because the allocator must
//! be replaced before anything else that SQLite does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_core::store::{Store as _, StoreError};
use landfall_proof::cut::integrity;
use landfall_proof::device::{Device, FILE, Trouble, options};
use landfall_proof::state::{History, State, one_of};
use landfall_proof::work::{START_MS, Workload};
use landfall_simdisk::{Disk, Image, memory};
use landfall_testkit::campaign::{Figures, note};

/// Between two allocations that fail, so that a run of all workloads stays short.
const EVERY: u64 = 211;

/// Whether one failed.
fn starved(workload: Workload, at: u64, forever: bool) -> Result<bool, String> {
    memory::clear();
    let disk = Disk::new(at);
    let mut history = History::of(workload.prepare(&disk).map_err(|trouble| format!("{trouble:?}"))?);
    let mut ops = workload.ops().into_iter();
    let mut device = None;
    memory::fail(at, forever);
    let mut outcome =
        Device::open(&disk, &options(), START_MS, &mut history).map(|opened| device = Some(opened));
    while let (Ok(()), Some(open)) = (&outcome, &mut device) {
        let Some(op) = ops.next() else { break };
        outcome = open.apply(&op, &mut history);
    }
    memory::clear();
    let hit = memory::was_hit();
    match outcome {
        Ok(()) => {}
        Err(Trouble::Wrong(what)) => return Err(what),
        Err(_) if !hit => return Err("it failed, and no allocation had".into()),
        Err(Trouble::Commit(error)) => {
            let closed = device.as_mut().map(|device| device.store().begin().map(drop));
            if !matches!(closed, None | Some(Err(StoreError::Closed))) {
                return Err(format!("after a failed commit ({error:?}): {closed:?}"));
            }
        }
        Err(Trouble::Store(StoreError::Io(_) | StoreError::Closed)) => {}
        Err(Trouble::Store(other)) => return Err(format!("no memory is called {other:?}")),
    }
    match &mut device {
        Some(device) => device.recover(&mut history, at % 2 == 0),
        None => Device::open(&disk, &options(), START_MS + 5_000, &mut history)
            .map(|opened| device = Some(opened)),
    }
    .map_err(|trouble| format!("it does not go on: {trouble:?}"))?;
    let open = device.as_mut().ok_or("it is not open")?;
    for op in ops {
        open.apply(&op, &mut history).map_err(|trouble| format!("{op:?}, with memory again: {trouble:?}"))?;
    }
    drop(device);
    let allowed: Vec<State> = history.allowed(usize::MAX).into_iter().cloned().collect();
    disk.power_loss(Image::Nothing, at);
    let mut store = options().open(disk.path(FILE)).map_err(|error| format!("{error:?}"))?;
    let found = store.begin().and_then(|tx| State::of(&*tx)).map_err(|error| format!("{error:?}"))?;
    one_of(&found, &allowed.iter().collect::<Vec<_>>())?;
    match integrity(&disk) {
        Ok(check) if check == "ok" => Ok(hit),
        other => Err(format!("not whole: {other:?}")),
    }
}

#[test]
fn whichever_allocation_fails_nothing_acknowledged_is_lost() {
    let started = std::time::Instant::now();
    memory::install();
    let mut faults = 0;
    for (number, workload) in Workload::ALL.into_iter().enumerate() {
        for forever in [false, true] {
            let mut at = 1 + number as u64 * 11;
            loop {
                let outcome = starved(workload, at, forever);
                assert!(outcome.is_ok(), "{workload:?}, allocation {at}, for ever {forever}: {outcome:?}");
                if outcome == Ok(false) {
                    break;
                }
                faults += 1;
                // Dense at first, where the store is opened.
                at += if at < 400 { 3 } else { EVERY };
            }
        }
    }
    note("memory-faults", started.elapsed(), &Figures::from([("faults", faults)]));
    assert!(faults > 500, "only {faults} allocations failed");
}
