//! Where a rollout's fields stand in the exchange that it was read from.

use super::at::At;

/// Where an array stands whose elements became a field of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ArrayPlace {
    pointer: String,
    /// Index of the field's first element in the array.
    offset: usize,
    /// Pointer from an element of the array to the value; `None` = elements have no pointers of their own.
    within: Option<&'static str>,
}

impl ArrayPlace {
    /// The array at `at`, from its element `offset` on; `within` leads from an element to the value.
    pub(super) fn new(at: &At<'_>, offset: usize, within: &'static str) -> Self {
        Self { pointer: at.pointer(), offset, within: (!at.is_assembled()).then_some(within) }
    }

    fn element(&self, index: usize) -> String {
        match self.within {
            Some(within) => format!("{}/{}{within}", self.pointer, self.offset + index),
            None => self.pointer.clone(),
        }
    }
}

/// Where the fields of a rollout stand in its exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    pub(super) prompt: ArrayPlace,
    pub(super) completion: ArrayPlace,
    pub(super) logprobs: ArrayPlace,
    /// Where sampling parameters stand.
    pub(super) sampling: String,
    /// Where the logprobs mode is stated, or else the sampling parameters that matter to the engine's own.
    pub(super) mode: String,
    /// Where the word on the version of the weights stands.
    pub(super) versions: String,
}

impl Places {
    /// Where the field of a sequence as the core knows it (`/completion_token_ids/3`, see
    /// [`Violation::pointer`](plumbline_core::Violation)) stands in the exchange.
    ///
    /// The place exists, or its parent does.
    #[must_use]
    pub fn locate(&self, pointer: &str) -> String {
        let (field, rest) =
            pointer.trim_start_matches('/').split_once('/').unwrap_or((pointer.trim_start_matches('/'), ""));
        let array = |place: &ArrayPlace| match rest.parse() {
            Ok(index) => place.element(index),
            Err(_) => place.pointer.clone(),
        };
        match field {
            "prompt_token_ids" => array(&self.prompt),
            "completion_token_ids" => array(&self.completion),
            "logprobs" => array(&self.logprobs),
            // Stated by the caller, so by our own names.
            "sampling" if self.sampling == "/sampling" => pointer.to_owned(),
            "sampling" => self.sampling.clone(),
            "weight_versions" | "policy_version" => self.versions.clone(),
            "logprobs_mode" => self.mode.clone(),
            _ => format!("/{field}"),
        }
    }
}
