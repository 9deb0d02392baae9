//! The server of the demo: the reference server in a process of its own, so that it can be killed too.
//!
//! It is what `landfall serve` runs, with two differences: it takes a free port and tells it on standard output, and
//! it ends in order when its standard input ends, which also happens when the parent dies. Tests: `tests/demo.rs`.

use crate::exit::Exit;
use crate::problem::Problem;
use landfall_server::{Server, ServerOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use tokio::sync::oneshot;

/// How the server is started.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ServerArgs {
    #[arg(long)]
    pub(super) db: PathBuf,
}

/// Answers until standard input ends.
pub(super) fn run(args: &ServerArgs) -> Result<Exit, Problem> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Problem::new(format!("cannot start the server's threads: {error}")))?;
    runtime.block_on(async {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(anywhere, &args.db, ServerOptions::default())
            .await
            .map_err(|error| Problem::new(format!("cannot start the server: {error}")))?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", server.local_addr())
            .and_then(|()| stdout.flush())
            .map_err(|error| Problem::new(format!("the parent does not listen: {error}")))?;
        drop(stdout);
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            drop(std::io::stdin().lock().read_to_end(&mut Vec::new()));
            drop(stop);
        });
        server
            .serve(async {
                drop(stopped.await);
            })
            .await;
        Ok(Exit::Done)
    })
}
