//! After a restart the monitor sees again what it saw before; and what it has forgotten since can be recalled.

use std::time::{Instant, SystemTime};

use plumbline_divergence::{GroupKey, GroupTotals, GroupView, SequenceSummary};
use plumbline_store::{Filter, GroupRow, Reader};

use super::Ledger;
use super::rows::{RowError, Totals, each_row, summary_of};
use crate::metrics::{Clock, DivergenceMetrics};

/// Sequences that are replayed at most: the latest. Trends, drift and causes are of them; the sums of a run are of all.
const MAX_REPLAYED: u64 = 200_000;

/// The clock of a monitor that is to see again what is stored.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn clock(ledger: &Ledger) -> Result<Clock, RowError> {
    let Some(store) = ledger.store() else { return Ok(Clock::since(SystemTime::now())) };
    let first = store.reader().groups()?.into_iter().map(|group| group.first_at).min();
    Ok(Clock::since(first.unwrap_or_else(SystemTime::now)))
}

/// Shows a monitor that has seen nothing the stored sequences, and gives it the sums of all that were ever counted. Blocks.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn replay(ledger: &Ledger, divergence: &DivergenceMetrics) -> Result<(), RowError> {
    let Some(store) = ledger.store() else { return Ok(()) };
    let (started, mut sequences) = (Instant::now(), 0u64);
    each_summary(store.reader(), None, &mut |at, run, engine, summary| {
        sequences += 1;
        divergence.replay(at, run, engine, summary);
    })?;
    let totals = store.reader().groups()?.into_iter().map(totals).collect::<Result<Vec<_>, _>>()?;
    let groups = totals.len();
    divergence.replayed(totals);
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(sequences, groups, ms, "the monitor knows again what was stored");
    Ok(())
}

/// Everything that the store knows of a run that the monitor has forgotten, or never had room for; empty for one that it does not
/// know either. Blocks.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn recall(ledger: &Ledger, divergence: &DivergenceMetrics, run: &str) -> Result<Vec<GroupView>, RowError> {
    let Some(store) = ledger.store() else { return Ok(Vec::new()) };
    let groups = store.reader().groups_of(run)?;
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let totals = groups.into_iter().map(totals).collect::<Result<Vec<_>, _>>()?;
    divergence.recall(run, totals, |observe| each_summary(store.reader(), Some(run), observe))
}

/// What is told of each sequence: when it was answered, its run and engine, what the monitor sees of it.
type Observe<'a> = dyn FnMut(SystemTime, &str, &str, &SequenceSummary) + 'a;

/// The latest sequences, of one run or of all, in order.
fn each_summary(reader: &Reader, run: Option<&str>, observe: &mut Observe<'_>) -> Result<(), RowError> {
    let filter = Filter { run: run.map(str::to_owned), since: None, last: Some(MAX_REPLAYED) };
    each_row(reader, &filter, |row| {
        observe(row.at, &row.run, &row.engine, &summary_of(&row)?);
        Ok(())
    })
}

/// The sums of everything that was ever counted of a group. A group without a summary has no sums: nothing was counted.
fn totals(group: GroupRow) -> Result<(GroupKey, SystemTime, GroupTotals), RowError> {
    let GroupRow { run, engine, first_at, summary, .. } = group;
    let sums = if summary.is_empty() { Ok(GroupTotals::default()) } else { Totals::read(&summary) };
    match sums {
        Ok(sums) => Ok((GroupKey { run, engine }, first_at, sums)),
        Err(reason) => Err(RowError::Summary { run, engine, reason }),
    }
}
