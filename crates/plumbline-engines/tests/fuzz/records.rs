//! A short record of each format.

use plumbline_engines::dumps::DumpFormat;
use serde_json::{Value, json};

use super::good;

pub(super) fn of_all_formats() -> Vec<Value> {
    DumpFormat::ALL.into_iter().map(record).collect()
}

pub(super) fn record(format: DumpFormat) -> Value {
    match format {
        DumpFormat::Plumbline => json!({"id": 1, "group": "g", "run": "r", "engine": "vllm", "worker": 3,
            "prompt_token_ids": [1, 5], "completion_token_ids": [7, 2], "logprobs": [-0.5, null], "loss_mask": [1, 0.0],
            "sampling": {"temperature": 0.7}, "logprobs_mode": "raw_logprobs", "trainer_logprobs": [-0.4, -1.0],
            "weight_versions": [{"version": 2, "start": 0, "end": 2}], "cached_tokens": 1, "finish_reason": "stop"}),
        DumpFormat::Canonical => {
            json!({"token_ids": [1, 5, 7, 2], "prompt_len": 2, "logprobs": [null, null, -0.5, -1.0],
            "loss_mask": [1, 1], "temperature": 0.7, "logprobs_mode": "raw", "weight_version": [{"version": "2", "start": 0, "end": 2}],
            "engine": "vllm", "worker": "w", "run": "r", "group": 3, "sequence_id": "s", "finish_reason": "length"})
        }
        DumpFormat::Request => good::native(),
        DumpFormat::Exchanges => good::exchanges().swap_remove(0),
        DumpFormat::NemoRl => {
            json!({"content": ["..."], "token_ids": [[1, 5, 7, 2, 0]], "token_loss_mask": [[0, 0, 1, 1, 0]],
            "sample_loss_mask": [1.0], "generation_logprobs": [[0.0, 0.0, -0.5, -1.0, 0.0]],
            "prev_logprobs": [[0.0, 0.0, -0.4, -1.1, 0.0]], "input_lengths": [4], "idx": 3})
        }
        DumpFormat::PrimeRl => {
            json!({"schema_version": 1, "step": 10, "rank": 0, "export_sequence_idx": 0, "run_id": null,
            "env_name": "docs", "token_ids": [1, 5, 7, 2], "loss_mask": [false, false, true, true],
            "inference_logprobs": [0.0, 0.0, -0.5, -1.0], "trainer_logprobs": [0.0, 0.0, -0.4, -1.1],
            "temperatures": [1.0, 1.0, 1.0, 0.7]})
        }
        DumpFormat::Slime => {
            json!({"samples": [{"group_index": 0, "index": 0, "tokens": [1, 5, 7, 2], "response_length": 2,
            "rollout_log_probs": [-0.5, -1.0], "loss_mask": [1, 1], "weight_versions": ["2"], "status": "completed"}]})
        }
        DumpFormat::EngineOutputs => {
            json!({"idx": 0, "prompt_ids": [1, 5], "gen_ids": [7, 2], "gen_logprobs": [-0.5, -1.0]})
        }
    }
}
