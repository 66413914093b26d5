//! SGLang's bodies.

use plumbline_core::{Sampling, TokenId};
use serde_json::{Value, json};

use super::ask::{Ask, sampling_fields};

/// Ids in, ids out.
pub(super) const GENERATE: &str = "/generate";

/// The seed is honoured by servers started with `--enable-deterministic-inference`; others draw as they like.
pub(super) fn generate(ask: &Ask) -> Value {
    let mut parameters = sampling_fields(&ask.sampling);
    parameters["max_new_tokens"] = json!(ask.max_tokens);
    parameters["sampling_seed"] = json!(ask.seed);
    // The tokens of a stop condition are part of what was sampled.
    parameters["no_stop_trim"] = json!(true);
    json!({"input_ids": ask.prompt, "sampling_params": parameters, "return_logprob": true, "logprob_start_len": -1})
}

/// Logprobs of the input's own tokens, at temperature 1.
pub(super) fn score(token_ids: &[TokenId]) -> Value {
    let mut parameters = sampling_fields(&Sampling::default());
    parameters["max_new_tokens"] = json!(0);
    json!({"input_ids": token_ids, "sampling_params": parameters, "return_logprob": true, "logprob_start_len": 0})
}

/// The answer's logprobs of the last `completion` tokens of `token_ids`.
pub(super) fn scores(answer: &Value, token_ids: &[TokenId], completion: usize) -> Result<Vec<f64>, String> {
    let listed = answer["meta_info"]["input_token_logprobs"].as_array();
    let listed = listed.ok_or("no meta_info.input_token_logprobs")?;
    if listed.len() != token_ids.len() {
        return Err(format!("{} input logprobs for {} tokens", listed.len(), token_ids.len()));
    }
    let from = token_ids.len() - completion;
    (from..token_ids.len())
        .map(|at| {
            let (value, id) = (listed[at][0].as_f64(), listed[at][1].as_u64());
            if id != Some(u64::from(token_ids[at])) {
                return Err(format!("input_token_logprobs[{at}] is of token {id:?}, not of {}", token_ids[at]));
            }
            value.ok_or_else(|| format!("input_token_logprobs[{at}] has no logprob"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_in_and_logprobs_are_asked_for() {
        let ask = Ask { prompt: vec![4, 2], max_tokens: 9, sampling: Sampling::default(), seed: 11 };
        let body = generate(&ask);
        assert_eq!(body["input_ids"], json!([4, 2]));
        assert_eq!(body["return_logprob"], json!(true));
        let parameters = &body["sampling_params"];
        assert_eq!((&parameters["max_new_tokens"], &parameters["sampling_seed"]), (&json!(9), &json!(11)));
        assert_eq!((&parameters["top_k"], &parameters["min_p"]), (&json!(-1), &json!(0.0)));
    }

    #[test]
    fn scores_must_be_of_the_tokens_asked_about() {
        let answer =
            json!({"meta_info": {"input_token_logprobs": [[null, 1, null], [-0.5, 5, null], [-1.5, 7, null]]}});
        assert_eq!(scores(&answer, &[1, 5, 7], 2), Ok(vec![-0.5, -1.5]));
        assert!(scores(&answer, &[1, 5, 8], 1).unwrap_err().contains("not of 8"));
        assert!(scores(&answer, &[1, 5, 7], 3).unwrap_err().contains("no logprob"));
        assert!(scores(&answer, &[1, 5], 1).is_err());
    }
}
