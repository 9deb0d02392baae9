//! The suite for servers notices a server that breaks a rule, and names the rule; the reference rules pass it.
//!
//! The servers are the reference rules in memory, each with one fault in front of them or behind them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use landfall_protocol::{Problem, code, ping_proof};
use landfall_server::state::{self, MemoryRecords, NoPolicy, Refusal};
use landfall_server::{Limits, Submission};
use landfall_testkit::conformance::server::{Answer, Ask, Way, run};
use serde_json::{Value, json};
use std::sync::Mutex;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// Every key is new.
    NoMemoryOfKeys,
    /// A repeat is told `applied` instead of `duplicate`.
    RepeatIsApplied,
    /// A known key is answered without a look at the content.
    ContentNotCompared,
    /// The base is not looked at.
    BaseIgnored,
    /// A create is an upsert.
    CreateOverwrites,
    /// An update replaces the record.
    UpdateReplaces,
    /// Only the fields of a replace are changed.
    ReplaceMerges,
    /// From last to first.
    Backwards,
    /// A bad task refuses the whole request.
    PoisonRefusesAll,
    /// Every member of a group for itself.
    GroupsTornApart,
    /// Pages skip their first record when there are more than one.
    PagesSkip,
    /// Every page says that it is the last.
    NeverMore,
    /// The feed has no tombstones.
    NoTombstonesInFeed,
    /// A cursor of elsewhere begins from the beginning.
    AnyCursor,
    /// Numbers go through doubles.
    Doubles,
    /// The names of servers are not compared.
    AnyServer,
    /// Epochs are not compared.
    AnyEpoch,
    /// Any protocol is taken for ours.
    AnyProtocol,
    /// Unknown members are an error.
    StrictMembers,
    /// A refusal of the whole is a plain text.
    PlainErrors,
    /// A large batch is cut and the rest is dropped.
    BatchCut,
    /// The token is not looked at.
    NoTokenNeeded,
    /// The proof is the nonce.
    PingEchoes,
    /// A result is missing for conflicts.
    ConflictsDropped,
}

struct Server {
    fault: Fault,
    records: Mutex<MemoryRecords>,
}

impl Server {
    fn new(fault: Fault) -> Self {
        Self { fault, records: Mutex::new(MemoryRecords::new("db-1")) }
    }

    fn refuse(&self, problem: &Problem) -> Answer {
        if self.fault == Fault::PlainErrors && problem.code == code::MALFORMED {
            return Answer { status: 400, content_type: "text/plain".into(), body: "bad request".into() };
        }
        Answer {
            status: problem.status,
            content_type: "application/problem+json".into(),
            body: serde_json::to_string(problem).unwrap(),
        }
    }

    fn done(&self, answer: Result<String, Refusal>) -> Answer {
        match answer {
            Ok(body) => Answer { status: 200, content_type: "application/json".into(), body },
            Err(refusal) => self.refuse(&refusal.into_problem()),
        }
    }

    fn push(&self, body: &str) -> Answer {
        let mut records = self.records.lock().unwrap();
        let limits = Limits::default();
        let mut body = body.to_owned();
        let mut told = None;
        if let Ok(mut request) = serde_json::from_str::<Value>(&body) {
            let before = request.clone();
            if let Some(answer) = self.meddle(&mut request, &records, &mut told) {
                return answer;
            }
            if request != before {
                body = request.to_string();
            }
        }
        let submission = match Submission::from_json(body.as_bytes(), &limits) {
            Ok(submission) => submission,
            Err(problem) => return self.refuse(&problem),
        };
        let answer = state::push_with(&mut *records, &NoPolicy, &submission);
        self.done(answer.map(|answer| {
            let mut answer = serde_json::to_value(answer).unwrap();
            for result in answer["results"].as_array_mut().unwrap() {
                if self.fault == Fault::RepeatIsApplied && result["status"] == "duplicate" {
                    result["status"] = json!("applied");
                }
                if self.fault == Fault::ContentNotCompared && result["error"]["code"] == "key_reused" {
                    *result = json!({"key": result["key"], "status": "duplicate", "version": "1"});
                }
            }
            if self.fault == Fault::ConflictsDropped {
                answer["results"].as_array_mut().unwrap().retain(|result| result["status"] != "conflict");
            }
            if let Some(keys) = told {
                // The true keys again, in front of those that the rules were given.
                for (result, key) in
                    answer["results"].as_array_mut().unwrap().iter_mut().zip::<Vec<Value>>(keys)
                {
                    result["key"] = key;
                }
            }
            answer.to_string()
        }))
    }

