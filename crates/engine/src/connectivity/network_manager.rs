//! NetworkManager, which knows whether a network costs by volume.
//!
//! By its own program `nmcli`, so that no D-Bus library comes into the tree: `nmcli monitor` writes a line at each change,
//! which is not read but counted, and `nmcli device show` says how things are. What it writes is read in [`read`]. Tests:
//! there over recorded output, and below with programs that only look like nmcli.

mod read;

use super::background::{Background, Changes};
use super::{ConnectivityService, Reporter};
use landfall_core::device::DeviceState;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long changes are gathered before it is looked: a network that comes up makes a dozen lines.
const GATHER: Duration = Duration::from_millis(300);
/// How long one look may take. nmcli waits 25 s for a bus that hangs, and nobody needs to know so late.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// How long it is waited before the monitor is started again, should it end.
const AGAIN: Duration = Duration::from_secs(30);
/// Most that is read of one look: some thousand devices.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Longest line of the monitor; it is cut there, which makes two lines of it.
const LINE_BYTES_MAX: u64 = 4096;

/// Tells whether the network costs by volume, and whether there is one, as NetworkManager sees it.
///
/// Where there is no `nmcli` it tells nothing and ends quietly. Without NetworkManager behind it, it waits for it. It is
/// meant to stand beside [`SystemConnectivity`](super::SystemConnectivity) in [`Several`](super::Several): that no network is up it says
/// only where NetworkManager looks after every interface.
#[derive(Debug)]
pub struct NetworkManager {
    program: PathBuf,
    background: Option<Background>,
}

impl NetworkManager {
    /// With the `nmcli` of the search path.
    pub fn new() -> Self {
        Self::with_program("nmcli")
    }

    /// With another program that takes the arguments of nmcli.
    pub fn with_program(nmcli: impl Into<PathBuf>) -> Self {
        Self { program: nmcli.into(), background: None }
    }
}

impl Default for NetworkManager {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectivityService for NetworkManager {
    /// The first look is told a moment later, when nmcli has answered.
    fn start(&mut self, reporter: Reporter) {
        self.stop();
        let (news, heard) = channel();
        let watch = Watch {
            program: self.program.clone(),
            changes: Changes::new(reporter),
            news: news.clone(),
            heard,
            dirty: true,
            looks: 0,
        };
        self.background = Background::spawn("landfall-nmcli", StopOnDrop(news), move || watch.run());
    }

    fn stop(&mut self) {
        self.background = None;
    }
}

enum News {
    /// Something changed.
    Changed,
    /// The monitor ended.
    MonitorEnded,
    /// The look of this number wrote this, and no more.
    Looked(u64, String),
    /// The provider is stopped.
    Stop,
}

struct StopOnDrop(Sender<News>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // Whoever is not there any more need not be told.
        let _ = self.0.send(News::Stop);
    }
}

/// The thread: it waits for news, and looks.
struct Watch {
    program: PathBuf,
    changes: Changes,
    news: Sender<News>,
    heard: Receiver<News>,
    /// Whether something changed since the last look.
    dirty: bool,
    /// How often it was looked. What a look writes that was given up meanwhile is not believed.
    looks: u64,
}

/// The provider is stopped.
struct Stopped;

impl Watch {
    fn run(mut self) {
        while let Ok(monitor) = Running::monitor(&self.program, &self.news) {
            if self.while_monitored().is_err() {
                return;
            }
            drop(monitor);
            self.dirty = true;
            if self.pause(AGAIN).is_err() {
                return;
            }
        }
        tracing::debug!("no nmcli, so NetworkManager is not asked");
    }

    /// Looks at each change, until the monitor ends.
    fn while_monitored(&mut self) -> Result<(), Stopped> {
        loop {
            if self.dirty {
                self.dirty = false;
                match self.look()? {
                    Some(state) => self.changes.tell(state),
                    None => return Ok(()),
                }
                continue;
            }
            match self.heard.recv() {
                Ok(News::Changed) => {
                    self.pause(GATHER)?;
                    self.dirty = true;
                }
                Ok(News::Looked(..)) => {}
                Ok(News::MonitorEnded) => return Ok(()),
                Ok(News::Stop) | Err(_) => return Err(Stopped),
            }
        }
    }

