//! `plumbline selfcheck` and `selfcheck = "quick"`.

use std::process::Output;

use serde_json::Value;

use crate::support::{Server, plumbline, repository};

fn selfcheck(arguments: &[&str]) -> Output {
    plumbline().arg("selfcheck").args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn fixture(name: &str) -> String {
    repository(&format!("tests/fixtures/models/{name}")).to_str().unwrap().to_owned()
}

#[test]
fn the_embedded_model_agrees_with_exit_code_0() {
    let output = selfcheck(&["--quick"]);
    let stdout = text(&output);
    assert_eq!(output.status.code(), Some(0), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        stdout.contains("candle-transformers") && stdout.lines().any(|line| line.ends_with("  agrees")),
        "{stdout}"
    );
}

#[test]
fn json_is_one_object_with_the_numbers() {
    let output = selfcheck(&["--json", "--model", &fixture("mistral")]);
    assert_eq!(output.status.code(), Some(0));
    let stdout = text(&output);
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let check: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((check["outcome"].as_str(), check["family"].as_str()), (Some("agrees"), Some("mistral")));
    let number = |key: &str| check[key].as_f64().unwrap_or_else(|| panic!("no {key}: {check}"));
    assert!(number("max_abs_diff_nats") < number("tolerance_nats"));
    assert!(check["notes"][0].as_str().unwrap().contains("31 for 32"), "{check}");
}

#[test]
fn a_family_without_a_second_opinion_says_why_with_exit_code_3() {
    let output = selfcheck(&["--json", "--model", &fixture("granite")]);
    assert_eq!(output.status.code(), Some(3));
    let check: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(check["outcome"], "not_possible");
    assert!(check["reason"].as_str().unwrap().contains("logits_scaling"), "{check}");
    let printed = text(&selfcheck(&["--model", &fixture("gpt2")]));
    assert!(printed.contains("not possible: candle-transformers has no implementation"), "{printed}");
}

#[test]
fn the_table_of_families_names_all_and_loads_nothing() {
    let output = selfcheck(&["--families"]);
    assert_eq!(output.status.code(), Some(0));
    let table = text(&output);
    for family in ["llama", "qwen3_moe", "gemma3_text", "deepseek_v3", "cohere"] {
        assert!(table.lines().any(|line| line.starts_with(&format!("{family} "))), "{family}: {table}");
    }
    let json: Value = serde_json::from_str(&text(&selfcheck(&["--families", "--json"]))).unwrap();
    assert_eq!(json.as_array().unwrap().len() + 1, table.lines().count());
}

#[test]
fn a_folder_without_a_model_fails_with_exit_code_1() {
    let output = selfcheck(&["--model", repository("tests/fixtures/recordings").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json"));
}

#[tokio::test]
async fn a_model_that_is_checked_at_load_serves() {
    let server = Server::start(&["--selfcheck", "quick"]).await;
    let reference: Value = server.client.get(server.at("/v1/reference")).send().await.unwrap().json().await.unwrap();
    assert_eq!(reference["family"], "qwen3");
}
