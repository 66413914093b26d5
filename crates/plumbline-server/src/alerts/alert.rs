//! One alert: who it is about, what is said of it, from when to when.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::timestamp::rfc3339;

/// Names and values.
pub(crate) type Labels = BTreeMap<String, String>;

/// What alerts are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AlertName {
    /// The level of a run and engine changed.
    DivergenceDrift,
    /// The window of a run and engine is divergent.
    DivergenceHigh,
    /// The reference cannot score.
    ScoringErrors,
    /// The store cannot keep anything.
    StoreErrors,
    /// Of `plumbline alerts test`.
    Test,
}

impl AlertName {
    /// What the service watches.
    pub(crate) const WATCHED: [Self; 4] =
        [Self::DivergenceDrift, Self::DivergenceHigh, Self::ScoringErrors, Self::StoreErrors];

    /// Its label `alertname`, as the alert rules for Prometheus have it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::DivergenceDrift => "PlumblineDivergenceDrift",
            Self::DivergenceHigh => "PlumblineDivergenceHigh",
            Self::ScoringErrors => "PlumblineScoringErrors",
            Self::StoreErrors => "PlumblineStoreErrors",
            Self::Test => "PlumblineTest",
        }
    }

    /// What to do about it: the same page as for the alert rules.
    pub(crate) fn runbook(self) -> String {
        format!("{}/blob/main/docs/runbooks/{}.md", env!("CARGO_PKG_REPOSITORY"), self.as_str())
    }

    /// Its label `severity`.
    pub(crate) const fn severity(self) -> &'static str {
        match self {
            Self::DivergenceDrift | Self::DivergenceHigh => "warning",
            Self::ScoringErrors | Self::StoreErrors => "critical",
            Self::Test => "info",
        }
    }
}

/// A time of day in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn of(time: SystemTime) -> Self {
        Self(millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    pub(crate) fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// Time since an earlier moment; none since a later one.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Seconds since 1970.
    pub(crate) fn seconds(self) -> u64 {
        self.0 / 1000
    }

    pub(crate) fn rfc3339(self) -> String {
        rfc3339(UNIX_EPOCH + Duration::from_millis(self.0))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An alert that fires or has fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alert {
    /// Who it is about; with `alertname` and `severity`.
    pub(crate) labels: Labels,
    /// What is said of it, as of the last look.
    pub(crate) annotations: Labels,
    /// Where to look.
    pub(crate) generator_url: String,
    pub(crate) starts_at: Moment,
    /// When it was over; `None` while it fires.
    pub(crate) ends_at: Option<Moment>,
}

impl Alert {
    pub(crate) fn status(&self) -> &'static str {
        if self.ends_at.is_some() { "resolved" } else { "firing" }
    }

    /// What its labels are known by, in every episode.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.labels)
    }

    /// What this episode of it is known by.
    pub(crate) fn episode(&self) -> String {
        format!("{}-{}", self.fingerprint(), self.starts_at.0)
    }
}

/// The fingerprint that Prometheus and Alertmanager compute for the same labels: FNV-1a, 64 bits, over names and values in the order of
/// the names, each followed by a byte that no text in UTF-8 holds.
pub(crate) fn fingerprint(labels: &Labels) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        text.bytes().for_each(&mut add);
        add(0xff);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_prometheus() {
        let of = |labels: &[(&str, &str)]| {
            fingerprint(&labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        // The fingerprint of no labels is the offset basis; the other one is of prometheus/common's own tests.
        assert_eq!(of(&[]), "cbf29ce484222325");
        let labels = [("name", "garland, briggs"), ("fear", "love is not enough")];
        assert_eq!(u64::from_str_radix(&of(&labels), 16).unwrap(), 5_799_056_148_416_392_346);
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
    }

    #[test]
    fn moments_never_run_backwards() {
        let moment = Moment(5000);
        assert_eq!(moment.plus(Duration::from_secs(2)).since(moment), Duration::from_secs(2));
        assert_eq!(moment.since(Moment(9000)), Duration::ZERO);
        assert_eq!((moment.seconds(), moment.rfc3339().as_str()), (5, "1970-01-01T00:00:05Z"));
    }
}
