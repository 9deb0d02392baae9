//! How the app wants a change sent: priority with ageing, expiry, dedup keys, tags, the network, debounce.

use super::{all_sent, answer_each, ended, id, ids, modelled, of_type, task};
use crate::bench::{Bench, applied, body, note, theirs};
use landfall_core::adapter::{EffectClass, Outcome};
use landfall_core::change::{Change, InvalidChange};
use landfall_core::coalesce::Contradiction;
use landfall_core::config::{Config, JournalConfig, PushConfig, RetryConfig};
use landfall_core::device::DeviceState;
use landfall_core::entity::Base;
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::id::TaskId;
use landfall_core::inspect::{TaskFilter, find_tasks};
use landfall_core::machine::Enqueued;
use landfall_core::model::TypeModel;
use landfall_core::store::Store;
use landfall_core::task::{StateKind, Verdict};
use landfall_core::time::Timestamp;
use std::time::Duration;

fn one_by_one() -> Bench {
    let push = PushConfig { batch_tasks: 1, calls_max: 1, ..PushConfig::default() };
    Bench::with(Config { push, ..Config::default() }, EffectClass::OneEffect)
}

#[test]
fn a_low_priority_is_overtaken_by_a_bounded_number_of_later_tasks() {
    let mut bench = one_by_one();
    bench.enqueue(Change::create("note", "low").set("n", 1).priority(-1)).unwrap();
    for n in 0..1_500 {
        bench.enqueue(Change::create("note", n.to_string()).set("n", 1)).unwrap();
    }
    bench.sync();
    let mut place = 0;
    while let Some(batch) = bench.sent.pop() {
        if ids(&batch) == ["low"] {
            break;
        }
        place += 1;
        bench.outcome(&batch, &applied("1"));
    }
    assert!(
        (990..=1_001).contains(&place),
        "a step of priority is worth a thousand places, not more: {place}"
    );
}

#[test]
fn a_clock_that_jumps_changes_no_order() {
    let mut bench = one_by_one();
    for (n, jump_ms) in [(0, 0), (1, 400_000_000_000), (2, -800_000_000_000), (3, 5_000)] {
        bench.wall_ms += jump_ms;
        bench.enqueue(Change::create("note", n.to_string()).set("n", 1)).unwrap();
    }
    bench.sync();
    for _ in 0..3 {
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
    }
    assert_eq!(all_sent(&bench), ["0", "1", "2", "3"]);
}

#[test]
fn a_priority_out_of_range_is_refused() {
    let mut bench = Bench::new();
    let refused = bench.enqueue(Change::create("note", "a").set("n", 1).priority(1_001));
    assert_eq!(refused, Err(InvalidChange::PriorityOutOfRange { priority: 1_001, limit: 1_000 }.into()));
}

#[test]
fn what_expires_unsent_ends_in_the_journal_with_its_payload_and_is_told() {
    let mut bench = Bench::new();
    let at = Timestamp(bench.wall_ms + 60_000);
    let change = Change::create("note", "a").set("text", "soon").expires_at(at);
    let receipt = bench.enqueue(change).unwrap();
    assert!(bench.machine.next_wakeup().is_some_and(|due| due.0 <= 60_000), "it wakes for that by itself");
    bench.wait(Duration::from_secs(59));
    assert_eq!(bench.counts().pending, 1);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.counts().total(), 0);
    let entry = ended(&mut bench, id(&receipt)).unwrap();
    assert_eq!(entry.verdict, Verdict::Expired);
    assert!(entry.payload.contains("soon"));
    assert!(
        bench.events.iter().any(|event| matches!(event, Event::Settled { verdict: Verdict::Expired, .. }))
    );
    assert_eq!(bench.view("a"), "nothing", "the app does not see what will never be");
}

#[test]
fn each_of_several_expires_at_its_own_time_in_whatever_order_they_came() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "stays").set("n", 1)).unwrap();
    for minutes in [30, 10, 20] {
        let at = Timestamp(bench.wall_ms).after(Duration::from_secs(minutes * 60));
        bench.enqueue(Change::create("note", format!("in {minutes}")).set("n", 1).expires_at(at)).unwrap();
    }
    for left in [4, 3, 2, 1] {
        assert_eq!(bench.counts().pending, left, "after {} ms", bench.mono_ms);
        let due = bench.machine.next_wakeup().map_or(600_000, |due| due.0 - bench.mono_ms);
        assert!(due <= 600_000, "it wakes for the first of them by itself");
        bench.wait(Duration::from_secs(600));
    }
    assert_eq!(bench.counts().pending, 1);
}

