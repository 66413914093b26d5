//! Prompt files: text, conversations, or token ids.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use parquet::file::reader::{FileReader, SerializedFileReader};
use plumbline_core::TokenId;
use plumbline_model::{Chat, ChatValue};
use serde::Deserialize;
use serde_json::Value;

/// One prompt as the file has it.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// Its `id`, or `p` and its index from 0.
    pub(super) id: String,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Text(String),
    Chat(Box<Chat>),
    Ids(Vec<TokenId>),
}

/// A line or row; fields that are not named here are other columns of a data set.
#[derive(Deserialize)]
struct Record {
    id: Option<Name>,
    prompt: Option<Given>,
    messages: Option<Vec<ChatValue>>,
    prompt_token_ids: Option<Vec<TokenId>>,
    text: Option<String>,
    problem: Option<String>,
    question: Option<String>,
    tools: Option<Vec<ChatValue>>,
    documents: Option<Vec<ChatValue>>,
    chat_template_kwargs: Option<BTreeMap<String, ChatValue>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Number(i64),
}

/// What a prompt may be.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Text(String),
    Ids(Vec<TokenId>),
    Messages(Vec<ChatValue>),
}

/// Reads all prompts, at most `limit`.
///
/// # Errors
/// A file that cannot be read, a record without a prompt (with its number), two prompts of one id, or no prompt at all.
pub(super) fn read(path: &Path, field: Option<&str>, limit: Option<usize>) -> anyhow::Result<Vec<Prompt>> {
    let limit = limit.unwrap_or(usize::MAX);
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let prompts = match extension {
        "txt" => lines(path)?.take(limit).enumerate().map(text_line).collect(),
        "jsonl" | "ndjson" => {
            lines(path)?.take(limit).enumerate().map(|(index, line)| record(index, &line?.1, field)).collect()
        }
        "parquet" => rows(path, field, limit),
        _ => Err(anyhow!("the name must end in .txt, .jsonl or .parquet")),
    };
    let prompts: Vec<Prompt> = prompts.with_context(|| format!("cannot use the prompts in {}", path.display()))?;
    ensure!(!prompts.is_empty(), "{} has no prompts", path.display());
    let mut seen = BTreeMap::new();
    for (index, prompt) in prompts.iter().enumerate() {
        if let Some(first) = seen.insert(prompt.id.as_str(), index) {
            bail!("{}: prompts {first} and {index} (from 0) have the same id {:?}", path.display(), prompt.id);
        }
    }
    Ok(prompts)
}

/// Lines that are not blank, with their numbers from 1.
fn lines(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<(usize, String)>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let numbered = BufReader::new(file).lines().enumerate();
    Ok(numbered.filter_map(|(index, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(Ok((index + 1, line))),
        Err(error) => Some(Err(anyhow!("line {}: {error}", index + 1))),
    }))
}

fn text_line((index, line): (usize, anyhow::Result<(usize, String)>)) -> anyhow::Result<Prompt> {
    Ok(Prompt { id: format!("p{index}"), content: Content::Text(line?.1) })
}

fn rows(path: &Path, field: Option<&str>, limit: usize) -> anyhow::Result<Vec<Prompt>> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let rows = reader.get_row_iter(None)?.take(limit).enumerate();
    rows.map(|(index, row)| record(index, &row?.to_json_value().to_string(), field)).collect()
}

fn record(index: usize, json: &str, field: Option<&str>) -> anyhow::Result<Prompt> {
    parse(index, json, field).with_context(|| format!("prompt {} (counted from 1)", index + 1))
}

