//! A store that only its key can read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::entity::{Base, Body, StoredEntity};
use landfall_core::id::EntityKey;
use landfall_core::store::{Store as _, StoreError};
use landfall_core::value::Fields;
use landfall_sqlite::{OnCorrupt, Options, SecretKey, SqliteStore};
use landfall_testkit::conformance::store;
use landfall_testkit::conformance::store::samples::task;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use support::{Files, Folder, all_bytes, beside, commit};

const KEY: [u8; 32] = *b"thirty-two bytes of a secret key";

fn encrypted() -> Options {
    SqliteStore::options().key(SecretKey::raw(KEY))
}

/// Words that are written into every table, and must be read nowhere.
const SECRETS: [&str; 5] =
    ["zanzibar-value", "zanzibar-id", "zanzibartype", "landfall_tasks", "SQLite format 3"];

fn fill(store: &mut SqliteStore, rows: u64) {
    commit(store, |tx| {
        for number in 1..=rows {
            let key = EntityKey::new("zanzibartype", format!("zanzibar-id-{number}"));
            let seq = tx.next_seq().unwrap();
            let mut task = task(seq, &key);
            task.intent
                .set("text", format!("zanzibar-value {number} {}", "x".repeat(number as usize % 9_000)));
            tx.put_task(&task).unwrap();
            let body = Body::Live(Fields::from([("text", "zanzibar-value")]));
            let base = Base { body: body.clone(), version: None, complete: true };
            let mut entity = StoredEntity::unknown(key);
            (entity.base, entity.local) = (Some(base), Some(body));
            tx.put_entity(&entity).unwrap();
        }
    });
}

fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

fn assert_nothing_readable(folder: &Path) {
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        // The shared memory holds page numbers and no content, but it is looked at as well.
        let bytes = std::fs::read(&path).unwrap();
        for word in SECRETS {
            assert!(!holds(&bytes, word), "{word} can be read in {}", path.display());
        }
    }
}

#[test]
fn it_keeps_every_promise_of_a_store() {
    let unlock = "PRAGMA key = \"x'7468697274792d74776f206279746573206f66206120736563726574206b6579'\"";
    store::run_all(&Files::unlocked_by(encrypted(), unlock));
}

#[test]
fn nothing_can_be_read_in_the_file_its_log_or_beside_it() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = encrypted().open(&path).unwrap();
    fill(&mut store, 500);
    let log = std::fs::metadata(beside(&path, "-wal")).unwrap().len();
    assert!(log > 100_000, "there is something in the log");
    assert_nothing_readable(folder.path());
    store.idle().unwrap();
    fill_more(&mut store);
    assert_nothing_readable(folder.path());
    drop(store);
    assert_nothing_readable(folder.path());
    // The words can be found at all.
    let plain = Folder::new();
    fill(&mut SqliteStore::open(plain.file("x.db")).unwrap(), 5);
    let bytes = std::fs::read(plain.file("x.db")).unwrap();
    assert!(SECRETS.iter().all(|word| holds(&bytes, word)));
}

fn fill_more(store: &mut SqliteStore) {
    commit(store, |tx| {
        let page = tx.tasks_after(0, 100).unwrap();
        for mut task in page.tasks {
            task.intent.set("more", "zanzibar-value again");
            tx.put_task(&task).unwrap();
        }
    });
}

#[test]
fn a_wrong_key_or_none_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    fill(&mut encrypted().open(&path).unwrap(), 50);
    let before = all_bytes(&path);
    let wrong = || SqliteStore::options().key(SecretKey::raw([7; 32]));
    let words = SqliteStore::options().key(SecretKey::passphrase("wrong'; DROP TABLE x; --"));
    for options in [wrong(), wrong().on_corrupt(OnCorrupt::Rescue), words] {
        let error = options.open(&path).unwrap_err();
        assert!(matches!(error, StoreError::WrongKey(_)), "{error}");
        assert!(error.to_string().contains("wrong key, or not a Landfall store"), "{error}");
    }
    for options in [SqliteStore::options(), SqliteStore::options().on_corrupt(OnCorrupt::Rescue)] {
        let error = options.open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Foreign(_)) && error.to_string().contains("key"), "{error}");
    }
    assert!(matches!(SqliteStore::rescue(&path), Err(StoreError::Foreign(_))));
    assert_eq!(all_bytes(&path)[0], before[0]);
    let store = encrypted().open(&path).map(|mut store| store.begin().unwrap().counts().unwrap().total());
    assert_eq!(store.unwrap(), 50);
}

#[test]
fn a_plain_store_with_a_key_and_rubbish_are_refused_and_stay_as_they_are() {
    let folder = Folder::new();
    let (plain, rubbish) = (folder.file("plain.db"), folder.file("rubbish.db"));
    drop(SqliteStore::open(&plain).unwrap());
    std::fs::write(&rubbish, vec![0x5a; 8_192]).unwrap();
    let before = [&plain, &rubbish].map(|path| std::fs::read(path).unwrap());
    let refused = encrypted().open(&plain).unwrap_err();
    assert!(matches!(&refused, StoreError::Misuse(why) if why.contains("not encrypted")), "{refused}");
    assert!(matches!(encrypted().open(&rubbish), Err(StoreError::WrongKey(_))));
    assert_eq!([&plain, &rubbish].map(|path| std::fs::read(path).unwrap()), before);
}

#[test]
fn a_key_is_asked_for_at_every_opening_and_shown_nowhere() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let words = "correct horse 'battery' staple";
    let options = SqliteStore::options().key_from(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(SecretKey::passphrase(words))
    });
    let mut store = options.clone().open(&path).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    fill(&mut store, 3);
    let mut reader = store.reader().unwrap().unwrap();
    let mut seen = 0;
    reader
        .read(&mut |read| {
            seen = read.counts()?.total();
            Ok(())
        })
        .unwrap();
    assert_eq!((seen, asked.load(Ordering::Relaxed)), (3, 2));
    drop(reader);
    store.reopen().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    for shown in [format!("{options:?}"), format!("{store:?}"), format!("{:?}", SecretKey::passphrase(words))]
    {
        assert!(!shown.contains("horse"), "{shown}");
    }
    drop(store);
    let refused =
        SqliteStore::options().key_from(|| Err("the keystore is locked".into())).open(&path).unwrap_err();
    assert!(refused.to_string().contains("the keystore is locked"), "{refused}");
    let nul = SqliteStore::options().key(SecretKey::passphrase("horse\0battery")).open(&path).unwrap_err();
    assert!(!format!("{nul} {nul:?}").contains("horse"), "{nul:?}");
}

#[test]
fn the_library_is_new_enough_and_really_encrypts() {
    let version = rusqlite::version_number();
    assert!(version >= 3_051_003, "{version}");
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    let cipher: String = connection.query_one("PRAGMA cipher_version", (), |row| row.get(0)).unwrap();
    eprintln!("SQLCipher {cipher} on SQLite {}", rusqlite::version());
}
