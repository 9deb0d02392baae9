//! Answers whole, cut, flipped and forged.

use super::*;
use landfall_core::change::Operation;
use landfall_core::id::{CallId, TaskId};
use landfall_core::time::Timestamp;
use uuid::Uuid;

const JSON: &str = "application/json";

fn key(n: u8) -> IdempotencyKey {
    IdempotencyKey([n; 16])
}

fn batch(count: u8) -> PushBatch {
    let task = |n: u8| PushTask {
        task_id: TaskId(Uuid::from_u128(u128::from(n))),
        key: key(n),
        entity: EntityKey::new("note", format!("n{n}")),
        operation: Operation::Update,
        group: None,
        payload: "{}".into(),
        attempt: 0,
    };
    PushBatch { call: CallId(1), tasks: (1..=count).map(task).collect() }
}

fn answer(body: impl Into<Vec<u8>>) -> HttpResponse {
    HttpResponse::new(200, JSON, body)
}

/// An answer with these members after each result's key.
fn results(members: &[(u8, &str)]) -> String {
    let results: Vec<String> =
        members.iter().map(|(n, rest)| format!(r#"{{"key":"{}",{rest}}}"#, key(*n))).collect();
    format!(r#"{{"protocol":1,"results":[{}]}}"#, results.join(","))
}

fn verdict(members: &str) -> Outcome {
    let reply = decode_push(&batch(1), &answer(results(&[(1, members)]))).unwrap();
    assert_eq!(reply.results.len(), 1);
    reply.results[0].1.clone()
}

fn fields(text: &str) -> Fields {
    Fields::parse(text).unwrap()
}

fn live(text: &str, version: Option<&str>) -> Outcome {
    let body = Body::Live(fields(text));
    let key = EntityKey::new("note", "n1");
    Outcome::Conflict { remote: Some(RemoteEntity::new(key, body, version.map(Version::from))) }
}

fn settles(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Applied(_) | Outcome::Duplicate(_) | Outcome::Rejected(_) | Outcome::Conflict { .. }
    )
}

#[test]
fn every_verdict_is_read() {
    let applied = |version: Option<&str>, fields: Option<&str>, id: Option<&str>| Applied {
        version: version.map(Version::from),
        fields: fields.map(|text| Fields::parse(text).unwrap()),
        entity_id: id.map(String::from),
    };
    let gone = Outcome::Conflict {
        remote: Some(RemoteEntity::new(EntityKey::new("note", "n1"), Body::Deleted, Some("9".into()))),
    };
    let rejection = |code: &str, message: &str, answer: Option<&str>| {
        Outcome::Rejected(Rejection {
            code: code.into(),
            message: message.into(),
            answer: answer.map(String::from),
        })
    };
    let retry = |ms: Option<u64>, reason: &str| Outcome::Retry {
        after: ms.map(Duration::from_millis),
        reason: reason.into(),
    };
    let again = "the backend asks to send it again";
    let cases: Vec<(&str, Outcome)> = vec![
        (r#""status":"applied","version":"8""#, Outcome::Applied(applied(Some("8"), None, None))),
        (r#""status":"duplicate","version":"8""#, Outcome::Duplicate(applied(Some("8"), None, None))),
        (r#""status":"applied""#, Outcome::Applied(applied(None, None, None))),
        (
            r#""status":"applied","version":null,"fields":null,"entity_id":null"#,
            Outcome::Applied(Applied::default()),
        ),
        (
            r#""status":"applied","version":"8","fields":{"n":18446744073709551615},"new":{"x":[1]}"#,
            Outcome::Applied(applied(Some("8"), Some(r#"{"n":18446744073709551615}"#), None)),
        ),
        (
            r#""status":"applied","version":"8","entity_id":"srv-7""#,
            Outcome::Applied(applied(Some("8"), None, Some("srv-7"))),
        ),
        (
            r#""status":"applied","version":"8","entity_id":"n1""#,
            Outcome::Applied(applied(Some("8"), None, None)),
        ),
        // The effect is proven, only the fields are not readable.
        (
            r#""status":"applied","version":"8","fields":{"n":100000000000000000001}"#,
            Outcome::Applied(applied(Some("8"), None, None)),
        ),
        (
            r#""status":"applied","version":"8","fields":{"a":1,"a":2}"#,
            Outcome::Applied(applied(Some("8"), None, None)),
        ),
        (
            r#""status":"duplicate","version":"8","fields":[1]"#,
            Outcome::Duplicate(applied(Some("8"), None, None)),
        ),
        (r#""status":"conflict","version":"9","fields":{"a":1}"#, live(r#"{"a":1}"#, Some("9"))),
        (r#""status":"conflict","fields":{}"#, live("{}", None)),
        (r#""status":"conflict","version":"9","deleted":true"#, gone.clone()),
        (r#""status":"conflict","version":"9","deleted":true,"fields":{"a":1}"#, gone),
        (r#""status":"conflict","version":"9""#, Outcome::Conflict { remote: None }),
        (r#""status":"conflict","version":"9","fields":{"n":1e999}"#, Outcome::Conflict { remote: None }),
        (r#""status":"conflict","fields":{"n":100000000000000000001}"#, Outcome::Conflict { remote: None }),
        (
            r#""status":"rejected","error":{"code":"not_found","message":"m"}"#,
            rejection("not_found", "m", Some(r#"{"code":"not_found","message":"m"}"#)),
        ),
        // What the protocol does not know is kept as it came.
        (
            r#""status":"rejected","error":{"code":"x", "field":"title","limit":100000000000000000001}"#,
            rejection("x", "", Some(r#"{"code":"x", "field":"title","limit":100000000000000000001}"#)),
        ),
        (r#""status":"rejected","error":null"#, rejection("rejected", "no reason given", None)),
        (r#""status":"rejected""#, rejection("rejected", "no reason given", None)),
        (r#""status":"retry","retry_after_ms":1000"#, retry(Some(1000), again)),
        (r#""status":"retry","retry_after_ms":18446744073709551615"#, retry(Some(604_800_000), again)),
        (r#""status":"retry","retry_after_ms":-5"#, retry(None, again)),
        (r#""status":"retry","retry_after_ms":1.5"#, retry(None, again)),
        (r#""status":"retry","retry_after_ms":"9""#, retry(None, again)),
        (
            r#""status":"retry","error":{"code":"group_aborted","message":"m"}"#,
            retry(None, "group_aborted: m"),
        ),
    ];
    for (members, expected) in cases {
        assert_eq!(verdict(members), expected, "{members}");
    }
}

#[test]
fn a_result_of_another_shape_is_unknown_and_costs_only_itself() {
    let long = format!(r#""status":"applied","version":"{}""#, "v".repeat(NAME_BYTES_MAX + 1));
    for bad in [
        r#""status":"parked""#,
        r#""status":"Applied","version":"8""#,
        r#""status":null"#,
        r#""status":1"#,
        r#""status":["applied"]"#,
        r#""version":"8""#,
        r#""status":"applied","version":8"#,
        r#""status":"applied","version":"""#,
        r#""status":"applied","version":{"v":1}"#,
        r#""status":"applied","entity_id":7"#,
        r#""status":"applied","entity_id":"""#,
        r#""status":"applied","status":"rejected""#,
        r#""status":"conflict","deleted":"yes""#,
        r#""status":"rejected","error":"no""#,
        r#""status":"rejected","error":{"message":"no code"}"#,
        &long,
    ] {
        let body = results(&[(1, bad), (2, r#""status":"applied","version":"8""#)]);
        let reply = decode_push(&batch(2), &answer(body)).unwrap();
        assert!(matches!(reply.results[0].1, Outcome::Unknown { .. }), "{bad}: {:?}", reply.results[0]);
        assert!(matches!(reply.results[1].1, Outcome::Applied(_)), "{bad}");
    }
}

#[test]
fn results_are_matched_by_key_and_nothing_else() {
    let applied = r#""status":"applied","version":"8""#;
    let body = results(&[(3, applied), (9, applied), (1, r#""status":"retry""#)]);
    let read = read_push(&Table::default(), &batch(3), &answer(body)).unwrap();
    let keys: Vec<_> = read.reply.results.iter().map(|(key, _)| *key).collect();
    assert_eq!((keys, read.unasked), (vec![key(3), key(1)], 1), "any order, 9 was not asked, 2 is left out");
    for strange in
        ["{}", "null", "7", r#"{"key":7,"status":"applied"}"#, r#"{"key":"A1","status":"applied"}"#]
    {
        let body = format!(r#"{{"protocol":1,"results":[{strange}]}}"#);
        let read = read_push(&Table::default(), &batch(3), &answer(body)).unwrap();
        assert_eq!((read.reply.results.len(), read.unasked), (0, 1), "{strange}");
    }
}

#[test]
fn contradicting_results_are_unknown_and_equal_ones_count_once() {
    let applied = r#""status":"applied","version":"8""#;
    for other in [
        r#""status":"applied","version":"9""#,
        r#""status":"rejected""#,
        r#""status":"retry""#,
        r#""status":1"#,
    ] {
        for pair in [[(1, applied), (1, other)], [(1, other), (1, applied)]] {
            let reply = decode_push(&batch(1), &answer(results(&pair))).unwrap();
            assert!(matches!(&reply.results[..], [(_, Outcome::Unknown { .. })]), "{other}");
        }
    }
    let thrice = results(&[(1, applied), (1, r#""status":"rejected""#), (1, applied)]);
    let reply = decode_push(&batch(1), &answer(thrice)).unwrap();
    assert!(matches!(&reply.results[..], [(_, Outcome::Unknown { .. })]), "once in doubt, always in doubt");
    let reply = decode_push(&batch(1), &answer(results(&[(1, applied), (1, applied)]))).unwrap();
    assert!(matches!(&reply.results[..], [(_, Outcome::Applied(_))]));
}

#[test]
fn the_server_names_itself_and_tells_the_time() {
    let body = r#"{"protocol":1,"server_id":"srv","node":"b7","results":[]}"#;
    let response = answer(body).with_header("Date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let reply = decode_push(&batch(1), &response).unwrap();
    assert_eq!(reply.server_id, Some("srv".into()));
    assert_eq!(reply.server_time, Some(Timestamp(784_111_777_000)));
}

#[test]
fn an_answer_of_another_shape_acknowledges_nothing() {
    let whole = results(&[(1, r#""status":"applied","version":"8""#)]);
    for body in [
        "",
        " ",
        "null",
        "true",
        "1",
        "\"ok\"",
        "[]",
        "{}",
        "<html>",
        r#"{"status":"ok"}"#,
        r#"{"results":[]}"#,
        r#"{"protocol":1}"#,
        r#"{"protocol":1,"results":null}"#,
        r#"{"protocol":1,"results":{}}"#,
        r#"{"protocol":"1","results":[]}"#,
        r#"{"protocol":2,"results":[]}"#,
        r#"{"protocol":1,"protocol":1,"results":[]}"#,
        r#"{"protocol":1,"results":[],"results":[]}"#,
        r#"{"protocol":1,"server_id":7,"results":[]}"#,
        r#"{"protocol":1,"server_id":"","results":[]}"#,
        &format!("{whole}{whole}"),
        &format!("{whole}x"),
        &format!("\u{feff}{whole}"),
        &format!("<!-- -->{whole}"),
    ] {
        let failure = decode_push(&batch(1), &answer(body)).unwrap_err();
        assert_eq!((failure.kind, failure.delivery), (FailureKind::Protocol, Delivery::Unknown), "{body}");
    }
    for response in [
        HttpResponse::new(200, "text/html", whole.clone()),
        HttpResponse::new(200, "", whole.clone()),
        HttpResponse::new(201, JSON, whole.clone()),
        HttpResponse::new(302, JSON, whole.clone()),
        HttpResponse::new(500, JSON, whole.clone()),
        HttpResponse { framing: crate::http::Framing::UntilClose, ..answer(whole.clone()) },
    ] {
        assert!(decode_push(&batch(1), &response).is_err(), "{response:?}");
    }
    assert!(decode_push(&batch(1), &answer(format!("\n {whole} \r\n"))).is_ok());
}

fn rich_answer() -> String {
    let body = results(&[
        (1, r#""status":"applied","version":"8","fields":{"título":"naïve 😀 \" \\ ","n":[1,2,{"x":null}]}"#),
        (2, r#""status":"conflict","version":"9","deleted":true"#),
        (3, r#""status":"rejected","error":{"code":"not_found","message":"no"}"#),
        (4, r#""status":"duplicate","version":"3","entity_id":"srv-4""#),
        (5, r#""status":"retry","retry_after_ms":250"#),
    ]);
    body.replacen("\"results\"", "\"server_id\":\"srv\",\"results\"", 1)
}

#[test]
fn an_answer_cut_at_any_byte_acknowledges_nothing() {
    let whole = rich_answer();
    assert_eq!(decode_push(&batch(5), &answer(whole.as_str())).unwrap().results.len(), 5);
    for cut in 0..whole.len() {
        let failure = decode_push(&batch(5), &answer(&whole.as_bytes()[..cut])).unwrap_err();
        assert_eq!(
            (failure.kind, failure.delivery),
            (FailureKind::Protocol, Delivery::Unknown),
            "cut at {cut}"
        );
    }
}

#[test]
fn flipped_bytes_never_panic_and_never_settle_a_task_by_another_name() {
    let whole = rich_answer();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |most: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(most).unwrap()).unwrap()
    };
    let batch = batch(5);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..20_000 {
        let mut body = whole.clone().into_bytes();
        for _ in 0..=next(3) {
            let at = next(body.len());
            match next(3) {
                0 => body[at] ^= 1 << next(8),
                1 => body[at] = u8::try_from(next(256)).unwrap(),
                _ => drop(body.remove(at)),
            }
        }
        let response = answer(body);
        match decode_push(&batch, &response) {
            Err(_) => refused += 1,
            Ok(reply) => {
                read += 1;
                for (key, outcome) in &reply.results {
                    assert!(batch.tasks.iter().any(|task| task.key == *key));
                    let named = String::from_utf8_lossy(&response.body).contains(&key.to_string());
                    assert!(named || !settles(outcome), "{key} settled without being named");
                }
            }
        }
        let _ = decode_pull(&PullRequest { cursor: None, limit: 5 }, &response);
        let _ = decode_fetch(&EntityKey::new("note", "n1"), &response);
    }
    assert!(refused > 1000 && read > 1000, "{refused} refused, {read} read");
}

#[test]
fn deep_nesting_is_refused_without_overflowing_the_stack() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let body = results(&[(1, &format!(r#""status":"applied","version":"8","fields":{{"a":{deep}}}"#))]);
    let reply = decode_push(&batch(1), &answer(body));
    assert!(
        reply.is_err() || matches!(&reply.unwrap().results[0].1, Outcome::Applied(a) if a.fields.is_none())
    );
}

#[test]
fn a_refusals_words_are_bounded() {
    let members = format!(
        r#""status":"rejected","error":{{"code":"{}","message":"a\n{}"}}"#,
        "c".repeat(9_999),
        "é".repeat(9_999)
    );
    let Outcome::Rejected(rejection) = verdict(&members) else { panic!("not rejected") };
    assert_eq!((rejection.code.chars().count(), rejection.message.chars().count()), (100, 500));
    assert!(!rejection.message.contains('\n'));
    let answer = rejection.answer.unwrap();
    assert!(answer.chars().count() == 2000 && answer.ends_with(" [cut]"), "{answer}");
}

#[test]
fn a_group_that_was_aborted_is_sent_again_but_for_the_one_that_spoilt_it() {
    let aborted = r#""status":"retry","error":{"code":"group_aborted","message":"m"}"#;
    let body = results(&[
        (1, aborted),
        (2, r#""status":"rejected","error":{"code":"not_found"}"#),
        (3, aborted),
        (4, r#""status":"duplicate","version":"7""#),
    ]);
    let mut batch = batch(4);
    for task in &mut batch.tasks[..3] {
        task.group = Some("g".into());
    }
    let reply = decode_push(&batch, &answer(body)).unwrap();
    let told: Vec<_> = reply
        .results
        .iter()
        .map(|(_, outcome)| match outcome {
            Outcome::Retry { after: None, reason } => reason.as_str(),
            Outcome::Rejected(rejection) => rejection.code.as_str(),
            Outcome::Duplicate(_) => "duplicate",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["group_aborted: m", "not_found", "group_aborted: m", "duplicate"]);
}

fn pulled(body: &str) -> Result<PullPage, Failure> {
    decode_pull(&PullRequest { cursor: Some("5".into()), limit: 10 }, &answer(body))
}

#[test]
fn a_page_is_read_and_a_bad_record_costs_only_itself() {
    let page = pulled(
        r#"{"changes":[
            {"entity_type":"note","entity_id":"1","version":"7","fields":{"a":1}},
            {"entity_type":"note","entity_id":"2","version":"8","deleted":true},
            {"entity_type":"note","entity_id":"3","version":"9","fields":{"secret":100000000000000000001}},
            {"entity_type":"note","entity_id":"4","version":"9"},
            {"entity_type":"note","entity_id":5,"version":"9","fields":{}},
            {"entity_type":"note","entity_id":"","version":"9","fields":{}},
            null
        ],"cursor":"9","has_more":true}"#,
    )
    .unwrap();
    let remote = |id: &str, body, version: &str| {
        RemoteEntity::new(EntityKey::new("note", id), body, Some(version.into()))
    };
    assert_eq!(page.changes[0], Ok(remote("1", Body::Live(fields(r#"{"a":1}"#)), "7")));
    assert_eq!(page.changes[1], Ok(remote("2", Body::Deleted, "8")));
    let reasons: Vec<&String> = page.changes[2..].iter().map(|change| change.as_ref().unwrap_err()).collect();
    assert_eq!(reasons.len(), 5);
    assert!(reasons[0].contains('3') && !reasons[0].contains("secret") && !reasons[0].contains("100000"));
    assert_eq!((page.cursor, page.has_more), ("9".into(), true));
}

#[test]
fn a_page_without_its_end_is_no_page() {
    let whole = r#"{"changes":[{"entity_type":"n","entity_id":"1","version":"7","fields":{}}],"cursor":"6","has_more":false}"#;
    assert!(pulled(whole).is_ok());
    for cut in 0..whole.len() {
        assert_eq!(pulled(&whole[..cut]).unwrap_err().kind, FailureKind::Protocol, "cut at {cut}");
    }
    for bad in [
        r#"{"changes":[],"cursor":"6"}"#,
        r#"{"changes":[],"has_more":false}"#,
        r#"{"changes":[],"cursor":6,"has_more":false}"#,
        r#"{"changes":[],"cursor":"","has_more":false}"#,
        r#"{"changes":[],"cursor":"6","has_more":"no"}"#,
        r#"{"changes":null,"cursor":"6","has_more":false}"#,
        r#"{"cursor":"6","has_more":false}"#,
    ] {
        assert_eq!(pulled(bad).unwrap_err().kind, FailureKind::Protocol, "{bad}");
    }
    let stuck = r#"{"changes":[],"cursor":"5","has_more":true}"#;
    assert!(pulled(stuck).is_err(), "an endless feed that does not move");
    assert!(pulled(r#"{"changes":[],"cursor":"5","has_more":false}"#).is_ok());
}

#[test]
fn an_expired_cursor_is_told_from_a_missing_address() {
    let problem = |status, code: &str| {
        let body = format!(r#"{{"type":"urn:landfall:problem:{code}","status":{status},"code":"{code}"}}"#);
        HttpResponse::new(status, "application/problem+json", body)
    };
    let request = PullRequest { cursor: None, limit: 1 };
    let kind = |response| decode_pull(&request, &response).unwrap_err().kind;
    assert_eq!(kind(problem(410, "cursor_expired")), FailureKind::CursorExpired);
    assert_eq!(kind(problem(404, "not_found")), FailureKind::Unsupported);
    assert_eq!(kind(HttpResponse::new(404, "text/plain", "default backend")), FailureKind::Intercepted);
}

#[test]
fn a_fetched_record_must_be_the_one_asked_for() {
    let entity = EntityKey::new("note", "1");
    let fetched = |response| decode_fetch(&entity, &response);
    let own = r#"{"entity_type":"note","entity_id":"1","version":"7","fields":{"a":1}}"#;
    let found = fetched(answer(own)).unwrap().unwrap();
    assert_eq!((found.body, found.version), (Body::Live(fields(r#"{"a":1}"#)), Some("7".into())));
    let gone = r#"{"entity_type":"note","entity_id":"1","version":"8","deleted":true}"#;
    assert_eq!(fetched(answer(gone)).unwrap().unwrap().body, Body::Deleted);
    let none = HttpResponse::new(404, "application/problem+json", r#"{"code":"not_found"}"#);
    assert_eq!(fetched(none).unwrap(), None);
    for body in
        [own.replace("\"1\"", "\"2\""), own.replace("note", "user"), "null".into(), "{}".into(), "[]".into()]
    {
        assert_eq!(fetched(answer(body)).unwrap_err().kind, FailureKind::Protocol);
    }
    for missing in ["text/html", "text/plain", ""] {
        let kind = fetched(HttpResponse::new(404, missing, "not found")).unwrap_err().kind;
        assert_eq!(kind, FailureKind::Intercepted, "a missing address is no missing record: {missing}");
    }
}
