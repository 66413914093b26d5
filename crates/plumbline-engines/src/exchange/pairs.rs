//! Token ids and their logprobs, in the forms in which engines give them.

use plumbline_core::TokenId;

use super::at::At;
use super::error::{ExchangeErrorCode as Code, Found};
use super::places::ArrayPlace;

/// What stands before the id in a token that is written as one.
const ID_PREFIX: &str = "token_id:";

/// A completion's ids and logprobs, parallel unless the engine broke that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tokens {
    pub(super) ids: Vec<TokenId>,
    pub(super) logprobs: Vec<Option<f64>>,
    pub(super) ids_place: ArrayPlace,
    pub(super) logprobs_place: ArrayPlace,
}

/// SGLang's `[logprob, id]` or `[logprob, id, text]`.
pub(super) fn tuples(at: &At<'_>) -> Found<Tokens> {
    let mut ids = Vec::new();
    let mut logprobs = Vec::new();
    for tuple in at.elements()? {
        let (Some(logprob), Some(id)) = (tuple.element(0), tuple.element(1)) else {
            return Err(tuple.error(Code::InvalidType, "must be an array of logprob, token id and, at will, text"));
        };
        logprobs.push(logprob.logprob()?);
        ids.push(id.id()?);
    }
    Ok(Tokens { ids, logprobs, ids_place: ArrayPlace::new(at, 0, "/1"), logprobs_place: ArrayPlace::new(at, 0, "/0") })
}

