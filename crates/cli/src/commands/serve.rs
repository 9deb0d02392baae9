//! `landfall serve`: the reference server on one SQLite file.
//!
//! Tests: `tests/kill_nine.rs` and others use it as their backend; `tests/cli_basics.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::stop::Stop;
use landfall_server::{
    AssignIds, Auth, Increment, Policies, RequireFields, Server, ServerError, ServerOptions,
};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

const EXAMPLES: &str = "  landfall serve --db server.db
  landfall serve --db server.db --listen 127.0.0.1:0
  landfall serve --db server.db --listen 0.0.0.0:8787 --token-file tokens.txt
  landfall serve --db server.db --metrics 127.0.0.1:9464
  landfall serve --db server.db --assign-ids order,invoice --actions --require note.title

  A line of tokens.txt is a token of 16 or more characters and the tenant it stands for:
  2f9c0a41d7be4c55 anna";

/// Run the reference server, until Ctrl-C.
///
/// It speaks HTTP/1 without TLS: put a proxy in front of it when others are to reach it.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    /// The server's database (not a client's queue), made if there is none.
    #[arg(long, value_name = "PATH", env = "LANDFALL_SERVER_DB")]
    db: PathBuf,
    /// Address and port; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Who may come in: lines of `token tenant`. Without it everybody may who reaches the address.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Give new records of these types an id of the server's own; `*` for all types.
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    assign_ids: Vec<String>,
    /// Know the action `increment`: its arguments are whole numbers by field name, added to the record's fields.
    #[arg(long)]
    actions: bool,
    /// Refuse (code `invalid_field`) what would leave a record of TYPE without FIELD; may be given several times.
    #[arg(long, value_name = "TYPE.FIELD", value_parser = required)]
    require: Vec<(String, String)>,
    /// Show numbers for Prometheus at http://ADDR/metrics, to everybody who reaches that address.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Listen beyond this machine without tokens: everybody on the network may read and write.
    #[arg(long)]
    dangerously_open_to_network: bool,
}

#[derive(Serialize)]
struct Listening<'a> {
    endpoint: &'a str,
    address: SocketAddr,
    db: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let auth = match &args.token_file {
        None => Auth::open(),
        Some(file) => Auth::from_file(file).map_err(|error| {
            Problem::new(format!("{}: {}", file.display(), causes(&error)))
                .hint("each line is a token of 16 or more characters, a space, and a tenant's name")
        })?,
    };
    let options = ServerOptions {
        auth,
        dangerously_open_to_network: args.dangerously_open_to_network,
        policy: Arc::new(policies(args)),
        metrics: args.metrics,
        ..ServerOptions::default()
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let _stop = Stop::listen(move || {
        // Nobody waits for it any more once the server has ended by itself.
        let _ = stop.send(());
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Problem::new(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let server =
            Server::bind(args.listen, &args.db, options).await.map_err(|error| cannot(args, &error))?;
        let (endpoint, metrics) = (server.endpoint(), server.metrics_url());
        if output.is_json() {
            let db = args.db.display().to_string();
            output.json(&Listening { endpoint: &endpoint, address: server.local_addr(), db, metrics })?;
        } else {
            if let Some(url) = metrics {
                output.note(format_args!("numbers for Prometheus at {url}"));
            }
            output.line(format_args!("listening on {endpoint} (Ctrl-C stops)"))?;
        }
        server
            .serve(async {
                drop(stopped.await);
            })
            .await;
        if !output.is_json() {
            output.note("stopped");
        }
        Ok(Exit::Done)
    })
}

/// The rules that the flags switch on; none without flags.
fn policies(args: &Args) -> Policies {
    let require = args
        .require
        .iter()
        .fold(RequireFields::new(), |require, (entity_type, field)| require.with(entity_type, field));
    let policies = Policies::new().with(require).with(AssignIds::new(&args.assign_ids));
    if args.actions { policies.with(Increment) } else { policies }
}

/// `TYPE.FIELD`, parted at the first dot.
fn required(text: &str) -> Result<(String, String), String> {
    match text.split_once('.') {
        Some((entity_type, field)) if !entity_type.is_empty() && !field.is_empty() => {
            Ok((entity_type.to_owned(), field.to_owned()))
        }
        _ => Err("a type and a field with a dot between them, such as note.title".to_owned()),
    }
}

fn cannot(args: &Args, error: &ServerError) -> Problem {
    match error {
        ServerError::OpenToNetwork(_) => Problem::new(causes(error))
            .hint("give --token-file, or listen on 127.0.0.1, or insist with --dangerously-open-to-network"),
        ServerError::Listen { .. } => {
            Problem::new(causes(error)).hint("choose another port with --listen; port 0 takes a free one")
        }
        ServerError::Store(_) => Problem::new(format!("{}: {}", args.db.display(), causes(error)))
            .hint("`--db` must name a database of this server, or a file that does not exist yet"),
    }
}

/// An error with everything that was underneath.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_field_is_named_with_its_type() {
        let pair = |kind: &str, field: &str| Ok((kind.to_owned(), field.to_owned()));
        assert_eq!(required("note.title"), pair("note", "title"));
        assert_eq!(required("note.a.b"), pair("note", "a.b"));
        for bad in ["note", ".title", "note.", "", "."] {
            assert!(required(bad).is_err(), "{bad}");
        }
    }
}
