//! `adapter_config.json` of PEFT: what a LoRA adapter asks for.

use serde_json::{Map, Value};

/// Keys that say how the adapter was trained, where it goes (its tensors say that themselves), or who made it.
const NEUTRAL_KEYS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Initialisations that leave the base model's weights as they are; the others (PiSSA, OLoRA, CorDA, LoftQ) change them.
const HARMLESS_INITIALISATIONS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// What a LoRA adapter asks for.
#[derive(Debug, PartialEq)]
pub(super) struct AdapterConfig {
    rank: PerModule,
    alpha: PerModule,
    rank_stabilised: bool,
    /// Weights that are adapted are stored `[in, out]`.
    pub(super) fan_in_fan_out: bool,
    /// Modules whose tensors the adapter holds in full.
    pub(super) modules_to_save: Vec<String>,
}

/// A number for every module, and others for those whose name ends in a pattern.
#[derive(Debug, PartialEq)]
struct PerModule {
    default: f64,
    patterns: Vec<(String, f64)>,
}

impl AdapterConfig {
    /// Reads the JSON; the error lists every key that is in the way.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Vec<String>> {
        let mut keys = match serde_json::from_slice(json) {
            Ok(Value::Object(keys)) => keys,
            Ok(_) => return Err(vec!["adapter_config.json is not a JSON object".into()]),
            Err(error) => return Err(vec![format!("adapter_config.json is not JSON: {error}")]),
        };
        let mut problems = Vec::new();
        let kind = keys.remove("peft_type").unwrap_or_default();
        if kind != "LORA" {
            problems.push(format!("`peft_type` = {kind} is not supported; only LORA is"));
        }
        let config = Self {
            rank: per_module(&mut keys, "r", "rank_pattern", &mut problems),
            alpha: per_module(&mut keys, "lora_alpha", "alpha_pattern", &mut problems),
            rank_stabilised: flag(&mut keys, "use_rslora", &mut problems),
            fan_in_fan_out: flag(&mut keys, "fan_in_fan_out", &mut problems),
            modules_to_save: names(&mut keys, "modules_to_save", &mut problems),
        };
        let bias = keys.remove("bias").unwrap_or_default();
        if !(bias.is_null() || bias == "none") {
            problems.push(format!("`bias` = {bias} is not supported"));
        }
        let initialisation = keys.remove("init_lora_weights").unwrap_or_default();
        let harmless = initialisation.as_str().map(|name| HARMLESS_INITIALISATIONS.contains(&name));
        if !harmless.unwrap_or(initialisation.is_null() || initialisation.is_boolean()) {
            problems
                .push(format!("`init_lora_weights` = {initialisation} changes the base model, which is not supported"));
        }
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(keys) => keys.is_empty(),
            _ => false,
        };
        for (key, value) in keys {
            if !NEUTRAL_KEYS.contains(&key.as_str()) && !off(&value) {
                problems.push(format!("`{key}` = {value} is not supported"));
            }
        }
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The rank of a module's adapter.
    pub(super) fn rank(&self, module: &str) -> Result<usize, String> {
        match self.rank.of(module)? {
            rank if rank >= 1.0 && rank.fract() == 0.0 => Ok(rank as usize),
            other => Err(format!("{module}: `r` = {other} is not a positive integer")),
        }
    }

    /// The factor on a module's `B A`: `alpha / r`, or `alpha / sqrt(r)` when rank-stabilised.
    pub(super) fn scale(&self, module: &str) -> Result<f64, String> {
        let rank = self.rank(module)? as f64;
        Ok(self.alpha.of(module)? / if self.rank_stabilised { rank.sqrt() } else { rank })
    }
}

impl PerModule {
    /// PEFT takes the first pattern that matches; JSON objects have no order here, so two that disagree are refused.
    fn of(&self, module: &str) -> Result<f64, String> {
        let mut found: Option<f64> = None;
        for (_, value) in self.patterns.iter().filter(|(pattern, _)| ends_in(module, pattern)) {
            if found.is_some_and(|found| found != *value) {
                return Err(format!("{module}: several patterns match and disagree"));
            }
            found = Some(*value);
        }
        Ok(found.unwrap_or(self.default))
    }
}

