//! Every message in the golden files goes through the types and comes out with the same members.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use landfall_protocol::{ChangesPage, Pong, Problem, PushRequest, PushResponse, Record, ping_proof};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(serde::Deserialize)]
struct Story {
    about: String,
    exchanges: Vec<Exchange>,
}

#[derive(serde::Deserialize)]
struct Exchange {
    request: Request,
    response: Response,
}

#[derive(serde::Deserialize)]
struct Request {
    path: String,
    body: Option<Box<RawValue>>,
}

#[derive(serde::Deserialize)]
struct Response {
    status: u16,
    body: Box<RawValue>,
}

fn through<T: Serialize + DeserializeOwned>(name: &str, text: &str) {
    let message: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error} in {text}"));
    let written = serde_json::to_string(&message).unwrap();
    let again: T = serde_json::from_str(&written).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), written, "{name}");
    let (before, after): (Value, Value) =
        (serde_json::from_str(text).unwrap(), serde_json::from_str(&written).unwrap());
    assert_contains(name, &before, &after);
}

/// Nothing that was in the file is lost; what is added is a default (`deleted`, `title`, an empty message).
fn assert_contains(name: &str, before: &Value, after: &Value) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (member, value) in before {
                match after.get(member) {
                    Some(other) => assert_contains(name, value, other),
                    None => panic!("{name}: {member} is lost"),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len(), "{name}");
            before.iter().zip(after).for_each(|(before, after)| assert_contains(name, before, after));
        }
        _ => assert_eq!(before, after, "{name}"),
    }
}

#[test]
fn every_golden_message_survives_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut pushes = 0;
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(paths.len() >= 19);
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let story: Story = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert!(!story.about.is_empty(), "{name}");
        for Exchange { request, response } in story.exchanges {
            let answer = response.body.get();
            match (response.status, request.path.as_str()) {
                (200, "/sync") => {
                    through::<PushResponse>(&name, answer);
                    // A request may hold one malformed task on purpose: those files say so by a list as fields.
                    let body = request.body.unwrap();
                    if !body.get().contains("\"fields\": [\"not\"") {
                        through::<PushRequest>(&name, body.get());
                        pushes += 1;
                    }
                }
                (200, path) if path.starts_with("/sync/changes") => through::<ChangesPage>(&name, answer),
                (200, path) if path.starts_with("/sync/ping") => {
                    through::<Pong>(&name, answer);
                    let pong: Pong = serde_json::from_str(answer).unwrap();
                    assert_eq!(pong.proof, ping_proof(path.split_once('=').unwrap().1), "{name}");
                }
                (200, _) => through::<Record>(&name, answer),
                _ => through::<Problem>(&name, answer),
            }
        }
    }
    assert!(pushes > 30, "only {pushes} pushes");
}