#[test]
fn a_damaged_row_whose_time_is_over_is_set_apart_and_the_others_expire() {
    let mut bench = Bench::new();
    let at = Timestamp(bench.wall_ms + 60_000);
    let expiring = |id: &str| Change::create("note", id).set("n", 1).expires_at(at);
    let damaged = bench.enqueue(expiring("damaged")).unwrap();
    let whole = bench.enqueue(expiring("whole")).unwrap();
    assert!(bench.store.damage(id(&damaged)));
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.verdict(whole), Some(Verdict::Expired));
    assert_eq!((bench.counts().dead, bench.counts().total()), (1, 1));
    assert!(
        bench.machine.next_wakeup().is_none_or(|due| due.0 > bench.mono_ms + 1_000),
        "nothing more is due"
    );
}

#[test]
fn what_was_sent_does_not_expire_before_its_fate_is_known() {
    let mut bench = Bench::new();
    let at = Timestamp(bench.wall_ms + 60_000);
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1).expires_at(at)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.wait(Duration::from_secs(3600));
    assert_eq!(bench.counts().total(), 1, "the backend may have it");
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(ended(&mut bench, id(&receipt)).unwrap().verdict, Verdict::Applied);
}

#[test]
fn another_process_that_opened_earlier_does_not_send_what_has_expired() {
    let mut bench = Bench::new();
    let other = bench.machine.clone();
    let at = Timestamp(bench.wall_ms + 1_000);
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1).expires_at(at)).unwrap();
    bench.machine = other;
    bench.pass(Duration::from_secs(2));
    bench.sync();
    assert!(bench.sent.is_empty());
    assert_eq!(ended(&mut bench, id(&receipt)).unwrap().verdict, Verdict::Expired);
}

#[test]
fn two_changes_in_one_task_expire_when_both_may() {
    let mut bench = Bench::new();
    let at = |bench: &Bench, s: i64| Timestamp(bench.wall_ms + s * 1_000);
    let soon = at(&bench, 10);
    let late = at(&bench, 20);
    let first = bench.enqueue(Change::create("note", "a").set("n", 1).expires_at(soon)).unwrap();
    bench.enqueue(Change::update("note", "a").set("n", 2).expires_at(late)).unwrap();
    assert_eq!(task(&mut bench, id(&first)).unwrap().terms.expires_at, Some(late));
    bench.enqueue(Change::update("note", "a").set("n", 3)).unwrap();
    assert_eq!(task(&mut bench, id(&first)).unwrap().terms.expires_at, None);
}

#[test]
fn a_second_change_with_the_apps_key_is_the_first_also_after_it_was_applied() {
    let journal = JournalConfig { horizon: Duration::from_secs(86_400), ..JournalConfig::default() };
    let mut bench = Bench::with(Config { journal, ..Config::default() }, EffectClass::OneEffect);
    let change = || Change::action("note", "a", "pay").set("n", 1).dedup_key("order-7");
    let first = bench.enqueue(change()).unwrap();
    let second = bench.enqueue(change()).unwrap();
    assert_eq!((second.task, second.outcome), (first.task, Enqueued::Repeated));
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.crash();
    let third = bench.enqueue(change()).unwrap();
    assert_eq!((third.task, third.outcome), (first.task, Enqueued::Repeated));
    // Beyond the horizon of the journal nobody remembers.
    bench.pass(Duration::from_secs(2 * 86_400));
    bench.step(|step, tx| step.tidy(tx).unwrap());
    bench.step(|step, tx| step.tidy(tx).unwrap());
    assert_eq!(bench.enqueue(change()).unwrap().outcome, Enqueued::New);
}

