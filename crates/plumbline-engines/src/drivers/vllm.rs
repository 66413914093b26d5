//! vLLM's bodies. Every sampling parameter is sent: what a request leaves out comes from the model's `generation_config.json`.

use plumbline_core::{Sampling, TokenId};
use serde_json::{Value, json};

use super::ask::{Ask, sampling_fields};

/// Tokens in, tokens out. There only with `--enable-scale-out`.
pub(super) const GENERATE: &str = "/inference/v1/generate";
/// The route that every vLLM has.
pub(super) const COMPLETIONS: &str = "/v1/completions";

pub(super) fn generate(ask: &Ask, model: &str) -> Value {
    let mut parameters = sampling_fields(&ask.sampling);
    parameters["max_tokens"] = json!(ask.max_tokens);
    parameters["seed"] = json!(ask.seed);
    parameters["logprobs"] = json!(0);
    json!({"model": model, "token_ids": ask.prompt, "sampling_params": parameters, "return_token_ids": true})
}

pub(super) fn completions(ask: &Ask, model: &str) -> Value {
    let mut body = Value::Object(ask.openai_body(model, 0));
    merge(&mut body, sampling_fields(&ask.sampling));
    body["return_token_ids"] = json!(true);
    body
}

/// Logprobs of the prompt's own tokens: of each token the one that stands there.
pub(super) fn score(token_ids: &[TokenId], model: &str) -> Value {
    let mut body = json!({"model": model, "prompt": token_ids, "max_tokens": 1, "n": 1, "prompt_logprobs": 0,
        "return_token_ids": true});
    merge(&mut body, sampling_fields(&Sampling::default()));
    body
}

/// The answer's logprobs of the last `completion` tokens of `token_ids`.
pub(super) fn scores(answer: &Value, token_ids: &[TokenId], completion: usize) -> Result<Vec<f64>, String> {
    let choice = &answer["choices"][0];
    let listed = choice["prompt_logprobs"].as_array().ok_or("no choices[0].prompt_logprobs")?;
    if listed.len() != token_ids.len() {
        return Err(format!("{} prompt logprobs for {} tokens", listed.len(), token_ids.len()));
    }
    let from = token_ids.len() - completion;
    (from..token_ids.len())
        .map(|at| {
            let id = token_ids[at];
            let value = listed[at][id.to_string()]["logprob"].as_f64();
            value.ok_or_else(|| format!("prompt_logprobs[{at}] has no logprob of token {id}"))
        })
        .collect()
}

fn merge(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        Ask { prompt: vec![1, 5], max_tokens: 7, sampling: Sampling::default(), seed: 3 }
    }

    #[test]
    fn nothing_is_left_to_the_servers_defaults() {
        for parameters in [generate(&ask(), "m")["sampling_params"].clone(), completions(&ask(), "m")] {
            for (name, value) in [("temperature", json!(1.0)), ("top_p", json!(1.0)), ("top_k", json!(-1))] {
                assert_eq!(parameters[name], value, "{name}");
            }
            for name in ["min_p", "presence_penalty", "frequency_penalty"] {
                assert_eq!(parameters[name], json!(0.0), "{name}");
            }
            assert_eq!(parameters["repetition_penalty"], json!(1.0));
            assert_eq!((&parameters["seed"], &parameters["max_tokens"]), (&json!(3), &json!(7)));
            assert_eq!(parameters["logprobs"], json!(0));
        }
        assert_eq!(generate(&ask(), "m")["token_ids"], json!([1, 5]));
        assert_eq!(completions(&ask(), "m")["prompt"], json!([1, 5]));
    }

    #[test]
    fn scores_are_found_by_id_not_by_place() {
        let answer = json!({"choices": [{"prompt_logprobs": [null,
            {"9": {"logprob": -0.1, "rank": 1}, "5": {"logprob": -2.5, "rank": 4}}, {"7": {"logprob": -1.5, "rank": 1}}]}]});
        assert_eq!(scores(&answer, &[1, 5, 7], 2), Ok(vec![-2.5, -1.5]));
        assert!(scores(&answer, &[1, 6, 7], 2).unwrap_err().contains("token 6"));
        assert!(scores(&answer, &[1, 5], 1).unwrap_err().contains("3 prompt logprobs for 2"));
        assert!(scores(&json!({"choices": []}), &[1], 1).is_err());
    }
}
