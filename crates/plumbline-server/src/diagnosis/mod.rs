//! Why suspicious sequences are suspicious: one thread that looks for causes, beside scoring.
//!
//! Who asks (`include: ["diagnosis"]`) waits for the answer, bounded in tokens and in time. Everything else that is suspicious is
//! diagnosed as far as a budget of tokens a minute goes. Either way the model is only asked in small jobs, which get their
//! share of a model thread's time and no more: traffic never waits for a diagnosis.

mod budget;
mod case;
mod runner;
mod waiting;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use plumbline_divergence::{Diagnosis, DiagnosisConfig, DiagnosisInput, Prober};
use plumbline_scheduler::Scheduler;
use tokio::sync::oneshot;

pub(crate) use self::case::{Case, CaseFloor, CaseSequence};
use self::runner::Runner;
pub(crate) use self::waiting::Room;
use self::waiting::{Asked, Waiting};
use crate::config::Config;
use crate::metrics::ServiceMetrics;
use crate::weights::ModelKnowledge;

/// What finds causes: `plumbline_divergence::diagnose`.
pub(crate) type Diagnose = fn(&DiagnosisInput<'_>, &mut dyn Prober, &DiagnosisConfig) -> Diagnosis;

/// Is told of each finished diagnosis.
pub(crate) type Heard = Box<dyn Fn(&Case, &Diagnosis) + Send>;

/// Why a sequence that was asked for has no diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDiagnosed {
    #[error("not diagnosed: too many requests wait for their diagnoses")]
    Full,
    #[error("not diagnosed: the search for causes ended unexpectedly or the server is shutting down")]
    Ended,
}

/// The handle to the thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Diagnoses {
    waiting: Arc<Waiting>,
    metrics: ServiceMetrics,
    patience: Duration,
}

impl Diagnoses {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread could not be spawned.
    pub(crate) fn start(
        config: &Config,
        scheduler: Scheduler,
        metrics: ServiceMetrics,
        known: ModelKnowledge,
        diagnose: Diagnose,
        heard: Heard,
    ) -> io::Result<Self> {
        let waiting = Arc::new(Waiting::new(config.diagnosis_tokens_per_minute, config.diagnosis_request_tokens));
        let runner = Runner {
            waiting: Arc::clone(&waiting),
            scheduler,
            metrics: metrics.clone(),
            limits: config.piece_limits(),
            request_tokens: config.diagnosis_request_tokens,
            known,
            diagnose,
            heard,
        };
        thread::Builder::new().name("plumbline-diagnosis".into()).spawn(move || runner.run())?;
        Ok(Self { waiting, metrics, patience: Duration::from_secs(config.diagnosis_request_seconds) })
    }

    /// Diagnoses for somebody who waits. Dropping the future cancels.
    ///
    /// # Errors
    /// [`NotDiagnosed`].
    pub(crate) async fn ask(&self, case: Case) -> Result<Diagnosis, NotDiagnosed> {
        let (reply, answer) = oneshot::channel();
        let asked = Asked { case, deadline: Instant::now() + self.patience, reply };
        if !self.waiting.ask(asked) {
            self.metrics.diagnosis_dropped();
            return Err(NotDiagnosed::Full);
        }
        answer.await.map_err(|_| NotDiagnosed::Ended)
    }

    /// Whether another case would be taken, `asked` for or offered; counts one that would not be for want of room as dropped.
    pub(crate) fn room(&self, asked: bool) -> Room {
        let room = self.waiting.room(asked);
        if room == Room::Full {
            self.metrics.diagnosis_dropped();
        }
        room
    }

    /// Diagnoses when there is time and budget, or counts it as dropped.
    pub(crate) fn offer(&self, case: Case) {
        if !self.waiting.offer(case) {
            self.metrics.diagnosis_dropped();
        }
        self.metrics.diagnoses_waiting(self.waiting.offered());
    }
}

impl Drop for Diagnoses {
    fn drop(&mut self) {
        self.waiting.close();
    }
}
