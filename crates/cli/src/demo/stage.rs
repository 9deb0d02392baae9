//! The stage: starts server, network and devices, kills them, brings them back, and waits until all is sent.
//!
//! One loop, a look every few milliseconds; every process belongs to it and ends with it. It knows nothing of what is
//! recorded. Tests: `tests/demo.rs`, with real processes.

use super::actor::{Actor, Setting};
use super::chance::{self, Kill};
use super::device::Phase;
use super::network::{Met, Network, describe};
use super::process::{Folder, Process};
use super::progress::{Progress, View};
use super::proof::Audit;
use super::script::Script;
use crate::problem::Problem;
use crate::stop::Stop;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// How often the stage looks around.
const TICK: Duration = Duration::from_millis(4);
/// How long the network stays rough at most: a slow machine must come to an end too.
const ROUGH: Duration = Duration::from_secs(90);
/// How long the whole play may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often each device, and how often the server is killed in a phase.
const fn kills(phase: Phase) -> (u64, u64) {
    match phase {
        Phase::Record => (3, 0),
        Phase::Upload => (5, 3),
        Phase::Amend => (2, 0),
        Phase::Exchange => (4, 2),
        Phase::Drain | Phase::Meet | Phase::Settle | Phase::Finish => (0, 0),
    }
}

/// What was played, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Played {
    /// The devices' books.
    pub(super) audits: Vec<Audit>,
    /// Requests that reached the network.
    pub(super) requests: u64,
    /// What befell them.
    pub(super) met: Met,
    /// Who was killed.
    pub(super) kills: Kills,
    /// The server's database.
    pub(super) database: PathBuf,
    /// The devices' databases, in the order of their numbers.
    pub(super) devices: Vec<PathBuf>,
}

/// How many processes were killed with SIGKILL.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Kills {
    /// Devices while recording or amending offline.
    pub(super) recording: u64,
    /// Devices while syncing.
    pub(super) uploading: u64,
    /// The server.
    pub(super) server: u64,
}

impl Kills {
    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.recording + self.uploading + self.server
    }
}

/// Plays all scripts. When this returns, no child is left, and the server's database is complete.
pub(super) fn play(
    scripts: &[Script],
    seed: u64,
    folder: &Folder,
    stop: &Stop,
    progress: &mut Progress,
) -> Result<Played, Problem> {
    let server = Server::start(folder)?;
    let network = Network::start(server.addr, seed)?;
    let reports = scripts.iter().map(|script| script.reports).sum();
    let setting = Setting {
        reports,
        devices: scripts.len(),
        seed,
        endpoint: network.endpoint(),
        folder: folder.path().to_owned(),
    };
    let actors: Vec<Actor> = scripts
        .iter()
        .map(|script| Actor::start(script, &setting, kills(Phase::Record).0))
        .collect::<Result<_, _>>()?;
    let mut stage = Stage {
        actors,
        server,
        network,
        phase: Phase::Record,
        kills: Kills::default(),
        seed,
        began: Instant::now(),
    };
    let pids: Vec<String> = stage.actors.iter().filter_map(Actor::id).map(|id| id.to_string()).collect();
    progress.note(&format!(
        "  server     process {}, SQLite, behind a fault proxy (down for now)\n  devices    processes {}, each with its own queue file",
        stage.server.process.id(),
        pids.join(", "),
    ));

    let devices = scripts.iter().map(|script| folder.device(script.device)).collect();
    stage.run(stop, progress, |stage| stage.actors.iter().all(Actor::has_recorded))?;
    stage.sync_all(stop, progress, "is back, and rough", [Phase::Upload, Phase::Drain])?;
    stage.enter(Phase::Meet)?;
    stage.run(stop, progress, |stage| stage.actors.iter().all(Actor::has_read))?;
    progress.note("  network    is gone again; every device has all reports, and amends them");
    stage.enter(Phase::Amend)?;
    stage.run(stop, progress, |stage| stage.actors.iter().all(Actor::has_recorded))?;
    stage.sync_all(
        stop,
        progress,
        "is back, and rough; the devices meet",
        [Phase::Exchange, Phase::Settle],
    )?;
    stage.enter(Phase::Finish)?;
    stage.run(stop, progress, |stage| stage.actors.iter().all(Actor::has_ended))?;
    stage.network.deliver_late()?;
    stage.server.process.end(Duration::from_secs(20))?;
    Ok(Played {
        audits: stage.actors.into_iter().filter_map(Actor::into_books).collect(),
        requests: stage.network.requests(),
        met: stage.network.met(),
        kills: stage.kills,
        database: stage.server.database,
        devices,
    })
}

struct Stage {
    actors: Vec<Actor>,
    server: Server,
    network: Network,
    phase: Phase,
    kills: Kills,
    seed: u64,
    began: Instant,
}

impl Stage {
    /// Lets all devices sync, first through a rough network, then through a good one, until none has anything to send.
    fn sync_all(
        &mut self,
        stop: &Stop,
        progress: &mut Progress,
        how: &str,
        [rough, good]: [Phase; 2],
    ) -> Result<(), Problem> {
        progress.note(&format!("  network    {how}"));
        self.enter(rough)?;
        let until = Instant::now() + ROUGH;
        self.run(stop, progress, |stage| {
            stage.actors.iter().all(Actor::is_drained) || Instant::now() > until
        })?;
        progress.note("  network    is healed; late duplicates arrive");
        self.network.heal();
        self.network.deliver_late()?;
        self.enter(good)?;
        self.run(stop, progress, |stage| stage.actors.iter().all(Actor::is_drained))
    }

