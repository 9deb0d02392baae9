//! The n-th operation of the disk fails, for every n: each call says what is so, and nothing acknowledged is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_core::store::{Store as _, StoreError};
use landfall_proof::cut::integrity;
use landfall_proof::device::{Device, Op, Trouble, options};
use landfall_proof::state::{History, State, one_of};
use landfall_proof::work::{START_MS, Workload};
use landfall_simdisk::{Disk, Fault, Image, Kind};
use landfall_testkit::campaign::{Campaign, Figures, note};

/// What goes wrong, and whether it stays so.
const FAULTS: [(Kind, bool); 9] = [
    (Kind::EioWrite, false),
    (Kind::EioWrite, true),
    (Kind::EioSync, false),
    (Kind::Full, false),
    (Kind::Full, true),
    (Kind::ShortWrite, false),
    (Kind::EioRead, false),
    (Kind::EioTruncate, false),
    (Kind::EioDelete, false),
];

/// How an error of a commit is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    /// Nobody knows.
    Unknown,
    /// As if nothing was saved: a planted bug.
    AsNothing,
    /// As if all was saved: a planted bug.
    AsSuccess,
}

/// What became of one run.
#[derive(Default, Debug)]
struct Seen {
    hit: bool,
    commits_failed: u64,
}

/// Runs a workload with its `at`-th operation of a kind failing. `kill`: afterwards the process dies instead of closing.
fn faulted(
    workload: Workload,
    (kind, forever): (Kind, bool),
    at: u64,
    kill: bool,
    taken: Taken,
) -> Result<Seen, String> {
    let disk = Disk::new(at);
    let mut seen = Seen::default();
    let mut history = History::of(workload.prepare(&disk).map_err(|trouble| format!("{trouble:?}"))?);
    disk.record();
    disk.set_fault(if forever { Fault::forever(kind, at) } else { Fault::once(kind, at) });
    let mut ops = workload.ops().into_iter().chain([Op::Enqueue { record: 500, bytes: 90 }]);
    let mut now_ms = START_MS;
    // The first opening, and the work until something goes wrong.
    let mut device = match Device::open(&disk, &options(), now_ms, &mut history) {
        Ok(device) => Some(device),
        Err(Trouble::Wrong(what)) => return Err(what),
        Err(Trouble::Commit(error) | Trouble::Store(error)) => {
            typed(&error)?;
            None
        }
    };
    while let Some(open) = &mut device {
        let Some(op) = ops.next() else { break };
        let outcome = open.apply(&op, &mut history);
        now_ms = open.now_ms();
        let told = |what: String| format!("{op:?}: {what}");
        match outcome {
            Ok(()) => continue,
            Err(Trouble::Wrong(what)) => return Err(told(what)),
            Err(Trouble::Store(error)) => typed(&error).map_err(told)?,
            Err(Trouble::Commit(error)) => {
                typed(&error).map_err(told)?;
                seen.commits_failed += 1;
                let closed = open.store().begin().map(drop);
                if !matches!(closed, Err(StoreError::Closed)) {
                    return Err(told(format!("after a failed commit: {closed:?}")));
                }
                match taken {
                    Taken::Unknown => {}
                    Taken::AsNothing => history.take_back(),
                    Taken::AsSuccess => history.acknowledge(disk.steps()),
                }
            }
        }
        if !disk.was_hit() {
            return Err(told("it failed, and nothing had gone wrong".into()));
        }
        // While it is wrong, opening again fails or goes well, and says which.
        if forever {
            match open.recover(&mut history, true) {
                Err(Trouble::Wrong(what)) => return Err(told(what)),
                Err(Trouble::Commit(error) | Trouble::Store(error)) => typed(&error).map_err(told)?,
                Ok(()) => {}
            }
        }
        disk.clear_faults();
        if kill {
            disk.kill(0);
            device = None;
        } else if let Err(trouble) = open.recover(&mut history, at % 2 == 0) {
            return Err(told(format!("it does not go on: {trouble:?}")));
        }
    }
    seen.hit = disk.was_hit();
    disk.clear_faults();
    // If it never opened, or died: what was left of the work is done now.
    if device.is_none() {
        let mut again = Device::open(&disk, &options(), now_ms + 5_000, &mut history)
            .map_err(|trouble| format!("it does not open again: {trouble:?}"))?;
        for op in ops {
            again
                .apply(&op, &mut history)
                .map_err(|trouble| format!("{op:?}, with nothing wrong any more: {trouble:?}"))?;
        }
        device = Some(again);
    }
    if kill {
        disk.kill(0);
    }
    drop(device);
    // What was acknowledged is on the disk, not only in memory.
    let allowed: Vec<State> = history.allowed(usize::MAX).into_iter().cloned().collect();
    disk.power_loss(Image::Nothing, at);
    let mut store =
        options().open(disk.path(landfall_proof::device::FILE)).map_err(|error| format!("{error:?}"))?;
    let found = store.begin().and_then(|tx| State::of(&*tx)).map_err(|error| format!("{error:?}"))?;
    one_of(&found, &allowed.iter().collect::<Vec<_>>())
        .map_err(|what| format!("after the power cut: {what}"))?;
    match integrity(&disk) {
        Ok(check) if check == "ok" => Ok(seen),
        other => Err(format!("not whole: {other:?}")),
    }
}

