//! Tokenizer and chat templates against transformers, byte for byte and id for id.
//!
//! The expectations are written by `tests/fixtures/chat_templates/make_expected.py` with transformers' own code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plumbline_model::{Chat, ChatTemplate, ChatValue, CivilTime, TextError, Tokenizer};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Clone, Deserialize)]
struct Conversation {
    messages: Vec<ChatValue>,
    tools: Option<Vec<ChatValue>>,
    documents: Option<Vec<ChatValue>>,
}

/// What transformers made of a template.
#[derive(Debug, Deserialize)]
struct Expected {
    text: Option<String>,
    error: Option<String>,
    #[serde(default)]
    unreproducible: bool,
}

#[derive(Deserialize)]
struct Rendered {
    now: [u32; 7],
    special_tokens: BTreeMap<String, String>,
    variables: Vec<BTreeMap<String, ChatValue>>,
    conversations: BTreeMap<String, Conversation>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    add_generation_prompt: bool,
    variables: usize,
    #[serde(flatten)]
    expected: Expected,
}

#[derive(Deserialize)]
struct Snippets {
    now: [u32; 7],
    special_tokens: BTreeMap<String, String>,
    context: BTreeMap<String, ChatValue>,
    snippets: Vec<Snippet>,
}

#[derive(Deserialize)]
struct Snippet {
    template: String,
    #[serde(flatten)]
    expected: Expected,
}

#[derive(Deserialize)]
struct Tokenizers {
    now: [u32; 7],
    conversations: BTreeMap<String, Conversation>,
    tokenizers: BTreeMap<String, TokenizerCase>,
}

#[derive(Deserialize)]
struct TokenizerCase {
    special_tokens: BTreeMap<String, String>,
    encoded: Vec<Encoded>,
    chats: Vec<ChatCase>,
}

