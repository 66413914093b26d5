//! Targets whose number depends on a whole row of logits: what an engine reports after penalties and truncation.

use candle_core::Result;
use plumbline_core::{PackedBatch, Processed, ProcessedTargets, ProcessingScratch};
use rayon::prelude::*;

use crate::decoder::Decoder;
use crate::ops::Ops;

/// Targets of one sequence that one task takes: what stands before the first of them is counted anew, the rest is counted
/// on from there.
const RUN: usize = 8;

/// A target: the row that predicts it, its sequence among [`PackedBatch::processed`], and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    row: u32,
    sequence: usize,
    number: usize,
}

/// For each of [`PackedBatch::processed`], the logprobs of its targets after its processing, in nats; minus infinity for a
/// token that is left out. A number depends on its own sequence only, whatever else is in the batch.
pub(crate) fn logprobs<O: Ops>(
    decoder: &Decoder,
    hidden: &O::Rows,
    batch: &PackedBatch,
    ops: &O,
) -> Result<Vec<Vec<f64>>> {
    let processed = batch.processed();
    let targets = |sequence: usize| &batch.targets()[batch.sequence_targets()[processed[sequence].sequence].clone()];
    let mut places: Vec<Place> = (0..processed.len())
        .flat_map(|sequence| {
            let targets = targets(sequence).iter().enumerate();
            targets.map(move |(number, target)| Place { row: target.row as u32, sequence, number })
        })
        .collect();
    places.sort_unstable();
    let mut rows: Vec<u32> = places.iter().map(|place| place.row).collect();
    rows.dedup();
    let mut logprobs: Vec<Vec<f64>> =
        (0..processed.len()).map(|sequence| vec![f64::NAN; targets(sequence).len()]).collect();

    let mut rest = places.as_mut_slice();
    decoder.head_logits(hidden, &rows, ops, &mut |first, logits| {
        let vocabulary = decoder.spec().vocab_size;
        let rows = &rows[first..first + logits.len() / vocabulary];
        let within = rest.partition_point(|place| rows.last().is_some_and(|last| place.row <= *last));
        let (own, after) = std::mem::take(&mut rest).split_at_mut(within);
        rest = after;
        own.sort_unstable_by_key(|place| (place.sequence, place.number));
        let runs: Vec<&[Place]> = own.chunk_by(follows).flat_map(|run| run.chunks(RUN)).collect();
        let found: Vec<Vec<f64>> = runs
            .par_iter()
            .map_init(ProcessingScratch::default, |scratch, run| {
                let row_of = |place: &Place| {
                    let at = rows.partition_point(|row| *row < place.row);
                    &logits[at * vocabulary..][..vocabulary]
                };
                let sequence = run.first().map_or(0, |place| place.sequence);
                run_logprobs(&processed[sequence], run, row_of, |place| targets(sequence)[place.number].token, scratch)
            })
            .collect();
        for (run, found) in runs.into_iter().zip(found) {
            for (place, logprob) in run.iter().zip(found) {
                logprobs[place.sequence][place.number] = logprob;
            }
        }
        Ok(())
    })?;
    Ok(logprobs)
}

/// Whether the second place is the next target of the same sequence.
fn follows(a: &Place, b: &Place) -> bool {
    a.sequence == b.sequence && a.number + 1 == b.number
}

/// Consecutive targets of one sequence.
fn run_logprobs<'a>(
    processed: &ProcessedTargets,
    run: &[Place],
    row_of: impl Fn(&Place) -> &'a [f32],
    token_of: impl Fn(&Place) -> u32,
    scratch: &mut ProcessingScratch,
) -> Vec<f64> {
    let mut seen = processed.seen_before(run.first().map_or(0, |place| place.number));
    let mut logprobs = Vec::with_capacity(run.len());
    for place in run {
        logprobs.push(match processed.processing.logprob(row_of(place), token_of(place), &seen, scratch) {
            Processed::Logprob(logprob) => logprob,
            Processed::OutsideSupport => f64::NEG_INFINITY,
        });
        processed.advance(&mut seen, place.number);
    }
    logprobs
}
