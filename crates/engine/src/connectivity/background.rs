//! Threads of providers: how they end, how they look again and again, and that they tell changes only.
//!
//! Knows nothing of what is looked at. Tests: below.

use super::Reporter;
use landfall_core::device::DeviceState;
use std::any::Any;
use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A thread that ends with this value.
pub(super) struct Background {
    thread: Option<JoinHandle<()>>,
    stop: Option<Box<dyn Any + Send>>,
}

impl Background {
    /// Runs `work` on a thread of its own. It must return soon after `stop` was dropped.
    ///
    /// `None` when the machine has no thread for it: the provider then tells no changes, which holds nothing up.
    pub(super) fn spawn(
        name: &str,
        stop: impl Send + 'static,
        work: impl FnOnce() + Send + 'static,
    ) -> Option<Self> {
        match thread::Builder::new().name(name.to_owned()).spawn(work) {
            Ok(thread) => Some(Self { thread: Some(thread), stop: Some(Box::new(stop)) }),
            Err(error) => {
                tracing::warn!(%error, name, "no thread to watch the device; changes of it are not noticed");
                None
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A reporter that stops its provider does so on this very thread, which cannot wait for itself.
        let thread = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id());
        if let Some(thread) = thread {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Background(..)")
    }
}

/// A thread's clock: it waits, and is told when it shall end.
pub(super) struct Pause(Receiver<()>);

impl Pause {
    /// The pause, and the value whose drop ends it.
    pub(super) fn new() -> (Sender<()>, Self) {
        let (stop, stopped) = channel();
        (stop, Self(stopped))
    }

    /// Waits so long; `false` when the thread shall end.
    pub(super) fn wait(&self, time: Duration) -> bool {
        matches!(self.0.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }
}

/// Tells what is new, and nothing twice.
#[derive(Debug)]
pub(super) struct Changes {
    reporter: Reporter,
    last: DeviceState,
}

impl Changes {
    pub(super) fn new(reporter: Reporter) -> Self {
        Self { reporter, last: DeviceState::default() }
    }

    pub(super) fn tell(&mut self, now: DeviceState) {
        if now != self.last {
            self.last = now;
            if now != DeviceState::default() {
                self.reporter.tell(now);
            }
        }
    }
}

/// Looks now, and then again and again on a thread of its own.
pub(super) fn look_every(
    name: &str,
    time: Duration,
    reporter: Reporter,
    mut look: impl FnMut() -> DeviceState + Send + 'static,
) -> Option<Background> {
    let mut changes = Changes::new(reporter);
    changes.tell(look());
    let (stop, pause) = Pause::new();
    Background::spawn(name, stop, move || {
        while pause.wait(time) {
            changes.tell(look());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    fn online(online: bool) -> DeviceState {
        DeviceState { online: Some(online), ..DeviceState::default() }
    }

    #[test]
    fn a_change_is_told_once() {
        let (sender, told) = channel();
        let mut looks =
            [online(true), online(true), online(false), DeviceState::default(), online(false), online(true)]
                .into_iter();
        let reporter = Reporter::new(move |news| sender.send(news).unwrap());
        let look = move || looks.next().unwrap_or(online(true));
        let background = look_every("test", Duration::from_millis(1), reporter, look);
        assert_eq!(told.try_recv(), Ok(online(true)), "what is so now is told before start returns");
        let next = || told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(
            (next(), next()),
            (online(false), online(false)),
            "what was not known meanwhile may have changed"
        );
        assert_eq!(next(), online(true));
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
        drop(background);
    }

    #[test]
    fn a_long_pause_ends_at_once() {
        let background =
            look_every("test", Duration::from_secs(3600), Reporter::new(|_| ()), || online(true));
        let began = Instant::now();
        drop(background);
        assert!(began.elapsed() < Duration::from_millis(100));
    }

    #[test]
    fn a_reporter_may_stop_its_own_provider() {
        let own: Arc<Mutex<Option<Background>>> = Arc::default();
        let (done, ended) = channel();
        let (slot, mut looks) = (Arc::clone(&own), 0);
        let reporter = Reporter::new(move |news| {
            if news == online(false) {
                drop(slot.lock().unwrap().take());
                done.send(()).unwrap();
            }
        });
        let mut held = own.lock().unwrap();
        *held = look_every("test", Duration::from_millis(1), reporter, move || {
            looks += 1;
            online(looks == 1)
        });
        drop(held);
        ended.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
