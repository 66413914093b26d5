//! The thread that looks for causes.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use plumbline_divergence::{Diagnosis, DiagnosisConfig, DiagnosisInput, SuspectSequence};
use plumbline_probe::{AsideProber, PieceLimits};
use plumbline_scheduler::Scheduler;

use super::waiting::{Asked, Next, Offered, Waiting};
use super::{Case, Diagnose, Heard};
use crate::metrics::ServiceMetrics;
use crate::weights::ModelKnowledge;

pub(crate) struct Runner {
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) scheduler: Scheduler,
    pub(crate) metrics: ServiceMetrics,
    pub(crate) limits: PieceLimits,
    /// Of one case.
    pub(crate) request_tokens: usize,
    pub(crate) known: ModelKnowledge,
    pub(crate) diagnose: Diagnose,
    pub(crate) heard: Heard,
}

/// A diagnosis and what it took.
struct Found {
    /// `None` if it panicked.
    diagnosis: Option<Diagnosis>,
    tokens: usize,
}

impl Runner {
    /// Body of the thread.
    pub(crate) fn run(self) {
        while let Some(next) = self.waiting.next() {
            match next {
                Next::Asked(asked) => self.answer(asked),
                Next::Offered(offered) => self.look_into(offered),
            }
            self.metrics.diagnoses_waiting(self.waiting.offered());
        }
    }

    fn answer(&self, asked: Asked) {
        let Asked { case, deadline, reply } = asked;
        if reply.is_closed() {
            return;
        }
        let found = self.find(&case, Some(deadline), &|| reply.is_closed());
        if let Some(diagnosis) = found.diagnosis {
            (self.heard)(&case, &diagnosis);
            // Nobody listens any more if the client left meanwhile.
            drop(reply.send(diagnosis));
        }
    }

    fn look_into(&self, offered: Offered) {
        let found = self.find(&offered.case, None, &|| self.waiting.is_pressing());
        self.waiting.spend(found.tokens);
        let Some(diagnosis) = found.diagnosis else { return };
        if diagnosis.exhausted && self.waiting.is_pressing() {
            // Half a diagnosis would blame the wrong thing. Once more later, but not for ever.
            if offered.interrupted {
                self.metrics.diagnosis_dropped();
            } else {
                self.waiting.put_back(offered);
            }
            return;
        }
        (self.heard)(&offered.case, &diagnosis);
    }

    fn find(&self, case: &Case, deadline: Option<Instant>, give_up: &dyn Fn() -> bool) -> Found {
        let sequences: Vec<_> = case
            .sequences
            .iter()
            .map(|sequence| SuspectSequence {
                rollout: &sequence.rollout,
                scores: &sequence.scores,
                comparison: &sequence.comparison,
                cached_tokens: sequence.cached_tokens,
            })
            .collect();
        let input = DiagnosisInput { sequences: &sequences, model: &self.known.facts, floor: &case.floor };
        let config = DiagnosisConfig { probe_tokens: self.request_tokens, ..DiagnosisConfig::default() };
        let mut prober = AsideProber {
            scheduler: &self.scheduler,
            limits: self.limits,
            tokens_left: self.request_tokens,
            deadline,
            give_up,
            text: self.known.text.as_deref(),
            supported: RefCell::default(),
        };
        // A defect in there must not cost the diagnoses of all others.
        let diagnosis = catch_unwind(AssertUnwindSafe(|| (self.diagnose)(&input, &mut prober, &config)));
        let diagnosis = diagnosis.inspect_err(|_| tracing::error!(run = case.run, "a diagnosis panicked")).ok();
        for failure in diagnosis.iter().flat_map(|diagnosis| &diagnosis.failures) {
            tracing::debug!(run = case.run, engine = case.engine, %failure, "a question of a diagnosis has no answer");
        }
        let tokens = self.request_tokens - prober.tokens_left;
        self.metrics.diagnosis_probed(tokens);
        Found { diagnosis, tokens }
    }
}
