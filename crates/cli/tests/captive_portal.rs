//! A captive portal at the endpoint's address (G13): a running agent acknowledges nothing of what it says, shows it the
//! user's data and credentials in its first calls at most, names the reason, and goes on by itself when it opens.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

mod support;

use std::thread;
use std::time::Duration;
use support::agents::{Agent, enqueue, until_empty};
use support::portal::{Portal, Says};
use support::{Scratch, Server, Stored, counts, endpoint, run};

/// How long the portal stays closed: time for several probes, which come every 5 s at the latest.
const CLOSED_FOR: Duration = Duration::from_secs(6);
/// How soon after it opens everything must have arrived.
const OPEN_WITHIN: Duration = Duration::from_secs(8);
const TOKEN: &str = "the-users-own-token";
const TEXT: &str = "what the user wrote";
const TASKS: u64 = 5;

#[test]
fn a_page_with_200_acknowledges_nothing_and_is_told_nothing_more() {
    portal_that_says("portal-page", Says::Page);
}

#[test]
fn a_redirect_to_a_login_acknowledges_nothing_and_is_told_nothing_more() {
    portal_that_says("portal-redirect", Says::Redirect);
}

#[test]
fn a_511_acknowledges_nothing_and_is_told_nothing_more() {
    portal_that_says("portal-511", Says::LoginRequired);
}

fn portal_that_says(name: &str, says: Says) {
    let scratch = Scratch::new(name);
    let server = Server::start(scratch.path("server.db"));
    let portal = Portal::closed(server.addr, says);
    let db = scratch.text("q.db");
    let fields = format!(r#"{{"text":"{TEXT}"}}"#);
    let tasks: Vec<String> = (0..TASKS).map(|number| enqueue(&db, &format!("a{number}"), &fields)).collect();

    let header = format!("Authorization: Bearer {TOKEN}");
    let mut agent = Agent::start(&db, &endpoint(portal.addr), &["--header", &header]);
    let told = agent.hears("gate_closed", Duration::from_secs(5));
    assert_eq!(told["why"], "intercepted", "{told}");
    // New changes while it is closed are no reason to show it more.
    tasks_while_closed(&db, &fields);
    thread::sleep(CLOSED_FOR);

    assert_eq!(counts(&db).iter().sum::<u64>(), 2 * TASKS, "nothing is acknowledged, nothing given up");
    assert_eq!(counts(&db)[4], 0);
    names_the_reason(&db, &tasks[0]);
    was_told_nothing_more(&portal.seen());
    assert!(agent.said().iter().all(|line| line["event"] != "run"), "{:?}", agent.said());

    portal.open();
    until_empty(&db, OPEN_WITHIN);
    agent.hears("gate_opened", Duration::from_secs(5));
    assert!(agent.terminate().success());
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len() as u64, 2 * TASKS);
}

fn tasks_while_closed(db: &str, fields: &str) {
    for number in 0..TASKS {
        enqueue(db, &format!("b{number}"), fields);
    }
}

#[track_caller]
fn names_the_reason(db: &str, task: &str) {
    let shown = run(["explain", "--json", "--db", db, task]).ends(0).json();
    assert_eq!(shown["last_failure"]["kind"], "intercepted", "{shown}");
    let said = run(["explain", "--db", db, task]).ends(0);
    assert!(said.out.contains("The last try met intercepted: "), "{said:?}");
}

/// At most one request carried the user's data; everything after the first calls was a probe, with nothing in it.
#[track_caller]
fn was_told_nothing_more(seen: &[String]) {
    let is_probe = |request: &&String| request.starts_with("GET /sync/ping?nonce=");
    let carrying = seen.iter().filter(|request| request.contains(TEXT)).count();
    assert!(carrying <= 1, "{carrying} requests carried what the user wrote");
    let probes: Vec<_> = seen.iter().filter(is_probe).collect();
    assert!(probes.len() >= 2, "it was looked at again and again: {seen:?}");
    for probe in &probes {
        assert!(!probe.contains(TOKEN) && !probe.to_lowercase().contains("authorization"), "{probe}");
        assert!(probe.ends_with("\r\n\r\n"), "a probe carries nothing: {probe}");
    }
    // One call that sends and one that reads may have been under way at once.
    let others = seen.len() - probes.len();
    assert!(others <= 2, "{others} requests were no probes: {seen:?}");
    assert!(seen.iter().skip(2).all(|request| is_probe(&request)), "{seen:?}");
}
