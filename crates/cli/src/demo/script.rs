//! What happens to every report, worked out from the file alone: who records it, what is amended, what must be on
//! the server in the end.
//!
//! Pure: no engine, no clock, no seed. The devices play these scripts through the engine; the proof compares the
//! server's database with [`expected`], which only folds plain maps. A report's fate hangs on its number, so two
//! runs with the same arguments record the same. Tests: at the end of the file.

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
/// Counts the steps of a report's life, so that a lost or overtaken amendment shows.
const REVISION: &str = "Revision";
/// Set by a first notice, removed by the first amendment.
const REMARKS: &str = "Remarks";

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
}

/// Everything that one device does, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Script {
    /// The device's number, from 1.
    pub(super) device: usize,
    /// How many reports it records.
    pub(super) reports: usize,
    /// All steps.
    pub(super) steps: Vec<Step>,
    /// How many of them are made before the network comes back; the rest during the upload.
    pub(super) offline: usize,
}

impl Script {
    /// The id of the device's logbook.
    pub(super) fn logbook(&self) -> String {
        logbook(self.device)
    }
}

/// What happens to one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    Plain,
    AmendedOnce,
    AmendedTwice,
    AmendedDuringUpload,
    AmendedBeforeAndDuringUpload,
    Withdrawn,
    WithdrawnDuringUpload,
    Redone,
    RedoneDuringUpload,
}

impl Story {
    /// Of 1,000 reports about 155 are amended, 8 withdrawn, 12 withdrawn and filed again.
    fn of(number: usize) -> Self {
        match scatter(number as u64) % 1000 {
            0..=824 => Self::Plain,
            825..=904 => Self::AmendedOnce,
            905..=944 => Self::AmendedTwice,
            945..=964 => Self::AmendedDuringUpload,
            965..=979 => Self::AmendedBeforeAndDuringUpload,
            980..=984 => Self::Withdrawn,
            985..=987 => Self::WithdrawnDuringUpload,
            988..=994 => Self::Redone,
            _ => Self::RedoneDuringUpload,
        }
    }
}

/// The scripts of all devices: the first `reports` rows of the file, each airport's on one device.
pub(super) fn scripts(reports: usize, devices: usize) -> Vec<Script> {
    let rows = rows(reports);
    let owners = owners(&rows, devices);
    (1..=devices)
        .map(|device| {
            let own = (1..).zip(&rows).zip(&owners).filter(|(_, owner)| **owner == device);
            write(device, own.map(|((number, row), _)| (number, row)).collect())
        })
        .collect()
}

/// What must be on the server when all scripts were played: `None` for a record that must be gone.
pub(super) fn expected(scripts: &[Script]) -> BTreeMap<Name, Option<Fields>> {
    let mut records = BTreeMap::new();
    for script in scripts {
        for step in &script.steps {
            let record: &mut Option<Fields> =
                records.entry((STRIKE.to_owned(), step.id.clone())).or_insert(None);
            match &step.deed {
                Deed::Create(fields) => *record = Some(fields.clone()),
                Deed::Amend { set, unset } => {
                    let fields = record.get_or_insert_with(Fields::new);
                    fields.extend(set.clone());
                    for name in unset {
                        fields.remove(name);
                    }
                }
                Deed::Delete => *record = None,
            }
        }
        if !script.steps.is_empty() {
            let name = (LOGBOOK.to_owned(), script.logbook());
            records.insert(name, Some(logbook_fields(script.steps.len())));
        }
    }
    records
}

/// The fields of a logbook after so many steps.
pub(super) fn logbook_fields(recorded: usize) -> Fields {
    [("recorded".to_owned(), Value::from(recorded))].into_iter().collect()
}