/// Whether a module is what the pattern says, or lies below something and ends in it.
fn ends_in(module: &str, pattern: &str) -> bool {
    module.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn per_module(keys: &mut Map<String, Value>, key: &str, patterns_key: &str, problems: &mut Vec<String>) -> PerModule {
    let value = keys.remove(key).unwrap_or_default();
    let default = value.as_f64().unwrap_or_else(|| {
        problems.push(format!("`{key}` = {value} is not a number"));
        f64::NAN
    });
    let mut patterns = Vec::new();
    match keys.remove(patterns_key).unwrap_or_default() {
        Value::Null => {}
        Value::Object(entries) => {
            for (pattern, value) in entries {
                // PEFT reads them as regular expressions; published ones are plain module names.
                let plain = pattern.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
                match value.as_f64().filter(|_| plain) {
                    Some(value) => patterns.push((pattern, value)),
                    None => {
                        problems.push(format!("`{patterns_key}` has `{pattern}` = {value}, which is not supported"))
                    }
                }
            }
        }
        other => problems.push(format!("`{patterns_key}` = {other} is not an object")),
    }
    PerModule { default, patterns }
}

fn flag(keys: &mut Map<String, Value>, key: &str, problems: &mut Vec<String>) -> bool {
    match keys.remove(key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(other) => {
            problems.push(format!("`{key}` = {other} is neither true nor false"));
            false
        }
    }
}

fn names(keys: &mut Map<String, Value>, key: &str, problems: &mut Vec<String>) -> Vec<String> {
    let value = keys.remove(key).unwrap_or_default();
    let names = match &value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    names.unwrap_or_else(|| {
        problems.push(format!("`{key}` = {value} is not a list of names"));
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &Value) -> Result<AdapterConfig, Vec<String>> {
        AdapterConfig::parse(json.to_string().as_bytes())
    }

    #[test]
    fn scales_follow_rank_and_patterns() {
        let json = serde_json::json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "use_rslora": false,
            "rank_pattern": {"q_proj": 16}, "alpha_pattern": {"layers.0.self_attn.q_proj": 4},
        });
        let config = parse(&json).unwrap();
        assert_eq!(config.scale("model.layers.0.self_attn.k_proj"), Ok(2.0));
        assert_eq!(config.scale("model.layers.0.self_attn.q_proj"), Ok(0.25));
        assert_eq!(config.scale("model.layers.10.self_attn.q_proj"), Ok(0.5));
        assert_eq!(config.rank("model.layers.1.self_attn.xq_proj"), Ok(4));

        let mut stabilised = json;
        stabilised["use_rslora"] = true.into();
        assert_eq!(parse(&stabilised).unwrap().scale("model.layers.1.self_attn.q_proj"), Ok(2.0));
        stabilised["rank_pattern"]["self_attn.q_proj"] = 8.into();
        let refusal = parse(&stabilised).unwrap().scale("model.layers.1.self_attn.q_proj").unwrap_err();
        assert!(refusal.contains("disagree"), "{refusal}");
    }

    #[test]
    fn what_changes_the_maths_is_refused_by_name() {
        for (key, value) in [
            ("peft_type", Value::from("LOHA")),
            ("use_dora", true.into()),
            ("lora_bias", true.into()),
            ("bias", "all".into()),
            ("init_lora_weights", "pissa_niter_16".into()),
            ("layer_replication", serde_json::json!([[0, 2], [1, 3]])),
            ("trainable_token_indices", serde_json::json!([3])),
            ("target_parameters", serde_json::json!(["experts.gate_up_proj"])),
            ("rank_pattern", serde_json::json!({"layers.[0-3].q_proj": 2})),
            ("invented", 1.into()),
            ("r", "8".into()),
        ] {
            let mut json = serde_json::json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
            json[key] = value;
            let problems = parse(&json).unwrap_err().join("; ");
            assert!(problems.contains(&format!("`{key}`")), "{key}: {problems}");
        }
    }
}
