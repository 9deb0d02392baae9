//! The HTTP face: who is let in, what is too much, what form an error has, and who sees whose records.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use landfall_protocol::ping_proof;
use landfall_server::{Auth, Limits, RateLimit, Server, ServerError, ServerHandle, ServerOptions};
use serde_json::{Value, json};
use support::{Answer, Folder, call, first_push, post, post_as, task};

const ANNA: &str = "token-of-anna-0123456789";
const BERT: &str = "token-of-bert-0123456789";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A server with these options while `test` runs.
fn with_server(options: ServerOptions, test: impl FnOnce(SocketAddr)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = Folder::new();
    let server: ServerHandle = runtime.block_on(async {
        Server::bind(([127, 0, 0, 1], 0).into(), folder.database(), options).await.unwrap().spawn()
    });
    let addr = server.local_addr();
    assert_eq!(server.endpoint(), format!("http://{addr}/sync"));
    test(addr);
    runtime.block_on(server.stop());
}

fn two_tenants() -> ServerOptions {
    let auth = Auth::from_text(&format!("{ANNA} anna\n{BERT} bert\n")).unwrap();
    ServerOptions { auth, ..ServerOptions::default() }
}

fn get(addr: SocketAddr, path: &str) -> Answer {
    call(addr, "GET", path, &[], b"")
}

fn get_as(addr: SocketAddr, token: &str, path: &str) -> Answer {
    call(addr, "GET", path, &[("Authorization", &format!("Bearer {token}"))], b"")
}

