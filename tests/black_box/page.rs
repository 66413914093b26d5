//! The live page without a browser: its files and their headers, live updates, and what it asks for. `tests/page/check.sh` looks at it.

use std::time::Instant;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use reqwest::header::{ACCEPT_ENCODING, IF_NONE_MATCH};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, recording, series};

async fn get(server: &Server, path: &str) -> Response {
    server.client.get(server.at(path)).send().await.unwrap()
}

async fn get_json(server: &Server, path: &str) -> Value {
    get(server, path).await.error_for_status().unwrap().json().await.unwrap()
}

/// A run's name in a path.
fn encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn the_page_may_load_its_own_files_and_nothing_else() {
    let server = Server::start(&[]).await;
    let page = get(&server, "/").await;
    assert_eq!(page.status(), StatusCode::OK);
    let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    let policy = header("content-security-policy");
    let directives: Vec<_> = policy.split(';').map(str::trim).collect();
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(directives.contains(&directive), "{directive}: {policy}");
    }
    assert!(!policy.contains("unsafe-eval") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    assert_eq!(
        [
            header("x-frame-options"),
            header("referrer-policy"),
            header("x-content-type-options"),
            header("cache-control")
        ],
        ["DENY", "no-referrer", "nosniff", "no-cache"]
    );
    let text = page.text().await.unwrap();
    let files: Vec<_> = text.split("\"/assets/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(files.len() > 15, "{files:?}");
    for file in files.into_iter().chain(["shared/plotly.js"]) {
        let path = format!("/assets/{file}");
        let plain = get(&server, &path).await;
        assert_eq!(plain.status(), StatusCode::OK, "{path}");
        let kind = plain.headers()["content-type"].to_str().unwrap().to_owned();
        let expected = match file.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(kind, expected, "{path}");
        let tag = plain.headers()["etag"].clone();
        assert_eq!(plain.headers()["vary"], "accept-encoding");
        let bytes = plain.bytes().await.unwrap();

        let packed = server.client.get(server.at(&path)).header(ACCEPT_ENCODING, "br, gzip").send().await.unwrap();
        assert_eq!(packed.headers()["content-encoding"], "gzip", "{path}");
        assert_ne!(packed.headers()["etag"], tag, "another representation has another tag");
        let packed_tag = packed.headers()["etag"].clone();
        let packed = packed.bytes().await.unwrap();
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, bytes, "{path}");

        for (encoding, tag) in [("identity", tag), ("gzip", packed_tag)] {
            let again =
                server.client.get(server.at(&path)).header(ACCEPT_ENCODING, encoding).header(IF_NONE_MATCH, tag);
            let again = again.send().await.unwrap();
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path} {encoding}");
            assert!(again.bytes().await.unwrap().is_empty());
        }
    }
    for nothing in ["/assets/nothing.js", "/assets/../Cargo.toml", "/assets/page/"] {
        assert_eq!(get(&server, nothing).await.status(), StatusCode::NOT_FOUND, "{nothing}");
    }
    assert_eq!(server.client.head(server.at("/")).send().await.unwrap().status(), StatusCode::OK);
}

/// Events of a stream, one by one.
struct Events {
    response: Response,
    rest: String,
}

impl Events {
    async fn open(server: &Server) -> Self {
        let response = get(server, "/v1/events").await;
        assert_eq!(response.status(), StatusCode::OK);
        Self { response, rest: String::new() }
    }

