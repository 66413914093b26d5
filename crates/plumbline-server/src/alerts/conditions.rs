//! How everything that is watched is, at this moment.

use plumbline_divergence::{GroupSummary, Verdict, VerdictLevels};
use plumbline_scheduler::SchedulerState;
use plumbline_store::StoreState;

use super::alert::{AlertName, Labels};
use super::signals::{Look, Sign, Signal, Trouble};
use super::texts;
use crate::metrics::DivergenceMetrics;
use crate::state::AppState;
use crate::timestamp::rfc3339;

/// Looks at everything. `labels` are those that every alert gets.
pub(super) fn look(state: &AppState, labels: &Labels) -> Look {
    let mut signals = vec![Signal::new(AlertName::ScoringErrors, labels, reference(&state.scheduler.state()))];
    if let Some(store) = state.ledger.state() {
        signals.push(Signal::new(AlertName::StoreErrors, labels, store_sign(&store)));
    }
    let Some(resident) = state.loaded() else { return Look { signals, whole: false } };
    let groups = Groups {
        divergence: &resident.divergence,
        levels: state.config.verdict_levels(),
        external_url: state.config.external_url.as_deref().unwrap_or_default(),
        window_seconds: state.config.window_seconds,
    };
    for group in resident.divergence.groups() {
        let mut labels = labels.clone();
        let own = [("run", &group.key.run), ("engine", &group.key.engine)];
        labels.extend(own.map(|(name, value)| (name.to_owned(), value.clone())));
        labels.insert("model_name".into(), resident.divergence.model_name().to_owned());
        signals.push(Signal::new(AlertName::DivergenceHigh, &labels, groups.window(&group)));
        if group.drift_score.is_some() {
            signals.push(Signal::new(AlertName::DivergenceDrift, &labels, groups.drift(&group)));
        }
    }
    Look { signals, whole: true }
}

fn reference(state: &SchedulerState) -> Sign {
    let trouble = |certain, detail: String| {
        Sign::Bad(Trouble { certain, annotations: texts::reference_down(detail), ..Trouble::default() })
    };
    match state {
        SchedulerState::Ready => Sign::Good("the reference scores again".into()),
        // The service is about to end: there is no time to wait.
        SchedulerState::Failed { reason } => trouble(true, format!("The model thread ended: {reason}.")),
        SchedulerState::Restarting => trouble(false, "The reference loads its weights again after a failure.".into()),
        SchedulerState::Loading | SchedulerState::Draining | SchedulerState::Stopped => Sign::Unknown,
    }
}

fn store_sign(state: &StoreState) -> Sign {
    match state {
        StoreState::Ok => Sign::Good("the store works again".into()),
        StoreState::Closed => Sign::Unknown,
        StoreState::ReadOnly { reason }
        | StoreState::Full { reason }
        | StoreState::Corrupt { reason }
        | StoreState::Unavailable { reason } => {
            let annotations = texts::store_trouble(state.as_str(), reason);
            Sign::Bad(Trouble { annotations, ..Trouble::default() })
        }
    }
}

/// What runs and engines are judged with.
struct Groups<'a> {
    divergence: &'a DivergenceMetrics,
    levels: VerdictLevels,
    external_url: &'a str,
    window_seconds: u64,
}

impl Groups<'_> {
    /// The verdict on the window.
    fn window(&self, group: &GroupSummary) -> Sign {
        let judgement = self.levels.judge(&group.window);
        match judgement.verdict {
            Verdict::Insufficient => Sign::Unknown,
            Verdict::Consistent | Verdict::Suspect => {
                Sign::Good(format!("the window is {}: {}", judgement.verdict.as_str(), judgement.reason))
            }
            Verdict::Divergent => {
                let mut annotations = texts::divergent(group, &judgement.reason, self.window_seconds);
                self.add_cause(group, &mut annotations);
                self.trouble(group, Some(group.window.tokens), false, annotations)
            }
        }
    }

    /// What the drift detector found.
    fn drift(&self, group: &GroupSummary) -> Sign {
        let Some(event) = &group.drift_alarm else { return Sign::Good("the level of |d| is as it was".into()) };
        let began = rfc3339(self.divergence.time_of(event.began_at));
        let mut annotations = texts::drift(group, event, &began);
        self.add_cause(group, &mut annotations);
        // The detector's evidence is enough as it is: see its guarantee.
        self.trouble(group, Some(group.tokens), true, annotations)
    }

    fn trouble(&self, group: &GroupSummary, tokens: Option<u64>, certain: bool, annotations: Labels) -> Sign {
        Sign::Bad(Trouble {
            tokens,
            certain,
            annotations,
            generator_url: texts::link(self.external_url, &group.key.run),
        })
    }

    fn add_cause(&self, group: &GroupSummary, annotations: &mut Labels) {
        if let Some(found) = self.divergence.likeliest_cause(&group.key) {
            annotations.insert("cause".into(), found.cause.to_owned());
            annotations.insert("cause_evidence".into(), found.evidence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_store_is_well_or_not_or_says_nothing() {
        let reason = || "what was found".to_owned();
        for state in [
            StoreState::ReadOnly { reason: reason() },
            StoreState::Full { reason: reason() },
            StoreState::Corrupt { reason: reason() },
            StoreState::Unavailable { reason: reason() },
        ] {
            let Sign::Bad(trouble) = store_sign(&state) else { panic!("{state:?}") };
            assert!(trouble.annotations["summary"].contains(state.as_str()) && !trouble.certain);
            assert_eq!(trouble.annotations["description"], "what was found.");
        }
        assert!(matches!(store_sign(&StoreState::Ok), Sign::Good(_)));
        assert_eq!(store_sign(&StoreState::Closed), Sign::Unknown);
    }

    #[test]
    fn a_reference_that_is_lost_is_certain_and_one_that_loads_says_nothing() {
        let Sign::Bad(lost) = reference(&SchedulerState::Failed { reason: "out of luck".into() }) else { panic!() };
        assert!(lost.certain && lost.annotations["description"].contains("out of luck"));
        let Sign::Bad(again) = reference(&SchedulerState::Restarting) else { panic!() };
        assert!(!again.certain);
        assert!(matches!(reference(&SchedulerState::Ready), Sign::Good(_)));
        for state in [SchedulerState::Loading, SchedulerState::Draining, SchedulerState::Stopped] {
            assert_eq!(reference(&state), Sign::Unknown);
        }
    }
}
