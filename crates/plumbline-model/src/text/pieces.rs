//! The text of every single token, so that nothing of a decoded sequence is lost between tokens.
//!
//! A tokenizer's decoder joins tokens to a text and replaces what is no UTF-8. Here the same steps are taken token by
//! token on bytes, so that a token that is a part of a character keeps its bytes.

use serde_json::Value;

use super::error::TextError;
use super::files::{TOKENIZER, refused};

/// One token of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The token's id.
    pub id: u32,
    /// What the token adds to the decoded text. All pieces of a sequence, one behind the other, are its text.
    pub bytes: Vec<u8>,
    /// The bytes for display: bytes that are no whole character appear as `\xe2`, an unknown id as `<|id 123|>`.
    pub text: String,
    /// Whether this is a special token, such as a beginning or an end of a turn.
    pub special: bool,
    /// Whether `text` is not the token's own text: a part of a character, or an unknown id.
    pub escaped: bool,
}

impl Piece {
    pub(super) fn new(id: u32, bytes: Vec<u8>, special: bool) -> Self {
        let (text, escaped) = display(&bytes);
        Self { id, bytes, text, special, escaped }
    }

    pub(super) fn unknown(id: u32) -> Self {
        Self { id, bytes: Vec::new(), text: format!("<|id {id}|>"), special: false, escaped: true }
    }
}

fn display(bytes: &[u8]) -> (String, bool) {
    let mut text = String::with_capacity(bytes.len());
    let mut escaped = false;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            escaped = true;
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    (text, escaped)
}

/// One step of a decoder.
#[derive(Clone, Debug)]
pub(super) enum Step {
    ByteLevel,
    ByteFallback,
    Replace { from: String, to: String },
    Metaspace { replacement: char, drops_first: bool },
    Fuse,
    Strip { content: char, start: usize, stop: usize },
}

/// A decoder as steps.
#[derive(Clone, Debug)]
pub(super) enum Decoder {
    Steps(Vec<Step>),
    /// No decoder: tokens are words, with a space between them.
    Words,
}

impl Decoder {
    /// Reads the `decoder` of a `tokenizer.json`.
    pub(super) fn read(tokenizer: &[u8]) -> Result<Self, TextError> {
        #[derive(serde::Deserialize)]
        struct File {
            decoder: Option<Value>,
        }
        let file: File = serde_json::from_slice(tokenizer).map_err(|error| refused(TOKENIZER, &error))?;
        let Some(decoder) = file.decoder else { return Ok(Self::Words) };
        let mut steps = Vec::new();
        read_steps(&decoder, &mut steps)?;
        let fused = steps.iter().position(|step| matches!(step, Step::Fuse)).unwrap_or(steps.len());
        let text_step = |step: &Step| matches!(step, Step::Replace { .. } | Step::Metaspace { .. });
        let on_joined = steps.iter().skip(fused).any(|step| !matches!(step, Step::Fuse | Step::Strip { .. }));
        let bytes = steps.iter().position(|step| matches!(step, Step::ByteLevel | Step::ByteFallback));
        if on_joined || bytes.is_some_and(|bytes| steps.iter().skip(bytes).any(text_step)) {
            return Err(refused(TOKENIZER, &"its decoder changes text across tokens, which cannot be shown by token"));
        }
        Ok(Self::Steps(steps))
    }

