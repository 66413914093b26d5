//! One function per model family: its `config.json` as a [`DecoderSpec`].

mod deepseek;
mod experts;
mod gemma;
mod gpt;
mod llama;
mod other;

use super::DecoderSpec;
use super::config::{ConfigError, HfConfig};

type Family = fn(&mut HfConfig) -> Result<DecoderSpec, ConfigError>;

/// Every supported `model_type`.
const FAMILIES: &[(&str, Family)] = &[
    ("cohere", other::cohere),
    ("deepseek_v2", deepseek::deepseek_v2),
    ("deepseek_v3", deepseek::deepseek_v3),
    ("gemma", gemma::gemma),
    ("gemma2", gemma::gemma2),
    ("gemma3_text", gemma::gemma3_text),
    ("glm4", other::glm4),
    ("gpt2", gpt::gpt2),
    ("gpt_neox", gpt::gpt_neox),
    ("granite", llama::granite),
    ("llama", llama::llama),
    ("mistral", llama::mistral),
    ("mixtral", experts::mixtral),
    ("olmo2", other::olmo2),
    ("olmoe", experts::olmoe),
    ("phi3", other::phi3),
    ("qwen2", llama::qwen2),
    ("qwen2_moe", experts::qwen2_moe),
    ("qwen3", llama::qwen3),
    ("qwen3_moe", experts::qwen3_moe),
    ("smollm3", llama::smollm3),
    ("stablelm", other::stablelm),
    ("starcoder2", gpt::starcoder2),
];

impl DecoderSpec {
    /// Every supported `model_type`.
    pub fn families() -> impl Iterator<Item = &'static str> {
        FAMILIES.iter().map(|(name, _)| *name)
    }

    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the family or key that is not supported, missing, or unknown.
    pub fn from_config_json(json: &[u8]) -> Result<Self, ConfigError> {
        let mut config = HfConfig::parse(json)?;
        let family = config.string("model_type")?;
        let Some((_, read)) = FAMILIES.iter().find(|(name, _)| *name == family) else {
            let supported = Self::families().collect::<Vec<_>>().join(", ");
            return Err(ConfigError::UnknownFamily { family, supported });
        };
        let mut spec = read(&mut config)?;
        spec.family = family;
        spec.eos_token_ids = config.token_ids("eos_token_id")?;
        config.finish()?;
        Ok(spec)
    }

    /// Adds the EOS ids of a `generation_config.json`; everything else in it is about sampling.
    ///
    /// # Errors
    /// [`ConfigError`] if it is not JSON or its ids are none.
    pub fn add_generation_config(&mut self, json: &[u8]) -> Result<(), ConfigError> {
        for id in HfConfig::parse(json)?.token_ids("eos_token_id")? {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        Ok(())
    }
}
