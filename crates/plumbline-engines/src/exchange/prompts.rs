//! The ids of prompts.

use plumbline_core::TokenId;

use super::at::At;
use super::error::{ExchangeErrorCode as Code, Found};
use super::places::ArrayPlace;

/// A prompt's ids and where they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) ids: Vec<TokenId>,
    pub(super) place: ArrayPlace,
}

/// An array of ids, as a prompt.
pub(super) fn prompt_at(at: &At<'_>) -> Found<Prompt> {
    Ok(Prompt { ids: at.ids()?, place: ArrayPlace::new(at, 0, "") })
}

/// What a request holds in place of prompts.
#[derive(Clone, Debug)]
pub(super) enum Asked<'a> {
    /// The request is not known, or holds no prompts.
    Unknown,
    /// So many texts; their ids are only known to the engine.
    Texts(usize),
    /// Ids of one prompt.
    Ids(At<'a>),
    /// Ids of several prompts.
    Batch(Vec<At<'a>>),
}

impl<'a> Asked<'a> {
    /// Reads a field that holds a text, ids, or an array of either.
    ///
    /// # Errors
    /// Texts and ids mixed within a prompt: the engine adds special tokens as it sees fit.
    pub(super) fn at(at: Option<At<'a>>) -> Found<Self> {
        let Some(at) = at else { return Ok(Self::Unknown) };
        let Some(items) = at.value.as_array() else {
            return Ok(Self::Texts(1));
        };
        let all = |is: fn(&serde_json::Value) -> bool| items.iter().all(is);
        if items.is_empty() || all(serde_json::Value::is_number) {
            Ok(Self::Ids(at))
        } else if all(serde_json::Value::is_array) {
            Ok(Self::Batch(at.elements()?.collect()))
        } else if all(|item| item.is_string() || item.is_object()) {
            Ok(Self::Texts(items.len()))
        } else {
            Err(at.error(Code::MissingTokenIds, "holds texts and ids: send ids alone, they are all that is exact"))
        }
    }

    /// How many prompts; `None` = not known.
    pub(super) fn count(&self) -> Option<usize> {
        match self {
            Self::Unknown => None,
            Self::Texts(count) => Some(*count),
            Self::Ids(_) => Some(1),
            Self::Batch(all) => Some(all.len()),
        }
    }

    /// The ids of a prompt, if the request holds them.
    pub(super) fn ids(&self, index: usize) -> Option<&At<'a>> {
        match self {
            Self::Ids(at) if index == 0 => Some(at),
            Self::Batch(all) => all.get(index),
            _ => None,
        }
    }
}

/// Checks ids of the request against the number of tokens that the engine counted: it may have cut the prompt or added
/// special tokens to it.
pub(super) fn check_count(prompt: &Prompt, counted: Option<At<'_>>) -> Found<()> {
    let Some(at) = counted else { return Ok(()) };
    let count = at.count()?;
    if count == prompt.ids.len() {
        return Ok(());
    }
    let detail = format!("the engine counted {count} tokens of a prompt of {} ids", prompt.ids.len());
    Err(at.error(Code::Contradictory, detail))
}

/// Refuses requests with images and other inputs that are not tokens.
pub(super) fn check_text_only(request: &At<'_>) -> Found<()> {
    const INPUTS: [&str; 9] = [
        "image_data",
        "video_data",
        "audio_data",
        "modalities",
        "prompt_embeds",
        "input_embeds",
        "features",
        "multi_modal_data",
        "mm_features",
    ];
    let unsupported =
        |at: At<'_>| Err(at.error(Code::Unsupported, "only tokens can be scored, not images, audio or embeddings"));
    for key in INPUTS {
        if let Some(at) = request.field(key)
            && at.value.as_array().is_none_or(|items| !items.is_empty())
        {
            return unsupported(at);
        }
    }
    let Some(messages) = request.field("messages") else { return Ok(()) };
    for message in messages.elements()? {
        let Some(content) = message.field("content").filter(|content| content.value.is_array()) else { continue };
        for part in content.elements()? {
            let is_text = |kind: &serde_json::Value| {
                kind.as_str().is_some_and(|kind| ["text", "refusal"].contains(&kind) || kind.ends_with("_text"))
            };
            if part.value.get("type").is_some_and(|kind| !is_text(kind)) {
                return unsupported(part);
            }
        }
    }
    Ok(())
}