    /// What is so now; `None` when the monitor ended meanwhile.
    fn look(&mut self) -> Result<Option<DeviceState>, Stopped> {
        self.looks += 1;
        let Ok(mut running) = Running::look(&self.program, self.looks, &self.news) else { return Ok(None) };
        loop {
            match self.heard.recv_timeout(LOOK_MAX) {
                Ok(News::Looked(number, output)) if number == self.looks => {
                    let state = if running.ended_well() {
                        read::device_show(&output)
                    } else {
                        DeviceState::default()
                    };
                    return Ok(Some(state));
                }
                Ok(News::Looked(..)) => {}
                Ok(News::Changed) => self.dirty = true,
                Ok(News::MonitorEnded) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => return Ok(Some(DeviceState::default())),
                Ok(News::Stop) | Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    /// Waits, whatever else happens.
    fn pause(&self, time: Duration) -> Result<(), Stopped> {
        let until = std::time::Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            match self.heard.recv_timeout(left) {
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Ok(News::Stop) | Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
                Ok(News::Changed | News::Looked(..) | News::MonitorEnded) => {}
            }
        }
    }
}

/// A program that runs, and a thread that reads what it writes. Both end when this is dropped.
struct Running {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    fn monitor(program: &Path, news: &Sender<News>) -> io::Result<Self> {
        let news = news.clone();
        Self::start(program, &["monitor"], move |output| {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).is_ok_and(|read| read > 0)
            {
                line.clear();
                if news.send(News::Changed).is_err() {
                    return;
                }
            }
            let _ = news.send(News::MonitorEnded);
        })
    }

    fn look(program: &Path, number: u64, news: &Sender<News>) -> io::Result<Self> {
        let news = news.clone();
        Self::start(program, read::DEVICE_SHOW, move |output| {
            let mut bytes = Vec::new();
            let whole = output.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).is_ok();
            let text = if whole { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() };
            let _ = news.send(News::Looked(number, text));
        })
    }