#[test]
fn nobody_comes_in_without_a_token() {
    with_server(two_tenants(), |addr| {
        let body = first_push(&[task("k", "create", json!({}))]);
        for answer in [
            post(addr, &body),
            post_as(addr, Some("token-of-nobody-012345"), &body),
            get(addr, "/sync/changes"),
            get_as(addr, "x", "/sync/entities/note/n"),
            // Not even the body's form is judged for a stranger.
            call(addr, "POST", "/sync", &[], b"not json"),
        ] {
            assert_eq!(answer.status, 401);
            assert_eq!(answer.problem().code, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        assert_eq!(
            get(addr, "/health").json(),
            json!({"status": "ok"}),
            "health needs no token and tells nothing"
        );
        assert_eq!(post_as(addr, Some(ANNA), &body).json()["results"][0]["status"], "applied");
    });
}

#[test]
fn a_ping_is_answered_to_anybody_and_says_nothing_else() {
    let limits = Limits { rate: Some(RateLimit { per_second: 0.01, burst: 1.0 }), ..Limits::default() };
    with_server(ServerOptions { limits, ..two_tenants() }, |addr| {
        let nonce = "0123456789abcdef0123456789abcdef";
        for _ in 0..5 {
            let answer = get(addr, &format!("/sync/ping?nonce={nonce}"));
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.json(), json!({"protocol": 1, "proof": ping_proof(nonce)}));
        }
        assert_eq!(get_as(addr, ANNA, "/sync/changes").status, 200, "pings take nothing of a tenant's rate");
    });
}

#[test]
fn what_is_not_one_whole_nonce_is_refused() {
    with_server(ServerOptions::default(), |addr| {
        let nonce = "0123456789abcdef0123456789abcdef";
        let long = "0".repeat(5000);
        for query in [
            "".to_owned(),
            "?".to_owned(),
            "?nonce".to_owned(),
            "?nonce=".to_owned(),
            format!("?Nonce={nonce}"),
            format!("?nonce={}", &nonce[1..]),
            format!("?nonce={nonce}0"),
            format!("?nonce={}", nonce.to_uppercase()),
            format!("?nonce=%20{}", &nonce[1..]),
            format!("?nonce={}%00", &nonce[1..]),
            format!("?nonce={}g", &nonce[1..]),
            format!("?nonce={nonce}&nonce={nonce}"),
            format!("?nonce={long}"),
            "?nonce=%ff".to_owned(),
        ] {
            let answer = get(addr, &format!("/sync/ping{query}"));
            assert_eq!((answer.status, answer.problem().code.as_str()), (400, "malformed"), "{query}");
            assert!(
                !answer.body.contains("0123"),
                "a refusal does not repeat what was asked: {}",
                answer.body
            );
        }
        assert_eq!(get(addr, &format!("/sync/ping?later=1&nonce={nonce}")).status, 200);
    });
}

#[test]
fn a_tenant_never_sees_nor_disturbs_another() {
    with_server(two_tenants(), |addr| {
        let of = |who: &str| first_push(&[task("same-key", "create", json!({"fields": {"owner": who}}))]);
        let first = post_as(addr, Some(ANNA), &of("anna")).json();
        assert_eq!(
            post_as(addr, Some(BERT), &of("bert")).json()["results"][0],
            first["results"][0],
            "as if alone"
        );
        for (token, who) in [(ANNA, "anna"), (BERT, "bert")] {
            assert_eq!(get_as(addr, token, "/sync/entities/note/n").json()["fields"]["owner"], who);
            let page = get_as(addr, token, "/sync/changes").json();
            assert_eq!(page["changes"].as_array().unwrap().len(), 1);
            assert_eq!(page["changes"][0]["fields"]["owner"], who);
        }
        post_as(addr, Some(ANNA), &first_push(&[task("k2", "create", json!({"entity_id": "secret"}))]));
        assert_eq!(get_as(addr, BERT, "/sync/entities/note/secret").status, 404);
        let cursor = get_as(addr, ANNA, "/sync/changes").json()["cursor"].as_str().unwrap().to_owned();
        let foreign = get_as(addr, BERT, &format!("/sync/changes?cursor={cursor}"));
        assert_eq!(foreign.problem().code, "cursor_expired", "a cursor is of one tenant's feed");
    });
}

/// What one tenant may ask, drawn by a seed. `cursor` is the last one it was given.
fn asked(dice: &mut impl FnMut(u64) -> u64, cursor: &str) -> (&'static str, String, String) {
    let record = format!("e{}", dice(6));
    if dice(10) < 6 {
        let tasks: Vec<Value> = (0..1 + dice(3))
            .map(|_| {
                let operation =
                    ["create", "update", "upsert", "replace", "delete", "action"][dice(6) as usize];
                let mut more = json!({"entity_id": format!("e{}", dice(6)), "fields": {"n": dice(100)}});
                match dice(4) {
                    0 => more["base_version"] = json!(dice(20).to_string()),
                    1 => more["group"] = json!("g"),
                    _ => {}
                }
                if operation == "delete" {
                    more.as_object_mut().unwrap().remove("fields");
                }
                // Few enough keys that some come again, with the same content or with another.
                task(&format!("key-{}", dice(60)), operation, more)
            })
            .collect();
        return ("POST", "/sync".into(), first_push(&tasks).to_string());
    }
    let path = match dice(5) {
        0 => format!("/sync/entities/note/{record}"),
        1 => "/sync/entities/note/nowhere".into(),
        2 => format!("/sync/changes?limit={}", 1 + dice(4)),
        3 => format!("/sync/changes?cursor={cursor}&limit={}", 1 + dice(4)),
        _ => return ("POST", "/sync".into(), "{\"protocol\":1,".into()),
    };
    ("GET", path, String::new())
}

/// Two copies of one database: in one, another tenant is busy with the same client, keys and records. What the first
/// tenant is answered is the same to the byte.
#[test]
fn what_a_tenant_is_answered_does_not_depend_on_another() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for seed in 0..8_u64 {
        let (alone, shared) = (Folder::new(), Folder::new());
        let bind = |folder: &Folder| {
            let (at, options) = (([127, 0, 0, 1], 0).into(), two_tenants());
            runtime.block_on(async { Server::bind(at, folder.database(), options).await.unwrap().spawn() })
        };
        // The name of a database is in its answers and cursors.
        runtime.block_on(bind(&alone).stop());
        for file in std::fs::read_dir(alone.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), shared.path().join(file.file_name())).unwrap();
        }
        let servers = [bind(&alone), bind(&shared)];
        let mut state = seed;
        let mut dice = move |end: u64| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z ^ (z >> 27)) % end
        };
        let say = |server: &ServerHandle, token: &str, (method, path, body): &(&str, String, String)| {
            let bearer = format!("Bearer {token}");
            call(server.local_addr(), method, path, &[JSON, ("Authorization", &bearer)], body.as_bytes())
        };
        let mut cursor = String::new();
        let mut statuses = std::collections::BTreeSet::new();
        for step in 0..120 {
            for _ in 0..dice(3) {
                let other = asked(&mut dice, &cursor);
                say(&servers[1], ANNA, &other);
            }
            let request = asked(&mut dice, &cursor);
            let [one, two] = [0, 1].map(|at| say(&servers[at], BERT, &request));
            assert_eq!(
                (one.status, &one.body),
                (two.status, &two.body),
                "seed {seed}, step {step}: {request:?}"
            );
            statuses.insert(one.status);
            if let Some(next) = one.status.eq(&200).then(|| one.json()["cursor"].as_str().map(str::to_owned))
            {
                cursor = next.unwrap_or(cursor);
            }
        }
        assert!(statuses.len() >= 3, "seed {seed}: {statuses:?}");
        servers.into_iter().for_each(|server| runtime.block_on(server.stop()));
    }
}

