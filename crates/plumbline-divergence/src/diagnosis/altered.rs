//! Another token in the completion: which one, found by trying.

use plumbline_core::{Rollout, TokenId, TokenScores};

use super::case::Case;
use super::cause::Cause;
use super::health::END;
use super::hypothesis::{Fit, Prediction, Tried, fit};
use super::observed::Observed;
use super::prober::Budgeted;
use super::segment::Segment;
use super::tokens::with_token;

/// Tokens behind the altered one that a candidate is judged by.
const JUDGED: usize = 12;
/// Candidates for one place.
const CANDIDATES: usize = 12;
/// Sequences in which a completion token is looked for.
const SEQUENCES: usize = 6;
/// How near a candidate's logprob must be to the engine's number, in floors and in nats.
const NEAR_FLOORS: f64 = 5.0;
const NEAR_NATS: f64 = 0.03;

/// What a candidate is: ids in the place of one posted id, and its words.
struct Candidate {
    at: usize,
    ids: Vec<TokenId>,
    said: String,
}

/// Looks for a completion token that the engine had instead of the posted one, or for another spelling of it.
pub(super) fn completion(case: &mut Case<'_>, prober: &mut Budgeted<'_>, segments: &[Option<Segment>]) {
    let mut order: Vec<usize> = (0..case.observed.len()).filter(|sequence| segments[*sequence].is_some()).collect();
    let gain = |sequence: &usize| segments[*sequence].map_or(0.0, |segment| segment.gain);
    order.sort_by(|a, b| gain(b).total_cmp(&gain(a)));
    for cause in [Cause::TokenAltered, Cause::Retokenised] {
        let mut fits: Vec<Option<Fit>> = vec![None; case.observed.len()];
        let mut said = vec![String::new(); case.observed.len()];
        for sequence in order.iter().copied().take(SEQUENCES) {
            let Some(segment) = segments[sequence] else { continue };
            let tail = segment.to == case.observed[sequence].tokens.len() && segment.to - segment.from <= END;
            if tail && segment.from > 0 && cause == Cause::TokenAltered {
                continue;
            }
            let candidates = candidates(case, prober, sequence, segment, cause);
            if let Some((fit, words)) = best(case, prober, sequence, candidates) {
                fits[sequence] = Some(fit);
                said[sequence] = words;
            }
        }
        case.tried.push(Tried { said, ..Tried::new(cause, "", fits) });
    }
}

fn candidates(
    case: &Case<'_>,
    prober: &mut Budgeted<'_>,
    sequence: usize,
    segment: Segment,
    cause: Cause,
) -> Vec<Candidate> {
    let rollout = case.rollout(sequence);
    let tokens = &case.observed[sequence].tokens;
    let first = &tokens[segment.from];
    if cause == Cause::Retokenised {
        let posted = rollout.completion_token_ids[first.at];
        let spellings = prober.respellings(&[posted]).into_iter().take(CANDIDATES);
        let words = |ids: &[TokenId]| {
            format!("token {} was sampled as the ids {ids:?}, which spell the posted id {posted}", first.at)
        };
        return spellings.map(|ids| Candidate { at: first.at, said: words(&ids), ids }).collect();
    }
    let mut found = Vec::new();
    // A posted token as likely as the true one shows only in what follows it.
    for index in [Some(segment.from), segment.from.checked_sub(1)].into_iter().flatten() {
        let token = tokens[index];
        let near = NEAR_FLOORS * token.scale + NEAR_NATS;
        let mut ids: Vec<(f64, TokenId)> = Vec::new();
        prober.logits(rollout, &[token.place], &mut |_, logits| {
            let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
            let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            let total = f64::from(largest) + sum.ln();
            let distance = |logit: f32| (f64::from(logit) - total - token.engine).abs();
            ids = logits.iter().enumerate().map(|(id, logit)| (distance(*logit), id as TokenId)).collect();
            ids.retain(|(distance, id)| *distance < near && *id != token.id);
        });
        ids.sort_by(|a, b| a.0.total_cmp(&b.0));
        found.extend(ids.into_iter().take(CANDIDATES).map(|(_, id)| Candidate {
            at: token.at,
            ids: vec![id],
            said: format!("completion token {} was {id} for the engine, posted as {}", token.at, token.id),
        }));
    }
    found
}

/// The candidate that explains best what follows, fitted to the whole sequence.
fn best(
    case: &Case<'_>,
    prober: &mut Budgeted<'_>,
    sequence: usize,
    candidates: Vec<Candidate>,
) -> Option<(Fit, String)> {
    let rollout = case.rollout(sequence);
    let count = candidates.len() as f64;
    let altered: Vec<Rollout> =
        candidates.iter().map(|candidate| with_token(rollout, candidate.at, &candidate.ids, JUDGED)).collect();
    let mut best: Option<(f64, Candidate)> = None;
    for (candidate, scores) in candidates.into_iter().zip(prober.score(&altered, None)) {
        let until = candidate.at + JUDGED;
        let fit = scores.and_then(|scores| fitted(&case.observed[sequence], &candidate, &scores, until));
        let Some(fit) = fit else { continue };
        if best.as_ref().is_none_or(|(gain, _)| fit.gain > *gain) {
            best = Some((fit.gain, candidate));
        }
    }
    let (_, candidate) = best.filter(|(gain, _)| *gain > 0.0)?;
    let altered = with_token(rollout, candidate.at, &candidate.ids, usize::MAX - candidate.at - 1);
    let scores = prober.score(&[altered], None).pop().flatten()?;
    let fit = fitted(&case.observed[sequence], &candidate, &scores, usize::MAX)?;
    Some((fit.minus(4.0 + (count * case.observed[sequence].tokens.len() as f64).ln()), candidate.said))
}

fn fitted(observed: &Observed, candidate: &Candidate, scores: &TokenScores, until: usize) -> Option<Fit> {
    let added = candidate.ids.len() - 1;
    fit(observed, |index| {
        let token = &observed.tokens[index];
        if token.at < candidate.at {
            return Prediction::Value(token.reference);
        }
        if token.at > until {
            return Prediction::Unknown;
        }
        let value = |place: usize| scores.logprobs_in_mode.get(place).copied();
        // Of a token spelled in several ids the engine reported one number, and nobody knows which.
        let value = match (token.at == candidate.at, added) {
            (true, 1..) => return Prediction::Anything,
            _ => value(token.place + added),
        };
        value.map_or(Prediction::Unknown, Prediction::Value)
    })
}
