//! `cargo xtask`: the project's own tasks, and the one test command that README.md names.
//!
//! Each command is a file: `suite` (test), `prove`, `walls` (which crate may import which), `words` (what may not be
//! committed). It knows nothing of how the crates work and imports none of them, so that it builds in seconds
//! and still runs when they do not compile. Its tests are in each file.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program talks on its streams")]

mod breach;
mod figures;
mod ledger;
mod prove;
mod source;
mod suite;
mod tally;
mod walls;
mod words;
mod workspace;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

const HELP: &str = "\
Project tasks of Landfall.

usage: cargo xtask <command> [options]

commands:
  test     everything that must hold before a commit: formatting, lints, walls, words, all tests
  prove    the proofs go on where docs/proof-ledger.md stopped, for as long as you say
  walls    does every crate import only what the table of walls allows, and keep the rules of its source?
  words    does any file hold what may not be committed (machine paths, unfinished work, registry hosts)?
  mutants  breaks the core in every small way and counts what the tests do not notice (tools/mutants)
  help     this text

`cargo xtask <command> --help` says more.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = args.split_first() else { bail!("no command given\n\n{HELP}") };
    let wants_help = rest.iter().any(|arg| arg == "--help" || arg == "-h");
    match command.as_str() {
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        "test" if wants_help => {
            println!("{}", suite::help());
            Ok(ExitCode::SUCCESS)
        }
        "walls" if wants_help => {
            println!("{}", walls::help());
            Ok(ExitCode::SUCCESS)
        }
        "words" if wants_help => {
            println!("{}", words::help());
            Ok(ExitCode::SUCCESS)
        }
        "prove" if wants_help => {
            println!("{}", prove::help());
            Ok(ExitCode::SUCCESS)
        }
        "prove" => prove::run(&Workspace::find()?, &prove::Options::parse(rest)?),
        "test" => {
            let options = suite::Options::parse(rest)?;
            Ok(suite::run(&Workspace::find()?, &options))
        }
        // Its own program with its own dependencies: this one builds in seconds.
        "mutants" => mutants(&Workspace::find()?, rest),
        "walls" => check(rest, walls::check),
        "words" => check(rest, words::check),
        other => bail!("no command is called {other:?}\n\n{HELP}"),
    }
}

/// Hands over to the program in `tools/mutants`, which has a workspace of its own.
fn mutants(workspace: &Workspace, rest: &[String]) -> Result<ExitCode> {
    let mut command =
        workspace.cargo(&["run", "--quiet", "--locked", "--manifest-path", "tools/mutants/Cargo.toml", "--"]);
    let status = command.args(rest).status().context("cannot start cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one of the checks that take no options.
fn check(rest: &[String], check: fn(&Workspace) -> Result<String>) -> Result<ExitCode> {
    if let Some(extra) = rest.first() {
        bail!("unexpected argument {extra:?}: this command takes none but --help");
    }
    println!("{}", check(&Workspace::find()?)?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(args: &[&str]) -> Result<ExitCode> {
        run(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn an_unknown_command_is_an_error_that_lists_the_commands() {
        let message = run_with(&["tset"]).expect_err("no such command").to_string();
        assert!(message.contains("\"tset\"") && message.contains("cargo xtask <command>"), "{message}");
        assert!(run_with(&[]).is_err());
    }

    #[test]
    fn a_check_refuses_arguments_it_would_ignore() {
        for command in ["walls", "words"] {
            let message = run_with(&[command, "--fix"]).expect_err("no such option").to_string();
            assert!(message.contains("--fix"), "{message}");
        }
    }
}
