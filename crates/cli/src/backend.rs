//! The backend that a command talks to: its address, who asks, and how long a call may take.
//!
//! A token is fetched when it is needed and kept nowhere (G17). Tests: `tests/tokens.rs`, `tests/rubbish_answers.rs`.

use crate::duration;
use crate::problem::Problem;
use landfall_adapters::SyncEndpoint;
use landfall_adapters::http::auth::{HeadersError, HeadersProvider, checked_headers};
use landfall_adapters::http::url::Endpoint;
use landfall_adapters::sync_endpoint::EndpointError;
use landfall_core::config::Config;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a token command may take. Two minutes: it may have to ask a person.
const TOKEN_WITHIN: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes that a token may have: four times what servers take as a header.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Who asks, and how long a call may take.
#[derive(Debug, clap::Args)]
pub(crate) struct CallArgs {
    /// Send the bearer token that is in this environment variable.
    #[arg(long, value_name = "VAR", conflicts_with = "token_command")]
    token_env: Option<String>,
    /// Send the bearer token that this command prints; while syncing it is run again, once, when the backend refuses
    /// the token.
    #[arg(long, value_name = "COMMAND")]
    token_command: Option<String>,
    /// Send a header with every request, such as 'X-Api-Key: …'; may be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// How long one request may take.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    timeout: Duration,
    /// Allow http:// to another machine: everybody on the way can read along.
    #[arg(long)]
    allow_insecure_http: bool,
}

/// How the backend is spoken to.
#[derive(Debug, clap::Args)]
pub(crate) struct BackendArgs {
    #[command(flatten)]
    call: CallArgs,
    /// Most tasks in one request.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: Option<u32>,
    /// Longest wait between two tries.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration::parse)]
    retry_cap: Duration,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write 'Name: value'".into()),
    }
}

impl BackendArgs {
    /// The settings of an engine that speaks to it.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::default();
        if let Some(batch) = self.batch {
            config.push.batch_tasks = usize::try_from(batch).unwrap_or(usize::MAX);
        }
        config.push.call_timeout = self.call.timeout();
        config.pull.call_timeout = config.push.call_timeout;
        config.retry.cap = self.retry_cap.max(Duration::from_millis(1));
        config.retry.base = config.retry.base.min(config.retry.cap);
        config
    }

    /// The way to the sync endpoint at `endpoint`.
    pub(crate) fn adapter(&self, endpoint: &str) -> Result<SyncEndpoint, Problem> {
        let headers = self.call.provider()?;
        let mut builder = SyncEndpoint::builder(endpoint).headers(headers);
        if self.call.allow_insecure_http {
            builder = builder.allow_insecure_http();
        }
        if let Some(batch) = self.batch {
            builder = builder.batch_tasks(usize::try_from(batch).unwrap_or(usize::MAX));
        }
        builder.build().map_err(refused)
    }
}

impl CallArgs {
    /// How long one request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.max(Duration::from_millis(1))
    }

    /// What says who is asking.
    fn provider(&self) -> Result<Headers, Problem> {
        let mut headers = self.headers.clone();
        if let Some(name) = &self.token_env {
            let token =
                std::env::var(name).ok().filter(|token| !token.trim().is_empty()).ok_or_else(|| {
                    Problem::new(format!("the environment variable {name} is not set, or empty"))
                        .hint(format!("set it to the token: export {name}=…"))
                })?;
            headers.push(("authorization".into(), format!("Bearer {}", token.trim())));
        }
        let token = match &self.token_command {
            None => None,
            Some(command) => Some(Token::fetched(command)?),
        };
        let headers = Headers { fixed: headers, token };
        checked_headers(&headers).map_err(|error| {
            Problem::new(error.to_string()).hint("check --header, --token-env and --token-command")
        })?;
        Ok(headers)
    }

    /// The checked address, and the headers of this moment that say who is asking.
    pub(crate) fn endpoint(&self, endpoint: &str) -> Result<(Endpoint, Vec<(String, String)>), Problem> {
        let endpoint = Endpoint::parse(endpoint, self.allow_insecure_http).map_err(refused)?;
        let headers = checked_headers(&self.provider()?).map_err(|error| Problem::new(error.to_string()))?;
        Ok((endpoint, headers))
    }
}

/// Why an address is no endpoint, and what to do.
fn refused(error: EndpointError) -> Problem {
    let problem = Problem::new(error.to_string());
    match error {
        EndpointError::Insecure => {
            problem.hint("use https://, or add --allow-insecure-http on a network you trust")
        }
        EndpointError::Credentials => problem.hint("use --token-env or --header"),
        EndpointError::QueryOrFragment
        | EndpointError::Scheme
        | EndpointError::Host
        | EndpointError::Port
        | EndpointError::Path
        | EndpointError::NoTransport => problem.hint("an endpoint looks like https://api.example.com/sync"),
    }
}

/// What the command line gave, and the token of the moment.
struct Headers {
    fixed: Vec<(String, String)>,
    token: Option<Token>,
}

impl HeadersProvider for Headers {
    fn headers(&self) -> Result<Vec<(String, String)>, HeadersError> {
        let mut headers = self.fixed.clone();
        if let Some(token) = &self.token {
            let token = token.current.lock().unwrap_or_else(PoisonError::into_inner);
            headers.push(("authorization".into(), format!("Bearer {token}")));
        }
        Ok(headers)
    }

    /// Another token is worth a try; the same one is not.
    fn refresh(&self) -> bool {
        let Some(token) = &self.token else { return false };
        // Why it failed is on standard error, where the command itself wrote it.
        let Ok(fresh) = fetch(&token.command) else { return false };
        let mut current = token.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *current != fresh;
        *current = fresh;
        is_new
    }
}

/// A token and the command that prints the next one.
struct Token {
    command: String,
    current: Mutex<String>,
}

impl Token {
    fn fetched(command: &str) -> Result<Self, Problem> {
        Ok(Self { command: command.to_owned(), current: Mutex::new(fetch(command)?) })
    }
}

/// Runs the command and reads the token: its first line.
fn fetch(command: &str) -> Result<String, Problem> {
    let failed = |what: String| {
        Problem::new(format!("the token command {what}"))
            .hint("--token-command takes a shell command that prints the token, and nothing else")
    };
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut child = Command::new(shell)
        .args([flag, command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    let stdout = child.stdout.take();
    let reading = thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|stdout| stdout.take(TOKEN_BYTES_MAX).read_to_string(&mut text));
        read.and_then(Result::ok).map(|_| text)
    });
    let until = Instant::now() + TOKEN_WITHIN;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => thread::sleep(LOOK),
            Ok(None) => {
                drop(child.kill());
                drop(child.wait());
                return Err(failed(format!("took longer than {} s", TOKEN_WITHIN.as_secs())));
            }
            Err(error) => return Err(failed(format!("cannot be waited for: {error}"))),
        }
    };
    if !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    let text = reading.join().ok().flatten().unwrap_or_default();
    match text.trim() {
        "" => Err(failed("printed nothing".into())),
        token if token.contains(char::is_whitespace) => Err(failed("printed more than a token".into())),
        token => Ok(token.to_owned()),
    }
}
