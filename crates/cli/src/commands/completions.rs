//! `landfall completions SHELL`: a completion script on standard output.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use clap::CommandFactory;

const EXAMPLES: &str = "  landfall completions bash > ~/.local/share/bash-completion/completions/landfall";

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "landfall", &mut script);
    let script = String::from_utf8_lossy(&script);
    output.write(format_args!("{script}"))?;
    Ok(Exit::Done)
}