#[test]
fn every_error_is_a_problem_document() {
    with_server(ServerOptions::default(), |addr| {
        let ok = first_push(&[]).to_string();
        let ok = ok.as_bytes();
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);
        let cases: &[Case<'_>] = &[
            ("GET", "/nowhere", &[], b"", 404, "not_found"),
            ("GET", "/sync/entities/note", &[], b"", 404, "not_found"),
            ("GET", "/sync/entities/note/none", &[], b"", 404, "not_found"),
            ("GET", "/sync/entities/note/%ff", &[], b"", 400, "malformed"),
            ("GET", "/sync", &[], b"", 405, "method_not_allowed"),
            ("DELETE", "/sync/changes", &[], b"", 405, "method_not_allowed"),
            ("GET", "/sync/changes?limit=-1", &[], b"", 400, "malformed"),
            ("GET", "/sync/changes?cursor=zzz", &[], b"", 410, "cursor_expired"),
            ("POST", "/sync", &[], ok, 415, "unsupported_media"),
            ("POST", "/sync", &[("Content-Type", "text/json")], ok, 415, "unsupported_media"),
            ("POST", "/sync", &[JSON, ("Content-Encoding", "zstd")], ok, 415, "unsupported_media"),
            ("POST", "/sync", &[JSON, ("Content-Encoding", "gzip")], ok, 400, "malformed"),
            ("POST", "/sync", &[JSON], b"", 400, "malformed"),
            ("POST", "/sync", &[JSON], b"{", 400, "malformed"),
            ("POST", "/sync", &[JSON], b"\xff\xfe", 400, "malformed"),
            ("POST", "/sync", &[JSON], br#"{"protocol":7}"#, 400, "unsupported_protocol"),
        ];
        for (method, path, headers, body, status, code) in cases {
            let answer = call(addr, method, path, headers, body);
            let problem = answer.problem();
            assert_eq!((problem.status, problem.code.as_str()), (*status, *code), "{method} {path}");
            assert_eq!(problem.kind, format!("urn:landfall:problem:{code}"));
            if *status == 405 {
                assert!(answer.header("allow").is_some());
            }
        }
        let fine = call(addr, "POST", "/sync", &[("Content-Type", "Application/JSON; charset=utf-8")], ok);
        assert_eq!(fine.status, 200);
    });
}

#[test]
fn what_is_too_much_is_refused_and_the_server_goes_on() {
    let limits =
        Limits { body_bytes: 2000, decoded_bytes: 4000, tasks: 3, json_depth: 8, ..Limits::default() };
    with_server(ServerOptions { limits, ..ServerOptions::default() }, |addr| {
        let long = first_push(&[task("k", "create", json!({"fields": {"a": "x".repeat(3000)}}))]).to_string();
        assert_eq!(call(addr, "POST", "/sync", &[JSON], long.as_bytes()).problem().code, "too_large");
        let chunked = call_chunked(addr, &long);
        assert!(chunked.contains(" 413 ") && chunked.contains("too_large"), "{chunked}");
        let many: Vec<Value> = (0..4).map(|n| task(&format!("k{n}"), "create", json!({}))).collect();
        assert_eq!(post(addr, &first_push(&many)).problem().status, 413);
        let gzip = [JSON, ("Content-Encoding", "gzip")];
        assert_eq!(
            call(addr, "POST", "/sync", &gzip, &squeezed(&[b' '; 1 << 20])).problem().code,
            "too_large",
            "bomb"
        );
        assert_eq!(
            call(addr, "POST", "/sync", &gzip, &squeezed(long.as_bytes())).status,
            200,
            "in both limits"
        );
        let cut = squeezed(long.as_bytes());
        assert_eq!(call(addr, "POST", "/sync", &gzip, &cut[..cut.len() - 9]).problem().code, "malformed");
        let mut deep = json!(1);
        for _ in 0..20 {
            deep = json!([deep]);
        }
        let answer = post(
            addr,
            &first_push(&[
                task("d", "create", json!({"fields": {"a": deep}})),
                task("e", "create", json!({"entity_id": "e"})),
            ]),
        );
        assert_eq!(answer.json()["results"][0]["error"]["code"], "malformed");
        assert_eq!(answer.json()["results"][1]["status"], "applied");
        let bottomless = format!("{}{}", "[".repeat(900), "]".repeat(900));
        let body = first_push(&[])
            .to_string()
            .replace("[]", &format!("[{{\"key\":\"x\",\"fields\":{bottomless}}}]"));
        assert_eq!(
            call(addr, "POST", "/sync", &[JSON], body.as_bytes()).json()["results"][0]["status"],
            "rejected"
        );
    });
}