#[test]
fn two_keys_that_were_folded_into_one_task_are_both_remembered() {
    let mut bench = Bench::new();
    let first = bench.enqueue(Change::create("note", "a").set("n", 1).dedup_key("one")).unwrap();
    bench.enqueue(Change::update("note", "a").set("n", 2).dedup_key("two")).unwrap();
    for key in ["one", "two"] {
        let again = bench.enqueue(Change::update("note", "a").set("n", 9).dedup_key(key)).unwrap();
        assert_eq!((again.task, again.outcome), (first.task, Enqueued::Repeated));
    }
    assert_eq!(bench.view("a"), r#"{"n":2}"#);
}

#[test]
fn tasks_are_found_by_tag_type_state_and_record_page_by_page() {
    let mut bench = Bench::new();
    for n in 0..1_200 {
        let kind = if n % 3 == 0 { "photo" } else { "note" };
        let change = Change::create(kind, n.to_string()).set("n", n);
        bench.enqueue(if n % 2 == 0 { change.tag("even") } else { change }).unwrap();
    }
    let filter = TaskFilter {
        entity_type: Some("photo".into()),
        tag: Some("even".into()),
        state: Some(StateKind::Pending),
        ..TaskFilter::default()
    };
    let tx = bench.store.begin().unwrap();
    let (mut after, mut found) = (0, 0);
    loop {
        let page = find_tasks(&*tx, &filter, after, 7).unwrap();
        found += page.page.tasks.len();
        assert!(page.page.tasks.iter().all(|task| filter.fits(task)));
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(found, 200);
    let one = TaskFilter {
        entity_type: Some("photo".into()),
        entity_id: Some("300".into()),
        ..TaskFilter::default()
    };
    assert_eq!(find_tasks(&*tx, &one, 0, 10).unwrap().page.tasks.len(), 1);
}

/// A row that cannot be read may be one of those that are asked for: it is told, once, and hides nothing behind it.
#[test]
fn damaged_rows_are_told_with_the_page_on_which_they_lie() {
    let mut bench = Bench::new();
    let tasks: Vec<_> = (0..6)
        .map(|n| id(&bench.enqueue(Change::create("note", n.to_string()).set("n", n)).unwrap()))
        .collect();
    for damaged in [tasks[1], tasks[4]] {
        assert!(bench.store.damage(damaged));
    }
    let tx = bench.store.begin().unwrap();
    for filter in [
        TaskFilter::default(),
        TaskFilter { state: Some(StateKind::Pending), ..TaskFilter::default() },
        TaskFilter { entity_type: Some("note".into()), ..TaskFilter::default() },
    ] {
        let first = find_tasks(&*tx, &filter, 0, 2).unwrap();
        let second = find_tasks(&*tx, &filter, first.next.unwrap(), 100).unwrap();
        let found = |page: &landfall_core::store::Page| (page.tasks.len(), page.damaged.len());
        assert_eq!((found(&first.page), found(&second.page)), ((2, 1), (2, 1)), "{filter:?}");
        let lies = |page: &landfall_core::store::Page| page.damaged[0].seq > first.next.unwrap();
        assert!(!lies(&first.page) && lies(&second.page), "{filter:?}");
        assert_eq!(second.next, None);
    }
    // Of others it is not spoken.
    let of_one = ("note".to_owned(), "0".to_owned());
    for (filter, tasks) in [
        (TaskFilter { state: Some(StateKind::Dead), ..TaskFilter::default() }, 0),
        (TaskFilter { entity_type: Some(of_one.0), entity_id: Some(of_one.1), ..TaskFilter::default() }, 1),
    ] {
        let found = find_tasks(&*tx, &filter, 0, 10).unwrap().page;
        assert_eq!((found.tasks.len(), found.damaged.len()), (tasks, 0), "{filter:?}");
    }
}

#[test]
fn a_large_change_waits_for_an_unmetered_network() {
    let mut bench = Bench::new();
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::metered(true)).unwrap());
    bench.enqueue(Change::create("photo", "p").set("n", 1).unmetered_only()).unwrap();
    bench.enqueue(Change::create("note", "n").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(all_sent(&bench), ["n"]);
    assert_eq!(bench.reports.len(), 1, "a session does not wait for another network");
    assert!(bench.reports[0].waiting_for.as_ref().unwrap().contains("unmetered"));
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::metered(false)).unwrap());
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["p"]);
}

