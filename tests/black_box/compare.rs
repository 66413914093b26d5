//! `plumbline compare` against engines that answer right, wrong, late or not at all.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fake_engine::{Behaviour, FakeEngine, Protocol, Trouble};
use crate::support::{PATIENCE, plumbline};

/// A folder of its own for one test; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-compare-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn out(&self) -> PathBuf {
        self.0.join("out")
    }

    fn prompts(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.out().join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Everything that was written.
    fn all_text(&self) -> String {
        let files = std::fs::read_dir(self.out()).unwrap();
        files.map(|file| String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()).into_owned()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const THREE: &str = "{\"id\":\"ids\",\"prompt_token_ids\":[1,20,30,40,50]}\n{\"id\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\
                     \"Returns the length.\"}]}\n{\"id\":\"text\",\"prompt\":\"Returns true if\"}\n";

fn compare(folder: &Folder, engines: &[String], arguments: &[&str]) -> Command {
    let mut command = plumbline();
    command.arg("compare").arg("--prompts").arg(folder.prompts("prompts.jsonl", THREE)).arg("--out").arg(folder.out());
    command.args(engines.iter().flat_map(|engine| ["--engine", engine.as_str()]));
    command.args(["--samples", "2", "--max-tokens", "24"]).args(arguments);
    command
}

async fn run(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    tokio::time::timeout(PATIENCE, output).await.expect("compare did not end").unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

async fn fake(protocol: Protocol) -> FakeEngine {
    FakeEngine::start(Behaviour::of(protocol)).await
}

fn engine(name: &str, kind: &str, fake: &FakeEngine) -> String {
    format!("{name}={kind}@{}", fake.url)
}

#[tokio::test(flavor = "multi_thread")]
async fn faithful_engines_of_every_protocol_are_consistent() {
    let folder = Folder::new("faithful");
    let engines = [
        ("vllm", fake(Protocol::Vllm).await),
        ("vllm", fake(Protocol::VllmCompletions).await),
        ("sglang", fake(Protocol::Sglang).await),
        ("llama.cpp", fake(Protocol::LlamaCpp).await),
        ("tensorrt-llm", fake(Protocol::TensorRtLlm).await),
    ];
    let specs: Vec<String> =
        engines.iter().enumerate().map(|(index, (kind, fake))| engine(&format!("e{index}"), kind, fake)).collect();
    let (stdout, _) = expect(&run(compare(&folder, &specs, &[])).await, 0);
    for index in 0..engines.len() {
        assert!(stdout.contains(&format!("e{index}")), "{stdout}");
    }
    assert!(folder.out().join("report.json").is_file());

    let exchanges = folder.lines("exchanges.jsonl");
    assert_eq!(exchanges.len(), engines.len() * 3 * 2);
    let asked = |engine: &str| {
        let mut asked: Vec<_> = exchanges.iter().filter(|line| line["engine"] == engine).map(prompt_and_seed).collect();
        asked.sort();
        asked
    };
    // The same ids and seeds for everybody, and another seed for every completion.
    for index in 1..engines.len() {
        assert_eq!(asked(&format!("e{index}")), asked("e0"));
    }
    let seeds: Vec<u64> = asked("e0").into_iter().map(|(_, _, _, seed)| seed).collect();
    assert_eq!(std::collections::BTreeSet::from_iter(&seeds).len(), 6);
    // They sampled the same: nobody had to be asked again.
    assert_eq!(engines.iter().map(|(_, fake)| fake.scorings()).sum::<usize>(), 0);
    assert!(stdout.contains("6 sequences sampled alike by both"), "{stdout}");
    let facts: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.out().join("engines.json")).unwrap()).unwrap();
    assert_eq!(facts["e0"]["version"]["version"], "0.32.0-fake");
    assert_eq!(facts["e2"]["server_info"]["api_key"], "***");
    assert!(!folder.all_text().contains("sk-of-the-server"));
}

/// Of an exchange, wherever its protocol puts them.
fn prompt_and_seed(line: &Value) -> (String, u64, Vec<u64>, u64) {
    let request = &line["request"];
    let first = |fields: &[&str]| {
        let found =
            fields.iter().map(|field| request.pointer(field)).find_map(|value| value.filter(|value| !value.is_null()));
        found.unwrap_or_else(|| panic!("{line}")).clone()
    };
    let prompt = first(&["/token_ids", "/prompt", "/input_ids"]);
    let seed = first(&["/seed", "/sampling_params/seed", "/sampling_params/sampling_seed"]).as_u64().unwrap();
    let prompt = prompt.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    (line["group"].as_str().unwrap().to_owned(), line["sample"].as_u64().unwrap(), prompt, seed)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_lies_is_divergent_and_the_others_say_so() {
    let folder = Folder::new("lies");
    let good = FakeEngine::start(Behaviour { salt: 1, ..Behaviour::of(Protocol::Vllm) }).await;
    let bad = FakeEngine::start(Behaviour { planted: 0.7, ..Behaviour::of(Protocol::Sglang) }).await;
    let engines = [engine("good", "vllm", &good), engine("bad", "sglang", &bad)];
    let (stdout, _) = expect(&run(compare(&folder, &engines, &[])).await, 1);
    assert!(stdout.contains("divergent"), "{stdout}");
    assert!(stdout.contains("6 sequences scored by the other engine, teacher-forced"), "{stdout}");
    // They sampled different tokens: each was asked about the other's.
    assert_eq!((good.scorings(), bad.scorings()), (6, 6));
    let scores = folder.lines("scores.jsonl");
    assert_eq!(scores.len(), 12);
    for score in &scores {
        assert_eq!(score["logprobs"].as_array().unwrap().len(), 24);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn troubles_that_pass_are_waited_out() {
    let folder = Folder::new("troubles");
    let troubles = vec![Trouble::TooMany(1), Trouble::Unavailable, Trouble::Broken, Trouble::TooMany(0)];
    let fake = FakeEngine::start(Behaviour { troubles, ..Behaviour::of(Protocol::Sglang) }).await;
    expect(&run(compare(&folder, &[format!("sglang={}", fake.url)], &[])).await, 0);
    assert_eq!(fake.completions(), 6 + 4);
    assert_eq!(folder.lines("exchanges.jsonl").len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_given_up_with_what_is_there() {
    let folder = Folder::new("hangs");
    let troubles = vec![Trouble::Hang, Trouble::Hang];
    let fake = FakeEngine::start(Behaviour { troubles, ..Behaviour::of(Protocol::Vllm) }).await;
    let arguments = ["--request-timeout", "1", "--attempts", "2", "--concurrency", "1"];
    let (stdout, _) = expect(&run(compare(&folder, &[format!("vllm={}", fake.url)], &arguments)).await, 2);
    assert!(stdout.contains("not asked any more, 5 completions are missing"), "{stdout}");
    assert!(stdout.contains("0 of 6 completions were compared"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_said_and_costs_only_itself() {
    let folder = Folder::new("nonsense");
    let fake =
        FakeEngine::start(Behaviour { troubles: vec![Trouble::Nonsense], ..Behaviour::of(Protocol::Vllm) }).await;
    let (stdout, _) = expect(&run(compare(&folder, &[format!("vllm={}", fake.url)], &[])).await, 2);
    assert!(stdout.contains("no JSON"), "{stdout}");
    assert!(stdout.contains("5 of 6 completions were compared"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_not_there_is_unusable() {
    let folder = Folder::new("absent");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (_, stderr) =
        expect(&run(compare(&folder, &[format!("vllm=http://{address}")], &["--attempts", "1"])).await, 2);
    assert!(stderr.contains("cannot be reached") && stderr.contains("\"vllm\""), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_without_ids_are_refused_with_a_word_on_what_to_do() {
    for (name, protocol, word) in [
        ("without-ids", Protocol::OpenAiWithoutIds, "returns no token ids"),
        ("text-only", Protocol::OpenAiTextOnly, "llama-cpp-python"),
    ] {
        let folder = Folder::new(name);
        let fake = fake(protocol).await;
        let (stdout, _) = expect(&run(compare(&folder, &[format!("openai={}", fake.url)], &[])).await, 2);
        assert!(stdout.contains(word), "{stdout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_run_asks_only_for_what_is_missing_and_takes_more_engines() {
    let folder = Folder::new("resume");
    let first = fake(Protocol::Vllm).await;
    expect(&run(compare(&folder, &[engine("first", "vllm", &first)], &[])).await, 0);
    assert_eq!(first.completions(), 6);

    // A run that was killed while it wrote.
    let path = folder.out().join("exchanges.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 10]).unwrap();

    let again = expect(&run(compare(&folder, &[engine("first", "vllm", &first)], &[])).await, 2).1;
    assert!(again.contains("--resume"), "{again}");
    let other =
        expect(&run(compare(&folder, &[engine("first", "vllm", &first)], &["--resume", "--seed", "9"])).await, 2).1;
    assert!(other.contains("--seed"), "{other}");
    let kind = expect(&run(compare(&folder, &[engine("first", "sglang", &first)], &["--resume"])).await, 2).1;
    assert!(kind.contains("not sglang"), "{kind}");
    assert_eq!(first.completions(), 6);

    let second = fake(Protocol::Sglang).await;
    let engines = [engine("first", "vllm", &first), engine("second", "sglang", &second)];
    expect(&run(compare(&folder, &engines, &["--resume"])).await, 0);
    assert_eq!((first.completions(), second.completions()), (7, 6));
    assert_eq!(folder.lines("exchanges.jsonl").len(), 12);

    // Nothing is left to do, and nobody has to be there.
    drop((first, second));
    let (stdout, _) = expect(&run(compare(&folder, &[], &["--resume"])).await, 0);
    assert!(stdout.contains("first") && stdout.contains("second"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_keeps_what_is_there() {
    let folder = Folder::new("interrupt");
    let fake = FakeEngine::start(Behaviour { delay: 300, ..Behaviour::of(Protocol::Vllm) }).await;
    let mut command = compare(&folder, &[format!("vllm={}", fake.url)], &["--concurrency", "1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while written(&folder.out()) < 2 {
        assert!(started.elapsed() < PATIENCE, "nothing was written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = tokio::time::timeout(PATIENCE, output).await.expect("compare did not stop").unwrap();
    expect(&output, 130);
    let kept = folder.lines("exchanges.jsonl").len();
    assert!((2..6).contains(&kept), "{kept}");
    assert!(folder.out().join("report.json").is_file());
    expect(&run(compare(&folder, &[format!("vllm={}", fake.url)], &["--resume"])).await, 0);
    assert_eq!(folder.lines("exchanges.jsonl").len(), 6);
}

fn written(out: &Path) -> usize {
    std::fs::read(out.join("exchanges.jsonl")).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_sent_and_never_written() {
    let folder = Folder::new("key");
    let fake = FakeEngine::start(Behaviour { key: Some("sk-very-secret"), ..Behaviour::of(Protocol::Vllm) }).await;
    let engines = [format!("vllm={}", fake.url)];
    let arguments = ["--engine-key", "vllm=env:ENGINE_KEY", "--attempts", "1"];
    let mut wrong = compare(&folder, &engines, &[&arguments[..], &["--engine-model", "vllm=tiny"]].concat());
    wrong.env("ENGINE_KEY", "sk-wrong-secret");
    let output = run(wrong).await;
    let (stdout, stderr) = expect(&output, 2);
    for text in [&stdout, &stderr, &folder.all_text()] {
        assert!(!text.contains("sk-wrong-secret"), "{text}");
    }
    let mut right = compare(&folder, &engines, &[&arguments[..], &["--resume"]].concat());
    right.env("ENGINE_KEY", "sk-very-secret");
    let (stdout, stderr) = expect(&run(right).await, 0);
    for text in [&stdout, &stderr, &folder.all_text()] {
        assert!(!text.contains("sk-very-secret"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_is_checked_before_anything_is_asked() {
    let folder = Folder::new("arguments");
    let fake = fake(Protocol::Vllm).await;
    let url = &fake.url;
    for (engines, arguments, word) in [
        (vec![format!("vllm={url}"), format!("vllm={url}")], vec![], "two engines are called"),
        (vec![format!("vllm={url}")], vec!["--engine-model", "other=m"], "no --engine is called other"),
        (vec![format!("mine={url}")], vec![], "NAME=KIND@URL"),
        (vec![format!("vllm={url}")], vec!["--top-p", "0"], "top-p"),
        (vec![format!("openai={url}")], vec!["--temperature", "0.5"], "--engine-logprobs-mode"),
        (vec!["vllm=ftp://host".to_owned()], vec![], "http:// or https://"),
        (vec![], vec![], "--engine"),
    ] {
        let (_, stderr) = expect(&run(compare(&folder, &engines, &arguments)).await, 2);
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
    assert_eq!(fake.completions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_are_asked_over_tls_if_their_authority_is_known() {
    let folder = Folder::new("tls");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let authority_folder = Folder::new("tls-authority");
    let authority = authority_folder.prompts("ca.pem", &made.cert.pem());
    let engine =
        FakeEngine::start_tls(Behaviour::of(Protocol::Vllm), &made.cert.pem(), &made.signing_key.serialize_pem()).await;
    let engines = [format!("vllm={}", engine.url)];
    let mut distrusted = compare(&folder, &engines, &[]);
    let output = tokio::task::spawn_blocking(move || distrusted.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("is not trusted"), "{said}");
    assert_eq!(engine.completions(), 0);
    let folder = Folder::new("tls-trusted");
    let mut trusted = compare(&folder, &engines, &["--engine-ca", authority.to_str().unwrap()]);
    let output = tokio::task::spawn_blocking(move || trusted.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(engine.completions(), 6);
    let folder = Folder::new("tls-missing");
    let mut missing = compare(&folder, &engines, &["--engine-ca", "/no/such/ca.pem"]);
    let output = tokio::task::spawn_blocking(move || missing.output().unwrap()).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/ca.pem"));
}
