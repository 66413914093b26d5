//! What an engine's server says of itself: models, versions, flags.

use serde_json::{Map, Value, json};

use super::error::DriverError;
use super::http::Http;
use super::kind::DriverKind;

/// Parts of names of settings that hold secrets.
const SECRET_NAMES: [&str; 7] =
    ["api_key", "password", "secret", "hf_token", "auth_token", "access_token", "authorization"];

/// Routes that a kind of server describes itself with, and their names in the facts.
fn routes(kind: DriverKind) -> &'static [(&'static str, &'static str)] {
    match kind {
        DriverKind::Vllm => &[("models", "/v1/models"), ("version", "/version"), ("weight_info", "/weight_info")],
        DriverKind::Sglang => {
            &[("models", "/v1/models"), ("model_info", "/get_model_info"), ("server_info", "/get_server_info")]
        }
        DriverKind::LlamaCpp => &[("models", "/v1/models"), ("props", "/props")],
        DriverKind::TensorRtLlm => &[("models", "/v1/models"), ("version", "/version")],
        DriverKind::OpenAi => &[("models", "/v1/models")],
    }
}

/// Asks all routes. One that the server does not have is left out; one that fails otherwise is said in its place.
///
/// # Errors
/// Nothing answers, or nobody who is trusted.
pub(super) async fn collect(http: &Http, kind: DriverKind) -> Result<Map<String, Value>, DriverError> {
    let mut facts = Map::from_iter([("engine".into(), json!(kind.as_str())), ("url".into(), json!(http.base()))]);
    for (name, path) in routes(kind) {
        match http.get(path).await {
            Ok(mut fact) => {
                hide_secrets(&mut fact);
                facts.insert((*name).into(), fact);
            }
            Err(error @ (DriverError::Unreachable { .. } | DriverError::Distrusted { .. })) => return Err(error),
            Err(error) if matches!(error.status(), Some(404 | 405 | 501)) => {}
            Err(error) => {
                facts.insert((*name).into(), json!({"error": error.to_string()}));
            }
        }
    }
    Ok(facts)
}

/// The only model of the list at `/v1/models`.
pub(super) fn only_model(facts: &Map<String, Value>) -> Result<String, DriverError> {
    let listed = facts.get("models").map(|models| &models["data"]).and_then(Value::as_array);
    let names: Vec<&str> = listed.into_iter().flatten().filter_map(|model| model["id"].as_str()).collect();
    match names.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(DriverError::Model("the server lists none at /v1/models; name it".into())),
        several => Err(DriverError::Model(format!("the server lists {}; name one", several.join(", ")))),
    }
}

fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                let name = name.to_ascii_lowercase();
                if SECRET_NAMES.iter().any(|secret| name.contains(secret)) && !field.is_null() {
                    *field = json!("***");
                } else {
                    hide_secrets(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_hold_secrets_are_hidden_and_others_are_not() {
        let mut facts = json!({"api_key": "sk-1", "admin_api_key": null, "internal": [{"hf_token": "t"}],
            "max_total_num_tokens": 4096, "tokenizer_path": "p"});
        hide_secrets(&mut facts);
        let expected = json!({"api_key": "***", "admin_api_key": null, "internal": [{"hf_token": "***"}],
            "max_total_num_tokens": 4096, "tokenizer_path": "p"});
        assert_eq!(facts, expected);
    }

    #[test]
    fn the_model_is_the_only_one_listed() {
        let facts = |models: Value| Map::from_iter([("models".to_owned(), models)]);
        assert_eq!(only_model(&facts(json!({"data": [{"id": "m"}]}))), Ok("m".to_owned()));
        let several = only_model(&facts(json!({"data": [{"id": "a"}, {"id": "b"}]}))).unwrap_err();
        assert!(several.to_string().contains("a, b"), "{several}");
        assert!(only_model(&facts(json!({"error": "x"}))).is_err());
        assert!(only_model(&Map::new()).is_err());
    }
}