fn squeezed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn call_chunked(addr: SocketAddr, body: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    let head = "POST /sync HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for chunk in body.as_bytes().chunks(500) {
        let _ = stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes());
        let _ = stream.write_all(chunk);
        let _ = stream.write_all(b"\r\n");
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn the_feed_over_http_is_paged_and_capped() {
    let limits = Limits { page_default: 2, page_max: 3, ..Limits::default() };
    with_server(ServerOptions { limits, ..ServerOptions::default() }, |addr| {
        let many: Vec<Value> =
            (0..7).map(|n| task(&format!("k{n}"), "create", json!({"entity_id": format!("n{n}")}))).collect();
        post(addr, &first_push(&many));
        let sizes = |query: &str| {
            let mut sizes = Vec::new();
            let mut cursor = String::new();
            loop {
                let page = get(addr, &format!("/sync/changes?cursor={cursor}{query}")).json();
                sizes.push(page["changes"].as_array().unwrap().len());
                cursor = page["cursor"].as_str().unwrap().to_owned();
                if page["has_more"] == json!(false) {
                    return sizes;
                }
            }
        };
        assert_eq!(sizes(""), [2, 2, 2, 1]);
        assert_eq!(sizes("&limit=1000000"), [3, 3, 1]);
        assert_eq!(sizes("&limit=0"), [1; 7]);
    });
}

#[test]
fn a_tenant_over_its_rate_waits_and_the_others_do_not() {
    let limits = Limits { rate: Some(RateLimit { per_second: 0.01, burst: 2.0 }), ..Limits::default() };
    with_server(ServerOptions { limits, ..two_tenants() }, |addr| {
        for _ in 0..2 {
            assert_eq!(get_as(addr, ANNA, "/sync/changes").status, 200);
        }
        let answer = get_as(addr, ANNA, "/sync/changes");
        assert_eq!(answer.problem().code, "rate_limited");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((90..=100).contains(&wait), "{wait}");
        assert_eq!(get_as(addr, BERT, "/sync/changes").status, 200);
    });
}

#[test]
fn ids_arrive_through_the_path_as_they_are() {
    with_server(ServerOptions::default(), |addr| {
        for (at, (id, encoded)) in [
            ("a/b", "a%2Fb"),
            ("a b+c", "a%20b+c"),
            ("100%", "100%25"),
            ("?x=1#y", "%3Fx=1%23y"),
            ("é\u{301}🙂", "%C3%A9%CC%81%F0%9F%99%82"),
            ("..", "%2E%2E"),
            ("a\r\nb", "a%0D%0Ab"),
        ]
        .into_iter()
        .enumerate()
        {
            post(addr, &first_push(&[task(&format!("k{at}"), "create", json!({"entity_id": id}))]));
            assert_eq!(get(addr, &format!("/sync/entities/note/{encoded}")).json()["entity_id"], id);
        }
    });
}

#[test]
fn sixty_four_posts_of_one_key_at_once_have_one_effect() {
    with_server(ServerOptions::default(), |addr| {
        let body = first_push(&[task("k", "upsert", json!({"fields": {"n": 1}}))]);
        let threads: Vec<_> = (0..64)
            .map(|_| {
                let body = body.clone();
                std::thread::spawn(move || post(addr, &body).json()["results"][0].clone())
            })
            .collect();
        let results: Vec<Value> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(results.iter().filter(|result| result["status"] == "applied").count(), 1);
        assert!(results.iter().all(|result| result["version"] == "1"), "{results:?}");
        let feed = get(addr, "/sync/changes").json();
        assert_eq!(feed["changes"].as_array().unwrap().len(), 1, "{feed}");
        assert_eq!(feed["changes"][0]["version"], "1", "{feed}");
    });
}

