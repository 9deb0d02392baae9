//! The power goes, after every step that the store makes on its disk, and whatever is left of what was not synced.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_proof::cut::examine;
use landfall_proof::work::Workload;
use landfall_simdisk::{Directory, Disk, Files, Image};
use landfall_testkit::campaign::{Campaign, Figures};

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
                for image in Image::ALL {
                    let files = recording.image(image, step as u64 ^ salt << 32);
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
