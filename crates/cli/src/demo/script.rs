//! What happens to every report, worked out from the file alone: who records it, who amends it.
//!
//! Pure: no engine, no clock, no seed. The devices play these scripts through the engine; what must come of it is
//! worked out in `outcome.rs`. There are two acts: in the first every device is alone with its own reports
//! (`alone.rs`), in the second they amend the same ones (`together.rs`). A report's fate hangs on its number, so two
//! runs with the same arguments record the same. Tests: at the end of the files.

mod alone;
mod together;

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The fields of a record, in the demo's own terms: plain JSON.
pub(super) type Fields = Map<String, Value>;
/// Entity type and id.
pub(super) type Name = (String, String);

/// The reports' entity type.
pub(super) const STRIKE: &str = "strike";
/// The entity type of the record in which a device keeps how far it got.
pub(super) const LOGBOOK: &str = "logbook";
/// How many reports the file holds.
pub(super) const REPORTS_MAX: usize = 10_000;

const FILE: &str = include_str!("../../../../data/birdstrikes.csv");

const DAMAGE: &str = "Effect Amount of damage";
const SPECIES: &str = "Wildlife Species";
const COSTS: [&str; 3] = ["Cost Other", "Cost Repair", "Cost Total $"];
const SPEED: &str = "Speed IAS in knots";
const AIRPORT: &str = "Airport Name";

/// One thing that a device does to one record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// The report's id.
    pub(super) id: String,
    /// What is done.
    pub(super) deed: Deed,
    /// How far the upload is when a late step is made, from 0 to 1.
    pub(super) due: f64,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Deed {
    /// The report is recorded.
    Create(Fields),
    /// Some of its fields are set, others removed.
    Amend { set: Fields, unset: Vec<String> },
    /// It is withdrawn.
    Delete,
    /// Something is added to a report that others have in hand too: fields set, reviews counted, tags added.
    Contribute { set: Fields, reviews: i64, tags: Vec<String> },
}

/// Everything that one device does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Script {
    /// The device's number, from 1.
    pub(super) device: usize,
    /// How many reports it records.
    pub(super) reports: usize,
    /// The first act, alone, and the second, together with the others.
    pub(super) acts: [Act; 2],
}

/// A part of a script: the network is away, then it comes back.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Act {
    /// What is done before the network comes back, in order.
    pub(super) offline: Vec<Step>,
    /// What is done while everything is being uploaded, in order.
    pub(super) late: Vec<Step>,
}

impl Act {
    fn of(mut offline: Vec<(usize, Step)>, mut late: Vec<Step>) -> Self {
        offline.sort_by_key(|(when, _)| *when);
        late.sort_by(|a, b| a.due.total_cmp(&b.due));
        Self { offline: offline.into_iter().map(|(_, step)| step).collect(), late }
    }

    /// How many steps it has.
    pub(super) fn len(&self) -> usize {
        self.offline.len() + self.late.len()
    }

    /// All of them, in order.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.offline.iter().chain(&self.late)
    }
}

impl Script {
    /// The id of the device's logbook.
    pub(super) fn logbook(&self) -> String {
        logbook(self.device)
    }

    /// How many steps it has.
    pub(super) fn len(&self) -> usize {
        self.acts.iter().map(Act::len).sum()
    }

    /// All of them, in order.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.acts.iter().flat_map(Act::steps)
    }
}

/// The scripts of all devices: the first `reports` rows of the file, each airport's on one device.
pub(super) fn scripts(reports: usize, devices: usize) -> Vec<Script> {
    let rows = rows(reports);
    let owners = owners(&rows, devices);
    (1..=devices)
        .map(|device| {
            let own = (1..).zip(&rows).zip(&owners).filter(|(_, owner)| **owner == device);
            let own: Vec<_> = own.map(|((number, row), _)| (number, row)).collect();
            let reports = own.len();
            let acts = [alone::act(own), together::act(device, devices, rows.len())];
            Script { device, reports, acts }
        })
        .collect()
}

/// The fields of a logbook after so many steps.
pub(super) fn logbook_fields(recorded: usize) -> Fields {
    [("recorded".to_owned(), Value::from(recorded))].into_iter().collect()
}

fn logbook(device: usize) -> String {
    format!("device-{device}")
}

fn report(number: usize) -> String {
    format!("strike-{number:05}")
}

/// The rows as fields, in the order of the file. Its README promises that no cell has quotes or commas.
fn rows(reports: usize) -> Vec<Fields> {
    let mut lines = FILE.lines();
    let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let cells = |line: &'static str| {
        columns.iter().zip(line.split(',')).map(|(name, cell)| ((*name).to_owned(), value(name, cell)))
    };
    lines.take(reports).map(|line| cells(line).collect()).collect()
}

fn value(column: &str, cell: &str) -> Value {
    if !COSTS.contains(&column) && column != SPEED {
        return cell.into();
    }
    match cell.parse::<i64>() {
        Ok(number) => number.into(),
        Err(_) if cell.is_empty() => Value::Null,
        Err(_) => cell.into(),
    }
}

/// Which device records each row: whole airports, the largest first, each to the device with the least to do.
fn owners(rows: &[Fields], devices: usize) -> Vec<usize> {
    let airport = |row: &Fields| row.get(AIRPORT).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        *sizes.entry(airport(row)).or_default() += 1;
    }
    let mut airports: Vec<_> = sizes.into_iter().collect();
    airports.sort_by(|(a, many), (b, more)| more.cmp(many).then(a.cmp(b)));
    let mut loads = vec![0_usize; devices.max(1)];
    let mut owners = BTreeMap::new();
    for (airport, size) in airports {
        let least = (0..loads.len()).min_by_key(|at| loads[*at]).unwrap_or(0);
        loads[least] += size;
        owners.insert(airport, least + 1);
    }
    rows.iter().map(|row| owners.get(&airport(row)).copied().unwrap_or(1)).collect()
}

/// Spreads numbers evenly (the finaliser of SplitMix64).
pub(super) fn scatter(number: u64) -> u64 {
    let mut hash = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_its_readme_says() {
        assert_eq!(rows(usize::MAX).len(), REPORTS_MAX);
        let columns = FILE.lines().next().unwrap().split(',').count();
        assert_eq!(columns, 14);
        assert!(FILE.lines().all(|line| line.split(',').count() == columns && !line.contains('"')));
    }

    #[test]
    fn work_is_shared_out_whatever_the_numbers() {
        for (reports, devices) in [(1, 1), (1, 16), (7, 3), (400, 3), (REPORTS_MAX, 16)] {
            let scripts = scripts(reports, devices);
            assert_eq!(scripts.len(), devices);
            assert_eq!(scripts.iter().map(|script| script.reports).sum::<usize>(), reports);
        }
        let loads: Vec<_> = scripts(REPORTS_MAX, 4).iter().map(|script| script.reports).collect();
        assert!(loads.iter().all(|load| (2_300..2_700).contains(load)), "{loads:?}");
    }
}
