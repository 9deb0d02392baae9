//! `landfall agent`: brings a queue to its backend by itself, beside whoever enqueues, until it is told to stop.
//!
//! When something is sent is the engine's business (auto-sync). Here: the arguments, the end, and which of the events
//! become a line (`agent/news.rs`) and where the numbers are shown (`agent/page.rs`). Standard output may be a log on a
//! full disk, or closed: that ends no agent. Tests: `tests/agent.rs`, `tests/two_agents.rs`, `tests/captive_portal.rs`.

mod news;
mod page;

use crate::backend::BackendArgs;
use crate::duration;
use crate::exit::{self, Exit, TABLE_AGENT};
use crate::output::{Output, json};
use crate::problem::Problem;
use crate::rules::{RuleArgs, WHEN_DEAD, Words, when_dead};
use crate::stop::Stop;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_adapters::http::url::Endpoint;
use landfall_core::config::AutoConfig;
use landfall_core::model::WhenDead;
use landfall_engine::{Engine, EventStream, ManualConnectivity, NetworkManager, Several, SystemConnectivity};
use news::{Line, Reporter};
use page::Page;
use serde_json::json;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

const EXAMPLES: &str = "  landfall agent --db q.db --endpoint http://127.0.0.1:8787/sync
  landfall agent --db q.db --create --endpoint https://api.example.com/sync --token-env API_TOKEN
  landfall agent --db q.db --endpoint https://api.example.com/sync --metrics 127.0.0.1:9464
  landfall agent --db q.db --endpoint https://api.example.com/sync --interval 1m --json >> agent.jsonl
  landfall agent --db q.db --endpoint https://api.example.com/sync --interval 0 --push-only

  While it runs, `landfall enqueue --db q.db …` in any other process is enough: the change is sent by itself.";

/// How long the end of the engine can stay unnoticed when nothing happens any more.
const LISTEN: Duration = Duration::from_secs(1);
/// The shortest interval between readings. Below it every device asks the backend all the time.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The shortest time between two looks at the queue. Below it an idle agent keeps the processor awake.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// Bring the queued changes to a backend by itself, and read what others changed, until Ctrl-C or SIGTERM.
///
/// Runs beside any number of `landfall enqueue`: what they store is sent a moment later. What fails is tried again
/// without a new change, more and more seldom; a network that asks for a login is noticed and costs no attempt. One line
/// is printed for each thing worth telling. Refused credentials are tried or asked for again by
/// themselves, more and more seldom. At the end what is under way is handed back; it is sent again by the next run
/// under the same key and takes effect once.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_AGENT))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The backend's sync endpoint.
    #[arg(long, value_name = "URL", env = "LANDFALL_ENDPOINT")]
    endpoint: String,
    /// Only send; read nothing of what others changed.
    #[arg(long)]
    push_only: bool,
    /// Make the queue file if there is none, to begin with what the backend has.
    #[arg(long)]
    create: bool,
    /// How often to read what others changed, though nothing is known to have happened; 0: only at the beginning.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = interval)]
    interval: Duration,
    /// How long a new change waits for others to go with it.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration::parse)]
    debounce: Duration,
    /// How often to look whether another process has enqueued something; costs next to nothing.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = look)]
    look: Duration,
    /// Show numbers for Prometheus at http://ADDR/metrics; a loopback address, port 0 takes a free one.
    #[arg(long, value_name = "ADDR", value_parser = page::address)]
    metrics: Option<SocketAddr>,
    /// The network is metered: changes that ask for another one wait.
    #[arg(long)]
    metered: bool,
    /// What a dead letter holds up, where the model says nothing else.
    #[arg(long, value_name = "POLICY", value_parser = Words::new(&WHEN_DEAD, when_dead))]
    on_dead: Option<WhenDead>,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    rules: RuleArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        time if time.is_zero() || time >= INTERVAL_MIN => Ok(time),
        _ => Err("at least 1s, or 0 for never".into()),
    }
}

fn look(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        time if time >= LOOK_MIN => Ok(time),
        _ => Err("at least 10ms".into()),
    }
}

impl Args {
    fn auto(&self) -> AutoConfig {
        let usual = AutoConfig::default();
        AutoConfig {
            debounce: self.debounce,
            debounce_max: usual.debounce_max.max(self.debounce),
            interval: Some(self.interval).filter(|interval| !interval.is_zero()),
            look_every: Some(self.look),
            ..usual
        }
    }

    fn open(&self) -> Result<Engine, Problem> {
        let mut config = self.backend.config();
        config.conflicts.rules = self.rules.rules()?;
        config.pull.enabled = !self.push_only;
        let mut model = self.db.model()?;
        model.when_dead = self.on_dead.unwrap_or(model.when_dead);
        let adapter = self.backend.adapter(&self.endpoint)?;
        let store = if self.create { self.db.open_or_create()? } else { self.db.open()? };
        let builder = Engine::builder(store, adapter).config(config);
        let builder = match Endpoint::parse(&self.endpoint, true).is_ok_and(|endpoint| endpoint.is_local()) {
            // No network is needed, so none is missed.
            true => builder.connectivity(ManualConnectivity::new()),
            false => builder.connectivity(Several(vec![
                Box::new(SystemConnectivity::new()),
                Box::new(NetworkManager::new()),
            ])),
        };
        self.db.build(builder, model)
    }
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let engine = args.open()?;
    let page = args.metrics.map(|address| Page::open(address, engine.clone())).transpose()?;
    let events = engine.events();
    let stop = Stop::listen({
        let engine = engine.clone();
        // On a thread of its own, so that a second signal is still heard.
        move || drop(thread::spawn(move || engine.on_detach()))
    })?;
    tell(output, &begun(args, page.as_ref()));
    if args.metered {
        engine.network_metered(true);
    }
    args.db.named(engine.enable_auto_sync(args.auto()))?;
    follow(&engine, events, output);
    if !stop.is_asked() {
        return Err(Problem::new("the engine has ended by itself").hint("LANDFALL_LOG=info shows more"));
    }
    tell(output, &news::ended());
    Ok(Exit::Done)
}

/// Tells what happens until the engine is closed.
fn follow(engine: &Engine, mut events: EventStream, output: &Output) {
    let mut reporter = Reporter::default();
    while !events.is_over() {
        let notice = events.next_within(LISTEN);
        if let Some(line) = notice.and_then(|notice| reporter.hear(&notice, engine)) {
            tell(output, &line);
        }
    }
}

fn begun(args: &Args, page: Option<&Page>) -> Line {
    let (db, endpoint) = (args.db.db.display().to_string(), &args.endpoint);
    let metrics = page.map(Page::url);
    let shown = metrics.as_ref().map(|url| format!(", numbers at {url}")).unwrap_or_default();
    let text = format!("sending {} to {}{shown} (Ctrl-C stops)", visible(&db), visible(endpoint));
    Line::new("started", text, json!({ "db": db, "endpoint": endpoint, "metrics": metrics }))
}

/// One line. What nobody can be told is no reason to stop sending.
fn tell(output: &Output, line: &Line) {
    let text = if output.is_json() { json(&line.for_programs()) } else { Ok(line.for_people()) };
    drop(text.and_then(|text| output.line(text)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_would_make_it_spin_are_refused() {
        assert_eq!(interval("0"), Ok(Duration::ZERO));
        assert_eq!(interval("5m"), Ok(Duration::from_secs(300)));
        assert!(interval("999ms").is_err());
        assert_eq!(look("10ms"), Ok(Duration::from_millis(10)));
        assert!(look("0").is_err());
        assert!(look("soon").is_err());
    }
}
