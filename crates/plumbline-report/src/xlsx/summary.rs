//! Sheets about the whole: summary, engines side by side, diagnosis, cross comparisons.

use plumbline_divergence::Finding;
use rust_xlsxwriter::{Worksheet, XlsxError};
use serde_json::Value;

use super::cells::{Styles, heads, number, number_as, put};
use crate::document::{Document, EngineDocument};

/// What it is about, the verdicts, and what they rest on.
pub(super) fn summary(sheet: &mut Worksheet, document: &Document, styles: &Styles) -> Result<(), XlsxError> {
    put(sheet, 0, 0, &document.title, &styles.title)?;
    put(sheet, 1, 0, &format!("{}   Plumbline {}", document.created_at, document.plumbline_version), &styles.soft)?;
    put(sheet, 2, 0, document.verdict.as_str(), &Styles::verdict(document.verdict.as_str()))?;
    put(sheet, 2, 1, &document.verdict_reason, &styles.general)?;
    let columns = [
        ("engine", 30.0),
        ("verdict", 13.0),
        ("tokens", 12.0),
        ("sequences", 11.0),
        ("noise floors", 13.0),
        ("MAE, nats", 13.0),
        ("KL k3, nats", 13.0),
        ("Pearson r", 12.0),
        ("mean p diff", 13.0),
        ("Bernoulli KL", 13.0),
        ("reason", 90.0),
    ];
    heads(sheet, 4, &columns, styles)?;
    let mut row = 5;
    for engine in &document.engines {
        let metrics = &engine.metrics;
        put(sheet, row, 0, &engine.engine, &styles.general)?;
        put(sheet, row, 1, engine.verdict.as_str(), &Styles::verdict(engine.verdict.as_str()))?;
        number(sheet, row, 2, Some(metrics.tokens as f64), styles)?;
        number(sheet, row, 3, Some(metrics.sequences as f64), styles)?;
        let values = [
            metrics.noise_floor_multiple,
            metrics.mae_logprob,
            metrics.kl_k3,
            metrics.pearson_logprob,
            metrics.prob_diff_mean,
            metrics.bernoulli_kl,
        ];
        for (column, value) in (4..).zip(values) {
            number(sheet, row, column, value, styles)?;
        }
        put(sheet, row, 10, &engine.verdict_reason, &styles.general)?;
        row += 1;
    }
    row = facts(sheet, row + 1, document, styles)?;
    row = sentences(sheet, row + 1, "Notes", &document.notes, styles)?;
    let sampling = match document.sampling.is_empty() {
        true => vec!["Nothing was sampled: every number is over all compared tokens.".to_owned()],
        false => document.sampling.clone(),
    };
    sentences(sheet, row + 1, "What was sampled", &sampling, styles)?;
    sheet.set_freeze_panes(5, 1)?;
    Ok(())
}

fn sentences(
    sheet: &mut Worksheet,
    mut row: u32,
    heading: &str,
    sentences: &[String],
    styles: &Styles,
) -> Result<u32, XlsxError> {
    if sentences.is_empty() {
        return Ok(row);
    }
    put(sheet, row, 0, heading, &styles.heading)?;
    for sentence in sentences {
        row += 1;
        put(sheet, row, 0, sentence, &styles.general)?;
    }
    Ok(row + 1)
}

fn facts(sheet: &mut Worksheet, mut row: u32, document: &Document, styles: &Styles) -> Result<u32, XlsxError> {
    let reference = &document.reference;
    let mut facts = vec![
        ("sign convention".to_owned(), format!("d = {}", document.log_ratio_sign)),
        ("reference".to_owned(), format!("{} ({})", reference.model, reference.family)),
        ("policy version".to_owned(), reference.policy_version.clone()),
        (
            "dtype, head, device".to_owned(),
            format!("{}, {}, {}", reference.dtype, reference.head_dtype, reference.device),
        ),
    ];
    facts.push((
        "noise floor".to_owned(),
        match &document.noise_floor {
            None => "not measured".to_owned(),
            Some(floor) => format!(
                "mean |d| {:.3e} nats on {} tokens; simulated engine: bf16 body, {} head",
                floor.mae.unwrap_or(f64::NAN),
                floor.tokens,
                floor.used_head
            ),
        },
    ));
    facts.extend(document.command.iter().map(|command| ("made by".to_owned(), command.clone())));
    for engine in &document.engines {
        for (name, value) in &engine.facts {
            let value = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            facts.push((format!("{}: {name}", engine.engine), value));
        }
        for (reason, count) in &engine.not_scored {
            facts.push((format!("{}: not scored", engine.engine), format!("{reason}: {count}")));
        }
    }
    for input in &document.inputs {
        let rejected: Vec<_> = input.rejected.iter().map(|(reason, count)| format!("; {reason}: {count}")).collect();
        let text = format!("{} sequences, {} tokens{}", input.sequences, input.tokens, rejected.concat());
        facts.push((format!("input {}", input.name), text));
    }
    put(sheet, row, 0, "Facts", &styles.heading)?;
    for (name, value) in facts {
        row += 1;
        put(sheet, row, 0, &name, &styles.soft)?;
        put(sheet, row, 1, &value, &styles.general)?;
    }
    Ok(row + 1)
}

