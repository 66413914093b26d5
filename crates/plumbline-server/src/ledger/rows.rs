//! Sequences as the store keeps them.

use std::ops::ControlFlow;

use plumbline_core::{SkipCounts, TokenId};
use plumbline_divergence::{
    GroupTotals, Metrics, SequenceComparison, SequenceSummary, SufficientStatistics, TokenComparison, Verdict,
};
use plumbline_store::{
    Digest, Filter, MergeSummaries, NewSequence, Packed, Reader, SequenceRow, StoreError, TokenRows,
};
use serde::{Deserialize, Serialize};

use crate::sequences::StoredSequence;
use crate::verify::AnsweredSequence;

/// A row that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("sequence {id} in the store cannot be read: {reason}")]
    Sequence { id: String, reason: String },
    #[error("the summary of run {run:?}, engine {engine:?} in the store cannot be read: {reason}")]
    Summary { run: String, engine: String, reason: String },
}

/// What the store keeps of a sequence beside its columns and its tokens. JSON: fields can be added later.
#[derive(Debug, Serialize, Deserialize)]
struct Observed {
    summary: SequenceSummary,
    /// What metrics need of single values: quantiles of `|d|` and Spearman.
    #[serde(default)]
    values: Values,
    last_of_prompt: Option<TokenId>,
    eos_probability: Option<f64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Values {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    spearman: Option<f64>,
}

/// What a sequence adds to the summary of its run and engine.
#[derive(Debug, Serialize, Deserialize)]
struct Contribution {
    statistics: SufficientStatistics,
    skipped: SkipCounts,
    verdict: Option<Verdict>,
}

/// A sequence for the store. CPU-bound.
///
/// # Errors
/// Something cannot be written as JSON: a defect.
pub(super) fn new_sequence(digest: Digest, answered: &AnsweredSequence) -> serde_json::Result<NewSequence> {
    let AnsweredSequence { summary, stored } = answered;
    let metrics = &stored.metrics;
    let observed = Observed {
        summary: summary.clone(),
        values: Values {
            p50: metrics.p50_abs_logprob,
            p90: metrics.p90_abs_logprob,
            p99: metrics.p99_abs_logprob,
            p999: metrics.p999_abs_logprob,
            spearman: metrics.spearman_logprob,
        },
        last_of_prompt: stored.last_of_prompt,
        eos_probability: stored.comparison.eos_probability,
    };
    let contribution =
        Contribution { statistics: summary.statistics.clone(), skipped: summary.skipped, verdict: summary.verdict };
    let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
    Ok(NewSequence {
        id: stored.id.clone(),
        digest,
        sequence_id: stored.comparison.id.clone(),
        worker: stored.worker.clone(),
        policy_version: stored.policy_version.clone(),
        verdict: stored.verdict.as_str().to_owned(),
        verdict_reason: stored.verdict_reason.clone(),
        tokens: count(stored.comparison.tokens.len()),
        compared: u32::try_from(summary.statistics.tokens).unwrap_or(u32::MAX),
        kl_k3: metrics.kl_k3,
        mae: metrics.mae_logprob,
        observation: Packed::new(&serde_json::to_vec(&observed)?),
        token_rows: Some(TokenRows::new(&stored.comparison.tokens)),
        contribution: serde_json::to_vec(&contribution)?,
    })
}

/// Shows `each` the sequences of a filter, in order, up to the first that it cannot read. Blocks.
///
/// # Errors
/// That one, or the store cannot be read.
pub(super) fn each_row<E: From<RowError>>(
    reader: &Reader,
    filter: &Filter,
    mut each: impl FnMut(SequenceRow) -> Result<(), E>,
) -> Result<(), E> {
    let mut failed = None;
    let read = reader.each_sequence(filter, &mut |row| match each(row) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    });
    read.map_err(RowError::from)?;
    failed.map_or(Ok(()), Err)
}

/// What the monitor saw of a stored sequence. CPU-bound.
///
/// # Errors
/// The row is damaged.
pub(crate) fn summary_of(row: &SequenceRow) -> Result<SequenceSummary, RowError> {
    Ok(observed(row)?.summary)
}

/// A stored sequence as it was answered; `tokens` are `None` where retention took them. CPU-bound.
///
/// # Errors
/// The row is damaged.
pub(crate) fn stored_sequence(
    row: SequenceRow,
    tokens: Option<Vec<TokenComparison>>,
) -> Result<StoredSequence, RowError> {
    let Observed { summary, values, last_of_prompt, eos_probability } = observed(&row)?;
    let metrics = Metrics {
        p50_abs_logprob: values.p50,
        p90_abs_logprob: values.p90,
        p99_abs_logprob: values.p99,
        p999_abs_logprob: values.p999,
        spearman_logprob: values.spearman,
        ..Metrics::of_statistics(&summary.statistics)
    };
    let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.as_str() == row.verdict);
    let verdict = verdict.ok_or_else(|| RowError::Sequence {
        id: row.id.clone(),
        reason: format!("unknown verdict {:?}", row.verdict),
    })?;
    Ok(StoredSequence {
        id: row.id,
        run: row.run,
        engine: row.engine,
        worker: row.worker,
        policy_version: row.policy_version,
        at: row.at,
        verdict,
        verdict_reason: row.verdict_reason,
        metrics,
        last_of_prompt,
        length: row.tokens as usize,
        statistics: summary.statistics,
        comparison: SequenceComparison {
            id: row.sequence_id,
            tokens: tokens.unwrap_or_default(),
            skipped: summary.skipped,
            eos_probability,
        },
    })
}

fn observed(row: &SequenceRow) -> Result<Observed, RowError> {
    serde_json::from_slice(&row.observation.open()?)
        .map_err(|error| RowError::Sequence { id: row.id.clone(), reason: error.to_string() })
}

/// Sums up what the sequences of a run and engine contribute, for ever: the sums outlive the sequences.
#[derive(Debug)]
pub(crate) struct Totals;

impl Totals {
    /// A summary as it was written.
    ///
    /// # Errors
    /// It is damaged; says how.
    pub(crate) fn read(summary: &[u8]) -> Result<GroupTotals, String> {
        serde_json::from_slice(summary).map_err(|error| error.to_string())
    }
}

impl MergeSummaries for Totals {
    fn merge(&self, current: Option<&[u8]>, added: &[&[u8]]) -> Result<Vec<u8>, String> {
        let mut totals = current.map(Self::read).transpose()?.unwrap_or_default();
        for contribution in added {
            let Contribution { statistics, skipped, verdict } =
                serde_json::from_slice(contribution).map_err(|error| error.to_string())?;
            totals.observe(&statistics, &skipped, verdict);
        }
        serde_json::to_vec(&totals).map_err(|error| error.to_string())
    }
}