/// Objects with a `logprob` and, in one of several forms, an id each.
pub(super) struct Entries {
    /// `None` = they bear no ids.
    pub(super) ids: Option<(Vec<TokenId>, &'static str)>,
    pub(super) logprobs: Vec<Option<f64>>,
}

/// llama.cpp's `{"id", "logprob"}`, vLLM's `{"token_id", "logprob"}` and `{"token": "token_id:7", "logprob"}`.
pub(super) fn entries(at: &At<'_>) -> Found<Entries> {
    let mut logprobs = Vec::new();
    let mut ids = Vec::new();
    let mut form = None;
    for entry in at.elements()? {
        entry.object()?;
        logprobs.push(match entry.field("logprob") {
            Some(logprob) => logprob.logprob()?,
            None if entry.value.get("logprob").is_some() => None,
            None => return Err(entry.missing("logprob", Code::MissingLogprobs, "is missing")),
        });
        if let Some((key, id)) = entry_id(&entry)? {
            // Entries of several forms are pointed at as a whole.
            form = Some(if form.is_none_or(|other| other == key) { key } else { "" });
            ids.push(id);
        }
    }
    let complete = ids.len() == logprobs.len();
    if let (Some(_), false) = (form, complete) {
        return Err(at.error(Code::MissingTokenIds, format!("{} of {} entries have an id", ids.len(), logprobs.len())));
    }
    // No entry at all: nothing is missing.
    Ok(Entries { ids: complete.then(|| (ids, form.unwrap_or(""))), logprobs })
}

fn entry_id(entry: &At<'_>) -> Found<Option<(&'static str, TokenId)>> {
    for (key, pointer) in [("token_id", "/token_id"), ("id", "/id")] {
        if let Some(at) = entry.field(key) {
            return Ok(Some((pointer, at.id()?)));
        }
    }
    match entry.field("token") {
        Some(token) => Ok(written_id(token.string()?).map(|id| ("/token", id))),
        None => Ok(None),
    }
}

/// The id in `token_id:7`; `None` for any other token.
fn written_id(token: &str) -> Option<TokenId> {
    let digits = token.strip_prefix(ID_PREFIX)?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The ids in an array of tokens that are written as ids; `None` if one is not.
pub(super) fn written_ids(at: &At<'_>) -> Found<Option<Vec<TokenId>>> {
    let tokens = at.elements()?.map(|token| token.string()).collect::<Found<Vec<_>>>()?;
    Ok(tokens.into_iter().map(written_id).collect())
}

/// Brings together what was sampled and the pairs that an engine gave for part of it: tokens without a pair have no logprob.
/// The ids and their places become those of `sampled`.
///
/// Pairs may end early (llama.cpp cuts off a stop word's tokens). With `gaps` they may also leave out tokens in between
/// (llama.cpp gives none for a token that ends within a character). A pair that could be of several tokens is of none.
///
/// # Errors
/// Pairs that are not a part of what was sampled.
pub(super) fn spread(pairs: Tokens, sampled: &At<'_>, gaps: bool) -> Found<Tokens> {
    let ids = sampled.ids()?;
    let contradiction = |detail: String| Err(sampled.error(Code::Contradictory, detail));
    let same = pairs.ids.iter().zip(&ids).take_while(|(pair, id)| pair == id).count();
    if same == ids.len() {
        // Every sampled id has its pair; there may be more pairs, which are as exact.
        return Ok(pairs);
    }
    let mut logprobs = vec![None; ids.len()];
    if same == pairs.ids.len() {
        logprobs[..same].copy_from_slice(&pairs.logprobs);
    } else if gaps {
        let first = embedding(pairs.ids.iter(), ids.iter());
        let last = embedding(pairs.ids.iter().rev(), ids.iter().rev());
        let (Some(first), Some(last)) = (first, last) else {
            return contradiction("are not the ids of which logprobs are given".into());
        };
        let last = last.into_iter().rev().map(|place| ids.len() - 1 - place);
        for ((from_start, from_end), logprob) in first.into_iter().zip(last).zip(&pairs.logprobs) {
            if from_start == from_end {
                logprobs[from_start] = *logprob;
            }
        }
    } else {
        return contradiction(format!("differ from the ids of which logprobs are given, at index {same}"));
    }
    let logprobs_place = pairs.logprobs_place;
    Ok(Tokens { ids, logprobs, ids_place: ArrayPlace::new(sampled, 0, ""), logprobs_place })
}

/// For each of `part`, the first place in `whole` after that of the one before it; `None` if it is not there.
fn embedding<'a>(
    part: impl Iterator<Item = &'a TokenId>,
    whole: impl Iterator<Item = &'a TokenId>,
) -> Option<Vec<usize>> {
    let mut whole = whole.enumerate();
    part.map(|id| whole.by_ref().find(|(_, other)| *other == id).map(|(place, _)| place)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn spread_over(pairs: &[TokenId], sampled: &[TokenId], gaps: bool) -> Option<Vec<Option<f64>>> {
        let logprobs = (0..pairs.len()).map(|index| Some(-(index as f64))).collect();
        let place = ArrayPlace::default();
        let pairs = Tokens { ids: pairs.to_vec(), logprobs, ids_place: place.clone(), logprobs_place: place };
        spread(pairs, &At::new("/response", &json!(sampled)), gaps).ok().map(|tokens| tokens.logprobs)
    }

    #[test]
    fn entries_of_several_forms_are_pointed_at_as_a_whole() {
        let within = |content: serde_json::Value| entries(&At::new("/content", &content)).ok().unwrap().ids;
        let old = json!({"token": "token_id:7", "logprob": -1.0});
        let new = json!({"token_id": 8, "logprob": -1.0});
        assert_eq!(within(json!([old, old])), Some((vec![7, 7], "/token")));
        assert_eq!(within(json!([new, new])), Some((vec![8, 8], "/token_id")));
        assert_eq!(within(json!([new, old, old])), Some((vec![8, 7, 7], "")));
    }

    #[test]
    fn tails_and_gaps_have_no_logprob() {
        assert_eq!(spread_over(&[5, 6], &[5, 6, 7], false), Some(vec![Some(-0.0), Some(-1.0), None]));
        assert_eq!(spread_over(&[5, 6, 7], &[5, 6], false).map(|all| all.len()), Some(3));
        assert_eq!(spread_over(&[5, 7], &[5, 6, 7], false), None);
        assert_eq!(spread_over(&[5, 7], &[5, 6, 7], true), Some(vec![Some(-0.0), None, Some(-1.0)]));
        assert_eq!(
            spread_over(&[5, 6, 7], &[5, 9, 6, 6, 7], true),
            Some(vec![Some(-0.0), None, None, None, Some(-2.0)])
        );
        assert_eq!(spread_over(&[7, 5], &[5, 6, 7], true), None);
        assert_eq!(spread_over(&[], &[5], true), Some(vec![None]));
    }

    proptest! {
        /// Whatever tokens are left without a pair: a logprob never goes to a token with another id, and never to
        /// another place than its own.
        #[test]
        fn a_logprob_stays_with_its_token(sampled in prop::collection::vec((0u32..4, any::<bool>()), 0..12)) {
            let ids: Vec<_> = sampled.iter().map(|(id, _)| *id).collect();
            let kept: Vec<_> = sampled.iter().enumerate().filter(|(_, (_, kept))| *kept).collect();
            let pairs: Vec<_> = kept.iter().map(|(_, (id, _))| *id).collect();
            let spread = spread_over(&pairs, &ids, true).unwrap();
            prop_assert_eq!(spread.len(), ids.len());
            let is_prefix = ids.starts_with(&pairs);
            for (place, logprob) in spread.iter().enumerate() {
                if let Some(logprob) = logprob {
                    let pair = -*logprob as usize;
                    prop_assert_eq!(pairs[pair], ids[place]);
                    prop_assert!(is_prefix || kept[pair].0 == place);
                }
            }
        }
    }
}