#[test]
fn of_a_debounced_type_only_the_latest_state_goes() {
    let debounce = TypeModel { debounce: Duration::from_secs(2), ..TypeModel::default() };
    let mut bench = modelled(of_type("cursor", debounce));
    bench.sync();
    for x in 0..5 {
        bench.enqueue(Change::upsert("cursor", "me").set("x", x)).unwrap();
        bench.wait(Duration::from_secs(1));
    }
    assert!(bench.sent.is_empty());
    bench.sync();
    bench.wait(Duration::from_secs(1));
    assert_eq!(all_sent(&bench).len(), 1);
    assert!(bench.last_payload().contains(r#""x":4"#));
}

#[test]
fn a_record_that_is_never_left_alone_goes_all_the_same() {
    let debounce = TypeModel { debounce: Duration::from_secs(2), ..TypeModel::default() };
    let mut bench = modelled(of_type("cursor", debounce));
    for second in 0..30 {
        assert_eq!(bench.sent.len(), usize::from(second >= 20), "after ten times the debounce: {second}");
        bench.enqueue(Change::upsert("cursor", "me").set("x", second)).unwrap();
        bench.sync();
        bench.wait(Duration::from_secs(1));
    }
}

#[test]
fn a_thousand_drain_through_an_expired_token_with_one_refresh_and_no_attempt_burned() {
    let push = PushConfig { batch_tasks: 50, ..PushConfig::default() };
    let mut bench = Bench::with(Config { push, ..Config::default() }, EffectClass::OneEffect);
    for n in 0..1_000 {
        bench.enqueue(Change::create("note", n.to_string()).set("n", n)).unwrap();
    }
    bench.sync();
    let (mut applied_tasks, mut refused) = (0, 0);
    while let Some(batch) = bench.sent.pop() {
        if applied_tasks >= 400 && refused < 2 {
            refused += 1;
            bench.fail(&batch, FailureKind::Unauthenticated, Delivery::Answered);
            if refused == 2 {
                assert_eq!(bench.refreshes, 1, "both calls share one refresh");
                assert!(bench.tasks().iter().all(|task| task.attempts == 0), "no attempt is burned");
                bench.step(|step, _| step.credentials_refreshed(true));
            }
            continue;
        }
        assert!(bench.tasks().iter().all(|task| task.attempts == 0));
        applied_tasks += batch.tasks.len();
        answer_each(&mut bench, &batch, |_| applied("1"));
    }
    assert_eq!(applied_tasks, 1_000);
    assert_eq!(bench.counts().total(), 0);
    assert_eq!(bench.refreshes, 1);
}

#[test]
fn a_later_edit_in_the_same_task_may_put_it_off_and_adds_its_tags() {
    let mut bench = Bench::new();
    let moment = Timestamp(bench.wall_ms + 60_000);
    bench.enqueue(Change::create("note", "a").set("n", 1).tag("one")).unwrap();
    bench.enqueue(Change::update("note", "a").set("n", 2).tag("two").not_before(moment)).unwrap();
    // One that says nothing of a moment takes nothing back.
    bench.enqueue(Change::update("note", "a").set("n", 3)).unwrap();
    for tag in ["one", "two"] {
        let filter = TaskFilter { tag: Some(tag.into()), ..TaskFilter::default() };
        let tx = bench.store.begin().unwrap();
        assert_eq!(find_tasks(&*tx, &filter, 0, 10).unwrap().page.tasks.len(), 1, "{tag}");
    }
    bench.sync();
    bench.wait(Duration::from_secs(59));
    assert!(bench.sent.is_empty());
    bench.wait(Duration::from_secs(1));
    assert_eq!(all_sent(&bench), ["a"]);
}

#[test]
fn what_is_held_for_another_network_goes_over_this_one_as_soon_as_a_part_of_it_may() {
    let mut bench = Bench::new();
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::metered(true)).unwrap());
    let receipt = bench.enqueue(Change::create("photo", "p").set("n", 1).unmetered_only()).unwrap();
    bench.sync();
    assert!(task(&mut bench, id(&receipt)).unwrap().standing.held);
    bench.enqueue(Change::update("photo", "p").set("n", 2)).unwrap();
    bench.sync();
    assert_eq!(all_sent(&bench), ["p"]);
}

#[test]
fn the_longest_wait_that_a_backend_may_ask_for_is_kept_to_its_end() {
    // Without a backoff of our own nothing comes on top.
    let retry = RetryConfig { base: Duration::ZERO, cap: Duration::ZERO, ..RetryConfig::default() };
    let longest = retry.retry_after_cap;
    let mut bench = Bench::with(Config { retry, ..Config::default() }, EffectClass::OneEffect);
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Retry { after: Some(longest), reason: "busy".into() });
    bench.wait(longest.saturating_sub(Duration::from_secs(1)));
    bench.sync();
    assert_eq!(bench.sent.len(), 1);
    bench.wait(Duration::from_secs(1));
    bench.sync();
    assert_eq!(bench.sent.len(), 2);
}

