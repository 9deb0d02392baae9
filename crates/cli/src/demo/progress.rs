//! What one sees while the demo runs: moving bars on a terminal, a line a second elsewhere.
//!
//! Everything goes to standard error; results are not its business. Tests: `tests/demo.rs` sees the lines.

use super::words::thousands;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often bars move.
const FRAME: Duration = Duration::from_millis(80);
/// How often a line is written.
const LINE: Duration = Duration::from_secs(1);

/// Where everything stands.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// What is going on.
    pub(super) phase: &'static str,
    /// The devices.
    pub(super) devices: Vec<DeviceView>,
    /// What the network is like.
    pub(super) network: String,
    /// Requests so far.
    pub(super) requests: u64,
    /// Faults so far.
    pub(super) faults: u64,
    /// Kills so far.
    pub(super) kills: u64,
}

/// Where one device stands.
#[derive(Clone, Debug, Default)]
pub(super) struct DeviceView {
    /// Work done, of `of`.
    pub(super) done: u64,
    /// All the work of the phase.
    pub(super) of: u64,
    /// What it does.
    pub(super) doing: String,
    /// Tasks in its queue.
    pub(super) queue: u64,
}

/// The live display.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    shown: Option<Instant>,
    bars: Option<Bars>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    devices: Vec<ProgressBar>,
    network: ProgressBar,
}

impl Progress {
    /// For so many devices.
    pub(super) fn new(devices: usize) -> Self {
        let bars = std::io::stderr().is_terminal().then(|| Bars::new(devices));
        Self { began: Instant::now(), shown: None, bars }
    }

    /// A line that stays.
    pub(super) fn note(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.all.println(text)),
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }

    /// Shows where everything stands, if it is time.
    pub(super) fn show(&mut self, view: impl FnOnce() -> View) {
        let pace = if self.bars.is_some() { FRAME } else { LINE };
        if self.shown.is_some_and(|shown| shown.elapsed() < pace) {
            return;
        }
        self.shown = Some(Instant::now());
        let view = view();
        let seconds = self.began.elapsed().as_secs_f64();
        match &self.bars {
            Some(bars) => bars.show(&view, seconds),
            None => {
                let done: u64 = view.devices.iter().map(|device| device.done).sum();
                let of: u64 = view.devices.iter().map(|device| device.of).sum();
                let queue: u64 = view.devices.iter().map(|device| device.queue).sum();
                let line = format!(
                    "{seconds:6.1} s  {:<10} {:>6} of {:<6}  queued {:>6}  requests {:>5}  faults {:>4}  kills {:>3}",
                    view.phase,
                    thousands(done),
                    thousands(of),
                    thousands(queue),
                    thousands(view.requests),
                    thousands(view.faults),
                    view.kills,
                );
                drop(writeln!(std::io::stderr().lock(), "{line}"));
            }
        }
    }

    /// Removes what moves.
    pub(super) fn clear(&mut self) {
        if let Some(bars) = self.bars.take() {
            drop(bars.all.clear());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Bars {
    fn new(devices: usize) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = |template: &str| {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            all.add(ProgressBar::new(1).with_style(style.progress_chars("━╸─")))
        };
        let devices = (1..=devices)
            .map(|number| {
                let bar = bar("  {prefix:<10} {bar:32.cyan/black.bright} {msg}");
                bar.set_prefix(format!("device {number}"));
                bar
            })
            .collect();
        let network = bar("  {prefix:<10} {msg}");
        network.set_prefix("network");
        Self { all, devices, network }
    }

    fn show(&self, view: &View, seconds: f64) {
        for (bar, device) in self.devices.iter().zip(&view.devices) {
            bar.set_length(device.of.max(1));
            bar.set_position(device.done);
            let of = format!("{} of {}", thousands(device.done), thousands(device.of));
            bar.set_message(format!("{of:>15}  queued {:>5}  {}", thousands(device.queue), device.doing));
        }
        self.network.set_message(format!(
            "{} requests, {} faults, {} kills, {seconds:.0} s   {}",
            thousands(view.requests),
            thousands(view.faults),
            view.kills,
            view.network,
        ));
    }
}