    /// The bytes of every token of a sequence. `tokens` are the known tokens in order.
    pub(super) fn bytes(&self, tokens: Vec<String>) -> Vec<Vec<u8>> {
        let mut pieces: Vec<Vec<u8>> = tokens.into_iter().map(String::into_bytes).collect();
        let Self::Steps(steps) = self else {
            pieces.iter_mut().skip(1).for_each(|piece| piece.insert(0, b' '));
            return pieces;
        };
        let mut joined = false;
        for step in steps {
            match step {
                Step::Fuse => joined = true,
                Step::ByteLevel => {
                    pieces.iter_mut().for_each(|piece| *piece = byte_level(piece));
                    joined = true;
                }
                Step::ByteFallback => pieces.iter_mut().for_each(|piece| {
                    if let Some(byte) = fallback_byte(piece) {
                        *piece = vec![byte];
                    }
                }),
                Step::Replace { from, to } => pieces.iter_mut().for_each(|piece| {
                    *piece = String::from_utf8_lossy(piece).replace(from.as_str(), to).into_bytes();
                }),
                Step::Metaspace { replacement, drops_first } => {
                    for (index, piece) in pieces.iter_mut().enumerate() {
                        let space = if index == 0 && *drops_first { "" } else { " " };
                        *piece = String::from_utf8_lossy(piece).replace(*replacement, space).into_bytes();
                    }
                }
                Step::Strip { content, start, stop } => {
                    let mut buffer = [0; 4];
                    let content = content.encode_utf8(&mut buffer).as_bytes();
                    if joined {
                        strip(&mut pieces, content, *start, *stop);
                    } else {
                        pieces.iter_mut().for_each(|piece| strip(std::slice::from_mut(piece), content, *start, *stop));
                    }
                }
            }
        }
        pieces
    }
}

fn read_steps(decoder: &Value, steps: &mut Vec<Step>) -> Result<(), TextError> {
    let kind = decoder.get("type").and_then(Value::as_str).unwrap_or("without a type");
    let missing = |key: &str| refused(TOKENIZER, &format!("its {kind} decoder has no valid {key}"));
    let character = |key: &str| {
        let mut chars = decoder.get(key)?.as_str()?.chars();
        chars.next().filter(|_| chars.next().is_none())
    };
    let count = |key: &str| decoder.get(key).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
    match kind {
        "Sequence" => {
            let decoders = decoder.get("decoders").and_then(Value::as_array).ok_or_else(|| missing("decoders"))?;
            for decoder in decoders {
                read_steps(decoder, steps)?;
            }
        }
        "ByteLevel" => steps.push(Step::ByteLevel),
        "ByteFallback" => steps.push(Step::ByteFallback),
        "Fuse" => steps.push(Step::Fuse),
        "Replace" => {
            let from = decoder.pointer("/pattern/String").and_then(Value::as_str).ok_or_else(|| missing("pattern"))?;
            let to = decoder.get("content").and_then(Value::as_str).ok_or_else(|| missing("content"))?;
            steps.push(Step::Replace { from: from.to_owned(), to: to.to_owned() });
        }
        "Metaspace" => {
            let scheme = decoder.get("prepend_scheme").and_then(Value::as_str);
            let adds_prefix = decoder.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true);
            steps.push(Step::Metaspace {
                replacement: character("replacement").ok_or_else(|| missing("replacement"))?,
                drops_first: scheme.map_or(adds_prefix, |scheme| scheme != "never"),
            });
        }
        "Strip" => steps.push(Step::Strip {
            content: character("content").ok_or_else(|| missing("content"))?,
            start: count("start").ok_or_else(|| missing("start"))?,
            stop: count("stop").ok_or_else(|| missing("stop"))?,
        }),
        other => return Err(refused(TOKENIZER, &format!("its decoder is of type {other}, which is not supported"))),
    }
    Ok(())
}

/// The byte of a token such as `<0x0A>`.
fn fallback_byte(token: &[u8]) -> Option<u8> {
    let digits = token.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// Byte-level tokens write each byte as a printable character; a token with any other character is text as it is.
fn byte_level(token: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(token);
    text.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.to_vec())
}

/// The byte that a character stands for in a byte-level vocabulary (GPT-2's `bytes_to_unicode`, inverted).
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        // The other 68 bytes, in order, moved behind the first 256 characters.
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Takes up to `start` times `content` off the beginning, and up to `stop` times off the end, of pieces read as one text.
fn strip(pieces: &mut [Vec<u8>], content: &[u8], start: usize, stop: usize) {
    let mut left = start;
    for piece in pieces.iter_mut() {
        while left > 0 && piece.starts_with(content) {
            piece.drain(..content.len());
            left -= 1;
        }
        if left == 0 || !piece.is_empty() {
            break;
        }
    }
    let mut left = stop;
    for piece in pieces.iter_mut().rev() {
        while left > 0 && piece.ends_with(content) {
            piece.truncate(piece.len() - content.len());
            left -= 1;
        }
        if left == 0 || !piece.is_empty() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> = (0..=0x143).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }
}
