//! A model's tokenizer: ids to text and back.

use std::path::Path;

use super::chat::Chat;
use super::clock::CivilTime;
use super::error::TextError;
use super::files::{FileSource, Folder, Settings, TOKENIZER, refused};
use super::pieces::{Decoder, Piece};
use super::template::ChatTemplate;

/// Encodes and decodes as transformers does with the same files.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    decoder: Decoder,
    template: Option<ChatTemplate>,
}

impl Tokenizer {
    /// From a model's folder; `None` where it has no `tokenizer.json`: text is then not to be had, and never guessed.
    ///
    /// # Errors
    /// A file that cannot be read, or asks for what is not supported.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, TextError> {
        Self::from_source(&Folder(folder))
    }

    /// From files that are part of the binary, by their names.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`].
    pub fn from_embedded(files: &[(&str, &[u8])]) -> Result<Option<Self>, TextError> {
        Self::from_source(files)
    }

    fn from_source<S: FileSource + ?Sized>(files: &S) -> Result<Option<Self>, TextError> {
        let Some(bytes) = files.read(TOKENIZER)? else { return Ok(None) };
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| refused(TOKENIZER, &error))?;
        let settings = Settings::read(files, inner.get_padding().map(|padding| padding.pad_token.as_str()))?;
        // A file may carry the padding and truncation of its training: transformers applies neither.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| refused(TOKENIZER, &error))?;
        inner.set_encode_special_tokens(settings.split_special_tokens);
        add_missing(&mut inner, settings.added_tokens)?;
        let decoder = Decoder::read(&bytes)?;
        let template = if settings.templates.is_empty() {
            None
        } else {
            let template = ChatTemplate::new(settings.templates, settings.special_tokens)?;
            Some(template.with_undetermined(settings.undetermined))
        };
        Ok(Some(Self { inner, decoder, template }))
    }

    /// The model's chat templates, if it has any.
    #[must_use]
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Token ids of a text. `add_special_tokens` adds what the tokenizer puts around every text, such as a BOS.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|error| TextError::Tokenizer(error.to_string()))?.get_ids().to_vec())
    }

    /// The text of token ids, special tokens included. What is no UTF-8 is replaced by `\u{fffd}`.
    ///
    /// # Errors
    /// An id that the tokenizer does not know.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        if let Some(unknown) = ids.iter().find(|id| self.inner.id_to_token(**id).is_none()) {
            return Err(TextError::UnknownToken(*unknown));
        }
        self.inner.decode(ids, false).map_err(|error| TextError::Tokenizer(error.to_string()))
    }

    /// Every token of a sequence with its own text. All `bytes`, one behind the other, are the bytes of the decoded text:
    /// a tokenizer that drops the space at the beginning of a text drops it from the first token that is given.
    #[must_use]
    pub fn pieces(&self, ids: &[u32]) -> Vec<Piece> {
        let tokens: Vec<Option<String>> = ids.iter().map(|id| self.inner.id_to_token(*id)).collect();
        let mut bytes = self.decoder.bytes(tokens.iter().flatten().cloned().collect()).into_iter();
        let added = self.inner.get_added_vocabulary();
        ids.iter()
            .zip(&tokens)
            .map(|(id, token)| match token {
                Some(token) => Piece::new(*id, bytes.next().unwrap_or_default(), added.is_special_token(token)),
                None => Piece::unknown(*id),
            })
            .collect()
    }

    /// Ids of the special tokens, ascending.
    #[must_use]
    pub fn special_token_ids(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// One more than the highest id that it knows; rows of the embedding from there on are padding.
    #[must_use]
    pub fn id_bound(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |highest| *highest as usize + 1)
    }

    /// Token ids of a conversation's prompt, as `apply_chat_template(tokenize=True)` has them.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`], and as [`ChatTemplate::render`] and [`Tokenizer::encode`].
    pub fn encode_chat(&self, chat: &Chat, now: CivilTime) -> Result<Vec<u32>, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoTemplate)?;
        self.encode(&template.render(chat, now)?, false)
    }
}

/// Adds the tokens that the configuration lists and the vocabulary lacks or describes otherwise, as transformers does.
fn add_missing(tokenizer: &mut tokenizers::Tokenizer, tokens: Vec<tokenizers::AddedToken>) -> Result<(), TextError> {
    let present = tokenizer.get_added_tokens_decoder();
    for token in tokens {
        if present.values().any(|known| *known == token) {
            continue;
        }
        let special = token.special;
        let listed = present.values().any(|known| known.content == token.content);
        // A special token that is only named is added as it is described already, if it is.
        if listed && special && token == tokenizers::AddedToken::from(token.content.clone(), true) {
            continue;
        }
        let added = if special { tokenizer.add_special_tokens([token]) } else { tokenizer.add_tokens([token]) };
        added.map_err(|error| refused(TOKENIZER, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_and_the_bound_of_ids_are_known() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plumbline/assets/tiny/policy-2");
        let tokenizer = Tokenizer::from_folder(&folder).unwrap().unwrap();
        let special = tokenizer.special_token_ids();
        assert!(special.is_sorted() && !special.is_empty());
        assert!(special.iter().all(|id| (*id as usize) < tokenizer.id_bound()));
        let spelled = tokenizer.decode(&special).unwrap();
        assert_eq!(tokenizer.encode(&spelled, false).unwrap(), special);
    }
}
