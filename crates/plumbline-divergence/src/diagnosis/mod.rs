//! Why: the causes of a divergence, found by asking what the numbers would be if a cause were at work.
//!
//! [`diagnose`] takes the rollouts of one request with what the reference says of them. It works through hypotheses in the
//! order of their price: numbers that are no logprobs, numbers of other tokens, what sampling parameters and the head do to a
//! row of logits (all from one look at the rows), differences that begin within a sequence, and then, on a bounded budget,
//! other contexts, weights and positions by another forward. Each gives the numbers that the engine would have reported.
//! All are judged on one scale: the likelihood of what is left as noise in the shape of the floor, after a price for what
//! was fitted. A cause is named if what is left is noise, or if it explains most of the difference, and if it beats "just
//! larger noise" clearly; otherwise the answer is `different_weights`, `numerical_noise` or `unknown`. What is consistent
//! with the floor has no cause.
//!
//! [`RunDiagnosis`] adds up the answers of a run and splits them by worker, version and cached prompt.
//! `docs/causes.md` describes each cause and says how often it is found.

mod alignment;
mod altered;
mod altered_prompt;
mod case;
mod cause;
mod config;
mod context;
mod decide;
mod finding;
mod head;
mod head_bias;
mod health;
mod hypothesis;
mod input;
mod kinds;
mod likelihood;
mod observed;
mod penalties;
mod position;
mod prober;
mod reforward;
mod row;
mod run;
mod sampling;
mod segment;
mod shape;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod weights;

use case::Case;
use health::Health;
use observed::{Excess, Observed};
use prober::Budgeted;

pub use cause::Cause;
pub use config::DiagnosisConfig;
pub use finding::{Diagnosis, Finding, SequenceDiagnosis};
pub use input::{DiagnosisInput, Floor, ModelFacts, SuspectSequence};
pub use kinds::diagnose;
pub use prober::{ProbeError, Prober};
pub use run::{RunDiagnosis, RunSequence};

/// Finds the causes of the divergence of rollouts that were sampled alike.
fn diagnose_alike(input: &DiagnosisInput<'_>, prober: &mut dyn Prober, config: &DiagnosisConfig) -> Diagnosis {
    let mut prober = Budgeted::new(prober, config.probe_tokens);
    let health = health::examine(input.sequences);
    let observed: Vec<Observed> = input
        .sequences
        .iter()
        .zip(&health)
        .enumerate()
        .map(|(index, (sequence, health))| Observed::new(index, sequence, input.floor, &health.without))
        .collect();
    let suspects = suspects(&observed, config);
    let few = DiagnosisConfig { rows: FEW_ROWS, ..*config };
    let case = if suspects.is_empty() {
        let mut case = Case::new(input, &few, observed.into_iter().filter(|one| !one.tokens.is_empty()).collect());
        exact_head(&mut case, &mut prober);
        if case.tried.is_empty() {
            case.observed.clear();
        }
        case
    } else {
        let mut case = Case::new(input, config, suspects);
        work_through(&mut case, &mut prober);
        case
    };
    let (mut request, found) =
        if case.observed.is_empty() { (Vec::new(), Vec::new()) } else { decide::decide(&case, prober.exhausted) };
    let mut sequences: Vec<SequenceDiagnosis> = input
        .sequences
        .iter()
        .map(|sequence| SequenceDiagnosis { id: sequence.rollout.id.clone(), findings: Vec::new() })
        .collect();
    for (observed, findings) in case.observed.iter().zip(found) {
        sequences[observed.index].findings = findings;
    }
    for (sequence, health) in sequences.iter_mut().zip(&health) {
        add_health(&mut sequence.findings, health);
    }
    add_health(&mut request, &of_request(&health));
    Diagnosis {
        request,
        sequences,
        exhausted: prober.exhausted,
        probed_tokens: prober.spent,
        failures: prober.failures,
    }
}

/// The sequences that differ by more than noise; all of them if they do so only together.
fn suspects(observed: &[Observed], config: &DiagnosisConfig) -> Vec<Observed> {
    let alone: Vec<Observed> =
        observed.iter().filter(|observed| observed.excess().is_beyond(config.excess, config)).cloned().collect();
    if !alone.is_empty() {
        return alone;
    }
    let mut together = Excess::default();
    observed.iter().for_each(|observed| together.merge(&observed.excess()));
    let all = if together.is_beyond(config.excess_together, config) { observed } else { &[] };
    all.iter().filter(|observed| !observed.tokens.is_empty()).cloned().collect()
}

/// All families of hypotheses, cheap ones first, until one leaves nothing but noise.
fn work_through(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    alignment::hypotheses(case);
    tokens::hypotheses(case);
    if case.is_settled() {
        return;
    }
    case.look_at_rows(prober);
    sampling::hypotheses(case);
    penalties::hypotheses(case);
    sampling::together(case);
    head::hypotheses(case);
    if !case.is_settled() {
        head_bias::hypotheses(case);
    }
    let segments = tokens::segments(case);
    shape::stretches(case, &segments);
    type Family = fn(&mut Case<'_>, &mut Budgeted<'_>);
    let families: [Family; 4] =
        [weights::hypotheses, context::hypotheses, position::hypotheses, altered_prompt::hypotheses];
    if !case.is_settled() {
        altered::completion(case, prober, &segments);
    }
    for family in families {
        if case.is_settled() {
            return;
        }
        family(case, prober);
    }
}

/// What is left of the floor once the logits are rounded, where the head alone is coarse.
const NOTHING_LEFT: f64 = 0.1;
/// Share of `|d|` that rounding then explains, and mean `|d|` in floors below which it is not worth a look at rows.
const ALL_EXPLAINED: f64 = 0.85;
const WORTH_A_LOOK: f64 = 0.02;
/// Rows that suffice.
const FEW_ROWS: usize = 48;

/// An engine whose head alone is coarse is within the floor of a bf16 engine; what tells it is that nothing is left at all
/// once the logits are rounded.
fn exact_head(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    if case.observed.iter().any(|observed| observed.excess().multiple() < WORTH_A_LOOK) {
        return;
    }
    case.look_at_rows(prober);
    head::low_precision(case);
    head::lattice(case);
    let is_exact = |tried: &hypothesis::Tried| {
        let pooled = tried.pooled();
        pooled.explained() > ALL_EXPLAINED && pooled.residual() < NOTHING_LEFT
    };
    case.tried.retain(is_exact);
}

/// Numbers that are no logprobs come first, unless they are what another fault leaves at the ends.
fn add_health(findings: &mut Vec<Finding>, health: &Health) {
    let behind = health.only_edges && findings.iter().any(|finding| finding.cause == Cause::ShiftedLogprobs);
    let place = if behind { findings.len() } else { 0 };
    findings.splice(place..place, health.findings.iter().cloned());
}

/// What is wrong with the numbers of a request: of each cause the strongest sequence's words.
fn of_request(health: &[Health]) -> Health {
    let mut all = Health { only_edges: health.iter().all(|health| health.only_edges), ..Health::default() };
    for cause in [Cause::SentinelValues, Cause::NonFinite, Cause::PositiveLogprobs, Cause::PlaceholderZeros] {
        let with: Vec<&Finding> =
            health.iter().flat_map(|health| &health.findings).filter(|finding| finding.cause == cause).collect();
        if let Some(first) = with.first() {
            let evidence =
                format!("{} of {} sequences; in the first of them {}", with.len(), health.len(), first.evidence);
            all.findings.push(Finding { evidence, ..(*first).clone() });
        }
    }
    all
}