    /// Changes the request as the fault wants it.
    fn meddle(
        &self,
        request: &mut Value,
        records: &MemoryRecords,
        told: &mut Option<Vec<Value>>,
    ) -> Option<Answer> {
        use state::Records as _;
        match self.fault {
            Fault::AnyServer => drop(request.as_object_mut().unwrap().remove("server_id")),
            Fault::AnyEpoch => request["client_epoch"] = json!(9),
            Fault::AnyProtocol => request["protocol"] = json!(1),
            Fault::StrictMembers if request.get("also_new").is_some() => {
                return Some(self.refuse(&Problem::new(400, code::MALFORMED, "unknown member")));
            }
            _ => {}
        }
        let tasks = request["tasks"].as_array_mut()?;
        match self.fault {
            Fault::Backwards => tasks.reverse(),
            Fault::BatchCut => tasks.truncate(1000),
            Fault::PoisonRefusesAll if tasks.iter().any(|task| task["operation"] == "no_such_operation") => {
                return Some(self.refuse(&Problem::new(400, code::MALFORMED, "a bad task")));
            }
            Fault::NoMemoryOfKeys => *told = Some(tasks.iter().map(|task| task["key"].clone()).collect()),
            _ => {}
        }
        for (at, task) in tasks.iter_mut().enumerate() {
            let id = task["entity_id"].as_str().unwrap_or("").to_owned();
            let kind = task["entity_type"].as_str().unwrap_or("").to_owned();
            let live = records.record(&kind, &id).unwrap().is_some_and(|stored| stored.fields.is_some());
            let task = task.as_object_mut().unwrap();
            match (self.fault, task["operation"].as_str().unwrap_or("")) {
                (Fault::NoMemoryOfKeys, _) => {
                    task.insert("key".into(), json!(format!("{}-{at}", records.version().unwrap())));
                    let more = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    task.insert("key".into(), json!(format!("own-{more}")));
                }
                (Fault::BaseIgnored, _) => drop(task.remove("base_version")),
                (Fault::GroupsTornApart, _) => drop(task.remove("group")),
                (Fault::CreateOverwrites, "create") => drop(task.insert("operation".into(), json!("upsert"))),
                (Fault::UpdateReplaces, "update") if live && task["fields"].is_object() => {
                    task.remove("unset");
                    task.insert("operation".into(), json!("replace"));
                }
                (Fault::ReplaceMerges, "replace") => drop(task.insert("operation".into(), json!("upsert"))),
                (Fault::Doubles, _) => {
                    if let Some(a) = task.get("fields").and_then(|fields| fields["a"].as_f64()) {
                        if a > 1e15 {
                            task.insert("fields".into(), json!({"a": a}));
                        }
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn changes(&self, query: &str) -> Answer {
        let records = self.records.lock().unwrap();
        let part = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)).unwrap_or("");
        let limit: usize = part("limit=").parse().unwrap();
        let cursor = decoded(part("cursor="));
        let mut page = state::changes(&*records, Some(&cursor), limit, 1 << 20);
        if self.fault == Fault::AnyCursor && page.is_err() {
            page = state::changes(&*records, None, limit, 1 << 20);
        }
        self.done(page.map(|mut page| {
            match self.fault {
                Fault::PagesSkip if page.has_more => drop(page.changes.remove(0)),
                Fault::NeverMore => page.has_more = false,
                Fault::NoTombstonesInFeed => page.changes.retain(|record| !record.deleted),
                _ => {}
            }
            serde_json::to_string(&page).unwrap()
        }))
    }
}

static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut found = Vec::new();
    while let Some(byte) = bytes.next() {
        found.push(if byte == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
        } else {
            byte
        });
    }
    String::from_utf8(found).unwrap()
}

impl Way for Server {
    fn ask(&self, ask: &Ask) -> Result<Answer, String> {
        if let Some(nonce) = ask.path.strip_prefix("/ping?nonce=") {
            let proof = if self.fault == Fault::PingEchoes { nonce.to_owned() } else { ping_proof(nonce) };
            return Ok(self.done(Ok(json!({"protocol": 1, "proof": proof}).to_string())));
        }
        if !ask.with_credentials && self.fault != Fault::NoTokenNeeded {
            return Ok(self.refuse(&Problem::new(401, code::UNAUTHORIZED, "who are you?")));
        }
        if let Some(query) = ask.path.strip_prefix("/changes?") {
            return Ok(self.changes(query));
        }
        if let Some(path) = ask.path.strip_prefix("/entities/") {
            let (kind, id) = path.split_once('/').unwrap();
            let records = self.records.lock().unwrap();
            let record = state::entity(&*records, &decoded(kind), &decoded(id));
            return Ok(self.done(record.map(|record| serde_json::to_string(&record).unwrap())));
        }
        Ok(self.push(ask.body.as_deref().unwrap()))
    }

