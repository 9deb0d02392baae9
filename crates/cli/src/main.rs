//! The `landfall` command: an offline-first queue on the command line.
//!
//! One file per command in `commands/`; what they share is beside this file. Commands decide nothing about syncing:
//! they read input, call the engine and show what it says. Tests: `tests/`, with the real binary.

mod commands;
mod csv_input;
mod demo;
mod duration;
mod exit;
mod jsonl_input;
mod output;
mod problem;
mod progress;
mod rules;
mod skipped;
mod stop;
mod store;
mod table;

use clap::{Parser, Subcommand};
use output::Output;
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
    Enqueue(commands::enqueue::Args),
    Sync(commands::sync::Args),
    Status(commands::status::Args),
    Queue(commands::queue::Args),
    Task(commands::task::Args),
    Get(commands::get::Args),
    List(commands::list::Args),
    Conflicts(commands::conflicts::Args),
    Serve(commands::serve::Args),
    Demo(demo::DemoArgs),
    Completions(commands::completions::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that went away is no reason to fail.
            drop(error.print());
            return if error.use_stderr() { Exit::Failed } else { Exit::Done }.into();
        }
    };
    let output = Output::new(cli.json);
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
        Command::Enqueue(args) => commands::enqueue::run(args, output),
        Command::Sync(args) => commands::sync::run(args, output),
        Command::Status(args) => commands::status::run(&args, output),
        Command::Queue(args) => commands::queue::run(&args, output),
        Command::Task(args) => commands::task::run(&args, output),
        Command::Get(args) => commands::get::run(&args, output),
        Command::List(args) => commands::list::run(&args, output),
        Command::Conflicts(args) => commands::conflicts::run(&args, output),
        Command::Serve(args) => commands::serve::run(&args, output),
        Command::Demo(args) => demo::run(args, output),
        Command::Completions(args) => commands::completions::run(&args, output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
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
