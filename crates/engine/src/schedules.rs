//! Schedules: the event bus and the calls under a scheduler that chooses who runs next, from seeds.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p landfall-engine --lib schedules`; `LANDFALL_SCHEDULES` says how many of each.
//! A thread that nobody wakes is found as a deadlock. The driver is not here: its channel waits for real time, which
//! this scheduler does not have; simulators run its machine, and `tests/` its threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use crate::calls;
use crate::events::{EventBus, EventStream, Notice};
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::CallId;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::{check_random, future, thread};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3_600);

fn schedules() -> usize {
    std::env::var("LANDFALL_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// Reads to the end; a notice of lost events counts as so many.
fn drain(mut stream: EventStream) -> u64 {
    let mut heard = 0;
    while let Some(notice) = stream.next_within(LONG) {
        heard += match notice {
            Notice::Event(_) => 1,
            Notice::Lagged(lost) => lost,
        };
    }
    assert!(stream.is_over(), "the stream ended with something left");
    heard
}

/// Everybody who listens from the beginning hears all, blocking or waiting in a future, and the end.
#[test]
fn every_listener_hears_everything_and_the_end() {
    check_random(
        || {
            let bus = Arc::new(EventBus::default());
            let (blocking, mut waiting) = (bus.subscribe(), bus.subscribe());
            let blocking = thread::spawn(move || drain(blocking));
            let waiting = thread::spawn(move || {
                future::block_on(async move {
                    let mut heard = 0;
                    while waiting.next().await.is_some() {
                        heard += 1;
                    }
                    heard
                })
            });
            let publishers: Vec<_> = (0..2)
                .map(|_| {
                    let bus = Arc::clone(&bus);
                    thread::spawn(move || (0..2).for_each(|_| bus.publish(&Event::GateOpened)))
                })
                .collect();
            publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
            bus.close();
            assert_eq!(blocking.join().unwrap(), 4);
            assert_eq!(waiting.join().unwrap(), 4);
        },
        schedules(),
    );
}

/// Listeners that come, go, or ask the bus for more while it speaks hold nobody up and lose nothing of others.
#[test]
fn listeners_that_vanish_or_come_while_it_speaks_disturb_nobody() {
    check_random(
        || {
            let bus = Arc::new(EventBus::default());
            let stays = bus.subscribe();
            let mut vanishes = bus.subscribe();
            let vanishing = thread::spawn(move || {
                let _ = vanishes.try_next();
            });
            let other = Arc::clone(&bus);
            let reentrant = thread::spawn(move || {
                let mut first = other.subscribe();
                if first.try_next().is_some() {
                    // From within a listener: another listener, and another event.
                    drop(other.subscribe());
                    other.publish(&Event::SessionStarted);
                    return 1;
                }
                0
            });
            bus.publish(&Event::GateOpened);
            bus.publish(&Event::GateOpened);
            let more = reentrant.join().unwrap();
            vanishing.join().unwrap();
            bus.close();
            assert_eq!(drain(stays), 2 + more);
        },
        schedules(),
    );
}

/// A reader that waits while the bus is closed is woken, whoever comes first.
#[test]
fn closing_wakes_whoever_waits() {
    check_random(
        || {
            let bus = Arc::new(EventBus::default());
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let stream = bus.subscribe();
                    thread::spawn(move || drain(stream))
                })
                .collect();
            let closer = Arc::clone(&bus);
            let closing = thread::spawn(move || closer.close());
            bus.close();
            closing.join().unwrap();
            assert!(readers.into_iter().all(|reader| reader.join().unwrap() == 0));
        },
        schedules(),
    );
}

/// Each call is answered exactly once, also when adapters fail side by side.
#[test]
fn every_call_is_answered_exactly_once() {
    check_random(
        || {
            let answered: Vec<Arc<AtomicUsize>> = (0..3).map(|_| Arc::default()).collect();
            let (tell, hear) = shuttle::sync::mpsc::channel();
            for (number, answered) in answered.iter().enumerate() {
                let (answered, tell) = (Arc::clone(answered), tell.clone());
                let work = move || match number {
                    0 => Ok(7),
                    _ => Err(Failure::new(FailureKind::Transient, Delivery::Unknown, "no")),
                };
                calls::make(CallId(number as u64), tracing::Span::none(), work, move |answer| {
                    assert_eq!(answer.is_ok(), number == 0);
                    answered.fetch_add(1, Ordering::SeqCst);
                    tell.send(number).unwrap();
                });
            }
            drop(tell);
            let mut heard: Vec<usize> = hear.iter().collect();
            heard.sort_unstable();
            assert_eq!(heard, [0, 1, 2]);
            assert!(answered.iter().all(|count| count.load(Ordering::SeqCst) == 1));
        },
        schedules(),
    );
}
