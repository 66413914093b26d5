//! The model that is part of the binary: the default reference, so that the first command needs no download.

use plumbline_model::EmbeddedModel;

/// Version of the embedded model's weights.
pub(crate) const POLICY_VERSION: &str = "policy-2";

/// A small trained Qwen3-architecture model (see `assets/README.md`).
pub(crate) const MODEL: EmbeddedModel = EmbeddedModel {
    name: "plumbline-tiny",
    config: include_bytes!("../assets/tiny/policy-2/config.json"),
    generation_config: Some(include_bytes!("../assets/tiny/policy-2/generation_config.json")),
    weights: include_bytes!("../assets/tiny/policy-2/model.safetensors"),
    tokenizer: &[
        ("tokenizer.json", include_bytes!("../assets/tiny/policy-2/tokenizer.json")),
        ("tokenizer_config.json", include_bytes!("../assets/tiny/policy-2/tokenizer_config.json")),
        ("chat_template.jinja", include_bytes!("../assets/tiny/policy-2/chat_template.jinja")),
    ],
};
