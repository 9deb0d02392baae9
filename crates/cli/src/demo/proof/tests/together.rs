//! Reports that several authors amended: what the server, the devices and the conflict records must hold.

use super::super::*;
use super::{Case, fields, file, name};
use crate::demo::outcome::outcome;
use crate::demo::rules::GROUP;
use crate::demo::script::{Act, Deed, Script, Step};
use landfall_server::{SqliteOptions, SqliteStore};
use serde_json::json;

/// What is done to one database (the server's is 0, the others are the devices'), and the faults that must then be.
type Tampering = (&'static str, usize, &'static str, &'static [(&'static str, u64)]);

fn step(id: &str, deed: Deed) -> Step {
    Step { id: id.into(), deed, due: 0.0 }
}

fn contribute(set: Value, reviews: i64, tags: &[&str]) -> Deed {
    Deed::Contribute { set: fields(set), reviews, tags: tags.iter().map(|tag| (*tag).to_owned()).collect() }
}

/// Device 1 records two reports. Then it amends both; device 2 amends the first and deletes the second.
fn scripts() -> Vec<Script> {
    let price = |amount: i64, currency: &str| json!({GROUP[0]: amount, GROUP[1]: currency});
    let with = |mut set: Value, more: Value| {
        set.as_object_mut().unwrap().extend(fields(more));
        set
    };
    let one = Act {
        offline: vec![
            step("x", Deed::Create(fields(json!({"species": "bird", "damage": null})))),
            step("y", Deed::Create(fields(json!({"species": "bird"})))),
        ],
        late: Vec::new(),
    };
    let first = vec![
        step(
            "x",
            contribute(with(price(1, "USD"), json!({"species": "gull", "damage": "none"})), 1, &["t1"]),
        ),
        step("y", contribute(json!({"species": "owl"}), 0, &[])),
    ];
    let second = vec![
        step("x", contribute(with(price(2, "EUR"), json!({"species": "hawk", "speed": 90})), 1, &["t2"])),
        step("y", Deed::Delete),
    ];
    [(one, first), (Act::default(), second)]
        .into_iter()
        .zip(1..)
        .map(|((alone, offline), device)| {
            let reports = alone.offline.len();
            Script { device, reports, acts: [alone, Act { offline, late: Vec::new() }] }
        })
        .collect()
}

/// As it should be: device 2 came later, won the species and the price, and wrote down what device 1 had.
fn good(test: &str) -> Case {
    let (path, devices) = (file(test), [1, 2].map(|device| file(&format!("{test}-device-{device}"))));
    drop(SqliteStore::open(&path, SqliteOptions::default()).unwrap());
    let mut outcome = outcome(&scripts());
    outcome.retain(|name, _| name.0 == "strike");
    let x = json!({"species": "hawk", "damage": "none", "speed": 90, GROUP[0]: 2, GROUP[1]: "EUR",
                   "Reviews": 2, "Tags": ["t1", "t2"]});
    let y = json!({"species": "owl"});
    let server = Connection::open(&path).unwrap();
    let put = "INSERT INTO records VALUES (1, 'strike', ?, ?, ?)";
    server.execute(put, rusqlite::params!["x", 1, x.to_string()]).unwrap();
    server.execute(put, rusqlite::params!["y", 2, y.to_string()]).unwrap();
    for device in &devices {
        let device = Connection::open(device).unwrap();
        // What docs/read-model.md promises, and the conflicts' JSON, which the code promises.
        device
            .execute_batch(
                "CREATE TABLE landfall_v_records(entity_type, entity_id, deleted, fields);
                 CREATE TABLE landfall_v_queue(task_id);
                 CREATE TABLE landfall_conflicts(entity_type, entity_id, open, record);",
            )
            .unwrap();
        for (id, shown) in [("x", &x), ("y", &y)] {
            let put = "INSERT INTO landfall_v_records VALUES ('strike', ?, 0, ?)";
            device.execute(put, [id, &shown.to_string()]).unwrap();
        }
    }
    let clash = |field: &str, local: Value, remote: Value| json!({"path": [{"field": field}], "local": local, "remote": remote});
    let about_x = json!({"why": "fields", "fields": [
        clash("species", json!("hawk"), json!("gull")),
        clash(GROUP[0], json!(2), json!(1)),
        clash(GROUP[1], json!("EUR"), json!("USD")),
        clash("Reviews", json!(1), json!(1)),
    ]});
    let about_y = json!({"why": "deleted_here_edited_there"});
    let second = Connection::open(&devices[1]).unwrap();
    for (id, record) in [("x", about_x), ("y", about_y)] {
        let put = "INSERT INTO landfall_conflicts VALUES ('strike', ?, 0, ?)";
        second.execute(put, [id, &record.to_string()]).unwrap();
    }
    Case { path, devices: devices.to_vec(), outcome, audits: Vec::new() }
}

fn faults(case: &Case) -> Vec<(&'static str, u64)> {
    let found = case.examine();
    let faults: Vec<_> = found.faults.named().into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(found.is_clean(), faults.is_empty());
    assert_eq!(found.examples.is_empty(), faults.is_empty(), "{:?}", found.examples);
    faults
}

#[test]
fn good_databases_are_found_good() {
    let case = good("together");
    let looked = Looked {
        records: 2,
        fields: 6,
        shared: 2,
        merged: 3,
        contested: 2,
        on_record: 3,
        counters: 1,
        sets: 1,
        groups: 1,
        deleted_edited: 1,
        conflicts: 2,
        agreeing: 2,
    };
    assert_eq!(case.examine(), Findings { looked, ..Findings::default() });
    assert_eq!(case.outcome[&name("x")].as_ref().unwrap().count, Some(2));
}