/// What a failing disk may be called.
fn typed(error: &StoreError) -> Result<(), String> {
    match error {
        StoreError::Io(_) | StoreError::Full(_) | StoreError::ReadOnly(_) | StoreError::Closed => Ok(()),
        other => Err(format!("a disk that fails is called {other:?}")),
    }
}

/// Into how many lives the operations of a workload are shared out.
const PARTS: u64 = 8;

#[test]
fn whichever_operation_of_the_disk_fails_nothing_acknowledged_is_lost() {
    let workloads = Workload::ALL.len() as u64;
    let kinds = FAULTS.len() as u64;
    Campaign::new("disk-faults", workloads * kinds * PARTS).run(|seed| {
        let workload = Workload::ALL[(seed % workloads) as usize];
        let fault = FAULTS[(seed / workloads % kinds) as usize];
        let mut at = 1 + seed / workloads / kinds % PARTS;
        let (mut faults, mut commits) = (0, 0);
        loop {
            let kill = at / PARTS % 3 == 2;
            let seen = faulted(workload, fault, at, kill, Taken::Unknown)
                .map_err(|what| format!("{workload:?}, {fault:?} at {at}, kill {kill}: {what}"))?;
            if !seen.hit {
                break;
            }
            faults += 1;
            commits += seen.commits_failed;
            at += PARTS;
        }
        Ok(Figures::from([("faults", faults), ("failed commits", commits)]))
    });
}

/// What would happen if an error of a commit were believed to mean something: the same runs have to find it.
#[test]
fn an_error_of_a_commit_that_is_taken_for_an_answer_is_found() {
    let started = std::time::Instant::now();
    let finds = |taken: Taken, kill: bool| {
        let runs =
            (1..40).flat_map(|at| [(Kind::EioSync, false), (Kind::Full, false)].map(|fault| (fault, at)));
        let mut broken = runs.filter_map(|(fault, at)| {
            faulted(Workload::OneByOne, fault, at, kill, taken).err().filter(|what| what.contains("none of"))
        });
        broken.next().is_some()
    };
    for kill in [false, true] {
        assert!(!finds(Taken::Unknown, kill), "it finds something where nothing is");
    }
    // A process that dies leaves in the log what it could not sync; one that closes the file takes it away.
    let found = [finds(Taken::AsNothing, true), finds(Taken::AsSuccess, false)];
    let figures =
        Figures::from([("planted", 2), ("found", found.iter().filter(|found| **found).count() as u64)]);
    note("disk-faults-planted", started.elapsed(), &figures);
    assert_eq!(found, [true, true], "taken for nothing, taken for success");
}
