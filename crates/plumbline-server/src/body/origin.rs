//! Where a rollout's fields really stand in the body of a request.

use plumbline_core::ViolationCode;
use plumbline_engines::Places;

/// What a rollout was read from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A sequence of the native body.
    Sequence {
        /// Its index.
        index: usize,
        /// It has an id.
        own_id: bool,
        /// It has sampling parameters of its own.
        own_sampling: bool,
        /// It has a logprobs mode of its own.
        own_mode: bool,
        /// It has a policy version of its own.
        own_version: bool,
        /// The request states a logprobs mode.
        shared_mode: bool,
    },
    /// A completion of an exchange.
    Exchange {
        /// The exchange.
        exchange: ExchangePlace,
        /// Where the fields stand in it.
        places: Box<Places>,
    },
    /// A record of a line.
    Record {
        /// It is a sequence of the native body: the rollout's fields are its own.
        native: bool,
    },
}

/// An exchange's place, and which of its fields the request states for all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExchangePlace {
    /// Its index.
    pub(crate) index: usize,
    /// It has an id.
    pub(crate) own_id: bool,
    /// Sampling parameters are the request's.
    pub(crate) shared_sampling: bool,
    /// The logprobs mode is the request's.
    pub(crate) shared_mode: bool,
    /// The engine is the request's.
    pub(crate) shared_engine: bool,
    /// The policy version is the request's.
    pub(crate) shared_version: bool,
}

impl ExchangePlace {
    /// The pointer, in the body, of a pointer in the exchange.
    pub(crate) fn pointer(&self, within: &str) -> String {
        let field = within.trim_start_matches('/').split('/').next().unwrap_or_default();
        let shared = match field {
            "sampling" => self.shared_sampling,
            "logprobs_mode" => self.shared_mode,
            "engine" => self.shared_engine,
            "policy_version" => self.shared_version,
            _ => false,
        };
        if shared { within.to_owned() } else { format!("/exchanges/{}{within}", self.index) }
    }
}

impl Origin {
    /// The place of a field of the rollout itself, `/completion_token_ids/3`.
    pub(crate) fn pointer(&self, field: &str) -> String {
        match self {
            Self::Sequence { index, .. } => format!("/sequences/{index}{field}"),
            Self::Exchange { exchange, places } => exchange.pointer(&places.locate(field)),
            Self::Record { native: true } => field.to_owned(),
            Self::Record { native: false } => String::new(),
        }
    }

    /// The place of the id, or of what has none and is named by its index.
    pub(super) fn id(&self) -> String {
        match self {
            Self::Sequence { own_id: true, .. } | Self::Record { native: true } => self.pointer("/id"),
            Self::Exchange { exchange, .. } => exchange.pointer(if exchange.own_id { "/id" } else { "" }),
            _ => self.pointer(""),
        }
    }

    /// The place of a violation, which may be a field that the rollout inherits.
    pub(super) fn locate(&self, code: ViolationCode, pointer: &str) -> String {
        let Self::Sequence { own_sampling, own_mode, shared_mode, .. } = self else { return self.pointer(pointer) };
        match code {
            ViolationCode::InvalidSampling if !own_sampling => pointer.to_owned(),
            // Either of two fields is in the way: the one that is closest to the sequence.
            ViolationCode::IrreproducibleMode if *own_mode => self.pointer(pointer),
            ViolationCode::IrreproducibleMode if *own_sampling => self.pointer("/sampling"),
            ViolationCode::IrreproducibleMode if *shared_mode => pointer.to_owned(),
            // The mode is the engine's own.
            ViolationCode::IrreproducibleMode => "/sampling".to_owned(),
            _ => self.pointer(pointer),
        }
    }

    /// The place that says which version sampled the rollout; `span` = the one of its spans that does.
    pub(super) fn version(&self, span: Option<usize>) -> String {
        match (self, span) {
            (Self::Sequence { .. } | Self::Record { native: true }, Some(span)) => {
                self.pointer(&format!("/weight_versions/{span}/version"))
            }
            (Self::Sequence { own_version: false, .. }, None) => "/policy_version".to_owned(),
            _ => self.pointer("/policy_version"),
        }
    }

    /// Whether a pointer is one of a field that the request states for all.
    pub(super) fn is_shared(pointer: &str) -> bool {
        !pointer.starts_with("/sequences/") && !pointer.starts_with("/exchanges/")
    }
}
