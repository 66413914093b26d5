//! Text of tokens and prompts of chats, exactly as Hugging Face transformers makes them.
//!
//! - `tokenizer`: ids to text and back, from a model's own tokenizer files (`files`);
//! - `pieces`: the text of every single token, no byte lost;
//! - `spelling`: the same as text, and the other ways to spell it;
//! - `template`: the chat template as `apply_chat_template` renders it; `chat` is its input;
//! - `scan`, `objects`, `methods`, `filters`, `json`, `python`, `clock`: what a template may use, as Python does it.

mod chat;
mod clock;
mod error;
mod files;
mod filters;
mod json;
mod methods;
mod objects;
mod pieces;
mod python;
mod scan;
mod spelling;
mod template;
mod tokenizer;

pub use chat::{Chat, ChatValue};
pub use clock::CivilTime;
pub use error::TextError;
pub use pieces::Piece;
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
