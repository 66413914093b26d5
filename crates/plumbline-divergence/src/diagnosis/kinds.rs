//! A request may mix rollouts that were sampled differently: each kind is diagnosed by itself.

use plumbline_core::{LogprobsMode, Sampling};

use super::config::DiagnosisConfig;
use super::finding::{Diagnosis, Finding, SequenceDiagnosis};
use super::input::{DiagnosisInput, SuspectSequence};
use super::prober::Prober;

/// Finds the causes of the divergence of a request's rollouts.
///
/// Rollouts with the same sampling parameters and logprobs mode are taken to have one fault, and their evidence is pooled.
/// Others are not: what truncation does to the numbers of one kind would be laid to the context of another. The budget is
/// shared: each kind may spend an equal part of what the ones before it left.
#[must_use]
pub fn diagnose(input: &DiagnosisInput<'_>, prober: &mut dyn Prober, config: &DiagnosisConfig) -> Diagnosis {
    let kinds = kinds(input.sequences);
    if kinds.len() <= 1 {
        return super::diagnose_alike(input, prober, config);
    }
    let mut whole = Diagnosis::default();
    let mut placed: Vec<Option<SequenceDiagnosis>> = vec![None; input.sequences.len()];
    let mut of_kinds: Vec<(usize, Vec<Finding>)> = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let sequences: Vec<SuspectSequence<'_>> = kind.iter().map(|place| input.sequences[*place]).collect();
        let left = config.probe_tokens.saturating_sub(whole.probed_tokens);
        let config = DiagnosisConfig { probe_tokens: left / (kinds.len() - index), ..*config };
        let part = super::diagnose_alike(&DiagnosisInput { sequences: &sequences, ..*input }, prober, &config);
        whole.exhausted |= part.exhausted;
        whole.probed_tokens += part.probed_tokens;
        for failure in part.failures {
            if !whole.failures.contains(&failure) {
                whole.failures.push(failure);
            }
        }
        let suspicious = part.sequences.iter().filter(|sequence| !sequence.findings.is_empty()).count();
        of_kinds.push((suspicious, part.request));
        for (place, sequence) in kind.iter().zip(part.sequences) {
            placed[*place] = Some(sequence);
        }
    }
    whole.sequences = placed.into_iter().flatten().collect();
    whole.request = first_of_each(of_kinds);
    whole
}

/// Places of the sequences of each kind, in the order of their first ones.
fn kinds(sequences: &[SuspectSequence<'_>]) -> Vec<Vec<usize>> {
    let mut kinds: Vec<((&Sampling, LogprobsMode), Vec<usize>)> = Vec::new();
    for (place, sequence) in sequences.iter().enumerate() {
        let key = (&sequence.rollout.sampling, sequence.rollout.logprobs_mode);
        match kinds.iter_mut().find(|(known, _)| *known == key) {
            Some((_, places)) => places.push(place),
            None => kinds.push((key, vec![place])),
        }
    }
    kinds.into_iter().map(|(_, places)| places).collect()
}

/// The first causes of all kinds, those of the most sequences first, each once.
fn first_of_each(mut of_kinds: Vec<(usize, Vec<Finding>)>) -> Vec<Finding> {
    of_kinds.sort_by_key(|(suspicious, _)| std::cmp::Reverse(*suspicious));
    let mut all: Vec<Finding> = Vec::new();
    for (suspicious, findings) in of_kinds {
        let Some(first) = findings.into_iter().next() else { continue };
        if all.iter().all(|known| known.cause != first.cause) {
            let evidence = format!("in {suspicious} sequences that were sampled alike: {}", first.evidence);
            all.push(Finding { evidence, ..first });
        }
    }
    all
}