    /// Name and data of the next event; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        let read = async {
            loop {
                if let Some((event, rest)) = self.rest.clone().split_once("\n\n") {
                    self.rest = rest.to_owned();
                    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                    if let Some(name) = field("event: ") {
                        return Some((name, serde_json::from_str(&field("data: ").unwrap()).unwrap()));
                    }
                    assert!(event.starts_with(':'), "{event}");
                    continue;
                }
                let piece = self.response.chunk().await.unwrap()?;
                self.rest.push_str(std::str::from_utf8(&piece).unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("no event came")
    }
}

#[tokio::test]
async fn changes_are_told_together_and_not_more_than_once_a_second() {
    let server = Server::start(&[]).await;
    let mut events = Events::open(&server).await;
    let headers = events.response.headers().clone();
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(
        (&headers["cache-control"], &headers["x-accel-buffering"]),
        (&"no-store, no-transform".parse().unwrap(), &"no".parse().unwrap())
    );
    let began = Instant::now();
    let (name, first) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &first["runs"], &first["more"]), ("update", &json!([]), &json!(false)));
    let status = &first["server"];
    assert_eq!(
        (&status["status"], &status["store"], &status["detail"]),
        (&json!("ready"), &json!("none"), &Value::Null)
    );
    assert!(
        status["model"].is_string() && status["policy_version"].is_string() && status["queue_tokens"].is_u64(),
        "{status}"
    );

    // Sequences come much faster than events; every run is named all the same, and the odd names as they are.
    let names = ["a/b", "<script>alert(1)</script>", "r\u{fc}n \u{1f680}"];
    let lines = recording("tiny-f32-raw");
    for (index, line) in lines.iter().enumerate() {
        server.verify(names[index % 3], std::slice::from_ref(line)).await;
    }
    server.verify("last", &lines[..1]).await;
    let (mut told, mut updates) = (Vec::new(), 1);
    while !told.contains(&json!("last")) {
        let (name, update) = events.next().await.unwrap();
        assert_eq!(name, "update");
        updates += 1;
        told.extend(update["runs"].as_array().unwrap().iter().cloned());
    }
    for name in names {
        assert!(told.contains(&json!(name)), "{name}: {told:?}");
    }
    assert!(updates <= began.elapsed().as_secs() + 2, "{updates} events in {:?}", began.elapsed());
    assert_eq!(series(&server.metrics().await, "plumbline_event_streams", &[]), 1.0);
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_server() {
    let server = Server::start(&["--max-event-streams", "2"]).await;
    let mut held = vec![Events::open(&server).await, Events::open(&server).await];
    let refused = get(&server, "/v1/events").await;
    assert_eq!(
        (refused.status(), refused.headers()["retry-after"].to_str().unwrap()),
        (StatusCode::TOO_MANY_REQUESTS, "30")
    );
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "too_many_event_streams");
    let metrics = server.metrics().await;
    assert_eq!(series(&metrics, "plumbline_event_streams", &[]), 2.0);
    assert!(series(&metrics, "plumbline_connections", &[]) >= 2.0, "a stream is a connection");
    held.pop();
    let free = async {
        while get(&server, "/v1/events").await.status() != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.expect("a stream that was left is not free");
    let mut stays = held.pop().unwrap();
    assert_eq!(stays.next().await.unwrap().1["server"]["status"], "ready");
    server.signal("TERM");
    let mut last = Vec::new();
    while let Some(event) = stays.next().await {
        last.push(event);
    }
    let (name, data) = last.pop().unwrap();
    assert_eq!((name.as_str(), data), ("end", json!({"reason": "draining"})));
    assert!(last.iter().any(|(_, update)| update["server"]["status"] == "draining"), "{last:?}");
    assert_eq!(server.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn the_page_finds_what_it_shows() {
    let folder = std::env::temp_dir().join(format!("plumbline-page-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let server = Server::start(&["--data-dir", folder.to_str().unwrap()]).await;
    let name = "../<script>/\u{fc}";
    let stale = recording("tiny-bf16-stale");
    let body = json!({"run": name, "engine": "vllm", "sequences": stale, "include": ["diagnosis"]});
    let (status, answer) = server.post(&body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let run = format!("/v1/runs/{}", encoded(name));

    let list = get_json(&server, "/v1/runs").await;
    let engine = &list["runs"][0]["engines"][0];
    assert_eq!((&list["runs"][0]["run"], &engine["since_start"]["verdict"]), (&json!(name), &engine["verdict"]));
    let trend = &engine["trend"];
    let lengths = ["from", "mae_logprob", "noise_floor_multiple"].map(|key| trend[key].as_array().unwrap().len());
    assert!(lengths[0] >= 1 && lengths.iter().all(|length| *length == lengths[0]), "{trend}");
    let shown = get_json(&server, &run).await;
    assert_eq!(shown["verdict_levels"]["floor_suspect"], 2.5);
    assert_eq!(shown["engines"][0]["totals"]["verdict"], engine["verdict"]);

    // What was asked for is remembered with the sequence that it is about.
    let sequences = get_json(&server, &format!("{run}/sequences?limit=256")).await;
    let sequences = sequences["sequences"].as_array().unwrap();
    assert_eq!(sequences.len(), stale.len());
    let mut diagnosed = 0;
    for sequence in sequences {
        let answered =
            answer["sequences"].as_array().unwrap().iter().find(|one| one["id"] == sequence["sequence_id"]).unwrap();
        let alone = get_json(&server, &format!("/v1/sequences/{}", sequence["id"].as_str().unwrap())).await;
        if answered["verdict"] == "consistent" {
            assert_eq!((&alone["diagnosis"], &sequence["cause"]), (&Value::Null, &Value::Null));
            continue;
        }
        assert_eq!((&alone["diagnosis"], &alone["cause"]), (&answered["diagnosis"], &sequence["cause"]));
        assert_eq!(sequence["cause"], answered["diagnosis"][0]["cause"]);
        diagnosed += usize::from(sequence["cause"].is_string());
    }
    assert!(diagnosed > 10, "{diagnosed}");

    let views = get_json(&server, &format!("{run}/views")).await;
    let own = &views["engines"][0];
    assert!(own["views"]["log_ratios"]["density"].as_array().unwrap().len() > 50 && views["glossary"].is_array());
    assert!(own["worst"].get("tokens").is_none() && own["sequences"].get("rows").is_none());
    let typical = own["typical"]["sequence"]["stored_id"].as_str().unwrap();
    assert_eq!(
        get_json(&server, &format!("/v1/sequences/{typical}")).await["sequence_id"],
        own["typical"]["sequence"]["id"]
    );

    let table = get(&server, &format!("{run}/tokens.parquet")).await;
    assert_eq!(table.headers()["content-type"], "application/vnd.apache.parquet");
    let reader = SerializedFileReader::new(table.bytes().await.unwrap()).unwrap();
    let tokens: usize = stale.iter().map(|one| one["logprobs"].as_array().unwrap().len()).sum();
    assert_eq!(reader.metadata().file_metadata().num_rows() as usize, tokens);
    let row = reader.get_row_iter(None).unwrap().next().unwrap().unwrap();
    assert_eq!((row.get_string(0).unwrap().as_str(), row.get_string(17).unwrap().as_str()), ("vllm", name));
    for nothing in ["/v1/runs/nobody/views", "/v1/runs/nobody/tokens.parquet"] {
        assert_eq!(get(&server, nothing).await.status(), StatusCode::NOT_FOUND, "{nothing}");
    }
    drop(server);
    std::fs::remove_dir_all(&folder).unwrap();
}
