//! Runs both implementations and compares.

use candle_core::Tensor;
use plumbline_core::{PackedBatch, ReferenceInfo, ReferenceModel, TokenId};

use super::asked::{Asked, Unsupported};
use super::checkpoint::Checkpoint;
use super::families::{SecondOpinion, second_opinion};
use super::sequences::{Random, sequences};
use super::{Comparison, Extent, HALF_PRECISION_TOLERANCE_NATS, Outcome, TOLERANCE_NATS, Worst};
use crate::compute;
use crate::error::{LoadError, message};
use crate::load::{LoadOptions, ModelSource, Opened};
use crate::spec::DecoderSpec;
use crate::weights;

/// Most probable tokens of the second opinion that are compared after each sequence.
const LIKELY: usize = 48;
/// Further tokens, most of them improbable.
const ANY: usize = 16;

/// The library and its version, which `Cargo.toml` pins.
const LIBRARY: &str = "candle-transformers 0.11.1";

/// The finding, and what to know about it.
pub(super) fn run(
    source: &ModelSource,
    reference: &mut dyn ReferenceModel,
    options: &LoadOptions,
    extent: Extent,
) -> Result<(Outcome, Vec<String>), LoadError> {
    let not_possible = |reason: &str| Ok((Outcome::NotPossible { reason: reason.into() }, Vec::new()));
    if matches!(source, ModelSource::RandomInit(_)) {
        return not_possible("random weights are made anew at every load");
    }
    let model = source.name();
    let refused = |source| LoadError::Weights { model: model.clone(), source };
    let Opened { config, weights, .. } = source.open(&model)?;
    let spec =
        DecoderSpec::from_config_json(&config).map_err(|source| LoadError::Config { model: model.clone(), source })?;
    let weights = match &options.adapter {
        Some(adapter) => weights::merge_adapter(weights, adapter, &spec).map_err(refused)?,
        None => weights,
    };
    let device = compute::open(options.device)
        .map_err(|reason| LoadError::Device { device: options.device.to_string(), reason })?;

    let checkpoint = Checkpoint::new(weights, &spec);
    let built = Asked::new(&config, &spec, extent.longest()).and_then(|mut asked| {
        let opinion = second_opinion(&mut asked, checkpoint.var_builder(&device))?;
        match checkpoint.left_over(&spec).first() {
            Some(tensor) => Err(Unsupported(format!("candle-transformers' model makes no use of the tensor {tensor}"))),
            None => Ok((opinion, asked.longest, asked.notes)),
        }
    });
    let (mut opinion, longest, mut notes) = match built {
        Ok(built) => built,
        Err(Unsupported(reason)) => return not_possible(&reason),
    };

    let mut windows: Vec<usize> = spec.layers.iter().filter_map(|layer| layer.attention.window).collect();
    windows.sort_unstable();
    windows.dedup();
    let sequences = sequences(extent, spec.vocab_size, longest, &windows);
    let compared = sequences.iter().map(Vec::len).max().unwrap_or(0);
    notes.extend(windows.iter().filter(|window| **window >= compared).map(|window| {
        format!(
            "no compared sequence is longer than the sliding window of {window}, so the window itself was not checked"
        )
    }));

    let mut opinions = Vec::with_capacity(sequences.len());
    for sequence in &sequences {
        match logprobs(&mut opinion, sequence, &device) {
            Ok(logprobs) => opinions.push(logprobs),
            Err(reason) => return not_possible(&reason),
        }
    }
    let failed = |reason: String| LoadError::SelfCheck { model: model.clone(), reason };
    if let Some(other) = opinions.iter().map(Vec::len).find(|count| *count != reference.info().limits.vocab_size) {
        return Err(failed(format!("the reference has {} logits and the second opinion {other}", spec.vocab_size)));
    }
    let comparison = compare(reference, &sequences, &opinions, &opinion).map_err(|error| failed(error.to_string()))?;
    let agrees = comparison.max_abs_diff_nats <= comparison.tolerance_nats;
    Ok((if agrees { Outcome::Agrees(comparison) } else { Outcome::Disagrees(comparison) }, notes))
}

