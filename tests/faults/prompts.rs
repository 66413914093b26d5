//! Prompts of several shapes and lengths.

use plumbline_core::TokenId;
use plumbline_model::{Chat, ChatValue, CivilTime};

use crate::rng::Rng;
use crate::world::World;

/// What the tiny model was trained on: documentation comments.
const SENTENCES: [&str; 24] = [
    "Returns the number of elements in the map.",
    "Creates a new instance from the given slice of bytes.",
    "# Panics\n\nPanics if the index is out of bounds.",
    "Attempts to lock the mutex without blocking the current thread.",
    "The default value of this option is `false`.",
    "This function is unsafe because the caller must guarantee that the pointer is valid.",
    "An iterator over the entries of a directory, in no particular order.",
    "Licensed under either of the Apache License, Version 2.0 or the MIT license at your option.",
    "Note that the caller must hold a reference to the runtime until the task is finished.",
    "If the buffer is empty, returns `None`; otherwise the first byte is removed and returned.",
    "# Errors\n\nThis function will return an error if the file does not exist or cannot be read.",
    "Converts the value into a string, using the default formatting.",
    "Sends a message to the channel and waits until there is room for it.",
    "See the documentation of the trait for more information.",
    "Sets the maximum number of bytes that are read at once.",
    "# Examples\n\n```\nlet mut vec = Vec::new();\nvec.push(1);\nassert_eq!(vec.len(), 1);\n```",
    "The lifetime of the returned slice is tied to the lifetime of the input.",
    "A thread-safe reference-counting pointer to a value that is never moved.",
    "Parses a header field, ignoring leading and trailing whitespace.",
    "Deprecated: use the builder instead, which checks all of its arguments.",
    "The hash of a key is computed once and then stored beside the entry.",
    "Waits until all futures are complete and collects their results into a vector.",
    "Spawns a new asynchronous task and returns a handle to it.",
    "This type implements `Send` and `Sync` only if the inner type does.",
];

const SYSTEMS: [&str; 4] = [
    "You write short and precise documentation comments for Rust functions.",
    "Answer with one sentence. Do not repeat the question, and do not use examples.",
    "You are a helpful assistant that knows the standard library and explains errors, panics and safety.",
    "Use British English. Every comment begins with a verb and ends with a full stop.",
];

/// The id that a tokenizer would put in front of a text, if this one had such a token: `<|endoftext|>`.
pub(crate) const BOS: TokenId = 0;

/// A conversation to make a prompt of.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) system: Option<&'static str>,
    /// User and assistant in turns, the last is the user's.
    pub(crate) turns: Vec<String>,
}

impl Conversation {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        Self { system: None, turns: vec![text(1 + rng.below(2), rng)] }
    }

    pub(crate) fn with_system(mut self, rng: &mut Rng) -> Self {
        self.system = Some(*rng.pick(&SYSTEMS));
        self
    }

    pub(crate) fn with_more_turns(mut self, rng: &mut Rng) -> Self {
        self.turns.extend([text(1, rng), text(1, rng)]);
        self
    }

    pub(crate) fn ids(&self, world: &World, generation_prompt: bool) -> Vec<TokenId> {
        let message =
            |role: &str, content: &str| -> ChatValue { serde_json::json!({"role": role, "content": content}).into() };
        let turns = self.turns.iter().enumerate();
        let turns = turns.map(|(turn, text)| message(if turn % 2 == 0 { "user" } else { "assistant" }, text));
        let messages = self.system.map(|system| message("system", system)).into_iter().chain(turns).collect();
        let chat = Chat { messages, add_generation_prompt: generation_prompt, ..Chat::default() };
        let now = CivilTime::from_unix_utc(0, 0).unwrap();
        world.tokenizer.encode_chat(&chat, now).unwrap()
    }
}

/// Some sentences.
fn text(sentences: usize, rng: &mut Rng) -> String {
    let drawn: Vec<&str> = (0..sentences).map(|_| *rng.pick(&SENTENCES)).collect();
    drawn.join(" ")
}

/// A beginning of plain text, without the sentence's end, of at most `longest` tokens.
pub(crate) fn plain(world: &World, sentences: usize, longest: usize, rng: &mut Rng) -> Vec<TokenId> {
    let mut ids = world.tokenizer.encode(&text(sentences, rng), false).unwrap();
    ids.truncate((ids.len() - 2).min(longest));
    ids
}

/// A prompt of any shape, 5 to about 200 tokens.
pub(crate) fn any(world: &World, rng: &mut Rng) -> Vec<TokenId> {
    match rng.below(6) {
        0 => plain(world, 1, 200, rng),
        1 => plain(world, 2 + rng.below(3), 200, rng),
        2 => plain(world, 6 + rng.below(5), 200, rng),
        3 => Conversation::draw(rng).ids(world, true),
        4 => Conversation::draw(rng).with_system(rng).ids(world, true),
        _ => Conversation::draw(rng).with_more_turns(rng).ids(world, true),
    }
}

/// A prompt of at least 48 tokens.
pub(crate) fn long(world: &World, rng: &mut Rng) -> Vec<TokenId> {
    loop {
        let prompt = any(world, rng);
        if prompt.len() >= 48 {
            return prompt;
        }
    }
}