/// Eight writers at once, and readers that follow the feed meanwhile: no change may appear behind a cursor that was
/// already given out, or its reader would never see it.
#[test]
fn a_change_that_commits_late_is_never_behind_a_cursor() {
    const WRITERS: usize = 8;
    const WRITES: usize = 60;
    with_server(ServerOptions::default(), |addr| {
        let write = move |writer: usize| {
            for round in 0..WRITES {
                // Some records are new, some are written again and again, so that they move in the feed.
                let id = if round % 3 == 0 { "all".to_owned() } else { format!("{writer}-{}", round / 2) };
                let more = json!({"entity_id": id, "fields": {"by": writer, "round": round}});
                let body = first_push(&[task(&format!("{writer}-{round}"), "upsert", more)]);
                assert_eq!(post(addr, &body).json()["results"][0]["status"], "applied");
            }
        };
        let follow = move |done: &std::sync::atomic::AtomicBool| {
            let mut seen = std::collections::BTreeMap::new();
            let mut cursor = String::new();
            let mut pages = 0;
            loop {
                let last = done.load(std::sync::atomic::Ordering::SeqCst);
                let page = get(addr, &format!("/sync/changes?limit=7&cursor={cursor}")).json();
                for change in page["changes"].as_array().unwrap() {
                    let version: u64 = change["version"].as_str().unwrap().parse().unwrap();
                    seen.insert(change["entity_id"].as_str().unwrap().to_owned(), version);
                }
                cursor = page["cursor"].as_str().unwrap().to_owned();
                pages += 1;
                if last && page["has_more"] == false {
                    return (seen, pages);
                }
            }
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| follow(&done))).collect();
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            // Whoever begins only now sees the truth.
            let (truth, _) = follow(&done);
            assert_eq!(truth.len(), 1 + WRITERS * (WRITES / 2));
            for reader in readers {
                let (seen, pages) = reader.join().unwrap();
                assert!(pages > 10, "the reader read while others wrote");
                assert_eq!(seen, truth, "a change was skipped");
            }
        });
    });
}

#[test]
fn a_slow_head_and_a_slow_body_are_cut_off() {
    let limits = Limits {
        head_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    with_server(ServerOptions { limits, ..ServerOptions::default() }, |addr| {
        let begun = Instant::now();
        for start in [
            "POST /sync HTTP/1.1\r\nHost: x\r\n",
            "POST /sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
        ] {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(start.as_bytes()).unwrap();
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            assert!(text.is_empty() || text.contains(" 408 "), "{text}");
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
    });
}

#[tokio::test]
async fn a_server_without_tokens_stays_on_this_machine() {
    let folder = Folder::new();
    let everywhere: SocketAddr = ([0, 0, 0, 0], 0).into();
    let refused = Server::bind(everywhere, folder.database(), ServerOptions::default()).await;
    assert!(matches!(refused, Err(ServerError::OpenToNetwork(_))));
    assert!(!folder.database().exists(), "refused before anything is made");
    assert!(Server::bind(everywhere, folder.database(), two_tenants()).await.is_ok());
    let told = ServerOptions { dangerously_open_to_network: true, ..ServerOptions::default() };
    assert!(Server::bind(everywhere, folder.database(), told).await.is_ok());
}

#[tokio::test]
async fn stopping_finishes_what_was_begun_and_frees_the_port() {
    let folder = Folder::new();
    let options = ServerOptions { mount: "api/v1/sync/".into(), ..ServerOptions::default() };
    let server =
        Server::bind(([127, 0, 0, 1], 0).into(), folder.database(), options.clone()).await.unwrap().spawn();
    let addr = server.local_addr();
    assert!(server.endpoint().ends_with("/api/v1/sync"));
    let call_it = move || {
        let body = first_push(&[task("k", "upsert", json!({}))]).to_string();
        call(addr, "POST", "/api/v1/sync", &[JSON], body.as_bytes()).json()["results"][0]["status"].clone()
    };
    assert_eq!(tokio::task::spawn_blocking(call_it).await.unwrap(), "applied");
    server.stop().await;
    assert!(TcpStream::connect(addr).is_err());
    let server = Server::bind(addr, folder.database(), options).await.unwrap().spawn();
    assert_eq!(tokio::task::spawn_blocking(call_it).await.unwrap(), "duplicate");
    server.stop().await;
}

#[test]
fn the_contract_names_every_route_and_code() {
    let contract = include_str!("../../../docs/openapi.yaml");
    for route in
        ["/sync:", "/sync/changes:", "/sync/entities/{entity_type}/{entity_id}:", "/sync/ping:", "/health:"]
    {
        assert!(contract.contains(&format!("\n  {route}\n")), "{route}");
    }
    let codes = include_str!("../../protocol/src/problem.rs")
        .lines()
        .filter_map(|line| line.split_once(": &str = \""));
    let codes: Vec<_> =
        codes.map(|(_, code)| code.trim_end_matches("\";")).filter(|code| !code.contains('/')).collect();
    assert!(codes.len() >= 14, "{codes:?}");
    for code in codes {
        assert!(contract.contains(&format!("\n            - {code}\n")), "{code}");
    }
}