#[derive(Deserialize)]
struct Encoded {
    text: String,
    ids: Vec<u32>,
    ids_with_special_tokens: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct ChatCase {
    conversation: String,
    template: Option<String>,
    add_generation_prompt: bool,
    ids: Option<Vec<u32>>,
    #[serde(flatten)]
    expected: Expected,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/chat_templates")
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(fixtures().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn time([year, month, day, hour, minute, second, microsecond]: [u32; 7]) -> CivilTime {
    CivilTime {
        year: year.try_into().unwrap(),
        month: month.try_into().unwrap(),
        day: day.try_into().unwrap(),
        hour: hour.try_into().unwrap(),
        minute: minute.try_into().unwrap(),
        second: second.try_into().unwrap(),
        microsecond,
    }
}

fn template(source: &str, special_tokens: &BTreeMap<String, String>) -> Result<ChatTemplate, TextError> {
    ChatTemplate::new(BTreeMap::from([("default".to_owned(), source.to_owned())]), special_tokens.clone())
}

fn chat(conversation: &Conversation, add_generation_prompt: bool, variables: BTreeMap<String, ChatValue>) -> Chat {
    let Conversation { messages, tools, documents } = conversation.clone();
    Chat { messages, tools, documents, add_generation_prompt, template: None, variables }
}

fn verdict(name: &str, expected: &Expected, ours: &Result<String, TextError>, refusable: bool) -> Option<String> {
    match (&expected.text, ours) {
        (Some(theirs), Ok(ours)) if theirs == ours => None,
        (Some(theirs), Ok(ours)) => Some(format!("{name}\n  theirs {theirs:?}\n  ours   {ours:?}")),
        (Some(_), Err(_)) if refusable => None,
        (Some(theirs), Err(error)) => Some(format!("{name}\n  theirs {theirs:?}\n  error  {error}")),
        (None, Err(TextError::Template { .. })) => {
            assert!(expected.unreproducible || expected.error.is_some(), "{name}: {expected:?}");
            None
        }
        (None, ours) => Some(format!("{name}\n  theirs {expected:?}\n  ours   {ours:?}")),
    }
}

#[test]
fn every_template_renders_every_conversation_as_transformers_does() {
    let rendered: Rendered = read("rendered.json");
    let mut compiled = BTreeMap::new();
    for entry in std::fs::read_dir(fixtures().join("templates")).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        compiled.insert(name, template(&source, &rendered.special_tokens).unwrap());
    }
    assert!(compiled.len() >= 12);
    let mut wrong = Vec::new();
    let (mut texts, mut raised) = (0, 0);
    for case in &rendered.cases {
        let Case { template, conversation, add_generation_prompt, variables, expected } = case;
        let chat =
            chat(&rendered.conversations[conversation], *add_generation_prompt, rendered.variables[*variables].clone());
        let ours = compiled[template].render(&chat, time(rendered.now));
        let name = format!("{template} {conversation} prompt={add_generation_prompt} variables={variables}");
        wrong.extend(verdict(&name, expected, &ours, false));
        texts += usize::from(expected.text.is_some());
        // What a template itself refuses is refused in its words.
        if let (Some(theirs), Err(TextError::Template { reason, line, .. })) = (&expected.error, &ours) {
            let own =
                ["Conversation roles must", "After the optional", "This model only", "Only user", "Tool call IDs"];
            if own.iter().any(|words| theirs.starts_with(words)) {
                raised += 1;
                assert!(theirs == reason && *line > 0, "{name}: {reason} at {line}");
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), rendered.cases.len(), wrong.join("\n"));
    assert!(texts >= 1000 && raised >= 30, "{texts} texts, {raised} refusals");
}

/// Templates that transformers renders and this crate refuses: never a wrong text, and as few as possible.
const REFUSED: [&str; 16] = [
    "{{ '%s is %d and %.2f%%' % ('x', 3, 1.5) }}",
    "{{ '%s %s' % (none, [1, 'a']) }}",
    "{{ '%r' % ('a',) }}",
    "{% macro m(a) %}[{{ a }}|{{ text }}|{{ varargs }}]{% endmacro %}{{ m(1) }}",
    "{{ 'abc'.encode() }}",
    "{{ ('a' | safe) + 'b' }}",
    "{{ ('<b>' | safe) + '<c>' }}",
    "{{ 'a b c' | wordcount }}",
    "{{ 'abcdef' | truncate(3) }}",
    "{{ 'a' | center(5) }}|",
    "{{ {'a': [1, 2]} | pprint }}",
    "{{ 'abc' | attr('upper') is defined }}",
    "{{ {'a': 1} | attr('a') }}|",
    "{{ 1234567 | filesizeformat }}",
    "{{ rows | groupby('s') | list | length }}",
    "{{ 5[1:] }}",
];

/// Templates that fail in transformers and that the engine renders: it orders and adds up values of any types, and slices
/// what is none or undefined. The last is the only one that both render, and differently.
const LENIENT: [&str; 11] = [
    "{{ missing < 1 }}",
    "{{ none < 1 }}",
    "{{ 'a' < 1 }}",
    "{{ 1 in 'a' }}",
    "{{ [3,none]|sort }}",
    "{{ [1,'a']|max }}",
    "{{ none|sort }}",
    "{{ none|sum }}",
    "{{ none|unique|list }}",
    "{{ missing[1:] }}",
    "{{ none[1:] }}",
];

#[test]
fn every_feature_of_jinja_is_rendered_as_transformers_does_or_refused() {
    let Snippets { now, special_tokens, context, snippets } = read("snippets.json");
    let user: ChatValue = serde_json::from_str(r#"{"role": "user", "content": "Hi"}"#).unwrap();
    let mut wrong = Vec::new();
    let (mut lenient, mut strict) = (0, 0);
    for snippet in &snippets {
        let chat = Chat { messages: vec![user.clone()], variables: context.clone(), ..Chat::default() };
        let ours = template(&snippet.template, &special_tokens).and_then(|t| t.render(&chat, time(now)));
        let refusable = REFUSED.contains(&snippet.template.as_str());
        if LENIENT.contains(&snippet.template.as_str()) {
            lenient += 1;
            assert!(verdict(&snippet.template, &snippet.expected, &ours, false).is_some(), "{}", snippet.template);
            continue;
        }
        wrong.extend(verdict(&snippet.template, &snippet.expected, &ours, refusable));
        strict += usize::from(refusable);
        if refusable && ours.is_ok() {
            wrong.push(format!("{} is no longer refused", snippet.template));
        }
    }
    assert!(snippets.len() >= 250);
    assert_eq!((strict, lenient), (REFUSED.len(), LENIENT.len()), "an exception is not among the snippets");
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), snippets.len(), wrong.join("\n"));
}

fn tiny_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plumbline/assets/tiny/policy-2")
}

fn load(name: &str) -> Tokenizer {
    let folder = if name == "tiny" { tiny_folder() } else { fixtures().join("tokenizers").join(name) };
    Tokenizer::from_folder(&folder).unwrap().unwrap()
}

#[test]
fn texts_have_the_ids_and_ids_the_texts_of_transformers() {
    let Tokenizers { tokenizers, .. } = read("tokenizers.json");
    assert_eq!(tokenizers.len(), 3);
    for (name, case) in &tokenizers {
        let tokenizer = load(name);
        for Encoded { text, ids, ids_with_special_tokens, decoded } in &case.encoded {
            assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{name} {text:?}");
            assert_eq!(&tokenizer.encode(text, true).unwrap(), ids_with_special_tokens, "{name} {text:?}");
            assert_eq!(&tokenizer.decode(ids).unwrap(), decoded, "{name} {text:?}");
            let pieces = tokenizer.pieces(ids);
            assert_eq!(pieces.len(), ids.len());
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
            assert_eq!(str::from_utf8(&bytes).unwrap(), decoded, "{name} {text:?}");
        }
    }
}

#[test]
fn conversations_have_the_ids_of_transformers() {
    let Tokenizers { now, conversations, tokenizers } = read("tokenizers.json");
    let mut compared = 0;
    for (name, case) in &tokenizers {
        let tokenizer = load(name);
        let template = tokenizer.chat_template().unwrap();
        assert_eq!(template.special_tokens(), &case.special_tokens, "{name}");
        for ChatCase { conversation, template: named, add_generation_prompt, ids, expected } in &case.chats {
            let mut chat = chat(&conversations[conversation], *add_generation_prompt, BTreeMap::new());
            chat.template = named.clone();
            let about = format!("{name} {conversation} {named:?} prompt={add_generation_prompt}");
            let wrong = verdict(&about, expected, &template.render(&chat, time(now)), false);
            assert!(wrong.is_none(), "{wrong:?}");
            if let Some(ids) = ids {
                assert_eq!(&tokenizer.encode_chat(&chat, time(now)).unwrap(), ids, "{about}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 150, "{compared}");
}

#[test]
fn no_byte_of_any_sequence_of_tokens_is_lost() {
    for name in ["tiny", "byte_fallback", "metaspace"] {
        let tokenizer = load(name);
        let size = (0..).take_while(|id| tokenizer.decode(&[*id]).is_ok()).count() as u64;
        let mut state = 7_u64;
        let (mut valid, mut broken) = (0, 0);
        for length in (0..12).cycle().take(4000) {
            let ids: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    u32::try_from((state >> 33) % size).unwrap()
                })
                .collect();
            let bytes: Vec<u8> = tokenizer.pieces(&ids).iter().flat_map(|piece| piece.bytes.clone()).collect();
            let decoded = tokenizer.decode(&ids).unwrap();
            match str::from_utf8(&bytes) {
                Ok(text) => {
                    valid += 1;
                    assert_eq!(text, decoded, "{name} {ids:?}");
                }
                Err(_) => {
                    broken += 1;
                    assert!(decoded.contains('\u{fffd}'), "{name} {ids:?}");
                    // A byte-level decoder replaces exactly what the bytes lack; one with byte fallback replaces more.
                    assert!(name != "tiny" || String::from_utf8_lossy(&bytes) == decoded, "{ids:?}");
                }
            }
        }
        assert!(valid > 500 && (broken > 500 || name == "metaspace"), "{name}: {valid} valid, {broken} broken");
    }
}

#[test]
fn parts_of_characters_unknown_ids_and_special_tokens_are_shown() {
    for name in ["tiny", "byte_fallback"] {
        let tokenizer = load(name);
        let ids = tokenizer.encode("\u{1d4b3}", false).unwrap();
        let pieces = tokenizer.pieces(&ids);
        let shown: Vec<&str> = pieces.iter().filter(|p| p.escaped).map(|piece| piece.text.as_str()).collect();
        assert_eq!(shown.concat(), r"\xf0\x9d\x92\xb3", "{name}");
        assert!(shown.len() > 1, "{name}: {shown:?}");
    }
    let tokenizer = load("tiny");
    let mut ids = tokenizer.encode("<|im_start|>a", false).unwrap();
    ids.push(1_000_000);
    let pieces = tokenizer.pieces(&ids);
    assert!(pieces[0].special && !pieces[0].escaped && pieces[0].text == "<|im_start|>");
    assert!(!pieces[1].special && pieces[1].text == "a");
    assert_eq!((pieces[2].text.as_str(), pieces[2].bytes.len(), pieces[2].escaped), ("<|id 1000000|>", 0, true));
    assert!(matches!(tokenizer.decode(&ids), Err(TextError::UnknownToken(1_000_000))));
}

#[test]
fn a_folder_without_a_tokenizer_has_no_text() {
    let config: &[u8] = br#"{"chat_template": "x"}"#;
    assert!(Tokenizer::from_embedded(&[("tokenizer_config.json", config)]).unwrap().is_none());
    assert!(Tokenizer::from_folder(&fixtures().join("templates")).unwrap().is_none());
}

#[test]
fn embedded_files_are_read_as_a_folder_is() {
    let file = |name: &str| std::fs::read(tiny_folder().join(name)).unwrap();
    let (tokenizer, config, template) =
        (file("tokenizer.json"), file("tokenizer_config.json"), file("chat_template.jinja"));
    let files: [(&str, &[u8]); 3] =
        [("tokenizer.json", &tokenizer), ("tokenizer_config.json", &config), ("chat_template.jinja", &template)];
    let embedded = Tokenizer::from_embedded(&files).unwrap().unwrap();
    let chat: Chat =
        serde_json::from_str(r#"{"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true}"#)
            .unwrap();
    let now = CivilTime::from_unix_utc(1_772_874_304, 0).unwrap();
    assert_eq!(embedded.encode_chat(&chat, now).unwrap(), load("tiny").encode_chat(&chat, now).unwrap());
    let bare = Tokenizer::from_embedded(&files[..2]).unwrap().unwrap();
    assert!(matches!(bare.encode_chat(&chat, now), Err(TextError::NoTemplate)));
}

#[test]
fn what_cannot_be_done_exactly_is_refused_by_name() {
    let tokenizer = std::fs::read(fixtures().join("tokenizers/metaspace/tokenizer.json")).unwrap();
    let mut word_piece: serde_json::Value = serde_json::from_slice(&tokenizer).unwrap();
    word_piece["decoder"] = serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let word_piece = serde_json::to_vec(&word_piece).unwrap();
    let refused = Tokenizer::from_embedded(&[("tokenizer.json", &word_piece)]).unwrap_err().to_string();
    assert!(refused.contains("tokenizer.json") && refused.contains("WordPiece"), "{refused}");

    // A tokenizer class that is not known may set a BOS that its configuration does not name.
    let config: &[u8] = br#"{"tokenizer_class": "NewTokenizer", "eos_token": "</s>"}"#;
    let load = |template: &'static [u8]| {
        let files: [(&str, &[u8]); 3] =
            [("tokenizer.json", &tokenizer), ("tokenizer_config.json", config), ("chat_template.jinja", template)];
        Tokenizer::from_embedded(&files).unwrap().unwrap()
    };
    let chat = Chat { messages: vec![serde_json::from_str(r#"{"role": "user"}"#).unwrap()], ..Chat::default() };
    let now = CivilTime::from_unix_utc(0, 0).unwrap();
    assert!(load(b"a{{ eos_token }}").encode_chat(&chat, now).is_ok());
    let refused = load(b"a\n{{ bos_token }}").encode_chat(&chat, now).unwrap_err().to_string();
    assert!(refused.contains("line 2") && refused.contains("bos_token"), "{refused}");

    let broken = ChatTemplate::new(BTreeMap::from([("default".into(), "a\n{% if %}".into())]), BTreeMap::new());
    let Err(TextError::Template { line: 2, .. }) = broken else { panic!("{broken:?}") };
    let empty = template("x", &BTreeMap::new()).unwrap().render(&Chat::default(), now);
    assert!(matches!(empty, Err(TextError::Chat(_))));
    let unknown = Chat { template: Some("other".into()), ..chat };
    let refused = template("x", &BTreeMap::new()).unwrap().render(&unknown, now).unwrap_err().to_string();
    assert!(refused.contains("other") && refused.contains("default"), "{refused}");
}
