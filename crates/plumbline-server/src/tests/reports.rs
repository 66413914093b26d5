//! `/v1/runs/{run}/report.*`.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Service, request, rollout};

async fn posted(sequences: u32) -> Service {
    let service = Service::default().await;
    for (engine, off) in [("vllm", 0.01), ("sglang", 0.5)] {
        let all: Vec<Value> = (0..sequences).map(|number| rollout(&number.to_string(), &[7; 20], off)).collect();
        let mut body = request(&json!(all));
        (body["engine"], body["worker"]) = (json!(engine), json!("w1"));
        assert_eq!(service.post(&body).await.status, 200);
    }
    service
}

#[tokio::test]
async fn a_report_rests_on_totals_and_on_what_is_held_and_says_so() {
    let service = posted(3).await;
    let reply = service.get("/v1/runs/grpo/report.json").await;
    assert_eq!((reply.status.as_u16(), &reply.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let report = reply.json();
    assert_eq!((&report["schema"], &report["verdict"]), (&json!("plumbline-report"), &json!("divergent")));
    let engines: Vec<_> = report["engines"].as_array().unwrap().iter().map(|one| &one["engine"]).collect();
    assert_eq!(engines, ["sglang", "vllm"]);
    let vllm = &report["engines"][1];
    assert_eq!((&vllm["metrics"]["tokens"], &vllm["sequences"]["total"]), (&json!(60), &json!(3)));
    assert!((vllm["metrics"]["mae_logprob"].as_f64().unwrap() - 0.01).abs() < 1e-9);
    assert_eq!(vllm["verdicts"]["consistent"], 3);
    assert_eq!((&vllm["workers"][0]["name"], &vllm["workers"][0]["tokens"]), (&json!("w1"), &json!(60)));
    assert_eq!(vllm["worst"]["tokens"]["id"].as_array().unwrap().len(), 20);
    let notes = report["notes"].to_string();
    assert!(notes.contains("everything since 20") && notes.contains("still holds"), "{notes}");
}

#[tokio::test]
async fn every_form_has_its_type_and_a_second_request_gets_the_same() {
    let service = posted(2).await;
    let sheet = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
    for (form, content_type, magic) in
        [("html", "text/html", &b"<!doctype html>"[..]), ("xlsx", sheet, b"PK"), ("png", "image/png", b"\x89PNG")]
    {
        let get = async || {
            let request = Request::get(format!("/v1/runs/grpo/report.{form}")).body(Body::empty()).unwrap();
            let response = service.0.router.clone().oneshot(request).await.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["content-type"]),
                (200, &content_type.parse().unwrap())
            );
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
            to_bytes(response.into_body(), usize::MAX).await.unwrap()
        };
        let first = get().await;
        assert!(first.starts_with(magic), "{form}");
        let more = rollout(form, &[7; 20], 0.3);
        assert_eq!(service.post(&request(&json!([more]))).await.status, 200);
        assert_eq!(get().await, first, "made within the last seconds");
    }
    let page = service.get("/v1/runs/grpo/report.html").await;
    assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("sandbox"));
}

#[tokio::test]
async fn a_run_that_is_not_there_has_no_report() {
    let service = posted(1).await;
    for form in ["json", "html", "xlsx", "png"] {
        let reply = service.get(&format!("/v1/runs/nobody/report.{form}")).await;
        assert_eq!(reply.problem(), (404, "run_not_found".into()));
    }
    assert_eq!(service.get("/v1/runs/grpo/report.pdf").await.problem(), (404, "not_found".into()));
}

#[tokio::test]
async fn reports_beyond_the_ones_that_wait_are_refused() {
    let service = posted(1).await;
    let paths: Vec<_> =
        (0..30).map(|number| format!("/v1/runs/grpo/report.{}", ["json", "html", "xlsx", "png"][number % 4])).collect();
    let replies = futures_of(&service, &paths).await;
    let busy = replies.iter().filter(|reply| reply.status == 429).count();
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count() + busy, 30);
    assert!(busy >= 1, "all of them were let wait");
    let refused = replies.iter().find(|reply| reply.status == 429).unwrap();
    assert_eq!(
        (refused.problem(), &refused.headers["retry-after"]),
        ((429, "reports_busy".into()), &"5".parse().unwrap())
    );
}

/// All at once.
async fn futures_of(service: &Service, paths: &[String]) -> Vec<super::Reply> {
    let mut tasks = tokio::task::JoinSet::new();
    for path in paths {
        let (router, request) = (service.0.router.clone(), Request::get(path).body(Body::empty()).unwrap());
        tasks.spawn(async move {
            let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
            let bytes = to_bytes(body, usize::MAX).await.unwrap();
            let body = String::from_utf8_lossy(&bytes).into_owned();
            super::Reply { status: parts.status, headers: parts.headers, body }
        });
    }
    tasks.join_all().await
}
