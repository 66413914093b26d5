//! Work on its way into the queue, and out of it unscored.

use std::sync::Arc;
use std::time::Instant;

use plumbline_core::{ReferenceInfo, ScoringSequence};

use super::{Shared, Work};
use crate::entry::{Entry, cost};
use crate::group::Group;
use crate::queue::Arriving;
use crate::reply::Reply;
use crate::{Class, Demand, DropReason, SchedulerState, ScoreError, SubmitError, Ticket};

impl Shared {
    /// Admits all sequences or none.
    pub(crate) fn submit(
        self: &Arc<Self>,
        sequences: Vec<ScoringSequence>,
        demand: &Demand,
    ) -> Result<Ticket, SubmitError> {
        let admitted = self.try_submit(sequences, demand);
        if let Err(error) = &admitted {
            self.observer.refused(demand.class, error);
        }
        admitted
    }

    fn try_submit(self: &Arc<Self>, sequences: Vec<ScoringSequence>, demand: &Demand) -> Result<Ticket, SubmitError> {
        let tokens = sequences.iter().map(cost).fold(0, usize::saturating_add);
        let count = sequences.len();
        // Before the lock: this looks at every token.
        let marks: Vec<_> = sequences.iter().map(|sequence| (Group::of(sequence), self.digests.of(sequence))).collect();
        let digests: Vec<u64> = marks.iter().map(|(_, digest)| *digest).collect();
        let digest = self.digests.of_all(&digests);
        let mut locked = self.lock();
        let work = &mut *locked;
        self.check_open(work)?;
        let sequences = self.with_versions(sequences)?;
        let now = Instant::now();
        if let Some((index, retry_after)) = work.quarantine.find(&digests, now) {
            return Err(SubmitError::Quarantined { index, retry_after });
        }
        let waiting = Class::ALL.map(|class| work.queue.amount_of(class));
        work.admission.decide(demand.class, tokens, digest, &waiting, now)?;
        let (reply, receiver) = Reply::new(count);
        if count == 0 {
            return Ok(Ticket::new(None, receiver, demand.deadline, Arc::clone(self)));
        }
        let arriving = sequences.into_iter().zip(marks).map(|((sequence, reference), (group, digest))| Arriving {
            sequence,
            reference,
            group,
            digest,
        });
        let number = work.queue.push(arriving.collect(), demand, &Arc::new(reply), now);
        self.observe_queue(work);
        drop(locked);
        // All: there may be a batch for each.
        self.wake.notify_all();
        Ok(Ticket::new(Some(number), receiver, demand.deadline, Arc::clone(self)))
    }

    /// Removes what still waits of a ticket that is gone.
    pub(crate) fn cancel(&self, ticket: u64, reason: DropReason) {
        let mut work = self.lock();
        let cancelled = work.queue.cancel(ticket);
        if cancelled.sequences > 0 {
            self.observe_queue(&work);
            drop(work);
            self.observer.dropped(reason, cancelled.sequences, cancelled.tokens);
        }
    }

    /// Removes what is past its deadline.
    pub(super) fn drop_expired(&self, work: &mut Work, now: Instant) {
        let expired = work.queue.take_expired(now);
        if expired.is_empty() {
            return;
        }
        self.observe_queue(work);
        self.observer.dropped(DropReason::Deadline, expired.len(), expired.iter().map(|entry| entry.tokens).sum());
        expired.into_iter().for_each(|entry: Entry| entry.fail(ScoreError::DeadlineExceeded));
    }

    fn check_open(&self, work: &Work) -> Result<(), SubmitError> {
        match &*self.state.borrow() {
            SchedulerState::Ready => Ok(()),
            SchedulerState::Loading => Err(SubmitError::Loading),
            SchedulerState::Restarting => Err(SubmitError::Restarting { retry_after: work.load_time }),
            SchedulerState::Draining | SchedulerState::Stopped => Err(SubmitError::Draining),
            SchedulerState::Failed { reason } => Err(SubmitError::Failed { reason: Arc::clone(reason) }),
        }
    }

    /// Finds each sequence's version.
    fn with_versions(
        &self,
        sequences: Vec<ScoringSequence>,
    ) -> Result<Vec<(ScoringSequence, Arc<ReferenceInfo>)>, SubmitError> {
        let residents = self.residents.borrow();
        let current = residents.current().ok_or(SubmitError::Loading)?;
        let with_version = |(index, sequence): (usize, ScoringSequence)| {
            let reference = match &sequence.policy_version {
                None => current,
                Some(version) => residents
                    .get(version)
                    .ok_or_else(|| SubmitError::VersionUnavailable { index, policy_version: version.clone() })?,
            };
            let (tokens, limit) = (sequence.token_ids.len(), reference.limits.max_positions);
            if tokens > limit {
                return Err(SubmitError::SequenceTooLong { index, tokens, limit });
            }
            Ok((sequence, Arc::clone(reference)))
        };
        sequences.into_iter().enumerate().map(with_version).collect()
    }
}