/// Log-probabilities over the vocabulary after a sequence, as the second opinion has them; or why there are none.
fn logprobs(opinion: &mut SecondOpinion, ids: &[TokenId], device: &candle_core::Device) -> Result<Vec<f64>, String> {
    let logits = Tensor::new(ids, device)
        .and_then(|ids| opinion.next_token_logits(&ids.unsqueeze(0)?))
        .map_err(|error| format!("candle-transformers' model failed: {}", message(&error)))?;
    let largest = logits.iter().map(|logit| f64::from(*logit)).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    let normaliser = largest + sum.ln();
    let logprobs: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) - normaliser).collect();
    if logprobs.iter().all(|logprob| logprob.is_finite()) {
        Ok(logprobs)
    } else {
        Err("candle-transformers' model computed logits that are not finite".into())
    }
}

/// Scores the candidates after each sequence, all in one batch as the service does.
fn compare(
    reference: &mut dyn ReferenceModel,
    sequences: &[Vec<TokenId>],
    opinions: &[Vec<f64>],
    opinion: &SecondOpinion,
) -> Result<Comparison, plumbline_core::ModelError> {
    let candidates: Vec<Vec<TokenId>> = opinions.iter().map(|logprobs| candidates(logprobs)).collect();
    let choices = sequences.iter().zip(&candidates).map(|(ids, next)| (ids.as_slice(), next.as_slice()));
    let scores = reference.score(&PackedBatch::next_tokens(choices))?.sequences;

    let mut worst = Worst { sequence_tokens: 0, token_id: 0, reference_logprob: 0.0, second_opinion_logprob: 0.0 };
    let mut largest = -1.0;
    let mut logprobs = 0;
    for (((ids, candidates), scores), opinion) in sequences.iter().zip(&candidates).zip(&scores).zip(opinions) {
        for (token, ours) in candidates.iter().zip(&scores.logprobs) {
            let theirs = opinion[*token as usize];
            logprobs += 1;
            if (ours - theirs).abs() > largest {
                largest = (ours - theirs).abs();
                worst = Worst {
                    sequence_tokens: ids.len(),
                    token_id: *token,
                    reference_logprob: *ours,
                    second_opinion_logprob: theirs,
                };
            }
        }
    }
    Ok(Comparison {
        implementation: format!("{LIBRARY} {}", opinion.implementation),
        max_abs_diff_nats: largest,
        tolerance_nats: tolerance(reference.info()),
        sequence_tokens: sequences.iter().map(Vec::len).collect(),
        logprobs,
        worst,
    })
}

/// Tokens to compare: the most probable ones, and some others.
fn candidates(logprobs: &[f64]) -> Vec<TokenId> {
    let mut tokens: Vec<TokenId> = (0..logprobs.len() as TokenId).collect();
    tokens.sort_by(|a, b| logprobs[*b as usize].total_cmp(&logprobs[*a as usize]));
    tokens.truncate(LIKELY);
    let mut random = Random::new(1);
    for _ in 0..ANY {
        let token = random.below(logprobs.len());
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}

fn tolerance(info: &ReferenceInfo) -> f64 {
    let fine = |dtype: &str| matches!(dtype, "f32" | "f64");
    if fine(&info.dtype) && fine(&info.head_dtype) { TOLERANCE_NATS } else { HALF_PRECISION_TOLERANCE_NATS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_is_named_is_the_pinned_one() {
        let (name, version) = LIBRARY.split_once(' ').unwrap();
        assert!(include_str!("../../../../Cargo.toml").contains(&format!("{name} = \"={version}\"")));
    }

    #[test]
    fn candidates_are_the_likeliest_and_some_others_each_once() {
        let logprobs: Vec<f64> = (0..1000).map(|id| -f64::from((id * 7) % 1000)).collect();
        let tokens = candidates(&logprobs);
        assert!(tokens[..LIKELY].iter().all(|token| logprobs[*token as usize] > -(LIKELY as f64)));
        assert!(tokens.len() > LIKELY + ANY / 2);
        let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert_eq!(distinct.len(), tokens.len());
    }
}
