//! One verification: its rollouts are scored, compared and judged. A route and the job runner call the same.
//!
//! Nothing is counted or stored here. What an answer adds to counters, monitor and store is part of it
//! ([`AnsweredSequence`]); whoever asked for the answer sees to it once it is known to be new.

mod admission;
mod assessed;
mod causes;
mod compute;
mod response;
mod stages;
mod versions;

use plumbline_core::ScoringSequence;
use uuid::Uuid;

pub(crate) use self::admission::Terms;
use self::admission::{admit, unscored};
use self::assessed::Assessed;
pub(crate) use self::assessed::{Answer, AnsweredSequence};
use self::causes::diagnosed;
pub(crate) use self::compute::{INLINE_BYTES, INLINE_TOKENS, compute, defect};
#[cfg(test)]
pub(crate) use self::response::ImportanceWeightsDocument;
pub(crate) use self::response::{FindingResponse, SIGN, VerificationResponse};
pub(crate) use self::versions::VersionsWaitedFor;
use self::versions::wait_for_versions;
use crate::body::Verification;
use crate::problem::Problem;
use crate::state::{AppState, Resident};
use crate::trace;

/// A name for a verification that nobody else has.
pub(crate) fn new_id() -> String {
    format!("ver_{}", Uuid::now_v7().simple())
}

/// Scores, compares, judges and words the answer of a verification with this id.
///
/// # Errors
/// 409 for a version of the weights that is not there, 413, 422, 429 and 503 where the work is not admitted, 504 past the
/// deadline, 500 if the reference fails on a sequence: then nothing of the verification counts.
pub(crate) async fn verify(
    state: &AppState,
    resident: &Resident,
    verification: Verification,
    id: String,
    terms: &Terms,
) -> Result<Answer, Problem> {
    let tokens = tokens_of(&verification);
    let heavy = tokens > INLINE_TOKENS;
    let admitted = trace::stage("admit", async {
        wait_for_versions(state, &verification.wanted, tokens, terms).await?;
        let (verification, work) = compute(heavy, move || scoring_sequences(verification)).await??;
        let scored_tokens: usize = work.iter().map(ScoringSequence::forward_tokens).sum();
        let ticket = admit(state, &verification, work, terms)?;
        Ok::<_, Problem>((verification, scored_tokens, ticket))
    });
    let (verification, scored_tokens, ticket) = admitted.await?;
    let outcomes = ticket.wait().await.map_err(|error| unscored(&error))?;
    trace::record(|at| stages::of(&outcomes, at));

    let (levels, floors) = (state.config.verdict_levels(), state.floors.clone());
    let assessed = compute(heavy, move || Assessed::new(verification, outcomes, &levels, &floors));
    let assessed = trace::stage("compare", assessed).await??;
    let (assessed, diagnosis) = trace::stage("diagnose", diagnosed(state, resident, assessed, heavy)).await?;
    trace::stage("answer", compute(heavy, move || assessed.answer(id, scored_tokens, diagnosis.as_ref()))).await?
}

/// Tokens of the rollouts, prompts included.
pub(crate) fn tokens_of(verification: &Verification) -> usize {
    let rollouts = verification.rollouts.iter();
    rollouts.map(|rollout| rollout.prompt_token_ids.len() + rollout.completion_token_ids.len()).sum()
}

/// The work for each rollout, in order; a rollout that several versions sampled has several pieces.
fn scoring_sequences(verification: Verification) -> Result<(Verification, Vec<ScoringSequence>), Problem> {
    let mut work = Vec::with_capacity(verification.rollouts.len());
    for rollout in &verification.rollouts {
        // Validation refuses modes that cannot be reproduced with a pointer before it comes to this.
        work.extend(rollout.scoring_sequences().map_err(|error| defect(&error))?);
    }
    Ok((verification, work))
}
