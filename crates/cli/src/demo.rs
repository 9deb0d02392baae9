//! `landfall demo`: the whole story on one machine, in about a minute, with proof.
//!
//! Twice the network is away, comes back rough, and heals: first every device records reports of its own, then all of
//! them amend the same ones.
//!
//! ```text
//! demo.rs ─► stage.rs ─► device.rs (processes, SIGKILL) ─► network.rs (fault proxy) ─► server.rs (process, SIGKILL)
//!    │           ▲ chance.rs: what goes wrong when, by seed
//!    ├─► script.rs: who does what to which report, from the file alone
//!    ├─► outcome.rs: what must come of that, under rules.rs, which the devices obey
//!    └─► proof.rs: the databases of server and devices, by plain SQL, against the outcome
//! ```
//!
//! The command runs itself again for its devices and its server, with the hidden subcommands below.
//! Tests: in the parts, and `tests/demo.rs` with real processes.

mod actor;
mod chance;
mod device;
mod network;
mod outcome;
mod process;
mod progress;
mod proof;
mod rules;
mod script;
mod server;
mod stage;
mod words;

use crate::exit::Exit;
use crate::output::Output;
use crate::problem::Problem;
use crate::stop::Stop;
use clap::builder::RangedU64ValueParser;
use process::Folder;
use progress::Progress;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const AFTER: &str = "\
Example:
  landfall demo
  landfall demo --devices 8 --reports 2000 --seed 7 --json

Exit codes:
  0  every report is on the server and on every device as it should be, once, and every conflict is on record
  1  something is lost, doubled, wrong or not on record, or the demo could not run";

/// Show the whole story on one machine: record offline, sync through a bad network, kill, prove.
///
/// Real incident reports are recorded offline by several device processes, amended, and synced through a network that
/// breaks in every way it can, to a real server process. Then every device reads them all, and they amend the same
/// reports offline: different fields, the same field, counters, sets. Devices and server are killed with SIGKILL on the
/// way. In the end the databases of the server and of all devices are read with plain SQL and compared with what the
/// reports and their authors say.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER, args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArgs {
    /// How many devices, 1 to 16, each a process with its own queue file.
    #[arg(long, default_value_t = 4, value_parser = RangedU64ValueParser::<usize>::new().range(1..=16))]
    devices: usize,
    /// How many reports, 1 to 10,000: the first ones of the file.
    #[arg(long, default_value_t = script::REPORTS_MAX,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=script::REPORTS_MAX as u64))]
    reports: usize,
    /// Repeats the faults and kills of an earlier run. Without it every run has others.
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the databases and logs in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    #[command(hide = true)]
    Device(device::DeviceArgs),
    #[command(hide = true)]
    Server(server::ServerArgs),
}

/// Runs the demo, or one of its processes.
pub(crate) fn run(args: DemoArgs, output: &Output) -> Result<Exit, Problem> {
    match &args.role {
        Some(Role::Device(args)) => return device::run(args),
        Some(Role::Server(args)) => return server::run(args),
        None => {}
    }
    let began = Instant::now();
    let stop = Stop::listen(|| {})?;
    let seed = args.seed.unwrap_or_else(any_seed);
    let mut folder = Folder::make(args.keep.as_deref())?;
    let scripts = script::scripts(args.reports, args.devices);
    let changes: usize = scripts.iter().map(script::Script::len).sum();
    let mut progress = Progress::new(args.devices);
    progress.note(&format!(
        "landfall demo: {} reports, {} changes, {} devices, seed {seed}",
        words::thousands(args.reports as u64),
        words::thousands(changes as u64),
        args.devices,
    ));
    let played = stage::play(&scripts, seed, &folder, &stop, &mut progress)?;
    progress.note("  proof      reads the databases of the server and of all devices");
    let evidence =
        proof::Evidence { server: &played.database, devices: &played.devices, audits: &played.audits };
    let findings = proof::examine(&evidence, &outcome::outcome(&scripts))
        .map_err(|error| Problem::new(error.to_string()))?;
    progress.clear();
    let result = words::Result {
        reports: args.reports,
        devices: args.devices,
        seed,
        played,
        findings,
        seconds: began.elapsed().as_secs_f64(),
    };
    if output.is_json() {
        output.json(&result.to_json())?;
    } else {
        output.line(format_args!("\n{}", result.to_table().trim_end()))?;
    }
    let clean = result.findings.is_clean();
    if !clean {
        folder.keep();
    }
    if !clean || args.keep.is_some() {
        output.note(format_args!("  files      {}", folder.path().display()));
    }
    Ok(if clean { Exit::Done } else { Exit::Failed })
}

/// A short seed that people can copy.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    script::scatter(now.as_nanos() as u64) % 1_000_000
}
