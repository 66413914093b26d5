//! The one place where work enters the scheduler, and on what terms.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName};
use plumbline_core::ScoringSequence;
use plumbline_scheduler::{Class, Demand, ScoreError, SubmitError, Ticket};

use crate::body::{Origin, Verification};
use crate::problem::{Code, FieldError, Problem};
use crate::state::{AppState, draining, loading, reference_failed, restarting};

/// How urgent a request is: `interactive`, `standard` or `bulk`.
pub(crate) const PRIORITY: HeaderName = HeaderName::from_static("plumbline-priority");

/// Seconds from the arrival of a request's headers in which its answer is wanted.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("plumbline-timeout");

/// Longest timeout that can be asked for, in seconds.
const MAX_TIMEOUT: f64 = 86_400.0;

/// On what terms work is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) class: Class,
    /// What has not started by then is dropped.
    pub(crate) deadline: Option<Instant>,
}

impl Terms {
    /// What a request's headers ask for; `otherwise` is its class if they do not say.
    ///
    /// # Errors
    /// 400 naming the header that cannot be understood.
    pub(crate) fn of(headers: &HeaderMap, otherwise: Class) -> Result<Self, Problem> {
        let class = match single(headers, &PRIORITY)? {
            None => otherwise,
            Some(name) => {
                Class::named(name).ok_or_else(|| invalid(&PRIORITY, name, "must be interactive, standard or bulk"))?
            }
        };
        let deadline = match single(headers, &TIMEOUT)? {
            None => None,
            Some(text) => {
                let seconds = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0 && *seconds <= MAX_TIMEOUT);
                let seconds =
                    seconds.ok_or_else(|| invalid(&TIMEOUT, text, "must be seconds, above 0 and at most 86400"))?;
                Some(Instant::now() + Duration::from_secs_f64(seconds))
            }
        };
        Ok(Self { class, deadline })
    }

    /// Refuses what has no meaning for work that is accepted and answered later: it always is bulk, and it is never dropped.
    ///
    /// # Errors
    /// 400 naming the header.
    pub(crate) fn fit_accepted_work(&self) -> Result<(), Problem> {
        if self.deadline.is_some() {
            return Err(invalid(&TIMEOUT, "with respond-async", "is for requests that are answered at once"));
        }
        if self.class != Class::Bulk {
            let reason = "is for requests that are answered at once; what is answered later is bulk";
            return Err(invalid(&PRIORITY, self.class.as_str(), reason));
        }
        Ok(())
    }

    /// Of work for which nobody waits.
    pub(crate) fn bulk() -> Self {
        Self { class: Class::Bulk, deadline: None }
    }
}

/// The value of a header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid(name, "several values", "must be given once"));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(invalid(name, "bytes that are no text", "must be text")),
    }
}

fn invalid(name: &HeaderName, value: &str, reason: &str) -> Problem {
    Problem::new(Code::InvalidHeader, format!("header {name}: {value:?} {reason}"))
}

/// Submits the work of a verification, all of it or none.
///
/// # Errors
/// 429 while there is no room for it, 503 while nothing is taken, 413 and 422 for what never will be, 500 for what is in
/// quarantine.
pub(super) fn admit(
    state: &AppState,
    verification: &Verification,
    work: Vec<ScoringSequence>,
    terms: &Terms,
) -> Result<Ticket, Problem> {
    let demand = Demand { class: terms.class, run: verification.run.as_str().into(), deadline: terms.deadline };
    state.scheduler.submit_for(work, &demand).map_err(|refused| {
        let detail = refused.to_string();
        match refused {
            SubmitError::Loading => loading(),
            SubmitError::Restarting { retry_after } => restarting().retry_after(retry_after),
            SubmitError::Draining => draining(),
            SubmitError::Failed { reason } => reference_failed(&reason),
            SubmitError::QueueFull { retry_after, .. } | SubmitError::TooSlow { retry_after, .. } => {
                Problem::new(Code::QueueFull, detail).retry_after(retry_after)
            }
            SubmitError::TooLarge { .. } => {
                Problem::new(Code::RequestTooLarge, format!("{detail}; send fewer sequences at a time"))
            }
            // It left between the look and the submit.
            SubmitError::VersionUnavailable { .. } => Problem::new(Code::PolicyVersionUnavailable, detail),
            SubmitError::SequenceTooLong { index, .. } => {
                let pointer = place_of(verification, index).map(|(_, origin)| origin.pointer("/completion_token_ids"));
                Problem::field(Code::SequenceTooLong, pointer.unwrap_or_default(), detail)
            }
            SubmitError::Quarantined { index, retry_after } => {
                quarantined(verification, index).retry_after(retry_after)
            }
        }
    })
}

/// Why admitted work has no outcomes.
pub(super) fn unscored(error: &ScoreError) -> Problem {
    match error {
        ScoreError::Stopped => draining(),
        ScoreError::DeadlineExceeded => deadline_exceeded(),
    }
}

/// 504: the time that the client gave is over.
pub(super) fn deadline_exceeded() -> Problem {
    Problem::new(Code::DeadlineExceeded, "the time of Plumbline-Timeout is over; what had not started was dropped")
}

/// The same problem as when the sequence was tried.
fn quarantined(verification: &Verification, piece: usize) -> Problem {
    let Some((index, _)) = place_of(verification, piece) else {
        return Problem::new(Code::ScoringFailed, "a sequence is not tried again yet");
    };
    let id = verification.rollouts.get(index).map_or("", |rollout| rollout.id.as_str());
    let detail = format!("sequence {id:?} could not be scored and is not tried again yet");
    Problem::fields(vec![FieldError { code: Code::ScoringFailed, pointer: format!("/sequences/{index}"), detail }])
}

/// Which rollout a piece of the work belongs to and what it was read from: a rollout has a piece for each version of the
/// weights that sampled it.
fn place_of(verification: &Verification, piece: usize) -> Option<(usize, &Origin)> {
    let pieces = verification.rollouts.iter().zip(&verification.origins).enumerate();
    pieces
        .flat_map(|(index, (rollout, origin))| rollout.versions().into_iter().map(move |_| (index, origin)))
        .nth(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn headers_say_what_is_asked_for() {
        let asked = Terms::of(&headers(&[]), Class::Standard).unwrap();
        assert_eq!(asked, Terms { class: Class::Standard, deadline: None });
        let asked = Terms::of(&headers(&[(&PRIORITY, "interactive"), (&TIMEOUT, " 0.5 ")]), Class::Standard).unwrap();
        assert_eq!(asked.class, Class::Interactive);
        assert!(asked.deadline.unwrap() <= Instant::now() + Duration::from_millis(500));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for bad in [&[(&PRIORITY, "urgent")][..], &[(&PRIORITY, "bulk"), (&PRIORITY, "bulk")]] {
            let problem = Terms::of(&headers(bad), Class::Standard).unwrap_err();
            assert!(
                problem.code == Code::InvalidHeader && problem.detail.contains("plumbline-priority"),
                "{problem:?}"
            );
        }
        for bad in ["0", "-1", "soon", "NaN", "inf", "86401", ""] {
            let problem = Terms::of(&headers(&[(&TIMEOUT, bad)]), Class::Standard).unwrap_err();
            assert!(problem.code == Code::InvalidHeader && problem.detail.contains(bad), "{problem:?}");
        }
    }
}
