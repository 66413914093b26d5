//! A model's tokenizer files, and what they say besides the vocabulary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::error::TextError;

pub(super) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const LEGACY_TEMPLATE: &str = "chat_template.json";
const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// Where tokenizer files are read from.
pub(super) trait FileSource {
    /// The content of a file, by its name; `None` where there is no such file.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, TextError>;

    /// Names of the files in a sub-folder; empty where there is none.
    ///
    /// # Errors
    /// A folder that is there and cannot be read.
    fn list(&self, folder: &str) -> Result<Vec<String>, TextError>;
}

/// A model's folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folder<'a>(pub(super) &'a Path);

impl FileSource for Folder<'_> {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, TextError> {
        let path = self.0.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TextError::Read { path, source }),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, TextError> {
        let path = self.0.join(folder);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(TextError::Read { path, source }),
        };
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, std::io::Error>>()
            .map_err(|source| TextError::Read { path, source })
    }
}

/// Files that are part of the binary, by name.
impl FileSource for [(&str, &[u8])] {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, TextError> {
        Ok(self.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.to_vec()))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, TextError> {
        let inside = |file: &str| Some(file.strip_prefix(folder)?.strip_prefix('/')?.to_owned());
        Ok(self.iter().filter_map(|(file, _)| inside(file)).collect())
    }
}

/// What the files besides `tokenizer.json` say.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Special tokens by the name of their variable: `bos_token`, ...
    pub(super) special_tokens: BTreeMap<String, String>,
    /// Usual special tokens that the tokenizer's class may set by itself, where that class is not known here.
    pub(super) undetermined: BTreeSet<String>,
    /// Added tokens that `tokenizer.json` may lack, in the order in which they are added.
    pub(super) added_tokens: Vec<AddedToken>,
    /// Whether special tokens in a text are encoded as plain text.
    pub(super) split_special_tokens: bool,
    /// Chat templates by name.
    pub(super) templates: BTreeMap<String, String>,
}

const USUAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Special tokens that transformers' tokenizer classes of decoder models set where the configuration does not.
const CLASS_TOKENS: [(&str, &[(&str, &str)]); 9] = [
    ("TokenizersBackend", &[]),
    ("PreTrainedTokenizer", &[]),
    ("LlamaTokenizer", &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")]),
    ("CodeLlamaTokenizer", &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")]),
    (
        "GemmaTokenizer",
        &[
            ("unk_token", "<unk>"),
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
    ),
    (
        "Qwen2Tokenizer",
        &[("unk_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")],
    ),
    (
        "GPT2Tokenizer",
        &[("unk_token", "<|endoftext|>"), ("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>")],
    ),
    (
        "GPTNeoXTokenizer",
        &[
            ("unk_token", "<|endoftext|>"),
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("pad_token", "<|padding|>"),
        ],
    ),
    (
        "CohereTokenizer",
        &[
            ("unk_token", "<UNK>"),
            ("bos_token", "<BOS_TOKEN>"),
            ("eos_token", "<|END_OF_TURN_TOKEN|>"),
            ("pad_token", "<PAD>"),
            ("cls_token", "<CLS>"),
            ("sep_token", "<SEP>"),
            ("mask_token", "<MASK_TOKEN>"),
        ],
    ),
];

impl Settings {
    /// `padding` is the one that `tokenizer.json` carries: its token is the padding token where none is named.
    pub(super) fn read<S: FileSource + ?Sized>(files: &S, padding: Option<&str>) -> Result<Self, TextError> {
        let mut config = object(files, CONFIG)?.unwrap_or_default();
        let templates = templates(files, &mut config)?;
        let mut added_tokens = Vec::new();
        match config.get("added_tokens_decoder").and_then(Value::as_object) {
            Some(decoder) => added_tokens = added(decoder)?,
            // As transformers: the older file counts only where the configuration does not list the added tokens.
            None => config.extend(object(files, SPECIAL_TOKENS)?.unwrap_or_default()),
        }
        if let Some(token) = padding {
            config.entry("pad_token").or_insert_with(|| token.into());
        }
        let mut settings = Self { templates, added_tokens, ..Self::default() };
        settings.split_special_tokens = config.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false);
        settings.name_special_tokens(&config);
        let named = settings.special_tokens.values().cloned();
        let extra = ["extra_special_tokens", "additional_special_tokens"].into_iter().filter_map(|key| config.get(key));
        let extra = extra.filter_map(Value::as_array).flatten().filter_map(content);
        let known: BTreeSet<&str> = settings.added_tokens.iter().map(|token| token.content.as_str()).collect();
        let missing: Vec<AddedToken> = named
            .chain(extra)
            .filter(|content| !known.contains(content.as_str()))
            .map(|content| AddedToken::from(content, true))
            .collect();
        settings.added_tokens.extend(missing);
        Ok(settings)
    }

    fn name_special_tokens(&mut self, config: &Map<String, Value>) {
        let class = config.get("tokenizer_class").and_then(Value::as_str).map(|class| class.trim_end_matches("Fast"));
        let class_tokens = CLASS_TOKENS.iter().find(|(name, _)| Some(*name) == class).map(|(_, tokens)| *tokens);
        for name in USUAL_TOKENS {
            // A token that is null is one that the model does not have, whatever its class says.
            if config.contains_key(name) {
                continue;
            }
            match class_tokens {
                Some(tokens) => {
                    let default = tokens.iter().find(|(token, _)| *token == name);
                    self.special_tokens.extend(default.map(|(_, content)| (name.to_owned(), (*content).to_owned())));
                }
                None => {
                    self.undetermined.insert(name.to_owned());
                }
            }
        }
        // Models name further tokens as they like: `image_token`, ...
        let named = config.iter().filter(|(name, _)| name.ends_with("_token"));
        let further = config.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
        for (name, token) in named.chain(further) {
            self.special_tokens.extend(content(token).map(|content| (name.clone(), content)));
        }
    }
}

/// The text of a special token: a string, or an object with its properties.
fn content(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

fn added(decoder: &Map<String, Value>) -> Result<Vec<AddedToken>, TextError> {
    let mut tokens = Vec::new();
    for (id, token) in decoder {
        let refused = |reason: String| TextError::File {
            file: CONFIG.into(),
            reason: format!("added_tokens_decoder has the token {id:?}, {reason}"),
        };
        let id: u32 = id.parse().map_err(|_| refused("which is no token id".into()))?;
        let content = content(token).ok_or_else(|| refused("which has no content".into()))?;
        let flag = |name: &str| token.get(name).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(false);
        let token = AddedToken::from(content, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special));
        tokens.push((id, token));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// Files of their own come before the configuration's entry, and that before the older file.
fn templates<S: FileSource + ?Sized>(
    files: &S,
    config: &mut Map<String, Value>,
) -> Result<BTreeMap<String, String>, TextError> {
    let mut templates = BTreeMap::new();
    let text = |name: &str| -> Result<Option<String>, TextError> {
        let bytes = files.read(name)?;
        bytes.map(|bytes| String::from_utf8(bytes).map_err(|error| refused(name, &error))).transpose()
    };
    templates.extend(text(TEMPLATE)?.map(|source| ("default".to_owned(), source)));
    for file in files.list(TEMPLATE_FOLDER)? {
        if let Some(name) = file.strip_suffix(".jinja") {
            templates.extend(text(&format!("{TEMPLATE_FOLDER}/{file}"))?.map(|source| (name.to_owned(), source)));
        }
    }
    if !templates.is_empty() {
        return Ok(templates);
    }
    let (file, entry) = match config.remove("chat_template").filter(|entry| !entry.is_null()) {
        Some(entry) => (CONFIG, Some(entry)),
        None => (LEGACY_TEMPLATE, object(files, LEGACY_TEMPLATE)?.and_then(|mut file| file.remove("chat_template"))),
    };
    match entry {
        None => {}
        Some(Value::String(source)) => {
            templates.insert("default".to_owned(), source);
        }
        Some(Value::Array(named)) => {
            for template in named {
                let field = |key: &str| template.get(key).and_then(Value::as_str).map(str::to_owned);
                let pair = field("name").zip(field("template"));
                let (name, source) = pair.ok_or_else(|| refused(file, &"a chat template lacks its name or text"))?;
                templates.insert(name, source);
            }
        }
        Some(_) => return Err(refused(file, &"chat_template is neither a string nor a list")),
    }
    Ok(templates)
}

fn object<S: FileSource + ?Sized>(files: &S, name: &str) -> Result<Option<Map<String, Value>>, TextError> {
    let bytes = files.read(name)?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|error| refused(name, &error))).transpose()
}

pub(super) fn refused(file: &str, reason: &dyn ToString) -> TextError {
    TextError::File { file: file.to_owned(), reason: reason.to_string() }
}
