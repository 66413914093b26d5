//! What was found out about single sequences, as long as the process lives and there is room.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use plumbline_divergence::Finding;

/// Sequences at most; beyond them the oldest diagnoses go. One takes about 1000 bytes.
const MOST: usize = 8192;

/// Findings by the server's id of a sequence.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<String, Arc<[Finding]>>,
    /// In the order in which they were found.
    order: VecDeque<String>,
}

impl Findings {
    /// Keeps what was found out about a sequence; empty = nothing beyond noise.
    pub(crate) fn keep(&self, id: &str, findings: &[Finding]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.by_id.insert(id.to_owned(), findings.into()).is_none() {
            inner.order.push_back(id.to_owned());
        }
        while inner.order.len() > MOST {
            if let Some(oldest) = inner.order.pop_front() {
                inner.by_id.remove(&oldest);
            }
        }
    }

    /// What was found out about a sequence; `None` = it was not diagnosed, or that is no longer known.
    pub(crate) fn of(&self, id: &str) -> Option<Arc<[Finding]>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use plumbline_divergence::Cause;

    use super::*;

    #[test]
    fn the_latest_diagnoses_are_kept() {
        let finding = |explained| Finding {
            cause: Cause::NumericalNoise,
            explained: Some(explained),
            residual_floor_multiple: None,
            evidence: String::new(),
        };
        let findings = Findings::default();
        findings.keep("0", &[finding(0.1)]);
        (0..MOST + 3).for_each(|number| findings.keep(&number.to_string(), &[finding(0.5)]));
        assert_eq!((findings.of("2"), findings.of("nobody")), (None, None));
        assert_eq!(findings.of("3").unwrap()[0].explained, Some(0.5));
        findings.keep("3", &[]);
        assert!(findings.of("3").unwrap().is_empty() && findings.inner.lock().unwrap().order.len() == MOST);
    }
}
