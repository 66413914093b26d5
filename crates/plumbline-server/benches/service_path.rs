//! What the service itself costs: HTTP, parsing, validation, admission, comparison, counters and the answer, with a reference
//! that answers at once. Prints tokens per second of CPU time, which is what one core sustains.
//!
//!     cargo bench --workspace --bench service_path
//!
//! The clients are a process of their own, so that their work is not counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark that fails should stop")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use plumbline_core::{
    BatchScores, ModelError, ModelLimits, PackedBatch, ReferenceInfo, ReferenceModel, ScoreTiming, TokenScores,
};
use plumbline_server::{Config, ReferenceSource, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The workload: RL groups, as workers post them.
const PROMPT: usize = 512;
const COMPLETION: usize = 128;
const GROUP: usize = 8;
const CLIENTS: usize = 4;
const SECONDS: u64 = 5;
/// Stands for the number of the post, and is as long.
const POST: &str = "########";
/// Clock ticks of `/proc/self/stat`: fixed at 100 in what Linux tells user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Answers without computing.
struct Null {
    info: ReferenceInfo,
}

impl ReferenceModel for Null {
    fn info(&self) -> &ReferenceInfo {
        &self.info
    }

    fn shares_prefixes(&self) -> bool {
        true
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        let scores = |tokens: usize| TokenScores {
            logprobs: vec![-1.01; tokens],
            logprobs_in_mode: vec![-1.01; tokens],
            entropy: vec![0.7; tokens],
            rank: vec![0; tokens],
            eos_probability: vec![0.01; tokens],
        };
        let sequences = batch.sequence_targets().iter().map(|range| scores(range.len())).collect();
        Ok(BatchScores { sequences, timing: ScoreTiming::default() })
    }
}

fn null() -> Null {
    let limits = ModelLimits { vocab_size: 151_936, max_positions: 32_768 };
    Null {
        info: ReferenceInfo {
            model: "null".into(),
            family: "null".into(),
            policy_version: "0".into(),
            dtype: "f32".into(),
            head_dtype: "f32".into(),
            device: "none".into(),
            parameters: 0,
            weight_bytes: 0,
            eos_token_ids: vec![0],
            limits,
        },
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("client"), Some(address)) => client(address.parse().unwrap()),
        _ => bench(),
    }
}

fn bench() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let source = ReferenceSource::new(|| Ok::<_, String>(Box::new(null()) as Box<dyn ReferenceModel>));
    let server = runtime.spawn(serve(Config::default(), listener, source, async {
        let _ = stopped.await;
    }));
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    let output =
        Command::new(std::env::current_exe().unwrap()).args(["client", &address.to_string()]).output().unwrap();
    let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let posts: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    stop.send(()).unwrap();
    runtime.block_on(server).unwrap().unwrap();
    let tokens = (posts * GROUP * (PROMPT + COMPLETION)) as f64;
    println!(
        "{posts} posts of {GROUP} x ({PROMPT} + {COMPLETION}) tokens, {CLIENTS} clients: {:.0} tokens/s of one core \
         ({cpu:.1} s CPU, {wall:.1} s wall)",
        tokens / cpu
    );
}

/// CPU time of this process so far, all threads.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Fields 14 and 15, user and system time, counted after the name, which may have spaces.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS_PER_SECOND
}

/// Posts for a while on several connections and prints how many were answered.
fn client(address: SocketAddr) {
    while !post(&mut connect(address), b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n") {
        std::thread::sleep(Duration::from_millis(10));
    }
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            std::thread::spawn(move || {
                let template = request(number);
                let mut stream = connect(address);
                let began = Instant::now();
                let mut posts = 0;
                while began.elapsed() < Duration::from_secs(SECONDS) {
                    // Sequences of its own: the same request again would get the stored answer.
                    let request = template.replace(POST, &format!("{posts:08}"));
                    assert!(post(&mut stream, request.as_bytes()), "not answered with 200");
                    posts += 1;
                }
                posts
            })
        })
        .collect();
    let posts: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{posts}");
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    BufReader::new(stream)
}

/// Sends a request and reads the whole answer; whether it was 200.
fn post(stream: &mut BufReader<TcpStream>, request: &[u8]) -> bool {
    stream.get_mut().write_all(request).unwrap();
    let (mut ok, mut length, mut line) = (false, 0, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let lower = line.trim_end().to_ascii_lowercase();
        ok |= lower.starts_with("http/1.1 200");
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if lower.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    ok
}

/// One group with logprobs as engines print them.
fn request(number: usize) -> String {
    let ids = |count: usize, seed: usize| {
        let ids: Vec<String> = (0..count).map(|at| ((at * 7919 + seed * 104_729) % 150_000).to_string()).collect();
        ids.join(",")
    };
    let sequences: Vec<String> = (0..GROUP)
        .map(|member| {
            let logprobs: Vec<String> = (0..COMPLETION)
                .map(|at| (-(((at * 31 + member * 17 + number) % 97) as f64).sqrt() / 3.0).to_string())
                .collect();
            format!(
                "{{\"id\":\"{number}-{POST}-{member}\",\"prompt_token_ids\":[{}],\"completion_token_ids\":[{}],\"logprobs\":[{}]}}",
                ids(PROMPT, number),
                ids(COMPLETION, number * GROUP + member + 1),
                logprobs.join(",")
            )
        })
        .collect();
    let body = format!("{{\"run\":\"bench\",\"engine\":\"vllm\",\"sequences\":[{}]}}", sequences.join(","));
    let head = "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ";
    format!("{head}{}\r\n\r\n{body}", body.len())
}
