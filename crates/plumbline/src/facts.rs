//! What is known of a model beside what the reference says of itself.

use std::sync::Arc;

use plumbline_divergence::ModelFacts;
use plumbline_model::{DecoderSpec, MlpSpec, ModelSource, Tokenizer};
use plumbline_server::ModelKnowledge;

use crate::template;

/// The facts of a model, and its tokenizer. What cannot be read is left out and logged: hypotheses that need it are not tried
/// then, and there is no text.
pub(crate) fn knowledge(source: &ModelSource) -> ModelKnowledge {
    let mut known = ModelKnowledge::default();
    match source.spec() {
        Ok(spec) => describe(&mut known.facts, &spec),
        Err(error) => tracing::warn!(%error, "diagnoses do without the model's configuration"),
    }
    match source.tokenizer() {
        Ok(Some(tokenizer)) => {
            spell(&mut known.facts, &tokenizer);
            known.text = Some(Arc::new(tokenizer));
        }
        Ok(None) => {
            tracing::info!(
                "the model has no tokenizer files: tokens are shown without text, and diagnoses do not try BOS, templates and \
                 padded vocabularies"
            );
        }
        Err(error) => tracing::warn!(%error, "text and diagnoses do without the model's tokenizer"),
    }
    known
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
        match template::generation_prompt(tokenizer) {
            Ok(added) => facts.generation_prompts.extend(added),
            Err(error) => tracing::warn!(%error, "diagnoses do without the chat template's generation prompt"),
        }
        match template::default_prefix(tokenizer) {
            Ok(prefix) => facts.template_prefixes.extend(prefix),
            Err(error) => tracing::warn!(%error, "diagnoses do without the chat template's default system prompt"),
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
        let facts = knowledge(&source).facts;
        let tokenizer = source.tokenizer().unwrap().unwrap();
        assert_eq!(tokenizer.decode(&facts.generation_prompts[0]).unwrap(), "<|im_start|>assistant\n");
        assert_eq!(facts.tokenizer_size, Some(tokenizer.id_bound()));
        assert!(!facts.special_token_ids.is_empty());
        assert!(!facts.mixture_of_experts && facts.sliding_window.is_none() && facts.logit_softcap.is_none());
    }
}
