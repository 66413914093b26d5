//! Text of single tokens as a whole text is shown, and the other ways to spell it.

use plumbline_core::{TokenId, TokenText};

use super::tokenizer::Tokenizer;

/// Bytes of a text of which all spellings are tried.
const LONGEST: usize = 64;

impl TokenText for Tokenizer {
    fn pieces(&self, token_ids: &[TokenId]) -> Vec<String> {
        // Bytes of a character that is not complete yet.
        let mut pending: Vec<u8> = Vec::new();
        let mut texts: Vec<String> = Vec::with_capacity(token_ids.len());
        for piece in Self::pieces(self, token_ids) {
            pending.extend(piece.bytes);
            texts.push(take_complete(&mut pending));
        }
        if let Some(last) = texts.last_mut() {
            last.push_str(&String::from_utf8_lossy(&pending));
        }
        texts
    }

    /// The ids of the text cut in two, at every character, and each part encoded by itself: what a tokenizer that sees the
    /// text in pieces, or a sampler, may have made of it.
    fn respellings(&self, token_ids: &[TokenId]) -> Vec<Vec<TokenId>> {
        let Ok(text) = self.decode(token_ids) else { return Vec::new() };
        if text.len() > LONGEST || text.contains('\u{fffd}') {
            return Vec::new();
        }
        let encoded = |part: &str| self.encode(part, false).ok();
        let mut spellings: Vec<Vec<TokenId>> = text
            .char_indices()
            .filter_map(|(at, _)| {
                let (head, tail) = text.split_at(at);
                Some([encoded(head)?, encoded(tail)?].concat())
            })
            // Some tokenizers add a space to every text, which makes it another one.
            .filter(|ids| ids != token_ids && self.decode(ids).is_ok_and(|again| again == text))
            .collect();
        spellings.sort();
        spellings.dedup();
        spellings
    }
}

/// Takes the characters that are complete, with `\u{fffd}` for what can become none, and leaves the beginning of one.
fn take_complete(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    while let Some(rest) = pending.get(taken..).filter(|rest| !rest.is_empty()) {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                taken = pending.len();
            }
            Err(error) => {
                text.push_str(&String::from_utf8_lossy(&rest[..error.valid_up_to()]));
                taken += error.valid_up_to();
                let Some(broken) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                taken += broken;
            }
        }
    }
    pending.drain(..taken);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However bytes are cut, the pieces are the whole text.
        #[test]
        fn pieces_of_bytes_make_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..40), text in ".{0,8}", cut in 1usize..4) {
            for bytes in [bytes, text.into_bytes()] {
                let mut pending = Vec::new();
                let mut pieces = String::new();
                for part in bytes.chunks(cut) {
                    pending.extend_from_slice(part);
                    pieces.push_str(&take_complete(&mut pending));
                }
                pieces.push_str(&String::from_utf8_lossy(&pending));
                prop_assert_eq!(pieces, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }

    #[test]
    fn a_character_belongs_to_the_token_that_completes_it() {
        let mut pending = b"a\xe2\x82".to_vec();
        assert_eq!(take_complete(&mut pending), "a");
        pending.extend(b"\xac!");
        assert_eq!(take_complete(&mut pending), "\u{20ac}!");
        assert!(pending.is_empty());
    }

    /// The tiny model's tokenizer splits characters into tokens: the last one has the character.
    #[test]
    fn pieces_of_text_make_the_text_and_spellings_spell_it() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../plumbline/assets/tiny/policy-2");
        let tokenizer = Tokenizer::from_folder(&folder).unwrap().unwrap();
        let text = "Returns the \u{20ac}uro\u{1f980} value.";
        let ids = tokenizer.encode(text, false).unwrap();
        let pieces = TokenText::pieces(&tokenizer, &ids);
        assert_eq!((pieces.len(), pieces.concat()), (ids.len(), text.to_owned()));
        assert!(pieces.iter().any(String::is_empty), "{pieces:?}: one of them only begins a character");
        let unknown = tokenizer.id_bound() as u32;
        assert_eq!(TokenText::pieces(&tokenizer, &[unknown]), [""], "nothing is guessed");

        let word = tokenizer.encode(" function", false).unwrap();
        let spellings = tokenizer.respellings(&word);
        assert!(!spellings.is_empty());
        for ids in &spellings {
            assert_ne!(*ids, word);
            assert_eq!(tokenizer.decode(ids).unwrap(), " function");
        }
        assert!(tokenizer.respellings(&[unknown]).is_empty());
    }
}
