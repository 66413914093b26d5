//! The report's JSON as it stands in the page: shorter, and unable to end its element.

use serde_json::{Map, Value};

use crate::report::ReportError;

/// Rows of sequences per engine, the worst first.
const ROWS: usize = 25;
/// Tokens of each shown sequence.
const TOKENS: usize = 4096;

/// Leaves out what the page does not show: it says of how many. Numbers keep seven digits.
pub(super) fn shortened(document: &mut Value) {
    let engines = document.get_mut("engines").and_then(Value::as_array_mut);
    for engine in engines.into_iter().flatten() {
        if let Some(rows) = engine.pointer_mut("/sequences/rows").and_then(Value::as_array_mut) {
            let measure = |row: &Value| row["kl_k3"].as_f64().unwrap_or(f64::NEG_INFINITY);
            rows.sort_by(|a, b| measure(b).total_cmp(&measure(a)));
            rows.truncate(ROWS);
        }
        for shown in ["longest", "typical", "worst"] {
            engine.get_mut(shown).and_then(Value::as_object_mut).into_iter().for_each(shorten_sequence);
        }
    }
    round(document);
}

fn shorten_sequence(shown: &mut Map<String, Value>) {
    let mut left_out = 0;
    for list in shown.get_mut("tokens").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        if let Value::Array(values) = list {
            left_out = values.len().saturating_sub(TOKENS);
            values.truncate(TOKENS);
        }
    }
    let before = shown.get("tokens_left_out").and_then(Value::as_u64).unwrap_or(0);
    shown.insert("tokens_left_out".into(), Value::from(before + left_out as u64));
}

/// Numbers with seven digits.
pub(crate) fn round(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(object) => object.values_mut().for_each(round),
        Value::Number(number) if number.is_f64() => {
            let rounded = number.as_f64().and_then(|exact| format!("{exact:.6e}").parse::<f64>().ok());
            if let Some(rounded) = rounded.and_then(serde_json::Number::from_f64) {
                *number = rounded;
            }
        }
        _ => {}
    }
}

/// JSON that can stand in a script element: no `<`, no `>`, no `&`, and no line separators of old JavaScript.
pub(super) fn escaped_json(value: &Value) -> Result<String, ReportError> {
    let json = serde_json::to_string(value)?;
    let mut escaped = String::with_capacity(json.len() + json.len() / 64);
    for character in json.chars() {
        match character {
            // Outside of strings JSON has none of these.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => escaped.push(other),
        }
    }
    Ok(escaped)
}

/// Text as it can stand in an element.
pub(super) fn escaped_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn embedded_json_is_the_same_json_and_cannot_end_its_element() {
        let value = json!({"a</script><script>alert(1)</script>": "<!-- \u{2028} & ]]>"});
        let embedded = escaped_json(&value).unwrap();
        assert!(!embedded.contains(['<', '>', '&', '\u{2028}']), "{embedded}");
        assert_eq!(serde_json::from_str::<Value>(&embedded).unwrap(), value);
        assert_eq!(escaped_text("</title>\"&"), "&lt;/title&gt;&quot;&amp;");
    }

    #[test]
    fn what_is_left_out_is_counted_and_small_numbers_stay() {
        let rows: Vec<_> = (0..150).map(|number| json!({"kl_k3": f64::from(number)})).collect();
        let tokens = json!({"id": vec![1; TOKENS + 7], "text": null});
        let mut document = json!({
            "engines": [{"sequences": {"rows": rows}, "longest": {"tokens": tokens, "tokens_left_out": 2}, "worst": null}],
            "small": 1.234_567_89e-7,
        });
        shortened(&mut document);
        let engine = &document["engines"][0];
        assert_eq!(
            (engine["sequences"]["rows"].as_array().unwrap().len(), &engine["sequences"]["rows"][0]["kl_k3"]),
            (ROWS, &json!(149.0))
        );
        assert_eq!(engine["longest"]["tokens"]["id"].as_array().unwrap().len(), TOKENS);
        assert_eq!(engine["longest"]["tokens_left_out"], 9);
        assert_eq!(document["small"], 1.234_568e-7);
    }
}
