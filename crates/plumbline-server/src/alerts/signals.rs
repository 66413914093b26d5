//! What is seen of one thing that is watched, at one look.

use super::alert::{AlertName, Labels, fingerprint};

/// What is seen of one thing that is watched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Signal {
    /// Who it is about; with `alertname` and `severity`.
    pub(crate) labels: Labels,
    pub(crate) sign: Sign,
}

/// How it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sign {
    /// It is as it should not be.
    Bad(Trouble),
    /// It is well; why, for people.
    Good(String),
    /// Nothing can be said: too few tokens, silence, a reference that still loads. Neither begins nor ends anything.
    Unknown,
}

/// What is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Trouble {
    /// Compared tokens that say so; `None`: it is not said by tokens.
    pub(crate) tokens: Option<u64>,
    /// It need not last before it is told: whoever found it made sure already.
    pub(crate) certain: bool,
    pub(crate) annotations: Labels,
    pub(crate) generator_url: String,
}

impl Signal {
    /// About `name`, with these further labels.
    pub(crate) fn new(name: AlertName, more: &Labels, mut sign: Sign) -> Self {
        if let Sign::Bad(trouble) = &mut sign {
            trouble.annotations.insert("runbook_url".into(), name.runbook());
        }
        let own = [("alertname", name.as_str()), ("severity", name.severity())];
        let mut labels = more.clone();
        labels.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Self { labels, sign }
    }

    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.labels)
    }
}

/// What a look saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Look {
    pub(crate) signals: Vec<Signal>,
    /// Whether this is everything that is watched: what is not among it is not watched any more. Else it may be seen later.
    pub(crate) whole: bool,
}
