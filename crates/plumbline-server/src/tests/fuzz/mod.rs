//! Bad bodies of every format into the router: each is scored or refused for a reason that is true, and nothing breaks or grows.
//!
//! A short form runs with the other tests. `PLUMBLINE_FUZZ_CASES` sets the bodies of each format, and `a_million_bodies` sends
//! as many as its name says; see `docs/reliability.md`.

#[path = "../../../../../tests/fuzz/edits.rs"]
mod edits;
mod formats;
#[path = "../../../../../tests/fuzz/good.rs"]
mod good;
#[path = "../../../../../tests/fuzz/pointers.rs"]
mod pointers;
mod verdict;

use axum::body::Body;
use axum::http::Request;
use proptest::test_runner::{Config as Cases, TestError, TestRunner};
use tokio::runtime::Runtime;

use self::formats::Format;
use self::verdict::check;
use super::Service;
use super::fake::FakeModel;
use crate::config::Config;

/// A router with small limits, so that bodies can break them, and the runtime that it lives in.
struct Target {
    runtime: Runtime,
    service: Service,
}

impl Target {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = Config {
            version_wait_seconds: 0,
            max_sequences_per_request: 8,
            max_sequence_tokens: 1500,
            max_body_bytes: 1 << 20,
            max_label_sets: 20,
            weights_root: vec![std::env::temp_dir()],
            ..Config::default()
        };
        let service = runtime.block_on(Service::new(config, FakeModel::default().that_never_fails()));
        Self { runtime, service }
    }

    /// Sends this many bodies of a format.
    fn fuzz(&self, format: Format, cases: u32) {
        let config = Cases { cases, failure_persistence: None, ..Cases::default() };
        let result = TestRunner::new(config).run(&format.requests(), |sent| {
            let mut request = Request::post(format.route());
            for (name, value) in &sent.headers {
                request = request.header(*name, value);
            }
            let request = request.body(Body::from(sent.body.0.clone())).unwrap();
            let reply = self.runtime.block_on(self.service.call(request));
            check(format, &sent.body.0, &reply)
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(why, sent)) => panic!("{format:?}: {why}\n{sent:?}"),
            Err(TestError::Abort(why)) => panic!("{format:?}: {why}"),
        }
    }
}

/// Bodies of each format in the short form.
fn cases() -> u32 {
    std::env::var("PLUMBLINE_FUZZ_CASES").map_or(3000, |cases| cases.parse().unwrap())
}

#[test]
fn the_bodies_that_are_changed_are_good() {
    let target = Target::new();
    for format in Format::ALL {
        for sent in format.unchanged() {
            let mut request = Request::post(format.route());
            for (name, value) in &sent.headers {
                request = request.header(*name, value);
            }
            let reply = target.runtime.block_on(target.service.call(request.body(Body::from(sent.body.0)).unwrap()));
            assert_eq!(reply.status.as_u16(), format.status_of_good(), "{format:?}: {}", reply.body);
            assert!(!reply.body.contains("\"problem\""), "a line was refused: {}", reply.body);
        }
    }
}

/// Deeper than any recursion could follow.
#[test]
fn deep_exchanges_are_the_clients_error() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let target = Target::new();
    for field in ["request", "response"] {
        let body = format!(r#"{{"run":"r","engine":"vllm","exchanges":[{{"{field}":{deep}}}]}}"#);
        let reply = target.runtime.block_on(target.service.post_text(body));
        assert_eq!(reply.problem().0, 422);
        assert!(reply.first_error().1.starts_with(&format!("/exchanges/0/{field}")), "{}", reply.body);
    }
}

#[test]
fn native_bodies() {
    Target::new().fuzz(Format::Native, cases());
}

#[test]
fn exchanges() {
    Target::new().fuzz(Format::Exchanges, cases());
}

#[test]
fn streams_in_exchanges() {
    Target::new().fuzz(Format::Streams, cases());
}

#[test]
fn lines() {
    Target::new().fuzz(Format::Lines, cases());
}

#[test]
fn updates_of_weights() {
    Target::new().fuzz(Format::Weights, cases());
}

#[test]
fn headers() {
    Target::new().fuzz(Format::Headers, cases());
}

/// Resident memory of this process.
#[cfg(target_os = "linux")]
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    // In pages, of 4 KiB wherever this is run.
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Memory may grow by so much over the second half of the bodies: what an allocator keeps, far below a byte for each body sent.
#[cfg(target_os = "linux")]
const GROWTH: u64 = 24 << 20;

#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes minutes; docs/reliability.md has the command"]
fn a_million_bodies() {
    let all: u32 = std::env::var("PLUMBLINE_FUZZ_BODIES").map_or(1_000_000, |bodies| bodies.parse().unwrap());
    let half = all.div_ceil(2 * Format::ALL.len() as u32);
    let target = Target::new();
    for format in Format::ALL {
        target.fuzz(format, half);
    }
    let warm = resident_bytes();
    for format in Format::ALL {
        target.fuzz(format, half);
    }
    let grown = resident_bytes().saturating_sub(warm);
    println!(
        "{} bodies; {} MiB resident, {} KiB more than after the first half",
        2 * half * Format::ALL.len() as u32,
        warm >> 20,
        grown >> 10
    );
    assert!(grown < GROWTH, "memory grew by {grown} bytes over {} bodies", half * Format::ALL.len() as u32);
    // The service goes on.
    target.runtime.block_on(async {
        let reply = target.service.post(&good::native()).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    });
}
