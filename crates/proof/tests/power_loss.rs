//! The power goes, after every step that the store makes on its disk, and whatever is left of what was not synced.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_proof::cut::examine;
use landfall_proof::device::{Device, Op, Trouble, options};
use landfall_proof::dice::Dice;
use landfall_proof::state::{History, State};
use landfall_proof::work::{START_MS, Workload, random_op};
use landfall_simdisk::{Directory, Disk, Fault, Files, Image, Kind};
use landfall_sqlite::Durability;
use landfall_testkit::campaign::{Campaign, Figures, note};

/// Into how many lives the steps of a workload are shared out.
const PARTS: u64 = 16;

/// Cuts a recorded workload at every step of one part, in every way and in both models of a directory.
fn every_cut_of(workload: Workload, part: u64, salt: u64) -> Result<Figures, String> {
    let (recording, history) = workload.record(|_, options| options)?;
    let scratch = Disk::new(part);
    let mut images = 0;
    for model in [Directory::Strict, Directory::Ordered] {
        let mut recording = recording.clone();
        recording.set_directory(model);
        loop {
            let step = recording.position();
            if step as u64 % PARTS == part {
                let allowed = history.allowed(step);
                let mut seen: Vec<Files> = Vec::new();
                // What is drawn by lot is drawn more than once.
                let more = [Image::Sectors, Image::Torn, Image::Sectors, Image::Torn];
                for (draw, image) in Image::ALL.into_iter().chain(more).enumerate() {
                    let files = recording.image(image, (step * 16 + draw) as u64 ^ salt << 32);
                    // Without anything pending all kinds are the same files.
                    if seen.contains(&files) {
                        continue;
                    }
                    examine(&scratch, &files, &allowed)
                        .map_err(|what| format!("{workload:?}, step {step}, {image:?}, {model:?}: {what}"))?;
                    seen.push(files);
                    images += 1;
                }
            }
            if !recording.advance() {
                break;
            }
        }
    }
    Ok(Figures::from([("images", images)]))
}

#[test]
fn each_power_cut_leaves_what_was_acknowledged() {
    let workloads = Workload::ALL.len() as u64;
    Campaign::new("power-loss-each", workloads * PARTS).run(|seed| {
        let workload = Workload::ALL[(seed % workloads) as usize];
        every_cut_of(workload, seed / workloads % PARTS, seed / workloads / PARTS)
    });
}

/// How often the power is cut in one round of a life.
const CUTS: u64 = 40;

/// Random work by a process that may die at any step and start anew, until there is no work left.
fn work(disk: &Disk, dice: &mut Dice, history: &mut History, now_ms: &mut u64) -> Result<u64, String> {
    let (mut left, mut deaths) = (4 + dice.below(20), 0);
    while left > 0 {
        if dice.percent(60) {
            let kind = dice.pick(&[Kind::CrashBefore, Kind::CrashMiddle]);
            disk.set_fault(Fault::once(kind, 1 + dice.below(200)));
        }
        let failed = |disk: &Disk, trouble: Trouble| match trouble {
            Trouble::Wrong(what) => Err(what),
            _ if disk.is_crashed(0) => Ok(()),
            other => Err(format!("nothing went wrong, and yet: {other:?}")),
        };
        *now_ms += 1_000;
        match Device::open(disk, &options(), *now_ms, history) {
            Ok(mut device) => {
                while left > 0 {
                    left -= 1;
                    let op = random_op(dice);
                    if let Err(trouble) = device.apply(&op, history) {
                        failed(disk, trouble).map_err(|what| format!("{op:?}: {what}"))?;
                        break;
                    }
                }
                *now_ms = device.now_ms();
                // Killed between two steps, or closed as it should be.
                if dice.percent(40) {
                    disk.kill(0);
                    deaths += 1;
                }
            }
            Err(trouble) => failed(disk, trouble).map_err(|what| format!("opening: {what}"))?,
        }
        deaths += u64::from(disk.is_crashed(0));
        disk.clear_faults();
        disk.kill(0);
    }
    Ok(deaths)
}