    fn has_credentials(&self) -> bool {
        true
    }
}

/// The names of the rules that a server with this fault is found to break.
fn broken_by(fault: Fault) -> Vec<&'static str> {
    let server = Server::new(fault);
    let outcome = run(&server, "note", &|_| true, &mut |_| ()).unwrap();
    let broken = outcome.findings.iter().filter(|finding| finding.seen.is_err());
    broken.map(|finding| finding.check.name).collect()
}

#[test]
fn the_reference_rules_pass_and_everything_made_is_gone() {
    let server = Server::new(Fault::None);
    let mut told = 0;
    let outcome = run(&server, "note", &|_| true, &mut |finding| {
        told += 1;
        assert!(finding.seen.is_ok(), "{}: {:?}", finding.check.name, finding.seen);
    });
    let outcome = outcome.unwrap();
    assert_eq!(told, outcome.findings.len());
    assert!(outcome.cleaned > 20 && outcome.left.is_empty(), "{} {:?}", outcome.cleaned, outcome.left);
    let records = server.records.lock().unwrap();
    let page = state::changes(&*records, None, 1000, 1 << 20).unwrap();
    assert!(page.changes.iter().all(|record| record.deleted));
}

#[test]
fn a_broken_server_is_told_which_rules_it_breaks() {
    let mut wrong = Vec::new();
    for (fault, rules) in [
        (Fault::NoMemoryOfKeys, &["lost_reply", "key_reused", "refusals_remembered", "same_key_at_once"][..]),
        (Fault::RepeatIsApplied, &["lost_reply", "same_key_at_once"]),
        (Fault::ContentNotCompared, &["key_reused"]),
        (Fault::BaseIgnored, &["base_version"]),
        (Fault::CreateOverwrites, &["refusals_remembered", "create_on_live"]),
        (Fault::UpdateReplaces, &["only_named"]),
        (Fault::ReplaceMerges, &["replace_whole"]),
        (Fault::Backwards, &["order"]),
        (Fault::PoisonRefusesAll, &["poison"]),
        (Fault::GroupsTornApart, &["groups"]),
        (Fault::PagesSkip, &["feed_whole"]),
        (Fault::NeverMore, &["feed_whole"]),
        (Fault::NoTombstonesInFeed, &["feed_again"]),
        (Fault::AnyCursor, &["cursor_expired"]),
        (Fault::Doubles, &["exact_values"]),
        (Fault::AnyServer, &["server_identity"]),
        (Fault::AnyEpoch, &["epochs"]),
        (Fault::AnyProtocol, &["other_protocol"]),
        (Fault::StrictMembers, &["unknown_members"]),
        (Fault::PlainErrors, &["unreadable"]),
        (Fault::BatchCut, &["too_large"]),
        (Fault::NoTokenNeeded, &["credentials"]),
        (Fault::PingEchoes, &["ping"]),
        (Fault::ConflictsDropped, &["refusals_remembered", "base_version", "create_on_live", "tombstone"]),
    ] {
        let found = broken_by(fault);
        if found != rules {
            wrong.push(format!("{fault:?}: found {found:?}, must find {rules:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
