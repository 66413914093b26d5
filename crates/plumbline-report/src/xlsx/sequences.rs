//! Sheets with one row per sequence, and per worker or policy version.

use rust_xlsxwriter::{ConditionalFormat2ColorScale, Worksheet, XlsxError};

use super::cells::{Styles, heads, number, number_as, put};
use crate::document::Document;

/// White to orange.
pub(super) fn warm_scale() -> ConditionalFormat2ColorScale {
    ConditionalFormat2ColorScale::new().set_minimum_color("FFFFFF").set_maximum_color("F2A36B")
}

/// All rows that are kept.
pub(super) fn sequences(sheet: &mut Worksheet, document: &Document, styles: &Styles) -> Result<(), XlsxError> {
    let columns = [
        ("engine", 22.0),
        ("sequence", 30.0),
        ("group", 16.0),
        ("worker", 14.0),
        ("policy version", 14.0),
        ("verdict", 13.0),
        ("prompt tokens", 9.0),
        ("completion tokens", 11.0),
        ("compared", 10.0),
        ("in no sum", 9.0),
        ("mean |d|, nats", 11.0),
        ("RMSE, nats", 11.0),
        ("max |d|, nats", 11.0),
        ("mean d, nats", 11.0),
        ("KL k3, nats", 11.0),
        ("noise floors", 10.0),
        ("cause", 26.0),
        ("explained", 10.0),
        ("ended by", 10.0),
        ("mode", 11.0),
        ("temperature", 11.0),
        ("reason", 80.0),
    ];
    heads(sheet, 0, &columns, styles)?;
    let mut row = 1;
    for engine in &document.engines {
        for one in &engine.sequences.rows {
            let texts = [
                (0, Some(engine.engine.as_str())),
                (1, Some(one.id.as_str())),
                (2, one.group.as_deref()),
                (3, one.worker.as_deref()),
                (4, one.policy_version.as_deref()),
                (16, one.cause),
                (18, one.finish_reason.as_deref()),
                (19, one.logprobs_mode),
                (21, Some(one.verdict_reason.as_str())),
            ];
            for (column, text) in texts.into_iter().filter_map(|(column, text)| Some((column, text?))) {
                put(sheet, row, column, text, &styles.general)?;
            }
            put(sheet, row, 5, one.verdict, &Styles::verdict(one.verdict))?;
            let values = [
                (6, one.prompt_tokens.map(|count| count as f64)),
                (7, Some(one.completion_tokens as f64)),
                (8, Some(one.tokens as f64)),
                (9, Some(one.skipped.total() as f64)),
                (10, one.mae_logprob),
                (11, one.rmse_logprob),
                (12, one.max_abs_logprob),
                (13, one.log_ratio_mean),
                (14, one.kl_k3),
                (15, one.noise_floor_multiple),
                (20, one.temperature),
            ];
            for (column, value) in values {
                number(sheet, row, column, value, styles)?;
            }
            number_as(sheet, row, 17, one.explained, &styles.percent)?;
            row += 1;
        }
    }
    if row > 1 {
        for column in [10, 14, 15] {
            sheet.add_conditional_format(1, column, row - 1, column, &warm_scale())?;
        }
        sheet.autofilter(0, 0, row - 1, columns.len() as u16 - 1)?;
    }
    sheet.set_freeze_panes(1, 2)?;
    Ok(())
}

/// Workers and policy versions.
pub(super) fn parts(sheet: &mut Worksheet, document: &Document, styles: &Styles) -> Result<(), XlsxError> {
    let columns = [
        ("engine", 26.0),
        ("by", 16.0),
        ("name", 26.0),
        ("sequences", 11.0),
        ("tokens", 12.0),
        ("mean |d|, nats", 12.0),
        ("95 % from", 12.0),
        ("95 % to", 12.0),
        ("mean d, nats", 12.0),
        ("KL k3, nats", 12.0),
        ("noise floors", 12.0),
        ("95 % from", 12.0),
        ("95 % to", 12.0),
    ];
    heads(sheet, 0, &columns, styles)?;
    let mut row = 1;
    for engine in &document.engines {
        for (kind, labels) in [("worker", &engine.workers), ("policy version", &engine.policy_versions)] {
            for label in labels {
                put(sheet, row, 0, &engine.engine, &styles.general)?;
                put(sheet, row, 1, kind, &styles.soft)?;
                put(sheet, row, 2, label.name.as_deref().unwrap_or("(further ones)"), &styles.general)?;
                let values = [
                    Some(label.sequences as f64),
                    Some(label.tokens as f64),
                    label.mae_logprob,
                    label.mae_logprob_ci95.map(|interval| interval.low),
                    label.mae_logprob_ci95.map(|interval| interval.high),
                    label.log_ratio_mean,
                    label.kl_k3,
                    label.noise_floor_multiple,
                    label.noise_floor_multiple_ci95.map(|interval| interval.low),
                    label.noise_floor_multiple_ci95.map(|interval| interval.high),
                ];
                for (column, value) in (3..).zip(values) {
                    number(sheet, row, column, value, styles)?;
                }
                row += 1;
            }
        }
    }
    if row == 1 {
        put(sheet, row, 0, "No worker and no policy version was named.", &styles.soft)?;
    } else {
        sheet.add_conditional_format(1, 5, row - 1, 5, &warm_scale())?;
    }
    sheet.set_freeze_panes(1, 0)?;
    Ok(())
}
