//! What a chat template adds to a conversation of its own accord, as token ids.

use plumbline_model::{Chat, ChatValue, CivilTime, TextError, Tokenizer};
use serde_json::json;

/// Renders a conversation of user and assistant in turns. The time only matters to templates that print it, and is the same
/// for all.
fn rendered(tokenizer: &Tokenizer, turns: &[&str], add_generation_prompt: bool) -> Result<Vec<u32>, TextError> {
    let now = CivilTime::from_unix_utc(0, 0).ok_or(TextError::NoTemplate)?;
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages = turns.iter().zip(roles).map(|(text, role)| ChatValue::from(json!({"role": role, "content": text})));
    tokenizer.encode_chat(&Chat { messages: messages.collect(), add_generation_prompt, ..Chat::default() }, now)
}

/// What is at the end of a prompt for the answer to begin.
///
/// # Errors
/// A template that cannot render a plain conversation.
pub(crate) fn generation_prompt(tokenizer: &Tokenizer) -> Result<Option<Vec<u32>>, TextError> {
    let (without, with) = (rendered(tokenizer, &["hello"], false)?, rendered(tokenizer, &["hello"], true)?);
    Ok(with.strip_prefix(without.as_slice()).filter(|added| !added.is_empty()).map(Into::into))
}

/// What comes before the first turn although nobody wrote it: a default system prompt, with a BOS if the template writes one.
/// `None` if that is no more than one token.
///
/// Where a turn of the user begins shows in a later turn: what is the same before the words of both, less what ends the turn
/// before it.
///
/// # Errors
/// As [`generation_prompt`].
pub(crate) fn default_prefix(tokenizer: &Tokenizer) -> Result<Option<Vec<u32>>, TextError> {
    const WORDS: [&str; 2] = ["one", "two"];
    let of_word = |word| rendered(tokenizer, &[word], false);
    let (first, other) = (of_word(WORDS[0])?, of_word(WORDS[1])?);
    let before = &first[..common(first.iter(), other.iter())];
    let later = |word| rendered(tokenizer, &["hello", "hello", word], false);
    let (again, another) = (later(WORDS[0])?, later(WORDS[1])?);
    let before_again = &again[..common(again.iter(), another.iter())];
    // The user's turn, perhaps with the end of the turn before it.
    let shared = common(before.iter().rev(), before_again.iter().rev());
    let turn = &before[before.len() - shared..];
    // What ends a turn stands behind the words.
    let end = &first[first.len() - common(first[before.len()..].iter().rev(), other[before.len()..].iter().rev())..];
    let turn = if end.is_empty() { turn } else { turn.strip_prefix(end).unwrap_or(turn) };
    let prefix = &before[..before.len() - turn.len()];
    Ok((prefix.len() > 1).then(|| prefix.to_vec()))
}

/// Number of first elements that two sequences share.
fn common<'a>(a: impl Iterator<Item = &'a u32>, b: impl Iterator<Item = &'a u32>) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    /// The files of the embedded model, with another template.
    fn tokenizer(template: Option<&str>) -> Tokenizer {
        let files: Vec<(&str, Vec<u8>)> = embedded::MODEL
            .tokenizer
            .iter()
            .map(|(name, bytes)| match template {
                Some(template) if *name == "tokenizer_config.json" => {
                    let mut config: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                    config["chat_template"] = json!(template);
                    (*name, serde_json::to_vec(&config).unwrap())
                }
                _ => (*name, bytes.to_vec()),
            })
            .filter(|(name, _)| template.is_none() || *name != "chat_template.jinja")
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        Tokenizer::from_embedded(&files).unwrap().unwrap()
    }

    const TURNS: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                         {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    #[test]
    fn a_default_system_prompt_is_found_whole() {
        let system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
        let with_system = tokenizer(Some(&format!("{system}{TURNS}")));
        let prefix = default_prefix(&with_system).unwrap().unwrap();
        assert_eq!(with_system.decode(&prefix).unwrap(), system);
        assert_eq!(
            with_system.decode(&generation_prompt(&with_system).unwrap().unwrap()).unwrap(),
            "<|im_start|>assistant\n"
        );
    }

    #[test]
    fn without_one_there_is_nothing() {
        for template in [None, Some(TURNS)] {
            assert_eq!(default_prefix(&tokenizer(template)).unwrap(), None);
        }
        let only_bos = format!("<|endoftext|>{TURNS}");
        assert_eq!(default_prefix(&tokenizer(Some(&only_bos))).unwrap(), None, "BOS has its own hypotheses");
    }

    #[test]
    fn a_template_that_fails_says_so() {
        let failing = tokenizer(Some("{{ raise_exception('no') }}"));
        assert!(generation_prompt(&failing).is_err() && default_prefix(&failing).is_err());
    }
}