fn parse(index: usize, json: &str, field: Option<&str>) -> anyhow::Result<Prompt> {
    let record: Record = serde_json::from_str(json).context("it is no object with a prompt")?;
    let given = match field {
        Some(name) => {
            let mut fields: BTreeMap<String, Value> = serde_json::from_str(json)?;
            let value = fields.remove(name).with_context(|| format!("it has no {name:?}"))?;
            let wrong = || format!("{name:?} is neither text, nor token ids, nor messages");
            Some(serde_json::from_value::<Given>(value).with_context(wrong)?)
        }
        None => {
            let Record { prompt, messages, prompt_token_ids, text, problem, question, .. } = record;
            let text = text.or(problem).or(question).map(Given::Text);
            prompt.or(messages.map(Given::Messages)).or(prompt_token_ids.map(Given::Ids)).or(text)
        }
    };
    let content = match given.context("it has none of prompt, messages, prompt_token_ids, text, problem, question")? {
        Given::Text(text) => Content::Text(text),
        Given::Ids(ids) if ids.is_empty() => bail!("its prompt is empty"),
        Given::Ids(ids) => Content::Ids(ids),
        Given::Messages(messages) => Content::Chat(Box::new(Chat {
            messages,
            tools: record.tools,
            documents: record.documents,
            add_generation_prompt: true,
            variables: record.chat_template_kwargs.unwrap_or_default(),
            ..Chat::default()
        })),
    };
    let id = match record.id {
        Some(Name::Text(text)) => text,
        Some(Name::Number(number)) => number.to_string(),
        None => format!("p{index}"),
    };
    Ok(Prompt { id, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> anyhow::Result<Prompt> {
        parse(3, json, None)
    }

    #[test]
    fn a_record_holds_text_a_conversation_or_ids() {
        let text = one(r#"{"prompt":"Hi","answer":42}"#).unwrap();
        assert_eq!(text.id, "p3");
        assert!(matches!(text.content, Content::Text(text) if text == "Hi"));
        let chat = one(r#"{"id":7,"messages":[{"role":"user","content":"Hi"}]}"#).unwrap();
        assert_eq!(chat.id, "7");
        assert!(matches!(chat.content, Content::Chat(chat) if chat.messages.len() == 1 && chat.add_generation_prompt));
        let chat = one(r#"{"prompt":[{"role":"user","content":"Hi"}]}"#).unwrap();
        assert!(matches!(chat.content, Content::Chat(_)));
        let ids = one(r#"{"id":"a","prompt_token_ids":[1,5]}"#).unwrap();
        assert!(matches!(ids.content, Content::Ids(ids) if ids == [1, 5]));
    }

    #[test]
    fn a_named_field_wins() {
        let prompt = parse(0, r#"{"prompt":"no","task":"yes"}"#, Some("task")).unwrap();
        assert!(matches!(prompt.content, Content::Text(text) if text == "yes"));
        assert!(parse(0, r#"{"prompt":"no"}"#, Some("task")).is_err());
    }

    #[test]
    fn records_without_a_usable_prompt_are_refused() {
        for bad in
            ["{}", r#"{"prompt":5}"#, r#"{"prompt_token_ids":[]}"#, r#"{"prompt_token_ids":[-1]}"#, "[1]", "nonsense"]
        {
            assert!(one(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_read_whole_or_refused() {
        let folder = std::env::temp_dir().join(format!("plumbline-prompts-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let text = read(&file("a.txt", "one\n\ntwo\n"), None, None).unwrap();
        assert_eq!(text.iter().map(|prompt| prompt.id.as_str()).collect::<Vec<_>>(), ["p0", "p1"]);
        assert_eq!(read(&file("b.txt", "one\ntwo\n"), None, Some(1)).unwrap().len(), 1);
        let twice =
            read(&file("c.jsonl", "{\"id\":1,\"text\":\"a\"}\n{\"id\":1,\"text\":\"b\"}\n"), None, None).unwrap_err();
        assert!(twice.to_string().contains("same id"), "{twice}");
        let second = read(&file("d.jsonl", "{\"text\":\"a\"}\n{}\n"), None, None).unwrap_err();
        assert!(format!("{second:#}").contains("prompt 2"), "{second:#}");
        assert!(read(&file("e.txt", "\n"), None, None).is_err());
        assert!(read(&file("f.csv", "a\n"), None, None).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn data_sets_are_read() {
        let fixture =
            |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/prompts").join(name);
        let chats = read(&fixture("messages.parquet"), None, None).unwrap();
        assert_eq!(chats.iter().map(|prompt| prompt.id.as_str()).collect::<Vec<_>>(), ["7", "8"]);
        let lengths: Vec<usize> = chats
            .iter()
            .map(|prompt| match &prompt.content {
                Content::Chat(chat) => chat.messages.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [1, 2]);
        let problems = read(&fixture("problems.parquet"), None, None).unwrap();
        assert!(matches!(&problems[1].content, Content::Text(text) if text == "Find y."));
        let answers = read(&fixture("problems.parquet"), Some("answer"), Some(1)).unwrap();
        assert!(matches!(&answers[0].content, Content::Text(text) if text == "1"));
        let ids = read(&fixture("ids.parquet"), None, None).unwrap();
        assert!(matches!(&ids[0].content, Content::Ids(ids) if *ids == [1, 20, 30]));
        assert!(read(&fixture("make.py"), None, None).is_err());
    }
}
