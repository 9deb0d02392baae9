//! The `landfall` command: an offline-first queue on the command line.
//!
//! One file per command in `commands/`; what they share is beside this file. Commands decide nothing about syncing:
//! they read input, call the engine and show what it says. Tests: `tests/`, with the real binary.

mod backend;
mod budget;
mod change_options;
mod commands;
mod confirm;
mod csv_input;
mod demo;
mod duration;
mod exit;
#[cfg(test)]
mod fuzzed;
mod jsonl_input;
mod jsonl_output;
mod moment;
mod output;
mod problem;
mod progress;
mod reasons;
mod rules;
mod shown;
mod skipped;
mod stop;
mod store;
mod table;
mod telemetry;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use output::{HEAD, Output};
use problem::Problem;
use std::process::ExitCode;

use crate::exit::Exit;

/// Records changes while there is no network, and brings them to a backend exactly once.
#[derive(Debug, Parser)]
#[command(name = "landfall", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = exit::TABLE)]
struct Cli {
    /// Print JSON instead of text (errors too, on standard error).
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Enqueue(Box<commands::enqueue::Args>),
    Sync(commands::sync::Args),
    Agent(commands::agent::Args),
    Status(commands::status::Args),
    Queue(commands::queue::Args),
    Task(commands::task::Args),
    Explain(commands::explain::Args),
    Wait(commands::wait::Args),
    Cancel(commands::cancel::Args),
    RetryNow(commands::retry_now::Args),
    Pause(commands::pause::PauseArgs),
    Resume(commands::pause::ResumeArgs),
    Dead(commands::dead::Args),
    Journal(commands::journal::Args),
    Get(commands::get::Args),
    List(commands::list::Args),
    Conflicts(commands::conflicts::Args),
    Export(commands::export::Args),
    Import(commands::import::Args),
    Rescue(commands::rescue::Args),
    Outbox(commands::outbox::Args),
    Accounts(commands::accounts::Args),
    Logout(commands::logout::Args),
    Serve(commands::serve::Args),
    Demo(demo::DemoArgs),
    Conformance(commands::conformance::Args),
    Completions(commands::completions::Args),
}

/// The commands under the headings of `landfall --help`.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Record and send", &["enqueue", "sync", "agent", "status"]),
    (
        "Queued changes",
        &["queue", "task", "explain", "wait", "cancel", "retry-now", "pause", "resume", "dead", "journal"],
    ),
    ("Records", &["get", "list", "conflicts"]),
    ("Moving and saving work", &["export", "import", "rescue", "outbox"]),
    ("Accounts", &["accounts", "logout"]),
    ("Other", &["serve", "conformance", "demo", "completions"]),
];

/// All arguments, with the commands of `--help` under headings.
fn cli() -> clap::Command {
    let command = Cli::command();
    let mut list = String::new();
    for (heading, names) in GROUPS {
        list += &format!("\n{HEAD}{heading}:{HEAD:#}\n");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            list += &format!("  {name:<11}  {}\n", about.map(ToString::to_string).unwrap_or_default());
        }
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{list}\n{HEAD}Options:{HEAD:#}\n{{options}}{{after-help}}"
    ))
}

fn main() -> ExitCode {
    let parsed = cli().try_get_matches().and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that went away is no reason to fail.
            drop(error.print());
            return if error.use_stderr() { Exit::Failed } else { Exit::Done }.into();
        }
    };
    let output = Output::new(cli.json);
    let _telemetry = telemetry::begin(&output);
    match run(cli.command, &output) {
        Ok(exit) => exit.into(),
        Err(problem) => {
            output.problem(&problem);
            Exit::Failed.into()
        }
    }
}

fn run(command: Command, output: &Output) -> Result<Exit, Problem> {
    match command {
        Command::Enqueue(args) => commands::enqueue::run(*args, output),
        Command::Sync(args) => commands::sync::run(args, output),
        Command::Agent(args) => commands::agent::run(&args, output),
        Command::Status(args) => commands::status::run(&args, output),
        Command::Queue(args) => commands::queue::run(&args, output),
        Command::Task(args) => commands::task::run(&args, output),
        Command::Explain(args) => commands::explain::run(&args, output),
        Command::Wait(args) => commands::wait::run(&args, output),
        Command::Cancel(args) => commands::cancel::run(&args, output),
        Command::RetryNow(args) => commands::retry_now::run(&args, output),
        Command::Pause(args) => commands::pause::pause(&args, output),
        Command::Resume(args) => commands::pause::resume(&args, output),
        Command::Dead(args) => commands::dead::run(&args, output),
        Command::Journal(args) => commands::journal::run(&args, output),
        Command::Get(args) => commands::get::run(&args, output),
        Command::List(args) => commands::list::run(&args, output),
        Command::Conflicts(args) => commands::conflicts::run(&args, output),
        Command::Export(args) => commands::export::run(&args, output),
        Command::Import(args) => commands::import::run(&args, output),
        Command::Rescue(args) => commands::rescue::run(&args, output),
        Command::Outbox(args) => commands::outbox::run(&args, output),
        Command::Accounts(args) => commands::accounts::run(&args, output),
        Command::Logout(args) => commands::logout::run(&args, output),
        Command::Serve(args) => commands::serve::run(&args, output),
        Command::Demo(args) => demo::run(args, output),
        Command::Conformance(args) => commands::conformance::run(&args, output),
        Command::Completions(args) => commands::completions::run(&args, output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        cli().debug_assert();
    }

    #[test]
    fn help_lists_every_command_under_one_heading() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = cli();
        let mut known: Vec<&str> =
            command.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help").collect();
        let mut listed = grouped.clone();
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(known, listed);
        let help = cli().render_long_help().to_string();
        for name in grouped {
            assert!(help.contains(&format!("\n  {name} ")), "{name}: {help}");
        }
    }

    #[test]
    fn every_command_shows_an_example_and_its_exit_codes() {
        fn look_at(commands: &mut clap::Command) {
            for command in commands
                .get_subcommands_mut()
                .filter(|command| !command.is_hide_set() && command.get_name() != "help")
            {
                let name = command.get_name().to_owned();
                let help = command.render_long_help().to_string();
                for wanted in ["Example", "Exit codes:"] {
                    assert!(help.contains(wanted), "`landfall {name} --help` has no `{wanted}`:\n{help}");
                }
                look_at(command);
            }
        }
        look_at(&mut Cli::command());
    }
}
