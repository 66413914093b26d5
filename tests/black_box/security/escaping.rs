//! Names and texts are hostile: nothing that a sender wrote may act anywhere.

use std::io::{Cursor, Read};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::Server;

const SCRIPT: &str = "<script>alert(1)</script>";
const FORMULA: &str = "=HYPERLINK(\"http://evil\",\"x\")";

#[tokio::test]
async fn names_are_inert_in_page_workbook_and_metrics() {
    let server = Server::start(&[]).await;
    for (run, engine) in
        [(SCRIPT, FORMULA), (FORMULA, SCRIPT), ("+1+cmd|' /C calc'!A0", "@SUM(A1)"), ("-2+3", "\"\n{} 1")]
    {
        let sequence = json!({"id": FORMULA, "prompt_token_ids": [5], "completion_token_ids": [7, 8, 9, 10, 11, 12, 13, 14, 15],
            "logprobs": [-1.0, -9.0, -1.0, -9.0, -1.0, -9.0, -1.0, -9.0, -1.0], "finish_reason": SCRIPT});
        let body = json!({"run": run, "engine": engine, "worker": SCRIPT, "logprobs_mode": "raw", "sequences": [sequence],
            "include": ["diagnosis"]});
        let (status, answer) = server.post(&body).await;
        if engine.contains('\n') {
            assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_label")));
            continue;
        }
        assert_eq!(status, StatusCode::OK, "{answer}");
        let encoded: String = run.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let get = async |form: &str| {
            let path = format!("/v1/runs/{encoded}/report.{form}");
            let response = server.client.get(server.at(&path)).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
            response.bytes().await.unwrap()
        };
        let page = String::from_utf8(get("html").await.to_vec()).unwrap();
        assert!(!page.contains(SCRIPT), "markup of a sender's in the page of {run}");
        assert_eq!(page.matches("<script").count(), page.matches("</script>").count());
        formulas(&get("xlsx").await, run);
    }
    let metrics = server.metrics().await;
    assert!(metrics.lines().all(|line| line.starts_with(['#', 'p'])), "a name has broken a line");
    let runs: Value = server.client.get(server.at("/v1/runs")).send().await.unwrap().json().await.unwrap();
    assert!(runs.to_string().contains("<script>"), "in JSON it is data, as it was sent");
}

/// No cell of a workbook is a formula, and no text is a link.
fn formulas(bytes: &[u8], run: &str) {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut texts = 0;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let name = file.name().unwrap().into_owned();
        let mut text = String::new();
        if !name.ends_with(".xml") && !name.ends_with(".rels") {
            continue;
        }
        file.read_to_string(&mut text).unwrap();
        texts += 1;
        if name.starts_with("xl/worksheets/sheet") {
            assert!(!text.contains("<f>") && !text.contains("<f "), "a formula in {name} of {run}");
            assert!(!text.contains("<hyperlink"), "a link in {name} of {run}");
        }
        assert!(!text.contains("<script"), "markup in {name} of {run}");
        assert!(!text.contains("TargetMode=\"External\""), "{name} of {run} refers to the outside");
    }
    assert!(texts > 5);
}
