//! Where the time of scoring went, as the model thread says: stages of a request's trace.

use std::time::{Instant, SystemTime};

use plumbline_scheduler::{Course, SequenceOutcome};

use crate::trace::{Stage, Value};

/// Of each batch in which sequences of a request were scored: how long the first of them waited for it, and its forward and head. The
/// model says how long these took, not when; a head's pieces lie between those of a forward only where a batch was too large for the
/// memory, so they are told one after the other.
pub(super) fn of(outcomes: &[SequenceOutcome], at: &dyn Fn(Instant) -> SystemTime) -> Vec<Stage> {
    let mut batches: Vec<(Course, u64)> = Vec::new();
    for course in outcomes.iter().filter_map(|outcome| Some(outcome.as_ref().ok()?.course)) {
        match batches.iter_mut().find(|(batch, _)| (batch.started, batch.tokens) == (course.started, course.tokens)) {
            Some((_, own)) => *own += 1,
            None => batches.push((course, 1)),
        }
    }
    batches.sort_by_key(|(batch, _)| batch.started);
    let stages = |(batch, own): (Course, u64)| {
        let attributes = || {
            let counts = [
                ("plumbline.batch.tokens", batch.tokens as u64),
                ("plumbline.batch.sequences", batch.sequences as u64),
                ("plumbline.sequences", own),
            ];
            counts.map(|(name, count)| (name, Value::Count(count))).into()
        };
        let head = batch.started + batch.timing.forward;
        [
            ("queue", batch.admitted, batch.started.saturating_duration_since(batch.admitted)),
            ("forward", batch.started, batch.timing.forward),
            ("head", head, batch.timing.head),
        ]
        .map(|(name, from, took)| Stage { name, started_at: at(from), took, attributes: attributes() })
    };
    batches.into_iter().flat_map(stages).collect()
}
