//! A rollout by the versions of the weights that sampled it: the work for each, and the scores put together again.

use std::ops::Range;

use crate::{IrreproducibleMode, Processing, Rollout, ScoringSequence, TokenScores};

/// Completion tokens that one version of the weights sampled, as vLLM and SGLang report them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionSpan {
    /// The version, an opaque string.
    pub version: String,
    /// Index of the first completion token.
    pub start: usize,
    /// Index after the last completion token.
    pub end: usize,
}

impl Rollout {
    /// The versions that sampled tokens with context, each once, in the order of their first token; `None` = not known.
    #[must_use]
    pub fn versions(&self) -> Vec<Option<&str>> {
        let mut versions: Vec<Option<&str>> = Vec::new();
        for (version, _) in self.scored_spans() {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        versions
    }

    /// The work that the reference has to do for this rollout, one sequence for each of [`Rollout::versions`]: its
    /// completion tokens with context, processed so that [`Rollout::logprobs_mode`] is reproduced. All completion tokens count
    /// as sampled for the penalties, masked ones too.
    ///
    /// A version is asked for what stands between its first and its last token. All tokens before them are context,
    /// whatever version sampled them: a policy's probability of a token is defined by the text alone.
    ///
    /// # Errors
    /// [`IrreproducibleMode`] if the mode asks for a transform that the reference does not reproduce.
    pub fn scoring_sequences(&self) -> Result<Vec<ScoringSequence>, IrreproducibleMode> {
        let processing = Processing::of(self.logprobs_mode, &self.sampling)?;
        let work = self.versions().into_iter().map(|version| {
            let scored = self.range_of(version);
            let tokens = self.prompt_token_ids.iter().chain(&self.completion_token_ids);
            // What comes after the last scored token can change nothing.
            let token_ids = tokens.take(scored.end).copied().collect();
            ScoringSequence {
                token_ids,
                scored,
                prompt_tokens: self.prompt_token_ids.len(),
                processing,
                policy_version: version.map(str::to_owned),
            }
        });
        Ok(work.collect())
    }

    /// The scores of the rollout's tokens with context from those of [`Rollout::scoring_sequences`], in their order.
    ///
    /// `None` if `parts` are not their answers.
    #[must_use]
    pub fn join_scores(&self, parts: &[&TokenScores]) -> Option<TokenScores> {
        let versions = self.versions();
        if parts.len() != versions.len() {
            return None;
        }
        let mut joined = TokenScores::default();
        let mut expected = 0;
        for (version, span) in self.scored_spans() {
            let index = versions.iter().position(|known| *known == version)?;
            let first = self.range_of(version).start;
            joined.extend_from(parts[index], span.start - first..span.end - first);
            expected += span.len();
        }
        (joined.len() == expected).then_some(joined)
    }

    /// What a version is asked to score, as indices into prompt + completion.
    fn range_of(&self, version: Option<&str>) -> Range<usize> {
        let own = self.scored_spans().filter(|(other, _)| *other == version).map(|(_, span)| span);
        own.reduce(|all, span| all.start.min(span.start)..all.end.max(span.end)).unwrap_or_default()
    }

    /// Versions and the tokens with context that they sampled, as indices into prompt + completion. At least one: a rollout
    /// with nothing to score has an empty span.
    fn scored_spans(&self) -> impl Iterator<Item = (Option<&str>, Range<usize>)> {
        let prompt = self.prompt_token_ids.len();
        let first = self.first_scorable();
        let total = prompt + self.completion_token_ids.len();
        let spans = self.weight_versions.iter().filter_map(move |span| {
            let range = (prompt + span.start).max(first)..prompt + span.end;
            (!range.is_empty()).then_some((Some(span.version.as_str()), range))
        });
        let has_spans = self.weight_versions.iter().any(|span| prompt + span.end > first);
        let version = self.weight_versions.first().map_or(self.policy_version.as_deref(), |span| Some(&span.version));
        let whole = (!has_spans).then(|| (version, first.min(total)..total));
        spans.chain(whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{LogprobsMode, Sampling, TokenId};

    fn rollout(prompt: &[TokenId], completion: &[TokenId], spans: &[(&str, usize, usize)]) -> Rollout {
        Rollout {
            id: "s".into(),
            prompt_token_ids: prompt.to_vec(),
            completion_token_ids: completion.to_vec(),
            logprobs: vec![Some(-1.0); completion.len()],
            loss_mask: None,
            sampling: Sampling { temperature: 0.7, ..Sampling::default() },
            logprobs_mode: LogprobsMode::Temperature,
            finish_reason: None,
            policy_version: Some("whole".into()),
            weight_versions: spans
                .iter()
                .map(|(version, start, end)| VersionSpan { version: (*version).into(), start: *start, end: *end })
                .collect(),
        }
    }

    fn work(rollout: &Rollout) -> Vec<(Option<String>, Vec<TokenId>, Range<usize>)> {
        let sequences = rollout.scoring_sequences().unwrap();
        assert!(
            sequences.iter().all(|sequence| sequence.processing == Processing::at_temperature(0.7)),
            "the temperature of the mode"
        );
        sequences.into_iter().map(|one| (one.policy_version, one.token_ids, one.scored)).collect()
    }

    #[test]
    fn one_version_scores_the_whole_completion() {
        let whole = Some("whole".to_owned());
        assert_eq!(work(&rollout(&[1, 2], &[3, 4, 5], &[])), [(whole.clone(), vec![1, 2, 3, 4, 5], 2..5)]);
        assert_eq!(work(&rollout(&[], &[3, 4], &[])), [(whole.clone(), vec![3, 4], 1..2)], "no context");
        assert_eq!(work(&rollout(&[], &[3], &[])), [(whole, vec![3], 1..1)], "nothing to score");
    }

    #[test]
    fn each_version_scores_its_own_tokens_after_all_that_came_before() {
        let spans = [("a", 0, 1), ("b", 1, 2), ("a", 2, 3), ("c", 3, 4)];
        let of = |name: &str| Some(name.to_owned());
        assert_eq!(
            work(&rollout(&[1], &[2, 3, 4, 5], &spans)),
            [(of("a"), vec![1, 2, 3, 4], 1..4), (of("b"), vec![1, 2, 3], 2..3), (of("c"), vec![1, 2, 3, 4, 5], 4..5)]
        );
        assert_eq!(work(&rollout(&[], &[2, 3], &[("a", 0, 1), ("b", 1, 2)])), [(of("b"), vec![2, 3], 1..2)]);
        assert_eq!(work(&rollout(&[], &[2], &[("a", 0, 1)])), [(of("a"), vec![2], 1..1)]);
    }

    #[test]
    fn scores_that_are_no_answer_are_refused() {
        let rollout = rollout(&[1], &[2, 3], &[("a", 0, 1), ("b", 1, 2)]);
        let one = TokenScores { logprobs: vec![-1.0], ..TokenScores::default() };
        assert!(rollout.join_scores(&[&one, &one]).is_some());
        assert!(rollout.join_scores(&[&one]).is_none());
        assert!(rollout.join_scores(&[&one, &TokenScores::default()]).is_none());
    }

    proptest! {
        /// Every token with context gets the number of its own version, in order.
        #[test]
        fn joining_gives_each_token_the_score_of_its_version(
            prompt in prop::collection::vec(0u32..9, 0..3),
            spans in prop::collection::vec((0usize..3, 1usize..4), 1..6),
        ) {
            let mut start = 0;
            let mut named = Vec::new();
            for (version, len) in spans {
                named.push((["a", "b", "c"][version], start, start + len));
                start += len;
            }
            let rollout = rollout(&prompt, &vec![5; start], &named);
            let number = |version: &str, index: usize| f64::from(version.as_bytes()[0]) * 1000.0 + index as f64;
            let parts: Vec<TokenScores> = rollout
                .scoring_sequences()
                .unwrap()
                .into_iter()
                .map(|sequence| {
                    let version = sequence.policy_version.unwrap();
                    let logprobs: Vec<f64> = sequence.scored.map(|index| number(&version, index)).collect();
                    let rank = logprobs.iter().map(|value| *value as u32).collect();
                    TokenScores { logprobs, rank, ..TokenScores::default() }
                })
                .collect();
            let joined = rollout.join_scores(&parts.iter().collect::<Vec<_>>()).unwrap();
            let expected: Vec<f64> = (rollout.first_scorable()..prompt.len() + start)
                .map(|index| {
                    let token = index - prompt.len();
                    let (version, ..) = named.iter().find(|(_, from, to)| (*from..*to).contains(&token)).unwrap();
                    number(version, index)
                })
                .collect();
            prop_assert_eq!(&joined.logprobs, &expected);
            prop_assert_eq!(joined.rank, expected.iter().map(|value| *value as u32).collect::<Vec<_>>());
        }
    }
}