#[test]
fn every_way_to_spoil_what_several_authors_made_is_counted() {
    let table: &[Tampering] = &[
        (
            "a field of one author is as it was before",
            0,
            "UPDATE records SET fields = json_set(fields, '$.damage', NULL) WHERE entity_id = 'x'",
            &[("wrong_fields", 1), ("disagreements", 2)],
        ),
        (
            "a field that one author added is gone",
            0,
            "UPDATE records SET fields = json_remove(fields, '$.speed') WHERE entity_id = 'x'",
            &[("lost", 1), ("disagreements", 2)],
        ),
        (
            "a contested field has a value of nobody",
            0,
            "UPDATE records SET fields = json_set(fields, '$.species', 'bird') WHERE entity_id = 'x'",
            // Both authors' values lost; both are on record.
            &[("wrong_fields", 1), ("disagreements", 2)],
        ),
        (
            "a contested field is gone",
            0,
            "UPDATE records SET fields = json_remove(fields, '$.species') WHERE entity_id = 'x'",
            &[("lost", 1), ("disagreements", 2)],
        ),
        (
            "a group is torn",
            0,
            "UPDATE records SET fields = json_set(fields, '$.Currency', 'USD') WHERE entity_id = 'x'",
            &[("torn_groups", 1), ("disagreements", 2)],
        ),
        (
            "two counted to the same number, and one is forgotten",
            0,
            "UPDATE records SET fields = json_set(fields, '$.Reviews', 1) WHERE entity_id = 'x'",
            &[("wrong_counts", 1), ("disagreements", 2)],
        ),
        (
            "one is counted twice",
            0,
            "UPDATE records SET fields = json_set(fields, '$.Reviews', 3) WHERE entity_id = 'x'",
            &[("wrong_counts", 1), ("disagreements", 2)],
        ),
        (
            "an element of a set is lost",
            0,
            "UPDATE records SET fields = json_set(fields, '$.Tags', json('[\"t2\"]')) WHERE entity_id = 'x'",
            &[("wrong_sets", 1), ("disagreements", 2)],
        ),
        (
            "an element of a set is there twice",
            0,
            "UPDATE records SET fields = json_set(fields, '$.Tags', json('[\"t1\",\"t2\",\"t1\"]'))
             WHERE entity_id = 'x'",
            &[("wrong_sets", 1), ("disagreements", 2)],
        ),
        (
            "the deletion has won",
            0,
            "UPDATE records SET fields = NULL WHERE entity_id = 'y'",
            &[("lost", 1), ("disagreements", 2)],
        ),
        (
            "the deletion is not on record",
            2,
            "DELETE FROM landfall_conflicts WHERE entity_id = 'y'",
            &[("unrecorded", 1)],
        ),
        (
            "nothing of a report is on record",
            2,
            "DELETE FROM landfall_conflicts WHERE entity_id = 'x'",
            &[("unrecorded", 3)],
        ),
        (
            "one value is not on record",
            2,
            "UPDATE landfall_conflicts SET record = json_remove(record, '$.fields[0]') WHERE entity_id = 'x'",
            &[("unrecorded", 1)],
        ),
        (
            "another value is on record",
            2,
            "UPDATE landfall_conflicts SET record = json_set(record, '$.fields[0].remote', 'crow')
             WHERE entity_id = 'x'",
            &[("unrecorded", 1), ("needless_conflicts", 1)],
        ),
        (
            "a conflict about a field that one author changed",
            2,
            "UPDATE landfall_conflicts SET record = json_set(record, '$.fields[0].path[0].field', 'speed')
             WHERE entity_id = 'x'",
            &[("unrecorded", 1), ("needless_conflicts", 1)],
        ),
        (
            "a conflict about a deletion that nobody made",
            1,
            "INSERT INTO landfall_conflicts
             VALUES ('strike', 'x', 0, '{\"why\":\"edited_here_deleted_there\"}')",
            &[("needless_conflicts", 1)],
        ),
        (
            "a conflict about a record that nobody shares",
            1,
            "INSERT INTO landfall_conflicts VALUES ('strike', 'z', 0, '{\"why\":\"fields\"}')",
            &[("needless_conflicts", 1)],
        ),
        (
            "a conflict waits for a person",
            2,
            "UPDATE landfall_conflicts SET open = 1 WHERE entity_id = 'x'",
            &[("undecided", 1)],
        ),
        (
            "a device shows another value",
            1,
            "UPDATE landfall_v_records SET fields = json_set(fields, '$.species', 'gull') WHERE entity_id = 'x'",
            &[("disagreements", 1)],
        ),
        (
            "a device has not heard of a record",
            1,
            "DELETE FROM landfall_v_records WHERE entity_id = 'x'",
            &[("disagreements", 1)],
        ),
        (
            "a device shows a record as deleted",
            2,
            "UPDATE landfall_v_records SET deleted = 1, fields = NULL WHERE entity_id = 'y'",
            &[("disagreements", 1)],
        ),
        (
            "a device shows a record that is nowhere else",
            2,
            "INSERT INTO landfall_v_records VALUES ('strike', 'z', 0, '{}')",
            &[("disagreements", 1)],
        ),
        ("a device holds a task", 2, "INSERT INTO landfall_v_queue VALUES ('t')", &[("left_in_queues", 1)]),
    ];
    for (at, (what, whose, sql, wanted)) in table.iter().enumerate() {
        let case = good(&format!("spoiled-{at}"));
        let path = whose.checked_sub(1).map_or(&case.path, |device| &case.devices[device]);
        Connection::open(path).unwrap().execute_batch(sql).unwrap();
        assert_eq!(faults(&case), *wanted, "{what}");
    }
}