fn logbook(device: usize) -> String {
    format!("device-{device}")
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

/// Puts a device's reports and what is done to them later into one order.
fn write(device: usize, own: Vec<(usize, &Fields)>) -> Script {
    let reports = own.len();
    let (mut offline, mut late) = (Vec::new(), Vec::new());
    for (at, (number, row)) in own.into_iter().enumerate() {
        let id = format!("strike-{number:05}");
        // Some reports later, so that the first notice is an older task by then, and a kill can fall in between.
        let lag = |turn: u64| 5 + usize::try_from(scatter(number as u64 * 8 + turn) % 40).unwrap_or(0);
        // Shortly before or after the report itself is sent: some of these steps meet it still waiting, some under
        // way, some done.
        let lead = (scatter(number as u64 * 8) % 400) as f64 / 10_000.0 - 0.025;
        let due = (at as f64 / reports as f64 + lead).clamp(0.0, 1.0);
        let early = |when, deed| (when, Step { id: id.clone(), deed, due: 0.0 });
        let upload = |due, deed| Step { id: id.clone(), deed, due };
        let (second, third) = (at + lag(1), at + lag(1) + lag(2));
        match Story::of(number) {
            Story::Plain => offline.push(early(at, Deed::Create(whole(row, 1)))),
            Story::AmendedOnce => {
                offline.push(early(at, Deed::Create(notice(row))));
                offline.push(early(second, amend(row, &[&[DAMAGE, SPECIES], &COSTS[..]], 2, true)));
            }
            Story::AmendedTwice => {
                offline.push(early(at, Deed::Create(notice(row))));
                offline.push(early(second, amend(row, &[&[DAMAGE]], 2, true)));
                offline.push(early(third, amend(row, &[&[SPECIES], &COSTS[..]], 3, false)));
            }
            Story::AmendedDuringUpload => {
                offline.push(early(at, Deed::Create(notice(row))));
                late.push(upload(due, amend(row, &[&[DAMAGE, SPECIES], &COSTS[..]], 2, true)));
            }
            Story::AmendedBeforeAndDuringUpload => {
                offline.push(early(at, Deed::Create(notice(row))));
                offline.push(early(second, amend(row, &[&[DAMAGE]], 2, true)));
                late.push(upload(due, amend(row, &[&[SPECIES], &COSTS[..]], 3, false)));
            }
            Story::Withdrawn => {
                offline.push(early(at, Deed::Create(notice(row))));
                offline.push(early(second, Deed::Delete));
            }
            Story::WithdrawnDuringUpload => {
                offline.push(early(at, Deed::Create(whole(row, 1))));
                late.push(upload(due, Deed::Delete));
            }
            Story::Redone => {
                offline.push(early(at, Deed::Create(notice(row))));
                offline.push(early(second, Deed::Delete));
                offline.push(early(third, Deed::Create(whole(row, 2))));
            }
            Story::RedoneDuringUpload => {
                offline.push(early(at, Deed::Create(notice(row))));
                late.push(upload(due, Deed::Delete));
                late.push(upload((due + 0.004).min(1.0), Deed::Create(whole(row, 2))));
            }
        }
    }
    offline.sort_by_key(|(when, _)| *when);
    late.sort_by(|a: &Step, b: &Step| a.due.total_cmp(&b.due));
    let count = offline.len();
    let steps = offline.into_iter().map(|(_, step)| step).chain(late).collect();
    Script { device, reports, steps, offline: count }
}

/// The report as it is in the file.
fn whole(row: &Fields, revision: u64) -> Fields {
    let mut fields = row.clone();
    fields.insert(REVISION.to_owned(), revision.into());
    fields
}

/// The first notice: damage and costs not known yet, the species guessed.
fn notice(row: &Fields) -> Fields {
    let mut fields = whole(row, 1);
    for name in [DAMAGE].iter().chain(&COSTS) {
        fields.insert((*name).to_owned(), Value::Null);
    }
    fields.insert(SPECIES.to_owned(), "sample sent to the laboratory".into());
    fields.insert(REMARKS.to_owned(), "first notice by telephone".into());
    fields
}

/// Brings some fields to what the file says.
fn amend(row: &Fields, names: &[&[&str]], revision: u64, confirms: bool) -> Deed {
    let value = |name: &str| row.get(name).cloned().unwrap_or(Value::Null);
    let mut set: Fields =
        names.iter().flat_map(|names| names.iter()).map(|name| ((*name).to_owned(), value(name))).collect();
    set.insert(REVISION.to_owned(), revision.into());
    Deed::Amend { set, unset: if confirms { vec![REMARKS.to_owned()] } else { Vec::new() } }
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
    fn every_report_ends_as_its_row_or_is_withdrawn() {
        for devices in [1, 4, 16] {
            let scripts = scripts(REPORTS_MAX, devices);
            let mut expected = expected(&scripts);
            for device in 1..=devices {
                assert!(expected.remove(&(LOGBOOK.to_owned(), logbook(device))).unwrap().is_some());
            }
            assert_eq!(expected.len(), REPORTS_MAX);
            let (mut amended, mut gone) = (0, 0);
            for (number, row) in (1..).zip(rows(REPORTS_MAX)) {
                match &expected[&(STRIKE.to_owned(), format!("strike-{number:05}"))] {
                    Some(fields) => {
                        let mut fields = fields.clone();
                        amended += u32::from(fields.remove(REVISION).unwrap() != 1);
                        assert_eq!(fields, row);
                    }
                    None => gone += 1,
                }
            }
            assert!((1_300..2_000).contains(&amended), "{amended} amended");
            assert!((40..160).contains(&gone), "{gone} withdrawn");
        }
    }

    #[test]
    fn every_story_is_told_and_no_amendment_repeats_what_is_there() {
        let mut told = BTreeMap::new();
        for number in 1..=REPORTS_MAX {
            *told.entry(format!("{:?}", Story::of(number))).or_insert(0) += 1;
        }
        assert_eq!(told.len(), 9, "{told:?}");
        for script in scripts(REPORTS_MAX, 3) {
            let mut records: BTreeMap<&str, Fields> = BTreeMap::new();
            for step in &script.steps {
                match &step.deed {
                    Deed::Create(fields) => {
                        assert!(records.insert(&step.id, fields.clone()).is_none(), "{}", step.id);
                    }
                    Deed::Amend { set, unset } => {
                        let record = records.get_mut(step.id.as_str()).unwrap();
                        let before = record.clone();
                        record.extend(set.clone());
                        assert!(unset.iter().all(|name| record.remove(name).is_some()));
                        assert_ne!(*record, before);
                    }
                    Deed::Delete => assert!(records.remove(step.id.as_str()).is_some()),
                }
            }
        }
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

    #[test]
    fn late_steps_come_last_and_in_the_order_of_the_upload() {
        for script in scripts(REPORTS_MAX, 4) {
            let late = &script.steps[script.offline..];
            assert!(late.len() > 50);
            assert!(late.is_sorted_by(|a, b| a.due <= b.due));
            assert!(late.iter().all(|step| (0.0..=1.0).contains(&step.due)));
        }
    }
}