/// The app was told that nobody knows whether a change was stored, and says it again.
#[test]
fn a_change_that_is_said_again_is_taken_once_wherever_the_first_is_by_now() {
    let mut bench = Bench::new();
    bench.hear(theirs("a", r#"{"n":0,"m":0}"#, "1"));
    let change = || Change::update("note", "a").set("n", 1).unset("m");
    let first = bench.enqueue(change()).unwrap();
    let again = bench.enqueue(change().repeat_of(id(&first))).unwrap();
    assert_eq!((again.task, again.outcome), (first.task, Enqueued::Repeated));
    assert_eq!(bench.tasks().len(), 1);
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "2");
    let again = bench.enqueue(change().repeat_of(id(&first))).unwrap();
    assert_eq!((again.task, again.outcome), (first.task, Enqueued::Repeated), "it has ended");
    assert_eq!(bench.tasks().len(), 0);
    // One whose first try was not stored after all.
    let nobody = TaskId::parse("00000000-0000-0000-0000-000000000001").unwrap();
    let taken = bench.enqueue(Change::create("note", "b").set("n", 1).repeat_of(nobody)).unwrap();
    assert_eq!(taken.outcome, Enqueued::New);
}

/// It was to be folded into a task, and only that is stored.
#[test]
fn a_change_that_is_said_again_is_taken_if_the_task_is_there_without_it() {
    for (change, seen) in [
        (Change::update("note", "a").set("n", 2), r#"{"m":1,"n":2}"#),
        (Change::update("note", "a").set("n", 1).set("o", 1), r#"{"m":1,"n":1,"o":1}"#),
        (Change::update("note", "a").set("n", 1).unset("m"), r#"{"n":1}"#),
    ] {
        let mut bench = Bench::new();
        let first = bench.enqueue(Change::upsert("note", "a").set("n", 1).set("m", 1)).unwrap();
        let again = bench.enqueue(change.repeat_of(id(&first))).unwrap();
        assert_eq!((again.task, again.outcome), (first.task, Enqueued::Coalesced));
        assert_eq!(bench.view("a"), seen);
    }
}

#[test]
fn an_app_with_its_own_read_model_says_what_a_change_was_made_on() {
    let mut bench = Bench::new();
    let base = |json: &str| Base { body: body(json), version: Some("7".into()), complete: true };
    bench.enqueue(Change::update("note", "a").set("n", 2).base(base(r#"{"m":5,"n":1}"#))).unwrap();
    assert_eq!(bench.view("a"), r#"{"m":5,"n":2}"#);
    bench.sync();
    assert!(bench.last_payload().contains(r#""base_version":"7","fields":{"n":2}"#));
    let refused = bench.enqueue(Change::create("note", "b").set("n", 2).base(base(r#"{"n":1}"#)));
    assert_eq!(refused, Err(Contradiction::AlreadyExists.into()));
}

#[test]
fn taking_back_what_is_still_on_its_way_is_a_change_of_its_own() {
    let mut bench = Bench::new();
    bench.hear(theirs("a", r#"{"n":1}"#, "1"));
    bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.enqueue(Change::update("note", "a").set("n", 3)).unwrap();
    let back = bench.enqueue(Change::update("note", "a").set("n", 1)).unwrap();
    assert_eq!(back.outcome, Enqueued::Coalesced, "the backend is about to have something else");
    bench.apply(&batch, "2");
    assert!(bench.last_payload().contains(r#""fields":{"n":1}"#));
}

#[test]
fn a_later_edit_in_the_same_task_may_make_it_more_urgent_but_not_less() {
    for (first, second) in [(0, 5), (5, 0)] {
        let mut bench = one_by_one();
        bench.enqueue(Change::create("note", "usual").set("n", 1)).unwrap();
        bench.enqueue(Change::create("note", "urgent").set("n", 1).priority(first)).unwrap();
        bench.enqueue(Change::update("note", "urgent").set("n", 2).priority(second)).unwrap();
        bench.sync();
        assert_eq!(all_sent(&bench), ["urgent"]);
    }
}

#[test]
fn the_app_is_told_how_each_change_was_taken() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let (task, entity) = (id(&receipt), note("a"));
    assert!(bench.events.contains(&Event::Enqueued { task, entity }));
    bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    assert!(bench.events.contains(&Event::Coalesced { task }));
}

#[test]
fn what_expires_sooner_than_what_was_enqueued_before_ends_in_its_own_time() {
    let mut bench = Bench::new();
    for (name, seconds) in [("late", 3_600), ("soon", 60)] {
        let moment = Timestamp(bench.wall_ms + seconds * 1_000);
        bench.enqueue(Change::create("note", name).set("n", 1).expires_at(moment)).unwrap();
    }
    assert!(bench.machine.next_wakeup().is_some_and(|due| due.0 <= 60_000));
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.tasks().len(), 1);
}

#[test]
fn a_conflict_that_was_settled_can_be_looked_up_for_a_quarter() {
    let mut bench = Bench::new();
    bench.hear(theirs("a", r#"{"n":0}"#, "1"));
    bench.enqueue(Change::update("note", "a").set("n", 1)).unwrap();
    bench.hear(theirs("a", r#"{"n":9}"#, "2"));
    assert!(!bench.conflict().is_open());
    for (days, left) in [(89, 1), (2, 0)] {
        bench.pass(Duration::from_secs(days * 24 * 3_600));
        bench.step(|step, tx| step.tidy(tx).map(drop).unwrap());
        assert_eq!(bench.conflicts().len(), left, "{days}");
    }
}
