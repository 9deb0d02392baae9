//! The event stream: every listener has its own bounded buffer, and a slow one loses its oldest events, is told how
//! many, and never holds anybody up. Tests: below, and `schedules.rs`.

use crate::metrics::Metrics;
use crate::sync::{Condvar, Mutex, MutexGuard};
use landfall_core::event::Event;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Events kept for a listener that does not read: a few seconds of a fast drain, a few hundred kilobytes.
const BUFFER: usize = 4096;

/// What a listener gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Something happened.
    Event(Event),
    /// The listener was too slow; this many of the oldest events were dropped for it.
    Lagged(u64),
}

#[derive(Debug, Default)]
struct Buffer {
    events: VecDeque<Event>,
    dropped: u64,
    closed: bool,
    waker: Option<Waker>,
}

impl Buffer {
    fn take(&mut self) -> Option<Notice> {
        if self.dropped > 0 {
            return Some(Notice::Lagged(std::mem::take(&mut self.dropped)));
        }
        self.events.pop_front().map(Notice::Event)
    }
}

#[derive(Debug, Default)]
struct Channel {
    buffer: Mutex<Buffer>,
    arrived: Condvar,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, buffer: &mut Buffer) {
        self.arrived.notify_all();
        if let Some(waker) = buffer.waker.take() {
            waker.wake();
        }
    }
}

/// Where the engine tells what happened.
#[derive(Debug, Default)]
pub(crate) struct EventBus {
    listeners: Mutex<Vec<Weak<Channel>>>,
    /// Counted here, so that nothing is told that is not counted.
    pub(crate) metrics: Metrics,
}

impl EventBus {
    pub(crate) fn subscribe(&self) -> EventStream {
        let channel = Arc::new(Channel::default());
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Arc::downgrade(&channel));
        EventStream { channel }
    }

    pub(crate) fn publish(&self, event: &Event) {
        self.metrics.observe(event);
        self.each(|buffer| {
            if buffer.events.len() == BUFFER {
                buffer.events.pop_front();
                buffer.dropped += 1;
            }
            buffer.events.push_back(event.clone());
        });
    }

    pub(crate) fn close(&self) {
        self.each(|buffer| buffer.closed = true);
    }

    fn each(&self, mut change: impl FnMut(&mut Buffer)) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| {
            let Some(channel) = listener.upgrade() else { return false };
            let mut buffer = channel.lock();
            change(&mut buffer);
            channel.wake(&mut buffer);
            true
        });
    }
}

/// The events from the moment of subscription on. Ends when the engine closes.
#[derive(Debug)]
pub struct EventStream {
    channel: Arc<Channel>,
}

impl EventStream {
    /// The next notice, waiting for it; `None` when the engine was closed. Works under any executor.
    pub async fn next(&mut self) -> Option<Notice> {
        poll_fn(|context| {
            let mut buffer = self.channel.lock();
            match buffer.take() {
                Some(notice) => Poll::Ready(Some(notice)),
                None if buffer.closed => Poll::Ready(None),
                None => {
                    buffer.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The next notice if it comes within `wait`. Blocks.
    pub fn next_within(&mut self, wait: Duration) -> Option<Notice> {
        let until = Instant::now() + wait;
        let mut buffer = self.channel.lock();
        loop {
            if let Some(notice) = buffer.take() {
                return Some(notice);
            }
            let left = until.saturating_duration_since(Instant::now());
            if buffer.closed || left.is_zero() {
                return None;
            }
            buffer =
                self.channel.arrived.wait_timeout(buffer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next notice if one is there.
    pub fn try_next(&mut self) -> Option<Notice> {
        self.channel.lock().take()
    }

    /// Whether the engine was closed and nothing is left to read.
    pub fn is_over(&self) -> bool {
        let buffer = self.channel.lock();
        buffer.closed && buffer.events.is_empty() && buffer.dropped == 0
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_never_reads_costs_only_its_own_buffer() {
        let bus = EventBus::default();
        let mut slow = bus.subscribe();
        for _ in 0..BUFFER + 7 {
            bus.publish(&Event::GateOpened);
        }
        assert_eq!(slow.try_next(), Some(Notice::Lagged(7)));
        assert_eq!(slow.try_next(), Some(Notice::Event(Event::GateOpened)));
        let held = std::iter::from_fn(|| slow.try_next()).count();
        assert_eq!(held, BUFFER - 1);
    }

    #[test]
    fn a_dropped_listener_is_forgotten_and_a_closed_bus_ends_the_stream() {
        let bus = EventBus::default();
        drop(bus.subscribe());
        let mut stays = bus.subscribe();
        bus.publish(&Event::SessionStarted);
        assert_eq!(bus.listeners.lock().unwrap().len(), 1);
        bus.close();
        assert!(stays.next_within(Duration::from_secs(5)).is_some());
        assert_eq!(stays.next_within(Duration::from_secs(5)), None);
        assert!(stays.is_over());
    }
}
