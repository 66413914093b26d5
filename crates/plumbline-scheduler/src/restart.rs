//! Making a model thread's copies of the weights anew, after its model failed.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use plumbline_core::{PackedBatch, ReferenceInfo, ReferenceModel, ScoringSequence};

use crate::copies::difference;
use crate::model_thread::{ModelThread, catch_panic, load_model};

/// Loads a copy of a version of the weights, any number of times.
pub type Load = Arc<dyn Fn() -> Result<Box<dyn ReferenceModel>, String> + Send + Sync>;

/// A copy of a version, and what can make it again.
pub(crate) struct Held {
    pub(crate) model: Box<dyn ReferenceModel>,
    pub(crate) again: Option<Load>,
}

/// Times that a version is tried to load before it is given up.
const ATTEMPTS: usize = 3;

/// Time between two of them: a file system may be away for a moment.
const PAUSE: Duration = Duration::from_secs(1);

impl ModelThread<'_> {
    /// Whether the model of a version still scores what nothing can be wrong with. After an error that stays in the device
    /// it would fail everything, and each sequence would be blamed for it.
    pub(crate) fn is_healthy(&mut self, reference: &Arc<ReferenceInfo>) -> bool {
        let harmless = ScoringSequence::all_tokens(vec![0, 0]);
        let scored = catch_panic(|| self.model_of(reference)?.score(&PackedBatch::pack([&harmless])));
        matches!(scored, Ok(Ok(scores)) if scores.sequences.len() == 1)
    }

    /// Drops all copies and loads them again, if all can be. Whether that was done; if the current version cannot be loaded
    /// any more, [`ModelThread::lost`] says why, and the thread has no future.
    pub(crate) fn restart(&mut self) -> bool {
        let Some(loads) = self.again.iter().cloned().collect::<Option<Vec<Load>>>() else {
            tracing::warn!("the model goes on after a failure: there is nothing to load its weights from again");
            return false;
        };
        let began = Instant::now();
        tracing::error!(versions = loads.len(), "a model thread loads its weights again");
        self.shared.restarting(self.thread);
        let mut infos = Vec::with_capacity(self.versions.len());
        for (info, model) in self.versions.drain(..) {
            // The memory must be free before anything is loaded. A destructor may trip over what the failure left.
            if let Err(panic) = catch_panic(|| drop(model)) {
                tracing::error!(%panic, policy_version = info.policy_version, "dropping failed weights panicked");
            }
            infos.push(info);
        }
        self.again.clear();
        let current = self.shared.reference();
        for (info, load) in infos.into_iter().zip(loads) {
            match load_again(&info, &load) {
                Ok(model) => {
                    self.versions.push((info, model));
                    self.again.push(Some(load));
                }
                Err(reason) => {
                    tracing::error!(policy_version = info.policy_version, %reason, "a version is lost");
                    if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &info)) {
                        self.lost = Some(format!("the weights could not be loaded again: {reason}"));
                        return true;
                    }
                    self.shared.lost(&info);
                }
            }
        }
        self.panics = 0;
        self.shared.restarted(self.thread, began.elapsed());
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "the model thread scores again");
        true
    }
}

/// The same version again.
fn load_again(info: &ReferenceInfo, load: &Load) -> Result<Box<dyn ReferenceModel>, String> {
    let mut reason = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            thread::sleep(PAUSE);
        }
        match load_model(|| load()) {
            Ok((model, found)) => {
                let version = (found.policy_version != info.policy_version).then_some("policy_version");
                return match difference(info, &found).map(|difference| difference.field).or(version) {
                    Some(field) => Err(format!("what was loaded differs in {field}")),
                    None => Ok(model),
                };
            }
            Err(error) => reason = error,
        }
    }
    Err(reason)
}