    fn enter(&mut self, phase: Phase) -> Result<(), Problem> {
        // The network goes before the devices hear of it, and they hear of it before it comes back.
        if phase.is_offline() {
            self.network.go_down()?;
        }
        self.phase = phase;
        let (of_device, of_server) = kills(phase);
        for actor in &mut self.actors {
            actor.enter(phase, of_device);
        }
        self.server.kills = chance::kills(self.seed, 0, phase as u64, of_server).into();
        if phase.is_rough() { self.network.become_rough() } else { Ok(()) }
    }

    fn run(
        &mut self,
        stop: &Stop,
        progress: &mut Progress,
        mut is_over: impl FnMut(&Self) -> bool,
    ) -> Result<(), Problem> {
        loop {
            if stop.is_asked() {
                return Err(Problem::new("stopped; all processes were ended and their files removed"));
            }
            if self.began.elapsed() > PATIENCE {
                return Err(Problem::new("the demo takes too long")
                    .hint("keep the files with --keep DIR and look at the devices' queues with `landfall status --db`"));
            }
            for actor in &mut self.actors {
                if actor.look()? {
                    *match self.phase.is_offline() {
                        true => &mut self.kills.recording,
                        false => &mut self.kills.uploading,
                    } += 1;
                }
            }
            let uploaded = self.uploaded();
            if !self.phase.is_offline() && self.server.look(uploaded, &self.network)? {
                self.kills.server += 1;
            }
            progress.show(|| self.view());
            if is_over(self) && self.server.is_up() {
                return Ok(());
            }
            thread::sleep(TICK);
        }
    }

    /// How much of all reports is on the server, from 0 to 1.
    fn uploaded(&self) -> f64 {
        let parts: f64 = self.actors.iter().map(Actor::uploaded).sum();
        parts / self.actors.len().max(1) as f64
    }

    fn view(&self) -> View {
        let met = self.network.met();
        let network = match self.phase {
            Phase::Record | Phase::Amend => "down".to_owned(),
            _ if !self.server.is_up() => "server killed".to_owned(),
            Phase::Upload | Phase::Exchange => met.last.map(describe).unwrap_or_default(),
            Phase::Drain | Phase::Meet | Phase::Settle | Phase::Finish => "healed".to_owned(),
        };
        let phase = match self.phase {
            Phase::Record => "recording",
            Phase::Upload => "uploading",
            Phase::Drain | Phase::Settle => "draining",
            Phase::Meet => "meeting",
            Phase::Amend => "amending",
            Phase::Exchange => "exchanging",
            Phase::Finish => "finishing",
        };
        View {
            phase,
            devices: self.actors.iter().map(Actor::view).collect(),
            network,
            requests: self.network.requests(),
            faults: met.total(),
            kills: self.kills.total(),
        }
    }
}

/// The server's process, its database, and what awaits it.
struct Server {
    process: Process,
    addr: SocketAddr,
    database: PathBuf,
    log: PathBuf,
    kills: VecDeque<Kill>,
    dies_at: Option<(Instant, Duration)>,
    back_at: Option<Instant>,
}

impl Server {
    fn start(folder: &Folder) -> Result<Self, Problem> {
        let (database, log) = (folder.file("server.db"), folder.file("server.log"));
        let (process, addr) = Self::launch(&database, &log)?;
        Ok(Self { process, addr, database, log, kills: VecDeque::new(), dies_at: None, back_at: None })
    }

    fn launch(database: &std::path::Path, log: &std::path::Path) -> Result<(Process, SocketAddr), Problem> {
        let arguments = vec!["demo".into(), "server".into(), "--db".into(), database.into()];
        let process = Process::start(arguments, log)?;
        let line = process.line_within(Duration::from_secs(20))?;
        let addr = line.parse().map_err(|_| Problem::new(format!("the server says {line:?}")))?;
        Ok((process, addr))
    }

    fn is_up(&self) -> bool {
        self.back_at.is_none()
    }

    /// Kills it or brings it back when it is time; true when it was killed now.
    fn look(&mut self, uploaded: f64, network: &Network) -> Result<bool, Problem> {
        let now = Instant::now();
        if let Some(at) = self.back_at {
            if now >= at {
                (self.process, self.addr) = Self::launch(&self.database, &self.log)?;
                network.lead_to(self.addr);
                self.back_at = None;
            }
            return Ok(false);
        }
        if let Some(status) = self.process.ended() {
            return Err(
                Problem::new(format!("the server ended by itself: {status}")).hint(self.process.last_words())
            );
        }
        if self.dies_at.is_none() {
            if let Some(kill) = self.kills.front().copied().filter(|kill| uploaded >= kill.at) {
                self.kills.pop_front();
                self.dies_at = Some((now + kill.delay, kill.down));
            }
        }
        match self.dies_at {
            Some((at, down)) if now >= at => {
                self.process.kill();
                self.dies_at = None;
                self.back_at = Some(now + down);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
