//! The golden exchanges (`crates/protocol/golden`) against the real router over loopback, one fresh server per file.
//!
//! The comparison is the one that `golden/README.md` describes, for authors of other servers to copy.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use landfall_server::{AssignIds, Server, ServerOptions};
use serde_json::{Map, Value};
use support::{Folder, call};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_reference_server_answers_every_golden_exchange() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/golden");
    let mut paths: Vec<_> = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(paths.len() >= 19);
    for path in paths {
        let folder = Folder::new();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let needs: Setup = serde_json::from_str(&text).unwrap();
        let policy = Arc::new(AssignIds::new(needs.needs.assign_ids));
        let options = ServerOptions { policy, ..ServerOptions::default() };
        let server = Server::bind(([127, 0, 0, 1], 0).into(), folder.database(), options);
        let server = server.await.unwrap().spawn();
        let addr = server.local_addr();
        tokio::task::spawn_blocking(move || tell(addr, &name, &text)).await.unwrap();
        server.stop().await;
    }
}

/// What a story needs of a server beyond the ordinary.
#[derive(serde::Deserialize)]
struct Setup {
    #[serde(default)]
    needs: Needs,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Needs {
    #[serde(default)]
    assign_ids: Vec<String>,
}

fn tell(addr: SocketAddr, name: &str, text: &str) {
    // The bodies are taken as text, so that the numbers in them arrive as written.
    #[derive(serde::Deserialize)]
    struct Story {
        exchanges: Vec<Exchange>,
    }
    #[derive(serde::Deserialize)]
    struct Exchange {
        request: Request,
        response: Value,
    }
    #[derive(serde::Deserialize)]
    struct Request {
        method: String,
        path: String,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        body: Option<Box<serde_json::value::RawValue>>,
    }
    let story: Story = serde_json::from_str(text).unwrap();
    let mut bound = Bound::default();
    for (at, Exchange { request, response }) in story.exchanges.into_iter().enumerate() {
        let case = format!("{name}, exchange {}", at + 1);
        let body = request.body.map_or(String::new(), |body| body.get().to_owned());
        let mut headers: Vec<_> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if !body.is_empty() && headers.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        let (path, body) = (bound.put_into(&request.path, ""), bound.put_into(&body, "\""));
        let answer = call(addr, &request.method, &path, &headers, body.as_bytes());
        assert_eq!(Value::from(answer.status), response["status"], "{case}: {answer:?}");
        let content_type =
            answer.header("content-type").unwrap_or("").split(';').next().unwrap().trim().to_owned();
        assert_eq!(Value::from(content_type), response["content_type"], "{case}");
        bound.compare(&case, "", &response["body"], &answer.json());
        for part in response["text_contains"].as_array().into_iter().flatten() {
            assert!(answer.body.contains(part.as_str().unwrap()), "{case}: {part} is not in {}", answer.body);
        }
    }
}

#[derive(Default)]
struct Bound(BTreeMap<String, String>);

impl Bound {
    /// Replaces variables that stand between two `quote`s, longest names first.
    fn put_into(&self, text: &str, quote: &str) -> String {
        self.0.iter().rev().fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("{quote}{name}{quote}"), &format!("{quote}{value}{quote}"))
        })
    }

    fn compare(&mut self, case: &str, member: &str, expected: &Value, found: &Value) {
        match (expected, found) {
            (Value::String(name), Value::String(value)) if name.starts_with('$') => {
                assert!(!value.is_empty(), "{case}: {member} is empty");
                let known = self.0.entry(name.clone()).or_insert_with(|| value.clone());
                assert_eq!(known, value, "{case}: {member} {name}");
                let others = self.0.iter().filter(|(other, _)| other.starts_with("$v"));
                if name.starts_with("$v") {
                    assert_eq!(
                        others.filter(|(_, known)| *known == value).count(),
                        1,
                        "{case}: {name} is not new"
                    );
                }
            }
            (Value::Object(expected), Value::Object(found)) => {
                self.compare_members(case, member, expected, found)
            }
            (Value::Array(expected), Value::Array(found)) => {
                assert_eq!(expected.len(), found.len(), "{case}: {member} {found:?}");
                let mut found: Vec<_> = found.iter().collect();
                for part in expected {
                    let by_key = |other: &&Value| member == "results" && other["key"] == part["key"];
                    let place = if member == "results" { found.iter().position(by_key) } else { Some(0) };
                    let other = found.remove(place.unwrap_or_else(|| panic!("{case}: no result for {part}")));
                    self.compare(case, member, part, other);
                }
            }
            _ => assert_eq!(expected, found, "{case}: {member}"),
        }
    }

    fn compare_members(
        &mut self,
        case: &str,
        member: &str,
        expected: &Map<String, Value>,
        found: &Map<String, Value>,
    ) {
        if member == "fields" {
            assert_eq!(expected, found, "{case}: fields");
            return;
        }
        for (name, value) in expected {
            match found.get(name) {
                Some(other) => self.compare(case, name, value, other),
                None => assert!(
                    name == "deleted" && *value == Value::Bool(false),
                    "{case}: {name} is missing in {found:?}"
                ),
            }
        }
        // What a verdict must not say: a conflict that shows fields is not a deletion, and the other way round.
        if member == "results" {
            for name in ["fields", "deleted", "error", "entity_id"] {
                let said = found.get(name).is_some_and(|value| *value != Value::Bool(false));
                assert!(!said || expected.contains_key(name), "{case}: unexpected {name} in {found:?}");
            }
        }
    }
}
