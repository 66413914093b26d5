//! The document without what is large.

use serde_json::Value;

use super::Document;
use crate::html::round;

/// Of a shown sequence, everything but its row, how it was chosen and what was found out about it.
const LARGE: [&str; 4] = ["prompt_text", "prompt_ids", "tokens", "tokens_left_out"];

impl Document {
    /// Everything but tokens and rows of sequences; numbers have seven digits.
    pub(crate) fn views(&self) -> serde_json::Result<Value> {
        let mut value = serde_json::to_value(self)?;
        let engines = value.get_mut("engines").and_then(Value::as_array_mut);
        for engine in engines.into_iter().flatten() {
            if let Some(sequences) = engine.get_mut("sequences").and_then(Value::as_object_mut) {
                sequences.remove("rows");
            }
            for shown in ["longest", "typical", "worst"] {
                if let Some(shown) = engine.get_mut(shown).and_then(Value::as_object_mut) {
                    LARGE.iter().for_each(|field| drop(shown.remove(*field)));
                }
            }
        }
        round(&mut value);
        Ok(value)
    }
}
