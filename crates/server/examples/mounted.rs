//! The sync endpoint inside an app's own axum server, with the app's own rules.
//!
//! `cargo run -p landfall-server --example mounted`, then
//! `landfall sync --endpoint http://127.0.0.1:8788/api/sync`.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use landfall_protocol::{ErrorDetail, Fields, Task};
use landfall_server::{Auth, Config, Policy, SqliteOptions, SqliteStore, router};

/// Notes need a title; everything else may be as it likes.
#[derive(Debug)]
struct NotesHaveTitles;

impl Policy for NotesHaveTitles {
    fn check(&self, _tenant: &str, task: &Task, current: Option<&Fields>) -> Result<(), ErrorDetail> {
        let is_new = current.is_none() && task.operation.as_str() != "delete";
        if task.entity_type == "note" && is_new && !task.fields.contains("title") {
            return Err(ErrorDetail::new("title_missing", "a note needs a title"));
        }
        Ok(())
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = SqliteStore::open("mounted.db", SqliteOptions { policy: Arc::new(NotesHaveTitles) })?;
    let sync = router(Config {
        mount: "/api/sync".to_owned(),
        // One line per caller: `token tenant`.
        auth: std::env::var("TOKENS").map_or_else(|_| Ok(Auth::open()), Auth::from_file)?,
        ..Config::new(store)
    });
    let app = Router::new().route("/", get(|| async { "my app" })).merge(sync);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8788").await?;
    axum::serve(listener, app).await?;
    Ok(())
}
