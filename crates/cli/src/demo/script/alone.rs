//! The first act: every device records reports of its own and amends, withdraws and files them again, alone.
//!
//! A report's fate hangs on its number. Tests: at the end of the file.

use super::{Act, COSTS, DAMAGE, Deed, Fields, SPECIES, Step, scatter};
use serde_json::Value;

/// Counts the steps of a report's life, so that a lost or overtaken amendment shows.
const REVISION: &str = "Revision";
/// Set by a first notice, removed by the first amendment.
const REMARKS: &str = "Remarks";

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

/// Whether the report is there when the first act is over.
pub(super) fn lives(number: usize) -> bool {
    !matches!(Story::of(number), Story::Withdrawn | Story::WithdrawnDuringUpload)
}

/// A device's reports and what is done to them later, in one order.
pub(super) fn act(own: Vec<(usize, &Fields)>) -> Act {
    let reports = own.len();
    let (mut offline, mut late) = (Vec::new(), Vec::new());
    for (at, (number, row)) in own.into_iter().enumerate() {
        let id = super::report(number);
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
    Act::of(offline, late)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::script::{REPORTS_MAX, report, rows, scripts};
    use std::collections::BTreeMap;

    fn play(record: &mut Option<Fields>, deed: &Deed) {
        match deed {
            Deed::Create(fields) => *record = Some(fields.clone()),
            Deed::Amend { set, unset } => {
                let fields = record.as_mut().unwrap();
                fields.extend(set.clone());
                assert!(unset.iter().all(|name| fields.remove(name).is_some()));
            }
            Deed::Delete => *record = None,
            Deed::Contribute { .. } => panic!("alone nobody contributes"),
        }
    }

    #[test]
    fn every_report_ends_as_its_row_or_is_withdrawn() {
        for devices in [1, 4, 16] {
            let mut records: BTreeMap<String, Option<Fields>> = BTreeMap::new();
            for step in scripts(REPORTS_MAX, devices).iter().flat_map(|script| script.acts[0].steps()) {
                play(records.entry(step.id.clone()).or_default(), &step.deed);
            }
            assert_eq!(records.len(), REPORTS_MAX);
            let (mut amended, mut gone) = (0, 0);
            for (number, row) in (1..).zip(rows(REPORTS_MAX)) {
                assert_eq!(records[&report(number)].is_some(), lives(number));
                match &records[&report(number)] {
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
            let mut records: BTreeMap<&str, Option<Fields>> = BTreeMap::new();
            for step in script.acts[0].steps() {
                let record = records.entry(&step.id).or_default();
                let before = record.clone();
                play(record, &step.deed);
                assert_ne!(*record, before, "{}", step.id);
                let both = before.is_some() && record.is_some();
                assert_eq!(both, matches!(step.deed, Deed::Amend { .. }), "{}", step.id);
            }
        }
    }

    #[test]
    fn late_steps_come_last_and_in_the_order_of_the_upload() {
        for script in scripts(REPORTS_MAX, 4) {
            let late = &script.acts[0].late;
            assert!(late.len() > 50);
            assert!(late.is_sorted_by(|a, b| a.due <= b.due));
            assert!(late.iter().all(|step| (0.0..=1.0).contains(&step.due)));
        }
    }
}