/// Every metric of every engine with its interval and its floor.
pub(super) fn engines(sheet: &mut Worksheet, document: &Document, styles: &Styles) -> Result<(), XlsxError> {
    let columns = [("group", 24.0), ("metric", 24.0), ("unit", 12.0), ("key", 24.0), ("meaning", 58.0)];
    heads(sheet, 1, &columns, styles)?;
    let parts = ["value", "95 % from", "95 % to", "noise floor", "× floor"];
    for (at, engine) in document.engines.iter().enumerate() {
        let first = (columns.len() + at * parts.len()) as u16;
        put(sheet, 0, first, &engine.engine, &styles.heading)?;
        for (column, part) in (first..).zip(parts) {
            put(sheet, 1, column, part, &styles.head)?;
            sheet.set_column_width(column, 12.0)?;
        }
    }
    let metrics: Vec<Value> =
        document.engines.iter().map(|engine| serde_json::to_value(&engine.metrics).unwrap_or_default()).collect();
    for (row, metric) in (2..).zip(document.glossary) {
        for (column, text) in (0..).zip([metric.group, metric.label, metric.unit, metric.key, metric.meaning]) {
            put(sheet, row, column, text, if column == 3 { &styles.soft } else { &styles.general })?;
        }
        for (at, (engine, metrics)) in document.engines.iter().zip(&metrics).enumerate() {
            let first = (columns.len() + at * parts.len()) as u16;
            let interval = engine.intervals.get(metric.key).copied().flatten();
            let values = [
                metrics[metric.key].as_f64(),
                interval.map(|interval| interval.low),
                interval.map(|interval| interval.high),
                engine.floor.get(metric.key).copied(),
                engine.floor_multiples.get(metric.key).copied(),
            ];
            for (column, value) in (first..).zip(values) {
                number(sheet, row, column, value, styles)?;
            }
        }
    }
    sheet.set_freeze_panes(2, 2)?;
    Ok(())
}

/// Causes with their evidence.
pub(super) fn diagnosis(sheet: &mut Worksheet, document: &Document, styles: &Styles) -> Result<(), XlsxError> {
    let columns = [
        ("of", 30.0),
        ("rank", 7.0),
        ("cause", 28.0),
        ("explained", 11.0),
        ("left, noise floors", 12.0),
        ("sequences", 11.0),
        ("evidence", 110.0),
    ];
    heads(sheet, 0, &columns, styles)?;
    let mut row = 1;
    let mut add = |of: &str, findings: &[Finding]| -> Result<(), XlsxError> {
        for (rank, finding) in (1u32..).zip(findings) {
            put(sheet, row, 0, of, &styles.general)?;
            number(sheet, row, 1, Some(f64::from(rank)), styles)?;
            put(sheet, row, 2, finding.cause.as_str(), &styles.general)?;
            number_as(sheet, row, 3, finding.explained, &styles.percent)?;
            number(sheet, row, 4, finding.residual_floor_multiple, styles)?;
            put(sheet, row, 6, &finding.evidence, &styles.wrapped)?;
            row += 1;
        }
        Ok(())
    };
    add("whole run", &document.diagnosis)?;
    for engine in &document.engines {
        add(&engine.engine, &engine.diagnosis)?;
        for (kind, shown) in engine.shown() {
            add(&format!("{}, {kind}: {}", engine.engine, shown.sequence.id), &shown.findings)?;
        }
    }
    for engine in &document.engines {
        row = causes(sheet, row, engine, styles)?;
    }
    if row == 1 {
        put(sheet, row, 0, "No cause was named.", &styles.soft)?;
    }
    sheet.set_freeze_panes(1, 0)?;
    Ok(())
}

fn causes(sheet: &mut Worksheet, mut row: u32, engine: &EngineDocument, styles: &Styles) -> Result<u32, XlsxError> {
    for (cause, count) in &engine.causes {
        put(sheet, row, 0, &format!("{}, likeliest cause of sequences", engine.engine), &styles.soft)?;
        put(sheet, row, 2, cause, &styles.general)?;
        number(sheet, row, 5, Some(*count as f64), styles)?;
        row += 1;
    }
    Ok(row)
}

/// Engines against each other.
pub(super) fn cross(sheet: &mut Worksheet, document: &Document, styles: &Styles) -> Result<(), XlsxError> {
    let columns = [
        ("sampled by", 28.0),
        ("scored by", 28.0),
        ("tokens", 12.0),
        ("sequences", 11.0),
        ("MAE, nats", 12.0),
        ("95 % from", 12.0),
        ("95 % to", 12.0),
        ("KL k3, nats", 12.0),
        ("mean d, nats", 12.0),
        ("Pearson r", 12.0),
        ("note", 70.0),
    ];
    heads(sheet, 0, &columns, styles)?;
    for (row, cross) in (1..).zip(&document.cross) {
        let (metrics, interval) = (&cross.metrics, cross.intervals.get("mae_logprob").copied().flatten());
        put(sheet, row, 0, &cross.sampled_by, &styles.general)?;
        put(sheet, row, 1, &cross.scored_by, &styles.general)?;
        let values = [
            Some(metrics.tokens as f64),
            Some(metrics.sequences as f64),
            metrics.mae_logprob,
            interval.map(|interval| interval.low),
            interval.map(|interval| interval.high),
            metrics.kl_k3,
            metrics.log_ratio_mean,
            metrics.pearson_logprob,
        ];
        for (column, value) in (2..).zip(values) {
            number(sheet, row, column, value, styles)?;
        }
        put(sheet, row, 10, cross.note.as_deref().unwrap_or_default(), &styles.wrapped)?;
    }
    sheet.set_freeze_panes(1, 0)?;
    Ok(())
}
