//! The second act: devices amend the same reports, each without knowing of the others.
//!
//! Before it every device has read all reports; during it none of them hears from another. Who does what to which
//! report hangs on the report's number. What authors write is told apart by their number, so that one sees whose value
//! it is. Tests: at the end of the file.

use super::{Act, DAMAGE, Deed, Fields, SPECIES, SPEED, Step, alone, report, scatter};
use crate::demo::rules::GROUP;
use serde_json::{Value, json};

/// Most authors of one report. Three: then one of them meets a conflict about what another has merged.
const AUTHORS: usize = 3;
/// Currencies, one for each device.
const CURRENCIES: [&str; 16] = [
    "USD", "EUR", "GBP", "CHF", "CAD", "SEK", "NOK", "DKK", "PLN", "CZK", "JPY", "AUD", "NZD", "MXN", "BRL",
    "INR",
];

/// What happens to one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    /// Every author changes a field of his own.
    Apart,
    /// All change one field, each in his own way, and besides it a field of his own.
    Contested,
    /// All count a review and add a tag; one does so again when the network is back.
    Counted,
    /// Two write the cost with its currency, which must not be torn apart.
    Priced,
    /// All of that.
    Everything,
    /// One deletes what the others edit.
    Deleted,
}

impl Story {
    /// Of 1,000 reports about 150 have several authors.
    fn of(number: usize) -> Option<Self> {
        if !alone::lives(number) {
            return None;
        }
        Some(match scatter(number as u64 ^ 0x05ee_d0f2) % 1000 {
            0..=44 => Self::Apart,
            45..=79 => Self::Contested,
            80..=99 => Self::Counted,
            100..=119 => Self::Priced,
            120..=134 => Self::Everything,
            135..=149 => Self::Deleted,
            _ => return None,
        })
    }
}

/// What a device does to the reports of all.
pub(super) fn act(device: usize, devices: usize, reports: usize) -> Act {
    let (mut offline, mut late) = (Vec::new(), Vec::new());
    for number in 1..=reports {
        let Some(story) = Story::of(number) else { continue };
        let Some(role) = role(number, device, devices) else { continue };
        let step = |deed, due| Step { id: report(number), deed, due };
        // Not in quite the same order everywhere.
        let stray = usize::try_from(scatter((number * 32 + device) as u64) % 60).unwrap_or(0);
        offline.push((number + stray, step(deed(story, number, role, device), 0.0)));
        if let Some(deed) = afterthought(story, role, device) {
            late.push(step(deed, (number as f64 / reports as f64).clamp(0.0, 1.0)));
        }
    }
    Act::of(offline, late)
}

/// Whether the device is an author of the report, and which one, from 0.
fn role(number: usize, device: usize, devices: usize) -> Option<usize> {
    if devices < 2 {
        return None;
    }
    let first = usize::try_from(scatter(number as u64 * 3) % devices as u64).unwrap_or(0);
    let role = (device + devices - 1 - first) % devices;
    (role < AUTHORS).then_some(role)
}

fn deed(story: Story, number: usize, role: usize, device: usize) -> Deed {
    let damage = || (DAMAGE, json!(format!("Substantial, says device {device}")));
    let species = || (SPECIES, json!(format!("Gull {device}")));
    let own = |role| match role {
        0 => damage(),
        1 => species(),
        _ => ("Cost Repair", json!(1_000_000 + 100_000 * device + number)),
    };
    let aside = |role| match role {
        0 => (SPEED, json!(100 + device)),
        1 => ("Cost Other", json!(100_000 * device + number)),
        _ => ("Time of day", json!(format!("Dusk by the clock of device {device}"))),
    };
    let price = || {
        let currency = CURRENCIES.get((device - 1) % CURRENCIES.len()).copied().unwrap_or_default();
        [(GROUP[0], json!(100_000 * device + number)), (GROUP[1], json!(currency))]
    };
    let tag = || vec![format!("seen by device {device}")];
    let counted = i64::try_from(1 + role).unwrap_or(1);
    match (story, role) {
        (Story::Apart, _) => contribute([own(role)], 0, Vec::new()),
        (Story::Contested, _) => contribute([species(), aside(role)], 0, Vec::new()),
        // Two count by the same number: what they hold is equal, and yet both count.
        (Story::Counted, 2) => contribute([damage()], 1, tag()),
        (Story::Counted, _) => contribute([], 1, tag()),
        (Story::Priced, 2) => contribute([damage()], 0, Vec::new()),
        (Story::Priced, _) => contribute(price(), 0, Vec::new()),
        (Story::Everything, _) => {
            contribute(price().into_iter().chain([damage(), aside(role)]), counted, tag())
        }
        (Story::Deleted, 0) => Deed::Delete,
        (Story::Deleted, _) => contribute([own(role)], counted, tag()),
    }
}

/// What an author does to the report once more, when the network is back.
fn afterthought(story: Story, role: usize, device: usize) -> Option<Deed> {
    let again = || vec![format!("seen again by device {device}")];
    match (story, role) {
        (Story::Apart, 1) => {
            Some(contribute([("Follow-up", json!(format!("device {device}")))], 0, Vec::new()))
        }
        (Story::Counted | Story::Everything, 0) => Some(contribute([], 10, again())),
        (Story::Counted, 1) => Some(contribute([], 100, again())),
        _ => None,
    }
}

fn contribute(set: impl IntoIterator<Item = (&'static str, Value)>, reviews: i64, tags: Vec<String>) -> Deed {
    let set: Fields = set.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Deed::Contribute { set, reviews, tags }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn every_story_is_told_of_about_every_seventh_report() {
        let mut told = BTreeMap::new();
        for story in (1..=10_000).filter_map(Story::of) {
            *told.entry(format!("{story:?}")).or_insert(0) += 1;
        }
        assert_eq!(told.len(), 6, "{told:?}");
        assert!((1_300..1_700).contains(&told.values().sum::<i32>()), "{told:?}");
    }

    #[test]
    fn a_report_has_as_many_authors_as_there_can_be() {
        for (devices, authors) in [(1, 0), (2, 2), (3, 3), (16, 3)] {
            for number in 1..200 {
                let roles: BTreeSet<_> =
                    (1..=devices).filter_map(|device| role(number, device, devices)).collect();
                assert_eq!(roles, (0..authors).collect(), "{devices} devices");
            }
        }
    }

    #[test]
    fn nobody_touches_a_report_twice_while_offline() {
        for device in 1..=4 {
            let act = act(device, 4, 10_000);
            let ids: BTreeSet<_> = act.offline.iter().map(|step| &step.id).collect();
            assert_eq!(ids.len(), act.offline.len());
            assert!(!act.late.is_empty() && act.late.is_sorted_by(|a, b| a.due <= b.due));
        }
    }
}