/// A life of work, deaths and power cuts. Beside the cuts that it goes on from there are others at random steps, some of
/// them with a second one while the store recovers.
fn life(seed: u64) -> Result<Figures, String> {
    let mut dice = Dice::new(seed, 1);
    let (disk, scratch) = (Disk::new(seed), Disk::new(seed));
    let model = dice.pick(&[Directory::Strict, Directory::Ordered]);
    disk.set_directory(model);
    scratch.set_directory(model);
    let (mut images, mut again, mut deaths) = (0, 0, 0);
    let mut history = History::of(State::default());
    let mut now_ms = START_MS;
    for round in 0..1 + dice.below(3) {
        let told = |what: String| format!("round {round}, {model:?}: {what}");
        disk.record();
        deaths += work(&disk, &mut dice, &mut history, &mut now_ms).map_err(told)?;
        let mut recording = disk.recorded().ok_or("nothing was recorded")?;
        let mut cuts: Vec<u64> = (0..CUTS).map(|_| dice.below(recording.len() as u64 + 1)).collect();
        cuts.sort_unstable();
        for step in cuts {
            while (recording.position() as u64) < step && recording.advance() {}
            let image = dice.pick(&Image::ALL);
            let told = |what| told(format!("step {step}, {image:?}: {what}"));
            let files = recording.image(image, dice.next());
            let since = examine(&scratch, &files, &history.allowed(recording.position())).map_err(told)?;
            images += 1;
            if dice.percent(30) {
                let mut recovery = scratch.recorded().ok_or("no recovery was recorded")?;
                let second = dice.below(recovery.len() as u64 + 1);
                while (recovery.position() as u64) < second && recovery.advance() {}
                let image = dice.pick(&Image::ALL);
                let files = recovery.image(image, dice.next());
                examine(&scratch, &files, &since.allowed(recovery.position()))
                    .map_err(|what| told(format!("and again at step {second}, {image:?}: {what}")))?;
                again += 1;
            }
        }
        let allowed = history.allowed(usize::MAX);
        history = {
            let image = dice.pick(&Image::ALL);
            let mut after = History::of_any(&allowed);
            disk.power_loss(image, dice.next());
            drop(
                Device::open(&disk, &options(), now_ms, &mut after)
                    .map_err(|trouble| told(format!("after {image:?}: {trouble:?}")))?,
            );
            images += 1;
            History::of(after.last().cloned().unwrap_or_default())
        };
    }
    Ok(Figures::from([("images", images + again), ("cut while recovering", again), ("deaths", deaths)]))
}

#[test]
fn random_work_survives_any_power_cut() {
    Campaign::new("power-loss", 120).run(life);
}

/// Whether some cut of a workload that is spoilt like this shows that something acknowledged is lost.
fn is_lost(spoil: impl Fn(&Disk, landfall_sqlite::Options) -> landfall_sqlite::Options) -> bool {
    let (mut recording, history) = Workload::OneByOne.record(spoil).unwrap();
    let scratch = Disk::new(0);
    loop {
        let step = recording.position();
        for image in [Image::Nothing, Image::Sectors] {
            if examine(&scratch, &recording.image(image, step as u64), &history.allowed(step)).is_err() {
                return true;
            }
        }
        if !recording.advance() {
            return false;
        }
    }
}

/// A process is killed in a commit, the store is opened again, shows something, and the power goes. `swallowed`: nothing that
/// the opening syncs reaches the disk, as if it had made no durable write before it showed anything.
fn shows_and_loses(swallowed: bool) -> bool {
    (1..60).any(|at| {
        let disk = Disk::new(at);
        let mut history = History::of(Workload::OneByOne.prepare(&disk).unwrap());
        let mut device = Device::open(&disk, &options(), START_MS, &mut history).unwrap();
        disk.settle();
        disk.set_fault(Fault::once(Kind::CrashBefore, at));
        while !disk.is_crashed(0) {
            let op = Op::Enqueue { record: 100 + disk.ops(), bytes: 50 };
            assert!(device.apply(&op, &mut history).is_ok() || disk.is_crashed(0));
        }
        disk.kill(0);
        drop(device);
        if swallowed {
            disk.set_fault(Fault::forever(Kind::LyingSync, 1));
        }
        let device = Device::open(&disk, &options(), START_MS + 1_000_000, &mut history).unwrap();
        disk.power_loss(Image::Nothing, at);
        drop(device);
        examine(&disk, &disk.files().unwrap(), &history.allowed(usize::MAX)).is_err()
    })
}

#[test]
fn bugs_of_durability_are_found() {
    let started = std::time::Instant::now();
    assert!(!is_lost(|_, options| options), "it finds something where nothing is");
    assert!(!shows_and_loses(false), "it finds something where nothing is");
    let found = [
        ("a weaker durability", is_lost(|_, options| options.durability(Durability::MayLoseLastWrites))),
        (
            "a sync that lies",
            is_lost(|disk, options| {
                disk.set_fault(Fault::forever(Kind::LyingSync, 1));
                options
            }),
        ),
        ("no durable write at opening", shows_and_loses(true)),
    ];
    let count = found.iter().filter(|(_, found)| *found).count() as u64;
    note("power-loss-planted", started.elapsed(), &Figures::from([("planted", 3), ("found", count)]));
    assert_eq!(count, 3, "{found:?}");
}