    /// Whether a program that writes no more ended, and says that all went well.
    fn ended_well(&mut self) -> bool {
        for _ in 0..20 {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.success(),
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                Err(_) => return false,
            }
        }
        false
    }

    fn start(
        program: &Path,
        args: &[&str],
        read: impl FnOnce(std::process::ChildStdout) + Send + 'static,
    ) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            // Its words are read by a program.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take();
        let mut running = Self { child, reader: None };
        if let Some(output) = output {
            running.reader =
                Some(thread::Builder::new().name("landfall-nmcli".into()).spawn(move || read(output))?);
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, or ends now: then its output ends, and with it the reader.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    /// Follows a file of changes, and shows a file of devices.
    const LIKE_NMCLI: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$1" >> "$here/log"
case "$1" in
monitor) echo $$ > "$here/pid"; exec tail -n 0 -f "$here/changes" ;;
*) exec cat "$here/show" ;;
esac
"#;

    /// A folder with a program in place of nmcli, gone when dropped.
    struct Nmcli(PathBuf);

    impl Nmcli {
        fn new(script: &str) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::SeqCst);
            let folder = std::env::temp_dir().join(format!("landfall-nmcli-{}-{number}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("changes"), "").unwrap();
            // Written by another process: a program that this one still had open for writing when some other test
            // started a child could not be run.
            let mut writer = Command::new("sh")
                .args(["-c", r#"cat > "$0" && chmod 700 "$0""#])
                .arg(folder.join("nmcli"))
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(writer.wait().unwrap().success());
            Self(folder)
        }

        fn show(&self, metered: &str) {
            let devices = format!(
                "GENERAL.DEVICE:wlan0\nGENERAL.STATE:100 (connected)\nGENERAL.METERED:{metered}\nIP4.ROUTE[1]:dst = 0.0.0.0/0, nh = 10.0.0.1, mt = 600\n"
            );
            fs::write(self.0.join("new"), devices).unwrap();
            fs::rename(self.0.join("new"), self.0.join("show")).unwrap();
        }

        fn change(&self, lines: &str) {
            fs::OpenOptions::new()
                .append(true)
                .open(self.0.join("changes"))
                .unwrap()
                .write_all(lines.as_bytes())
                .unwrap();
        }

        fn ran(&self, what: &str) -> usize {
            let log = fs::read_to_string(self.0.join("log")).unwrap_or_default();
            log.lines().filter(|line| *line == what).count()
        }

        fn wait_for_a_look(&self) {
            while self.ran("-t") == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }

        fn start(&self) -> (NetworkManager, Receiver<DeviceState>) {
            let (sender, told) = channel();
            let mut provider = NetworkManager::with_program(self.0.join("nmcli"));
            provider.start(Reporter::new(move |news| sender.send(news).unwrap()));
            (provider, told)
        }
    }

    impl Drop for Nmcli {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn metered(told: &Receiver<DeviceState>) -> Option<bool> {
        told.recv_timeout(Duration::from_secs(10)).unwrap().metered
    }

    #[test]
    fn changes_are_told_and_many_lines_make_few_looks() {
        let nmcli = Nmcli::new(LIKE_NMCLI);
        nmcli.show("yes");
        let (mut provider, told) = nmcli.start();
        assert_eq!(metered(&told), Some(true));
        nmcli.show("no (guessed)");
        // Until the monitor is there to follow the file, nobody sees it grow.
        let mut bursts = 0;
        let news = loop {
            bursts += 1;
            assert!(bursts < 50, "no change was noticed");
            nmcli.change("wlan0: connected\n");
            if let Ok(news) = told.recv_timeout(Duration::from_secs(1)) {
                break news;
            }
        };
        assert_eq!(news.metered, Some(false));
        let before = nmcli.ran("-t");
        for _ in 0..20 {
            nmcli.change("wlan0: connecting\n");
            thread::sleep(Duration::from_millis(20));
        }
        nmcli.show("yes");
        nmcli.change("wlan0: connected\n");
        assert_eq!(metered(&told), Some(true));
        let looks = nmcli.ran("-t") - before;
        assert!(looks <= 6, "{looks} looks at 21 changes");
        let began = Instant::now();
        provider.stop();
        assert!(began.elapsed() < Duration::from_millis(100), "stopped after {:?}", began.elapsed());
        let pid = fs::read_to_string(nmcli.0.join("pid")).unwrap();
        let gone = Command::new("kill").args(["-0", pid.trim()]).stderr(Stdio::null()).status().unwrap();
        assert!(!gone.success(), "the monitor ended with its provider");
    }

    #[test]
    fn a_look_that_hangs_does_not_hold_up_the_stop() {
        let nmcli = Nmcli::new("#!/bin/sh\necho \"$1\" >> \"$(dirname \"$0\")/log\"\nexec sleep 1000\n");
        let (mut provider, told) = nmcli.start();
        nmcli.wait_for_a_look();
        let began = Instant::now();
        provider.stop();
        assert!(began.elapsed() < Duration::from_millis(100), "stopped after {:?}", began.elapsed());
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn without_nmcli_or_its_daemon_nothing_is_told() {
        let (sender, told) = channel();
        let mut provider = NetworkManager::with_program("/nowhere/nmcli");
        provider.start(Reporter::new(move |news| sender.send(news).unwrap()));
        assert!(
            told.recv_timeout(Duration::from_secs(10)).is_err(),
            "the thread ended, and with it the reporter"
        );
        provider.stop();

        let failing =
            Nmcli::new(&LIKE_NMCLI.replace("exec cat \"$here/show\"", "cat \"$here/show\"; exit 8"));
        failing.show("yes");
        let (mut provider, told) = failing.start();
        failing.wait_for_a_look();
        assert!(
            told.recv_timeout(Duration::from_millis(300)).is_err(),
            "what ends with an error is not believed"
        );
        provider.stop();
    }
}
