//! What diagnoses can make use of beside what the reference says of itself.

use plumbline_divergence::ModelFacts;
use plumbline_model::{Chat, ChatValue, CivilTime, DecoderSpec, MlpSpec, ModelSource, Tokenizer};
use serde_json::json;

/// The facts of a model. What cannot be read is left out and logged: hypotheses that need it are not tried then.
pub(crate) fn of(source: &ModelSource) -> ModelFacts {
    let mut facts = ModelFacts::default();
    match source.spec() {
        Ok(spec) => describe(&mut facts, &spec),
        Err(error) => tracing::warn!(%error, "diagnoses do without the model's configuration"),
    }
    match source.tokenizer() {
        Ok(Some(tokenizer)) => spell(&mut facts, &tokenizer),
        Ok(None) => {
            tracing::info!(
                "the model has no tokenizer files: diagnoses do not try BOS, templates and padded vocabularies"
            );
        }
        Err(error) => tracing::warn!(%error, "diagnoses do without the model's tokenizer"),
    }
    facts
}

fn describe(facts: &mut ModelFacts, spec: &DecoderSpec) {
    facts.mixture_of_experts = spec.layers.iter().any(|layer| matches!(layer.mlp, MlpSpec::Experts(_)));
    facts.sliding_window = spec.layers.iter().find_map(|layer| layer.attention.window);
    facts.logit_softcap = spec.head.softcap;
    facts.rope_theta = spec.ropes.first().map(|rope| rope.theta);
}

fn spell(facts: &mut ModelFacts, tokenizer: &Tokenizer) {
    facts.special_token_ids = tokenizer.special_token_ids();
    facts.tokenizer_size = Some(tokenizer.id_bound());
    match tokenizer.encode("", true) {
        Ok(ids) => facts.bos_token_id = ids.first().copied().filter(|id| facts.special_token_ids.contains(id)),
        Err(error) => tracing::warn!(%error, "diagnoses do without the BOS token"),
    }
    if tokenizer.chat_template().is_some() {
        facts.generation_prompts.extend(generation_prompt(tokenizer));
    }
}

/// What the chat template puts at the end of a prompt for the answer to begin.
fn generation_prompt(tokenizer: &Tokenizer) -> Option<Vec<u32>> {
    // The time only matters to templates that print it, and then the same for both.
    let now = CivilTime::from_unix_utc(0, 0)?;
    let message = || ChatValue::from(json!({"role": "user", "content": "hello"}));
    let rendered = |add_generation_prompt| {
        let chat = Chat { messages: vec![message()], add_generation_prompt, ..Chat::default() };
        tokenizer.encode_chat(&chat, now)
    };
    match (rendered(false), rendered(true)) {
        (Ok(without), Ok(with)) => {
            with.strip_prefix(without.as_slice()).filter(|added| !added.is_empty()).map(Into::into)
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "diagnoses do without the chat template's generation prompt");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    #[test]
    fn the_embedded_model_is_known() {
        let source = ModelSource::Embedded(embedded::MODEL);
        let facts = of(&source);
        let tokenizer = source.tokenizer().unwrap().unwrap();
        assert_eq!(tokenizer.decode(&facts.generation_prompts[0]).unwrap(), "<|im_start|>assistant\n");
        assert_eq!(facts.tokenizer_size, Some(tokenizer.id_bound()));
        assert!(!facts.special_token_ids.is_empty());
        assert!(!facts.mixture_of_experts && facts.sliding_window.is_none() && facts.logit_softcap.is_none());
    }
}
