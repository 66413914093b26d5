//! One scored rollout: compared, measured and judged.

use plumbline_core::TokenScores;
use plumbline_divergence::{
    CompareError, FloorCurve, Judgement, SequenceComparison, SufficientStatistics, VerdictLevels, compare,
};
use plumbline_scheduler::Scored;

use super::session::Incoming;

/// A rollout with everything that is known of it.
#[derive(Debug)]
pub(super) struct Assessed {
    /// Without versions: the reference that is there scores everything.
    pub(super) incoming: Incoming,
    /// The version that it was recorded with.
    pub(super) version: Option<String>,
    pub(super) scores: TokenScores,
    pub(super) comparison: SequenceComparison,
    pub(super) statistics: SufficientStatistics,
    pub(super) judgement: Judgement,
}

impl Assessed {
    /// # Errors
    /// The reference's scores are none, or not of this rollout: a defect.
    pub(super) fn new(
        incoming: Incoming,
        version: Option<String>,
        scored: Scored,
        levels: &VerdictLevels,
        floor: Option<&FloorCurve>,
    ) -> Result<Self, CompareError> {
        let comparison = compare(&incoming.rollout, &scored.scores, &scored.reference.eos_token_ids)?;
        let mut statistics = SufficientStatistics::default();
        let floor = floor.map(|floor| floor.of_rollout(&incoming.rollout));
        statistics.observe_sequence_with_floor(&comparison, floor.as_ref());
        let judgement = levels.judge(&statistics);
        Ok(Self { incoming, version, scores: scored.scores, comparison, statistics, judgement })
    }

    /// Prompt and completion.
    pub(super) fn tokens(&self) -> usize {
        self.incoming.rollout.prompt_token_ids.len() + self.incoming.rollout.completion_token_ids.len()
    }
}
